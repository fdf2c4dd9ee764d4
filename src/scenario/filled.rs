// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parameters of a scenario file, and its strings with parameters filled in.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::ScenarioError;
use super::file::Source;

/// A parameter as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParameter {
    pub(super) default: Spanned<i64>,
    pub(super) min: i64,
    pub(super) max: Spanned<RawMax>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or the name of a parameter")]
pub(super) enum RawMax {
    Number(i64),
    Parameter(String),
}

/// The values of the parameters of a file, with those of the command line, all in their ranges.
pub(super) fn parameters(
    source: &Source<'_>,
    raw: &BTreeMap<Spanned<String>, RawParameter>,
    overrides: &[(&str, i64)],
) -> Result<BTreeMap<String, i64>, ScenarioError> {
    for (name, value) in overrides {
        if !raw.keys().any(|k| k.get_ref() == name) {
            let names: Vec<&str> = raw.keys().map(|k| k.get_ref().as_str()).collect();
            return Err(ScenarioError::NoParameter {
                name: (*name).to_owned(),
                value: *value,
                hint: format!("its parameters are: {}", names.join(", ")),
            });
        }
    }
    let given = |name: &str| {
        overrides
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| *v)
    };
    let values: BTreeMap<String, i64> = raw
        .iter()
        .map(|(k, p)| {
            (
                k.get_ref().clone(),
                given(k.get_ref()).unwrap_or(*p.default.get_ref()),
            )
        })
        .collect();
    // A range that depends on another parameter means something only when that one is in its own range.
    let depends = |p: &RawParameter| matches!(p.max.get_ref(), RawMax::Parameter(_));
    let ordered = raw
        .iter()
        .filter(|(_, p)| !depends(p))
        .chain(raw.iter().filter(|(_, p)| depends(p)));
    for (key, p) in ordered {
        let name = key.get_ref();
        let (max, what_max) = match p.max.get_ref() {
            RawMax::Number(n) => (*n, n.to_string()),
            RawMax::Parameter(other) => match values.get(other).filter(|_| other != name) {
                Some(n) => (*n, format!("{n} (`{other}`)")),
                None => {
                    return Err(source.error(
                        p.max.span(),
                        format!(
                            "`max` of `{name}` names `{other}`, which is not another parameter"
                        ),
                        Some("write a number, or the name of a parameter of this file".into()),
                    ));
                }
            },
        };
        let value = values.get(name).copied().unwrap_or_default();
        if (p.min..=max).contains(&value) {
            continue;
        }
        let what = format!("`{name}` is {value}, which is out of range");
        let hint = format!("allowed is {} to {what_max}", p.min);
        return Err(match given(name) {
            Some(_) => ScenarioError::Parameter {
                name: name.clone(),
                what,
                hint,
            },
            // The default was in range of a number: it is the other parameter, as given, that is too small for it.
            None if overrides
                .iter()
                .any(|(n, _)| matches!(p.max.get_ref(), RawMax::Parameter(o) if o == n)) =>
            {
                ScenarioError::Parameter {
                    name: name.clone(),
                    what,
                    hint,
                }
            }
            None => source.error(p.default.span(), what, Some(hint)),
        });
    }
    Ok(values)
}

/// A string of the file with its `{parameter}`s filled in, and the way back from a place in it to the file.
pub(super) struct Filled {
    pub(super) text: String,
    /// Start in `text`; start and end in the file; whether it is a parameter, filled in.
    pieces: Vec<(usize, Range<usize>, bool)>,
    end: usize,
    /// The whole string in the file, if it has escapes and places inside cannot be told.
    whole: Option<Range<usize>>,
}

impl Filled {
    pub(super) fn new(
        source: &Source<'_>,
        raw: &Spanned<String>,
        values: &BTreeMap<String, i64>,
    ) -> Result<Self, ScenarioError> {
        Self::fill(source, raw.get_ref(), raw.span(), values)
    }

    /// `span` is the place of the string `value` in the file, with its quotes.
    pub(super) fn fill(
        source: &Source<'_>,
        value: &str,
        span: Range<usize>,
        values: &BTreeMap<String, i64>,
    ) -> Result<Self, ScenarioError> {
        // One quote or three of them, and the line break behind three does not count.
        let starts = [1, 3, 4, 5].map(|quotes| span.start + quotes);
        let found = starts.into_iter().find(|start| {
            let inside = source.text.get(*start..*start + value.len());
            inside == Some(value) && start + value.len() < span.end
        });
        let (start, plain) = (found.unwrap_or(span.start + 1), found.is_some());
        let mut filled = Filled {
            text: String::new(),
            pieces: Vec::new(),
            end: start + value.len(),
            whole: (!plain).then(|| span.clone()),
        };
        let mut at = 0;
        while let Some(rest) = value.get(at..).filter(|r| !r.is_empty()) {
            let (literal, tail) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            if !literal.is_empty() {
                filled.pieces.push((
                    filled.text.len(),
                    start + at..start + at + literal.len(),
                    false,
                ));
                filled.text.push_str(literal);
                at += literal.len();
            }
            let Some(tail) = tail.strip_prefix('{') else {
                continue;
            };
            let is_name = |name: &&str| {
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            let inside = tail.find('}').and_then(|n| tail.get(..n)).filter(is_name);
            let Some(number) = inside.and_then(|name| values.get(name)) else {
                let len = inside.map_or(1, |name| name.len() + 2);
                let place = if plain {
                    start + at..start + at + len
                } else {
                    span
                };
                let names: Vec<&str> = values.keys().map(String::as_str).collect();
                return Err(source.error(
                    place,
                    match inside {
                        Some(name) => format!("there is no parameter `{name}`"),
                        None => "this { has no }".into(),
                    },
                    Some(format!("the parameters are: {}", names.join(", "))),
                ));
            };
            let len = inside.map_or(0, str::len) + 2;
            filled
                .pieces
                .push((filled.text.len(), start + at..start + at + len, true));
            filled.text.push_str(&number.to_string());
            at += len;
        }
        Ok(filled)
    }

    /// The place in the file of a place in the filled text.
    pub(super) fn place(&self, at: &Range<usize>) -> Range<usize> {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        let back = |offset: usize, is_end: bool| {
            let reaches = |start: usize| start < offset || (!is_end && start == offset);
            match self.pieces.iter().rev().find(|(start, ..)| reaches(*start)) {
                Some((_, file, true)) if is_end => file.end,
                Some((_, file, true)) => file.start,
                Some((start, file, false)) => (file.start + (offset - start)).min(file.end),
                None => self
                    .pieces
                    .first()
                    .map_or(self.end, |(_, file, _)| file.start),
            }
        };
        let start = if at.start >= self.text.len() {
            self.end
        } else {
            back(at.start, false)
        };
        start..back(at.end, true).max(start)
    }
}
