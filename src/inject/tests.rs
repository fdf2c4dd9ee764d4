// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use crate::event::{FunctionId, Target};
use crate::scenario::{CallPhase, LockName};

fn record(pid: u32, what: Observation) -> GuestRecord {
    GuestRecord {
        number: 0,
        guest_ns: 0,
        pid,
        cpu: 1,
        comm: "vfrace-unplug".to_owned(),
        what,
    }
}

fn message(function: FunctionId, from: Side, name: &str, nth: u32) -> WireMessage {
    WireMessage {
        function,
        from,
        message: name.to_owned(),
        vring: None,
        value: None,
        need_reply: false,
        size: 8,
        fds: 0,
        nth,
        answered_by_tap: false,
    }
}

const AT_MOST: Duration = Duration::from_millis(20);

fn wire() -> Point {
    Point {
        role: None,
        function: Some(FunctionId::Vf(2)),
        what: What::Wire {
            message: "GET_VRING_BASE".to_owned(),
            phase: WirePhase::Request,
        },
        nth: 0,
    }
}

fn call(role: Role, call: &str) -> Point {
    Point {
        role: Some(role),
        function: Some(FunctionId::Pf),
        what: What::Call {
            call: call.to_owned(),
            phase: CallPhase::Enter,
        },
        nth: 0,
    }
}

fn unplug() -> Option<Unplug> {
    Some(Unplug {
        actuator: Actuator::Platform,
        target: Target::Function(FunctionId::Vf(2)),
    })
}

fn schedule(at: At, until: Option<Until>) -> Schedule {
    Schedule {
        first: Role::Teardown,
        steps: vec![Step {
            at,
            fire: true,
            hold: until.map(|until| Hold {
                until,
                at_most: AT_MOST,
            }),
            returns: None,
        }],
    }
}

fn arm(injector: &Injector, schedule: Schedule) {
    let plan = Plan::new(&schedule);
    injector.arm(schedule, plan, unplug());
}

fn began(event: u32) -> Observation {
    Observation::UnplugSeen {
        event,
        function: Some(FunctionId::Vf(2)),
    }
}

#[test]
fn only_the_very_message_is_the_point() {
    let point = wire();
    let there = |function, from, name, nth| is_at(&point, &message(function, from, name, nth));
    assert!(there(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 0));
    assert!(!there(FunctionId::Vf(1), Side::Qemu, "GET_VRING_BASE", 0));
    assert!(!there(
        FunctionId::Vf(2),
        Side::Backend,
        "GET_VRING_BASE",
        0
    ));
    assert!(!there(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 1));
    assert!(!there(FunctionId::Vf(2), Side::Qemu, "SET_VRING_ENABLE", 0));
}

#[test]
fn the_handler_is_committed_in_its_body_or_at_a_taken_lock() {
    let body = |pid, vf| {
        record(
            pid,
            Observation::Enter {
                call: "pci_stop_and_remove_bus_device".to_owned(),
                function: Some(FunctionId::Vf(vf)),
                instance: None,
                stack: vec!["pci_iov_remove_virtfn".to_owned()],
            },
        )
    };
    let waits = |pid, owner| record(pid, Observation::LockWait { owner });
    let committed = Until::OtherCommitted;
    let mut other = OtherSide::new(Some(FunctionId::Vf(2)));
    // the teardown's own body says nothing about the handler
    assert_eq!(other.take(&body(50, 2), &committed), None);
    assert_eq!(other.take(&record(60, began(3)), &committed), None);
    assert_eq!(other.take(&body(50, 2), &committed), None);
    assert_eq!(other.take(&waits(60, 0), &committed), None);
    assert_eq!(other.take(&body(60, 1), &committed), None);
    assert_eq!(other.take(&body(60, 2), &committed), Some(HoldEnd::Reached));
    assert_eq!(
        other.take(&waits(60, 50), &committed),
        Some(HoldEnd::Reached)
    );
    assert_eq!(other.take(&waits(50, 60), &committed), None);
    let done = record(
        60,
        Observation::UnplugDone {
            event: 3,
            status: 0,
        },
    );
    assert_eq!(other.take(&done, &committed), Some(HoldEnd::Reached));
    // what cannot come any more is not waited for
    let lock = Until::OtherBlocked(Some(LockName::RescanRemove));
    assert_eq!(other.take(&done, &lock), Some(HoldEnd::Missed));
}

