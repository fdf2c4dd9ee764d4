// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which schedules are tried, in which order.
//!
//! A single hold stops one side at one of its points and lets the other run until it rests. Points that belong to the
//! unplug's target come first, then the PF's, then the others. Within these the order is that of the trace, spread: the
//! position's bits are reversed, so that any beginning of the list covers the whole trace evenly. Both sides take turns
//! in proportion to their points.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::pct::{Floor, Pct};
use super::{Covered, Kind, Settings};
use crate::event::{FunctionId, Role};
use crate::scenario::{At, CallPhase, Hold, Point, Schedule, Step, Until, What, WirePhase};

/// Upper bound of a hold at a call point. A platform unplug takes some 200 ms under TCG.
const CALL_BOUND: Duration = Duration::from_millis(1000);
/// Upper bound of a hold at a message, which stops a vCPU that owns QEMU's global lock.
const WIRE_BOUND: Duration = Duration::from_millis(100);
/// One in so many schedules is a delay.
const DELAY_EVERY: u32 = 6;
/// Longest delay, whatever the teardown took.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// So many random schedules in a row that had been run before mean that there is hardly one left.
const MAX_DUPLICATES: u32 = 1000;

/// The points of one side that a schedule can name.
pub(super) struct Side {
    /// Those that it goes through when it is first, in order.
    pub(super) points: Vec<Point>,
    /// Those that only the trace with the other side first went through.
    later: Vec<Point>,
    /// The second end of a call or exchange right after its first: where the first is in `points`.
    twins: HashMap<usize, usize>,
}

impl Side {
    /// `first` is its trace when it goes first, `second` when it goes after the other side.
    pub(super) fn new(role: Role, first: &[Point], second: &[Point]) -> Self {
        let mut known = HashSet::new();
        let mut usable = |points: &[Point]| -> Vec<Point> {
            let points = points.iter().filter_map(|point| named(role, point));
            points.filter(|point| known.insert(point.clone())).collect()
        };
        let points = usable(first);
        let later = usable(second);
        let pairs = points.iter().zip(points.iter().skip(1)).enumerate();
        let twins = pairs
            .filter(|(_, (a, b))| is_end_of(a, b))
            .map(|(at, _)| (at + 1, at))
            .collect();
        Self {
            points,
            later,
            twins,
        }
    }

    /// How many of them are in `reached`.
    pub(super) fn covered(&self, reached: &HashSet<Point>) -> Covered {
        let is_reached = |at: usize| self.points.get(at).is_some_and(|p| reached.contains(p));
        let first_ends: HashMap<usize, usize> = self.twins.iter().map(|(b, a)| (*a, *b)).collect();
        let twin = |at: usize| self.twins.get(&at).or_else(|| first_ends.get(&at));
        let points = (0..self.points.len())
            .filter(|at| is_reached(*at) || twin(*at).is_some_and(|twin| is_reached(*twin)));
        let later = self.later.iter().filter(|point| reached.contains(point));
        Covered {
            reached: points.count() + later.count(),
            known: self.points.len() + self.later.len(),
        }
    }
}

/// The side that a named point belongs to.
fn side_of(point: &Point) -> Role {
    point.role.unwrap_or(Role::Teardown)
}

/// A point of this side's trace as a schedule names it, if it can. A message is held on the host, which takes whoever is
/// behind it for the teardown: those of the unplug's side cannot be named.
fn named(role: Role, point: &Point) -> Option<Point> {
    match (point.is_wire(), role) {
        (true, Role::Unplug) => None,
        (true, Role::Teardown) => Some(Point {
            role: None,
            ..point.clone()
        }),
        (false, _) => Some(Point {
            role: Some(role),
            ..point.clone()
        }),
    }
}

/// Whether `b` is the other end of what begins at `a`.
fn is_end_of(a: &Point, b: &Point) -> bool {
    let same = match (&a.what, &b.what) {
        (
            What::Call {
                call,
                phase: CallPhase::Enter,
            },
            What::Call {
                call: other,
                phase: CallPhase::Return,
            },
        ) => call == other,
        (
            What::Wire {
                message,
                phase: WirePhase::Request,
            },
            What::Wire {
                message: other,
                phase: WirePhase::Reply,
            },
        ) => message == other,
        _ => false,
    };
    same && a.function == b.function
}

/// How long a task may be held there.
pub(super) fn bound(point: &Point) -> Duration {
    if point.is_wire() {
        WIRE_BOUND
    } else {
        CALL_BOUND
    }
}

