// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that serves round after round; and what both sides went through, out of its recording.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Boot, Outcome, Trace};
use crate::event::{
    Event, EventKind, FunctionId, HoldEnd, Observation, Phase, Role, Side, Verdict,
};
use crate::run::{Listener, RunConfig, RunError, Session};
use crate::scenario::{At, CallPhase, Point, Schedule, What, WirePhase};

/// A guest under way.
pub struct Guest<'a> {
    session: Option<Session<'a>>,
    ended: bool,
}

impl<'a> Guest<'a> {
    /// Boots it. `config` says everything but the schedules; `listener` gets the events.
    pub fn boot(config: RunConfig<'a>, listener: Listener) -> Result<Self, RunError> {
        Ok(Self {
            session: Some(Session::start(config, listener)?),
            ended: false,
        })
    }

    fn play<T>(
        &mut self,
        schedule: &Schedule,
        trace: bool,
        look: impl FnOnce(&[Event], Outcome) -> T,
    ) -> Result<T, RunError> {
        let nothing = Outcome {
            verdict: Verdict::Infra,
            findings: Vec::new(),
            points_reached: Vec::new(),
            schedule_kept: false,
            seconds: 0.0,
        };
        // It is there until the guest is dropped.
        let Some(session) = self.session.as_mut() else {
            return Ok(look(&[], nothing));
        };
        self.ended |= session.round(schedule, trace).is_err();
        let judgement = session.judge_last_round(schedule)?;
        Ok(session.look(|events| {
            let round = last_round(events);
            let outcome = Outcome {
                verdict: judgement.verdict,
                findings: judgement.findings,
                points_reached: points_reached(schedule, round),
                schedule_kept: is_kept(schedule, round),
                seconds: 0.0,
            };
            look(round, outcome)
        }))
    }
}

impl Boot for Guest<'_> {
    type Error = RunError;

    fn trace(&mut self, first: Role) -> Result<Trace, RunError> {
        let schedule = Schedule {
            first,
            steps: Vec::new(),
        };
        self.play(&schedule, true, trace_of)
    }

    fn round(&mut self, schedule: &Schedule) -> Result<Outcome, RunError> {
        self.play(schedule, false, |_, outcome| outcome)
    }

    fn damaged(&self) -> bool {
        self.ended
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.abandon();
        }
    }
}

/// The events of the last round that was armed.
fn last_round(events: &[Event]) -> &[Event] {
    let begin = events
        .iter()
        .rposition(|event| is_phase(event, Phase::Armed));
    begin
        .and_then(|begin| events.get(begin..))
        .unwrap_or_default()
}

