// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The text form of a schedule: `SIDE first; STEP; STEP`, what `Display` prints, with freely chosen space.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use super::super::error::nearest;
use super::super::point::{side, side_hint};
use super::{
    At, CONDITIONS, DEFAULT_CALL_HOLD, DEFAULT_WIRE_HOLD, Hold, LockName, MAX_AFTER, MAX_CALL_HOLD,
    MAX_WIRE_HOLD, Point, Schedule, ScheduleError, Step, Until,
};
use crate::event::{FunctionId, Role};

/// A schedule with the places of its parts in the text, in bytes.
pub(super) struct Parsed {
    pub(super) schedule: Schedule,
    /// `SIDE first`; empty if that was left out.
    pub(super) first: Range<usize>,
    /// One for each step.
    pub(super) places: Vec<Places>,
}

/// Where the parts of a step are. Those that it has not are empty.
#[derive(Default)]
pub(super) struct Places {
    pub(super) at: Range<usize>,
    pub(super) fire: Range<usize>,
    pub(super) until: Range<usize>,
    pub(super) returns: Range<usize>,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Reads the text form. `teardown first` is the default; so are bounds of 100 ms at a wire point and 2000 ms at a call
    /// point. Whether it makes sense for a scenario is another matter: [`Schedule::read`].
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        parse(text).map(|parsed| parsed.schedule)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Semicolon,
    Open,
    Close,
    Plus,
    AtMost,
}

#[derive(Clone)]
struct Token {
    kind: Kind,
    at: Range<usize>,
}

fn lex(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let is_bound = text.get(at..).is_some_and(|rest| rest.starts_with("<="));
        let (kind, len) = match c {
            ';' => (Kind::Semicolon, 1),
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '+' => (Kind::Plus, 1),
            '<' if is_bound => (Kind::AtMost, 2),
            _ => (Kind::Word, c.len_utf8()),
        };
        let end = at + len;
        if !c.is_whitespace() {
            match tokens.last_mut() {
                Some(last)
                    if kind == Kind::Word && last.kind == Kind::Word && last.at.end == at =>
                {
                    last.at.end = end;
                }
                _ => tokens.push(Token { kind, at: at..end }),
            }
        }
        at = end;
    }
    tokens
}

fn wrong<T>(
    what: impl Into<String>,
    at: Range<usize>,
    hint: impl Into<String>,
) -> Result<T, ScheduleError> {
    Err(ScheduleError {
        what: what.into(),
        at,
        hint: hint.into(),
    })
}

const STEP: &str = "a step is a point or a time, and what happens there: POINT [fire] [until CONDITION <=Nms] [return N], or \
                    teardown+10ms fire";

