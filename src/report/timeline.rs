// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A round as lanes of marks in time: who removed which VF, what each task was in, the lock, the messages, where somebody
//! was held. Pure: from events to numbers and words, whatever draws them.
//!
//! All times are nanoseconds of the guest's clock since the teardown began. Events of the host are put on that clock by
//! the shortest way that a guest's record took to the host in the same round: they are late by at most that.

mod lanes;
mod tasks;
mod words;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{Event, EventKind, Finding, FunctionId, GuestRecord, Side};
use crate::oracle::invariants::Round;
use crate::oracle::removals::Removal;

/// VFs that have a lane of their own; those of a double removal and those that were unplugged come first.
const MOST_LANES: usize = 8;
/// Marks of a round. A guest that loops makes a recording of any length.
const MOST_MARKS: usize = 1500;

const ORDERED: &str = "unplug ordered";

/// A round, ready to be drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// The round's number.
    pub round: u32,
    /// What is to be seen in it, in a sentence.
    pub headline: String,
    /// Its first moment.
    pub from: i64,
    /// Its last moment.
    pub to: i64,
    /// The part that matters most.
    pub focus: (i64, i64),
    /// From top to bottom.
    pub lanes: Vec<Lane>,
    /// What is not drawn, and why, a line each.
    pub left_out: Vec<String>,
}

/// Marks that belong together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lane {
    /// What they are about.
    pub title: String,
    /// It is about what went wrong.
    pub is_bad: bool,
    /// Rows that its marks need, at least one.
    pub rows: u32,
    /// The marks.
    pub marks: Vec<Mark>,
}

/// What a mark stands for; a class of the drawing's style.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Done by the teardown.
    Teardown,
    /// Done by the unplug handler.
    Unplug,
    /// Done by another task.
    Other,
    /// Waiting for a lock.
    Wait,
    /// Held at a point.
    Hold,
    /// A vhost-user message of QEMU.
    Request,
    /// The back end's answer.
    Answer,
    /// A point was reached, an unplug ordered, seen or done.
    Point,
    /// Two removals of the same VF at once.
    Twice,
    /// A finding.
    Finding,
}

/// Something in time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Row of its lane, from 0.
    pub row: u32,
    /// When it began.
    pub from: i64,
    /// When it ended; the same moment for something without a length.
    pub to: i64,
    /// It did not end in this round.
    pub is_open: bool,
    /// What it stands for.
    pub kind: Kind,
    /// A few words.
    pub label: String,
    /// Everything there is to say.
    pub tip: String,
}

/// A duration: `+482.6 ms`.
fn at(ns: i64) -> String {
    format!("{:+.1} ms", ns as f64 / 1e6)
}

fn ms(ns: i64) -> String {
    format!("{:.3} ms", ns as f64 / 1e6)
}

/// Draws a round. `findings` are those of the run.
pub fn timeline(round: &Round<'_>, findings: &[Finding]) -> Timeline {
    Draw::new(round).all(findings)
}

struct Draw<'a> {
    round: &'a Round<'a>,
    /// Guest time of the beginning.
    zero: u64,
    /// What is subtracted from the host's clock to get the guest's, if that is known.
    late: Option<i128>,
    from: i64,
    to: i64,
    teardown: Option<&'a GuestRecord>,
    left_out: Vec<String>,
}

impl<'a> Draw<'a> {
    fn new(round: &'a Round<'a>) -> Self {
        let teardown = round.teardown();
        let first = round.records().next();
        let zero = teardown.or(first).map_or(0, |r| r.guest_ns);
        let late = round.events.iter().filter_map(|e| match &e.kind {
            EventKind::Guest(record) => Some(i128::from(e.ns) - i128::from(record.guest_ns)),
            _ => None,
        });
        let mut draw = Draw {
            round,
            zero,
            late: late.min(),
            from: 0,
            to: 0,
            teardown,
            left_out: Vec::new(),
        };
        let times = round.events.iter().map(|e| draw.time(e));
        draw.to = times.max().unwrap_or_default().max(1);
        let begins = round
            .events
            .iter()
            .filter(|e| !matches!(e.kind, EventKind::Phase { .. } | EventKind::Schedule { .. }));
        draw.from = begins
            .map(|e| draw.time(e))
            .min()
            .unwrap_or_default()
            .min(0);
        draw
    }

