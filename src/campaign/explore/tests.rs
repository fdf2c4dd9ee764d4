// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use crate::scenario::{At, Until};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::fake::{Bug, Op, Race, call};
use super::minimise::minimise;
use super::*;
use crate::event::{Class, EventSink};
use crate::scenario::{CallPhase, Hold, Step, What, WirePhase};

fn settings(schedules: u32) -> Settings {
    Settings {
        budget: Budget::Schedules(schedules),
        seed: 1,
        depth: 3,
        stop_at_first: false,
        target: FunctionId::Vf(2),
    }
}

fn search<R: Runner>(runner: &mut R, settings: &Settings) -> Exploration {
    let stop = AtomicBool::new(false);
    explore(runner, settings, "explore", &stop, &EventSink::discard())
}

fn texts(exploration: &Exploration) -> Vec<String> {
    let tried = exploration.tried.iter();
    tried.map(|tried| tried.schedule.to_string()).collect()
}

/// An AB-BA: each side takes two locks, in opposite orders.
fn abba() -> Race {
    let mut race = Race::plain(12, 8, Bug::Deadlock);
    for (at, op) in [
        (3, Op::Lock(0)),
        (5, Op::Lock(1)),
        (8, Op::Unlock(1)),
        (9, Op::Unlock(0)),
    ] {
        race.teardown[at].1 = op;
    }
    for (at, op) in [
        (1, Op::Lock(1)),
        (4, Op::Lock(0)),
        (5, Op::Unlock(0)),
        (6, Op::Unlock(1)),
    ] {
        race.unplug[at].1 = op;
    }
    race
}

#[test]
fn an_ab_ba_deadlock_is_found_by_a_single_hold() {
    let mut race = abba();
    let found = search(&mut race, &settings(60));
    assert_eq!(found.outcomes[0].verdict, Verdict::Deadlock);
    assert!(found.outcomes[0].is_wanted());
    let number = found.found.unwrap() as usize;
    assert_eq!(found.tried[number - 1].schedule, found.outcomes[0].schedule);
    assert_eq!(found.exit(), ExitCode::Bad);
    let smallest = found.minimised.unwrap();
    assert_eq!((smallest.shown, smallest.of), (3, 3));
    assert!(smallest.schedule.steps.len() == 1);
    assert_eq!(
        race.run(&smallest.schedule).unwrap().verdict,
        Verdict::Deadlock
    );
}

#[test]
fn a_bug_of_depth_three_needs_the_random_schedules() {
    // Several steps of the unplug within one of the teardown, and then the other way round.
    let (t, u) = (Role::Teardown, Role::Unplug);
    let bug = Bug::Order(vec![(t, 5), (u, 0), (u, 4), (t, 6), (t, 9), (u, 5)]);
    let mut race = Race::plain(12, 8, bug);
    let shallow = search(
        &mut race,
        &Settings {
            depth: 2,
            ..settings(4000)
        },
    );
    assert_eq!(shallow.found, None, "{:?}", shallow.outcomes);
    assert_eq!(shallow.end, End::Exhausted);
    assert_eq!(shallow.exit(), ExitCode::Good);
    let found = search(&mut race, &settings(600));
    let number = found.found.unwrap();
    assert_eq!(found.tried[number as usize - 1].kind, Kind::Pct);
    let floor = found.floor.unwrap();
    assert_eq!((floor.tasks, floor.steps, floor.depth), (2, 20, 3));
    assert!((floor.floor - 1.0 / 800.0).abs() < 1e-12);
    let pct = found.tried.iter().filter(|t| t.kind == Kind::Pct).count();
    assert_eq!(floor.schedules as usize, pct);
    let expected = 1.0 - (1.0 - 1.0 / 800.0_f64).powi(pct as i32);
    assert!((floor.reached() - expected).abs() < 1e-9);
    // two stops are the least that shows it
    let smallest = found.minimised.unwrap();
    assert_eq!((smallest.shown, smallest.schedule.steps.len()), (3, 2));
    assert!(race.run(&smallest.schedule).unwrap().is_wanted());
}

