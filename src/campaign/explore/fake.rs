// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A race without a guest: two little state machines that obey a schedule, with a bug planted.

use crate::scenario::{At, Until};
use std::time::Duration;

use super::*;
use crate::event::Class;
use crate::scenario::{CallPhase, What};

/// What a step of a side does after its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Nothing,
    Lock(usize),
    Unlock(usize),
}

/// When the bug shows.
#[derive(Clone, Debug)]
pub(super) enum Bug {
    None,
    /// The unplug's step is taken after the first and not after the second of these steps of the teardown.
    Window {
        unplug: usize,
        after: usize,
        before: usize,
    },
    /// These steps are taken in this order.
    Order(Vec<(Role, usize)>),
    /// Only a task that does not come back.
    Deadlock,
}

#[derive(Clone, Debug)]
pub(super) struct Race {
    pub(super) teardown: Vec<(Point, Op)>,
    pub(super) unplug: Vec<(Point, Op)>,
    pub(super) bug: Bug,
    pub(super) ran: Vec<Schedule>,
    /// Seconds that a round takes.
    pub(super) seconds: f64,
    pub(super) traces: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the fake broke")]
pub(super) struct Broken;

pub(super) fn call(role: Role, function: FunctionId, name: &str, phase: CallPhase) -> Point {
    Point {
        role: Some(role),
        function: Some(function),
        what: What::Call {
            call: name.to_owned(),
            phase,
        },
        nth: 0,
    }
}

impl Race {
    /// So many points a side, all entries, of VF 2.
    pub(super) fn plain(teardown: usize, unplug: usize, bug: Bug) -> Self {
        let side = |role, n| {
            (0..n)
                .map(|at| {
                    let name = format!("f{at}");
                    (
                        call(role, FunctionId::Vf(2), &name, CallPhase::Enter),
                        Op::Nothing,
                    )
                })
                .collect()
        };
        Self {
            teardown: side(Role::Teardown, teardown),
            unplug: side(Role::Unplug, unplug),
            bug,
            ran: Vec::new(),
            seconds: 1.0,
            traces: 0,
        }
    }

    fn of(&self, role: Role) -> &[(Point, Op)] {
        match role {
            Role::Teardown => &self.teardown,
            Role::Unplug => &self.unplug,
        }
    }

    /// Plays it out. Holds end by their condition or, when nothing else can move, by their bound.
    fn play(&self, schedule: &Schedule, one_after_the_other: bool) -> Outcome {
        let mut play = Play {
            race: self,
            schedule,
            at: [0, 0],
            started: [false, false],
            hold: [None, None],
            passed: [false, false],
            owner: [None; 4],
            order: Vec::new(),
            reached: Vec::new(),
            kept: true,
        };
        play.started[index(schedule.first)] = true;
        if one_after_the_other {
            play.run();
            play.started = [true, true];
        }
        play.run();
        let is_done = |role| play.at[index(role)] == self.of(role).len();
        let came_back = [Role::Teardown, Role::Unplug]
            .iter()
            .all(|r| !play.started[index(*r)] || is_done(*r));
        let place = |role, at| play.order.iter().position(|step| *step == (role, at));
        let (t, u) = (Role::Teardown, Role::Unplug);
        let in_order = |steps: &[(Role, usize)]| {
            let places: Option<Vec<usize>> = steps.iter().map(|s| place(s.0, s.1)).collect();
            places.is_some_and(|places| places.is_sorted())
        };
        let shows = match &self.bug {
            Bug::None | Bug::Deadlock => false,
            Bug::Window {
                unplug,
                after,
                before,
            } => in_order(&[(t, *after), (u, *unplug), (t, *before)]),
            Bug::Order(steps) => in_order(steps),
        };
        let finding = |class, number: usize| {
            // As in a real title, who came first varies.
            let title = if number % 2 == 0 {
                format!("vf2 came to harm by one and another, pid {number}")
            } else {
                format!("vf2 came to harm by another and one, pid {number}")
            };
            Finding {
                round: Some(1),
                ..Finding::new(class, title, Standing::Wanted)
            }
        };
        let (verdict, findings) = match (came_back, shows) {
            (false, _) => (Verdict::Deadlock, vec![finding(Class::Deadlock, 0)]),
            (true, true) => (
                Verdict::DoubleRemoval,
                vec![finding(Class::DoubleRemoval, self.ran.len())],
            ),
            (true, false) if play.started == [true, true] => (Verdict::Pass, Vec::new()),
            (true, false) => (Verdict::Inconclusive, Vec::new()),
        };
        Outcome {
            verdict,
            findings,
            schedule_kept: play.kept && play.reached.len() >= schedule.steps.len(),
            points_reached: play.reached,
            seconds: self.seconds,
        }
    }
}

fn index(role: Role) -> usize {
    match role {
        Role::Teardown => 0,
        Role::Unplug => 1,
    }
}

struct Play<'a> {
    race: &'a Race,
    schedule: &'a Schedule,
    at: [usize; 2],
    started: [bool; 2],
    hold: [Option<Until>; 2],
    /// The step at the point where the side is has acted.
    passed: [bool; 2],
    owner: [Option<Role>; 4],
    order: Vec<(Role, usize)>,
    reached: Vec<Point>,
    kept: bool,
}

