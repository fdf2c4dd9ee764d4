// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who waits for whom: the relation between the tasks that did not come back, from what the guest said about them
//! ([`Observation::TaskState`]). A device_lock is not validated by lockdep, so that nothing else names it.

use super::invariants::{LockState, Round, frames};
use super::rules::Rules;
use crate::event::{HangKind, Observation, Part};

/// Functions of a stack that are printed.
const FRAMES: usize = 10;

/// A task of a round as the guest saw it at the end of the wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its part.
    pub role: Part,
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The mutex that it waits for, empty if it waits for none.
    pub lock: String,
    /// Who has that, 0 if nobody does, [`Observation::DEAD`] for a task that is no more.
    pub owner: u32,
    /// How often it was taken off a CPU, if that was told.
    pub switches: Option<u64>,
    /// Whether it sleeps, if that was told.
    pub sleeps: Option<bool>,
    /// Where it is, innermost first, without our own wrappers.
    pub stack: Vec<String>,
}

impl Side {
    fn who(&self) -> String {
        let role = match self.role {
            Part::Teardown => "teardown",
            Part::Unplug => "unplug handler",
            Part::Other => "another task",
        };
        format!("{role} ({}, pid {})", self.name, self.pid)
    }

    /// The stack from the first function that tells something.
    fn telling(&self) -> String {
        let plumbing = |f: &&String| Rules::built_in().is_plumbing(f);
        let begin = self.stack.iter().take_while(plumbing).count();
        let begin = if begin == self.stack.len() { 0 } else { begin };
        let told: Vec<&str> = self
            .stack
            .iter()
            .skip(begin)
            .take(FRAMES)
            .map(String::as_str)
            .collect();
        match told.is_empty() {
            true => "an unknown place".to_owned(),
            false => told.join(" <- "),
        }
    }
}

/// What keeps a round's tasks from coming back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hang {
    /// In one word.
    pub kind: HangKind,
    /// Who waits for what that who holds.
    pub title: String,
    /// Where each of them stands, a line each.
    pub evidence: Vec<String>,
}

/// How the way ends from a task to the owner of the mutex that it waits for, and so on.
enum End {
    /// It comes back to the task at this place.
    Circle(usize),
    /// The last one waits for no mutex.
    NoMutex,
    /// Nobody has the mutex that the last one waits for.
    NoOwner,
    /// Its owner is no more.
    Dead,
    /// Its owner is a side that came back: the last one.
    CameBack,
    /// Its owner is a task of which nothing is known.
    Unknown,
}

/// A look at all tasks, and those of them that did not come back.
struct Look<'a> {
    all: &'a [Side],
    stuck: Vec<&'a Side>,
}

impl<'a> Look<'a> {
    fn of(&self, pid: u32) -> Option<&'a Side> {
        self.all.iter().find(|side| side.pid == pid)
    }

    /// The way from a task over the owners.
    fn way(&self, from: &'a Side) -> (Vec<&'a Side>, End) {
        let mut way = vec![from];
        let mut at = from;
        loop {
            if at.lock.is_empty() {
                return (way, End::NoMutex);
            }
            match at.owner {
                0 => return (way, End::NoOwner),
                Observation::DEAD => return (way, End::Dead),
                owner => {
                    if let Some(place) = way.iter().position(|side| side.pid == owner) {
                        return (way, End::Circle(place));
                    }
                    match self.of(owner) {
                        Some(next) => {
                            way.push(next);
                            at = next;
                            let stuck = self.stuck.iter().any(|other| other.pid == next.pid);
                            if next.role != Part::Other && !stuck {
                                return (way, End::CameBack);
                            }
                        }
                        None => return (way, End::Unknown),
                    }
                }
            }
        }
    }
}