#[test]
fn what_is_not_needed_is_left_out() {
    // Three stops are given where one is enough.
    let bug = Bug::Window {
        unplug: 7,
        after: 4,
        before: 5,
    };
    let mut race = Race::plain(12, 8, bug);
    let t = |at: usize| race.teardown[at].0.clone();
    let u = race.unplug[2].0.clone();
    let step = |at: Point, fire, until| Step {
        at: At::Point(at),
        fire,
        hold: Some(Hold {
            until,
            at_most: Duration::from_secs(1),
        }),
        returns: None,
    };
    let beginning = Schedule {
        first: Role::Teardown,
        steps: vec![
            step(t(1), true, Until::OtherAt(u.clone())),
            step(u, false, Until::OtherAt(t(5))),
            step(t(5), false, Until::OtherRests),
        ],
    };
    let mut best = None;
    let mut trials = 0;
    let trial = |schedule: &Schedule| {
        trials += 1;
        Ok(race.run(schedule).unwrap().is_wanted())
    };
    assert!(minimise(std::slice::from_ref(&beginning), &mut best, trial).is_ok());
    let best = best.unwrap();
    assert_eq!(
        best.schedule.to_string(),
        "teardown first; teardown/vf2:call:f1#0@enter fire; teardown/vf2:call:f5#0@enter until other-rests <=1ms"
    );
    assert!(trials <= 30, "{trials} rounds");
}

#[test]
fn a_finding_that_does_not_come_again_is_not_minimised() {
    let beginning = Race::plain(2, 2, Bug::None).unplug[0].0.clone();
    let schedule = Schedule {
        first: Role::Unplug,
        steps: vec![Step {
            at: At::Point(beginning),
            fire: true,
            hold: None,
            returns: None,
        }],
    };
    let mut best = None;
    let mut shown = [true, false, false].into_iter();
    let trial = |_: &Schedule| Ok(shown.next().unwrap());
    assert!(minimise(std::slice::from_ref(&schedule), &mut best, trial).is_ok());
    let best = best.unwrap();
    assert_eq!((best.schedule, best.shown, best.of), (schedule, 1, 3));
}

#[test]
fn the_target_comes_first_and_then_the_pf() {
    let mut race = Race::plain(0, 0, Bug::None);
    for at in 0..24 {
        let function = [FunctionId::Vf(1), FunctionId::Pf, FunctionId::Vf(2)][at % 3];
        let name = format!("f{at}");
        for (side, role) in [
            (&mut race.teardown, Role::Teardown),
            (&mut race.unplug, Role::Unplug),
        ] {
            side.push((call(role, function, &name, CallPhase::Enter), Op::Nothing));
        }
    }
    let found = search(&mut race, &settings(1000));
    let functions: Vec<FunctionId> = found
        .tried
        .iter()
        .filter(|tried| tried.kind == Kind::Hold)
        .map(|tried| match &tried.schedule.steps[0].at {
            At::Point(point) => point.function.unwrap(),
            At::Time { .. } => panic!("a hold is at a point"),
        })
        .collect();
    let expected = [FunctionId::Vf(2), FunctionId::Pf, FunctionId::Vf(1)];
    let expected: Vec<FunctionId> = expected.iter().flat_map(|f| [*f; 16]).collect();
    assert_eq!(functions, expected);
    assert_eq!((found.teardown.known, found.teardown.reached), (24, 24));
    // the first schedules go to both sides and across the trace
    let first: BTreeSet<String> = texts(&found)[2..6].iter().cloned().collect();
    let hold = |role: &str, at: u32| {
        format!("{role} first; {role}/vf2:call:f{at}#0@enter fire until other-rests <=1000ms")
    };
    let expected = [
        hold("teardown", 2),
        hold("unplug", 2),
        hold("teardown", 14),
        hold("unplug", 14),
    ];
    assert_eq!(first, expected.into_iter().collect());
}

