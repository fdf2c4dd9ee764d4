// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lanes of the lock, of points and holds, and of findings.

use std::collections::BTreeMap;

use super::{Draw, Kind, Lane, Mark, ORDERED, at, ms};
use crate::event::{EventKind, Finding, GuestRecord, HoldEnd, Observation, Phase, Standing};

use crate::oracle::removals::Removal;

/// Characters of a finding's title beside its mark.
const TITLE: usize = 40;

impl Draw<'_> {
    /// Who waits for pci_rescan_remove_lock and who has it, a row a task.
    pub(super) fn lock(&self) -> Option<Lane> {
        let mut rows: Vec<u32> = Vec::new();
        let mut open: BTreeMap<u32, (i64, u32, Option<u32>)> = BTreeMap::new();
        let mut marks = Vec::new();
        let mark = |row: u32, record: &GuestRecord, from, to, is_open, owner: Option<u32>| {
            let who = self.who(record.pid, &record.comm);
            let length = match is_open {
                true => ", to the end".to_owned(),
                false => format!(" for {}", ms(i64::saturating_sub(to, from))),
            };
            let (kind, label, tip) = match owner {
                None => (
                    self.kind(record.pid),
                    format!("held by {}", self.side(record.pid)),
                    format!(
                        "{who} holds pci_rescan_remove_lock{length}, from {}",
                        at(from)
                    ),
                ),
                Some(owner) => (
                    Kind::Wait,
                    format!("{} waits", self.side(record.pid)),
                    match owner {
                        0 => format!(
                            "{who} asks for pci_rescan_remove_lock, which is free{length}, from {}",
                            at(from)
                        ),
                        _ => format!(
                            "{who} waits for pci_rescan_remove_lock, held by pid {owner}{length}, from {}",
                            at(from)
                        ),
                    },
                ),
            };
            Mark {
                row,
                from,
                to,
                is_open,
                kind,
                label,
                tip,
            }
        };
        let mut last: BTreeMap<u32, &GuestRecord> = BTreeMap::new();
        for record in self.round.records() {
            let now = self.guest(record.guest_ns);
            let row = match &record.what {
                Observation::LockWait { .. }
                | Observation::LockTaken { .. }
                | Observation::LockRelease => {
                    let row = rows.iter().position(|pid| *pid == record.pid);
                    let row = row.unwrap_or_else(|| {
                        rows.push(record.pid);
                        rows.len() - 1
                    });
                    u32::try_from(row).unwrap_or_default()
                }
                _ => continue,
            };
            last.insert(record.pid, record);
            let before = open.get(&record.pid).copied();
            match (&record.what, before) {
                (Observation::LockWait { owner }, None) => {
                    open.insert(record.pid, (now, 0, Some(*owner)));
                }
                (Observation::LockTaken { .. }, Some((from, _, Some(owner)))) => {
                    // What was free was had at once.
                    if owner != 0 {
                        marks.push(mark(row, record, from, now, false, Some(owner)));
                    }
                    open.insert(record.pid, (now, 1, None));
                }
                (Observation::LockTaken { .. }, None) => {
                    open.insert(record.pid, (now, 1, None));
                }
                (Observation::LockTaken { nested: true }, Some((from, levels, None))) => {
                    open.insert(record.pid, (from, levels.saturating_add(1), None));
                }
                (Observation::LockRelease, Some((from, levels, None))) => {
                    if levels > 1 {
                        open.insert(record.pid, (from, levels - 1, None));
                    } else {
                        marks.push(mark(row, record, from, now, false, None));
                        open.remove(&record.pid);
                    }
                }
                _ => {}
            }
        }
        for (pid, (from, _, owner)) in open {
            let row = rows
                .iter()
                .position(|known| *known == pid)
                .unwrap_or_default();
            if let Some(record) = last.get(&pid) {
                let row = u32::try_from(row).unwrap_or_default();
                marks.push(mark(row, record, from, self.to, true, owner));
            }
        }
        Some(Lane {
            title: "pci_rescan_remove_lock".to_owned(),
            is_bad: false,
            rows: u32::try_from(rows.len()).unwrap_or(1).max(1),
            marks,
        })
    }

    /// Who did not come back, and what they waited for when they were asked. That they have waited since their last record
    /// is likely and not recorded; the mark says so.
    pub(super) fn stuck(&self) -> Option<Lane> {
        let mut marks: Vec<Mark> = Vec::new();
        let mut known: Vec<u32> = Vec::new();
        for record in self.round.records() {
            let Observation::TaskState {
                task,
                name,
                lock,
                owner,
                ..
            } = &record.what
            else {
                continue;
            };
            if known.contains(task) {
                continue;
            }
            let row = u32::try_from(known.len()).unwrap_or_default();
            known.push(*task);
            let asked = self.guest(record.guest_ns);
            let last = self.round.records().rfind(|r| r.pid == *task);
            let from = last.map_or(asked, |r| self.guest(r.guest_ns)).min(asked);
            let waits = match (lock.as_str(), *owner) {
                ("", _) => "waits for no mutex".to_owned(),
                (lock, 0) => format!("waits for {lock}, which nobody holds"),
                (lock, Observation::DEAD) => format!("waits for {lock}, whose owner is no more"),
                (lock, owner) => format!("waits for {lock}, held by the {}", self.side(owner)),
            };
            marks.push(Mark {
                row,
                from,
                to: self.to,
                is_open: true,
                kind: Kind::Wait,
                label: format!("{}: {waits}", self.side(*task)),
                tip: format!(
                    "{} {waits}: asked at {}; its last record is from {}",
                    self.who(*task, name),
                    at(asked),
                    at(from)
                ),
            });
        }
        Some(Lane {
            title: "did not come back".to_owned(),
            is_bad: true,
            rows: u32::try_from(known.len()).unwrap_or(1).max(1),
            marks,
        })
    }

    /// Points that were reached, holds, and the unplug.
    pub(super) fn points(&self) -> Option<Lane> {
        let mut marks = Vec::new();
        for event in self.round.events {
            let now = self.time(event);
            let moment = |label: &str, tip: String| Mark {
                row: match label {
                    "" => 1,
                    ORDERED => 2,
                    _ => 3,
                },
                from: now,
                to: now,
                is_open: false,
                kind: Kind::Point,
                label: label.to_owned(),
                tip,
            };
            let held = |point: &str, ns: u64, end: HoldEnd| {
                let length = i64::try_from(ns).unwrap_or(i64::MAX);
                let why = match end {
                    HoldEnd::Reached => "until the other side was where it should be",
                    HoldEnd::Bound => "up to its bound: the other side did not get there",
                    HoldEnd::Missed => "until the other side ended without getting there",
                    HoldEnd::Stopped => "until the run was stopped",
                };
                Mark {
                    row: 0,
                    from: now.saturating_sub(length),
                    to: now,
                    is_open: false,
                    kind: Kind::Hold,
                    label: format!("held at {point}"),
                    tip: format!(
                        "held at {point} for {}, {why}; let go at {}",
                        ms(length),
                        at(now)
                    ),
                }
            };
            match &event.kind {
                EventKind::HoldEnded {
                    point,
                    held_ns,
                    end,
                } => marks.push(held(point, *held_ns, *end)),
                EventKind::PointReached { point } => {
                    marks.push(moment("", format!("{point} is reached, {}", at(now))));
                }
                EventKind::UnplugFired {
                    actuator, target, ..
                } => {
                    marks.push(moment(
                        ORDERED,
                        format!("unplug of {target} ordered ({actuator}), {}", at(now)),
                    ));
                }
                EventKind::Guest(record) => match &record.what {
                    Observation::HoldOver {
                        point,
                        held_ns,
                        end,
                    } => marks.push(held(point, *held_ns, *end)),
                    Observation::Point { point } => {
                        marks.push(moment("", format!("{point} is reached, {}", at(now))));
                    }
                    Observation::UnplugSeen { .. } => {
                        marks.push(moment(
                            "",
                            format!(
                                "{} sees the unplug, {}",
                                self.who(record.pid, &record.comm),
                                at(now)
                            ),
                        ));
                    }
                    Observation::UnplugDone { .. } => {
                        marks.push(moment(
                            "unplug done",
                            format!(
                                "{} is done with the unplug, {}",
                                self.who(record.pid, &record.comm),
                                at(now)
                            ),
                        ));
                    }
                    _ => {}
                },
                EventKind::Cut { reason, .. } => {
                    marks.push(moment(
                        "cut short",
                        format!("cut short: {reason}, {}", at(now)),
                    ));
                }
                _ => {}
            }
        }
        Some(Lane {
            title: "breakpoints and unplug".to_owned(),
            is_bad: false,
            rows: 4,
            marks,
        })
    }

    /// Findings of this round: at the second removal, or in the part of the run in which the console has them.
    pub(super) fn findings(&self, findings: &[Finding]) -> Option<Lane> {
        let mut marks = Vec::new();
        let mine = findings
            .iter()
            .filter(|f| f.round == Some(self.round.number) && f.standing != Standing::Known);
        let doubles = self.round.doubles();
        let second = |runs: &[Removal]| runs.iter().map(|r| self.guest(r.began)).max();
        let twice = doubles.iter().filter_map(|(_, runs)| second(runs)).min();
        for finding in mine {
            let (from, to, place) = match (finding.console, twice) {
                (Some((byte, _)), _) => match self.printed(byte) {
                    Some((from, to)) => (from, to, "printed within this span"),
                    None => (self.to, self.to, "printed after this round"),
                },
                (None, Some(twice)) => (twice, twice, "shown by the guest's records"),
                (None, None) => (self.to, self.to, "shown when the round had settled"),
            };
            marks.push(Mark {
                row: u32::try_from(marks.len().min(5)).unwrap_or_default(),
                from,
                to,
                is_open: false,
                kind: Kind::Finding,
                label: match finding.title.char_indices().nth(TITLE) {
                    Some((end, _)) => {
                        let cut = finding.title.get(..end).unwrap_or_default();
                        format!("{}: {cut}...", finding.class)
                    }
                    None => format!("{}: {}", finding.class, finding.title),
                },
                tip: format!("{}: {} ({place})", finding.class, finding.title),
            });
        }
        let rows = u32::try_from(marks.len().min(6)).unwrap_or(1).max(1);
        Some(Lane {
            title: "findings".to_owned(),
            is_bad: true,
            rows,
            marks,
        })
    }

    /// The part of the round in which a byte of the console was printed. Only phases say how long the console was.
    pub(super) fn printed(&self, byte: u64) -> Option<(i64, i64)> {
        let mut from = None;
        for event in self.round.events {
            if let EventKind::Phase { console, phase, .. } = event.kind {
                let now = self.time(event).max(self.from);
                match from {
                    Some(from) if byte < console => return Some((from, now)),
                    _ if phase == Phase::Settle && byte >= console => return None,
                    _ => from = Some(now),
                }
            }
        }
        from.map(|from| (from, self.to))
    }
}
