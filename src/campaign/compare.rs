// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The first schedule that separates two kernels.
//!
//! Both run the same schedules in the same order: the scenario's own, then those that `explore` would try, taken from what
//! both went through. A schedule separates them if one has a finding that the other does not have, and if both say so again
//! in a boot of their own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::explore::{Outcome, Runner, Schedules, Settings, Trace};
use crate::event::{Class, EventKind, EventSink, Role, Standing, Verdict};
use crate::exit::ExitCode;
use crate::host::chain;
use crate::scenario::Schedule;

/// So many schedules in a row without a guest to judge end the comparison.
const MAX_WITHOUT_GUEST: u32 = 3;

/// Runs one of the two kernels.
pub trait Side: Runner {
    /// Runs the schedule in a boot of its own, with the rounds of the scenario and its last step.
    fn alone(&mut self, schedule: &Schedule) -> Result<Outcome, Self::Error>;

    /// Whether the kernel has the points of the schedule.
    fn has(&self, schedule: &Schedule) -> bool;
}

/// What a kernel gave with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gave {
    /// The verdict.
    pub verdict: Verdict,
    /// Classes of the findings that are not known issues.
    pub classes: BTreeSet<Class>,
    /// The finding that tells most: a wanted one, else the first.
    pub title: Option<String>,
}

impl Gave {
    fn of(outcome: &Outcome) -> Self {
        let new = || {
            let all = outcome.findings.iter();
            all.filter(|finding| finding.standing != Standing::Known)
        };
        let wanted = new().find(|finding| finding.standing == Standing::Wanted);
        let told = wanted.or_else(|| new().next());
        Self {
            verdict: outcome.verdict,
            classes: new().map(|finding| finding.class).collect(),
            title: told.map(|finding| format!("{}: {}", finding.class, finding.title)),
        }
    }

    /// Whether it says something about the kernel, good or bad.
    pub fn is_told(&self) -> bool {
        self.convicts() || self.verdict == Verdict::Pass
    }

    fn convicts(&self) -> bool {
        matches!(
            self.verdict,
            Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding | Verdict::Silent
        )
    }

    fn has_guest(&self) -> bool {
        self.is_told() || self.verdict == Verdict::Inconclusive
    }

    /// Whether the two kernels are told apart by this: one is convicted and the other passes, or they are convicted of
    /// different things. What is found beside the same finding does not count, it comes and goes.
    fn differs(&self, other: &Self) -> bool {
        match (self.convicts(), other.convicts()) {
            (true, true) if self.verdict == other.verdict => {
                !self.classes.is_empty()
                    && !other.classes.is_empty()
                    && self.classes.is_disjoint(&other.classes)
            }
            (true, true) => true,
            (false, false) => false,
            _ => self.is_told() && other.is_told(),
        }
    }
}

/// A schedule that both have run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The schedule; `None` for the scenario's own.
    pub schedule: Option<String>,
    /// What the two kernels gave.
    pub gave: [Gave; 2],
    /// What they gave again, alone in a boot each, if they differed.
    pub again: Option<[Gave; 2]>,
}

impl Tried {
    /// Whether it separates the two.
    pub fn separates(&self) -> bool {
        let [a, b] = &self.gave;
        let again = self.again.as_ref();
        a.differs(b) && again.is_some_and(|[c, d]| c.differs(d) && a.convicts() == c.convicts())
    }

    fn is_told(&self) -> bool {
        self.gave.iter().all(Gave::is_told)
    }
}

/// Why a comparison ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum End {
    /// The last schedule separates the two.
    Separated,
    /// So many schedules were asked for.
    Budget,
    /// There are no other schedules.
    Exhausted,
    /// It was stopped from outside.
    Interrupted,
    /// One of the two had no guest to judge, again and again.
    NoGuest,
    /// A round could not be run.
    Failed {
        /// Why, with its causes.
        reason: String,
    },
}

/// What a comparison has found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Every schedule in the order in which they were run.
    pub tried: Vec<Tried>,
    /// Why it ended.
    #[serde(flatten)]
    pub end: End,
}

impl Compared {
    /// 1 if a schedule separates the two, 0 if none does, 125 if there is none with which both could be told.
    pub fn exit(&self) -> ExitCode {
        match &self.end {
            End::Separated => ExitCode::Bad,
            End::Interrupted => ExitCode::Interrupted,
            End::Failed { .. } => ExitCode::Infrastructure,
            End::NoGuest => {
                let infra = |gave: &Gave| gave.verdict == Verdict::Infra;
                match self.tried.last() {
                    Some(tried) if tried.gave.iter().any(infra) => ExitCode::Infrastructure,
                    _ => ExitCode::CannotTell,
                }
            }
            End::Budget | End::Exhausted if self.tried.iter().any(Tried::is_told) => ExitCode::Good,
            End::Budget | End::Exhausted => ExitCode::CannotTell,
        }
    }
}

