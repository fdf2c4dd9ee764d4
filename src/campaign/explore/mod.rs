// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The search for a schedule that shows what a scenario looks for.
//!
//! It needs no trigger point to begin with. Two traces, one with each side first and nothing held, tell which points
//! there are. Then come, within a budget:
//!
//! 1. single holds: one side is stopped at one of its points until the other one rests ([`plan`]);
//! 2. between them the unplug after a delay, nothing held, on a doubling ladder;
//! 3. when these are used up, priority schedules with random change points ([`pct`]).
//!
//! The first wanted finding is minimised afterwards ([`minimise`]). The search knows nothing of guests: it runs rounds
//! through a [`Runner`]. [`Guests`] makes one out of boots. The same seed, traces and outcomes give the same schedules.

mod guests;
mod minimise;
mod outcomes;
mod pct;
mod plan;
mod single;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::event::{EventKind, EventSink, Finding, FunctionId, Role, Standing, Verdict};
use crate::exit::ExitCode;
use crate::scenario::{At, Point, Schedule, Until};

pub use guests::{Boot, Guests};
pub use minimise::Minimised;
pub use outcomes::Seen;
pub use pct::Floor;
pub use single::{OneRound, trace_of};

use minimise::{Stopped, minimise};
use outcomes::Tally;
use plan::{Plan, Side};

/// So many rounds in a row without a guest to judge end the search.
const MAX_WITHOUT_GUEST: u32 = 3;
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

/// Searches. `stop` is looked at before and after every round; a round during which it was set counts for nothing.
/// `events` gets progress under the name `step`, and each new finding that is not a known issue.
pub fn explore<R: Runner>(
    runner: &mut R,
    settings: &Settings,
    step: &str,
    stop: &AtomicBool,
    events: &EventSink,
) -> Exploration {
    let mut search = Search {
        runner,
        settings,
        step,
        stop,
        events,
        tried: Vec::new(),
        tally: Tally::default(),
        sides: None,
        reached: HashSet::new(),
        without_guest: 0,
        seconds: 0.0,
    };
    let (mut floor, mut minimised) = (None, None);
    let mut end = match search.all(&mut floor) {
        Ok(end) | Err(end) => end,
    };
    if matches!(end, End::Budget | End::Exhausted | End::Found) {
        match search.smallest(&mut minimised) {
            Ok(()) => {}
            Err(early) => end = early,
        }
    }
    search.conclude(end, floor, minimised)
}

struct Search<'a, R> {
    runner: &'a mut R,
    settings: &'a Settings,
    step: &'a str,
    stop: &'a AtomicBool,
    events: &'a EventSink,
    tried: Vec<Tried>,
    tally: Tally,
    /// The points of the teardown and of the unplug.
    sides: Option<[Side; 2]>,
    reached: HashSet<Point>,
    without_guest: u32,
    seconds: f64,
}

