// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's own records say about a round: whether every count came back, whether both tasks did, what is not
//! known. Pure functions over events.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use super::rules::Rules;
use crate::event::{
    Event, EventKind, FunctionId, GuestRecord, Invariants, Observation, Phase, Target,
};
use crate::scenario::{Actuator, Scenario, Teardown};

/// One round of a recording.
#[derive(Clone, Debug)]
pub struct Round<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// Its events: from `Armed` up to the next round or the end of the rounds.
    pub events: &'a [Event],
    /// Where in the recording they are.
    pub range: Range<usize>,
    /// The measurement before VFs were brought up.
    pub before: Option<&'a Invariants>,
    /// The measurement just before it was armed; none in recordings of protocol 2.
    pub armed: Option<&'a Invariants>,
    /// The measurement when it had settled.
    pub after: Option<&'a Invariants>,
    /// What the guest was told and able to observe.
    pub probes: Probes,
}

/// What the guest's module observes in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// The module's protocol, 0 if it did not say so.
    pub protocol: u32,
    /// It wrapped as few functions as possible ([`FEW_PROBES`]): no bodies of removals beyond the lookup.
    pub few: bool,
}

impl Probes {
    fn of(events: &[Event]) -> Self {
        let protocol = records(events).find_map(|r| match r.what {
            Observation::Hello { version, .. } => Some(version),
            _ => None,
        });
        let few = |e: &Event| matches!(&e.kind, EventKind::RunStarted { options, .. } if options.iter().any(|o| o == FEW_PROBES));
        Probes {
            protocol: protocol.unwrap_or_default(),
            few: events.iter().any(few),
        }
    }

    /// Whether it reports removal bodies, lists and the references of VFs.
    pub fn has_bodies(self) -> bool {
        self.protocol >= BODIES
    }
}

/// The option of a run in which the module wraps as few functions as possible.
pub const FEW_PROBES: &str = "few-probes";
/// The first protocol with removal bodies, lists and the references of VFs.
const BODIES: u32 = 3;

/// A task and the last thing that it did with pci_rescan_remove_lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It asked for it and did not get it; the pid that held it then.
    Waits(u32),
    /// It has it.
    Holds,
}

/// A name without the offset behind `+` and without the compiler's suffix for a part of a function.
pub fn symbol(entry: &str) -> &str {
    entry.split(['+', ' ', '.']).next().unwrap_or(entry)
}

/// The functions of a stack that the guest reported, without the names of modules (`[vfrace]`) and without the functions
/// that the module puts around call points.
pub fn frames(stack: &[String]) -> Vec<String> {
    let names = stack.iter().map(|entry| symbol(entry));
    names
        .filter(|name| {
            !name.is_empty() && !name.starts_with('[') && !Rules::built_in().is_wrapper(name)
        })
        .map(str::to_owned)
        .collect()
}

/// The guest's records among events.
pub fn records(events: &[Event]) -> impl DoubleEndedIterator<Item = &GuestRecord> {
    events.iter().filter_map(|e| match &e.kind {
        EventKind::Guest(record) => Some(record),
        _ => None,
    })
}