/// Compares. `own` is the scenario's schedule, `settings` those of a search, `None` where nothing is unplugged and there is
/// only one schedule; `most` is the number of schedules, the own one and the two traces included. `events` gets progress
/// under the name `step`.
pub fn compare<S: Side + Send>(
    sides: &mut [S; 2],
    own: &Schedule,
    settings: Option<&Settings>,
    most: u32,
    step: &str,
    stop: &AtomicBool,
    events: &EventSink,
) -> Compared
where
    S::Error: Send,
{
    let mut comparison = Comparison {
        sides,
        most,
        step,
        stop,
        events,
        tried: Vec::new(),
        without_guest: 0,
    };
    let end = match comparison.all(own, settings) {
        Ok(end) | Err(end) => end,
    };
    let tried = comparison.tried;
    let told = format!("{} schedules", tried.len());
    events.finished(step, told);
    Compared { tried, end }
}

struct Comparison<'a, S> {
    sides: &'a mut [S; 2],
    most: u32,
    step: &'a str,
    stop: &'a AtomicBool,
    events: &'a EventSink,
    tried: Vec<Tried>,
    without_guest: u32,
}

impl<S: Side + Send> Comparison<'_, S>
where
    S::Error: Send,
{
    fn all(&mut self, own: &Schedule, settings: Option<&Settings>) -> Result<End, End> {
        loop {
            self.tell("the scenario's own schedule");
            let gave = self.both(|side| side.alone(own).map(|outcome| Gave::of(&outcome)))?;
            let is_good = gave.iter().all(Gave::has_guest);
            if self.note(None, own, gave)? {
                return Ok(End::Separated);
            }
            if is_good {
                break;
            }
        }
        let Some(settings) = settings else {
            return Ok(End::Exhausted);
        };
        let mut traces: [Vec<Trace>; 2] = Default::default();
        for first in [Role::Teardown, Role::Unplug] {
            let schedule = Schedule {
                first,
                steps: Vec::new(),
            };
            loop {
                if self.is_spent() {
                    return Ok(End::Budget);
                }
                self.tell(&schedule.to_string());
                let [a, b] = self.both(|side| side.trace(first))?;
                let gave = [Gave::of(&a.outcome), Gave::of(&b.outcome)];
                let is_good = gave.iter().all(Gave::has_guest);
                if self.note(Some(schedule.to_string()), &schedule, gave)? {
                    return Ok(End::Separated);
                }
                if is_good {
                    let [of_a, of_b] = &mut traces;
                    of_a.push(a);
                    of_b.push(b);
                    break;
                }
            }
        }
        let mut schedules = Schedules::of(&traces, settings);
        loop {
            if self.is_spent() {
                return Ok(End::Budget);
            }
            let Some(schedule) = schedules.next() else {
                return Ok(End::Exhausted);
            };
            if schedule == *own || !self.sides.iter().all(|side| side.has(&schedule)) {
                continue;
            }
            self.tell(&schedule.to_string());
            let gave = self.both(|side| side.run(&schedule).map(|outcome| Gave::of(&outcome)))?;
            if self.note(Some(schedule.to_string()), &schedule, gave)? {
                return Ok(End::Separated);
            }
        }
    }

    fn is_spent(&self) -> bool {
        self.tried.len() >= self.most as usize
    }

    /// The same on both kernels, at the same time.
    fn both<T: Send>(
        &mut self,
        run: impl Fn(&mut S) -> Result<T, S::Error> + Sync,
    ) -> Result<[T; 2], End> {
        if self.stop.load(Ordering::Acquire) {
            return Err(End::Interrupted);
        }
        let [a, b] = &mut *self.sides;
        let (a, b) = std::thread::scope(|scope| {
            let other = scope.spawn(|| run(b));
            (run(a), other.join())
        });
        // What was stopped says nothing about the kernel.
        if self.stop.load(Ordering::Acquire) {
            return Err(End::Interrupted);
        }
        let failed = |error: S::Error| End::Failed {
            reason: chain(&error),
        };
        match (a, b) {
            (Ok(a), Ok(Ok(b))) => Ok([a, b]),
            (Err(error), _) | (_, Ok(Err(error))) => Err(failed(error)),
            (_, Err(_)) => Err(End::Failed {
                reason: "a thread of vfrace panicked".to_owned(),
            }),
        }
    }

    /// Takes in what a schedule gave; if the two differ, it is run again. Gives whether it separates them.
    fn note(
        &mut self,
        text: Option<String>,
        schedule: &Schedule,
        gave: [Gave; 2],
    ) -> Result<bool, End> {
        let [a, b] = &gave;
        let again = if a.differs(b) {
            self.tell(&format!("again: {schedule}"));
            Some(self.both(|side| side.alone(schedule).map(|outcome| Gave::of(&outcome)))?)
        } else {
            None
        };
        self.without_guest = if gave.iter().all(Gave::has_guest) {
            0
        } else {
            self.without_guest + 1
        };
        let tried = Tried {
            schedule: text,
            gave,
            again,
        };
        let separates = tried.separates();
        self.tried.push(tried);
        if self.without_guest >= MAX_WITHOUT_GUEST {
            return Err(End::NoGuest);
        }
        Ok(separates)
    }

    fn tell(&self, what: &str) {
        let number = self.tried.len() as u64 + 1;
        let most = u64::from(self.most);
        self.events.emit(EventKind::Progress {
            step: self.step.to_owned(),
            detail: format!("schedule {number} of {most}: {what}"),
            part: Some((number - 1, most)),
            finished: false,
        });
    }
}

#[cfg(test)]
mod tests;