impl<R: Runner> Search<'_, R> {
    fn all(&mut self, floor: &mut Option<Floor>) -> Result<End, End> {
        let mut traces = Vec::new();
        for first in [Role::Teardown, Role::Unplug] {
            let trace = loop {
                if let Some(end) = self.is_over() {
                    return Ok(end);
                }
                self.tell("trace");
                let trace = self.runner.trace(first);
                let trace = self.unless_stopped(trace)?;
                let schedule = Schedule {
                    first,
                    steps: Vec::new(),
                };
                let is_good = !trace.outcome.is_without_guest();
                self.note(Kind::Trace, schedule, &trace.outcome)?;
                if is_good {
                    break trace;
                }
            };
            traces.push(trace);
        }
        let [teardown_first, unplug_first] = traces.as_slice() else {
            return Ok(End::Exhausted);
        };
        let side = |role, own: &Trace, other: &Trace| Side::new(role, own.of(role), other.of(role));
        let sides = [
            side(Role::Teardown, teardown_first, unplug_first),
            side(Role::Unplug, unplug_first, teardown_first),
        ];
        let mut plan = Plan::new(&sides, self.settings, teardown_first.teardown_time);
        *floor = Some(plan.floor());
        self.sides = Some(sides);
        loop {
            if let Some(end) = self.is_over() {
                return Ok(end);
            }
            let Some((kind, schedule)) = plan.next() else {
                return Ok(End::Exhausted);
            };
            self.tell(&schedule.to_string());
            let outcome = self.runner.run(&schedule);
            let outcome = self.unless_stopped(outcome)?;
            self.note(kind, schedule, &outcome)?;
            if let (Kind::Pct, Some(floor)) = (kind, floor.as_mut()) {
                floor.schedules += 1;
            }
        }
    }

    /// Why no further schedule is run, if so.
    fn is_over(&self) -> Option<End> {
        if self.stop.load(Ordering::Acquire) {
            return Some(End::Interrupted);
        }
        if self.settings.stop_at_first && self.tried.iter().any(|t| t.wanted) {
            return Some(End::Found);
        }
        (!self.is_budget_left(0)).then_some(End::Budget)
    }

    /// Whether there is budget left after the schedules so far and `more` rounds.
    fn is_budget_left(&self, more: u32) -> bool {
        let schedules = count(self.tried.len()).saturating_add(more);
        self.settings.budget.is_left(schedules, self.seconds)
    }

    /// What a round gave, if it was not stopped from outside: then it says nothing about the kernel.
    fn unless_stopped<T>(&self, given: Result<T, R::Error>) -> Result<T, End> {
        if self.stop.load(Ordering::Acquire) {
            return Err(End::Interrupted);
        }
        given.map_err(|error| End::Failed {
            reason: chain(&error),
        })
    }

    /// Takes the outcome of a schedule into account.
    fn note(&mut self, kind: Kind, schedule: Schedule, outcome: &Outcome) -> Result<(), End> {
        let number = count(self.tried.len()).saturating_add(1);
        self.seconds += outcome.seconds;
        for finding in self.tally.take(number, &schedule, outcome) {
            self.events.emit(EventKind::Finding(finding.clone()));
        }
        let named = |point: &&Point| named_points(&schedule).any(|named| named == *point);
        let reached = outcome.points_reached.iter().filter(named).cloned();
        self.reached.extend(reached);
        self.tried.push(Tried {
            number,
            kind,
            schedule,
            verdict: outcome.verdict,
            wanted: outcome.is_wanted(),
            kept: outcome.schedule_kept,
            seconds: outcome.seconds,
        });
        self.without_guest = if outcome.is_without_guest() {
            self.without_guest + 1
        } else {
            0
        };
        if self.without_guest >= MAX_WITHOUT_GUEST {
            return Err(End::NoGuest);
        }
        Ok(())
    }

    fn tell(&self, what: &str) {
        let number = self.tried.len() as u64 + 1;
        let (detail, part) = match self.settings.budget {
            Budget::Schedules(all) => (
                format!("schedule {number} of {all}: {what}"),
                (number - 1, u64::from(all)),
            ),
            Budget::Time(all) => (
                format!("schedule {number}: {what}"),
                (self.seconds as u64, all.as_secs()),
            ),
        };
        self.events.progress(self.step, detail, Some(part));
    }

    /// Minimises a schedule that showed the first wanted finding.
    fn smallest(&mut self, best: &mut Option<Minimised>) -> Result<(), End> {
        let Some(wanted) = self.tally.wanted() else {
            return Ok(());
        };
        let class = wanted.class();
        let mut candidates = self.tally.schedules(class);
        // Those with fewer steps are nearer to the end. Stable: the earlier first.
        candidates.sort_by_key(|schedule| schedule.steps.len());
        let (mut rounds, mut extra) = (0_u32, 0_u32);
        let trial = |schedule: &Schedule| {
            if self.stop.load(Ordering::Acquire) {
                return Err(Stopped::Early(End::Interrupted));
            }
            if !self.is_budget_left(rounds) {
                if extra == EXTRA_ROUNDS {
                    return Err(Stopped::Spent);
                }
                extra += 1;
            }
            rounds += 1;
            let detail = format!("minimise, round {rounds}: {schedule}");
            self.events.progress(self.step, detail, None);
            let outcome = self.runner.run(schedule);
            let outcome = self.unless_stopped(outcome).map_err(Stopped::Early)?;
            self.seconds += outcome.seconds;
            // The words of a title may say who came first: that is not what has to come again.
            let mut wanted = outcome.findings.iter().filter(|f| is_wanted(f));
            Ok(wanted.any(|finding| Some(finding.class) == class))
        };
        let ended = minimise(&candidates, best, trial);
        if let Some(best) = best {
            (best.rounds, best.beyond_budget) = (rounds, extra);
        }
        match ended {
            Ok(()) | Err(Stopped::Spent) => Ok(()),
            Err(Stopped::Early(end)) => Err(end),
        }
    }

    fn conclude(self, end: End, floor: Option<Floor>, minimised: Option<Minimised>) -> Exploration {
        let detail = format!("{} schedules", self.tried.len());
        self.events.finished(self.step, detail);
        let [teardown, unplug] = match &self.sides {
            Some([teardown, unplug]) => [
                teardown.covered(&self.reached),
                unplug.covered(&self.reached),
            ],
            None => [Covered::default(); 2],
        };
        Exploration {
            settings: self.settings.clone(),
            teardown,
            unplug,
            found: self.tried.iter().find(|t| t.wanted).map(|t| t.number),
            outcomes: self.tally.into_seen(),
            minimised,
            floor,
            effort: self.runner.effort(),
            seconds: self.seconds,
            end,
            tried: self.tried,
        }
    }
}

fn is_wanted(finding: &Finding) -> bool {
    finding.standing == Standing::Wanted
}

/// The points at which a schedule stops a task or that it waits for.
fn named_points(schedule: &Schedule) -> impl Iterator<Item = &Point> {
    schedule.steps.iter().flat_map(|step| {
        let at = match &step.at {
            At::Point(point) => Some(point),
            At::Time { .. } => None,
        };
        let waited_for = match step.hold.as_ref().map(|hold| &hold.until) {
            Some(Until::OtherAt(point)) => Some(point),
            _ => None,
        };
        at.into_iter().chain(waited_for)
    })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
