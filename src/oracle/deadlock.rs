// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who waits for whom: the relation between the tasks that did not come back, from what the guest said about them
//! ([`Observation::TaskState`]). A device_lock is not validated by lockdep, so that nothing else names it.

use super::invariants::{Round, frames};
use super::rules::Rules;
use crate::event::{Observation, Role};

/// Functions of a stack that are printed.
const FRAMES: usize = 10;

/// A task of a round as the guest saw it at the end of the wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its side.
    pub role: Role,
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The mutex that it waits for, empty if it waits for none.
    pub lock: String,
    /// Who has that, 0 if nobody does.
    pub owner: u32,
    /// Where it is, innermost first, without our own wrappers.
    pub stack: Vec<String>,
}

impl Side {
    fn who(&self) -> String {
        let role = match self.role {
            Role::Teardown => "teardown",
            Role::Unplug => "unplug handler",
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

    fn waits_for(&self, other: &Side) -> bool {
        !self.lock.is_empty() && self.owner == other.pid && self.pid != other.pid
    }
}

/// What keeps a round's tasks from coming back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hang {
    /// Who waits for what that who holds.
    pub title: String,
    /// Where each of them stands, a line each.
    pub evidence: Vec<String>,
}

impl Round<'_> {
    /// The last state that the guest reported of each side, whether it came back or not.
    pub fn sides(&self) -> Vec<Side> {
        let mut sides: Vec<Side> = Vec::new();
        for record in self.records() {
            let Observation::TaskState {
                role,
                task,
                name,
                lock,
                owner,
                stack,
            } = &record.what
            else {
                continue;
            };
            sides.retain(|side| side.role != *role);
            sides.push(Side {
                role: *role,
                pid: *task,
                name: name.clone(),
                lock: lock.clone(),
                owner: *owner,
                stack: frames(stack),
            });
        }
        sides.sort_by_key(|side| side.role);
        sides
    }

    /// Whether a side was started and did not come back.
    fn is_stuck(&self, role: Role) -> bool {
        match role {
            Role::Teardown => self.teardown().is_some() && self.teardown_status().is_none(),
            Role::Unplug => self
                .fired()
                .iter()
                .any(|(number, _)| self.unplugged(*number).is_none()),
        }
    }

    /// What the states of the tasks that did not come back say; `None` without a state of one that did not.
    pub fn hang(&self) -> Option<Hang> {
        let all = self.sides();
        let (stuck, back): (Vec<&Side>, Vec<&Side>) =
            all.iter().partition(|side| self.is_stuck(side.role));
        let title = match stuck.as_slice() {
            [] => return None,
            [a, b] if a.waits_for(b) && b.waits_for(a) => format!(
                "AB-BA: {} holds {} and waits for {}, held by {}, which waits for {}",
                a.who(),
                b.lock,
                a.lock,
                b.who(),
                b.lock
            ),
            some => {
                let itself = |side: &&Side| !side.lock.is_empty() && side.owner == side.pid;
                let prefix = match some.iter().any(itself) {
                    true => "self-deadlock: ",
                    false => "",
                };
                let waits: Vec<String> =
                    some.iter().map(|side| waits(side, &stuck, &back)).collect();
                format!("{prefix}{}", waits.join("; "))
            }
        };
        let evidence = stuck
            .iter()
            .map(|side| format!("{} stands in {}", side.who(), side.telling()))
            .collect();
        Some(Hang { title, evidence })
    }
}

/// What a side waits for, in words.
fn waits(side: &Side, stuck: &[&Side], back: &[&Side]) -> String {
    let who = side.who();
    if side.lock.is_empty() {
        return format!("{who} waits for no mutex and is in {}", side.telling());
    }
    let waits = format!("{who} waits for {}", side.lock);
    let owner = |sides: &[&Side]| {
        sides
            .iter()
            .find(|s| s.pid == side.owner)
            .map(|s| (*s).clone())
    };
    if side.owner == 0 {
        format!("{waits}, which nobody holds")
    } else if side.owner == side.pid {
        format!("{waits}, which it holds itself")
    } else if let Some(other) = owner(stuck) {
        let then = match other.lock.as_str() {
            "" => "which waits for no mutex".to_owned(),
            lock => format!("which waits for {lock}"),
        };
        format!("{waits}, held by {}, {then}", other.who())
    } else if let Some(other) = owner(back) {
        format!("{waits}, held by {}, which came back with it", other.who())
    } else {
        format!(
            "{waits}, held by pid {}, which is not one of the two",
            side.owner
        )
    }
}
