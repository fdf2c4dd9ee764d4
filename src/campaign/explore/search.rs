// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The course of a search: traces, schedules until the budget is spent, minimisation.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::minimise::{Minimised, Stopped, minimise};
use super::outcomes::Tally;
use super::pct::Floor;
use super::plan::{Plan, Side};
use super::{
    Budget, Covered, EXTRA_ROUNDS, End, Exploration, Kind, Outcome, Runner, Settings, Trace, Tried,
    is_wanted,
};
use crate::event::{EventKind, EventSink, Role};
use crate::host::chain;
use crate::scenario::{Point, Schedule};

/// So many rounds in a row without a guest to judge end the search.
const MAX_WITHOUT_GUEST: u32 = 3;
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
        let named = |point: &&Point| schedule.points().any(|named| named == *point);
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

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
