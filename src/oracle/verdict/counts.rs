// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of what the guest measured: references, releases, lists, the lock.

use std::cmp::Ordering;

use super::check::finding;
use super::words;
use super::{Case, FinalRemoval};
use crate::arch::Arch;
use crate::event::{
    Class, Event, EventKind, Finding, FunctionId, Invariants, Observation, Phase, Standing,
    VfReferences,
};
use crate::oracle::invariants::{Round, measured};
use crate::oracle::locks::{below_zero, depth_word};

/// Too few is [`Class::Refcount`], too many is [`Class::Leak`]. One that is [saturated](is_saturated) was put or taken when
/// it was nobody's to.
fn off(is: i64, expected: i64) -> Option<Class> {
    match is.cmp(&expected) {
        Ordering::Greater if is_saturated(is) => Some(Class::Refcount),
        Ordering::Less => Some(Class::Refcount),
        Ordering::Greater => Some(Class::Leak),
        Ordering::Equal => None,
    }
}

/// Whether a `kref` says that nothing is counted any more: refcount_t puts itself there when it is taken at 0 or put below
/// (Linux include/linux/refcount.h, REFCOUNT_SATURATED, INT_MIN / 2), and stays there within some millions.
fn is_saturated(references: i64) -> bool {
    references > i64::from(i32::MAX)
}

/// A count in words.
fn count(references: i64) -> String {
    match is_saturated(references) {
        true => format!("{references} (saturated)"),
        false => references.to_string(),
    }
}

/// Every VF with its references.
fn each(rows: &[VfReferences]) -> impl Iterator<Item = (FunctionId, u32)> {
    rows.iter().flat_map(|row| {
        let index = |function: FunctionId| function.vf_index().unwrap_or_default();
        let numbers = index(row.first).saturating_add(1)..=index(row.last).saturating_add(1);
        numbers.map(|number| (FunctionId::Vf(number), row.references))
    })
}

/// What most of them have; of two that are as many, the lower.
fn usual(all: &[(FunctionId, u32)]) -> Option<u32> {
    let times = |references: u32| all.iter().filter(|(_, other)| *other == references).count();
    all.iter()
        .map(|(_, references)| *references)
        .max_by_key(|references| (times(*references), std::cmp::Reverse(*references)))
}

/// The pci_devs that are not released.
fn alive(values: &Invariants) -> i64 {
    let alive = values.vfs_created.saturating_sub(values.vfs_released);
    i64::try_from(alive).unwrap_or(i64::MAX)
}

/// The check for a PF that keeps exactly one reference for each VF that was removed past pci_iov_remove_virtfn(), which
/// alone puts it (drivers/pci/iov.c). The name is that of a known issue's `measured`.
const KEPT_BY_STRAYS: &str = "pf-kept-by-vfs-of-the-bus";

/// The references of PFs that are removed and not released, without those that were so before.
fn kept_pfs(before: Option<&Invariants>, after: &Invariants) -> Vec<u32> {
    let pfs = |values: &Invariants| -> Vec<u32> {
        let rows = values.unreleased.iter();
        rows.filter(|row| row.first == FunctionId::Pf)
            .map(|row| row.references)
            .collect()
    };
    let mut kept = pfs(after);
    for old in before.map(pfs).unwrap_or_default() {
        if let Some(at) = kept.iter().position(|references| *references == old) {
            kept.remove(at);
        }
    }
    kept
}