#[test]
fn messages_stop_the_teardown_only_and_second_ends_come_last() {
    let wire = |nth, phase| Point {
        role: None,
        function: Some(FunctionId::Vf(2)),
        what: What::Wire {
            message: "GET_VRING_BASE".to_owned(),
            phase,
        },
        nth,
    };
    let mut race = Race::plain(0, 0, Bug::None);
    let t = |name, phase| call(Role::Teardown, FunctionId::Vf(2), name, phase);
    race.teardown = vec![
        (t("outer", CallPhase::Enter), Op::Nothing),
        (wire(0, WirePhase::Request), Op::Nothing),
        (wire(0, WirePhase::Reply), Op::Nothing),
        (t("leaf", CallPhase::Enter), Op::Nothing),
        (t("leaf", CallPhase::Return), Op::Nothing),
        (t("outer", CallPhase::Return), Op::Nothing),
    ];
    race.unplug = vec![
        (wire(1, WirePhase::Request), Op::Nothing),
        (
            call(Role::Unplug, FunctionId::Vf(2), "f", CallPhase::Enter),
            Op::Nothing,
        ),
    ];
    let found = search(
        &mut race,
        &Settings {
            depth: 1,
            ..settings(1000)
        },
    );
    let holds: Vec<String> = found
        .tried
        .iter()
        .filter(|tried| tried.kind == Kind::Hold)
        .map(|tried| tried.schedule.to_string())
        .collect();
    assert_eq!(holds.len(), 7, "{holds:#?}");
    assert!(
        holds[5].contains("@reply fire until other-rests <=100ms"),
        "{holds:#?}"
    );
    assert!(holds[6].contains("leaf#0@return"), "{holds:#?}");
    assert!(
        !holds
            .iter()
            .any(|text| text.starts_with("unplug first; vf2:wire"))
    );
    assert_eq!((found.unplug.known, found.unplug.reached), (1, 1));
    // what is one candidate is covered as one
    let part = search(
        &mut race,
        &Settings {
            depth: 1,
            ..settings(8)
        },
    );
    assert_eq!(part.tried.len(), 8);
    assert_eq!(
        part.teardown,
        Covered {
            reached: 6,
            known: 6
        }
    );
}

#[test]
fn delays_double_up_to_the_length_of_the_teardown() {
    let mut race = Race::plain(20, 4, Bug::None);
    let found = search(&mut race, &settings(1000));
    let delays: Vec<String> = found
        .tried
        .iter()
        .filter(|tried| tried.kind == Kind::Delay)
        .map(|tried| tried.schedule.to_string())
        .collect();
    let expected: Vec<String> = [0, 1, 2, 4, 8, 16]
        .iter()
        .map(|ms| format!("teardown first; teardown+{ms}ms fire"))
        .collect();
    assert_eq!(delays, expected);
    // they are spread among the others
    assert_eq!(found.tried[7].kind, Kind::Delay);
    assert_eq!(found.tried[8].kind, Kind::Hold);
}

/// Stops the search in the middle of a round.
struct Stopping<'a>(Race, &'a AtomicBool, u32);

impl Runner for Stopping<'_> {
    type Error = fake::Broken;

    fn trace(&mut self, first: Role) -> Result<Trace, fake::Broken> {
        self.0.trace(first)
    }

    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, fake::Broken> {
        self.2 -= 1;
        self.1.store(self.2 == 0, Ordering::Release);
        self.0.run(schedule)
    }

    fn effort(&self) -> Effort {
        self.0.effort()
    }
}

#[test]
fn a_search_that_is_stopped_gives_what_it_knows() {
    for (after, minimised) in [(1, false), (20, false), (60, true)] {
        let stop = AtomicBool::new(false);
        let mut runner = Stopping(abba(), &stop, after);
        let found = explore(
            &mut runner,
            &settings(58),
            "explore",
            &stop,
            &EventSink::discard(),
        );
        assert_eq!(found.end, End::Interrupted);
        assert_eq!(found.exit(), ExitCode::Interrupted);
        // The round that was cut short says nothing.
        assert_eq!(found.tried.len(), (after as usize - 1 + 2).min(58));
        assert_eq!(found.found.is_some(), after > 1);
        assert_eq!(
            found.minimised.is_some(),
            minimised,
            "stopped after {after}"
        );
    }
}

/// Gives out the same outcome again and again.
struct Same(Result<Verdict, ()>, Vec<Finding>, f64);

impl Runner for Same {
    type Error = fake::Broken;

    fn trace(&mut self, first: Role) -> Result<Trace, fake::Broken> {
        let mut race = Race::plain(40, 10, Bug::None);
        let mut trace = race.trace(first)?;
        trace.outcome = self.run(&Schedule {
            first,
            steps: Vec::new(),
        })?;
        Ok(trace)
    }

