// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The undirected loop: the unplug at a time that nobody chose.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::event::Role;
use crate::scenario::{At, Schedule, Step};

/// An endless row of schedules that fire at a whole millisecond, uniformly from the beginning of the teardown to its
/// measured length. Nothing is held. A seed means the same row for ever.
#[derive(Clone, Debug)]
pub struct RandomTimes {
    seed: u64,
    number: u64,
    milliseconds: u64,
}

impl RandomTimes {
    /// Times over a teardown that takes `length`, which is rounded up.
    pub fn new(seed: u64, length: Duration) -> Self {
        let milliseconds = length.as_nanos().div_ceil(1_000_000);
        Self {
            seed,
            number: 0,
            milliseconds: u64::try_from(milliseconds).unwrap_or(u64::MAX - 1),
        }
    }

    /// A number that depends on the seed and on how many came before.
    fn random(&mut self) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(self.number.to_le_bytes());
        self.number = self.number.wrapping_add(1);
        let bytes = hash.finalize();
        let first = bytes.first_chunk::<8>().copied().unwrap_or_default();
        u64::from_le_bytes(first)
    }
}

impl Iterator for RandomTimes {
    type Item = Schedule;

    fn next(&mut self) -> Option<Schedule> {
        // The high half of a product; its bias is below length / 2^64.
        let product = u128::from(self.random()) * (u128::from(self.milliseconds) + 1);
        let after = Duration::from_millis(u64::try_from(product >> 64).unwrap_or(0));
        let at = At::Time {
            role: Role::Teardown,
            after,
        };
        Some(Schedule {
            first: Role::Teardown,
            steps: vec![Step {
                at,
                fire: true,
                hold: None,
                returns: None,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(seed: u64, length: Duration, n: usize) -> Vec<u64> {
        let schedules = RandomTimes::new(seed, length).take(n);
        schedules
            .map(|schedule| match schedule.steps.as_slice() {
                [
                    Step {
                        at: At::Time { after, .. },
                        fire: true,
                        hold: None,
                        returns: None,
                    },
                ] => u64::try_from(after.as_millis()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_seed_means_the_same_times_for_ever() {
        let second = Duration::from_secs(1);
        let told: Vec<String> = RandomTimes::new(1, second)
            .take(3)
            .map(|s| s.to_string())
            .collect();
        // The first eight bytes, little end first, of the SHA-256 of the seed and 0, 1, 2, times 1001, above 2^64.
        let expected = [820, 755, 967].map(|ms| format!("teardown first; teardown+{ms}ms fire"));
        assert_eq!(told, expected);
        assert_ne!(times(1, second, 20), times(2, second, 20));
    }

    #[test]
    fn times_are_spread_over_the_whole_teardown() {
        let times = times(7, Duration::from_micros(9_100), 11_000);
        let mut counts = [0u32; 11];
        for time in times {
            counts[usize::try_from(time).unwrap()] += 1;
        }
        // 0 to 10 ms; a thousand each, with a standard deviation of 30.
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        assert_eq!(super::tests::times(7, Duration::ZERO, 5), [0; 5]);
    }
}
