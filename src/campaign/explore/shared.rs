// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The schedules of a search over several kernels.

use std::collections::HashSet;

use super::plan::{Plan, Side};
use super::{Settings, Trace};
use crate::event::Role;
use crate::scenario::Schedule;

/// What a search would try on several kernels, each schedule once. They take turns, so that what only one of them goes
/// through is tried as early as it would be there.
pub struct Schedules {
    plans: Vec<Plan>,
    turn: usize,
    given: HashSet<Schedule>,
}

impl Schedules {
    /// From the traces of each kernel, one with each side first. A kernel with fewer gives none.
    pub fn of(traces: &[Vec<Trace>], settings: &Settings) -> Self {
        let plan = |traces: &Vec<Trace>| {
            let [teardown_first, unplug_first] = traces.as_slice() else {
                return None;
            };
            let side =
                |role, own: &Trace, other: &Trace| Side::new(role, own.of(role), other.of(role));
            let sides = [
                side(Role::Teardown, teardown_first, unplug_first),
                side(Role::Unplug, unplug_first, teardown_first),
            ];
            Some(Plan::new(&sides, settings, teardown_first.teardown_time))
        };
        Self {
            plans: traces.iter().filter_map(plan).collect(),
            turn: 0,
            given: HashSet::new(),
        }
    }
}

impl Iterator for Schedules {
    type Item = Schedule;

    fn next(&mut self) -> Option<Schedule> {
        loop {
            let plans = self.plans.len();
            let at = self.turn.checked_rem(plans)?;
            match self.plans.get_mut(at)?.next() {
                Some((_, schedule)) => {
                    self.turn += 1;
                    if self.given.insert(schedule.clone()) {
                        return Some(schedule);
                    }
                }
                // It has no more; the next one is in its place.
                None => drop(self.plans.remove(at)),
            }
        }
    }
}
