// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report for a terminal: of a single run the verdict with its evidence, else a line a combination.

use std::fmt::Write as _;

use super::book::Book;
use super::text::{self, in_a_line, paint};

/// Characters of a finding's title in a line.
const TITLE: usize = 60;

/// The text.
pub fn summary(book: &Book, color: bool) -> String {
    let mut text = String::new();
    if let Some((cell, boot)) = book.single() {
        let judgement = &boot.judgement;
        let _ = writeln!(
            text,
            "{}: {}  {}/{} rounds  {:.1} s",
            cell.name(),
            text::verdict(judgement.verdict, 0, color),
            judgement.hits,
            judgement.rounds,
            boot.seconds
        );
        text::body(&mut text, &judgement.evidence, &judgement.findings);
        let _ = writeln!(text, "  files     {}", boot.dir.display());
    } else {
        lines(&mut text, book, color);
        let _ = writeln!(text, "{}", book.head.title);
    }
    for line in &book.head.remarks {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "{}\n  {}", book.versions(), book.head.command);
    text
}

fn lines(text: &mut String, book: &Book, color: bool) {
    let rows: Vec<[String; 4]> = book
        .cells
        .iter()
        .map(|(cell, _)| {
            [
                cell.scenario.clone(),
                cell.kernel.clone(),
                cell.verdict.to_string(),
                cell.rate.clone(),
            ]
        })
        .collect();
    let width = |column: usize, name: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths.chain([name.len()]).max().unwrap_or_default()
    };
    let (a, b, c, d) = (
        width(0, "scenario"),
        width(1, "kernel"),
        width(2, "verdict"),
        width(3, "rounds"),
    );
    let _ = writeln!(
        text,
        "{:<a$}  {:<b$}  {:<c$}  {:<d$}  expected",
        "scenario", "kernel", "verdict", "rounds"
    );
    for ((cell, _), [scenario, kernel, _, rate]) in book.cells.iter().zip(&rows) {
        let verdict = text::verdict(cell.verdict, c, color);
        let mut said = match (&cell.expected, cell.as_expected) {
            (Some(_), Some(true)) => "yes".to_owned(),
            (Some(expected), _) => paint(&format!("NO, {expected} was"), "31;1", color),
            (None, _) => "-".to_owned(),
        };
        if let Some(seen) = &cell.seen {
            let mut title = in_a_line(seen);
            if let Some((end, _)) = title.char_indices().nth(TITLE) {
                title.truncate(end);
                title += "...";
            }
            let _ = write!(said, ", {title}");
        }
        let _ = writeln!(
            text,
            "{scenario:<a$}  {kernel:<b$}  {verdict}  {rate:<d$}  {said}"
        );
    }
}
