// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks that make findings.

use super::words;
use super::{Case, FinalRemoval};
use crate::event::{Class, EventKind, Finding, FunctionId, Phase, Standing};
use crate::oracle::invariants::{LockState, Removal, Round, records};
use crate::oracle::report::Report;
use crate::scenario::Teardown;

fn finding(class: Class, title: String, standing: Standing, round: Option<u32>) -> Finding {
    Finding {
        class,
        title,
        frame: None,
        standing,
        round,
        console: None,
        reason: None,
    }
}

/// VFs whose removal body ran more than once, with all of its runs.
pub(super) fn twice(round: &Round<'_>) -> Vec<(FunctionId, Vec<Removal>)> {
    let removals = round.removals();
    let mut vfs: Vec<FunctionId> = removals.iter().map(|r| r.vf).collect();
    vfs.sort_unstable();
    vfs.dedup();
    let runs = |vf| {
        removals
            .iter()
            .filter(|r| r.vf == vf)
            .cloned()
            .collect::<Vec<_>>()
    };
    vfs.into_iter()
        .map(|vf| (vf, runs(vf)))
        .filter(|(_, runs)| runs.len() > 1)
        .collect()
}

impl Case<'_> {
    pub(super) fn removed_twice(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        for (vf, runs) in twice(round) {
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
    }

    /// Whether both sides of a round came back.
    fn back(&self, round: &Round<'_>) -> bool {
        round.teardown_status().is_some()
            && round
                .fired()
                .iter()
                .all(|(number, _)| round.unplugged(*number).is_some())
    }

    /// Counts that did not come back to where they were.
    pub(super) fn counts(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        let (Some(before), Some(after)) = (round.before, round.after) else {
            return;
        };
        if !self.back(round) {
            return;
        }
        let standing = if twice(round).is_empty() {
            Standing::Other
        } else {
            Standing::Wanted
        };
        let mut found =
            |class, title| findings.push(finding(class, title, standing, Some(round.number)));
        let (was, is) = (before.pf_references, after.pf_references);
        let gone = is < 0;
        if !(gone && self.scenario.teardown == Teardown::PfRemove) {
            let title = format!("PF reference count {was} -> {is}, expected {was}");
            match is.cmp(&was) {
                _ if self.scenario.teardown == Teardown::PfRemove => {}
                _ if gone => found(
                    Class::Refcount,
                    format!("the PF is gone, its reference count was {was}"),
                ),
                std::cmp::Ordering::Less => found(Class::Refcount, title),
                std::cmp::Ordering::Greater => found(Class::Leak, title),
                std::cmp::Ordering::Equal => {}
            }
        }
        let created = after.vfs_created.saturating_sub(before.vfs_created);
        let released = after.vfs_released.saturating_sub(before.vfs_released);
        let title = format!("{created} VFs created, {released} released");
        match released.cmp(&created) {
            std::cmp::Ordering::Less => found(Class::Leak, title),
            std::cmp::Ordering::Greater => found(Class::Refcount, title),
            std::cmp::Ordering::Equal => {}
        }
        if after.lock_owner != 0 || !matches!(after.lock_depth, -1 | 0) {
            let owner = match after.lock_owner {
                0 => "nobody".to_owned(),
                pid => format!("pid {pid}"),
            };
            let depth = after.lock_depth;
            let title =
                format!("pci_rescan_remove_lock is not free: held by {owner}, depth {depth}");
            found(Class::Leak, title);
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
                class: report.class,
                title: report.title.clone(),
                frame: report.frame.clone(),
                standing,
                round,
                console: Some((report.span.start as u64, report.span.end as u64)),
                reason,
            });
        }
    }

    fn standing(
        &self,
        report: &Report,
        round: Option<u32>,
        cause: Option<&Finding>,
    ) -> (Standing, Option<String>) {
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
        self.scenario.unplug.is_some() || self.scenario.teardown == Teardown::PfRemove
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
        let mut stuck: Vec<(String, Option<u32>)> = Vec::new();
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
            let alive = records(later).next().is_some() || round.number < self.count();
            let what = format!("{} did not come back", words::list(&missing));
            let waits = round
                .lock_states()
                .values()
                .any(|(_, s)| matches!(s, LockState::Waits(o) if *o != 0));
            let what = if waiters.is_empty() {
                what
            } else {
                format!("{what}: {}", waiters.join("; "))
            };
            match &died_of {
                Some(title) => {
                    evidence.push(format!("round {}: {what} (after: {title})", round.number))
                }
                None if alive || waits || hung => stuck.push((what, Some(round.number))),
                None => evidence.push(format!("round {}: {what}", round.number)),
            }
        }
        if self.final_removal() == FinalRemoval::NotBack {
            let what = "the removal of the PF as the last step did not come back".to_owned();
            let went_on = self.phase_at(Phase::PowerOff).is_some();
            match &died_of {
                Some(title) => evidence.push(format!("{what} (after: {title})")),
                None if went_on || hung => stuck.push((what, None)),
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
        for (title, round) in stuck {
            findings.push(finding(Class::Deadlock, title, standing, round));
        }
    }
}
