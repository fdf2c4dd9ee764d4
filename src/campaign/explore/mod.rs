// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The search for a schedule that shows what a scenario looks for.
//!
//! It needs no trigger point to begin with. Two traces, one with each side first and nothing held, tell which points
//! there are. Then come, within a budget:
//!
//! 1. single holds: one side is stopped at one of its points until the other one rests (`plan`);
//! 2. between them the unplug after a delay, nothing held, on a doubling ladder;
//! 3. when these are used up, priority schedules with random change points (`pct`).
//!
//! The first wanted finding is minimised afterwards (`minimise`). The search knows nothing of guests: it runs rounds
//! through a [`Runner`]. [`Guests`] makes one out of boots. The same seed, traces and outcomes give the same schedules.

mod boot;
mod guests;
mod minimise;
mod outcomes;
mod pct;
mod plan;
mod search;
mod shared;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::event::{Finding, FunctionId, Role, Standing, Verdict};
use crate::exit::ExitCode;
use crate::scenario::{Point, Schedule};

pub use boot::{Guest, trace_of};
pub use guests::{Boot, Guests};
pub use minimise::Minimised;
pub use outcomes::Seen;
pub use pct::Floor;
pub use search::explore;
pub use shared::Schedules;

/// Rounds that the minimisation may take beyond the budget.
pub const EXTRA_ROUNDS: u32 = 24;

/// How much may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// A number of schedules, the two traces included. Each is one round.
    Schedules(u32),
    /// A time, boots included. No round begins when it has passed; one that is under way is not cut short.
    Time(Duration),
}

impl Budget {
    fn is_left(self, schedules: u32, seconds: f64) -> bool {
        match self {
            Budget::Schedules(all) => schedules < all,
            Budget::Time(all) => seconds < all.as_secs_f64(),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    /// `60`, or a time with its unit as in `10m` or `1h 30m`.
    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "use a number of schedules from 1, or a time with its unit, e.g. 10m";
        if let Ok(schedules) = text.parse::<u32>() {
            return match schedules {
                0 => Err(format!("nothing can be explored with 0 schedules: {hint}")),
                _ => Ok(Budget::Schedules(schedules)),
            };
        }
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() => Ok(Budget::Time(time)),
            _ => Err(format!("`{text}` is not a budget: {hint}")),
        }
    }
}

/// Writes what [`FromStr`] reads.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Schedules(schedules) => schedules.fmt(f),
            Budget::Time(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

impl Serialize for Budget {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What a search is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// How much may be spent, apart from [`EXTRA_ROUNDS`] for the minimisation.
    pub budget: Budget,
    /// Seed of the random schedules.
    pub seed: u64,
    /// Depth d of the random schedules: d - 1 change points. At least 1.
    pub depth: u32,
    /// Go over to the minimisation at the first wanted finding.
    pub stop_at_first: bool,
    /// The function that the unplug is about, whose points come first; the PF for a slot.
    pub target: FunctionId,
}

/// What one round gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The verdict on this round alone.
    pub verdict: Verdict,
    /// Everything that is wrong in it.
    pub findings: Vec<Finding>,
    /// Points of the schedule that were reached, as they stand in it. Others may be among them.
    pub points_reached: Vec<Point>,
    /// Every step was reached and every hold ended by its condition, none by its bound.
    pub schedule_kept: bool,
    /// Wall-clock seconds, with the boot if the round needed a new one.
    pub seconds: f64,
}

impl Outcome {
    /// Whether it shows what the scenario looks for.
    pub fn is_wanted(&self) -> bool {
        self.findings.iter().any(is_wanted)
    }

    /// Nothing can be said about the kernel: there was no guest to judge.
    fn is_without_guest(&self) -> bool {
        matches!(self.verdict, Verdict::Infra | Verdict::BootFail)
    }
}

/// What both sides went through when nothing was held.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The teardown's points, in order, each with its occurrence. Messages are here, unless the unplug's side sent them.
    pub teardown: Vec<Point>,
    /// The unplug's points.
    pub unplug: Vec<Point>,
    /// How long the teardown took.
    pub teardown_time: Duration,
    /// The round is judged like any other. Its schedule is the one without steps.
    pub outcome: Outcome,
}

