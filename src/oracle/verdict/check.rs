// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks that make findings.

use super::words;
use super::{Case, FinalRemoval};
use crate::event::{
    Class, Event, EventKind, Finding, FunctionId, HangKind, Observation, Phase, Standing,
};
use crate::oracle::invariants::{LockState, Round, records};
use crate::oracle::removals::DELETE;
use crate::oracle::report::Report;
use crate::scenario::Teardown;

pub(super) fn finding(
    class: Class,
    title: String,
    standing: Standing,
    round: Option<u32>,
) -> Finding {
    Finding {
        round,
        ..Finding::new(class, title, standing)
    }
}

impl Case<'_> {
    pub(super) fn removed_twice(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        for (vf, runs) in round.doubles() {
            let title = format!(
                "{vf} removed {}, by {}",
                words::times(runs.len()),
                words::who(round, &runs)
            );
            findings.push(finding(
                Class::DoubleRemoval,
                title,
                Standing::Wanted,
                Some(round.number),
            ));
        }
        let told = |vf: FunctionId| round.doubles().iter().any(|(other, _)| *other == vf);
        for (vf, call, runs) in round.double_bodies() {
            if call == DELETE && told(vf) {
                continue;
            }
            let who: Vec<String> = runs
                .iter()
                .map(|body| words::task(round, body.pid, &body.comm))
                .collect();
            let title = format!(
                "{call} ran {} for {vf}, by {}",
                words::times(runs.len()),
                words::list(&who)
            );
            findings.push(finding(
                Class::DoubleRemoval,
                title,
                Standing::Wanted,
                Some(round.number),
            ));
        }
    }

    pub(super) fn added_twice(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        for (vf, times, by) in round.double_additions() {
            let who: Vec<String> = by
                .iter()
                .map(|record| words::task(round, record.pid, &record.comm))
                .collect();
            let title = format!(
                "{vf} added {}, {}by {}",
                words::times(times),
                if times > by.len() {
                    "the last time "
                } else {
                    ""
                },
                words::list(&who)
            );
            let standing = if self.scenario.wants.contains(&Class::Other) {
                Standing::Wanted
            } else {
                Standing::Other
            };
            findings.push(finding(Class::Other, title, standing, Some(round.number)));
        }
    }

    /// The round that a place in the console belongs to.
    pub(super) fn round_of(&self, at: u64) -> Option<u32> {
        let mut phases = self.events.iter().filter_map(|e| match e.kind {
            EventKind::Phase { round, console, .. } if console <= at => Some(round),
            _ => None,
        });
        phases.next_back().filter(|round| *round > 0)
    }

    /// Findings from the console.
    pub(super) fn console_findings(&self, findings: &mut Vec<Finding>) {
        let cause = findings
            .iter()
            .find(|f| f.class == Class::DoubleRemoval)
            .cloned();
        for report in &self.console.armed {
            let round = self.round_of(report.span.start as u64);
            let (standing, reason) = self.standing(report, round, cause.as_ref());
            findings.push(Finding {
                round,
                reason,
                point: self.point_before(report.span.start as u64),
                alive: self.alive_after(report),
                ..report.finding(standing)
            });
        }
    }

    /// Where in the recording the console had grown beyond `at`: what comes from there on was later than that place. The
    /// order within a phase is not known.
    fn phase_behind(&self, at: u64) -> Option<usize> {
        self.events
            .iter()
            .position(|e| matches!(e.kind, EventKind::Phase { console, .. } if console > at))
    }

    /// The last point that was reached in the round of a place in the console, up to the end of the phase in which that
    /// was printed.
    fn point_before(&self, at: u64) -> Option<String> {
        let end = self.phase_behind(at).unwrap_or(self.events.len());
        let events = self.events.get(..end).unwrap_or_default();
        let armed = |e: &Event| {
            matches!(
                e.kind,
                EventKind::Phase {
                    phase: Phase::Armed,
                    ..
                }
            )
        };
        let from = events.iter().rposition(armed)?;
        let round = events.get(from..).unwrap_or_default();
        round.iter().rev().find_map(|e| match &e.kind {
            EventKind::PointReached { point } => Some(point.clone()),
            EventKind::Guest(record) => match &record.what {
                Observation::Point { point } => Some(point.clone()),
                _ => None,
            },
            _ => None,
        })
    }

    /// Whether the guest went on after a report: its module reported something in a later phase, or another caller
    /// printed something after one that is fatal. It did not if the kernel stopped, or if nothing came any more and the
    /// run was cut for that.
    fn alive_after(&self, report: &Report) -> Option<bool> {
        let behind = self.phase_behind(report.span.start as u64);
        let later = behind.and_then(|from| self.events.get(from..));
        let later = later.unwrap_or_default();
        if records(later).next().is_some() {
            return Some(true);
        }
        if report.halted() {
            return Some(false);
        }
        if report.fatal() && report.followed {
            return Some(true);
        }
        let silent = |e: &Event| {
            matches!(
                e.kind,
                EventKind::Cut {
                    infrastructure: false,
                    ..
                }
            )
        };
        later.iter().any(silent).then_some(false)
    }

    fn standing(
        &self,
        report: &Report,
        round: Option<u32>,
        cause: Option<&Finding>,
    ) -> (Standing, Option<String>) {
        if self.scenario.wants.contains(&report.class) {
            return (Standing::Wanted, None);
        }
        if let Some(known) = self.known.find(report, self.kernel, self.release) {
            return (Standing::Known, Some(known.reason.clone()));
        }
        let damage = !matches!(report.class, Class::Warn | Class::Assert | Class::LockOrder);
        let caused =
            cause.filter(|c| damage && round.is_none_or(|r| c.round.is_none_or(|at| at <= r)));
        if let Some(cause) = caused {
            let at = cause.round.unwrap_or_default();
            return (
                Standing::Wanted,
                Some(format!("a consequence of the double removal in round {at}")),
            );
        }
        let wanted = match report.class {
            Class::DoubleRemoval => self.scenario.unplug.is_some(),
            Class::Deadlock => self.looks_for_deadlock(),
            _ => false,
        };
        (
            if wanted {
                Standing::Wanted
            } else {
                Standing::Other
            },
            None,
        )
    }

    /// A control looks for nothing.
    fn looks_for_deadlock(&self) -> bool {
        self.scenario.unplug.is_some()
            || self.scenario.teardown == Teardown::PfRemove
            || self.scenario.wants.contains(&Class::Deadlock)
    }

    /// Tasks that did not come back. A task that died of a report that was printed is a consequence of that; a guest
    /// that is not shown to be alive is silent, not deadlocked.
    pub(super) fn not_back(&self, findings: &mut Vec<Finding>, evidence: &mut Vec<String>) {
        let fatal = |f: &&Finding| {
            f.standing != Standing::Known
                && self.console.armed.iter().any(|r| {
                    r.fatal()
                        && f.console
                            .is_some_and(|(start, _)| start == r.span.start as u64)
                })
        };
        let died_of = findings.iter().find(fatal).map(|f| f.title.clone());
        let hung = findings
            .iter()
            .any(|f| f.class == Class::Deadlock && f.standing != Standing::Known);
        let mut stuck: Vec<(String, Option<u32>, Option<HangKind>)> = Vec::new();
        for round in &self.rounds {
            let missing = words::missing_tasks(round);
            if missing.is_empty() {
                continue;
            }
            let waiters = words::waiters(round);
            // Records behind the end of the wait: the guest goes on without the task.
            let settled = round.events.iter().position(|e| {
                matches!(
                    e.kind,
                    EventKind::Phase {
                        phase: Phase::Settle,
                        ..
                    } | EventKind::Cut { .. }
                )
            });
            let later = settled
                .and_then(|at| round.events.get(at..))
                .unwrap_or_default();
            let alive = records(later).next().is_some() || round.number < self.last;
            let what = format!("{} did not come back", words::list(&missing));
            let hang = round.hang();
            if let Some(hang) = &hang {
                let lines = hang.evidence.iter();
                evidence.extend(lines.map(|line| format!("round {}: {line}", round.number)));
            }
            let waits = round
                .lock_states()
                .values()
                .any(|(_, s)| matches!(s, LockState::Waits(o) if *o != 0));
            let kind = hang.as_ref().map(|hang| hang.kind);
            let what = match hang {
                Some(hang) => hang.title,
                None if waiters.is_empty() => what,
                None => format!("{what}: {}", waiters.join("; ")),
            };
            match &died_of {
                Some(title) => {
                    evidence.push(format!("round {}: {what} (after: {title})", round.number))
                }
                None if alive || waits || hung => {
                    stuck.push((what, Some(round.number), kind));
                }
                None => evidence.push(format!("round {}: {what}", round.number)),
            }
        }
        if self.only.is_none() && self.final_removal() == FinalRemoval::NotBack {
            let what = "the removal of the PF as the last step did not come back".to_owned();
            let went_on = self.phase_at(Phase::PowerOff).is_some();
            match &died_of {
                Some(title) => evidence.push(format!("{what} (after: {title})")),
                None if went_on || hung => stuck.push((what, None, None)),
                None => evidence.push(what),
            }
        }
        let after_double = findings.iter().any(|f| f.class == Class::DoubleRemoval);
        let wanted = self.looks_for_deadlock() || after_double;
        let standing = if wanted {
            Standing::Wanted
        } else {
            Standing::Other
        };
        for (title, round, hang) in stuck {
            findings.push(Finding {
                hang,
                ..finding(Class::Deadlock, title, standing, round)
            });
        }
    }
}
