// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::time::Duration;

use super::super::explore::{Budget, Effort};
use super::*;
use crate::event::{Finding, FunctionId};
use crate::scenario::{CallPhase, Point, What};

/// A kernel that goes through some functions, and is wrong if a side is stopped at some of them.
#[derive(Clone)]
struct Fake {
    calls: &'static [&'static str],
    /// Functions at which a hold shows a finding of a class.
    wrong_at: &'static [(&'static str, Class)],
    /// What the scenario's own schedule gives.
    own: Verdict,
    /// Boots alone that show nothing although the round before did.
    shy: u32,
    /// What rounds without a finding give.
    else_gives: Verdict,
    ran: Vec<String>,
}

const PLAIN: Fake = Fake {
    calls: &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"],
    wrong_at: &[],
    own: Verdict::Pass,
    shy: 0,
    else_gives: Verdict::Pass,
    ran: Vec::new(),
};

#[derive(Debug, thiserror::Error)]
#[error("the fake broke")]
struct Broken;

fn point(call: &str) -> Point {
    Point {
        role: Some(Role::Teardown),
        function: Some(FunctionId::Vf(2)),
        what: What::Call {
            call: call.to_owned(),
            phase: CallPhase::Enter,
        },
        nth: 0,
    }
}

fn outcome(verdict: Verdict, findings: Vec<Finding>) -> Outcome {
    Outcome {
        verdict,
        findings,
        points_reached: Vec::new(),
        schedule_kept: true,
        seconds: 1.0,
    }
}

impl Fake {
    fn play(&self, schedule: &Schedule) -> Outcome {
        let named: Vec<Point> = schedule.points().cloned().collect();
        let wrong = self
            .wrong_at
            .iter()
            .find(|(call, _)| named.contains(&point(call)));
        match wrong {
            Some((call, class)) => {
                let finding = Finding::new(*class, format!("wrong at {call}"), Standing::Wanted);
                outcome(Verdict::Finding, vec![finding])
            }
            None => outcome(self.else_gives, Vec::new()),
        }
    }
}

impl Runner for Fake {
    type Error = Broken;

    fn trace(&mut self, first: Role) -> Result<Trace, Broken> {
        self.ran.push(format!("trace {first}"));
        Ok(Trace {
            teardown: self.calls.iter().map(|call| point(call)).collect(),
            unplug: Vec::new(),
            teardown_time: Duration::from_millis(4),
            outcome: outcome(self.else_gives, Vec::new()),
        })
    }

    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, Broken> {
        if schedule.to_string().contains("break") {
            return Err(Broken);
        }
        self.ran.push(schedule.to_string());
        Ok(self.play(schedule))
    }

    fn effort(&self) -> Effort {
        Effort::default()
    }
}

impl Side for Fake {
    fn alone(&mut self, schedule: &Schedule) -> Result<Outcome, Broken> {
        self.ran.push(format!("alone {schedule}"));
        if schedule == &own() {
            let findings = match self.own {
                Verdict::DoubleRemoval => {
                    let class = Class::DoubleRemoval;
                    vec![Finding::new(class, "vf2 removed TWICE", Standing::Wanted)]
                }
                _ => Vec::new(),
            };
            return Ok(outcome(self.own, findings));
        }
        if self.shy > 0 {
            self.shy -= 1;
            return Ok(outcome(Verdict::Pass, Vec::new()));
        }
        Ok(self.play(schedule))
    }

    fn has(&self, schedule: &Schedule) -> bool {
        let mut points = schedule.points();
        points.all(|named| self.calls.iter().any(|call| point(call) == *named))
    }
}

fn own() -> Schedule {
    "vf2:wire:GET_VRING_BASE fire until other-committed <=100ms"
        .parse()
        .unwrap()
}

fn settings() -> Settings {
    Settings {
        budget: Budget::Schedules(60),
        seed: 1,
        depth: 3,
        stop_at_first: false,
        target: FunctionId::Vf(2),
    }
}

fn compared(a: Fake, b: Fake, most: u32) -> (Compared, [Fake; 2]) {
    let mut sides = [a, b];
    let stop = AtomicBool::new(false);
    let events = EventSink::discard();
    let found = compare(
        &mut sides,
        &own(),
        Some(&settings()),
        most,
        "compare",
        &stop,
        &events,
    );
    (found, sides)
}

#[test]
fn the_scenarios_own_schedule_comes_first_and_is_repeated() {
    let base = Fake {
        own: Verdict::DoubleRemoval,
        ..PLAIN
    };
    let (found, [a, b]) = compared(base, PLAIN, 20);
    assert_eq!((&found.end, found.exit()), (&End::Separated, ExitCode::Bad));
    assert_eq!(found.tried.len(), 1);
    assert_eq!(found.tried[0].schedule, None);
    let title = found.tried[0].gave[0].title.as_deref();
    assert_eq!(title, Some("DOUBLE-REMOVAL: vf2 removed TWICE"));
    assert_eq!((a.ran.len(), b.ran.len()), (2, 2));
}

