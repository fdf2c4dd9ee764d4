// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Times out of made-up recordings.

use super::*;
use crate::event::{GuestRecord, HoldEnd, Invariants};

/// An event at a millisecond.
fn event(ms: u64, kind: EventKind) -> Event {
    Event {
        number: ms,
        ns: ms * 1_000_000,
        kind,
    }
}

fn told(ms: u64, what: Observation) -> Event {
    event(
        ms,
        EventKind::Guest(GuestRecord {
            number: ms,
            guest_ns: 0,
            pid: 1,
            cpu: 0,
            comm: String::new(),
            what,
        }),
    )
}

fn done(ms: u64) -> Event {
    told(
        ms,
        Observation::Done {
            command: 1,
            status: 0,
        },
    )
}

fn measured(ms: u64, label: &str) -> Event {
    told(
        ms,
        Observation::Measured {
            label: label.to_owned(),
            values: Invariants::default(),
        },
    )
}

fn phase(ms: u64, phase: Phase) -> Event {
    let (round, console) = (1, 0);
    event(
        ms,
        EventKind::Phase {
            phase,
            round,
            console,
        },
    )
}

fn round() -> Vec<Event> {
    let point = "vf2:wire:GET_VRING_BASE#0@request".to_owned();
    vec![
        done(1010),
        measured(1030, "before"),
        done(1031),
        done(1100),
        done(1104),
        phase(1105, Phase::Armed),
        phase(1106, Phase::Teardown),
        told(
            1110,
            Observation::Task {
                role: "teardown".into(),
            },
        ),
        event(
            1200,
            EventKind::PointReached {
                point: point.clone(),
            },
        ),
        event(
            1202,
            EventKind::HoldBegan {
                point: point.clone(),
                until: "time".into(),
            },
        ),
        event(
            1250,
            EventKind::HoldEnded {
                point,
                held_ns: 48_000_000,
                end: HoldEnd::Reached,
            },
        ),
        done(1400),
        phase(1401, Phase::Settle),
        measured(1450, "after"),
        done(1451),
        done(1453),
        event(1454, EventKind::Repaired { references: 1 }),
    ]
}

fn milliseconds(times: &RoundTimes) -> Vec<u128> {
    times.0.iter().map(Duration::as_millis).collect()
}

#[test]
fn the_parts_of_a_round_add_up() {
    let whole = Duration::from_millis(454);
    let times = RoundTimes::of(&round(), whole).unwrap();
    assert_eq!(
        milliseconds(&times),
        [10, 21, 69, 6, 94, 50, 151, 50, 3],
        "{times:?}"
    );
    assert_eq!(times.whole(), whole);
    assert_eq!(
        teardown_time(&round()),
        Some(Duration::from_millis(1400 - 1110))
    );
}

#[test]
fn what_a_round_did_not_do_takes_no_time() {
    let mut events = round();
    events.retain(|event| {
        !is_point(&event.kind) && !is_hold_over(&event.kind) && event.number != 1010
    });
    let times = RoundTimes::of(&events, Duration::from_millis(454)).unwrap();
    assert_eq!(milliseconds(&times), [0, 31, 69, 6, 0, 0, 295, 50, 3]);
}

#[test]
fn a_round_that_was_cut_short_has_no_times() {
    let events = round();
    for missing in [1030, 1106, 1401, 1450] {
        let mut events = events.clone();
        events.retain(|event| event.number != missing);
        assert_eq!(
            RoundTimes::of(&events, Duration::from_secs(1)),
            None,
            "{missing}"
        );
    }
    assert_eq!(RoundTimes::of(&[], Duration::ZERO), None);
    assert_eq!(teardown_time(&events[..9]), None);
}

#[test]
fn the_table_has_means_and_shares() {
    let mut slow = RoundTimes::default();
    slow.0[2] = Duration::from_millis(300);
    slow.0[4] = Duration::from_millis(100);
    let mut fast = RoundTimes::default();
    fast.0[2] = Duration::from_millis(100);
    fast.0[4] = Duration::from_millis(300);
    let lines = table(&[slow, fast]);
    assert_eq!(lines.len(), PARTS.len());
    assert_eq!(lines[2].part, "bind the PF, enable its VFs");
    assert!((lines[2].milliseconds - 200.0).abs() < 1e-9);
    assert!((lines[2].percent - 50.0).abs() < 1e-9);
    assert!(lines[0].milliseconds.abs() < 1e-9);
    assert_eq!(table(&[]), []);
}
