// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! pci_rescan_remove_lock in a round: how long each task waited for it and held it, and whether what the kernel keeps
//! about it agreed with that.

use std::collections::BTreeMap;

use super::invariants::Round;
use crate::event::{Class, Observation};

/// What one task did with the lock in a round.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Use {
    /// The task's pid.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Acquisitions that were not nested.
    pub taken: u32,
    /// Acquisitions by a task that had it.
    pub nested: u32,
    /// Nanoseconds that it was held, all in all; without a last time that did not end.
    pub held: u64,
    /// Nanoseconds that were waited for it while another task had it, all in all.
    pub waited: u64,
    /// It held it or waited for it at the end of the round.
    pub open: Option<Open>,
}

/// What a task was at when the round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It asked for the lock and did not get it.
    Waits,
    /// It did not give it back.
    Holds,
}

/// Something that is wrong with the lock itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    /// What it counts as.
    pub class: Class,
    /// In words.
    pub title: String,
}

impl Round<'_> {
    /// What each task did with the lock, in the order in which they first asked for it.
    pub fn lock_uses(&self) -> Vec<Use> {
        #[derive(Default)]
        struct State {
            levels: u32,
            since: u64,
            asked: Option<(u64, bool)>,
        }
        let mut uses: Vec<Use> = Vec::new();
        let mut states: BTreeMap<u32, State> = BTreeMap::new();
        for record in self.records() {
            let known = matches!(
                record.what,
                Observation::LockWait { .. }
                    | Observation::LockTaken { .. }
                    | Observation::LockRelease
            );
            if !known {
                continue;
            }
            let state = states.entry(record.pid).or_default();
            if !uses.iter().any(|u| u.pid == record.pid) {
                uses.push(Use {
                    pid: record.pid,
                    comm: record.comm.clone(),
                    ..Use::default()
                });
            }
            let Some(uses) = uses.iter_mut().find(|u| u.pid == record.pid) else {
                continue;
            };
            match record.what {
                Observation::LockWait { owner } => {
                    state.asked = Some((record.guest_ns, owner != 0 && owner != record.pid));
                }
                Observation::LockTaken { nested } => {
                    if let Some((since, true)) = state.asked.take() {
                        uses.waited += record.guest_ns.saturating_sub(since);
                    }
                    if state.levels == 0 {
                        state.since = record.guest_ns;
                    }
                    state.levels = state.levels.saturating_add(1);
                    match nested {
                        true => uses.nested += 1,
                        false => uses.taken += 1,
                    }
                }
                // One that was taken before the round was armed does not count.
                Observation::LockRelease if state.levels > 0 => {
                    state.levels -= 1;
                    if state.levels == 0 {
                        uses.held += record.guest_ns.saturating_sub(state.since);
                    }
                }
                _ => {}
            }
        }
        for uses in &mut uses {
            let state = states.get(&uses.pid);
            uses.open = match state {
                Some(State { asked: Some(_), .. }) => Some(Open::Waits),
                Some(State { levels: 1.., .. }) => Some(Open::Holds),
                _ => None,
            };
        }
        uses
    }

    /// Moments at which the lock was not as the task that took or released it should find it; one of each kind, `who`
    /// names a task of the round.
    pub fn lock_oddities(&self, who: impl Fn(u32, &str) -> String) -> Vec<Oddity> {
        let mut found: Vec<(Oddity, u32)> = Vec::new();
        for record in self.records() {
            let Observation::LockOdd {
                releases,
                holder,
                owner_word,
                depth,
                expected,
            } = record.what
            else {
                continue;
            };
            let task = who(record.pid, &record.comm);
            let name = |pid: u32| match pid {
                0 => "nobody".to_owned(),
                Observation::DEAD => "a task that is no more".to_owned(),
                pid => format!("pid {pid}"),
            };
            let did = match releases {
                true => "releases it",
                false => "has taken it",
            };
            let mut odd =
                |class, title: String| match found.iter_mut().find(|(o, _)| o.title == title) {
                    Some((_, times)) => *times += 1,
                    None => found.push((Oddity { class, title }, 1)),
                };
            if holder != record.pid {
                odd(
                    Class::LockOrder,
                    format!(
                        "{task} {did}, but pci_rescan_remove_lock is held by {}",
                        name(holder)
                    ),
                );
            }
            if let Some(word) =
                owner_word.filter(|word| *word != record.pid && holder == record.pid)
            {
                odd(
                    Class::LockOrder,
                    format!(
                        "{task} {did}, but the owner word of pci_rescan_remove_lock names {}",
                        name(word)
                    ),
                );
            }
            if let (Some(depth), Some(expected)) = (depth, expected) {
                if depth != expected {
                    let class = match depth > expected && !below_zero(depth) {
                        true => Class::Leak,
                        false => Class::Refcount,
                    };
                    odd(
                        class,
                        format!(
                            "{task} {did}, and the nesting word of pci_rescan_remove_lock is {} instead of {expected}",
                            depth_word(depth)
                        ),
                    );
                }
            }
        }
        let told = |(odd, times): (Oddity, u32)| Oddity {
            title: match times {
                1 => odd.title,
                n => format!("{} ({n} times)", odd.title),
            },
            ..odd
        };
        found.into_iter().map(told).collect()
    }
}

/// Whether a nesting word, which has no sign, was decremented once too often.
pub(super) fn below_zero(depth: u64) -> bool {
    depth > u64::from(u32::MAX / 2)
}

/// A nesting word in words.
pub(super) fn depth_word(depth: u64) -> String {
    match below_zero(depth) {
        true => format!("{depth} (below zero)"),
        false => depth.to_string(),
    }
}
