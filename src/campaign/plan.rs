// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which boot comes next. Pure: it looks at what was asked for, at the results and at what is under way.

use std::collections::{BTreeMap, BTreeSet};

use super::asked::{Amount, Asked};
use super::bound::{false_pass, fewest_rounds, meets};
use super::reference::{Tally, reference, wished};
use super::store::Results;
use crate::event::Verdict;

/// Boots without a verdict on the kernel after which a combination is given up, if it has no others.
const HOPELESS: u32 = 3;

/// Boots that are under way, as in [`Results`].
pub type Running = BTreeSet<(usize, u32)>;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This boot of this combination.
    Boot(usize, u32),
    /// Wait for one that is under way: what comes next depends on it.
    Wait,
    /// Nothing is left.
    Done,
}

/// Why a combination gets no more boots while an error bound is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The kernel does not build.
    Unbuilt,
    /// The bound is met, or for a reference: its hits allow others to meet it.
    Met,
    /// It showed what the scenario looks for.
    Hit,
    /// It showed something else, or does not boot.
    Other,
    /// No boot of it said anything.
    Hopeless,
    /// No kernel here showed it in as many rounds as the bound takes at best.
    NoReference,
    /// The ceiling.
    MostBoots,
}

/// The next boot.
pub fn next(asked: &Asked, results: &Results, running: &Running) -> Next {
    match asked.amount {
        Amount::Boots(boots) => fixed(asked, boots, results, running),
        Amount::Error { .. } => by_bound(asked, results, running),
    }
}

/// Whether a boot is dealt to the part that is asked for.
pub fn is_dealt(asked: &Asked, at: usize, boot: u32) -> bool {
    let Amount::Boots(boots) = asked.amount else {
        return true;
    };
    let number = u64::try_from(at).unwrap_or(u64::MAX);
    let number = number
        .wrapping_mul(boots.into())
        .wrapping_add(u64::from(boot) - 1);
    asked.shard.is_none_or(|shard| shard.has(number))
}

fn fixed(asked: &Asked, boots: u32, results: &Results, running: &Running) -> Next {
    let cells = asked.cells.iter().enumerate();
    let built = cells.filter(|(_, cell)| cell.kernel_id.is_some());
    let mut all = built.flat_map(|(at, _)| (1..=boots).map(move |boot| (at, boot)));
    let open = all.find(|&(at, boot)| {
        is_dealt(asked, at, boot)
            && !results.contains_key(&(at, boot))
            && !running.contains(&(at, boot))
    });
    match open {
        Some((at, boot)) => Next::Boot(at, boot),
        None if running.is_empty() => Next::Done,
        None => Next::Wait,
    }
}

fn by_bound(asked: &Asked, results: &Results, running: &Running) -> Next {
    let sure = tallies(asked, results);
    let hoped = with_hopes(asked, &sure, running);
    let mut scenarios: Vec<&str> = Vec::new();
    for cell in &asked.cells {
        if !scenarios.contains(&cell.scenario.as_str()) {
            scenarios.push(&cell.scenario);
        }
    }
    let wanted =
        |at: usize| wished(asked, &sure, at) == Some(at) || reference(asked, &sure, at) == Some(at);
    for scenario in scenarios {
        let cells = asked.cells.iter().enumerate();
        let here = cells.filter(|(_, cell)| cell.scenario == scenario);
        let open = here.map(|(at, _)| at).filter(|&at| {
            // Neither what is there nor what is to be hoped for from what is under way may be enough.
            end(asked, &sure, at).is_none() && end(asked, &hoped, at).is_none()
        });
        let boots = |at: usize| hoped.get(at).map_or(0, |tally| tally.boots);
        // A reference first: what the others need depends on it.
        if let Some(at) = open.min_by_key(|&at| (!wanted(at), boots(at), at)) {
            let is_free =
                |boot: &u32| !results.contains_key(&(at, *boot)) && !running.contains(&(at, *boot));
            if let Some(boot) = (1..=asked.amount.most_boots()).find(is_free) {
                return Next::Boot(at, boot);
            }
        }
    }
    match running.is_empty() {
        true => Next::Done,
        false => Next::Wait,
    }
}

/// What the results say of each combination.
pub fn tallies(asked: &Asked, results: &Results) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); asked.cells.len()];
    for ((at, _), result) in results {
        if let Some(tally) = tallies.get_mut(*at) {
            tally.add(result);
        }
    }
    tallies
}

