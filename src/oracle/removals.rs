// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who removed which VF: the runs of removal bodies in a round, and those that should have been one.

use std::collections::{BTreeMap, BTreeSet};

use super::invariants::{Round, frames, symbol};
use crate::event::{FunctionId, GuestRecord, Observation};

/// The removal of one PCI function, VF or not (drivers/pci/remove.c).
pub const REMOVE: &str = "pci_stop_and_remove_bus_device";
/// Its caller for a VF: behind its lookup of the VF (drivers/pci/iov.c).
pub const REMOVE_VF: &str = "pci_iov_remove_virtfn";
/// The creation of a VF (drivers/pci/iov.c).
pub const ADD_VF: &str = "pci_iov_add_virtfn";
/// What makes a function that was found available to drivers and to user space (drivers/pci/bus.c).
pub const ADD: &str = "pci_bus_add_device";
/// The end of every removal, also of those that do not come through [`REMOVE`]: of what is below a removed bridge
/// (pci_destroy_dev() in drivers/pci/remove.c).
pub const DELETE: &str = "device_del";

/// A run of a VF's removal body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The VF.
    pub vf: FunctionId,
    /// How often the VF had been created in the round when this began.
    pub incarnation: u32,
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
    /// It is a [`REMOVE`]; otherwise a [`DELETE`] on its own.
    pub whole: bool,
    /// How often [`DELETE`] ran in it.
    pub deleted: u32,
    /// Callers, innermost first, without offsets and without our own wrappers.
    pub stack: Vec<String>,
    /// Entries without a return. A function that is wrapped is entered twice, by its caller and by the wrapper.
    open: u32,
}

impl Removal {
    /// It came through the lookup in [`REMOVE_VF`], which both sides of the reported race do.
    pub fn by_lookup(&self) -> bool {
        self.whole && self.stack.first().is_some_and(|caller| caller == REMOVE_VF)
    }
}

