// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's own records say about a round: who removed which VF how often, whether every count came back,
//! whether both tasks did. Pure functions over events.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::event::{
    Event, EventKind, FunctionId, GuestRecord, Invariants, Observation, Phase, Target,
};

/// The removal of one PCI function, VF or not (drivers/pci/remove.c).
pub const REMOVE: &str = "pci_stop_and_remove_bus_device";
/// Its caller for a VF: behind its lookup of the VF (drivers/pci/iov.c).
pub const REMOVE_VF: &str = "pci_iov_remove_virtfn";

/// One round of a recording.
#[derive(Clone, Debug)]
pub struct Round<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// Its events: from `Armed` up to the next round or the end of the rounds.
    pub events: &'a [Event],
    /// Where in the recording they are.
    pub range: Range<usize>,
    /// The measurement before it was armed.
    pub before: Option<&'a Invariants>,
    /// The measurement when it had settled.
    pub after: Option<&'a Invariants>,
}

/// A run of a VF's removal body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The VF.
    pub vf: FunctionId,
    /// Task, CPU and name of who removed it.
    pub pid: u32,
    /// The CPU.
    pub cpu: u32,
    /// The task's name.
    pub comm: String,
    /// Guest time of the entry, nanoseconds.
    pub began: u64,
    /// Guest time of the return, if it returned.
    pub ended: Option<u64>,
    /// Callers, innermost first, without offsets.
    pub stack: Vec<String>,
}

/// A task and the last thing that it did with pci_rescan_remove_lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It asked for it and did not get it; the pid that held it then.
    Waits(u32),
    /// It has it.
    Holds,
}

/// A name without the offset behind `+`.
pub fn symbol(entry: &str) -> &str {
    entry.split(['+', ' ']).next().unwrap_or(entry)
}

/// The guest's records among events.
pub fn records(events: &[Event]) -> impl DoubleEndedIterator<Item = &GuestRecord> {
    events.iter().filter_map(|e| match &e.kind {
        EventKind::Guest(record) => Some(record),
        _ => None,
    })
}

fn measured<'a>(
    events: &'a [Event],
    wanted: &'static str,
) -> impl DoubleEndedIterator<Item = &'a Invariants> {
    records(events).filter_map(move |r| match &r.what {
        Observation::Measured { label, values } if label == wanted => Some(values),
        _ => None,
    })
}

/// The rounds of a recording, in order.
pub fn rounds(events: &[Event]) -> Vec<Round<'_>> {
    let mut starts = Vec::new();
    let mut end = events.len();
    for (at, event) in events.iter().enumerate() {
        match event.kind {
            EventKind::Phase {
                phase: Phase::Armed,
                round,
                ..
            } => starts.push((at, round)),
            EventKind::Phase {
                phase: Phase::FinalRemove | Phase::PowerOff,
                ..
            } => {
                end = end.min(at);
            }
            _ => {}
        }
    }
    starts.retain(|(at, _)| *at < end);
    let ends = starts.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let mut from = 0;
    let mut rounds = Vec::new();
    for ((at, number), end) in starts.iter().copied().zip(ends) {
        let mine = events.get(at..end).unwrap_or_default();
        rounds.push(Round {
            number,
            events: mine,
            range: at..end,
            before: measured(events.get(from..at).unwrap_or_default(), "before").next_back(),
            after: measured(mine, "after").next(),
        });
        from = at;
    }
    rounds
}

