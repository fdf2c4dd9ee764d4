// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::fake::{asked, judgement, result};
use crate::campaign::bound::false_pass;
use crate::campaign::plan::{End, Next, Running, end, next, tallies};
use crate::campaign::{Amount, Asked, Results};
use crate::event::Verdict;
use crate::oracle::Judgement;

/// Plays it with `jobs` boots at the same time, which end in any order.
fn play(asked: &Asked, jobs: usize, world: &mut dyn FnMut(usize) -> Judgement) -> Results {
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let (mut results, mut running) = (Results::new(), Running::new());
    loop {
        let step = match running.len() < jobs {
            true => next(asked, &results, &running),
            false => Next::Wait,
        };
        match step {
            Next::Boot(at, boot) => {
                assert!((1..=asked.amount.most_boots()).contains(&boot));
                assert!(!results.contains_key(&(at, boot)));
                assert!(running.insert((at, boot)), "({at}, {boot}) twice");
            }
            Next::Wait => {
                let some = random.random_range(0..running.len());
                let key = *running.iter().nth(some).unwrap();
                running.remove(&key);
                results.insert(key, result(asked, key.0, key.1, world(key.0)));
            }
            Next::Done => {
                assert!(running.is_empty());
                return results;
            }
        }
    }
}

fn boots(results: &Results) -> Vec<u32> {
    let mut boots = BTreeMap::new();
    for (at, _) in results.keys() {
        *boots.entry(*at).or_default() += 1;
    }
    boots.into_values().collect()
}

fn ends(asked: &Asked, results: &Results) -> Vec<Option<End>> {
    let tallies = tallies(asked, results);
    (0..asked.cells.len())
        .map(|at| end(asked, &tallies, at))
        .collect()
}

const ONE_PERCENT: Amount = Amount::Error {
    error: 0.01,
    most_boots: 20,
};

/// What each combination always leads to.
fn always<'a>(verdicts: &'a [Verdict]) -> impl FnMut(usize) -> Judgement + 'a {
    |at| judgement(verdicts[at])
}

use Verdict::{BootFail, Deadlock, DoubleRemoval, Finding, Inconclusive, Infra, Pass, Silent};

#[test]
fn a_number_of_boots_is_a_number_of_boots() {
    let asked = asked(&["s on base", "s on v7"], Amount::Boots(2));
    let mut order = Vec::new();
    let results = play(&asked, 1, &mut |at| {
        order.push(at);
        judgement(Pass)
    });
    assert_eq!(order, [0, 0, 1, 1]);
    assert_eq!(boots(&results), [2, 2]);
    assert_eq!(ends(&asked, &results), [None, None]);
    let mut unbuilt = asked.clone();
    unbuilt.cells[0].kernel_id = None;
    assert_eq!(boots(&play(&unbuilt, 1, &mut always(&[Pass, Pass]))), [2]);
}

#[test]
fn no_more_boots_than_the_bound_takes() {
    let asked = asked(&["s on base", "s on v7", "s on v9"], ONE_PERCENT);
    for jobs in [1, 2, 3, 8] {
        let results = play(&asked, jobs, &mut always(&[DoubleRemoval, Pass, Deadlock]));
        // C(10, 5) = 252: five hits in five rounds and none in five; a boot of v7 has three rounds.
        // With more at the same time, v9 gets two before the first has ended.
        let of_v9 = results.keys().filter(|(at, _)| *at == 2).count();
        assert!(of_v9 == 1 || jobs > 1 && of_v9 == 2, "{of_v9}");
        assert_eq!(boots(&results)[..2], [5, 2], "{jobs}");
        assert_eq!(
            ends(&asked, &results),
            [Some(End::Met), Some(End::Met), Some(End::Hit)]
        );
    }
}

