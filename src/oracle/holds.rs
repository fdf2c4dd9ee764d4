// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What became of a round's schedule: which points were reached, and how the holds there ended.

use super::invariants::Round;
use crate::event::{EventKind, HoldEnd, Observation};
use crate::scenario::{Scenario, Schedule, Step};

/// A step of a schedule, as its text form says it (`scenario/schedule.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The point or the time, in its text form.
    pub at: String,
    /// What the hold there waits for.
    pub until: Option<String>,
    /// It changes what a function returns.
    pub returns: bool,
}

/// A hold that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The point in its text form.
    pub point: String,
    /// For how long, nanoseconds.
    pub ns: u64,
    /// Why it ended.
    pub end: HoldEnd,
}

/// The steps of a schedule.
pub fn planned(schedule: &Schedule) -> Vec<Planned> {
    let step = |step: &Step| Planned {
        at: step.at.to_string(),
        until: step.hold.as_ref().map(|hold| hold.until.to_string()),
        returns: step.returns.is_some(),
    };
    schedule.steps.iter().map(step).collect()
}

/// What a hold waits for, as the end of a sentence.
fn waited_for(until: &str) -> String {
    let inside = |name: &str| {
        let rest = until.strip_prefix(name)?;
        rest.strip_prefix('(')?.strip_suffix(')')
    };
    if let Some(lock) = inside("other-blocked") {
        return format!("the other side waited for {lock}");
    }
    if let Some(point) = inside("other-at") {
        return format!("the other side was at {point}");
    }
    match until {
        "other-started" => "the other side had begun".to_owned(),
        "other-committed" => "the other side was in its removal or waited for a lock".to_owned(),
        "other-blocked" => "the other side waited for a lock".to_owned(),
        "other-done" => "the other side was done".to_owned(),
        "other-rests" => "the other side could not go on".to_owned(),
        other => other.to_owned(),
    }
}

impl<'a> Round<'a> {
    /// The text of its schedule, if it was recorded.
    pub fn schedule(&self) -> Option<&'a str> {
        self.events.iter().find_map(|e| match &e.kind {
            EventKind::Schedule { text } => Some(text.as_str()),
            _ => None,
        })
    }

    /// The steps of its schedule: as recorded, or the scenario's.
    pub fn plan(&self, scenario: &Scenario) -> Vec<Planned> {
        // A text that cannot be read is not one of ours: then the scenario's own is the best guess.
        match self.schedule().map(str::parse::<Schedule>) {
            Some(Ok(schedule)) => planned(&schedule),
            _ => planned(&scenario.schedule),
        }
    }

    /// The holds that are over, in their order: of messages, and of tasks in the guest.
    pub fn holds(&self) -> Vec<Held> {
        let held = self.events.iter().filter_map(|e| match &e.kind {
            EventKind::HoldEnded {
                point,
                held_ns,
                end,
            } => Some((point, held_ns, end)),
            EventKind::Guest(record) => match &record.what {
                Observation::HoldOver {
                    point,
                    held_ns,
                    end,
                } => Some((point, held_ns, end)),
                _ => None,
            },
            _ => None,
        });
        held.map(|(point, ns, end)| Held {
            point: point.clone(),
            ns: *ns,
            end: *end,
        })
        .collect()
    }

    fn reached(&self, at: &str) -> bool {
        // Where a step is a time, what was recorded is the whole step.
        let same = |said: &str| {
            said.strip_prefix(at)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.events.iter().any(|e| match &e.kind {
            EventKind::PointReached { point } => same(point),
            EventKind::Guest(record) => {
                matches!(&record.what, Observation::Point { point } if point == at)
            }
            _ => false,
        })
    }

    /// Whose task was at a point.
    fn held_side(&self, at: &str) -> &'static str {
        if at.starts_with("teardown/") || at.contains(":wire:") {
            return "the teardown";
        }
        if at.starts_with("unplug/") {
            return "the unplug handler";
        }
        let there = self
            .records()
            .find(|r| matches!(&r.what, Observation::Point { point } if point == at));
        match there {
            Some(r) if self.teardown().is_some_and(|t| t.pid == r.pid) => "the teardown",
            Some(r) if self.is_handler(r.pid) => "the unplug handler",
            _ => "a task",
        }
    }

    /// That every step of the schedule did what it is for, in words; or what did not come about. Holds for a time do not
    /// show anything.
    pub fn kept(&self, plan: &[Planned]) -> Result<Vec<String>, String> {
        let holds = self.holds();
        let mut words = Vec::new();
        for step in plan {
            let at = &step.at;
            if !self.reached(at) {
                return Err(format!("the point {at} was never reached"));
            }
            let Some(until) = step.until.as_deref().filter(|until| *until != "time") else {
                continue;
            };
            let wanted = waited_for(until);
            match holds.iter().find(|held| held.point == *at).map(|h| h.end) {
                Some(HoldEnd::Reached) => {
                    words.push(format!(
                        "{} was held at {at} until {wanted}",
                        self.held_side(at)
                    ));
                }
                Some(HoldEnd::Bound) => {
                    return Err(format!(
                        "the hold at {at} ran into its bound before {wanted}"
                    ));
                }
                Some(HoldEnd::Missed) => {
                    return Err(format!(
                        "the hold at {at} was for nothing: the other side ended, and it was never so that {wanted}"
                    ));
                }
                Some(HoldEnd::Stopped) => {
                    return Err(format!("the hold at {at} was stopped with the run"));
                }
                None => return Err(format!("the end of the hold at {at} was not seen")),
            }
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_from_its_text() {
        let text = "unplug first; unplug/any:call:remove_store#0@enter fire until \
                    other-at(teardown/pf:call:sriov_disable#0@enter) <=5000ms; teardown+5ms fire; \
                    pf:call:pci_iov_add_virtfn#2@enter return -12; vf2:wire:GET_VRING_BASE#0@reply until time <=3ms";
        let planned = |text: &str| planned(&text.parse().unwrap());
        let step = |at: &str, until: Option<&str>, returns| Planned {
            at: at.into(),
            until: until.map(str::to_owned),
            returns,
        };
        let expected = [
            step(
                "unplug/any:call:remove_store#0@enter",
                Some("other-at(teardown/pf:call:sriov_disable#0@enter)"),
                false,
            ),
            step("teardown+5ms", None, false),
            step("pf:call:pci_iov_add_virtfn#2@enter", None, true),
            step("vf2:wire:GET_VRING_BASE#0@reply", Some("time"), false),
        ];
        assert_eq!(planned(text), expected);
        assert!(planned("teardown first").is_empty());
        assert_eq!(
            waited_for("other-blocked(device_lock(pf))"),
            "the other side waited for device_lock(pf)"
        );
    }
}