impl Round<'_> {
    /// The runs of removal bodies of VFs, in order of their beginning, whoever removed them and how.
    pub fn removals(&self) -> Vec<Removal> {
        let mut removals: Vec<Removal> = Vec::new();
        let mut created: BTreeMap<FunctionId, u32> = BTreeMap::new();
        for record in self.records() {
            match &record.what {
                Observation::Enter {
                    call,
                    function: Some(vf @ FunctionId::Vf(_)),
                    stack,
                    ..
                } => {
                    let call = symbol(call);
                    if call == ADD_VF {
                        let times = created.entry(*vf).or_default();
                        *times = times.saturating_add(1);
                        continue;
                    }
                    if call != REMOVE && call != DELETE {
                        continue;
                    }
                    let whole = call == REMOVE;
                    let around = removals.iter_mut().rev().find(|r| {
                        (r.whole || !whole)
                            && r.vf == *vf
                            && r.pid == record.pid
                            && r.ended.is_none()
                    });
                    if let Some(around) = around {
                        around.open = around.open.saturating_add(u32::from(around.whole == whole));
                        around.deleted = around.deleted.saturating_add(u32::from(!whole));
                        continue;
                    }
                    removals.push(Removal {
                        vf: *vf,
                        incarnation: created.get(vf).copied().unwrap_or_default(),
                        pid: record.pid,
                        cpu: record.cpu,
                        comm: record.comm.clone(),
                        began: record.guest_ns,
                        ended: None,
                        whole,
                        deleted: u32::from(!whole),
                        stack: frames(stack),
                        open: 1,
                    });
                }
                Observation::Return { call, function } => {
                    let whole = match symbol(call) {
                        REMOVE => true,
                        DELETE => false,
                        _ => continue,
                    };
                    let mine = |r: &&mut Removal| {
                        r.ended.is_none()
                            && r.whole == whole
                            && r.pid == record.pid
                            && function.is_none_or(|f| f == r.vf)
                    };
                    if let Some(removal) = removals.iter_mut().rev().find(mine) {
                        removal.open = removal.open.saturating_sub(1);
                        removal.ended = (removal.open == 0).then_some(record.guest_ns);
                    }
                }
                _ => {}
            }
        }
        removals.sort_by_key(|r| r.began);
        removals
    }

    /// VFs that were made available to drivers more than once between two creations, with how often and the tasks that
    /// did it in this round: the counterpart of a double removal. Nothing in the kernel prints it. A VF that was there
    /// when the round began had been added once before.
    pub fn double_additions(&self) -> Vec<(FunctionId, usize, Vec<&GuestRecord>)> {
        let mut created: BTreeMap<FunctionId, u32> = BTreeMap::new();
        let mut added: BTreeMap<(FunctionId, u32), Vec<&GuestRecord>> = BTreeMap::new();
        for record in self.records() {
            let Observation::Enter {
                call,
                function: Some(vf @ FunctionId::Vf(_)),
                ..
            } = &record.what
            else {
                continue;
            };
            let times = created.entry(*vf).or_default();
            match symbol(call) {
                ADD_VF => *times = times.saturating_add(1),
                ADD => added.entry((*vf, *times)).or_default().push(record),
                _ => {}
            }
        }
        added
            .into_iter()
            .map(|((vf, life), by)| (vf, by.len() + usize::from(life == 0), by))
            .filter(|(_, times, _)| *times > 1)
            .collect()
    }

    /// How often a VF was created in the round.
    pub fn creations(&self, vf: FunctionId) -> u32 {
        let created = self.records().filter(|r| {
            matches!(&r.what, Observation::Enter { call, function, .. }
                if *function == Some(vf) && symbol(call) == ADD_VF)
        });
        u32::try_from(created.count()).unwrap_or(u32::MAX)
    }

    /// Whether two runs were under way at the same time. One without an end is over, unless its task did not come back.
    fn together(&self, a: &Removal, b: &Removal) -> bool {
        let end = |r: &Removal| match r.ended {
            Some(end) => end,
            None if self.not_back(r.pid) => u64::MAX,
            None => r.began,
        };
        a.began.max(b.began) < end(a).min(end(b))
    }

    /// VFs that were removed more than once between two creations, with the runs that should have been one: two that
    /// came through the lookup, two that deleted the device, or two of different tasks at the same time. A second
    /// removal of the device that finds everything done and comes later by another way is none.
    pub fn doubles(&self) -> Vec<(FunctionId, Vec<Removal>)> {
        let mut lives: BTreeMap<(FunctionId, u32), Vec<Removal>> = BTreeMap::new();
        for removal in self.removals() {
            let life = (removal.vf, removal.incarnation);
            lives.entry(life).or_default().push(removal);
        }
        let mut doubles = Vec::new();
        for ((vf, _), runs) in lives {
            let lookups = runs.iter().filter(|r| r.by_lookup()).count();
            let deletions: u32 = runs
                .iter()
                .fold(0, |sum, r| sum.saturating_add(r.deleted.min(1)));
            let guilty = |run: &&Removal| {
                (lookups > 1 && run.by_lookup())
                    || (deletions > 1 && run.deleted > 0)
                    || runs
                        .iter()
                        .any(|other| other.pid != run.pid && self.together(run, other))
            };
            let guilty: Vec<Removal> = runs.iter().filter(guilty).cloned().collect();
            if guilty.len() > 1 {
                doubles.push((vf, guilty));
            }
        }
        doubles
    }

    /// How many VFs were removed as devices of their bus and not through [`REMOVE_VF`]. That function alone puts the
    /// reference of the PF that each VF has: these leave theirs behind.
    pub fn removed_past_lookup(&self) -> usize {
        let mut lives: BTreeMap<(FunctionId, u32), bool> = BTreeMap::new();
        for run in self.removals() {
            *lives.entry((run.vf, run.incarnation)).or_default() |= run.by_lookup();
        }
        lives.values().filter(|by_lookup| !**by_lookup).count()
    }

    /// Whether a VF was removed more than once, however that shows.
    pub fn removes_twice(&self) -> bool {
        !self.doubles().is_empty() || !self.double_bodies().is_empty()
    }

    /// For each VF that was removed, and not twice, the run that did it; one for each of its lives.
    pub fn singles(&self) -> Vec<Removal> {
        let doubles: BTreeSet<(FunctionId, u32)> = self
            .doubles()
            .iter()
            .flat_map(|(_, runs)| runs.iter().map(|r| (r.vf, r.incarnation)))
            .collect();
        let mut chosen: BTreeMap<(FunctionId, u32), Removal> = BTreeMap::new();
        for run in self.removals() {
            let life = (run.vf, run.incarnation);
            if doubles.contains(&life) {
                continue;
            }
            match chosen.get(&life) {
                Some(before) if before.deleted > 0 || run.deleted == 0 => {}
                _ => {
                    chosen.insert(life, run);
                }
            }
        }
        let mut singles: Vec<Removal> = chosen.into_values().collect();
        singles.sort_by_key(|r| r.began);
        singles
    }
}