#[test]
fn then_come_the_schedules_of_a_search_the_same_for_both() {
    let wrong = Fake {
        wrong_at: &[("c", Class::Leak)],
        ..PLAIN
    };
    let (found, [a, b]) = compared(PLAIN, wrong, 60);
    assert_eq!(found.end, End::Separated);
    let last = found.tried.last().unwrap();
    let schedule = last.schedule.as_deref().unwrap();
    assert!(schedule.contains("call:c"), "{schedule}");
    // What is printed can be run again.
    assert_eq!(schedule.parse::<Schedule>().unwrap().to_string(), schedule);
    assert_eq!(a.ran, b.ran);
}

#[test]
fn a_difference_that_does_not_come_again_is_none() {
    let wrong = Fake {
        wrong_at: &[("c", Class::Leak), ("d", Class::Leak)],
        shy: 1,
        ..PLAIN
    };
    let (found, _) = compared(wrong, PLAIN, 60);
    let apart: Vec<&Tried> = found.tried.iter().filter(|t| t.again.is_some()).collect();
    assert!(!apart[0].separates());
    // The next one comes again.
    assert_eq!(found.end, End::Separated);
    assert_eq!(apart.len(), 2);
}

#[test]
fn nothing_separates_a_kernel_from_itself() {
    let (found, _) = compared(PLAIN, PLAIN, 12);
    assert_eq!((&found.end, found.exit()), (&End::Budget, ExitCode::Good));
    assert_eq!(found.tried.len(), 12);
    let mut texts: Vec<_> = found.tried.iter().map(|t| t.schedule.clone()).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 12);
}

#[test]
fn points_that_one_of_the_two_lacks_are_left_out() {
    let without = Fake {
        calls: &["a", "b"],
        ..PLAIN
    };
    let wrong = Fake {
        wrong_at: &[("c", Class::Leak)],
        ..PLAIN
    };
    let (found, [a, _]) = compared(wrong, without, 40);
    assert!(a.ran.iter().all(|text| !text.contains("call:c")));
    assert_ne!(found.end, End::Separated);
}

#[test]
fn what_cannot_be_told_separates_nothing() {
    let apart = Fake {
        else_gives: Verdict::Inconclusive,
        own: Verdict::Inconclusive,
        ..PLAIN
    };
    let wrong = Fake {
        wrong_at: &[("a", Class::Leak)],
        ..PLAIN
    };
    let (found, _) = compared(wrong.clone(), apart.clone(), 15);
    assert_eq!(found.exit(), ExitCode::CannotTell);
    let dead = Fake {
        else_gives: Verdict::BootFail,
        own: Verdict::BootFail,
        ..PLAIN
    };
    let (found, _) = compared(wrong.clone(), dead, 15);
    assert_eq!(found.end, End::NoGuest);
    assert_eq!(found.exit(), ExitCode::CannotTell);
    let infra = Fake {
        else_gives: Verdict::Infra,
        own: Verdict::Infra,
        ..PLAIN
    };
    assert_eq!(
        compared(infra, wrong, 15).0.exit(),
        ExitCode::Infrastructure
    );
}

#[test]
fn where_nothing_is_unplugged_there_is_one_schedule() {
    let mut sides = [PLAIN, PLAIN];
    let stop = AtomicBool::new(false);
    let events = EventSink::discard();
    let alone = compare(&mut sides, &own(), None, 20, "compare", &stop, &events);
    assert_eq!((&alone.end, alone.tried.len()), (&End::Exhausted, 1));
    assert_eq!(alone.exit(), ExitCode::Good);
    stop.store(true, Ordering::Release);
    let stopped = compare(&mut sides, &own(), None, 20, "compare", &stop, &events);
    assert_eq!(stopped.exit(), ExitCode::Interrupted);
}

#[test]
fn two_findings_differ_by_verdict_or_class() {
    let gave = |verdict, classes: &[Class]| Gave {
        verdict,
        classes: classes.iter().copied().collect(),
        title: None,
    };
    let leak = gave(Verdict::Finding, &[Class::Leak]);
    let more = gave(Verdict::Finding, &[Class::Leak, Class::Warn]);
    let other = gave(Verdict::Finding, &[Class::Refcount]);
    assert!(!leak.differs(&more));
    assert!(leak.differs(&other));
    assert!(leak.differs(&gave(Verdict::Deadlock, &[Class::Deadlock, Class::Leak])));
    assert!(!leak.differs(&gave(Verdict::Inconclusive, &[])));
    assert!(leak.differs(&gave(Verdict::Pass, &[])));
    assert!(!gave(Verdict::Pass, &[]).differs(&gave(Verdict::Inconclusive, &[])));
}
