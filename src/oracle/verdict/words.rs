// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The words of the evidence.

use crate::event::{Event, EventKind, FunctionId, HoldEnd, Observation, Phase, Role, VfReferences};
use crate::oracle::bodies::{Body, DESTROY};
use crate::oracle::invariants::{LockState, Round, records};
use crate::oracle::locks::Open;
use crate::oracle::overlap::{Overlap, overlap};
use crate::oracle::removals::Removal;
use crate::scenario::Scenario;

/// Functions of a chain that are printed.
const CHAIN: usize = 4;

/// `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for item in items {
        if !unique.contains(&item.as_str()) {
            unique.push(item);
        }
    }
    match unique.as_slice() {
        [] => "nothing".into(),
        [one] => (*one).into(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// Functions in words; more than three VFs in a row as "vf1 to vf127".
fn spans(functions: &[FunctionId]) -> Vec<String> {
    let follows = |a: &FunctionId, b: &FunctionId| match (a, b) {
        (FunctionId::Vf(a), FunctionId::Vf(b)) => a.checked_add(1) == Some(*b),
        _ => false,
    };
    functions
        .chunk_by(follows)
        .flat_map(|row| match row {
            [first, _, _, .., last] => vec![format!("{first} to {last}")],
            few => few.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

pub(super) fn times(n: usize) -> String {
    match n {
        1 => "once".into(),
        2 => "TWICE".into(),
        n => format!("{n} TIMES"),
    }
}

fn ms(ns: u64) -> String {
    format!("{}.{:03} ms", ns / 1_000_000, ns / 1_000 % 1_000)
}

/// A task's part in the round.
fn role(round: &Round<'_>, pid: u32) -> &'static str {
    if round.teardown().is_some_and(|t| t.pid == pid) {
        return "teardown";
    }
    if round.is_handler(pid) {
        "unplug handler"
    } else {
        "somebody else"
    }
}

fn chain(stack: &[String]) -> String {
    stack
        .iter()
        .take(CHAIN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" <- ")
}

fn run(round: &Round<'_>, r: &Removal) -> String {
    let role = role(round, r.pid);
    format!(
        "{role} ({}, pid {}, CPU {}): {}",
        r.comm,
        r.pid,
        r.cpu,
        chain(&r.stack)
    )
}

/// Who ran the removals, with their chains.
pub(super) fn runs(round: &Round<'_>, runs: &[Removal]) -> String {
    runs.iter()
        .map(|r| run(round, r))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Who ran the removals.
pub(super) fn who(round: &Round<'_>, runs: &[Removal]) -> String {
    let who = runs.iter().map(|r| task(round, r.pid, &r.comm));
    list(&who.collect::<Vec<_>>())
}

/// A task with its part in the round.
pub(super) fn task(round: &Round<'_>, pid: u32, comm: &str) -> String {
    format!("{} ({comm}, pid {pid})", role(round, pid))
}

/// The tasks of a round that did not come back.
pub(super) fn missing_tasks(round: &Round<'_>) -> Vec<String> {
    let mut missing = Vec::new();
    let begun = |e: &crate::event::Event| {
        matches!(
            e.kind,
            EventKind::Phase {
                phase: Phase::Teardown,
                ..
            }
        )
    };
    if round.events.iter().any(begun) && round.teardown_status().is_none() {
        let who = round
            .teardown()
            .map_or_else(String::new, |t| format!(" ({}, pid {})", t.comm, t.pid));
        missing.push(format!("the teardown{who}"));
    }
    for (number, _) in round.fired() {
        if round.unplugged(number).is_none() {
            let who = round.seen(number).map_or_else(
                || " (it never noticed the event)".to_owned(),
                |h| format!(" ({}, pid {})", h.comm, h.pid),
            );
            missing.push(format!("the unplug handler{who}"));
        }
    }
    missing
}

/// Who holds pci_rescan_remove_lock and who waits for it at the end of a round.
pub(super) fn waiters(round: &Round<'_>) -> Vec<String> {
    let states = round.lock_states();
    let name = |pid: u32| match states.get(&pid) {
        Some((comm, _)) => format!("{comm} (pid {pid})"),
        None => format!("pid {pid}"),
    };
    let waits = states.iter().filter_map(|(pid, (_, state))| match state {
        LockState::Waits(0) => None,
        LockState::Waits(owner) if owner == pid => Some(format!(
            "{} waits for pci_rescan_remove_lock, which it holds itself",
            name(*pid)
        )),
        LockState::Waits(owner) => Some(format!(
            "{} waits for pci_rescan_remove_lock, held by {}",
            name(*pid),
            name(*owner)
        )),
        LockState::Holds => Some(format!("{} holds pci_rescan_remove_lock", name(*pid))),
    });
    waits.collect()
}

/// What happened in a round.
pub(super) fn round(scenario: &Scenario, round: &Round<'_>, evidence: &mut Vec<String>) {
    let mut say = |text: String| evidence.push(format!("round {}: {text}", round.number));
    let doubles = round.doubles();
    for (vf, all) in &doubles {
        say(format!(
            "{vf} removed {} by {}",
            times(all.len()),
            runs(round, all)
        ));
    }
    let doubled = |body: &&Body| doubles.iter().any(|(vf, _)| *vf == body.vf);
    let twice = round.double_bodies();
    let of_one = |body: &&Body| twice.iter().any(|(vf, _, _)| *vf == body.vf);
    let bodies = round.bodies();
    let begin = bodies.first().map_or(0, |first| first.began);
    for body in bodies.iter().filter(|b| doubled(b) || of_one(b)) {
        say(way(round, body, begin));
    }
    let mut groups: Vec<(String, Vec<FunctionId>)> = Vec::new();
    for removal in round.singles() {
        let who = run(round, &removal);
        match groups.iter_mut().find(|(w, _)| *w == who) {
            Some((_, vfs)) => vfs.push(removal.vf),
            None => groups.push((who, vec![removal.vf])),
        }
    }
    for (who, vfs) in groups {
        say(format!("{} removed once by {who}", list(&spans(&vfs))));
    }
    if let (Some(before), Some(after)) = (round.before, round.after) {
        let (was, is) = (before.pf_references, after.pf_references);
        let created = after.vfs_created.saturating_sub(before.vfs_created);
        let released = after.vfs_released.saturating_sub(before.vfs_released);
        let expected = round.expected_references(scenario).unwrap_or(was);
        let pf = match (round.pf_goes(scenario), is) {
            (Some(true), -1) => "PF removed, as it should be".to_owned(),
            (None, -1) => "PF removed".to_owned(),
            (Some(true), _) => format!("the PF was not removed, its reference count is {is}"),
            _ => format!("PF reference count {was} -> {is}, expected {expected}"),
        };
        let lists = match &after.lists {
            Some(lists) if lists.defects == 0 && lists.walked > 0 => {
                format!("; {} lists in order", lists.walked)
            }
            _ => String::new(),
        };
        say(format!(
            "{pf}; {created} VFs created, {released} released{lists}"
        ));
    }
    if let Some(line) = lock(round) {
        say(line);
    }
    if scenario.unplug.is_some() {
        // Why it is not shown is said once, among the doubts.
        if let Ok(shown) = overlap(scenario, round) {
            say(met(&shown));
        }
    }
    for held in round.holds() {
        let (point, held_for) = (held.point, ms(held.ns));
        say(match held.end {
            HoldEnd::Reached => format!("held {held_for} at {point}"),
            HoldEnd::Bound => {
                format!("the hold at {point} ran into its bound after {held_for}")
            }
            HoldEnd::Missed => format!(
                "the hold at {point} ended after {held_for}: the other side was done without getting there"
            ),
            HoldEnd::Stopped => format!("the hold at {point} was stopped after {held_for}"),
        });
    }
}

/// One task's way through a function that a VF goes through once.
fn way(round: &Round<'_>, body: &Body, begin: u64) -> String {
    let at = |time: u64| ms(time.saturating_sub(begin));
    let end = match body.ended {
        Some(end) => format!("to +{}", at(end)),
        None => "and did not return".to_owned(),
    };
    let check = match (body.call, body.past) {
        (DESTROY, true) => ", past its check",
        (DESTROY, false) => ", stopped by its check",
        _ => "",
    };
    format!(
        "{}: {} by {} from +{} {end}{check}: {}",
        body.vf,
        body.call,
        task(round, body.pid, &body.comm),
        at(body.began),
        chain(&body.stack)
    )
}

/// Who waited for pci_rescan_remove_lock and held it for how long, in the order in which they asked for it. Only tasks
/// of the round, unless somebody else had it as well.
fn lock(round: &Round<'_>) -> Option<String> {
    let uses = round.lock_uses();
    let told: Vec<String> = uses
        .iter()
        .map(|u| {
            let mut parts = Vec::new();
            if u.waited > 0 {
                parts.push(format!("waited {}", ms(u.waited)));
            }
            if u.taken > 0 && (u.held > 0 || u.open.is_none()) {
                let nested = match u.nested {
                    0 => String::new(),
                    n => format!(" ({n} nested)"),
                };
                let times = match u.taken {
                    1 => String::new(),
                    n => format!(" in {n} times"),
                };
                let then = if u.waited > 0 { "then " } else { "" };
                parts.push(format!("{then}held it {}{times}{nested}", ms(u.held)));
            }
            match u.open {
                Some(Open::Waits) => parts.push("waits for it".to_owned()),
                Some(Open::Holds) => parts.push("holds it".to_owned()),
                None => {}
            }
            let role = match role(round, u.pid) {
                "somebody else" => format!("{} (pid {})", u.comm, u.pid),
                role => role.to_owned(),
            };
            format!("{role} {}", parts.join(", "))
        })
        .collect();
    (!told.is_empty()).then(|| format!("pci_rescan_remove_lock: {}", told.join("; ")))
}

/// What a call through the guest's module costs, as the guest measured it.
pub(super) fn cost(events: &[Event]) -> Option<String> {
    let cost = records(events).find_map(|r| match r.what {
        Observation::Cost {
            plain,
            looked_at,
            reported,
            ..
        } => Some((
            looked_at.saturating_sub(plain),
            reported.saturating_sub(plain),
        )),
        _ => None,
    });
    let us = |ns: u64| format!("{}.{} us", ns / 1_000, ns / 100 % 10);
    cost.map(|(looked_at, reported)| {
        format!(
            "a wrapped call costs {} in this guest, one that is reported with its stack {}",
            us(looked_at),
            us(reported)
        )
    })
}

/// VFs with their references, in words.
pub(super) fn references(rows: &[VfReferences]) -> String {
    let row = |row: &VfReferences| match row.first == row.last {
        true => format!("{} with {}", row.first, row.references),
        false => format!("{} to {} with {}", row.first, row.last, row.references),
    };
    list(&rows.iter().map(row).collect::<Vec<_>>())
}

/// Whether a line of evidence says how both sides met; see [`met`].
pub(super) fn tells_overlap(line: &str) -> bool {
    ["handler entered ", "both sides ran together "]
        .iter()
        .any(|words| line.contains(words))
}

/// How both sides met.
fn met(shown: &Overlap) -> String {
    let entry = |within: &str, entered: i64| {
        let order = if entered < 0 { "before" } else { "after" };
        let verb = if entered < 0 { "was entered" } else { "began" };
        format!(
            "handler entered {} {order} {within} {verb}",
            ms(entered.unsigned_abs())
        )
    };
    match shown {
        Overlap::Waited {
            waiter,
            within,
            entered,
            waited,
            handed_over,
        } => {
            let (subject, owner) = match waiter {
                Role::Unplug => ("", "the teardown"),
                Role::Teardown => ("the teardown ", "the handler"),
            };
            format!(
                "{}, {subject}waited {} for pci_rescan_remove_lock held by {owner}, got in {} after its release",
                entry(within, *entered),
                ms(*waited),
                ms(*handed_over)
            )
        }
        Overlap::Collided {
            within,
            entered,
            together,
        } => format!(
            "{} and did not wait; both removals ran together for {}",
            entry(within, *entered),
            ms(*together)
        ),
        Overlap::Together { together, holds } => {
            let mut text = match together {
                Some(ns) => format!("both sides ran together for {}", ms(*ns)),
                None => "both sides ran together to the end".to_owned(),
            };
            for hold in holds {
                text += &format!("; {hold}");
            }
            text
        }
    }
}

/// The schedules of the rounds, once if it is always the same. One without steps is none.
pub(super) fn schedules(rounds: &[Round<'_>], evidence: &mut Vec<String>) {
    let steps = |text: &&str| text.contains(';');
    let texts: Vec<Option<&str>> = rounds
        .iter()
        .map(|round| round.schedule().filter(steps))
        .collect();
    match texts.first() {
        Some(Some(first)) if texts.iter().all(|text| text == &Some(*first)) => {
            evidence.push(format!("schedule: {first}"));
        }
        _ => {
            for (round, text) in rounds.iter().zip(texts) {
                let Some(text) = text else { continue };
                evidence.push(format!("round {}: schedule: {text}", round.number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_vfs_is_a_span() {
        let said = |numbers: &[u16]| {
            let functions: Vec<FunctionId> = numbers.iter().map(|n| FunctionId::Vf(*n)).collect();
            list(&spans(&functions))
        };
        assert_eq!(said(&[1, 2, 3]), "vf1, vf2 and vf3");
        assert_eq!(said(&[1, 2, 3, 4, 6, 7]), "vf1 to vf4, vf6 and vf7");
        assert_eq!(said(&[9]), "vf9");
    }
}
