// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's console: raw bytes to lines, lines to one stream a caller, streams to reports.
//!
//! Nothing is trusted: a console may be cut anywhere, two CPUs may print at once, programs write between the kernel's
//! lines, and any byte can come. Every line keeps its place in the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::report::{Report, reports};
use super::rules::{Flag, Rules};

/// A line, or the part of a line that one writer wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its bytes in the console, with the line's end. The spans of all lines follow each other without a gap.
    pub span: Range<usize>,
    /// Seconds since boot, if the kernel printed them.
    pub time: Option<f64>,
    /// printk's caller (`T93` a task, `C0` a CPU), if the kernel printed it (CONFIG_PRINTK_CALLER).
    pub caller: Option<String>,
    /// The text behind these, without the end of the line; invalid UTF-8 is replaced.
    pub text: String,
}

/// `[    5.625410][   T93] ` or `[    5.625410] `, where printk's time is on.
fn prefix() -> Option<&'static Regex> {
    static PREFIX: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?-u)\[ *(\d{1,9}\.\d{6})\](?:\[ *([TC]\d{1,9})\])? ?").ok());
    PREFIX.as_ref()
}

/// Splits a console into lines; text that a program wrote in front of a kernel line becomes a line of its own.
pub fn lines(bytes: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut start = 0;
    for piece in bytes.split_inclusive(|b| *b == b'\n') {
        let end = start + piece.len();
        let found = prefix()
            .and_then(|p| p.captures(piece))
            .and_then(|c| Some((c.get(0)?, c)));
        match found {
            Some((whole, captures)) => {
                if whole.start() > 0 {
                    lines.push(line(
                        piece.get(..whole.start()),
                        start..start + whole.start(),
                    ));
                }
                let mut kernel = line(piece.get(whole.end()..), start + whole.start()..end);
                let part = |n| {
                    captures
                        .get(n)
                        .and_then(|m| std::str::from_utf8(m.as_bytes()).ok())
                };
                kernel.time = part(1).and_then(|t| t.parse().ok());
                kernel.caller = part(2).map(str::to_owned);
                lines.push(kernel);
            }
            None => lines.push(line(Some(piece), start..end)),
        }
        start = end;
    }
    lines
}

fn line(bytes: Option<&[u8]>, span: Range<usize>) -> Line {
    let text = String::from_utf8_lossy(bytes.unwrap_or_default());
    Line {
        span,
        time: None,
        caller: None,
        text: text.trim_end_matches(['\r', '\n']).to_owned(),
    }
}

/// A console that has been read.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// Reports that began before the run was armed: boot noise, or the reason why it never was.
    pub before: Vec<Report>,
    /// Reports that began after: these count.
    pub armed: Vec<Report>,
    /// The kernel has stopped to check locks (the line that says so); after that, silence of lockdep means nothing.
    pub blind: Option<String>,
    /// Parts of the console are missing since the run was armed (the line that says so).
    pub gap: Option<String>,
}

impl Console {
    /// Reads a console. `armed` is the length that it had when the run was armed; `None` if it never was.
    pub fn read(bytes: &[u8], armed: Option<u64>) -> Console {
        let armed = armed.map_or(bytes.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
        let mut streams: BTreeMap<Option<String>, Vec<Line>> = BTreeMap::new();
        let all = lines(bytes);
        // With caller ids on, a line without one is a program's, whatever it says, except for printk's own remark that
        // messages were dropped, which has no prefix. Without caller ids there is one stream.
        let callers = all.iter().any(|l| l.caller.is_some());
        for line in all {
            streams.entry(line.caller.clone()).or_default().push(line);
        }
        let mut console = Console::default();
        let mut found = Vec::new();
        for (caller, lines) in &streams {
            let from = found.len();
            found.extend(reports(lines, Rules::built_in()));
            if callers && caller.is_none() {
                let programs = found.split_off(from);
                found.extend(programs.into_iter().filter(|r: &Report| r.is(Flag::Gap)));
            }
        }
        found.sort_by_key(|r| r.span.start);
        for report in found {
            let counts = report.span.start >= armed;
            if report.is(Flag::Blind) {
                console.blind.get_or_insert_with(|| report.title.clone());
            } else if report.is(Flag::Gap) {
                if counts {
                    console.gap.get_or_insert_with(|| report.title.clone());
                }
            } else if counts {
                console.armed.push(report);
            } else if report.rule != "reboot" {
                console.before.push(report);
            }
        }
        console
    }
}