impl Case<'_> {
    /// Whether both sides of a round came back.
    fn back(&self, round: &Round<'_>) -> bool {
        round.teardown_status().is_some()
            && round
                .fired()
                .iter()
                .all(|(number, _)| round.unplugged(*number).is_some())
    }

    fn standing_of(&self, round: &Round<'_>, class: Class) -> Standing {
        match round.removes_twice() || self.scenario.wants.contains(&class) {
            true => Standing::Wanted,
            false => Standing::Other,
        }
    }

    /// The guest's architecture.
    fn arch(&self) -> Arch {
        let of = |event: &Event| match event.kind {
            EventKind::RunStarted { arch, .. } => Some(arch),
            _ => None,
        };
        self.events.iter().find_map(of).unwrap_or_default()
    }

    /// Counts that did not come back to where they were.
    pub(super) fn counts(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        self.armed_counts(round, findings);
        let (Some(before), Some(after)) = (round.before, round.after) else {
            return;
        };
        if !self.back(round) {
            return;
        }
        let mut found = |class, title| {
            let standing = self.standing_of(round, class);
            findings.push(finding(class, title, standing, Some(round.number)));
        };
        let created = after.vfs_created.saturating_sub(before.vfs_created);
        let released = after.vfs_released.saturating_sub(before.vfs_released);
        let (was, is) = (before.pf_references, after.pf_references);
        let expected_vfs = round.expected_vfs(self.scenario);
        let (fewest, most) = (*expected_vfs.start(), *expected_vfs.end());
        if round.pf_goes(self.scenario) == Some(false) {
            let expected = round.expected_references(self.scenario).unwrap_or(was);
            let title = format!(
                "PF reference count {was} -> {}, expected {expected}",
                count(is)
            );
            match off(is, expected) {
                _ if is < 0 => found(
                    Class::Refcount,
                    format!("the PF is gone, its reference count was {was}"),
                ),
                Some(class) => found(class, title),
                None => {}
            }
            // Each pci_dev has one of its bus's (pci_alloc_dev() in drivers/pci/probe.c). On s390x each function has a slot
            // as well, which has another (zpci_init_slot(), and pci_create_slot() in drivers/pci/slot.c).
            let each = match self.arch() {
                Arch::X86_64 => 1,
                Arch::S390x => 2,
            };
            let (was, is) = (before.bus_references, after.bus_references);
            let shared = after.vf_bus_references.is_none() && before.vf_bus_references.is_none();
            let expected = was
                + if shared {
                    (alive(after) - alive(before)) * each
                } else {
                    0
                };
            if let Some(class) = off(is, expected).filter(|_| was >= 0) {
                found(
                    class,
                    format!("reference count of the PF's bus {was} -> {is}, expected {expected}"),
                );
            }
        }
        if round.pf_goes(self.scenario) == Some(true) {
            for references in kept_pfs(Some(before), after) {
                findings.push(self.kept_pf(round, references));
            }
        }
        let mut found = |class, title| {
            let standing = self.standing_of(round, class);
            findings.push(finding(class, title, standing, Some(round.number)));
        };
        self.vf_bus(round, after, &mut found);
        let mut title = format!("{created} VFs created, {released} released");
        if most > 0 {
            let range = match fewest == most {
                true => most.to_string(),
                false => format!("{fewest} to {most}"),
            };
            title += &format!(", {range} should be left");
        }
        if released > created.saturating_sub(fewest) {
            found(Class::Refcount, title);
        } else if released < created.saturating_sub(most) {
            let mut left = after.unreleased.clone();
            left.retain(|row| row.first != FunctionId::Pf);
            if !left.is_empty() {
                title += &format!("; removed and not released: {}", words::references(&left));
            }
            found(Class::Leak, title);
        }
        self.vf_references(round, after, &mut found);
    }

    /// A PF that is removed and still has references.
    fn kept_pf(&self, round: &Round<'_>, references: u32) -> Finding {
        let title = format!("the PF is removed and not released, it has {references} references");
        let strays = round.removed_past_lookup();
        if usize::try_from(references) == Ok(strays) && !self.scenario.wants.contains(&Class::Leak)
        {
            let known = self.known;
            if let Some(known) = known.measured(KEPT_BY_STRAYS, self.kernel, self.release) {
                return Finding {
                    reason: Some(known.reason.clone()),
                    ..finding(Class::Leak, title, Standing::Known, Some(round.number))
                };
            }
        }
        let standing = self.standing_of(round, Class::Leak);
        finding(Class::Leak, title, standing, Some(round.number))
    }

    /// The bus of VFs that have one of their own comes with the first and goes with the last (virtfn_add_bus() and
    /// virtfn_remove_bus() in drivers/pci/iov.c).
    fn vf_bus(&self, round: &Round<'_>, after: &Invariants, found: &mut impl FnMut(Class, String)) {
        let Some(is) = after.vf_bus_references else {
            return;
        };
        if alive(after) == 0 {
            found(
                Class::Leak,
                format!("the VFs' bus is still there without VFs, with {is} references"),
            );
            return;
        }
        let Some(armed) = round.armed else { return };
        let Some(was) = armed.vf_bus_references else {
            return;
        };
        let expected = was + alive(after) - alive(armed);
        if let Some(class) = off(is, expected) {
            found(
                class,
                format!("reference count of the VFs' bus {was} -> {is}, expected {expected}"),
            );
        }
    }

    /// VFs that are there when the round has settled: one that was there when it was armed has as many references as it
    /// had then, one that was brought up in the round as many as its like.
    fn vf_references(
        &self,
        round: &Round<'_>,
        after: &Invariants,
        found: &mut impl FnMut(Class, String),
    ) {
        let rows = |values: &Invariants| -> Vec<(FunctionId, u32)> {
            each(values.vfs.as_deref().unwrap_or_default()).collect()
        };
        let armed = round.armed.map(rows).unwrap_or_default();
        let (new, old): (Vec<_>, Vec<_>) = rows(after)
            .into_iter()
            .partition(|(vf, _)| round.creations(*vf) > 0);
        for (vf, is) in old {
            let Some((_, was)) = armed.iter().find(|(other, _)| *other == vf) else {
                continue;
            };
            if let Some(class) = off(is.into(), (*was).into()) {
                found(
                    class,
                    format!("{vf} reference count {was} -> {is}, expected {was}"),
                );
            }
        }
        let Some(usual) = usual(&new) else { return };
        for (vf, is) in new {
            if let Some(class) = off(is.into(), usual.into()) {
                found(
                    class,
                    format!("{vf} has {is} references, the others that were brought up {usual}"),
                );
            }
        }
    }

    /// What bringing up the VFs added to the PF's references is the same in every round that is brought up alike, and
    /// all VFs have as many.
    fn armed_counts(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        let (Some(before), Some(armed)) = (round.before, round.armed) else {
            return;
        };
        let mut found = |class, title| {
            let standing = match self.scenario.wants.contains(&class) {
                true => Standing::Wanted,
                false => Standing::Other,
            };
            findings.push(finding(class, title, standing, Some(round.number)));
        };
        let alike = |other: &&Round<'_>| {
            other.fails_by_design(self.scenario) == round.fails_by_design(self.scenario)
        };
        let first = self.rounds.iter().find(alike);
        if let Some((b, a)) = first.and_then(|first| first.before.zip(first.armed)) {
            let expected = before.pf_references + a.pf_references - b.pf_references;
            if let Some(class) = off(armed.pf_references, expected) {
                found(
                    class,
                    format!(
                        "PF reference count {} when armed, expected {expected}",
                        count(armed.pf_references)
                    ),
                );
            }
        }
        let vfs: Vec<_> = each(armed.vfs.as_deref().unwrap_or_default()).collect();
        for (vf, is) in &vfs {
            let usual = usual(&vfs).unwrap_or(*is);
            if let Some(class) = off((*is).into(), usual.into()) {
                found(
                    class,
                    format!("{vf} has {is} references when armed, the others {usual}"),
                );
            }
        }
    }

    /// The lock at the moments at which it was taken and released, and when nobody should have it.
    pub(super) fn locks(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        for odd in round.lock_oddities(|pid, comm| words::task(round, pid, comm)) {
            let standing = self.standing_of(round, odd.class);
            findings.push(finding(odd.class, odd.title, standing, Some(round.number)));
        }
        if self.back(round) {
            if let Some(after) = round.after {
                let of = |class| self.standing_of(round, class);
                lock_is_free(after, Some(round.number), of, findings);
            }
        }
    }

    /// Lists that were not in order, when the round was armed or had settled.
    pub(super) fn lists(&self, round: &Round<'_>, findings: &mut Vec<Finding>) {
        let moments = [("when armed", round.armed), ("afterwards", round.after)];
        for (when, values) in moments {
            let Some(title) = values.and_then(|values| disorder(values, when)) else {
                continue;
            };
            let standing = self.standing_of(round, Class::ListCorruption);
            findings.push(finding(
                Class::ListCorruption,
                title,
                standing,
                Some(round.number),
            ));
        }
    }

    /// The measurement behind the removal of the PF as the last step.
    pub(super) fn last_measurement(&self) -> Option<&Invariants> {
        let at = self.phase_at(Phase::FinalRemove)?;
        measured(self.events.get(at..)?, "final").next()
    }

    /// What is left when the PF was removed for good: nothing. After a double removal the counts are wrong already.
    pub(super) fn last_counts(&self, findings: &mut Vec<Finding>) {
        if self.only.is_some() || self.final_removal() != FinalRemoval::Done {
            return;
        }
        let Some(last) = self.last_measurement() else {
            return;
        };
        let counted = |f: &Finding| {
            matches!(f.class, Class::Refcount | Class::Leak) && f.standing != Standing::Known
        };
        let wrong = findings.iter().any(counted);
        let twice = self.rounds.iter().any(Round::removes_twice);
        let of = |class| match twice || self.scenario.wants.contains(&class) {
            true => Standing::Wanted,
            false => Standing::Other,
        };
        let mut found = Vec::new();
        let mut tell = |class, title: String| found.push(finding(class, title, of(class), None));
        if last.pf_references != -1 {
            tell(
                Class::Leak,
                format!(
                    "the PF is still there after its removal as the last step, with {} references",
                    last.pf_references
                ),
            );
        }
        let before = self.rounds.last().and_then(|round| round.after);
        for references in kept_pfs(before, last) {
            tell(
                Class::Leak,
                format!(
                    "the PF is removed as the last step and not released, it has {references} references"
                ),
            );
        }
        let (created, released) = (last.vfs_created, last.vfs_released);
        // Said before, if a round did it.
        if !wrong && created != released {
            let class = match released > created {
                true => Class::Refcount,
                false => Class::Leak,
            };
            tell(
                class,
                format!("{created} VFs created and {released} released when the PF is gone"),
            );
        }
        // Said before, if a round left it so.
        if !findings.iter().any(|f| f.title.starts_with(NOT_FREE)) {
            lock_is_free(last, None, of, &mut found);
        }
        if let Some(title) = disorder(last, "behind the last step") {
            found.push(finding(
                Class::ListCorruption,
                title,
                of(Class::ListCorruption),
                None,
            ));
        }
        findings.extend(found);
    }
}