impl Trace {
    fn of(&self, role: Role) -> &[Point] {
        match role {
            Role::Teardown => &self.teardown,
            Role::Unplug => &self.unplug,
        }
    }
}

/// Boots and rounds that were needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Boots.
    pub boots: u32,
    /// Rounds, those of the minimisation included.
    pub rounds: u32,
}

/// Runs rounds. Whether they share a boot is its matter.
pub trait Runner {
    /// Why no round could be run at all. Whatever goes wrong in a round is in its outcome.
    type Error: std::error::Error;

    /// Runs a round in which the side `first` goes through to its end before the other is started, with every known
    /// call and message observed and nothing held.
    fn trace(&mut self, first: Role) -> Result<Trace, Self::Error>;

    /// Runs a round with this schedule.
    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, Self::Error>;

    /// What has been needed so far.
    fn effort(&self) -> Effort;
}

/// Where a schedule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One side after the other, observed.
    Trace,
    /// A single hold.
    Hold,
    /// The unplug after a delay.
    Delay,
    /// Priorities with random change points.
    Pct,
}

/// A schedule that was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// Its number, from 1.
    pub number: u32,
    /// Where it comes from.
    pub kind: Kind,
    /// The schedule.
    pub schedule: Schedule,
    /// The verdict.
    pub verdict: Verdict,
    /// It showed what the scenario looks for.
    pub wanted: bool,
    /// It was run as it stands, see [`Outcome::schedule_kept`].
    pub kept: bool,
    /// Seconds it took.
    pub seconds: f64,
}

/// How many of the points of a side a task was stopped at or waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Covered {
    /// Points that a schedule named and that were reached. The two ends of a call with nothing in between count as
    /// reached together.
    pub reached: usize,
    /// Points that the traces went through and that a schedule can name.
    pub known: usize,
}

/// Why a search ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum End {
    /// The budget is spent.
    Budget,
    /// There was no schedule left that had not been run.
    Exhausted,
    /// The finding was there and nothing else was asked for.
    Found,
    /// It was stopped from outside.
    Interrupted,
    /// Round after round had no guest to judge.
    NoGuest,
    /// A round could not be run.
    Failed {
        /// Why, with its causes.
        reason: String,
    },
}

/// What a search has found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exploration {
    /// What it was told.
    pub settings: Settings,
    /// Coverage of the teardown's points.
    pub teardown: Covered,
    /// Coverage of the unplug's points.
    pub unplug: Covered,
    /// Distinct outcomes, in the order of their first schedules, wanted ones first.
    pub outcomes: Vec<Seen>,
    /// Number of the first schedule with a wanted finding.
    pub found: Option<u32>,
    /// The smallest schedule for it.
    pub minimised: Option<Minimised>,
    /// What the random schedules guarantee.
    pub floor: Option<Floor>,
    /// Boots and rounds.
    pub effort: Effort,
    /// Seconds of all rounds, boots included.
    pub seconds: f64,
    /// Why it ended.
    #[serde(flatten)]
    pub end: End,
    /// Every schedule in the order in which they were run, without those of the minimisation.
    pub tried: Vec<Tried>,
}

impl Exploration {
    /// The exit code. A finding about the kernel that is not a known issue counts whether it was looked for or not, as
    /// in a single run, and stands even when the search broke off later. Without one, a single schedule that passed is
    /// enough to call the kernel good: schedules whose two sides do not meet are part of every search.
    pub fn exit(&self) -> ExitCode {
        let gave = |code| {
            let mut tried = self.tried.iter().map(|t| super::verdict_exit(t.verdict));
            tried.any(|exit| exit == code)
        };
        match &self.end {
            End::Interrupted => ExitCode::Interrupted,
            _ if self.found.is_some() || gave(ExitCode::Bad) => ExitCode::Bad,
            End::Failed { .. } => ExitCode::Infrastructure,
            End::NoGuest if gave(ExitCode::Infrastructure) => ExitCode::Infrastructure,
            End::NoGuest => ExitCode::CannotTell,
            _ if gave(ExitCode::Good) => ExitCode::Good,
            _ if gave(ExitCode::CannotTell) => ExitCode::CannotTell,
            _ => ExitCode::Infrastructure,
        }
    }
}

fn is_wanted(finding: &Finding) -> bool {
    finding.standing == Standing::Wanted
}
