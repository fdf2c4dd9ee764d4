// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report as plain text for a mail about a patch: under 72 columns, with what it was run, how often what was seen, the
//! first stack, and a trailer for each kernel that passed everything.

use std::fmt::Write as _;

use super::book::{Book, Cell, Result};
use super::text::in_a_line;
use crate::campaign::stats::Rate;
use crate::event::{Finding, Standing, Verdict};

/// No line is longer, unless a single word is.
const WIDTH: usize = 71;
/// Frames of a stack.
const FRAMES: usize = 8;
/// Stands for a person who was not named.
const NOBODY: &str = "NAME <ADDRESS>";

/// The text. `by` is who has tested: `Name <address>`.
pub fn mail(book: &Book, by: Option<&str>) -> String {
    let mut text = String::new();
    wrap(
        &mut text,
        "",
        "  ",
        &format!("Tested with {}:", book.versions()),
    );
    text.push('\n');
    command(&mut text, &book.head.command);
    text.push('\n');
    for (scenario, cells) in book.scenarios() {
        let vfs = cells.first().map_or(0, |(cell, _)| cell.vfs);
        wrap(&mut text, "", "  ", &format!("{scenario} ({vfs} VFs):"));
        for (cell, _) in cells {
            wrap(&mut text, "  ", "      ", &line(cell));
        }
    }
    for remark in &book.head.remarks {
        wrap(&mut text, "", "  ", remark);
    }
    stack(&mut text, book);
    trailers(&mut text, book, by.unwrap_or(NOBODY));
    text
}

/// `base: DOUBLE-REMOVAL in 20 of 20 rounds (83-100 %), 20 boots`.
fn line(cell: &Cell) -> String {
    let boots = match cell.boots {
        1 => "1 boot".to_owned(),
        n => format!("{n} boots"),
    };
    let counted = match cell.verdict {
        Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => {
            let share = Rate::new(cell.hits, cell.rounds).interval();
            let share = share.map(|i| format!(" ({:.0}-{:.0} %)", i.low * 100.0, i.high * 100.0));
            format!(
                "in {} of {} rounds{}",
                cell.hits,
                cell.rounds,
                share.unwrap_or_default()
            )
        }
        _ => cell.rate.clone(),
    };
    let unexpected = match (&cell.expected, cell.as_expected) {
        (Some(expected), Some(false)) => format!("; NOT as expected, {expected} was"),
        _ => String::new(),
    };
    let seen = match &cell.seen {
        Some(seen) => format!(": {}", in_a_line(seen)),
        None => String::new(),
    };
    format!(
        "{}: {} {counted}, {boots}{unexpected}{seen}",
        cell.kernel, cell.verdict
    )
}

/// The first finding with a stack; wanted ones come first.
fn stack(text: &mut String, book: &Book) {
    let all = || {
        book.cells.iter().flat_map(|(cell, boots)| {
            boots
                .iter()
                .flat_map(move |boot| boot.judgement.findings.iter().map(move |f| (cell, boot, f)))
        })
    };
    let has =
        |standing: Standing| all().find(|(_, _, f)| f.standing == standing && !f.stack.is_empty());
    let Some((cell, boot, finding)) = has(Standing::Wanted).or_else(|| has(Standing::Other)) else {
        return;
    };
    let round = finding
        .round
        .map(|n| format!(", round {n}"))
        .unwrap_or_default();
    text.push('\n');
    let from = format!(
        "The first stack, {}, boot {}{round}:",
        cell.name(),
        boot.boot
    );
    wrap(text, "", "  ", &from);
    text.push('\n');
    wrap(text, "  ", "    ", &in_a_line(finding));
    frames(text, finding);
}

fn frames(text: &mut String, finding: &Finding) {
    // What reports is above what is reported.
    let telling = finding.frame.as_deref().and_then(|function| {
        let mut frames = finding.stack.iter();
        frames.position(|frame| frame.text.split('+').next() == Some(function))
    });
    let stack = finding
        .stack
        .get(telling.unwrap_or_default()..)
        .unwrap_or_default();
    for frame in stack.iter().take(FRAMES) {
        wrap(text, "   ", "     ", &frame.text);
        if let Some(place) = frame.places.last() {
            wrap(
                text,
                "      ",
                "       ",
                &format!("{}:{}", place.file, place.line),
            );
        }
    }
    let more = stack.len().saturating_sub(FRAMES);
    if more > 0 {
        let _ = writeln!(text, "   ({more} more)");
    }
}

/// A trailer for each kernel that is as it should be in everything that was run, and PASS in all of it.
fn trailers(text: &mut String, book: &Book, by: &str) {
    let mut kernels: Vec<&str> = Vec::new();
    for (cell, _) in &book.cells {
        if !kernels.contains(&cell.kernel.as_str()) {
            kernels.push(&cell.kernel);
        }
    }
    text.push('\n');
    let mut any = false;
    for kernel in kernels {
        let cells: Vec<&Cell> = book
            .cells
            .iter()
            .map(|(cell, _)| cell)
            .filter(|cell| cell.kernel == kernel)
            .collect();
        let passed = cells
            .iter()
            .all(|c| c.verdict == Verdict::Pass && c.result == Result::Good && c.rounds > 0);
        if passed {
            any = true;
            let rounds = cells
                .iter()
                .fold(0u32, |sum, c| sum.saturating_add(c.rounds));
            let rounds = match rounds {
                1 => "1 round".to_owned(),
                n => format!("{n} rounds"),
            };
            // A trailer is one line, whatever its length; what it rests on is behind the address.
            let _ = writeln!(
                text,
                "Tested-by: {} # {}: {rounds}",
                plain(by),
                plain(kernel)
            );
        }
    }
    if !any {
        text.push_str("(No kernel passed everything that was run: no Tested-by.)\n");
    }
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The command, with its lines joined by backslashes. A quoted text is ended and begun again where a line ends, which is
/// the same for the shell.
fn command(text: &mut String, command: &str) {
    let mut line = " ".to_owned();
    let mut quoted = false;
    for word in plain(command).split(' ').filter(|word| !word.is_empty()) {
        // Room for a space, a quote and the backslash.
        if line.trim() != "" && line.chars().count() + word.chars().count() + 4 > WIDTH {
            let _ = match quoted {
                true => writeln!(text, "{line} '\\"),
                false => writeln!(text, "{line} \\"),
            };
            line = match quoted {
                true => "'".to_owned(),
                false => "     ".to_owned(),
            };
        }
        if line != "'" {
            line.push(' ');
        }
        line += word;
        quoted ^= word.matches('\'').count() % 2 == 1;
    }
    let _ = writeln!(text, "{line}");
}

/// Breaks a paragraph into lines: `first` before the first one, `next` before the others.
fn wrap(text: &mut String, first: &str, next: &str, paragraph: &str) {
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in plain(paragraph).split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = next.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
        // A word that is too long is cut where the line ends.
        while line.chars().count() > WIDTH {
            let end = line
                .char_indices()
                .nth(WIDTH)
                .map_or(line.len(), |(at, _)| at);
            let rest = line.split_off(end);
            let _ = writeln!(text, "{line}");
            line = format!("{next}{rest}");
        }
    }
    let _ = writeln!(text, "{line}");
}