/// What is wrong with the lists, if something is.
fn disorder(values: &Invariants, when: &str) -> Option<String> {
    let lists = values.lists.as_ref().filter(|lists| lists.defects > 0)?;
    let more = match lists.defects {
        1 => String::new(),
        n => format!(" ({n} defects)"),
    };
    Some(format!("{when}: {}{more}", lists.defect))
}

/// How the title begins of a lock that somebody has, or seems to have, when nobody should.
const NOT_FREE: &str = "pci_rescan_remove_lock is not free";

/// Nobody should have the lock at a measurement, and the variant's words should say so.
fn lock_is_free(
    values: &Invariants,
    round: Option<u32>,
    standing: impl Fn(Class) -> Standing,
    findings: &mut Vec<Finding>,
) {
    let name = |pid: u32| match pid {
        0 => "nobody".to_owned(),
        Observation::DEAD => "a task that is no more".to_owned(),
        pid => format!("pid {pid}"),
    };
    let depth = u64::try_from(values.lock_depth).unwrap_or_default();
    let word = values.lock_owner_word.unwrap_or_default();
    if values.lock_owner == 0 && depth == 0 && word == 0 {
        return;
    }
    let class = match values.lock_owner == 0 && word == 0 && below_zero(depth) {
        true => Class::Refcount,
        false => Class::Leak,
    };
    let word = match word {
        0 => String::new(),
        pid => format!(", owner word {}", name(pid)),
    };
    let title = format!(
        "{NOT_FREE}: held by {}, depth {}{word}",
        name(values.lock_owner),
        match values.lock_depth {
            ..0 => values.lock_depth.to_string(),
            _ => depth_word(depth),
        }
    );
    findings.push(finding(class, title, standing(class), round));
}
