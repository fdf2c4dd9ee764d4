// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use crate::scenario::Hold;

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

fn unplug(until: HoldUntil) -> Unplug {
    Unplug {
        actuator: Actuator::Platform,
        target: FunctionId::Vf(2),
        at: Point {
            function: FunctionId::Vf(2),
            message: "GET_VRING_BASE".to_owned(),
            nth: 0,
            phase: WirePhase::Request,
        },
        hold: Hold {
            until,
            at_most: Duration::from_millis(20),
        },
    }
}

#[test]
fn only_the_very_message_is_the_point() {
    let point = unplug(HoldUntil::None).at;
    assert!(is_at(
        &point,
        &message(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 0)
    ));
    assert!(!is_at(
        &point,
        &message(FunctionId::Vf(1), Side::Qemu, "GET_VRING_BASE", 0)
    ));
    assert!(!is_at(
        &point,
        &message(FunctionId::Vf(2), Side::Backend, "GET_VRING_BASE", 0)
    ));
    assert!(!is_at(
        &point,
        &message(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 1)
    ));
    assert!(!is_at(
        &point,
        &message(FunctionId::Vf(2), Side::Qemu, "SET_VRING_ENABLE", 0)
    ));
}

#[test]
fn the_handler_is_committed_in_its_body_or_at_a_taken_lock() {
    let body = |pid, vf| {
        record(
            pid,
            Observation::Enter {
                call: "pci_stop_and_remove_bus_device".to_owned(),
                function: Some(FunctionId::Vf(vf)),
                stack: vec!["pci_iov_remove_virtfn".to_owned()],
            },
        )
    };
    let mut committed = Committed {
        number: 3,
        target: FunctionId::Vf(2),
        handler: None,
    };
    // the teardown's own body says nothing about the handler
    assert!(!committed.reached(&body(50, 2)));
    assert!(!committed.reached(&record(
        60,
        Observation::UnplugSeen {
            event: 3,
            function: FunctionId::Vf(2)
        }
    )));
    assert!(!committed.reached(&body(50, 2)));
    assert!(!committed.reached(&record(60, Observation::LockWait { owner: 0 })));
    assert!(!committed.reached(&body(60, 1)));
    assert!(committed.reached(&body(60, 2)));
    assert!(committed.reached(&record(60, Observation::LockWait { owner: 50 })));
    assert!(!committed.reached(&record(50, Observation::LockWait { owner: 60 })));
    assert!(committed.reached(&record(60, Observation::UnplugDone { event: 3 })));
}

#[test]
fn a_point_fires_once_and_an_order_that_fails_is_told() {
    let (events, received) = EventSink::new();
    let injector = Injector::new(events, Observations::default());
    let at = message(FunctionId::Vf(2), Side::Qemu, "GET_VRING_BASE", 0);
    injector.on_message(&at);
    assert_eq!(received.try_iter().count(), 0, "not armed");
    injector.arm(unplug(HoldUntil::UnplugSeen));
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
        Some(MailboxError::NotConnected)
    ));
}

#[test]
fn a_hold_says_why_it_ended() {
    let (events, received) = EventSink::new();
    let seen = Observations::default();
    let injector = Injector::new(events, seen.clone());
    let ends = || {
        received
            .try_iter()
            .find_map(|event| match event.kind {
                EventKind::HoldEnded { end, .. } => Some(end),
                _ => None,
            })
            .unwrap()
    };
    injector.hold(&unplug(HoldUntil::UnplugSeen), 1, 0);
    assert_eq!(ends(), HoldEnd::Bound);
    injector.hold(&unplug(HoldUntil::Time), 1, 0);
    assert_eq!(ends(), HoldEnd::Reached);
    seen.push(record(
        60,
        Observation::UnplugSeen {
            event: 1,
            function: FunctionId::Vf(2),
        },
    ));
    injector.hold(&unplug(HoldUntil::UnplugSeen), 1, 0);
    assert_eq!(ends(), HoldEnd::Reached);
    injector.stop();
    injector.hold(&unplug(HoldUntil::UnplugCommitted), 1, 0);
    assert_eq!(ends(), HoldEnd::Stopped);
}