#[test]
fn without_a_hit_there_is_no_bound() {
    let mut asked = asked(&["s on base", "s on v7"], ONE_PERCENT);
    let results = play(&asked, 4, &mut always(&[Pass, Pass]));
    // 5 rounds, and for the plain kernel 20.
    assert_eq!(boots(&results), [7, 2]);
    assert_eq!(ends(&asked, &results), [Some(End::NoReference); 2]);
    // In a control nobody waits for it.
    asked.cells.iter_mut().for_each(|cell| cell.unplugs = false);
    assert_eq!(boots(&play(&asked, 4, &mut always(&[Pass, Pass]))), [2, 2]);
    // One that was named is waited for.
    asked.reference = Some("v7".to_owned());
    let results = play(&asked, 4, &mut always(&[Pass, Pass]));
    assert_eq!(boots(&results), [2, 20]);
    assert_eq!(
        ends(&asked, &results),
        [Some(End::NoReference), Some(End::MostBoots)]
    );
    // A hit of another one does not take its place.
    let results = play(&asked, 1, &mut always(&[DoubleRemoval, Pass]));
    assert_eq!(boots(&results), [1, 20]);
    assert_eq!(
        ends(&asked, &results),
        [Some(End::Hit), Some(End::MostBoots)]
    );
}

#[test]
fn another_kernel_than_the_plain_one_may_be_the_one_that_hits() {
    let asked = asked(
        &["s on base", "s on v7", "s on v9", "s on v10"],
        ONE_PERCENT,
    );
    let results = play(&asked, 1, &mut always(&[Pass, Pass, Deadlock, Deadlock]));
    assert_eq!(boots(&results), [2, 2, 5, 1]);
    assert_eq!(
        ends(&asked, &results),
        [
            Some(End::Met),
            Some(End::Met),
            Some(End::Met),
            Some(End::Hit)
        ]
    );
}

#[test]
fn what_says_nothing_is_neither_clean_nor_a_hit() {
    let asked = asked(&["s on base", "s on v7", "s on v9"], ONE_PERCENT);
    for nothing in [Inconclusive, Infra] {
        let results = play(&asked, 1, &mut always(&[DoubleRemoval, nothing, Pass]));
        assert_eq!(boots(&results), [5, 3, 2]);
        assert_eq!(ends(&asked, &results)[1], Some(End::Hopeless));
        // Some of both: only those that passed count.
        let mut turn = 0;
        let results = play(&asked, 1, &mut |at| {
            turn += u32::from(at == 1);
            judgement(match at {
                0 => DoubleRemoval,
                1 if turn == 2 => nothing,
                _ => Pass,
            })
        });
        let tally = tallies(&asked, &results)[1];
        assert_eq!((tally.clean, tally.hits), (6, 0));
        assert!(tally.unknown > 0);
        assert_eq!(ends(&asked, &results)[1], Some(End::Met));
    }
    for other in [BootFail, Silent] {
        let results = play(&asked, 1, &mut always(&[DoubleRemoval, other, Pass]));
        assert_eq!(boots(&results), [5, 1, 2]);
        assert_eq!(ends(&asked, &results)[1], Some(End::Other));
        // The one that should hit gets more chances.
        let results = play(&asked, 1, &mut always(&[other, Pass, Pass]));
        assert_eq!(boots(&results), [3, 2, 2]);
        assert_eq!(ends(&asked, &results)[0], Some(End::Hopeless));
    }
    // A finding that the scenario does not look for.
    let results = play(&asked, 1, &mut |at| match at {
        0 => judgement(DoubleRemoval),
        1 => {
            let mut judgement = judgement(Finding);
            judgement.findings[0].standing = crate::event::Standing::Other;
            judgement
        }
        _ => judgement(Pass),
    });
    assert_eq!(ends(&asked, &results)[1], Some(End::Other));
    assert_eq!(tallies(&asked, &results)[1].hits, 0);
}