/// The side of `point` goes first, is stopped there and lets the other one run until it rests.
fn single_hold(point: &Point) -> Schedule {
    Schedule {
        first: side_of(point),
        steps: vec![Step {
            at: At::Point(point.clone()),
            fire: true,
            hold: Some(Hold {
                until: Until::OtherRests,
                at_most: bound(point),
            }),
            returns: None,
        }],
    }
}

/// 0 to `n` - 1 with their bits reversed: 0, the middle, the quarters, ...
pub(super) fn spread(n: usize) -> impl Iterator<Item = usize> {
    let bits = n.next_power_of_two().trailing_zeros();
    (0..n.next_power_of_two())
        .map(move |i| {
            i.reverse_bits()
                .checked_shr(usize::BITS - bits)
                .unwrap_or(0)
        })
        .filter(move |i| *i < n)
}

/// All single holds, in order.
fn holds(sides: &[Side; 2], target: FunctionId) -> VecDeque<Schedule> {
    let rank = |point: &Point| match point.function {
        Some(function) if function == target => 0,
        Some(FunctionId::Pf) => 1,
        _ => 2,
    };
    let mut all = VecDeque::new();
    // Second ends are what the next point of the trace is, but for code that nobody observes: they come last.
    for second_end in [false, true] {
        for wanted in 0..=2 {
            let mut turn: Vec<(u64, &Point)> = Vec::new();
            for side in sides {
                let points: Vec<&Point> = side
                    .points
                    .iter()
                    .enumerate()
                    .filter(|(at, point)| {
                        rank(point) == wanted && side.twins.contains_key(at) == second_end
                    })
                    .map(|(_, point)| point)
                    .collect();
                let of = points.len() as u64;
                let ordered = spread(points.len()).filter_map(|at| points.get(at));
                turn.extend(ordered.enumerate().map(|(place, point)| {
                    // Millionths of the way through this side's list.
                    let place = (2 * place as u64 + 1) * 500_000;
                    (place.checked_div(of).unwrap_or(0), *point)
                }));
            }
            // Stable: the teardown's before the unplug's.
            turn.sort_by_key(|(place, _)| *place);
            all.extend(turn.into_iter().map(|(_, point)| single_hold(point)));
        }
    }
    all
}

/// The unplug is fired 0, 1, 2, 4, ... ms after the teardown began, up to what the teardown takes.
fn delays(teardown_time: Duration) -> VecDeque<Schedule> {
    let longest = teardown_time.min(MAX_DELAY).as_millis();
    std::iter::once(0)
        .chain((0..u64::BITS).map(|bit| 1_u64 << bit))
        .take_while(|ms| *ms == 0 || u128::from(*ms) <= longest)
        .map(|ms| Schedule {
            first: Role::Teardown,
            steps: vec![Step {
                at: At::Time {
                    role: Role::Teardown,
                    after: Duration::from_millis(ms),
                },
                fire: true,
                hold: None,
                returns: None,
            }],
        })
        .collect()
}

/// Gives out schedules, none twice.
pub(super) struct Plan {
    holds: VecDeque<Schedule>,
    delays: VecDeque<Schedule>,
    pct: Pct,
    given: HashSet<Schedule>,
    number: u32,
}

impl Plan {
    pub(super) fn new(sides: &[Side; 2], settings: &Settings, teardown_time: Duration) -> Self {
        let [teardown, unplug] = sides;
        Self {
            holds: holds(sides, settings.target),
            delays: delays(teardown_time),
            pct: Pct::new(
                teardown.points.clone(),
                unplug.points.clone(),
                settings.depth,
                settings.seed,
            ),
            given: HashSet::new(),
            number: 0,
        }
    }

    /// What the random schedules of this plan guarantee.
    pub(super) fn floor(&self) -> Floor {
        self.pct.floor()
    }

    /// The next schedule; `None` when there is no new one.
    pub(super) fn next(&mut self) -> Option<(Kind, Schedule)> {
        self.number += 1;
        let delay_is_due = self.number % DELAY_EVERY == 0;
        let (kind, schedule) = self
            .delays
            .front()
            .filter(|_| delay_is_due)
            .cloned()
            .map(|schedule| {
                self.delays.pop_front();
                (Kind::Delay, schedule)
            })
            .or_else(|| self.holds.pop_front().map(|s| (Kind::Hold, s)))
            .or_else(|| self.random().map(|s| (Kind::Pct, s)))
            .or_else(|| self.delays.pop_front().map(|s| (Kind::Delay, s)))?;
        self.given.insert(schedule.clone());
        Some((kind, schedule))
    }

    fn random(&mut self) -> Option<Schedule> {
        (0..MAX_DUPLICATES)
            .filter_map(|_| self.pct.schedule())
            .find(|schedule| !self.given.contains(schedule))
    }
}
