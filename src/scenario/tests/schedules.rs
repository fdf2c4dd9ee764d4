// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::time::Duration;

use proptest::prelude::*;

use super::points::any_point;
use super::{GOOD, parse, rendered};
use crate::event::{FunctionId, Role, Target};
use crate::scenario::{
    Actuator, At, Hold, LockName, Scenario, Schedule, ScheduleError, Step, Unplug, Until,
};

/// Three VFs, unbind, the platform takes VF 2.
fn race() -> Scenario {
    parse("x", "x.toml", GOOD, &[]).unwrap()
}

fn with(actuator: Actuator, target: Target) -> Scenario {
    Scenario {
        unplug: Some(Unplug { actuator, target }),
        ..race()
    }
}

fn control() -> Scenario {
    Scenario {
        unplug: None,
        ..race()
    }
}

fn told(text: &str, e: &ScheduleError) -> String {
    format!(
        "{text}\n  {} | <{}> | {}\n",
        e.what,
        &text[e.at.clone()],
        e.hint
    )
}

fn refused(scenario: &Scenario, texts: &[&str]) -> String {
    let said = texts.iter().map(|text| {
        let e = Schedule::read(text, scenario).expect_err(text);
        // What is refused as a text is refused as a schedule.
        if let Ok(schedule) = text.parse::<Schedule>() {
            assert_eq!(schedule.check(scenario).unwrap_err().what, e.what);
        }
        told(text, &e)
    });
    said.collect()
}

#[test]
fn space_and_defaults_are_free() {
    let long = "teardown first; vf1:wire:GET_VRING_BASE#0@request fire until other-committed <=100ms; \
                unplug/pf:call:a#0@enter until other-at(teardown/pf:call:b#0@enter) <=2000ms return -12; \
                teardown/any:call:c#0@enter until other-blocked(device_lock(pf)) <=5ms";
    let short = "\n vf1:wire:GET_VRING_BASE fire until other-committed;;unplug/pf:call:a  until other-at ( teardown/pf:call:b )\
                 \treturn -12 ;\nteardown/any:call:c until other-blocked( device_lock (pf) )<= 5 ms;";
    let schedule: Schedule = short.parse().unwrap();
    assert_eq!(schedule.to_string(), long);
    assert_eq!(long.parse::<Schedule>().unwrap(), schedule);
    let time: Schedule = "unplug first;unplug + 7 ms fire".parse().unwrap();
    assert_eq!(time.to_string(), "unplug first; unplug+7ms fire");
    assert_eq!(
        "teardown first".parse::<Schedule>().unwrap(),
        Schedule::undirected(false)
    );
    assert_eq!(
        "teardown+0ms fire".parse::<Schedule>().unwrap(),
        Schedule::undirected(true)
    );
}

#[test]
fn mistakes_in_schedules_point_at_their_place() {
    let said: Vec<String> = [
        "",
        " \n ",
        "nobody first",
        "teardow first; teardown+0ms fire",
        "teardown first fire",
        "teardown+0ms fire; teardown first",
        "teardown",
        "teardown fire",
        "fire",
        "teardown+",
        "teardown+5 fire",
        "teardown+5s fire",
        "teardown+-5ms fire",
        "teardown+60001ms fire",
        "teardown+99999999999999999999ms fire",
        "vf1+5ms fire",
        "teardown+5ms",
        "teardown+5ms fire until time",
        "vf1:wire:GET_VRING_BAES fire",
        "pf:call:x shoot",
        "pf:call:x fier",
        "pf:call:x fire fire",
        "pf:call:x until time fire",
        "pf:call:x (fire)",
        "pf:call:x until",
        "pf:call:x until; pf:call:y",
        "pf:call:x until other-rest",
        "pf:call:x until when",
        "pf:call:x until other-at",
        "pf:call:x until other-at(y)",
        "pf:call:x until other-at(pf:call:y",
        "pf:call:x until other-blocked()",
        "pf:call:x until other-blocked(pci_bus_sem)",
        "pf:call:x until other-blocked(pci_rescan_lock)",
        "pf:call:x until other-blocked(device_lock)",
        "pf:call:x until other-blocked(device_lock(mailbox))",
        "pf:call:x until time <5ms",
        "pf:call:x until time <=",
        "pf:call:x until time <=30001ms",
        "pf:wire:GET_FEATURES until time <=10001ms",
        "pf:call:x return",
        "pf:call:x return ENOMEM",
        "pf:call:é fire",
    ]
    .iter()
    .map(|text| told(text, &text.parse::<Schedule>().expect_err(text)))
    .collect();
    insta::assert_snapshot!(said.concat());
}