#[test]
fn kernels_are_compared_with_the_plain_one_of_their_own_kind() {
    let asked = asked(
        &[
            "s on base",
            "s on base@7.3",
            "s on v7",
            "s on v7@7.3",
            "s on v7+rt",
            "t on v7",
        ],
        ONE_PERCENT,
    );
    let results = play(
        &asked,
        1,
        &mut always(&[DoubleRemoval, DoubleRemoval, Pass, Pass, Pass, Pass]),
    );
    let tallies = tallies(&asked, &results);
    let of = |at| super::super::reference::reference(&asked, &tallies, at);
    assert_eq!(
        (of(2), of(3), of(4), of(5)),
        (Some(0), Some(1), Some(0), None)
    );
    assert_eq!(
        boots(&results),
        [5, 5, 2, 2, 2, 2],
        "t has no kernel that hits"
    );
}

#[test]
fn a_reference_that_hits_now_and_then_takes_longer() {
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let asked = asked(
        &["s on base", "s on v7"],
        Amount::Error {
            error: 0.01,
            most_boots: 200,
        },
    );
    let results = play(&asked, 2, &mut |at| {
        judgement(match at == 0 && random.random_bool(0.3) {
            true => DoubleRemoval,
            false => Pass,
        })
    });
    let tallies = tallies(&asked, &results);
    assert!(
        tallies[0].hits >= 5 && tallies[0].tries > tallies[0].hits,
        "{tallies:?}"
    );
    assert!(false_pass(tallies[0].rate(), tallies[1].clean).unwrap() <= 0.01);
    assert_eq!(ends(&asked, &results), [Some(End::Met); 2]);
}

/// A kernel that is as bad as the reference gets a PASS no more often than was stated.
#[test]
fn a_false_pass_is_as_rare_as_stated() {
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    for rate in [0.9, 0.5, 0.2] {
        for error in [0.2, 0.05] {
            let mut asked = asked(
                &["s on base", "s on v7"],
                Amount::Error {
                    error,
                    most_boots: 400,
                },
            );
            asked.cells.iter_mut().for_each(|cell| cell.rounds = 1);
            const TRIALS: u32 = 1500;
            let mut passed = 0;
            for _ in 0..TRIALS {
                let results = play(&asked, 1, &mut |_| {
                    let mut judgement = judgement(match random.random_bool(rate) {
                        true => DoubleRemoval,
                        false => Pass,
                    });
                    judgement.rounds = 1;
                    judgement
                });
                passed += u32::from(
                    ends(&asked, &results)[1] == Some(End::Met)
                        && tallies(&asked, &results)[1].hits == 0,
                );
            }
            let seen = f64::from(passed) / f64::from(TRIALS);
            println!("rate {rate}, error {error}: {seen}");
            // Three deviations of what the trials themselves can be off.
            let noise = 3.0 * (error * (1.0 - error) / f64::from(TRIALS)).sqrt();
            assert!(seen <= error + noise, "rate {rate}, error {error}: {seen}");
        }
    }
}

proptest! {
    /// Whatever the kernels do, it comes to an end, within the ceiling, and every combination has a reason.
    #[test]
    fn it_ends(
        rates in prop::collection::vec((0u32..=100, 0u32..=100), 1..5),
        jobs in 1usize..5,
        error in 0.001f64..0.5,
        named in any::<bool>(),
    ) {
        let names: Vec<String> = (0..rates.len()).map(|n| if n == 0 { "s on base".to_owned() } else { format!("s on v{n}") }).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = asked(&names, Amount::Error { error, most_boots: 12 });
        asked.reference = named.then(|| "base".to_owned());
        let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let results = play(&asked, jobs, &mut |at| {
            let (hit, nothing) = rates[at];
            let verdict = match (random.random_range(0..100) < hit, random.random_range(0..100) < nothing) {
                (true, _) => DoubleRemoval,
                (false, true) => [Inconclusive, Infra, BootFail, Silent][random.random_range(0..4)],
                (false, false) => Pass,
            };
            judgement(verdict)
        });
        for (at, ended) in ends(&asked, &results).into_iter().enumerate() {
            prop_assert!(ended.is_some(), "{at} did not end: {:?}", tallies(&asked, &results));
        }
    }
}
