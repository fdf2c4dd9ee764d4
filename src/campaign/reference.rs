// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel that the others are compared with: one that shows what the scenario looks for.

use super::asked::Asked;
use super::plan::is_other;
use super::stats::Rate;
use super::store::BootResult;
use crate::event::Verdict;

/// Names of a kernel without any patch: Debian's source, and a tree of the user's.
const PLAIN: [&str; 2] = ["base", "tree"];

/// What the boots of a combination add up to. The unit is the round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Boots, whatever they led to.
    pub boots: u32,
    /// Rounds begun.
    pub rounds: u32,
    /// Rounds with a finding that the scenario looks for.
    pub hits: u32,
    /// Rounds that could have hit: those of boots with a hit, and those of boots judged PASS.
    pub tries: u32,
    /// Rounds of boots judged PASS.
    pub clean: u32,
    /// Boots that showed something else, did not boot, or fell silent.
    pub others: u32,
    /// Boots that say nothing about the kernel: INFRA and INCONCLUSIVE.
    pub unknown: u32,
}

impl Tally {
    /// Counts a boot.
    pub fn add(&mut self, result: &BootResult) {
        let rounds = result.judgement.rounds;
        let hits = result.wanted_rounds();
        self.boots = self.boots.saturating_add(1);
        self.rounds = self.rounds.saturating_add(rounds);
        let counted = match result.judgement.verdict {
            Verdict::Pass => {
                self.clean = self.clean.saturating_add(rounds);
                true
            }
            verdict if hits > 0 && is_other(verdict) => {
                self.hits = self.hits.saturating_add(hits);
                true
            }
            verdict => {
                let to = match is_other(verdict) {
                    true => &mut self.others,
                    false => &mut self.unknown,
                };
                *to = to.saturating_add(1);
                false
            }
        };
        if counted {
            self.tries = self.tries.saturating_add(rounds);
        }
    }

    /// Hits in the rounds that could have hit.
    pub fn rate(&self) -> Rate {
        Rate::new(self.hits, self.tries)
    }
}

/// A kernel's name, taken apart: `v7`, and `+rt@7.3` behind it.
fn parts(kernel: &str) -> (&str, &str) {
    let end = kernel.find(['+', '@']).unwrap_or(kernel.len());
    kernel.split_at(end)
}

/// The combinations of the same scenario as `at`.
fn same_scenario(asked: &Asked, at: usize) -> impl Iterator<Item = (usize, &str)> {
    let scenario = asked.cells.get(at).map(|cell| cell.scenario.as_str());
    let cells = asked.cells.iter().enumerate();
    cells
        .filter(move |(_, cell)| Some(cell.scenario.as_str()) == scenario)
        .map(|(at, cell)| (at, cell.kernel.as_str()))
}

/// The combination that should become the reference of `at`, whether it has hits or not: the kernel that was named, else
/// the plain one on the same source, else any plain one.
pub fn wished(asked: &Asked, tallies: &[Tally], at: usize) -> Option<usize> {
    let mut named = same_scenario(asked, at);
    if let Some(name) = &asked.reference {
        return named.find(|(_, kernel)| kernel == name).map(|(at, _)| at);
    }
    let (_, rest) = parts(asked.cells.get(at).map_or("", |cell| &cell.kernel));
    let hits = |at: usize| tallies.get(at).is_some_and(|tally| tally.hits > 0);
    named
        .filter(|(_, kernel)| PLAIN.contains(&parts(kernel).0))
        .min_by_key(|&(at, kernel)| (!hits(at), parts(kernel).1 != rest, at))
        .map(|(at, _)| at)
}

/// The combination whose hits those of `at` are compared with; `None` if none has any. See [`wished`]; if that one has no
/// hits and was not named, the one with the most.
pub fn reference(asked: &Asked, tallies: &[Tally], at: usize) -> Option<usize> {
    let hits = |at: usize| tallies.get(at).map_or(0, |tally| tally.hits);
    let wished = wished(asked, tallies, at);
    if let Some(wished) = wished.filter(|&wished| hits(wished) > 0) {
        return Some(wished);
    }
    if asked.reference.is_some() {
        return None;
    }
    same_scenario(asked, at)
        .map(|(at, _)| at)
        .filter(|&at| hits(at) > 0)
        // The first of those with as many.
        .min_by_key(|&at| (std::cmp::Reverse(hits(at)), at))
}
