// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scenario files: TOML with spans, parameters filled in, every mistake with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::error::nearest;
use super::{
    Actuator, At, Hold, Malformed, PfDriver, Point, PointError, Scenario, ScenarioError, Schedule,
    Step, Teardown, Unplug, Until,
};
use crate::event::{FunctionId, Role, Target};

/// Linux and the SR-IOV capability would allow more VFs; one bus with ARI has room for 255 beside the PF.
const MAX_VFS: i64 = 255;
/// A hold stops a vCPU that owns QEMU's global lock; longer than this and the guest's watchdogs bark at the hold.
const MAX_HOLD_MS: i64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    title: String,
    source: String,
    teardown: Teardown,
    #[serde(default)]
    parameters: BTreeMap<Spanned<String>, RawParameter>,
    unplug: Option<RawUnplug>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParameter {
    default: Spanned<i64>,
    min: i64,
    max: Spanned<RawMax>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or the name of a parameter")]
enum RawMax {
    Number(i64),
    Parameter(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUnplug {
    actuator: Actuator,
    target: Spanned<String>,
    at: Spanned<String>,
    hold: RawHold,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawHold {
    until: RawUntil,
    at_most_ms: Spanned<i64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawUntil {
    Time,
    UnplugSeen,
    UnplugCommitted,
}

/// A scenario that can be named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, the file's stem.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The scenario files in `dir`, by name. They are not parsed.
pub fn list(dir: &Path) -> Result<Vec<Entry>, ScenarioError> {
    let read = |source| ScenarioError::Read {
        path: dir.to_path_buf(),
        source,
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            if let Some(name) = path.file_stem().and_then(|s| s.to_str()) {
                entries.push(Entry {
                    name: name.to_owned(),
                    path,
                });
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Reads a scenario: a name (`dir/NAME.toml`), or a path if it has a slash or ends in `.toml`. `overrides` are
/// parameters from the command line; they obey the same ranges as the file's own defaults.
pub fn load(
    path_or_name: &str,
    dir: &Path,
    overrides: &[(&str, i64)],
) -> Result<Scenario, ScenarioError> {
    let is_path = path_or_name.contains('/') || path_or_name.ends_with(".toml");
    let path = if is_path {
        PathBuf::from(path_or_name)
    } else {
        dir.join(format!("{path_or_name}.toml"))
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let entries = list(dir)?;
            let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
            let hint = match nearest(path_or_name, names.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("there are: {}", names.join(", ")),
            };
            return Err(ScenarioError::NotFound {
                name: path_or_name.to_owned(),
                hint,
            });
        }
        Err(source) => return Err(ScenarioError::Read { path, source }),
    };
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or(path_or_name)
        .to_owned();
    parse(&name, &path.display().to_string(), &text, overrides)
}

/// Reads a scenario called `name` from the contents `text` of the file `file` (for messages only).
pub(super) fn parse(
    name: &str,
    file: &str,
    text: &str,
    overrides: &[(&str, i64)],
) -> Result<Scenario, ScenarioError> {
    let source = Source { file, text };
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let hint = unknown_key_hint(e.message());
        source.error(e.span().unwrap_or(0..0), e.message().to_owned(), hint)
    })?;
    let values = parameters(&source, &raw.parameters, overrides)?;
    let need = |parameter: &str, top: i64| {
        match values.get(parameter) {
        Some(value) if (1..=top).contains(value) => Ok(*value),
        Some(value) => {
            let place = raw.parameters.iter().find(|(k, _)| k.get_ref() == parameter);
            Err(source.error(
                place.map_or(0..0, |(_, p)| p.max.span()),
                format!("`{parameter}` is {value} but may be 1 to {top}"),
                Some(format!("set min to 1 and max to {top}")),
            ))
        }
        None => Err(source.error(
            0..0,
            format!("the parameter `{parameter}` is missing"),
            Some(format!("add a [parameters] table with {parameter} = {{ default = 3, min = 1, max = {top} }}")),
        )),
    }
    };
    let vfs = need("vfs", MAX_VFS)?;
    let rounds = need("rounds", 1_000_000)?;
    let (unplug, step) = match &raw.unplug {
        Some(raw) => Some(unplug(&source, raw, &values, vfs)?).unzip(),
        None => (None, None),
    };
    Ok(Scenario {
        name: name.to_owned(),
        title: raw.title.trim().to_owned(),
        source: raw.source.trim().to_owned(),
        vfs: u16::try_from(vfs).unwrap_or(u16::MAX),
        rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
        teardown: raw.teardown,
        driver: PfDriver::Virtio,
        unplug,
        schedule: Schedule {
            first: Role::Teardown,
            steps: step.into_iter().collect(),
        },
        wants: Vec::new(),
    })
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, place: Range<usize>, what: String, hint: Option<String>) -> ScenarioError {
        ScenarioError::Malformed(Box::new(Malformed::new(
            self.file, self.text, place, what, hint,
        )))
    }
}

/// serde names the unknown key and the known ones in back quotes; the nearest of them is the hint.
fn unknown_key_hint(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    nearest(unknown, words).map(|name| format!("did you mean `{name}`?"))
}

fn parameters(
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

fn unplug(
    source: &Source<'_>,
    raw: &RawUnplug,
    values: &BTreeMap<String, i64>,
    vfs: i64,
) -> Result<(Unplug, Step), ScenarioError> {
    let target_text = Filled::new(source, &raw.target, values)?;
    let target = target_text.text.parse::<FunctionId>().map_err(|what| {
        source.error(
            raw.target.span(),
            what,
            Some("the target of an unplug is a VF, e.g. vf{vf}".into()),
        )
    })?;
    match target {
        FunctionId::Vf(n) if i64::from(n) <= vfs => {}
        FunctionId::Vf(_) => {
            return Err(source.error(
                raw.target.span(),
                format!("there is no {target} to unplug"),
                Some(format!("there are {vfs} VFs, vf1 to vf{vfs}")),
            ));
        }
        FunctionId::Pf | FunctionId::Bridge | FunctionId::Mailbox => {
            return Err(source.error(
                raw.target.span(),
                format!("{target} cannot be unplugged by the actuator `platform`"),
                Some("the target of an unplug is a VF, e.g. vf{vf}".into()),
            ));
        }
    }
    let at_text = Filled::new(source, &raw.at, values)?;
    let at = at_text.text.parse::<Point>().map_err(|e: PointError| {
        source.error(
            at_text.place(&e.at),
            format!("in a trigger point: {}", e.what),
            Some(e.hint),
        )
    })?;
    if let Some(function @ FunctionId::Vf(n)) = at.function {
        if i64::from(n) > vfs {
            return Err(source.error(
                raw.at.span(),
                format!("{function} does not exist, so that this point is never reached"),
                Some(format!("there are {vfs} VFs, vf1 to vf{vfs}")),
            ));
        }
    }
    let ms = *raw.hold.at_most_ms.get_ref();
    let at_most = match u64::try_from(ms) {
        Ok(n) if ms <= MAX_HOLD_MS => Duration::from_millis(n),
        _ => {
            return Err(source.error(
                raw.hold.at_most_ms.span(),
                format!("a message cannot be held for {ms} ms"),
                Some(format!("allowed is 0 to {MAX_HOLD_MS}")),
            ));
        }
    };
    Ok((
        Unplug {
            actuator: raw.actuator,
            target: Target::Function(target),
        },
        Step {
            at: At::Point(at),
            fire: true,
            hold: Some(Hold {
                until: match raw.hold.until {
                    RawUntil::Time => Until::Time,
                    RawUntil::UnplugSeen => Until::OtherStarted,
                    RawUntil::UnplugCommitted => Until::OtherCommitted,
                },
                at_most,
            }),
            returns: None,
        },
    ))
}

/// A string of the file with its `{parameter}`s filled in, and the way back from a place in it to the file.
struct Filled {
    text: String,
    /// Start in `text`; start and end in the file; whether it is a parameter, filled in.
    pieces: Vec<(usize, Range<usize>, bool)>,
    end: usize,
    /// The whole string in the file, if it has escapes and places inside cannot be told.
    whole: Option<Range<usize>>,
}

impl Filled {
    fn new(
        source: &Source<'_>,
        raw: &Spanned<String>,
        values: &BTreeMap<String, i64>,
    ) -> Result<Self, ScenarioError> {
        let span = raw.span();
        let value = raw.get_ref().as_str();
        let start = span.start + 1;
        let plain = source.text.get(start..span.end.saturating_sub(1)) == Some(value);
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
            let inside = tail.find('}').and_then(|n| tail.get(..n));
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
    fn place(&self, at: &Range<usize>) -> Range<usize> {
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