#[test]
fn what_makes_no_sense_for_a_race_is_refused() {
    let said = refused(
        &race(),
        &[
            "teardown first",
            "pf:call:x; vf1:wire:GET_FEATURES until time <=5ms",
            "teardown+0ms fire; vf1:wire:GET_FEATURES fire",
            "vf9:wire:GET_FEATURES fire",
            "vf9:call:x fire",
            "teardown/pf:call:x fire until other-at(unplug/vf9:call:x)",
            "teardown/pf:call:x fire until other-blocked(device_lock(vf9))",
            "pf:call:x fire until time",
            "teardown/pf:call:x fire until other-at(teardown/pf:call:y)",
            "vf1:wire:GET_FEATURES fire until other-blocked(device_lock(pf))",
            "vf1:wire:GET_FEATURES fire until other-at(vf2:wire:GET_FEATURES)",
            "vf1:wire:GET_FEATURES fire return 0",
            "any:call:x fire return -12",
            "teardown/pf:call:x fire; teardown/pf:call:x@enter until time",
            "unplug/pf:call:x fire",
            "unplug+5ms fire",
            "unplug first; teardown/pf:call:x fire",
            "unplug first; vf1:wire:GET_FEATURES fire",
            "teardown/pf:call:x until other-rests; teardown/pf:call:y fire",
            "unplug first; unplug/pf:call:x until other-done; unplug/pf:call:y fire",
            "teardown+0ms fire; teardown/pf:call:x until other-done; unplug/pf:call:x until other-done",
            "teardown+0ms fire; teardown/pf:call:a until other-at(unplug/pf:call:d); \
             teardown/pf:call:b; unplug/pf:call:c until other-at(teardown/pf:call:b); unplug/pf:call:d",
            // the hold that is waited for cannot be reached
            "teardown+0ms fire; teardown/pf:call:a until other-done; \
             teardown/pf:call:b until time; unplug/pf:call:c until other-at(teardown/pf:call:b)",
        ],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn what_makes_no_sense_without_an_unplug_is_refused() {
    let said = refused(
        &control(),
        &[
            "unplug first",
            "teardown+0ms fire",
            "pf:call:x fire",
            "unplug/pf:call:x",
            "teardown/pf:call:x until other-rests",
            "vf1:wire:GET_FEATURES until other-committed",
        ],
    );
    insta::assert_snapshot!(said);
    for text in [
        "teardown first",
        "teardown/pf:call:x until time",
        "vf1:call:x return -12",
    ] {
        Schedule::read(text, &control()).expect(text);
    }
}

#[test]
fn pciehp_cannot_begin_while_a_message_is_held() {
    for actuator in [Actuator::PciehpSurprise, Actuator::PciehpButton] {
        let slot = with(actuator, Target::Slot);
        let e = Schedule::read("vf1:wire:GET_FEATURES fire until other-started", &slot);
        let e = e.unwrap_err();
        assert!(e.what.contains(actuator.name()), "{}", e.what);
        for text in [
            "vf1:wire:GET_FEATURES fire",
            "vf1:wire:GET_FEATURES fire until time",
            "teardown/pf:call:x fire until other-started",
        ] {
            Schedule::read(text, &slot).expect(text);
        }
    }
    let rescan = with(Actuator::SysfsRescan, Target::Function(FunctionId::Pf));
    Schedule::read("vf1:wire:GET_FEATURES fire until other-started", &rescan).unwrap();
}

#[test]
fn what_can_work_is_taken() {
    for text in [
        "pf:call:x fire",
        "unplug first; any:call:x fire",
        "unplug first; unplug+5ms fire; vf1:wire:GET_FEATURES until other-done",
        "teardown/pf:call:x until time; teardown/pf:call:y fire",
        // the clock runs while the task is held
        "teardown/pf:call:x until other-started; teardown+5ms fire",
        // a point is reached before the task is held there
        "teardown+0ms fire; teardown/pf:call:x until other-at(unplug/pf:call:x); unplug/pf:call:x until other-rests",
        "teardown+0ms fire; teardown/pf:call:x until other-at(unplug/pf:call:x); \
         unplug/pf:call:x until other-at(teardown/pf:call:x)",
        "teardown+0ms fire; teardown/pf:call:x until other-at(unplug/pf:call:x); unplug/pf:call:x until other-done",
        "teardown+0ms fire; unplug/pf:call:x until other-at(vf1:wire:GET_FEATURES)",
        "teardown/pf:call:x fire until other-at(any:call:y)",
        "pf:call:x fire; pf:call:x#1",
    ] {
        let schedule =
            Schedule::read(text, &race()).unwrap_or_else(|e| panic!("{}", told(text, &e)));
        schedule.check(&race()).unwrap();
    }
}

#[test]
fn a_mistake_in_a_schedule_from_the_command_line_is_shown_in_it() {
    let mut scenario = race();
    let error = scenario
        .set_schedule("teardown/pf:call:sriov_disable fire until other-blocked(device_lok(pf))")
        .unwrap_err();
    insta::assert_snapshot!(rendered(error));
    assert_eq!(scenario, race());
    scenario.set_schedule("vf1:wire:GET_FEATURES fire").unwrap();
    assert_eq!(
        scenario.schedule.to_string(),
        "teardown first; vf1:wire:GET_FEATURES#0@request fire"
    );
}

fn any_until() -> impl Strategy<Value = Until> {
    prop_oneof![
        Just(Until::Time),
        Just(Until::OtherStarted),
        Just(Until::OtherCommitted),
        Just(Until::OtherDone),
        Just(Until::OtherRests),
        Just(Until::OtherBlocked(None)),
        Just(Until::OtherBlocked(Some(LockName::RescanRemove))),
        Just(Until::OtherBlocked(Some(LockName::Device(
            FunctionId::Bridge
        )))),
        (1u16..=255).prop_map(|n| Until::OtherBlocked(Some(LockName::Device(FunctionId::Vf(n))))),
        any_point().prop_map(Until::OtherAt),
    ]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Teardown), Just(Role::Unplug)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let time = (any_role(), 0u64..=60_000).prop_map(|(role, ms)| Step {
        at: At::Time {
            role,
            after: Duration::from_millis(ms),
        },
        fire: true,
        hold: None,
        returns: None,
    });
    let hold = (any_until(), 0u64..=10_000).prop_map(|(until, ms)| Hold {
        until,
        at_most: Duration::from_millis(ms),
    });
    let point = (
        any_point(),
        any::<bool>(),
        prop::option::of(hold),
        prop::option::of(any::<i64>()),
    )
        .prop_map(|(point, fire, hold, returns)| Step {
            at: At::Point(point),
            fire,
            hold,
            returns,
        });
    prop_oneof![1 => time, 4 => point]
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let steps = prop::collection::vec(any_step(), 0..6);
    (any_role(), steps).prop_map(|(first, steps)| Schedule { first, steps })
}

proptest! {
    #[test]
    fn every_schedule_is_read_back(schedule in any_schedule()) {
        let text = schedule.to_string();
        let read = text.parse::<Schedule>();
        prop_assert_eq!(read.as_ref(), Ok(&schedule), "{}", text);
        // and is taken or refused with a place in its text, by whatever scenario
        for scenario in [race(), control(), with(Actuator::PciehpButton, Target::Slot)] {
            if let Err(e) = schedule.check(&scenario) {
                prop_assert!(text.get(e.at.clone()).is_some(), "{:?} in {:?}", e, text);
            }
        }
    }

    #[test]
    fn space_between_words_does_not_matter(schedule in any_schedule(), space in "[ \t\n]{1,3}") {
        let text = schedule.to_string();
        let wide = ["(", ")", ";", "<=", " "]
            .iter()
            .fold(text, |text, c| text.replace(c, &format!("{space}{c}{space}")));
        prop_assert_eq!(wide.parse::<Schedule>().unwrap(), schedule);
    }

    #[test]
    fn any_text_is_a_schedule_or_an_error_inside_it(
        text in "\\PC{0,60}",
        schedule in any_schedule(),
        cut in any::<prop::sample::Index>(),
        with in "\\PC{0,3}|;|[(]|[)]|[+]|<=",
    ) {
        let mut bent = schedule.to_string();
        bent.insert_str(cut.index(bent.len() + 1), &with);
        for text in [text, bent] {
            match Schedule::read(&text, &race()) {
                Ok(s) => prop_assert_eq!(Schedule::read(&s.to_string(), &race()).unwrap(), s),
                Err(e) => prop_assert!(text.get(e.at.clone()).is_some(), "{:?} in {:?}", e, text),
            }
        }
    }
}