/// The same as if all that is under way turned out well for the bound.
fn with_hopes(asked: &Asked, sure: &[Tally], running: &Running) -> Vec<Tally> {
    let mut under_way: BTreeMap<usize, u32> = BTreeMap::new();
    for (at, _) in running {
        *under_way.entry(*at).or_default() += 1;
    }
    let mut hoped = sure.to_vec();
    for (at, boots) in under_way {
        let is_reference =
            wished(asked, sure, at) == Some(at) || sure.get(at).is_some_and(|tally| tally.hits > 0);
        let rounds = asked.cells.get(at).map_or(1, |cell| cell.rounds);
        if let Some(tally) = hoped.get_mut(at) {
            tally.boots = tally.boots.saturating_add(boots);
            if is_reference {
                // A boot ends with its first hit.
                tally.hits = tally.hits.saturating_add(boots);
                tally.tries = tally.tries.saturating_add(boots);
            } else {
                let rounds = rounds.saturating_mul(boots);
                tally.clean = tally.clean.saturating_add(rounds);
                tally.tries = tally.tries.saturating_add(rounds);
            }
        }
    }
    hoped
}

/// Why a combination gets no more boots; `None` if it gets some, or if no error bound is asked for.
pub fn end(asked: &Asked, tallies: &[Tally], at: usize) -> Option<End> {
    let Amount::Error { error, most_boots } = asked.amount else {
        return None;
    };
    let (cell, tally) = (asked.cells.get(at)?, tallies.get(at)?);
    if cell.kernel_id.is_none() {
        return Some(End::Unbuilt);
    }
    let is_wished = wished(asked, tallies, at) == Some(at);
    let of_all = |wanted: usize| {
        let mut cells = (0..asked.cells.len()).filter(|&other| {
            asked
                .cells
                .get(other)
                .is_some_and(|c| c.scenario == cell.scenario)
        });
        cells.any(|other| reference(asked, tallies, other) == Some(wanted))
    };
    let met = |rate, clean| false_pass(rate, clean).is_some_and(|p| meets(p, error));
    if tally.hits > 0 {
        if !of_all(at) {
            return Some(End::Hit);
        }
        if met(tally.rate(), tally.tries) {
            return Some(End::Met);
        }
    } else if tally.others > 0 && !is_wished {
        return Some(End::Other);
    } else if tally.clean == 0 && tally.others + tally.unknown >= HOPELESS {
        return Some(End::Hopeless);
    } else {
        match reference(asked, tallies, at).and_then(|other| tallies.get(other)) {
            Some(reference) if met(reference.rate(), tally.clean) => return Some(End::Met),
            None if tally.clean >= fewest_rounds(error)
                && !(is_wished && asked.reference.is_some()) =>
            {
                return Some(End::NoReference);
            }
            _ => {}
        }
    }
    (tally.boots >= most_boots).then_some(End::MostBoots)
}

/// Boots that are missing: their number, and the first of them.
pub fn missing(asked: &Asked, results: &Results) -> (u64, Vec<(usize, u32)>) {
    /// How many are named.
    const NAMED: usize = 10;
    let Amount::Boots(boots) = asked.amount else {
        let tallies = tallies(asked, results);
        let open = (0..asked.cells.len()).filter(|&at| end(asked, &tallies, at).is_none());
        let open: Vec<(usize, u32)> = open
            .filter_map(|at| Some((at, tallies.get(at)?.boots.saturating_add(1))))
            .collect();
        return (open.len() as u64, open);
    };
    let mut count = 0u64;
    let mut named = Vec::new();
    for (at, cell) in asked.cells.iter().enumerate() {
        if cell.kernel_id.is_none() {
            continue;
        }
        let there = results.range((at, 1)..=(at, boots)).count() as u64;
        count += u64::from(boots).saturating_sub(there);
        let open = (1..=boots).filter(|boot| !results.contains_key(&(at, *boot)));
        named.extend(
            open.map(|boot| (at, boot))
                .take(NAMED.saturating_sub(named.len())),
        );
    }
    (count, named)
}

/// Whether a verdict says that the kernel did neither what is looked for nor nothing.
pub(super) fn is_other(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::DoubleRemoval
            | Verdict::Deadlock
            | Verdict::Finding
            | Verdict::Silent
            | Verdict::BootFail
    )
}