#[test]
fn a_point_fires_once_and_an_order_that_fails_is_told() {
    let (events, received) = EventSink::new();
    let injector = Injector::new(events, Observations::default());
    let at = message(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 0);
    injector.on_message(&at);
    assert_eq!(received.try_iter().count(), 0, "not armed");
    arm(
        &injector,
        schedule(At::Point(wire()), Some(Until::OtherStarted)),
    );
    injector.on_message(&message(FunctionId::Vf(1), Side::Qemu, "GET_VRING_BASE", 0));
    assert_eq!(received.try_iter().count(), 0, "somewhere else");
    injector.on_message(&at);
    injector.on_message(&at);
    let seen: Vec<_> = received.try_iter().map(|event| event.kind).collect();
    assert!(
        matches!(seen.as_slice(), [EventKind::PointReached { .. }]),
        "{seen:?}"
    );
    assert!(matches!(
        injector.failure(),
        Some(OrderError::Mailbox(MailboxError::NotConnected))
    ));
}

#[test]
fn a_call_point_of_the_guest_fires_as_well() {
    let injector = Injector::new(EventSink::discard(), Observations::default());
    let point = call(Role::Teardown, "sriov_disable");
    arm(&injector, schedule(At::Point(point.clone()), None));
    let at = |text: &str| {
        record(
            50,
            Observation::Point {
                point: text.to_owned(),
            },
        )
    };
    injector.on_record(&at("teardown/pf:call:device_del#0@enter"));
    assert_eq!(injector.fired(), 0);
    injector.on_record(&at(&point.to_string()));
    injector.on_record(&at(&point.to_string()));
    assert_eq!(injector.fired(), 1, "once");
}

#[test]
fn a_time_counts_from_the_side_that_it_names() {
    let injector = Injector::new(EventSink::discard(), Observations::default());
    let time = At::Time {
        role: Role::Teardown,
        after: Duration::from_millis(1),
    };
    arm(&injector, schedule(time.clone(), None));
    injector.on_record(&record(60, began(1)));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(injector.fired(), 0, "that was the other side");
    let role = "teardown".to_owned();
    injector.on_record(&record(50, Observation::Task { role: role.clone() }));
    let end = Instant::now() + Duration::from_secs(5);
    while injector.fired() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(injector.fired(), 1);
    // a clock of a round that is over does nothing
    arm(&injector, schedule(time, None));
    injector.on_record(&record(50, Observation::Task { role }));
    injector.disarm();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(injector.fired(), 1);
}

#[test]
fn a_slot_that_is_not_there_is_told() {
    let injector = Injector::new(EventSink::discard(), Observations::default());
    let slot = Unplug {
        actuator: Actuator::PciehpSurprise,
        target: Target::Slot,
    };
    let schedule = schedule(At::Point(wire()), None);
    injector.arm(schedule.clone(), Plan::new(&schedule), Some(slot));
    injector.on_message(&message(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 0));
    assert!(matches!(
        injector.failure(),
        Some(OrderError::NoActuator("pciehp-surprise"))
    ));
}

#[test]
fn a_hold_says_why_it_ended() {
    let (events, received) = EventSink::new();
    let seen = Observations::default();
    let injector = Injector::new(events, seen.clone());
    let hold = |until| {
        let hold = Hold {
            until,
            at_most: AT_MOST,
        };
        injector.hold(&wire(), &hold, &mut OtherSide::new(None), 0);
        let end = received.try_iter().find_map(|event| match event.kind {
            EventKind::HoldEnded { end, .. } => Some(end),
            _ => None,
        });
        end.unwrap()
    };
    assert_eq!(hold(Until::OtherStarted), HoldEnd::Bound);
    assert_eq!(hold(Until::Time), HoldEnd::Reached);
    seen.push(record(60, began(1)));
    assert_eq!(hold(Until::OtherStarted), HoldEnd::Reached);
    injector.stop();
    assert_eq!(hold(Until::OtherCommitted), HoldEnd::Stopped);
}
