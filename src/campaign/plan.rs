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

/// How many times the fewest rounds the plain kernel gets to show a first hit: no hit in that many is seen of one that hits
/// in every fifth round once in a hundred times, for an error of 1 %.
const PATIENCE: u32 = 4;

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
    let [clean, hit] = [false, true].map(|hits| with_hopes(asked, &sure, running, hits));
    let mut scenarios: Vec<&str> = Vec::new();
    for cell in &asked.cells {
        if !scenarios.contains(&cell.scenario.as_str()) {
            scenarios.push(&cell.scenario);
        }
    }
    let is_reference = |at: usize| reference(asked, &sure, at) == Some(at);
    for scenario in scenarios {
        let cells = asked.cells.iter().enumerate();
        let here = cells.filter(|(_, cell)| cell.scenario == scenario);
        let open = here.map(|(at, _)| at).filter(|&at| {
            // Neither what is there nor what may come of what is under way may be enough.
            [&sure, &clean, &hit]
                .iter()
                .all(|tallies| end(asked, tallies, at).is_none())
        });
        let boots = |at: usize| clean.get(at).map_or(0, |tally| tally.boots);
        // A reference first: what the others need depends on it.
        if let Some(at) = open.min_by_key(|&at| (!is_reference(at), boots(at), at)) {
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

/// The same as if all that is under way turned out alike: PASS, or with a hit in the first round of each boot where a
/// reference is to be expected.
fn with_hopes(asked: &Asked, sure: &[Tally], running: &Running, hits: bool) -> Vec<Tally> {
    let mut under_way: BTreeMap<usize, u32> = BTreeMap::new();
    for (at, _) in running {
        *under_way.entry(*at).or_default() += 1;
    }
    let mut hoped = sure.to_vec();
    for (at, boots) in under_way {
        let may_hit =
            wished(asked, sure, at) == Some(at) || sure.get(at).is_some_and(|tally| tally.hits > 0);
        let rounds = asked.cells.get(at).map_or(1, |cell| cell.rounds);
        if let Some(tally) = hoped.get_mut(at) {
            tally.boots = tally.boots.saturating_add(boots);
            if hits && may_hit {
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
            None => {
                let rounds = fewest_rounds(error);
                let enough = match (is_wished, &asked.reference) {
                    (true, Some(_)) => u32::MAX,
                    (true, None) if cell.unplugs => rounds.saturating_mul(PATIENCE),
                    _ => rounds,
                };
                if tally.clean >= enough {
                    return Some(End::NoReference);
                }
            }
            _ => {}
        }
    }
    (tally.boots >= most_boots).then_some(End::MostBoots)
}

/// Combinations with boots that are missing, and how many these are; for an error bound, those that are not at their end,
/// with 1.
pub fn missing(asked: &Asked, results: &Results) -> Vec<(usize, u64)> {
    let tallies = tallies(asked, results);
    let of = |at: usize| match asked.amount {
        Amount::Error { .. } => u64::from(end(asked, &tallies, at).is_none()),
        Amount::Boots(boots) => {
            let start = (at as u64).saturating_mul(boots.into());
            let dealt = match asked.shard {
                None => boots.into(),
                Some(part) => part.below(start.saturating_add(boots.into())) - part.below(start),
            };
            let there = results.range((at, 1)..=(at, boots));
            let there = there.filter(|((_, boot), _)| is_dealt(asked, at, *boot));
            dealt.saturating_sub(there.count() as u64)
        }
    };
    let cells = asked.cells.iter().enumerate();
    let built = cells.filter(|(_, cell)| cell.kernel_id.is_some());
    built
        .map(|(at, _)| (at, of(at)))
        .filter(|(_, missing)| *missing > 0)
        .collect()
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
            | Verdict::BuildFail
    )
}