    fn guest(&self, ns: u64) -> i64 {
        let ns = i128::from(ns) - i128::from(self.zero);
        i64::try_from(ns).unwrap_or(i64::MAX)
    }

    fn time(&self, event: &Event) -> i64 {
        match &event.kind {
            EventKind::Guest(record) => self.guest(record.guest_ns),
            _ => {
                let late = self.late.unwrap_or_default();
                let ns = i128::from(event.ns) - late - i128::from(self.zero);
                i64::try_from(ns).unwrap_or(i64::MAX)
            }
        }
    }

    fn kind(&self, pid: u32) -> Kind {
        match self.teardown {
            Some(task) if task.pid == pid => Kind::Teardown,
            _ if self.round.is_handler(pid) => Kind::Unplug,
            _ => Kind::Other,
        }
    }

    fn side(&self, pid: u32) -> &'static str {
        match self.kind(pid) {
            Kind::Teardown => "teardown",
            Kind::Unplug => "unplug handler",
            _ => "another task",
        }
    }

    fn who(&self, pid: u32, comm: &str) -> String {
        format!("{} ({comm}, pid {pid})", self.side(pid))
    }

    fn all(mut self, findings: &[Finding]) -> Timeline {
        let doubles = self.round.doubles();
        let mut lanes = self.functions(&doubles);
        lanes.extend(self.lock());
        lanes.extend(self.stuck());
        lanes.extend(self.points());
        lanes.extend(self.tasks());
        lanes.extend(self.findings(findings));
        lanes.retain(|lane| !lane.marks.is_empty());
        self.limit(&mut lanes);
        Timeline {
            round: self.round.number,
            headline: self.headline(&doubles, findings),
            from: self.from,
            to: self.to,
            focus: self.focus(&doubles),
            lanes,
            left_out: self.left_out,
        }
    }

    fn limit(&mut self, lanes: &mut [Lane]) {
        let mut room = MOST_MARKS;
        let mut dropped = 0usize;
        for lane in lanes {
            let keep = lane.marks.len().min(room);
            dropped += lane.marks.len() - keep;
            lane.marks.truncate(keep);
            room -= keep;
        }
        if dropped > 0 {
            self.left_out.push(format!(
                "{dropped} marks of this round are not drawn; they are in its recording (events.jsonl)"
            ));
        }
    }

    fn end(&self, removal: &Removal) -> (i64, bool) {
        match removal.ended {
            Some(end) => (self.guest(end), false),
            None => (self.to, true),
        }
    }

    /// The time for which two removals of a VF ran together.
    fn together(&self, runs: &[Removal]) -> Option<(i64, i64)> {
        let mut longest: Option<(i64, i64)> = None;
        for (n, a) in runs.iter().enumerate() {
            for b in runs.iter().skip(n + 1).filter(|b| b.pid != a.pid) {
                let from = self.guest(a.began).max(self.guest(b.began));
                let to = self.end(a).0.min(self.end(b).0);
                let length = |(from, to): (i64, i64)| to.saturating_sub(from);
                if to > from && longest.is_none_or(|l| length(l) < length((from, to))) {
                    longest = Some((from, to));
                }
            }
        }
        longest
    }

    /// A lane a function: its removals, and what went over its socket.
    fn functions(&mut self, doubles: &[(FunctionId, Vec<Removal>)]) -> Vec<Lane> {
        let removals = self.round.removals();
        let mut wire: BTreeMap<FunctionId, Vec<&Event>> = BTreeMap::new();
        for event in self.round.events {
            if let EventKind::Wire(message) = &event.kind {
                if message.function != FunctionId::Mailbox {
                    wire.entry(message.function).or_default().push(event);
                }
            }
        }
        let twice = |f: FunctionId| doubles.iter().any(|(vf, _)| *vf == f);
        let fired: Vec<FunctionId> = self
            .round
            .fired()
            .iter()
            .filter_map(|(_, t)| t.function())
            .collect();
        let mut all: Vec<FunctionId> = removals
            .iter()
            .map(|r| r.vf)
            .chain(wire.keys().copied())
            .collect();
        all.sort_by_key(|f| (!twice(*f), !fired.contains(f), *f));
        all.dedup();
        if all.len() > MOST_LANES {
            self.left_out.push(format!(
                "{} functions have no lane here, of {}; they are in the recording (events.jsonl)",
                all.len() - MOST_LANES,
                all.len()
            ));
            all.truncate(MOST_LANES);
        }
        all.sort();
        let lane = |function: FunctionId| {
            let runs = doubles
                .iter()
                .find(|(vf, _)| *vf == function)
                .map(|(_, runs)| runs);
            let mine: Vec<&Removal> = removals.iter().filter(|r| r.vf == function).collect();
            let mut lane = Lane {
                title: match runs {
                    Some(_) => format!("{function}: removed TWICE"),
                    None if mine.is_empty() => function.to_string(),
                    None => format!("{function}: removed once"),
                },
                is_bad: runs.is_some(),
                rows: 1,
                marks: Vec::new(),
            };
            if runs.is_none() && mine.iter().filter(|r| r.deleted > 0).count() > 1 {
                lane.title = format!("{function}: {} removals", mine.len());
            }
            self.removals(&mut lane, &mine);
            if let Some((from, to)) = runs.and_then(|runs| self.together(runs)) {
                lane.marks.push(Mark {
                    row: lane.rows,
                    from,
                    to,
                    is_open: false,
                    kind: Kind::Twice,
                    label: format!("both at once: {}", ms(to.saturating_sub(from))),
                    tip: format!(
                        "{function} is removed by two tasks at once, from {} to {}",
                        at(from),
                        at(to)
                    ),
                });
                lane.rows += 1;
            }
            if let Some(events) = wire.get(&function) {
                let row = if mine.is_empty() { 0 } else { lane.rows };
                lane.marks
                    .extend(events.iter().filter_map(|e| self.message(e, row)));
                lane.rows = row + 1;
            }
            lane
        };
        all.into_iter().map(lane).collect()
    }

    fn removals(&self, lane: &mut Lane, mine: &[&Removal]) {
        let mut ends: Vec<i64> = Vec::new();
        for removal in mine {
            let from = self.guest(removal.began);
            let (to, is_open) = self.end(removal);
            let row = match ends.iter().position(|end| *end <= from) {
                Some(row) => row,
                None => {
                    ends.push(0);
                    ends.len() - 1
                }
            };
            if let Some(end) = ends.get_mut(row) {
                *end = to;
            }
            let who = self.who(removal.pid, &removal.comm);
            lane.marks.push(Mark {
                row: u32::try_from(row).unwrap_or_default(),
                from,
                to,
                is_open,
                kind: self.kind(removal.pid),
                label: format!("removed by {}", self.side(removal.pid)),
                tip: format!(
                    "{} is removed by {who}, from {}{}; called by {}",
                    removal.vf,
                    at(from),
                    match is_open {
                        true => ", no return is recorded".to_owned(),
                        false => format!(" to {} ({})", at(to), ms(to.saturating_sub(from))),
                    },
                    removal
                        .stack
                        .iter()
                        .take(4)
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(" <- "),
                ),
            });
        }
        lane.rows = u32::try_from(ends.len()).unwrap_or_default().max(1);
    }

    fn message(&self, event: &Event, row: u32) -> Option<Mark> {
        let EventKind::Wire(message) = &event.kind else {
            return None;
        };
        let from = self.time(event);
        let vring = message
            .vring
            .map(|n| format!(" of vring {n}"))
            .unwrap_or_default();
        let (kind, says) = match message.from {
            Side::Qemu => (Kind::Request, "QEMU to the back end"),
            Side::Backend => (Kind::Answer, "the back end's answer"),
        };
        Some(Mark {
            row,
            from,
            to: from,
            is_open: false,
            kind,
            label: String::new(),
            tip: format!(
                "{} {}{vring}, {says}, {}",
                message.function,
                message.message,
                at(from)
            ),
        })
    }
}
