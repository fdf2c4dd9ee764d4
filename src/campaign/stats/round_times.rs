// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the time of a round goes, by the host's clock in its recording.

use std::time::Duration;

use serde::Serialize;

use crate::event::{Event, EventKind, Observation, Phase};

/// The parts of a round, in order.
pub const PARTS: [&str; 9] = [
    "unbind the PF",
    "measure before",
    "bind the PF, enable its VFs",
    "tell the plan, arm",
    "teardown until the point",
    "hold",
    "rest of the teardown",
    "settle and measure",
    "repair",
];

/// What each of [`PARTS`] took. Their sum is the whole round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTimes(pub [Duration; PARTS.len()]);

/// A line of the table of many rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Which part.
    pub part: &'static str,
    /// Mean over the rounds, milliseconds.
    pub milliseconds: f64,
    /// Its share of the whole, per cent.
    pub percent: f64,
}

impl RoundTimes {
    /// The times of one round that went through. `events` are those that it caused, from its very first on; `whole` is
    /// how long it took, up to the last of them. `None` if something is missing in them. A round without a point has
    /// its whole teardown behind it; without a hold there is none.
    pub fn of(events: &[Event], whole: Duration) -> Option<Self> {
        let end = events.last()?.ns;
        let begin = end.saturating_sub(nanoseconds(whole));
        let at = |from: usize, is: &dyn Fn(&EventKind) -> bool| {
            let rest = events.get(from..)?;
            let found = rest.iter().position(|event| is(&event.kind))?;
            Some(from + found)
        };
        let ns = |at: usize| events.get(at).map_or(end, |event| event.ns);
        let measured = |wanted: &'static str| move |kind: &EventKind| matches!(guest(kind), Some(Observation::Measured { label, .. }) if label == wanted);
        let done = |kind: &EventKind| matches!(guest(kind), Some(Observation::Done { .. }));
        let phase = |wanted: Phase| move |kind: &EventKind| matches!(kind, EventKind::Phase { phase, .. } if *phase == wanted);

        let before = at(0, &measured("before"))?;
        // A command that came before it unbound the PF; there is none if it was unbound.
        let first = events.get(..before).unwrap_or_default();
        let unbound = first.iter().rev().find(|event| done(&event.kind));
        let unbound = unbound.map_or(begin, |event| event.ns);
        let measured_before = at(before, &done)?;
        let up = at(measured_before + 1, &done)?;
        let teardown = at(up, &phase(Phase::Teardown))?;
        let settle = at(teardown, &phase(Phase::Settle))?;
        let point = at(teardown, &is_point).filter(|point| *point < settle);
        let point = point.map_or(ns(teardown), ns);
        let held = events.get(teardown..settle).unwrap_or_default();
        let held = held.iter().rev().find(|event| is_hold_over(&event.kind));
        let held = held.map_or(point, |event| event.ns);
        let after = at(at(settle, &measured("after"))?, &done)?;

        let ends = [
            unbound,
            ns(measured_before),
            ns(up),
            ns(teardown),
            point,
            held,
            ns(settle),
            ns(after),
            end,
        ];
        let mut times = Self::default();
        let mut last = begin;
        for (time, end) in times.0.iter_mut().zip(ends) {
            *time = Duration::from_nanos(end.saturating_sub(last));
            last = end.max(last);
        }
        Some(times)
    }

    /// The whole round.
    pub fn whole(&self) -> Duration {
        self.0.iter().sum()
    }
}

/// The means over many rounds, a line for each of [`PARTS`]. Empty without rounds.
pub fn table(rounds: &[RoundTimes]) -> Vec<Line> {
    let whole: f64 = rounds.iter().map(|round| round.whole().as_secs_f64()).sum();
    if rounds.is_empty() {
        return Vec::new();
    }
    let lines = PARTS.iter().enumerate().map(|(n, part)| {
        let times = rounds.iter().filter_map(|round| round.0.get(n));
        let sum: f64 = times.map(Duration::as_secs_f64).sum();
        Line {
            part,
            milliseconds: sum * 1e3 / rounds.len() as f64,
            percent: if whole > 0.0 {
                sum * 100.0 / whole
            } else {
                0.0
            },
        }
    });
    lines.collect()
}

/// How long the teardown of a round took, from the task that says so to its end. `None` if one is missing.
pub fn teardown_time(events: &[Event]) -> Option<Duration> {
    let began = events
        .iter()
        .position(|event| matches!(guest(&event.kind), Some(Observation::Task { .. })))?;
    let behind = events.get(began..)?;
    let ended = behind
        .iter()
        .find(|event| matches!(guest(&event.kind), Some(Observation::Done { .. })))?;
    let began = behind.first()?.ns;
    Some(Duration::from_nanos(ended.ns.saturating_sub(began)))
}

fn guest(kind: &EventKind) -> Option<&Observation> {
    match kind {
        EventKind::Guest(record) => Some(&record.what),
        _ => None,
    }
}

/// The schedule's point: the first of whatever says that it was reached.
fn is_point(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::PointReached { .. }
            | EventKind::UnplugFired { .. }
            | EventKind::HoldBegan { .. }
    ) || matches!(guest(kind), Some(Observation::Point { .. }))
}

fn is_hold_over(kind: &EventKind) -> bool {
    matches!(kind, EventKind::HoldEnded { .. })
        || matches!(guest(kind), Some(Observation::HoldOver { .. }))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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
}