/// The points that the schedule names and that were reported as reached.
fn points_reached(schedule: &Schedule, events: &[Event]) -> Vec<Point> {
    let texts: HashSet<&str> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::PointReached { point } => Some(point.as_str()),
            EventKind::Guest(record) => match &record.what {
                Observation::Point { point } => Some(point.as_str()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let named = schedule
        .points()
        .filter(|point| texts.contains(point.to_string().as_str()));
    named.cloned().collect()
}

/// Whether every step was reached and no hold ended by its bound.
fn is_kept(schedule: &Schedule, events: &[Event]) -> bool {
    let (mut reached, mut missed) = (Vec::new(), false);
    for event in events {
        match &event.kind {
            EventKind::PointReached { point } => reached.push(point.as_str()),
            EventKind::HoldEnded { end, .. } => missed |= *end != HoldEnd::Reached,
            EventKind::Guest(record) => match &record.what {
                Observation::Point { point } => reached.push(point),
                Observation::HoldOver { end, .. } => missed |= *end != HoldEnd::Reached,
                _ => {}
            },
            _ => {}
        }
    }
    let all = schedule.steps.iter().all(|step| {
        let text = match &step.at {
            At::Point(point) => point.to_string(),
            At::Time { .. } => step.to_string(),
        };
        reached.contains(&text.as_str())
    });
    all && !missed
}

/// What both sides went through in a round: the calls that the guest reported of their tasks, and
/// the messages. A message is the unplug's if it came while the handler was at work, else the teardown's; that is right
/// as long as the sides go one after the other.
pub fn trace_of(round: &[Event], outcome: Outcome) -> Trace {
    let end = round
        .iter()
        .position(|event| is_phase(event, Phase::Settle));
    let round = round.get(..end.unwrap_or(round.len())).unwrap_or_default();
    let mut walk = Walk::default();
    for event in round {
        walk.take(event);
    }
    let ns = walk.teardown_ns.map_or(0, |(first, last)| last - first);
    let [teardown, unplug] = walk.points;
    Trace {
        teardown,
        unplug,
        teardown_time: Duration::from_nanos(ns),
        outcome,
    }
}

fn is_phase(event: &Event, wanted: Phase) -> bool {
    matches!(event.kind, EventKind::Phase { phase, .. } if phase == wanted)
}

/// Identity of a call, for counting: which side, whose function, which call, which end.
type Call = (Role, Option<FunctionId>, String, CallPhase);

#[derive(Default)]
struct Walk {
    points: [Vec<Point>; 2],
    tasks: HashMap<u32, Role>,
    counts: HashMap<Call, u32>,
    handler_at_work: bool,
    /// First and last record of the teardown's task, guest time.
    teardown_ns: Option<(u64, u64)>,
}

impl Walk {
    fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Wire(message) => {
                let point = Point {
                    role: None,
                    function: Some(message.function),
                    what: What::Wire {
                        message: message.message.clone(),
                        phase: match message.from {
                            Side::Qemu => WirePhase::Request,
                            Side::Backend => WirePhase::Reply,
                        },
                    },
                    nth: message.nth,
                };
                let role = if self.handler_at_work {
                    Role::Unplug
                } else {
                    Role::Teardown
                };
                self.push(role, point);
            }
            EventKind::Guest(record) => {
                match &record.what {
                    Observation::Task { role } if *role == Role::Teardown.to_string() => {
                        self.tasks.insert(record.pid, Role::Teardown);
                    }
                    Observation::UnplugSeen { .. } => {
                        self.tasks.insert(record.pid, Role::Unplug);
                        self.handler_at_work = true;
                    }
                    Observation::UnplugDone { .. } => self.handler_at_work = false,
                    _ => {}
                }
                let role = self.tasks.get(&record.pid).copied();
                if role == Some(Role::Teardown) {
                    let first = self.teardown_ns.map_or(record.guest_ns, |(first, _)| first);
                    self.teardown_ns = Some((first, record.guest_ns.max(first)));
                }
                let call = match &record.what {
                    Observation::Enter { call, function, .. } => {
                        Some((call, *function, CallPhase::Enter))
                    }
                    Observation::Return { call, function } => {
                        Some((call, *function, CallPhase::Return))
                    }
                    _ => None,
                };
                if let (Some(role), Some((call, function, phase))) = (role, call) {
                    self.call(role, call, function, phase);
                }
            }
            _ => {}
        }
    }

    /// A point without a function means the call whatever it is for, so every call of that name counts for it.
    fn call(&mut self, role: Role, call: &str, function: Option<FunctionId>, phase: CallPhase) {
        let mut count = |function| {
            let key = (role, function, call.to_owned(), phase);
            let count = self.counts.entry(key).or_insert(0);
            std::mem::replace(count, count.saturating_add(1))
        };
        let any = count(None);
        let nth = match function {
            Some(_) => count(function),
            None => any,
        };
        let point = Point {
            role: Some(role),
            function,
            what: What::Call {
                call: call.to_owned(),
                phase,
            },
            nth,
        };
        self.push(role, point);
    }

    fn push(&mut self, role: Role, point: Point) {
        let [teardown, unplug] = &mut self.points;
        match role {
            Role::Teardown => teardown.push(point),
            Role::Unplug => unplug.push(point),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{GuestRecord, Verdict, WireMessage};

    const T: u32 = 70;
    const U: u32 = 41;

    fn event(kind: EventKind) -> Event {
        Event {
            number: 0,
            ns: 0,
            kind,
        }
    }

    fn guest(pid: u32, what: Observation) -> Event {
        event(EventKind::Guest(GuestRecord {
            number: 0,
            guest_ns: u64::from(pid) * 1000,
            pid,
            cpu: 0,
            comm: "task".to_owned(),
            what,
        }))
    }

    fn enter(pid: u32, call: &str, function: Option<FunctionId>) -> Event {
        let (call, stack) = (call.to_owned(), Vec::new());
        guest(
            pid,
            Observation::Enter {
                call,
                function,
                instance: None,
                stack,
            },
        )
    }

    fn leave(pid: u32, call: &str, function: Option<FunctionId>) -> Event {
        guest(
            pid,
            Observation::Return {
                call: call.to_owned(),
                function,
            },
        )
    }

    fn wire(from: Side, nth: u32) -> Event {
        event(EventKind::Wire(WireMessage {
            function: FunctionId::Vf(2),
            from,
            message: "GET_VRING_BASE".to_owned(),
            vring: None,
            value: None,
            need_reply: false,
            size: 8,
            fds: 0,
            nth,
            answered_by_tap: false,
        }))
    }

    fn phase(phase: Phase) -> Event {
        event(EventKind::Phase {
            phase,
            round: 1,
            console: 0,
        })
    }

    fn outcome() -> Outcome {
        Outcome {
            verdict: Verdict::Pass,
            findings: Vec::new(),
            points_reached: Vec::new(),
            schedule_kept: true,
            seconds: 0.0,
        }
    }

    #[test]
    fn a_recording_tells_what_each_side_went_through() {
        let (vf1, vf2) = (Some(FunctionId::Vf(1)), Some(FunctionId::Vf(2)));
        let events = [
            enter(T, "device_del", vf2),
            phase(Phase::Teardown),
            enter(T, "device_del", vf1),
            guest(
                T,
                Observation::Task {
                    role: "teardown".to_owned(),
                },
            ),
            enter(T, "device_del", vf1),
            leave(T, "device_del", vf1),
            enter(T, "device_del", vf2),
            wire(Side::Qemu, 0),
            wire(Side::Backend, 0),
            enter(T, "device_del", None),
            enter(T, "device_del", vf2),
            enter(99, "device_del", vf2),
            guest(
                U,
                Observation::UnplugSeen {
                    event: 1,
                    function: vf2,
                },
            ),
            enter(U, "device_del", vf2),
            wire(Side::Qemu, 1),
            guest(
                U,
                Observation::UnplugDone {
                    event: 1,
                    status: 0,
                },
            ),
            wire(Side::Qemu, 2),
            phase(Phase::Settle),
            enter(T, "device_del", vf2),
        ];
        let trace = trace_of(&events, outcome());
        let texts = |points: &[Point]| points.iter().map(Point::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(&trace.teardown),
            [
                "teardown/vf1:call:device_del#0@enter",
                "teardown/vf1:call:device_del#0@return",
                "teardown/vf2:call:device_del#0@enter",
                "vf2:wire:GET_VRING_BASE#0@request",
                "vf2:wire:GET_VRING_BASE#0@reply",
                "teardown/any:call:device_del#2@enter",
                "teardown/vf2:call:device_del#1@enter",
                "vf2:wire:GET_VRING_BASE#2@request",
            ]
        );
        assert_eq!(
            texts(&trace.unplug),
            [
                "unplug/vf2:call:device_del#0@enter",
                "vf2:wire:GET_VRING_BASE#1@request"
            ]
        );
        assert_eq!(trace_of(&[], outcome()).teardown, Vec::new());
    }

    #[test]
    fn a_schedule_is_kept_if_no_bound_was_needed() {
        let wire: Point = "vf2:wire:GET_VRING_BASE#0@request".parse().unwrap();
        let text = wire.to_string();
        let mut step = crate::scenario::Step {
            at: At::Point(wire.clone()),
            fire: true,
            hold: None,
            returns: None,
        };
        let first = Role::Teardown;
        let schedule = Schedule {
            first,
            steps: vec![step.clone()],
        };
        let reached = event(EventKind::PointReached {
            point: text.clone(),
        });
        let ended = |end| {
            event(EventKind::HoldEnded {
                point: text.clone(),
                held_ns: 1,
                end,
            })
        };
        assert!(!is_kept(&schedule, &[]));
        assert!(points_reached(&schedule, &[]).is_empty());
        assert!(is_kept(
            &schedule,
            &[reached.clone(), ended(HoldEnd::Reached)]
        ));
        assert!(!is_kept(
            &schedule,
            &[reached.clone(), ended(HoldEnd::Bound)]
        ));
        assert_eq!(points_reached(&schedule, &[reached]), [wire]);
        step.at = At::Time {
            role: first,
            after: Duration::from_millis(4),
        };
        let schedule = Schedule {
            first,
            steps: vec![step],
        };
        let point = "teardown+4ms fire".to_owned();
        assert!(is_kept(
            &schedule,
            &[event(EventKind::PointReached { point })]
        ));
    }
}
