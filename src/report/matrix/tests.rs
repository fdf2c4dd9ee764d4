// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::Path;

use super::*;
use crate::campaign::tests::fake::{asked, file, results};
use crate::campaign::{Asked, Results};
use crate::oracle::Expectations;

use Verdict::{Deadlock, DoubleRemoval, Inconclusive, Pass};

const EXPECTED: &str = r#"
[[expect]]
scenarios = ["race", "alone"]
kernels = ["v7"]
verdict = "PASS"
reason = "r"
[[expect]]
scenarios = ["race"]
kernels = ["base"]
verdict = "DOUBLE-REMOVAL"
class = "DOUBLE-REMOVAL"
reason = "r"
[[expect]]
scenarios = ["race"]
kernels = ["v9"]
verdict = "PASS"
reason = "r"
"#;

fn of(asked: &Asked, results: &Results, expected: &str, error: Option<f64>) -> Table {
    let expected: Expectations = toml::from_str(expected).unwrap();
    Table::new(&file(asked), results, &expected, error, Path::new("x"))
}

fn campaign() -> (Asked, Results) {
    let cells = [
        "race on base",
        "race on v7",
        "race on v9",
        "race on v5+rt",
        "alone on v7",
        "race on mine",
    ];
    let mut asked = asked(&cells, Amount::Boots(20));
    asked.cells[3].kernel_id = None;
    asked.cells[3].source_version = None;
    asked.cells[3].build_failure = Some("ld: undefined reference to `a|b'".to_owned());
    asked.options = vec!["skip-sleep".to_owned()];
    let mut mixed = [Pass; 20];
    mixed[3] = Inconclusive;
    let results = results(
        &asked,
        &[
            &[DoubleRemoval; 20],
            &[Pass; 20],
            &[Deadlock; 2],
            &[],
            &[Pass; 20],
            &mixed,
        ],
    );
    (asked, results)
}

#[test]
fn what_was_not_expected_comes_first() {
    let (asked, results) = campaign();
    let table = of(&asked, &results, EXPECTED, None);
    insta::assert_snapshot!(matrix(&table, false));
    assert!(matrix(&table, true).contains("\u{1b}[31mDOUBLE-REMOVAL\u{1b}[0m  "));
    let plain = matrix(&table, true).replace("\u{1b}[0m", "");
    let plain = ["31;1", "31", "32", "33", "35"]
        .iter()
        .fold(plain, |t, c| t.replace(&format!("\u{1b}[{c}m"), ""));
    assert_eq!(
        plain,
        matrix(&table, false),
        "colours change nothing but colours"
    );
}

#[test]
fn a_page_has_a_section_a_scenario() {
    let (asked, results) = campaign();
    insta::assert_snapshot!(markdown(&of(&asked, &results, EXPECTED, None)));
}

#[test]
fn a_stated_error_says_how_much_is_missing() {
    let asked = asked(
        &["race on base", "race on v7", "race on v9", "alone on v7"],
        Amount::Boots(2),
    );
    let results = results(
        &asked,
        &[&[DoubleRemoval; 2], &[Pass; 2], &[Pass], &[Pass; 2]],
    );
    let table = of(&asked, &results, "", Some(0.05));
    insta::assert_snapshot!(matrix(&table, false));
}

#[test]
fn a_part_says_that_it_is_one() {
    let mut asked = asked(&["race on base"], Amount::Boots(2));
    asked.shard = Some("1/2".parse().unwrap());
    let text = matrix(
        &of(&asked, &results(&asked, &[&[DoubleRemoval]]), "", None),
        false,
    );
    assert!(text.contains("this is part 1/2"), "{text}");
    assert!(!text.contains("missing"), "{text}");
    assert!(
        text.contains("no expectation is stated for any of them; 1 boot, 1 round, "),
        "{text}"
    );
}

#[test]
fn why_a_combination_ended_is_told() {
    let amount = |most_boots| Amount::Error {
        error: 0.01,
        most_boots,
    };
    let told = |most, boots: &[&[Verdict]]| {
        let asked = asked(&["race on base", "race on v7"], amount(most));
        matrix(&of(&asked, &results(&asked, boots), "", None), false)
    };
    let text = told(3, &[&[DoubleRemoval; 3], &[Pass; 1]]);
    assert!(text.contains("3/3 (44-100 %; ended at 3 boots)"), "{text}");
    assert!(
        text.contains("(base 3/3; false-pass <= 0.05; 4 more clean rounds needed)"),
        "{text}"
    );
    assert!(
        text.contains("missing: 1 combination not at the end (race on v7)"),
        "{text}"
    );
    let text = told(9, &[&[Verdict::Infra; 3], &[Pass; 2]]);
    assert!(text.contains("0/9 clean (given up)"), "{text}");
    assert!(
        text.contains("6/6 (no kernel here showed it: no bound)"),
        "{text}"
    );
}

#[test]
fn a_long_title_is_cut_between_characters() {
    assert_eq!(cut(&"é".repeat(71)), "é".repeat(70) + "...");
    assert_eq!(cut("short"), "short");
}
