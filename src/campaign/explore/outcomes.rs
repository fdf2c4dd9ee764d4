// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Distinct outcomes: verdict, class, and the frame or title that tells one finding from another.

use std::collections::HashMap;

use serde::Serialize;

use super::Outcome;
use crate::event::{Class, Finding, Standing, Verdict};
use crate::scenario::Schedule;

/// What makes two outcomes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    verdict: Verdict,
    finding: Option<(Class, String)>,
}

/// An outcome that was seen. A schedule with several findings shows several; one without shows its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// The verdict on the round.
    pub verdict: Verdict,
    /// The finding as it was first seen; `None` if there was none.
    pub finding: Option<Finding>,
    /// What tells it from others of its class: its frame, or its title with N for numbers.
    pub telling: Option<String>,
    /// Number of the first schedule that showed it.
    pub first: u32,
    /// That schedule.
    pub schedule: Schedule,
    /// How many schedules showed it.
    pub count: u32,
}

impl Seen {
    /// Whether it is what the scenario looks for.
    pub fn is_wanted(&self) -> bool {
        self.finding
            .as_ref()
            .is_some_and(|finding| finding.standing == Standing::Wanted)
    }
}

/// The outcomes that a round shows, without known issues. Never empty, none twice.
fn shown(outcome: &Outcome) -> Vec<(Key, Option<&Finding>)> {
    let mut shown: Vec<(Key, Option<&Finding>)> = Vec::new();
    for finding in &outcome.findings {
        if finding.standing == Standing::Known {
            continue;
        }
        let key = Key {
            verdict: outcome.verdict,
            finding: Some((finding.class, telling(finding))),
        };
        if !shown.iter().any(|(other, _)| *other == key) {
            shown.push((key, Some(finding)));
        }
    }
    if shown.is_empty() {
        let key = Key {
            verdict: outcome.verdict,
            finding: None,
        };
        shown.push((key, None));
    }
    shown
}

fn telling(finding: &Finding) -> String {
    finding
        .frame
        .clone()
        .unwrap_or_else(|| without_numbers(&finding.title))
}

/// Addresses and numbers become N.
pub(super) fn without_numbers(title: &str) -> String {
    let mut out = String::new();
    for word in title.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let end = word
            .char_indices()
            .last()
            .filter(|(_, c)| !c.is_ascii_alphanumeric())
            .map_or(word.len(), |(at, _)| at);
        let (word, separator) = word.split_at(end);
        let is_hex = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
        let is_address = word.strip_prefix("0x").is_some_and(is_hex)
            || (word.len() >= 8 && is_hex(word) && word.bytes().any(|b| b.is_ascii_digit()));
        if is_address {
            out.push('N');
        } else {
            let mut in_number = false;
            for c in word.chars() {
                if !c.is_ascii_digit() {
                    out.push(c);
                } else if !in_number {
                    out.push('N');
                }
                in_number = c.is_ascii_digit();
            }
        }
        out.push_str(separator);
    }
    out
}

/// Counts outcomes.
#[derive(Default)]
pub(super) struct Tally {
    entries: Vec<Entry>,
    places: HashMap<Key, usize>,
}

/// One of them, with every schedule that showed it.
pub(super) struct Entry {
    seen: Seen,
    schedules: Vec<(u32, Schedule)>,
}

impl Entry {
    /// The class of its finding.
    pub(super) fn class(&self) -> Option<Class> {
        self.seen.finding.as_ref().map(|finding| finding.class)
    }
}

impl Tally {
    /// Takes the outcome of schedule `number` in. Gives the findings that were not seen before.
    pub(super) fn take<'a>(
        &mut self,
        number: u32,
        schedule: &Schedule,
        outcome: &'a Outcome,
    ) -> Vec<&'a Finding> {
        let mut new = Vec::new();
        for (key, finding) in shown(outcome) {
            let known = self.places.get(&key).copied();
            if let Some(entry) = known.and_then(|at| self.entries.get_mut(at)) {
                entry.seen.count += 1;
                entry.schedules.push((number, schedule.clone()));
                continue;
            }
            self.places.insert(key, self.entries.len());
            new.extend(finding);
            self.entries.push(Entry {
                seen: Seen {
                    verdict: outcome.verdict,
                    finding: finding.cloned(),
                    telling: finding.map(telling),
                    first: number,
                    schedule: schedule.clone(),
                    count: 1,
                },
                schedules: vec![(number, schedule.clone())],
            });
        }
        new
    }

    /// The first wanted one.
    pub(super) fn wanted(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.seen.is_wanted())
    }

    /// The schedules that showed a wanted finding of this class, in order, none twice.
    pub(super) fn schedules(&self, class: Option<Class>) -> Vec<Schedule> {
        let mut schedules: Vec<(u32, Schedule)> = Vec::new();
        for entry in &self.entries {
            if entry.seen.is_wanted() && entry.class() == class {
                schedules.extend(entry.schedules.iter().cloned());
            }
        }
        schedules.sort_by_key(|(number, _)| *number);
        schedules.dedup_by_key(|(number, _)| *number);
        schedules
            .into_iter()
            .map(|(_, schedule)| schedule)
            .collect()
    }

    /// All of them, wanted ones first, then by their first schedule.
    pub(super) fn into_seen(self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = self.entries.into_iter().map(|entry| entry.seen).collect();
        seen.sort_by_key(|seen| (!seen.is_wanted(), seen.first));
        seen
    }
}
