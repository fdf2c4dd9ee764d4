// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report as KTAP, version 1 (Documentation/dev-tools/ktap.rst in the kernel's source): a subtest a scenario, a test case
//! a kernel. What is as it should be is `ok`, what says nothing about the kernel is skipped, all else is `not ok`.

use std::fmt::Write as _;

use super::book::{Book, Cell, Result};
use super::text::in_a_line;

/// The document.
pub fn ktap(book: &Book) -> String {
    let scenarios = book.scenarios();
    let mut text = format!("KTAP version 1\n1..{}\n", scenarios.len());
    let _ = writeln!(text, "# {}", plain(&book.versions()));
    for line in &book.head.remarks {
        let _ = writeln!(text, "# {}", plain(line));
    }
    for (number, (scenario, cells)) in (1..).zip(scenarios) {
        let scenario = plain(scenario);
        let _ = writeln!(
            text,
            "    KTAP version 1\n    # Subtest: {scenario}\n    1..{}",
            cells.len()
        );
        for (number, (cell, _)) in (1..).zip(&cells) {
            case(&mut text, number, &scenario, cell);
        }
        let all = |result: Result| cells.iter().all(|(cell, _)| cell.result == result);
        let bad = |(cell, _): &&&(Cell, _)| matches!(cell.result, Result::Bad | Result::Machine);
        let _ = match (cells.iter().any(|c| bad(&c)), all(Result::CannotTell)) {
            (true, _) => writeln!(text, "not ok {number} {scenario}"),
            (false, true) => writeln!(text, "ok {number} {scenario} # SKIP nothing can be told"),
            (false, false) => writeln!(text, "ok {number} {scenario}"),
        };
    }
    text
}

fn case(text: &mut String, number: u32, scenario: &str, cell: &Cell) {
    let mut kernel = plain(&cell.kernel);
    // kunit.py takes a case for the end of its subtest if it has the same name.
    if kernel == scenario {
        kernel += " (kernel)";
    }
    let verdict = cell.verdict;
    let mut say = |line: &str| {
        let _ = writeln!(text, "    # {kernel}: {}", plain(line));
    };
    say(&format!("{verdict} {}", cell.rate));
    if let (Some(expected), Some(false)) = (&cell.expected, cell.as_expected) {
        say(&format!("not as expected: {expected} was"));
    }
    if let Some(seen) = &cell.seen {
        say(&in_a_line(seen));
    }
    if let Some(evidence) = &cell.evidence {
        say(evidence);
    }
    let _ = match cell.result {
        Result::Good => writeln!(text, "    ok {number} {kernel}"),
        Result::CannotTell => writeln!(text, "    ok {number} {kernel} # SKIP {verdict}"),
        Result::Bad | Result::Machine => writeln!(text, "    not ok {number} {kernel}"),
    };
}

/// On one line, without what begins a directive, and as a parser gives it back: it trims names, and takes a dash before
/// one for a part of the line.
fn plain(text: &str) -> String {
    let clean = text.replace('#', "%");
    let words = clean.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.trim_start_matches(['-', ' ']) {
        "" => "unnamed".to_owned(),
        named => named.to_owned(),
    }
}
