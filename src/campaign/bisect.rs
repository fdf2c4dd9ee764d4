// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which patch of a series brings or cures a finding: halving over its prefixes.
//!
//! Prefix k is the source with the first k patches. One that cannot be told is passed over for the nearest one that can,
//! as git-bisect(1) does with a commit that is skipped.

use serde::Serialize;

use super::decide::Decision;

/// What a halving has found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// Patch `patch` (from 1) changes a kernel that is `from` into one that is `to`.
    Patch {
        /// Number of the patch, from 1.
        patch: usize,
        /// What the source is without it.
        from: Decision,
        /// What it is with it.
        to: Decision,
    },
    /// One of several patches, which cannot be told apart: the prefixes between them cannot be told.
    OneOf {
        /// The first of them, from 1.
        first: usize,
        /// The last of them.
        last: usize,
        /// What the source is without them.
        from: Decision,
        /// What it is with them.
        to: Decision,
    },
    /// Both ends are the same; nothing between them was looked at.
    Unchanged {
        /// What both are.
        both: Decision,
    },
    /// Fewer than two prefixes can be told.
    CannotTell,
}

/// A halving that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Halved {
    /// What came out.
    #[serde(flatten)]
    pub answer: Answer,
    /// The prefixes that were looked at, in this order, with what they are.
    pub seen: Vec<(usize, Decision)>,
}

impl Halved {
    /// What the whole series is, `None` if that was not looked at or cannot be told.
    pub fn whole(&self, patches: usize) -> Option<Decision> {
        let mut all = self.seen.iter();
        all.find(|(at, decision)| *at == patches && is_told(*decision))
            .map(|(_, decision)| *decision)
    }
}

fn is_told(decision: Decision) -> bool {
    matches!(decision, Decision::Good | Decision::Bad)
}

/// Looks for the patch among `patches` that makes the difference. `look` decides about a prefix, each of which is looked at
/// once: first none and all of them, then what lies between. An error of `look` ends it.
pub fn halve<E>(
    patches: usize,
    mut look: impl FnMut(usize) -> Result<Decision, E>,
) -> Result<Halved, E> {
    let mut seen: Vec<(usize, Decision)> = Vec::new();
    let mut look = |at: usize| -> Result<Decision, E> {
        let decision = look(at)?;
        seen.push((at, decision));
        Ok(decision)
    };
    let low = first_told(0..=patches, &mut look)?;
    // The other end, down to the one after that.
    let high = match low {
        Some((low, _)) => first_told((low + 1..=patches).rev(), &mut look)?,
        None => None,
    };
    let (Some((mut low, from)), Some((mut high, to))) = (low, high) else {
        let answer = match low {
            // All other prefixes, if there are any, cannot be told.
            Some((_, both)) if patches == 0 => Answer::Unchanged { both },
            _ => Answer::CannotTell,
        };
        return Ok(Halved { answer, seen });
    };
    if from == to {
        let answer = Answer::Unchanged { both: from };
        return Ok(Halved { answer, seen });
    }
    let mut skipped: Vec<usize> = Vec::new();
    while let Some(at) = nearest(low, high, &skipped) {
        match look(at)? {
            decision if !is_told(decision) => skipped.push(at),
            decision if decision == from => low = at,
            _ => high = at,
        }
    }
    let answer = if high - low == 1 {
        Answer::Patch {
            patch: high,
            from,
            to,
        }
    } else {
        Answer::OneOf {
            first: low + 1,
            last: high,
            from,
            to,
        }
    };
    Ok(Halved { answer, seen })
}

/// The first that can be told.
fn first_told<E>(
    at: impl Iterator<Item = usize>,
    look: &mut impl FnMut(usize) -> Result<Decision, E>,
) -> Result<Option<(usize, Decision)>, E> {
    for at in at {
        let decision = look(at)?;
        if is_told(decision) {
            return Ok(Some((at, decision)));
        }
    }
    Ok(None)
}

