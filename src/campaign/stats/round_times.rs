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
mod tests;