    fn run(&mut self, _: &Schedule) -> Result<Outcome, fake::Broken> {
        Ok(Outcome {
            verdict: self.0.map_err(|()| fake::Broken)?,
            findings: self.1.clone(),
            points_reached: Vec::new(),
            schedule_kept: false,
            seconds: self.2,
        })
    }

    fn effort(&self) -> Effort {
        Effort::default()
    }
}

#[test]
fn exit_codes() {
    let exit = |outcome| {
        let found = search(&mut Same(outcome, Vec::new(), 1.0), &settings(9));
        (found.exit(), found.end, found.tried.len())
    };
    let failed = End::Failed {
        reason: "the fake broke".to_owned(),
    };
    assert_eq!(exit(Ok(Verdict::Pass)), (ExitCode::Good, End::Budget, 9));
    assert_eq!(
        exit(Ok(Verdict::Inconclusive)),
        (ExitCode::CannotTell, End::Budget, 9)
    );
    assert_eq!(
        exit(Ok(Verdict::BootFail)),
        (ExitCode::CannotTell, End::NoGuest, 3)
    );
    assert_eq!(
        exit(Ok(Verdict::Infra)),
        (ExitCode::Infrastructure, End::NoGuest, 3)
    );
    assert_eq!(exit(Ok(Verdict::Silent)), (ExitCode::Bad, End::Budget, 9));
    assert_eq!(exit(Err(())), (ExitCode::Infrastructure, failed, 0));
}

#[test]
fn a_time_is_a_budget_too() {
    let settings = Settings {
        budget: "1m".parse().unwrap(),
        ..settings(1)
    };
    let found = search(&mut Same(Ok(Verdict::Pass), Vec::new(), 7.0), &settings);
    // no round begins after the minute
    assert_eq!((found.tried.len(), found.end), (9, End::Budget));
}

#[test]
fn budgets_are_numbers_or_times() {
    for good in ["60", "10m", "1h 30m", "90s"] {
        assert!(good.parse::<Budget>().is_ok(), "{good}");
    }
    for bad in ["0", "0s", "-1", "ten", "", "10 parsecs"] {
        assert!(bad.parse::<Budget>().is_err(), "{bad}");
    }
    assert_eq!("600s".parse::<Budget>().unwrap().to_string(), "10m");
    assert_eq!("60".parse::<Budget>().unwrap().to_string(), "60");
}

#[test]
fn outcomes_are_told_apart_by_what_matters() {
    let finding = |title: &str, frame: Option<&str>, standing| Finding {
        frame: frame.map(str::to_owned),
        ..Finding::new(Class::UseAfterFree, title, standing)
    };
    let findings = vec![
        finding(
            "KASAN: use at ffff888101234567 of size 8",
            None,
            Standing::Other,
        ),
        finding(
            "KASAN: use at ffff88810fedc0a8 of size 16",
            None,
            Standing::Other,
        ),
        finding("KASAN: one", Some("pci_stop_dev"), Standing::Wanted),
        finding("KASAN: another", Some("pci_stop_dev"), Standing::Wanted),
        finding("KASAN: one", Some("device_del"), Standing::Known),
    ];
    let found = search(&mut Same(Ok(Verdict::Finding), findings, 1.0), &settings(5));
    let told: Vec<(&str, u32, u32)> = found
        .outcomes
        .iter()
        .map(|seen| (seen.telling.as_deref().unwrap(), seen.first, seen.count))
        .collect();
    assert_eq!(
        told,
        [("pci_stop_dev", 1, 5), ("KASAN: use at N of size N", 1, 5)]
    );
    assert_eq!(
        outcomes::without_numbers("vf12: refs 0x1f - 3, face"),
        "vfN: refs N - N, face"
    );
}

#[test]
fn spread_covers_and_begins_wide() {
    for n in 0..200 {
        let all: BTreeSet<usize> = plan::spread(n).collect();
        assert_eq!(all, (0..n).collect(), "{n}");
        assert_eq!(plan::spread(n).count(), n);
    }
    assert_eq!(
        plan::spread(8).collect::<Vec<_>>(),
        [0, 4, 2, 6, 1, 5, 3, 7]
    );
}

/// A guest that can be damaged.
struct Guest(Race, bool);

impl Boot for Guest {
    type Error = fake::Broken;

    fn trace(&mut self, first: Role) -> Result<Trace, fake::Broken> {
        self.0.trace(first)
    }

