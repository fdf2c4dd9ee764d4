// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random schedules by priorities: PCT (Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with
//! Probabilistic Guarantees of Finding Bugs, ASPLOS 2010).
//!
//! Of n tasks that together take k steps, the one with the highest priority runs. Priorities are random at first; at
//! d - 1 random steps the running task's one drops below all others. A bug that needs d ordering constraints is then
//! found by one such schedule with a probability of at least 1/(n k^(d-1)). Here n is 2, a step is a point of a trace,
//! and a drop is a hold: `A fire until other-at(B)`, `B until other-at(C)`, ..., the last one `until other-rests`.
//!
//! The floor is the algorithm's. It holds for the kernel as far as each side goes through the points of its trace when
//! the other one has been in between, and as far as a bug needs no switch between two points.

use serde::Serialize;

use super::plan::bound;
use crate::event::Role;
use crate::scenario::{At, Hold, Point, Schedule, Step, Until};

/// Tasks.
const TASKS: u32 = 2;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014): a counter with an odd
/// stride, mixed. Fixed here so that a seed means the same schedules for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0, by the high half of a product; its bias is below n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        let product = u128::from(self.next()) * n as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

/// What the random schedules guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// Tasks, n.
    pub tasks: u32,
    /// Steps of both together, k.
    pub steps: usize,
    /// Depth, d.
    pub depth: u32,
    /// 1/(n k^(d-1)): how likely one schedule finds a bug of this depth, at least.
    pub floor: f64,
    /// Random schedules that were run. Those that equal one that was run before are not among them.
    pub schedules: u32,
}

impl Floor {
    /// How likely one of the random schedules that were run finds such a bug, at least.
    pub fn reached(&self) -> f64 {
        // 1 - (1 - f)^m without losing small f.
        -(f64::from(self.schedules) * (-self.floor).ln_1p()).exp_m1()
    }
}

/// Makes random schedules out of the traces of both sides.
pub(super) struct Pct {
    teardown: Vec<Point>,
    unplug: Vec<Point>,
    depth: u32,
    random: Random,
}

impl Pct {
    pub(super) fn new(teardown: Vec<Point>, unplug: Vec<Point>, depth: u32, seed: u64) -> Self {
        Self {
            teardown,
            unplug,
            depth,
            random: Random(seed),
        }
    }

    fn steps(&self) -> usize {
        self.teardown.len() + self.unplug.len()
    }

    pub(super) fn floor(&self) -> Floor {
        let k = self.steps().max(1) as f64;
        let changes = i32::try_from(self.depth.saturating_sub(1)).unwrap_or(i32::MAX);
        Floor {
            tasks: TASKS,
            steps: self.steps(),
            depth: self.depth,
            floor: 1.0 / (f64::from(TASKS) * k.powi(changes)),
            schedules: 0,
        }
    }

    /// Draws one. `None` if no side is stopped in it before the other has ended: that is one of the traces.
    pub(super) fn schedule(&mut self) -> Option<Schedule> {
        let first = if self.random.below(2) == 0 {
            Role::Teardown
        } else {
            Role::Unplug
        };
        let changes = self.changes();
        let stops = self.stops(first, &changes);
        if stops.is_empty() {
            return None;
        }
        let steps = stops.iter().enumerate().map(|(at, point)| Step {
            at: At::Point(point.clone()),
            fire: at == 0,
            hold: Some(Hold {
                until: match stops.get(at + 1) {
                    Some(next) => Until::OtherAt(next.clone()),
                    None => Until::OtherRests,
                },
                at_most: bound(point),
            }),
            returns: None,
        });
        Some(Schedule {
            first,
            steps: steps.collect(),
        })
    }

    /// The steps at which the running task's priority drops, in order, from 0.
    fn changes(&mut self) -> Vec<usize> {
        let steps = self.steps();
        let wanted = (self.depth.saturating_sub(1) as usize).min(steps);
        let mut changes = Vec::with_capacity(wanted);
        while changes.len() < wanted {
            let change = self.random.below(steps);
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        changes.sort_unstable();
        changes
    }

    /// Where the sides are stopped, alternately, the first side first.
    fn stops(&self, first: Role, changes: &[usize]) -> Vec<Point> {
        let of = |role| match role {
            Role::Teardown => &self.teardown,
            Role::Unplug => &self.unplug,
        };
        let (mut running, mut waiting) = ((first, 0), (first.other(), 0));
        let (mut step, mut stops) = (0, Vec::new());
        for &change in changes {
            running.1 += change - step;
            step = change;
            let Some(point) = of(running.0).get(running.1) else {
                // It has ended before: from there on the other one is alone.
                break;
            };
            if waiting.1 >= of(waiting.0).len() {
                break;
            }
            stops.push(point.clone());
            std::mem::swap(&mut running, &mut waiting);
        }
        stops
    }
}
