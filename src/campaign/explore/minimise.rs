// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A schedule that shows a finding, made as small as it goes: steps dropped, holds weakened, bounds shortened. Whatever
//! is left out has been shown not to be needed, by three rounds in a row.

use std::time::Duration;

use serde::Serialize;

use super::End;
use crate::scenario::{Schedule, Step, Until};

/// A smaller schedule replaces a larger one when so many rounds in a row show the finding.
const CONFIRM: u32 = 3;
/// If the schedules that showed the finding do not show it again, so many of them are tried.
const MAX_BEGINNINGS: usize = 3;
/// Bounds that are tried, in milliseconds, shortest first.
const BOUNDS: [u64; 4] = [1, 10, 100, 1000];

/// The smallest schedule that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Minimised {
    /// The schedule.
    pub schedule: Schedule,
    /// How many of the rounds below showed the finding. If it is not all of them, nothing was left out: the finding
    /// does not come reliably.
    pub shown: u32,
    /// Rounds that confirmed it.
    pub of: u32,
    /// Rounds that all of this took.
    pub rounds: u32,
    /// How many of these were beyond the budget.
    pub beyond_budget: u32,
}

/// Why no further round could be run.
pub(super) enum Stopped {
    /// There is no budget left.
    Spent,
    /// The search is over.
    Early(End),
}

/// Makes the first of `beginnings` that can be confirmed smaller. `best` holds what is known when it ends early.
/// `trial` runs a schedule and tells whether it showed the finding.
pub(super) fn minimise(
    beginnings: &[Schedule],
    best: &mut Option<Minimised>,
    mut trial: impl FnMut(&Schedule) -> Result<bool, Stopped>,
) -> Result<(), Stopped> {
    for beginning in beginnings.iter().take(MAX_BEGINNINGS) {
        let mut now = Minimised {
            schedule: beginning.clone(),
            shown: 0,
            of: 0,
            rounds: 0,
            beyond_budget: 0,
        };
        for _ in 0..CONFIRM {
            let shown = match trial(beginning) {
                Ok(shown) => shown,
                Err(stopped) => {
                    best.get_or_insert(now);
                    return Err(stopped);
                }
            };
            now.shown += u32::from(shown);
            now.of += 1;
        }
        let is_confirmed = now.shown == CONFIRM;
        if best.as_ref().is_none_or(|best| best.shown < now.shown) {
            *best = Some(now);
        }
        if is_confirmed {
            let Some(best) = best else { return Ok(()) };
            return shrink(best, &mut trial);
        }
    }
    Ok(())
}

/// Takes the first smaller schedule that shows it, again and again.
fn shrink(
    best: &mut Minimised,
    trial: &mut impl FnMut(&Schedule) -> Result<bool, Stopped>,
) -> Result<(), Stopped> {
    let mut refused: Vec<Schedule> = Vec::new();
    'smaller: loop {
        for candidate in smaller(&best.schedule) {
            if refused.contains(&candidate) {
                continue;
            }
            if is_confirmed(&candidate, trial)? {
                best.schedule = candidate;
                continue 'smaller;
            }
            refused.push(candidate);
        }
        return Ok(());
    }
}

fn is_confirmed(
    schedule: &Schedule,
    trial: &mut impl FnMut(&Schedule) -> Result<bool, Stopped>,
) -> Result<bool, Stopped> {
    for _ in 0..CONFIRM {
        if !trial(schedule)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Schedules that ask for a bit less, the largest savings first.
fn smaller(schedule: &Schedule) -> Vec<Schedule> {
    let mut all = Vec::new();
    let edited = |at: usize, edit: &dyn Fn(&mut Step)| {
        let mut schedule = schedule.clone();
        if let Some(step) = schedule.steps.get_mut(at) {
            edit(step);
        }
        schedule
    };
    // A step that starts the other side cannot be dropped: without it there is no race.
    for (at, step) in schedule.steps.iter().enumerate().rev() {
        if !step.fire {
            let mut schedule = schedule.clone();
            schedule.steps.remove(at);
            all.push(schedule);
        }
    }
    for (at, step) in schedule.steps.iter().enumerate() {
        if step.fire && step.hold.is_some() {
            all.push(edited(at, &|step| step.hold = None));
        }
    }
    for (at, step) in schedule.steps.iter().enumerate() {
        if matches!(&step.hold, Some(hold) if matches!(hold.until, Until::OtherAt(_))) {
            all.push(edited(at, &|step| {
                if let Some(hold) = &mut step.hold {
                    hold.until = Until::OtherRests;
                }
            }));
        }
    }
    for (at, step) in schedule.steps.iter().enumerate() {
        let Some(hold) = &step.hold else { continue };
        for bound in BOUNDS.map(Duration::from_millis) {
            if bound < hold.at_most {
                all.push(edited(at, &|step| {
                    if let Some(hold) = &mut step.hold {
                        hold.at_most = bound;
                    }
                }));
            }
        }
    }
    all
}