impl<'a> Round<'a> {
    /// The guest's records of this round.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &'a GuestRecord> + use<'a> {
        records(self.events)
    }

    /// The task that tears down.
    pub fn teardown(&self) -> Option<&'a GuestRecord> {
        self.records()
            .find(|r| matches!(&r.what, Observation::Task { role } if role == "teardown"))
    }

    /// The runs of removal bodies of VFs, in order of their beginning: entries of [`REMOVE`] called by [`REMOVE_VF`].
    pub fn removals(&self) -> Vec<Removal> {
        let mut removals: Vec<Removal> = Vec::new();
        for record in self.records() {
            match &record.what {
                Observation::Enter {
                    call,
                    function: Some(vf @ FunctionId::Vf(_)),
                    stack,
                } if symbol(call) == REMOVE
                    && stack
                        .first()
                        .is_some_and(|caller| symbol(caller) == REMOVE_VF) =>
                {
                    removals.push(Removal {
                        vf: *vf,
                        pid: record.pid,
                        cpu: record.cpu,
                        comm: record.comm.clone(),
                        began: record.guest_ns,
                        ended: None,
                        stack: stack.iter().map(|s| symbol(s).to_owned()).collect(),
                    });
                }
                Observation::Return { call, function } if symbol(call) == REMOVE => {
                    let mine = |r: &&mut Removal| {
                        r.ended.is_none()
                            && r.pid == record.pid
                            && function.is_none_or(|f| f == r.vf)
                    };
                    if let Some(removal) = removals.iter_mut().rev().find(mine) {
                        removal.ended = Some(record.guest_ns);
                    }
                }
                _ => {}
            }
        }
        removals.sort_by_key(|r| r.began);
        removals
    }

    /// The exit status of the teardown's command, if it came back: the first `Done` of the phase Teardown.
    pub fn teardown_status(&self) -> Option<i32> {
        let mut phase = Phase::Armed;
        self.events.iter().find_map(|event| match &event.kind {
            EventKind::Phase { phase: now, .. } => {
                phase = *now;
                None
            }
            EventKind::Guest(GuestRecord {
                what: Observation::Done { status, .. },
                ..
            }) if phase == Phase::Teardown => Some(*status),
            _ => None,
        })
    }

    /// Numbers and targets of the unplugs that were fired.
    pub fn fired(&self) -> Vec<(u32, Target)> {
        let fired = self.events.iter().filter_map(|e| match e.kind {
            EventKind::UnplugFired { number, target, .. } => Some((number, target)),
            _ => None,
        });
        fired.collect()
    }

    /// The record of the handler's return from an unplug.
    pub fn unplugged(&self, number: u32) -> Option<&'a GuestRecord> {
        self.records()
            .find(|r| matches!(r.what, Observation::UnplugDone { event, .. } if event == number))
    }

    /// The record of the handler's noticing an unplug.
    pub fn seen(&self, number: u32) -> Option<&'a GuestRecord> {
        self.records()
            .find(|r| matches!(r.what, Observation::UnplugSeen { event, .. } if event == number))
    }

    /// Who holds pci_rescan_remove_lock and who waits for it at the end of the round, by pid, with the task's name. A
    /// nested acquisition counts as one level more.
    pub fn lock_states(&self) -> BTreeMap<u32, (String, LockState)> {
        let mut depth: BTreeMap<u32, u32> = BTreeMap::new();
        let mut states = BTreeMap::new();
        for record in self.records() {
            let levels = depth.entry(record.pid).or_default();
            let state = match record.what {
                // The lock's owner asks again: whether it waits for itself shows in what follows, or does not.
                Observation::LockWait { owner } => Some(LockState::Waits(owner)),
                Observation::LockTaken { .. } => {
                    *levels += 1;
                    Some(LockState::Holds)
                }
                Observation::LockRelease => {
                    *levels = levels.saturating_sub(1);
                    (*levels > 0).then_some(LockState::Holds)
                }
                _ => continue,
            };
            match state {
                Some(state) => states.insert(record.pid, (record.comm.clone(), state)),
                None => states.remove(&record.pid),
            };
        }
        states
    }

    /// What is missing for a verdict that this round was clean.
    pub fn missing(&self, vfs: u16) -> Vec<String> {
        let mut missing = Vec::new();
        let mut need = |there: bool, what: &str| {
            if !there {
                missing.push(what.to_owned());
            }
        };
        need(self.before.is_some(), "no measurement before it");
        need(self.after.is_some(), "no measurement after it");
        need(
            self.teardown().is_some(),
            "the teardown's task did not say that it is one",
        );
        need(
            self.teardown_status().is_some(),
            "the teardown's command did not end",
        );
        need(
            self.teardown_status().is_none_or(|s| s == 0),
            "the teardown's command failed",
        );
        if let (Some(before), Some(after)) = (self.before, self.after) {
            need(
                after.dropped == before.dropped,
                "the guest dropped observations",
            );
            let created = after.vfs_created.saturating_sub(before.vfs_created);
            if created != u64::from(vfs) {
                missing.push(format!("{created} VFs were created instead of {vfs}"));
            }
        }
        for record in self.records() {
            if let Observation::Failed { text } = &record.what {
                missing.push(format!("the guest's module failed: {text}"));
            }
        }
        let removals = self.removals();
        for vf in (1..=vfs).map(FunctionId::Vf) {
            if !removals.iter().any(|r| r.vf == vf) {
                missing.push(format!("the removal of {vf} was not observed"));
            }
        }
        for removal in removals.iter().filter(|r| r.ended.is_none()) {
            missing.push(format!("the removal of {} was not seen to end", removal.vf));
        }
        missing
    }
}

/// Gaps in the numbers of the guest's records: the place in the recording of the first record behind each, and how many
/// are missing.
pub fn gaps(events: &[Event]) -> Vec<(usize, u64)> {
    let mut last: Option<u64> = None;
    let mut gaps = Vec::new();
    for (at, event) in events.iter().enumerate() {
        if let EventKind::Guest(record) = &event.kind {
            let expected = last.map_or(0, |n| n.saturating_add(1));
            if record.number != expected {
                gaps.push((at, record.number.saturating_sub(expected).max(1)));
            }
            last = Some(record.number);
        }
    }
    gaps
}

/// Whether round `number` of a recording, which may still be under way, shows a VF that was removed more than once.
pub fn shows_double_removal(events: &[Event], number: u32) -> bool {
    rounds(events)
        .iter()
        .filter(|round| round.number == number)
        .any(|round| {
            let mut seen = BTreeSet::new();
            round
                .removals()
                .into_iter()
                .any(|removal| !seen.insert(removal.vf))
        })
}