impl Play<'_> {
    /// Both take turns, a point each, so that without holds they overlap.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            for role in [self.schedule.first, self.schedule.first.other()] {
                moved |= self.advance(role);
            }
            if moved {
                continue;
            }
            // Nothing moves: the bound of a hold runs out, if there is one.
            match self.hold.iter().position(Option::is_some) {
                Some(held) => {
                    self.hold[held] = None;
                    self.kept = false;
                }
                None => return,
            }
        }
    }

    fn can_move(&self, role: Role) -> bool {
        let me = index(role);
        let Some((_, op)) = self.race.of(role).get(self.at[me]) else {
            return false;
        };
        let is_free = match op {
            Op::Lock(lock) => self.owner[*lock].is_none(),
            _ => true,
        };
        self.started[me] && self.hold[me].is_none() && (is_free || !self.passed[me])
    }

    fn advance(&mut self, role: Role) -> bool {
        let me = index(role);
        let other = role.other();
        if let Some(until) = &self.hold[me] {
            let is_over = match until {
                Until::OtherRests => !self.can_move(other),
                Until::OtherAt(point) => self.reached.contains(point),
                until => panic!("the search does not use {until}"),
            };
            if !is_over {
                return false;
            }
            self.hold[me] = None;
            return true;
        }
        if !self.can_move(role) {
            return false;
        }
        let (point, op) = &self.race.of(role)[self.at[me]];
        if !std::mem::replace(&mut self.passed[me], true) {
            let mut steps = self.schedule.steps.iter();
            self.reached.push(point.clone());
            if let Some(step) = steps.find(|step| step.at == At::Point(point.clone())) {
                if step.fire {
                    assert_eq!(role, self.schedule.first, "only the first side can fire");
                    self.started[index(other)] = true;
                }
                self.hold[me] = step.hold.as_ref().map(|hold| hold.until.clone());
            }
            // A delay fires somewhere in the middle.
            let ms = self.schedule.steps.iter().find_map(|step| match step.at {
                At::Time { after, .. } => Some(after.as_millis() as usize),
                At::Point(_) => None,
            });
            if ms.is_some_and(|ms| role == Role::Teardown && ms <= self.at[me]) {
                self.started[1] = true;
            }
            return true;
        }
        match op {
            Op::Nothing => {}
            Op::Lock(lock) => self.owner[*lock] = Some(role),
            Op::Unlock(lock) => self.owner[*lock] = None,
        }
        self.order.push((role, self.at[me]));
        self.at[me] += 1;
        self.passed[me] = false;
        true
    }
}

impl Runner for Race {
    type Error = Broken;

    fn trace(&mut self, first: Role) -> Result<Trace, Broken> {
        self.traces += 1;
        let schedule = Schedule {
            first,
            steps: Vec::new(),
        };
        let points = |side: &[(Point, Op)]| side.iter().map(|(point, _)| point.clone()).collect();
        Ok(Trace {
            teardown: points(&self.teardown),
            unplug: points(&self.unplug),
            teardown_time: Duration::from_millis(self.teardown.len() as u64),
            outcome: self.play(&schedule, true),
        })
    }

    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, Broken> {
        self.ran.push(schedule.clone());
        Ok(self.play(schedule, false))
    }

    fn effort(&self) -> Effort {
        Effort {
            boots: 1,
            rounds: self.traces + self.ran.len() as u32,
        }
    }
}