    fn round(&mut self, schedule: &Schedule) -> Result<Outcome, fake::Broken> {
        assert!(!self.1, "a damaged guest is asked again");
        let outcome = self.0.run(schedule)?;
        self.1 = outcome.verdict == Verdict::Deadlock;
        Ok(outcome)
    }

    fn damaged(&self) -> bool {
        self.1
    }
}

#[test]
fn a_damaged_guest_is_replaced() {
    let mut guests = Guests::new(|_| Ok(Guest(abba(), false)), 1000);
    let found = search(&mut guests, &settings(60));
    let wanted: u32 = found
        .outcomes
        .iter()
        .filter(|s| s.is_wanted())
        .map(|s| s.count)
        .sum();
    let smallest = found.minimised.unwrap();
    assert_eq!(found.effort.rounds, 60 + smallest.rounds);
    assert!(found.effort.boots > wanted && found.effort.boots <= 1 + wanted + smallest.rounds);
    // each may serve one round only
    let mut guests = Guests::new(|_| Ok(Guest(Race::plain(9, 9, Bug::None), false)), 1);
    let found = search(&mut guests, &settings(10));
    assert_eq!(
        found.effort,
        Effort {
            boots: 10,
            rounds: 10
        }
    );
}

proptest! {
    #[test]
    fn a_window_is_found_whatever_it_is(
        teardown in 2..=36_usize,
        unplug in 1..=10_usize,
        at in any::<prop::sample::Index>(),
        critical in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let after = at.index(teardown - 1);
        let bug = Bug::Window { unplug: critical.index(unplug), after, before: after + 1 };
        let mut race = Race::plain(teardown, unplug, bug.clone());
        let found = search(&mut race, &Settings { seed, ..settings(60) });
        prop_assert!(found.found.is_some_and(|number| number <= 60));
        // the smallest schedule still shows it, and it is the same for the same seed
        let smallest = found.minimised.clone().unwrap();
        prop_assert_eq!(smallest.shown, 3);
        prop_assert!(race.run(&smallest.schedule).unwrap().is_wanted());
        let again = search(&mut Race::plain(teardown, unplug, bug), &Settings { seed, ..settings(60) });
        prop_assert_eq!(texts(&found), texts(&again));
        prop_assert_eq!(again.minimised.unwrap(), smallest);
    }

    #[test]
    fn a_wide_window_is_found_in_a_long_trace(
        teardown in 100..=400_usize,
        at in any::<prop::sample::Index>(),
    ) {
        // A sixteenth of the trace.
        let width = teardown / 16 + 1;
        let after = at.index(teardown - width);
        let bug = Bug::Window { unplug: 2, after, before: after + width };
        let found = search(&mut Race::plain(teardown, 20, bug), &settings(60));
        prop_assert!(found.found.is_some());
    }

    #[test]
    fn nothing_is_run_twice_or_beyond_the_budget(
        teardown in 0..=12_usize,
        unplug in 0..=6_usize,
        budget in 1..=150_u32,
        depth in 1..=5_u32,
        seed in any::<u64>(),
        stop_at_first in any::<bool>(),
    ) {
        let bug = Bug::Window { unplug: 0, after: 1, before: 2 };
        let mut race = Race::plain(teardown, unplug, bug);
        let settings = Settings { depth, seed, stop_at_first, ..settings(budget) };
        let found = search(&mut race, &settings);
        prop_assert!(found.tried.len() <= budget as usize);
        let different: BTreeSet<String> = texts(&found).into_iter().collect();
        prop_assert_eq!(different.len(), found.tried.len());
        let minimised = found.minimised.as_ref();
        let (more, beyond) = minimised.map_or((0, 0), |m| (m.rounds, m.beyond_budget));
        prop_assert!(beyond <= EXTRA_ROUNDS);
        prop_assert_eq!(race.effort().rounds, found.tried.len() as u32 + more);
        prop_assert!(race.effort().rounds <= budget + beyond);
        if stop_at_first {
            prop_assert!(found.found.is_none_or(|number| number as usize == found.tried.len()));
        }
        // every step is at a place of the first side or is waited for, and only the first one fires
        for tried in &found.tried {
            for (at, step) in tried.schedule.steps.iter().enumerate() {
                prop_assert_eq!(step.fire, at == 0);
            }
        }
    }
}