/// What is nearest to the middle between `low` and `high`, neither of these nor skipped; the lower one of two.
fn nearest(low: usize, high: usize, skipped: &[usize]) -> Option<usize> {
    let middle = low + (high - low) / 2;
    (low + 1..high)
        .filter(|at| !skipped.contains(at))
        .min_by_key(|at| at.abs_diff(middle))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Decision::{Bad, CannotTell, Good};

    fn halved(states: &[Decision]) -> Halved {
        let look = |at: usize| Ok::<_, std::convert::Infallible>(states[at]);
        let Ok(halved) = halve(states.len() - 1, look);
        halved
    }

    #[test]
    fn the_patch_that_brings_it_and_the_one_that_cures_it() {
        let brings = halved(&[Good, Good, Good, Bad, Bad, Bad]);
        let patch = |patch, from, to| Answer::Patch { patch, from, to };
        assert_eq!(brings.answer, patch(3, Good, Bad));
        assert_eq!(brings.whole(5), Some(Bad));
        // Both ends first.
        assert_eq!(brings.seen[..2], [(0, Good), (5, Bad)]);
        assert_eq!(halved(&[Bad, Good]).answer, patch(1, Bad, Good));
    }

    #[test]
    fn nothing_between_two_equal_ends_is_looked_at() {
        let same = halved(&[Good, Bad, Good]);
        assert_eq!(same.answer, Answer::Unchanged { both: Good });
        assert_eq!(same.seen.len(), 2);
        assert_eq!(halved(&[Bad]).answer, Answer::Unchanged { both: Bad });
    }

    #[test]
    fn prefixes_that_cannot_be_told_are_passed_over() {
        let told = halved(&[Good, Good, CannotTell, Bad, Bad]);
        let one_of = Answer::OneOf {
            first: 2,
            last: 3,
            from: Good,
            to: Bad,
        };
        assert_eq!(told.answer, one_of);
        // Ends that cannot be told are passed over as well.
        let ends = halved(&[CannotTell, Good, Bad, CannotTell]);
        let patch = Answer::Patch {
            patch: 2,
            from: Good,
            to: Bad,
        };
        assert_eq!(ends.answer, patch);
        assert_eq!(ends.whole(3), None);
        for states in [
            &[CannotTell, CannotTell][..],
            &[Good, CannotTell],
            &[CannotTell],
        ] {
            assert_eq!(halved(states).answer, Answer::CannotTell);
        }
    }

    #[test]
    fn an_error_ends_it() {
        assert_eq!(halve(3, |_| Err::<Decision, _>("no disk")), Err("no disk"));
    }

    proptest! {
        /// One change, some prefixes that cannot be told: the change is always within what is named, what is named cannot
        /// be made smaller, and no prefix is looked at twice.
        #[test]
        fn the_change_is_always_named(
            change in 1_usize..40,
            after in 0_usize..40,
            cannot in proptest::collection::vec(0_usize..80, 0..20),
            brings: bool,
        ) {
            let (from, to) = if brings { (Good, Bad) } else { (Bad, Good) };
            let mut states: Vec<Decision> = (0..change).map(|_| from).collect();
            states.extend((0..=after).map(|_| to));
            for at in cannot {
                if let Some(state) = states.get_mut(at) {
                    *state = CannotTell;
                }
            }
            let halved = halved(&states);
            let mut looked: Vec<usize> = halved.seen.iter().map(|(at, _)| *at).collect();
            looked.sort_unstable();
            looked.dedup();
            prop_assert_eq!(looked.len(), halved.seen.len());
            match halved.answer {
                Answer::Patch { patch, .. } => prop_assert_eq!(patch, change),
                Answer::OneOf { first, last, .. } => {
                    prop_assert!(first <= change && change <= last && first < last);
                    prop_assert!(states[first..last].iter().all(|s| *s == CannotTell));
                }
                Answer::Unchanged { both } => {
                    let other = if both == from { to } else { from };
                    prop_assert!(!states.contains(&other));
                }
                Answer::CannotTell => {
                    let told = states.iter().filter(|s| **s != CannotTell).count();
                    prop_assert!(told < 2);
                }
            }
        }

        /// Without skips it takes two looks for the ends and as many more as the series can be halved.
        #[test]
        fn it_halves(change in 1_usize..200, after in 0_usize..200) {
            let states: Vec<Decision> = (0..change).map(|_| Good)
                .chain((0..=after).map(|_| Bad)).collect();
            let halvings = (states.len() - 1).next_power_of_two().trailing_zeros() as usize;
            prop_assert!(halved(&states).seen.len() <= 2 + halvings);
        }
    }
}