/// Reads the text form and remembers where everything was.
pub(super) fn parse(text: &str) -> Result<Parsed, ScheduleError> {
    let mut reader = Reader {
        text,
        tokens: lex(text),
        next: 0,
    };
    let mut parsed = Parsed {
        schedule: Schedule {
            first: Role::Teardown,
            steps: Vec::new(),
        },
        first: 0..0,
        places: Vec::new(),
    };
    if reader.tokens.is_empty() {
        return wrong("the schedule is empty", 0..text.len(), STEP);
    }
    if reader.is_first() {
        let (word, at) = reader.word("a side")?;
        let Some(role) = side(word) else {
            return wrong(format!("`{word}` is not a side"), at, side_hint(word));
        };
        let (_, first) = reader.word("`first`")?;
        parsed.schedule.first = role;
        parsed.first = at.start..first.end;
        reader.end_of_part("`SIDE first`")?;
    }
    loop {
        while reader.take(Kind::Semicolon).is_some() {}
        if reader.tokens.get(reader.next).is_none() {
            return Ok(parsed);
        }
        let (step, places) = reader.step()?;
        parsed.schedule.steps.push(step);
        parsed.places.push(places);
    }
}

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn kind(&self, ahead: usize) -> Option<Kind> {
        self.tokens.get(self.next + ahead).map(|token| token.kind)
    }

    fn text_of(&self, at: &Range<usize>) -> &'a str {
        self.text.get(at.clone()).unwrap_or_default()
    }

    /// Whether `WORD first` comes.
    fn is_first(&self) -> bool {
        let second = self.tokens.get(self.next + 1);
        self.kind(0) == Some(Kind::Word)
            && second.is_some_and(|token| self.text_of(&token.at) == "first")
    }

    fn take(&mut self, kind: Kind) -> Option<Range<usize>> {
        let token = self.tokens.get(self.next)?;
        (token.kind == kind).then(|| {
            self.next += 1;
            token.at.clone()
        })
    }

    /// The place of the next token; behind the last one, the end of the text that is not space.
    fn here(&self) -> Range<usize> {
        match self.tokens.get(self.next) {
            Some(token) => token.at.clone(),
            None => {
                let end = self.tokens.last().map_or(0, |token| token.at.end);
                end..end
            }
        }
    }

    fn word(&mut self, wanted: &str) -> Result<(&'a str, Range<usize>), ScheduleError> {
        match self.take(Kind::Word) {
            Some(at) => Ok((self.text_of(&at), at)),
            None => self.missing(wanted),
        }
    }

    fn missing<T>(&self, wanted: &str) -> Result<T, ScheduleError> {
        let at = self.here();
        let what = match self.text_of(&at) {
            "" => format!("{wanted} is missing at the end"),
            found => format!("`{found}` stands where {wanted} should be"),
        };
        wrong(what, at, STEP)
    }

    fn need(&mut self, kind: Kind, wanted: &str) -> Result<(), ScheduleError> {
        match self.take(kind) {
            Some(_) => Ok(()),
            None => self.missing(wanted),
        }
    }

    /// A semicolon or the end.
    fn end_of_part(&mut self, part: &str) -> Result<(), ScheduleError> {
        if matches!(self.kind(0), None | Some(Kind::Semicolon)) {
            return Ok(());
        }
        let at = self.here();
        let what = format!("`{}` does not belong to {part}", self.text_of(&at));
        wrong(what, at, "separate the parts with `;`")
    }

    /// A number of milliseconds, `Nms` or `N ms`.
    fn milliseconds(&mut self, max: Duration, of: &str) -> Result<Duration, ScheduleError> {
        let (word, mut at) = self.word("a number of milliseconds")?;
        let digits = match word.strip_suffix("ms") {
            Some(digits) => digits,
            None => match self.tokens.get(self.next) {
                Some(token) if self.text_of(&token.at) == "ms" => {
                    at.end = token.at.end;
                    self.next += 1;
                    word
                }
                _ => "",
            },
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            let hint = if word.bytes().all(|b| b.is_ascii_digit()) {
                format!("write the unit: {word}ms")
            } else {
                "write a number and its unit, e.g. 100ms".into()
            };
            let found = self.text_of(&at);
            return wrong(format!("`{found}` is not a time"), at, hint);
        }
        let max = max.as_millis();
        match digits.parse::<u64>() {
            Ok(ms) if u128::from(ms) <= max => Ok(Duration::from_millis(ms)),
            _ => wrong(
                format!("{of} {digits} ms"),
                at,
                format!("allowed is 0 to {max} ms"),
            ),
        }
    }

    fn step(&mut self) -> Result<(Step, Places), ScheduleError> {
        let is_first = self.is_first();
        let (word, at) = self.word("a point or a time")?;
        let (place, at) = if self.take(Kind::Plus).is_some() {
            let Some(role) = side(word) else {
                return wrong(format!("`{word}` is not a side"), at, side_hint(word));
            };
            let after = self.milliseconds(MAX_AFTER, "a step cannot be put off by")?;
            (At::Time { role, after }, at.start..self.before())
        } else if is_first {
            return wrong(
                format!("`{word} first` can only stand at the beginning"),
                at,
                "say once, in front of all steps, which side goes first",
            );
        } else if !word.contains(':') {
            let hint = match side(word) {
                Some(_) => format!(
                    "write a time, e.g. {word}+10ms, or a point, e.g. {word}/pf:call:sriov_disable"
                ),
                None => STEP.into(),
            };
            return wrong(format!("`{word}` is neither a point nor a time"), at, hint);
        } else {
            (At::Point(self.point(word, &at)?), at)
        };
        let mut step = Step {
            at: place,
            fire: false,
            hold: None,
            returns: None,
        };
        let mut places = Places {
            at,
            ..Places::default()
        };
        self.actions(&mut step, &mut places)?;
        if matches!(step.at, At::Time { .. }) {
            let more = [&places.until, &places.returns];
            if let Some(at) = more.into_iter().find(|at| !at.is_empty()) {
                return wrong(
                    "at a time there is no task that could be held",
                    at.clone(),
                    "use a point, or only `fire`",
                );
            }
            if !step.fire {
                return wrong(
                    "nothing happens at this time",
                    places.at,
                    "add `fire`, which starts the other side",
                );
            }
        }
        Ok((step, places))
    }

    /// End of the token that was taken last.
    fn before(&self) -> usize {
        let last = self.next.checked_sub(1).and_then(|at| self.tokens.get(at));
        last.map_or(0, |token| token.at.end)
    }

    fn point(&self, word: &str, at: &Range<usize>) -> Result<Point, ScheduleError> {
        word.parse()
            .map_err(|e: super::super::PointError| ScheduleError {
                what: format!("in a trigger point: {}", e.what),
                at: at.start + e.at.start..at.start + e.at.end,
                hint: e.hint,
            })
    }

    /// `[fire] [until CONDITION [<=Nms]] [return N]`
    fn actions(&mut self, step: &mut Step, places: &mut Places) -> Result<(), ScheduleError> {
        let mut last = 0;
        while !matches!(self.kind(0), None | Some(Kind::Semicolon)) {
            let (word, at) = self.word("`fire`, `until` or `return`")?;
            let rank = match word {
                "fire" => 1,
                "until" => 2,
                "return" => 3,
                _ => {
                    let hint = match nearest(word, ["fire", "until", "return"]) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => STEP.into(),
                    };
                    return wrong(format!("`{word}` is nothing that a step does"), at, hint);
                }
            };
            if rank <= last {
                let how = if rank == last {
                    "is there twice"
                } else {
                    "comes too late"
                };
                return wrong(
                    format!("`{word}` {how}"),
                    at,
                    "a step has each of fire, until and return at most once, in this order",
                );
            }
            last = rank;
            match rank {
                1 => {
                    step.fire = true;
                    places.fire = at;
                }
                2 => {
                    step.hold = Some(self.hold(&step.at)?);
                    places.until = at.start..self.before();
                }
                _ => {
                    let (number, number_at) = self.word("a number to return")?;
                    let Ok(value) = number.parse() else {
                        return wrong(
                            format!("`{number}` is not a number to return"),
                            number_at,
                            "write a number, e.g. -12 for -ENOMEM",
                        );
                    };
                    step.returns = Some(value);
                    places.returns = at.start..number_at.end;
                }
            }
        }
        Ok(())
    }

    fn hold(&mut self, at: &At) -> Result<Hold, ScheduleError> {
        let until = self.until()?;
        let wire = matches!(at, At::Point(point) if point.is_wire());
        let (default, max, of) = if wire {
            (
                DEFAULT_WIRE_HOLD,
                MAX_WIRE_HOLD,
                "a message cannot be held for",
            )
        } else {
            (
                DEFAULT_CALL_HOLD,
                MAX_CALL_HOLD,
                "a task cannot be held for",
            )
        };
        let at_most = match self.take(Kind::AtMost) {
            Some(_) => self.milliseconds(max, of)?,
            None => default,
        };
        Ok(Hold { until, at_most })
    }

    fn until(&mut self) -> Result<Until, ScheduleError> {
        let (word, at) = self.word("a condition")?;
        Ok(match word {
            "time" => Until::Time,
            "other-started" => Until::OtherStarted,
            "other-committed" => Until::OtherCommitted,
            "other-done" => Until::OtherDone,
            "other-rests" => Until::OtherRests,
            "other-at" => {
                self.need(Kind::Open, "`(POINT)`")?;
                let (word, at) = self.word("a point")?;
                let point = self.point(word, &at)?;
                self.need(Kind::Close, "`)`")?;
                Until::OtherAt(point)
            }
            "other-blocked" => Until::OtherBlocked(match self.take(Kind::Open) {
                None => None,
                Some(_) => {
                    let lock = self.lock()?;
                    self.need(Kind::Close, "`)`")?;
                    Some(lock)
                }
            }),
            _ => {
                let names = CONDITIONS.iter().map(|(name, _)| *name);
                let bare = names
                    .clone()
                    .map(|name| name.split('(').next().unwrap_or(name));
                let hint = match nearest(word, bare) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!(
                        "the conditions are: {}",
                        names.collect::<Vec<_>>().join(", ")
                    ),
                };
                return wrong(format!("`{word}` is not a condition"), at, hint);
            }
        })
    }

    fn lock(&mut self) -> Result<LockName, ScheduleError> {
        let (word, at) = self.word("a lock")?;
        match word {
            "pci_rescan_remove_lock" => Ok(LockName::RescanRemove),
            "device_lock" => {
                self.need(Kind::Open, "`(FUNCTION)`")?;
                let (word, at) = self.word("a function")?;
                let function = match word.parse::<FunctionId>() {
                    Ok(FunctionId::Mailbox) | Err(_) => {
                        return wrong(
                            format!("`{word}` is not a function with a lock"),
                            at,
                            "use pf, vf1 to vf255, or bridge",
                        );
                    }
                    Ok(function) => function,
                };
                self.need(Kind::Close, "`)`")?;
                Ok(LockName::Device(function))
            }
            _ => {
                let hint = match nearest(word, ["pci_rescan_remove_lock", "device_lock"]) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "the locks are pci_rescan_remove_lock and device_lock(FUNCTION)".into(),
                };
                wrong(format!("there is no lock `{word}`"), at, hint)
            }
        }
    }
}
