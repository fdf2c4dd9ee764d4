// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a schedule makes sense for its scenario, as far as that can be known before anything boots.

use std::ops::Range;

use super::parse::{Parsed, Places, parse};
use super::{At, LockName, Point, Schedule, ScheduleError, Step, Until};
use crate::event::{FunctionId, Role};
use crate::scenario::{Actuator, Scenario};

impl Schedule {
    /// Reads the text form and checks it against `scenario`, whose own schedule does not matter. Places in the error are
    /// bytes of `text`.
    pub fn read(text: &str, scenario: &Scenario) -> Result<Self, ScheduleError> {
        let parsed = parse(text)?;
        check(&parsed, scenario)?;
        Ok(parsed.schedule)
    }

    /// Checks it against `scenario`, whose own schedule does not matter. Places in the error are bytes of its text form.
    pub fn check(&self, scenario: &Scenario) -> Result<(), ScheduleError> {
        check(&parse(&self.to_string())?, scenario)
    }
}

type Checked = Result<(), ScheduleError>;

fn wrong(what: impl Into<String>, at: &Range<usize>, hint: impl Into<String>) -> Checked {
    Err(ScheduleError {
        what: what.into(),
        at: at.clone(),
        hint: hint.into(),
    })
}

const NO_UNPLUG: &str = "nothing is unplugged in this scenario";

fn check(parsed: &Parsed, scenario: &Scenario) -> Checked {
    let schedule = &parsed.schedule;
    if schedule.first == Role::Unplug && scenario.unplug.is_none() {
        return wrong(NO_UNPLUG, &parsed.first, "write `teardown first`");
    }
    let mut seen: Vec<&At> = Vec::new();
    for (step, places) in schedule.steps.iter().zip(&parsed.places) {
        one_step(step, places, scenario)?;
        if matches!(step.at, At::Point(_)) && seen.contains(&&step.at) {
            return wrong(
                "this point has a step already",
                &places.at,
                "say in one step all that happens at a point; another occurrence is another point: #1",
            );
        }
        seen.push(&step.at);
    }
    if scenario.unplug.is_some() {
        firing(parsed)?;
    }
    no_circle(parsed)
}

/// The side whose task comes by. Messages are taken to be the teardown's.
fn side(step: &Step) -> Option<Role> {
    match &step.at {
        At::Time { role, .. } => Some(*role),
        At::Point(point) if point.is_wire() => Some(Role::Teardown),
        At::Point(point) => point.role,
    }
}

fn exists(function: Option<FunctionId>, at: &Range<usize>, scenario: &Scenario) -> Checked {
    let vfs = scenario.vfs;
    match function {
        Some(function @ FunctionId::Vf(n)) if n > vfs => wrong(
            format!("there is no {function}"),
            at,
            match vfs {
                1 => "there is one VF, vf1".to_owned(),
                _ => format!("there are {vfs} VFs, vf1 to vf{vfs}"),
            },
        ),
        _ => Ok(()),
    }
}

fn one_step(step: &Step, places: &Places, scenario: &Scenario) -> Checked {
    let unplugs = scenario.unplug.is_some();
    if let At::Point(point) = &step.at {
        exists(point.function, &places.at, scenario)?;
    }
    if !unplugs && side(step) == Some(Role::Unplug) {
        return wrong(NO_UNPLUG, &places.at, "use points of the teardown");
    }
    if !unplugs && step.fire {
        return wrong(NO_UNPLUG, &places.fire, "leave `fire` away");
    }
    let At::Point(point) = &step.at else {
        return Ok(());
    };
    if step.returns.is_some() {
        if point.is_wire() {
            return wrong(
                "a message does not return anything",
                &places.returns,
                "use a call point",
            );
        }
        if point.function.is_none() {
            return wrong(
                "that would be returned for every device of the machine",
                &places.returns,
                "say for which function, e.g. vf1 instead of any",
            );
        }
    }
    match &step.hold {
        Some(hold) => one_hold(point, &hold.until, places, scenario),
        None => Ok(()),
    }
}

/// What a hold at `point` can wait for.
fn one_hold(point: &Point, until: &Until, places: &Places, scenario: &Scenario) -> Checked {
    if scenario.unplug.is_none() && *until != Until::Time {
        return wrong(
            format!("{NO_UNPLUG}, so that there is no other side"),
            &places.until,
            "write `until time`",
        );
    }
    if !point.is_wire() && point.role.is_none() {
        return wrong(
            "a hold has to say whose task it stops",
            &places.at,
            format!("write teardown/{point} or unplug/{point}"),
        );
    }
    match until {
        Until::OtherAt(other) => {
            exists(other.function, &places.until, scenario)?;
            if point.role.is_some() && point.role == other.role {
                return wrong(
                    "it waits for a point of the side that it stops itself",
                    &places.until,
                    "wait for a point of the other side",
                );
            }
        }
        Until::OtherBlocked(Some(LockName::Device(function))) => {
            exists(Some(*function), &places.until, scenario)?;
        }
        _ => {}
    }
    if !point.is_wire() {
        return Ok(());
    }
    // While a message is held, QEMU's global lock is taken.
    let needs_qemu = scenario.unplug.filter(|unplug| {
        matches!(
            unplug.actuator,
            Actuator::PciehpSurprise | Actuator::PciehpButton
        )
    });
    if let (Some(unplug), true) = (needs_qemu, *until != Until::Time) {
        return wrong(
            format!(
                "while a message is held, QEMU stands still and `{}` cannot begin",
                unplug.actuator.name()
            ),
            &places.until,
            "only fire here, or write `until time`, or hold at a call point",
        );
    }
    match until {
        Until::OtherAt(other) if other.is_wire() => wrong(
            "while a message is held, no other one comes",
            &places.until,
            "wait for a call point, or hold at one",
        ),
        Until::OtherBlocked(Some(LockName::Device(_))) => wrong(
            "while a message is held, nothing tells who waits for a device's lock",
            &places.until,
            "hold at a call point, or wait for `other-rests`",
        ),
        _ => Ok(()),
    }
}

