// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers about many rounds: rates with their intervals, where the time of a round goes, random times to fire at.

pub mod random_times;
pub mod round_times;

use serde::Serialize;

/// The 97.5 % quantile of the normal distribution: half of what a 95 % interval leaves out is above it.
const Z_95: f64 = 1.959_963_984_540_054;

/// How often something was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Times it was seen.
    pub hits: u32,
    /// Times it could have been seen. At least `hits`.
    pub of: u32,
}

/// Two ends, the lower one first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end. Infinite for a quotient whose divisor may be 0; JSON has no such number and shows `null`.
    pub high: f64,
}

impl Rate {
    /// A rate of `hits` in `of`.
    pub fn new(hits: u32, of: u32) -> Self {
        Self { hits, of }
    }

    /// Counts one more.
    pub fn count(&mut self, hit: bool) {
        self.of = self.of.saturating_add(1);
        self.hits = self.hits.saturating_add(u32::from(hit));
    }

    /// Hits per try, from 0 to 1. `None` without a try.
    pub fn share(self) -> Option<f64> {
        (self.of > 0).then(|| f64::from(self.hits) / f64::from(self.of))
    }

    /// The 95 % score interval of the share (E. B. Wilson: Probable Inference, the Law of Succession, and Statistical
    /// Inference, JASA 22, 1927). Unlike the usual one it is of use for shares of 0 and 1. `None` without a try.
    pub fn interval(self) -> Option<Interval> {
        let share = self.share()?;
        let (n, z2) = (f64::from(self.of), Z_95 * Z_95);
        let middle = share + z2 / (2.0 * n);
        let half = Z_95 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        // The ends at 0 and 1 are exact; rounding must not take them beyond or short of it.
        let low = if self.hits == 0 {
            0.0
        } else {
            (middle - half) / scale
        };
        let high = if self.hits >= self.of {
            1.0
        } else {
            (middle + half) / scale
        };
        Some(Interval { low, high })
    }

    /// How many times as often as `other` per try. `None` if `other` was never seen.
    pub fn times_as_often_as(self, other: Self) -> Option<f64> {
        let (mine, its) = (self.share()?, other.share()?);
        (its > 0.0).then(|| mine / its)
    }

    /// Bounds of [`Rate::times_as_often_as`] from the far ends of both intervals: wider than a 95 % interval of the
    /// quotient would be. `None` without tries.
    pub fn times_as_often_as_bounds(self, other: Self) -> Option<Interval> {
        let (mine, its) = (self.interval()?, other.interval()?);
        Some(Interval {
            low: mine.low / its.high,
            high: if its.low > 0.0 {
                mine.high / its.low
            } else {
                f64::INFINITY
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-5
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe: Two-sided confidence intervals for the single proportion, Stat. Med. 17, 1998, table I, method 3.
        for (hits, of, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = Rate::new(hits, of).interval().unwrap();
            assert!(
                near(interval.low, low) && near(interval.high, high),
                "{hits}/{of}: {interval:?}"
            );
        }
    }

    #[test]
    fn the_interval_mirrors_and_ends_at_nothing_and_at_everything() {
        assert_eq!(Rate::default().interval(), None);
        assert_eq!(Rate::default().share(), None);
        for of in [1, 7, 200] {
            for hits in 0..=of {
                let (a, b) = (Rate::new(hits, of), Rate::new(of - hits, of));
                let (a, b) = (a.interval().unwrap(), b.interval().unwrap());
                assert!(near(a.low, 1.0 - b.high) && near(a.high, 1.0 - b.low));
                assert!(0.0 <= a.low && a.low < a.high && a.high <= 1.0);
            }
        }
        assert_eq!(Rate::new(0, 200).interval().unwrap().low.to_bits(), 0);
        assert!(Rate::new(200, 200).interval().unwrap().high >= 1.0);
    }

    #[test]
    fn rates_are_compared() {
        let mut directed = Rate::default();
        for n in 0..200 {
            directed.count(n != 0);
        }
        assert_eq!(directed, Rate::new(199, 200));
        let undirected = Rate::new(20, 200);
        assert!(near(directed.times_as_often_as(undirected).unwrap(), 9.95));
        let bounds = directed.times_as_often_as_bounds(undirected).unwrap();
        assert!(
            bounds.low > 6.0 && bounds.low < 9.95 && bounds.high > 9.95 && bounds.high < 16.0,
            "{bounds:?}"
        );
        let never = Rate::new(0, 200);
        assert_eq!(directed.times_as_often_as(never), None);
        let bounds = directed.times_as_often_as_bounds(never).unwrap();
        assert!(bounds.low > 40.0 && bounds.high.is_infinite());
        assert_eq!(directed.times_as_often_as_bounds(Rate::default()), None);
    }
}