impl Round<'_> {
    /// What the guest said about tasks, one look after the other.
    fn looks(&self) -> Vec<Vec<Side>> {
        let mut looks: Vec<Vec<Side>> = Vec::new();
        for record in self.records() {
            let Observation::TaskState {
                role,
                task,
                name,
                lock,
                owner,
                switches,
                sleeps,
                stack,
            } = &record.what
            else {
                continue;
            };
            // A look has each task once.
            let again = |look: &Vec<Side>| look.iter().any(|side| side.pid == *task);
            if looks.last().is_none_or(again) {
                looks.push(Vec::new());
            }
            if let Some(look) = looks.last_mut() {
                look.push(Side {
                    role: *role,
                    pid: *task,
                    name: name.clone(),
                    lock: lock.clone(),
                    owner: *owner,
                    switches: *switches,
                    sleeps: *sleeps,
                    stack: frames(stack),
                });
            }
        }
        looks
    }

    /// The tasks as the guest last saw them: both sides, whether they came back or not, and who keeps them waiting.
    pub fn sides(&self) -> Vec<Side> {
        let mut sides = self.looks().pop().unwrap_or_default();
        sides.sort_by_key(|side| side.role);
        sides
    }

    /// Whether a side was started and did not come back.
    fn is_stuck(&self, part: Part) -> bool {
        match part {
            Part::Teardown => self.teardown().is_some() && self.teardown_status().is_none(),
            Part::Unplug => self
                .fired()
                .iter()
                .any(|(number, _)| self.unplugged(*number).is_none()),
            Part::Other => false,
        }
    }

    /// What the states of the tasks that did not come back say; `None` without a state of one that did not.
    pub fn hang(&self) -> Option<Hang> {
        let sides = self.sides();
        let look = Look {
            all: &sides,
            stuck: sides.iter().filter(|s| self.is_stuck(s.role)).collect(),
        };
        let before = self.looks();
        // The look before the last one.
        let before = before.len().checked_sub(2).and_then(|at| before.get(at));
        let ways: Vec<(Vec<&Side>, End)> = look.stuck.iter().map(|side| look.way(side)).collect();
        let kind = |(way, end): &(Vec<&Side>, End)| self.kind(way, end, before.map(Vec::as_slice));
        let kind = ways.iter().map(kind).min_by_key(|kind| weight(*kind))?;
        let circle = ways.iter().find_map(|(way, end)| match end {
            End::Circle(place) => way.get(*place..).filter(|circle| circle.len() > 1),
            _ => None,
        });
        let title = match circle {
            Some(circle) => around(circle),
            None => {
                let waits: Vec<String> = look.stuck.iter().map(|side| waits(side, &look)).collect();
                let waits = waits.join("; ");
                match kind {
                    HangKind::Unclear => waits,
                    kind => format!("{kind}: {waits}"),
                }
            }
        };
        let mut told: Vec<&Side> = Vec::new();
        for side in ways.iter().flat_map(|(way, _)| way) {
            if !told.iter().any(|other| other.pid == side.pid) {
                told.push(side);
            }
        }
        told.sort_by_key(|side| side.role);
        let evidence = told
            .iter()
            .map(|side| format!("{} stands in {}", side.who(), side.telling()))
            .collect();
        Some(Hang {
            kind,
            title,
            evidence,
        })
    }

    fn kind(&self, way: &[&Side], end: &End, before: Option<&[Side]>) -> HangKind {
        let earlier = |side: &Side| before.and_then(|b| b.iter().find(|s| s.pid == side.pid));
        let Some(last) = way.last() else {
            return HangKind::Unclear;
        };
        // What the last one was at when it was looked at before.
        let same_wait = |then: &Side| then.lock == last.lock && then.owner == last.owner;
        match end {
            End::Circle(place) if place.saturating_add(1) == way.len() => HangKind::SelfDeadlock,
            End::Circle(_) => HangKind::AbBa,
            End::Dead | End::CameBack => HangKind::LostLock,
            End::NoOwner => match earlier(last) {
                Some(then) if !same_wait(then) => HangKind::Starvation,
                _ => HangKind::LostLock,
            },
            End::Unknown if self.came_back(last.owner) => HangKind::LostLock,
            End::Unknown => HangKind::Unclear,
            End::NoMutex => {
                let then = earlier(last).map(|then| then.switches);
                // Others had the lock that is waited for, or this one did something.
                let handed_on = way.iter().any(|side| {
                    earlier(side)
                        .is_some_and(|then| (&then.lock, then.owner) != (&side.lock, side.owner))
                });
                let moved = then.is_some_and(|then| then != last.switches);
                let holds = way.len() > 1
                    || matches!(
                        self.lock_states().get(&last.pid),
                        Some((_, LockState::Holds))
                    );
                match (last.sleeps, then) {
                    _ if handed_on || moved => HangKind::Starvation,
                    (Some(false), _) => HangKind::Starvation,
                    (Some(true), Some(_)) if holds => HangKind::SleepsWithLock,
                    (Some(true), Some(_)) => HangKind::Asleep,
                    _ => HangKind::Unclear,
                }
            }
        }
    }

    /// Whether a pid is that of a side that came back.
    fn came_back(&self, pid: u32) -> bool {
        let tears = self.teardown().is_some_and(|t| t.pid == pid);
        (tears || self.is_handler(pid)) && !self.not_back(pid)
    }
}

/// What a side waits for, in words.
fn waits(side: &Side, look: &Look<'_>) -> String {
    let who = side.who();
    if side.lock.is_empty() {
        return format!("{who} waits for no mutex and is in {}", side.telling());
    }
    let (way, end) = look.way(side);
    let mut words = format!("{who} waits for {}", side.lock);
    for (at, next) in way.iter().enumerate().skip(1) {
        words += &format!(", held by {}", next.who());
        words += &match (&end, next.lock.as_str()) {
            (End::CameBack, _) if at.saturating_add(1) == way.len() => {
                ", which came back with it".to_owned()
            }
            (_, "") => ", which waits for no mutex".to_owned(),
            (_, lock) => format!(", which waits for {lock}"),
        };
    }
    let last = way.last().map_or(0, |last| last.owner);
    words
        + &match end {
            End::NoMutex | End::CameBack => String::new(),
            End::NoOwner => ", which nobody holds".to_owned(),
            End::Dead => ", whose owner is no more".to_owned(),
            End::Unknown => format!(", held by pid {last}, of which nothing is known"),
            End::Circle(0) if way.len() == 1 => ", which it holds itself".to_owned(),
            End::Circle(_) => String::new(),
        }
}

/// The more a kind says, the less.
fn weight(kind: HangKind) -> u8 {
    match kind {
        HangKind::SelfDeadlock => 0,
        HangKind::AbBa => 1,
        HangKind::LostLock => 2,
        HangKind::SleepsWithLock => 3,
        HangKind::Starvation => 4,
        HangKind::Asleep => 5,
        HangKind::Unclear => 6,
    }
}

/// A circle in words, from its first task around to it.
fn around(circle: &[&Side]) -> String {
    if let [a, b] = circle {
        return format!(
            "AB-BA: {} holds {} and waits for {}, held by {}, which waits for {}",
            a.who(),
            b.lock,
            a.lock,
            b.who(),
            b.lock
        );
    }
    let mut words = format!("AB-BA over {} tasks: ", circle.len());
    for (at, side) in circle.iter().enumerate() {
        words += &match at {
            0 => format!("{} waits for {}", side.who(), side.lock),
            _ => format!(", held by {}, which waits for {}", side.who(), side.lock),
        };
    }
    words + ", held by the first"
}