/// One step starts the side that does not go first, and nothing waits for that side before.
fn firing(parsed: &Parsed) -> Checked {
    let (schedule, places) = (&parsed.schedule, &parsed.places);
    let (first, second) = (schedule.first, schedule.first.other());
    let mut fires = schedule
        .steps
        .iter()
        .zip(places)
        .enumerate()
        .filter(|(_, (step, _))| step.fire);
    let Some((fire, (step, place))) = fires.next() else {
        let end = places.last().map_or(parsed.first.end, |places| {
            [&places.at, &places.until, &places.returns]
                .iter()
                .map(|at| at.end)
                .max()
                .unwrap_or_default()
        });
        return wrong(
            format!("no step starts the {second}"),
            &(0..end),
            format!("add `fire` to a step, or a step: {first}+0ms fire"),
        );
    };
    if let Some((_, (_, places))) = fires.next() {
        return wrong(
            format!("the {second} is started a second time"),
            &places.fire,
            "leave one `fire` away",
        );
    }
    if matches!(&step.at, At::Point(point) if point.is_wire()) && first == Role::Unplug {
        return wrong(
            "a message cannot start the teardown: its order comes with an interrupt, which waits for the message",
            &place.fire,
            "fire at a call point, unplug/..., or at a time",
        );
    }
    if side(step) == Some(second) {
        return wrong(
            format!("the {second} cannot start itself"),
            &place.fire,
            format!("the {first} goes first: fire at a point of that side"),
        );
    }
    if matches!(step.at, At::Time { .. }) {
        return Ok(());
    }
    let too_early = schedule
        .steps
        .iter()
        .zip(places)
        .take(fire)
        .find(|(step, _)| {
            side(step) == Some(first)
                && step
                    .hold
                    .as_ref()
                    .is_some_and(|hold| hold.until != Until::Time)
        });
    match too_early {
        Some((_, places)) => wrong(
            format!("here the {second} is not started yet"),
            &places.until,
            "steps of a side stand in the order in which it comes by; fire in this step or before it",
        ),
        None => Ok(()),
    }
}

/// Holds that wait for each other. The steps of a side are taken to be in the order in which it comes by.
fn no_circle(parsed: &Parsed) -> Checked {
    let steps = &parsed.schedule.steps;
    let holds: Vec<(usize, Role, &Until)> = steps
        .iter()
        .enumerate()
        .filter_map(|(at, step)| Some((at, side(step)?, &step.hold.as_ref()?.until)))
        .collect();
    // Whether hold `b` has to be over before hold `a` can be.
    let needs = |a: &(usize, Role, &Until), b: &(usize, Role, &Until)| {
        if a.1 == b.1 {
            return b.0 < a.0;
        }
        match a.2 {
            Until::OtherDone => true,
            Until::OtherAt(point) => steps
                .iter()
                .position(|step| matches!(&step.at, At::Point(p) if p == point))
                .is_some_and(|at| b.0 < at),
            _ => false,
        }
    };
    let mut left: Vec<_> = holds.iter().collect();
    loop {
        let free = left
            .iter()
            .position(|a| !left.iter().any(|b| !std::ptr::eq(*a, *b) && needs(a, b)));
        match free {
            Some(at) => left.remove(at),
            None => break,
        };
    }
    let waits = |until: &Until| matches!(until, Until::OtherDone | Until::OtherAt(_));
    let Some((at, role, _)) = left.iter().find(|hold| waits(hold.2)) else {
        return Ok(());
    };
    let other = left.iter().find(|hold| hold.1 != *role);
    let other = other.and_then(|hold| steps.get(hold.0)).map_or_else(
        || "a hold of the other side".to_owned(),
        |step| format!("the hold at {}", place(step)),
    );
    let places = parsed.places.get(*at);
    wrong(
        format!("this hold and {other} wait for each other"),
        &places.map_or(0..0, |places| places.until.clone()),
        "let one of them wait for `other-rests`, or for a point before the other one's hold",
    )
}

fn place(step: &Step) -> String {
    match &step.at {
        At::Point(point) => point.to_string(),
        At::Time { role, .. } => role.to_string(),
    }
}
