// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lines of a report as they were in the console, for programs that read consoles.

use std::sync::LazyLock;

use regex::bytes::Regex;

use crate::oracle::report::Report;

/// So many lines of a report that are not found in the console are passed over at a time.
const AHEAD: usize = 4;

struct Patterns {
    stamp: Regex,
    escape: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
        Some(Patterns {
            // printk's time and caller (kernel/printk/printk.c, info_print_prefix)
            stamp: Regex::new(r"(?-u)\[ *\d{1,9}\.\d{6}\](?:\[ *([TC]\d{1,9})\])? ?").ok()?,
            escape: Regex::new(r"(?-u)\x1b(?:\[[ -?]*[@-~]|.)").ok()?,
        })
    });
    PATTERNS.as_ref()
}

/// The bytes of a report's lines in the console that it was read from, time, caller and line ends included. Lines of
/// other callers in between are left out, and what a program wrote in front of a line.
pub fn raw<'a>(bytes: &'a [u8], report: &Report) -> Vec<&'a [u8]> {
    let (Some(patterns), Some(span)) = (patterns(), bytes.get(report.span.clone())) else {
        return Vec::new();
    };
    let mut caller = None;
    let wanted: Vec<String> = report.text.lines().map(comparable).collect();
    let mut wanted = wanted.as_slice();
    let mut lines = Vec::new();
    for line in span.split_inclusive(|b| *b == b'\n') {
        for piece in pieces(line, patterns) {
            if wanted.is_empty() {
                return lines;
            }
            if piece.caller != *caller.get_or_insert(piece.caller) {
                continue;
            }
            let text = patterns.escape.replace_all(piece.text, &b""[..]);
            let text = comparable(&String::from_utf8_lossy(&text));
            // A line that was put together of two pieces is not found and must not hide those behind it.
            let ahead = if text.is_empty() { 1 } else { AHEAD };
            if let Some(at) = wanted.iter().take(ahead).position(|next| *next == text) {
                lines.push(piece.whole);
                wanted = wanted.get(at + 1..).unwrap_or_default();
            }
        }
    }
    lines
}

/// A line, or the part of one behind a time.
struct Piece<'a> {
    whole: &'a [u8],
    text: &'a [u8],
    caller: Option<&'a [u8]>,
}

fn pieces<'a>(line: &'a [u8], patterns: &Patterns) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let stamps: Vec<_> = patterns.stamp.captures_iter(line).collect();
    let starts: Vec<(usize, usize)> = stamps
        .iter()
        .filter_map(|stamp| stamp.get(0).map(|whole| (whole.start(), whole.end())))
        .collect();
    let plain = starts.first().map_or(line.len(), |(start, _)| *start);
    if let Some(whole) = line.get(..plain).filter(|whole| !whole.is_empty()) {
        pieces.push(Piece {
            whole,
            text: whole,
            caller: None,
        });
    }
    for (n, stamp) in stamps.iter().enumerate() {
        let Some((start, text)) = starts.get(n).copied() else {
            continue;
        };
        let end = starts.get(n + 1).map_or(line.len(), |(next, _)| *next);
        if let (Some(whole), Some(text)) = (line.get(start..end), line.get(text..end)) {
            pieces.push(Piece {
                whole,
                text,
                caller: stamp.get(1).map(|caller| caller.as_bytes()),
            });
        }
    }
    pieces
}

fn comparable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}
