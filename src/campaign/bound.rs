// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How sure a PASS is: the chance that a kernel as bad as the reference shows nothing in so many rounds.
//!
//! One-sided exact test (R. A. Fisher: The Design of Experiments, 1935). The reference had h hits in n rounds, the kernel
//! none in N. If both hit equally often, each choice of the h hits among the n + N rounds is as likely as any other, and
//! C(n, h) of C(n + N, h) choices have all of them in the reference (docs/statistics.md).

use super::stats::Rate;

/// Where [`at_most`] stops to tell smaller numbers apart.
const FLOOR: f64 = 1e-9;
/// What rounding may have done to a probability, relative.
const ROUNDING: f64 = 1e-9;

/// The chance of no hit in `clean` rounds on a kernel as bad as the reference. `None` if the reference has no hits: then
/// nothing is known about how bad that is.
pub fn false_pass(reference: Rate, clean: u32) -> Option<f64> {
    if reference.hits == 0 || reference.hits > reference.of {
        return None;
    }
    let (n, clean) = (f64::from(reference.of), f64::from(clean));
    // C(n, h) / C(n + N, h), factor by factor.
    let factor = |i: u32| ((n - f64::from(i)) / (n + clean - f64::from(i))).ln();
    let log: f64 = (0..reference.hits).map(factor).sum();
    Some(log.exp().min(1.0))
}

/// Clean rounds that it takes until [`false_pass`] is at most `error`. `None` if no number does.
pub fn clean_needed(reference: Rate, error: f64) -> Option<u32> {
    let enough = |clean| false_pass(reference, clean).is_some_and(|p| meets(p, error));
    let (mut low, mut high) = (0, u32::MAX);
    if !enough(high) {
        return None;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if enough(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(low)
}

/// Rounds that it takes at least, on the reference and on the other kernel each, if the reference hits in every one.
pub fn fewest_rounds(error: f64) -> u32 {
    let enough = |n: &u32| false_pass(Rate::new(*n, *n), *n).is_some_and(|p| meets(p, error));
    (1..).find(enough).unwrap_or(u32::MAX)
}

/// Whether a probability is at most that error; the sums of logarithms are not exact.
pub fn meets(probability: f64, error: f64) -> bool {
    probability <= error * (1.0 + ROUNDING)
}

/// A probability, rounded up to 1, 2 or 5 at its first digit: `<= 0.05`, `<= 2e-4`, `< 1e-9`.
pub fn at_most(probability: f64) -> String {
    if probability < FLOOR {
        return "< 1e-9".to_owned();
    }
    for exponent in -9..=0 {
        for digit in [1, 2, 5] {
            let rounded = f64::from(digit) * 10f64.powi(exponent);
            if meets(probability, rounded) {
                return match exponent {
                    _ if rounded >= 1.0 => "<= 1".to_owned(),
                    -3..0 => {
                        let digits = usize::try_from(-exponent).unwrap_or_default();
                        format!("<= {rounded:.digits$}")
                    }
                    _ => format!("<= {digit}e{exponent}"),
                };
            }
        }
    }
    "<= 1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by whole numbers.
    fn exactly(hits: u64, of: u64, clean: u64) -> f64 {
        let choose =
            |n: u64, k: u64| (0..k).fold(1u128, |c, i| c * u128::from(n - i) / u128::from(i + 1));
        choose(of, hits) as f64 / choose(of + clean, hits) as f64
    }

    #[test]
    fn the_chance_is_that_of_the_whole_numbers() {
        for of in 1..20u32 {
            for hits in 1..=of {
                for clean in [0, 1, 2, 7, 20] {
                    let exact = exactly(hits.into(), of.into(), clean.into());
                    let got = false_pass(Rate::new(hits, of), clean).unwrap();
                    assert!(
                        (got / exact - 1.0).abs() < 1e-9,
                        "{hits}/{of}, {clean}: {got} {exact}"
                    );
                }
            }
        }
        assert_eq!(false_pass(Rate::new(0, 20), 100), None);
        assert_eq!(false_pass(Rate::new(0, 0), 100), None);
        assert_eq!(false_pass(Rate::new(3, 2), 100), None);
        // 3 of 3 and none of 3: one choice of 20.
        assert!((false_pass(Rate::new(3, 3), 3).unwrap() - 0.05).abs() < 1e-12);
    }

    #[test]
    fn so_many_rounds_and_no_fewer() {
        for (hits, of) in [(1, 1), (3, 3), (20, 20), (1, 20), (7, 200)] {
            let rate = Rate::new(hits, of);
            for error in [0.5, 0.05, 0.01, 1e-3, 1e-9] {
                let clean = clean_needed(rate, error).unwrap_or(u32::MAX);
                assert!(clean < 2 || !meets(false_pass(rate, clean - 1).unwrap(), error));
                assert!(clean == u32::MAX || meets(false_pass(rate, clean).unwrap(), error));
            }
        }
        assert_eq!(clean_needed(Rate::new(3, 3), 0.05), Some(3));
        assert_eq!(clean_needed(Rate::new(0, 3), 0.05), None);
        // One hit in one round: 1 of N + 1.
        assert_eq!(clean_needed(Rate::new(1, 1), 0.01), Some(99));
    }

    #[test]
    fn rounds_at_equal_cost() {
        // C(10, 5) = 252, C(8, 4) = 70
        assert_eq!(fewest_rounds(0.01), 5);
        assert_eq!(fewest_rounds(0.05), 3);
        assert_eq!(fewest_rounds(0.5), 1);
        assert_eq!(fewest_rounds(1e-9), 17);
    }

    #[test]
    fn probabilities_are_rounded_up() {
        for (probability, text) in [
            (1.0, "<= 1"),
            (0.51, "<= 1"),
            (0.5, "<= 0.5"),
            (0.05, "<= 0.05"),
            (0.0501, "<= 0.1"),
            (0.0021, "<= 0.005"),
            (0.001, "<= 0.001"),
            (0.00021, "<= 5e-4"),
            (1e-9, "<= 1e-9"),
            (1.1e-9, "<= 2e-9"),
            (9.9e-10, "< 1e-9"),
            (0.0, "< 1e-9"),
        ] {
            assert_eq!(at_most(probability), text, "{probability}");
        }
    }
}
