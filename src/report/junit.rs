// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report as JUnit's XML, as CI systems read it: a suite a scenario, a case a kernel.

use std::fmt::Write as _;
use std::time::Duration;

use quick_junit::{
    NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestSuite,
};

use super::book::{Book, Boot, Cell, Result};
use super::text;

/// Bytes of evidence in a case.
const MOST: usize = 20_000;

/// The document.
pub fn junit(book: &Book) -> std::result::Result<String, SerializeError> {
    let mut report = Report::new("vfrace");
    for (scenario, cells) in book.scenarios() {
        let mut suite = TestSuite::new(scenario);
        suite.add_property(Property::new("versions", book.versions()));
        suite.add_property(Property::new("command", book.head.command.clone()));
        for (cell, boots) in cells {
            suite.add_test_case(case(cell, boots));
        }
        report.add_test_suite(suite);
    }
    report.to_string()
}

fn case(cell: &Cell, boots: &[Boot]) -> TestCase {
    let what = match (&cell.expected, cell.as_expected) {
        (Some(expected), Some(false)) => {
            format!("{} {}; {expected} was expected", cell.verdict, cell.rate)
        }
        _ => format!("{} {}", cell.verdict, cell.rate),
    };
    let message = match &cell.seen {
        Some(seen) => format!("{what}: {}", text::in_a_line(seen)),
        None => what,
    };
    let mut status = match cell.result {
        Result::Good => TestCaseStatus::success(),
        Result::Bad => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Result::Machine => TestCaseStatus::non_success(NonSuccessKind::Error),
        Result::CannotTell => TestCaseStatus::skipped(),
    };
    let telling = boots.iter().find(|b| b.judgement.verdict == cell.verdict);
    let mut told = String::new();
    match telling {
        Some(boot) => {
            let _ = writeln!(told, "boot {} of {}", boot.boot, boots.len());
            text::body(
                &mut told,
                &boot.judgement.evidence,
                &boot.judgement.findings,
            );
            let _ = writeln!(told, "  files     {}", boot.dir.display());
        }
        None => told += cell.evidence.as_deref().unwrap_or_default(),
    }
    if let Some((end, _)) = told.char_indices().find(|(at, _)| *at >= MOST) {
        told.truncate(end);
        told += "\n... cut here; the boot's directory has the rest\n";
    }
    if cell.result != Result::Good {
        status.set_message(message.clone());
        status.set_type(cell.verdict.to_string());
        if cell.result != Result::CannotTell {
            status.set_description(told.clone());
        }
    }
    let mut case = TestCase::new(cell.kernel.clone(), status);
    case.set_classname(format!("vfrace.{}", cell.scenario));
    case.set_time(Duration::try_from_secs_f64(cell.seconds).unwrap_or_default());
    case.set_system_out(format!("{message}\n{told}"));
    case
}