/// The measurements with a label.
pub(super) fn measured<'a>(
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
    let probes = Probes::of(events);
    for ((at, number), end) in starts.iter().copied().zip(ends) {
        let mine = events.get(at..end).unwrap_or_default();
        rounds.push(Round {
            number,
            events: mine,
            range: at..end,
            before: measured(events.get(from..at).unwrap_or_default(), "before").next_back(),
            armed: measured(events.get(from..at).unwrap_or_default(), "armed").next_back(),
            after: measured(mine, "after").next(),
            probes,
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

    /// The end of the teardown's command, if it came back: the first `Done` of the phase Teardown. With its exit status.
    pub fn teardown_done(&self) -> Option<(&'a GuestRecord, i32)> {
        let mut phase = Phase::Armed;
        self.events.iter().find_map(|event| match &event.kind {
            EventKind::Phase { phase: now, .. } => {
                phase = *now;
                None
            }
            EventKind::Guest(record) if phase == Phase::Teardown => match record.what {
                Observation::Done { status, .. } => Some((record, status)),
                _ => None,
            },
            _ => None,
        })
    }

    /// The exit status of the teardown's command, if it came back.
    pub fn teardown_status(&self) -> Option<i32> {
        self.teardown_done().map(|(_, status)| status)
    }

    /// Whether the task handled one of the round's unplugs.
    pub fn is_handler(&self, pid: u32) -> bool {
        let handles = |n: &u32| self.seen(*n).is_some_and(|r| r.pid == pid);
        self.fired().iter().any(|(n, _)| handles(n))
    }

    /// Whether the task is one of the two and did not come back.
    pub fn not_back(&self, pid: u32) -> bool {
        let tears = self.teardown().is_some_and(|t| t.pid == pid);
        let handles =
            |n: &u32| self.seen(*n).is_some_and(|r| r.pid == pid) && self.unplugged(*n).is_none();
        (tears && self.teardown_status().is_none()) || self.fired().iter().any(|(n, _)| handles(n))
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

    /// A step of the schedule has a function fail: commands may then fail as well.
    pub fn fails_by_design(&self, scenario: &Scenario) -> bool {
        self.plan(scenario).iter().any(|step| step.returns)
    }

    /// Whether the PF should be gone when the round has settled: by the teardown, or by an unplug that was fired. `None`
    /// if that was refused, which can have more than one reason.
    pub fn pf_goes(&self, scenario: &Scenario) -> Option<bool> {
        if scenario.teardown.removes_pf() {
            return Some(true);
        }
        let fired = self.fired();
        if fired.is_empty() || !scenario.unplug.is_some_and(|unplug| unplug.removes_pf()) {
            return Some(false);
        }
        let refused = |number: &u32| {
            let done = self.unplugged(*number).map(|r| &r.what);
            matches!(done, Some(Observation::UnplugDone { status, .. }) if *status != 0)
        };
        match fired.iter().any(|(number, _)| refused(number)) {
            true => None,
            false => Some(true),
        }
    }

    /// How many VFs there should be when the round has settled.
    pub fn expected_vfs(&self, scenario: &Scenario) -> RangeInclusive<u64> {
        let all = u64::from(scenario.vfs);
        if !scenario.teardown.ends_with_vfs() {
            return 0..=0;
        }
        match self.pf_goes(scenario) {
            Some(true) => return 0..=0,
            None => return 0..=all,
            Some(false) => {}
        }
        // Whichever side comes last decides.
        let switched_off = scenario
            .unplug
            .is_some_and(|u| matches!(u.actuator, Actuator::SysfsNumvfs | Actuator::SysfsUnbind));
        if switched_off {
            return 0..=all;
        }
        if self.fails_by_design(scenario) {
            return match scenario.teardown.begins_with_vfs() {
                true => 0..=all,
                false => 0..=0,
            };
        }
        let mut unplugged: Vec<FunctionId> = self
            .removals()
            .iter()
            .filter(|r| self.is_handler(r.pid) && r.incarnation == self.creations(r.vf))
            .map(|r| r.vf)
            .collect();
        unplugged.sort_unstable();
        unplugged.dedup();
        let left = all.saturating_sub(unplugged.len() as u64);
        left..=left
    }

    /// The reference count that the PF should have when the round has settled: that of before, and one for each VF that
    /// is rightly there (pci_iov_scan_device() in drivers/pci/iov.c). `None` without both measurements.
    pub fn expected_references(&self, scenario: &Scenario) -> Option<i64> {
        let (before, after) = (self.before?, self.after?);
        let created = after.vfs_created.saturating_sub(before.vfs_created);
        let released = after.vfs_released.saturating_sub(before.vfs_released);
        let alive = self.expected_vfs(scenario);
        let rightly = created
            .saturating_sub(released)
            .clamp(*alive.start(), *alive.end());
        Some(before.pf_references.saturating_add_unsigned(rightly))
    }

    /// How many VFs are created in a round, where that is certain.
    fn expected_creations(&self, scenario: &Scenario) -> Option<u64> {
        let vfs = u64::from(scenario.vfs);
        let stays = self.pf_goes(scenario) == Some(false);
        let certain = scenario.teardown.begins_with_vfs() || stays;
        if !certain || self.fails_by_design(scenario) {
            return None;
        }
        match scenario.teardown {
            // Its second half does not come about when the PF goes.
            Teardown::NumvfsCycle if !stays => None,
            Teardown::NumvfsCycle => Some(vfs * 2),
            _ => Some(vfs),
        }
    }

    /// What is missing for a verdict that this round was clean.
    pub fn missing(&self, scenario: &Scenario) -> Vec<String> {
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
        let by_design = self.fails_by_design(scenario);
        need(
            by_design || self.teardown_status().is_none_or(|s| s == 0),
            "the teardown's command failed",
        );
        if let (Some(before), Some(after)) = (self.before, self.after) {
            need(
                after.dropped == before.dropped,
                "the guest dropped observations",
            );
            let created = after.vfs_created.saturating_sub(before.vfs_created);
            match self.expected_creations(scenario) {
                Some(vfs) if created != vfs => {
                    missing.push(format!("{created} VFs were created instead of {vfs}"));
                }
                _ => {}
            }
            if self.pf_goes(scenario) == Some(true) && after.pf_references != -1 {
                missing.push("the PF was still there after its removal".to_owned());
            }
        }
        for record in self.records() {
            if let Observation::Failed { text } = &record.what {
                missing.push(format!("the guest's module failed: {text}"));
            }
        }
        if !self.probes.has_bodies() {
            missing.push(format!(
                "the guest's module spoke protocol {}: it reported neither the bodies of removals nor lists nor the \
                 references of VFs",
                self.probes.protocol
            ));
        } else {
            let walked = |m: &Invariants| m.lists.as_ref().is_some_and(|lists| lists.walked > 0);
            let measurements = [("before", self.before), ("after", self.after)];
            for (when, measured) in measurements {
                if measured.is_some_and(|m| !walked(m)) {
                    missing.push(format!("no list was walked {when} it"));
                }
            }
            if self.armed.is_none() {
                missing.push("no measurement when it was armed".to_owned());
            }
            if !self.probes.few && !by_design {
                missing.extend(self.unseen_bodies());
            }
        }
        let removals = self.removals();
        let takes_all_away = scenario.teardown.begins_with_vfs()
            && (scenario.teardown != Teardown::Reset || self.pf_goes(scenario) == Some(true));
        let all = (1..=scenario.vfs).map(FunctionId::Vf);
        // With few probes, a removal that does not come through the lookup shows in the counts only.
        for vf in all.filter(|_| takes_all_away && !self.probes.few) {
            // Those that it brings up again are another matter.
            if !removals.iter().any(|r| r.vf == vf && r.incarnation == 0) {
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
        .any(|round| round.removes_twice())
}
