// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's console: raw bytes to lines, lines to one stream a caller, streams to reports.
//!
//! Nothing is trusted: a console may be cut anywhere, two CPUs may print at once, programs write between the kernel's
//! lines, and any byte can come. Every line keeps its place in the file. One pass, nothing is copied but the reports.

mod lines;
mod scan;
mod stamp;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

pub use lines::{Line, Lines, Writer, lines};
pub use scan::Scan;

use super::report::Report;
use super::rules::Flag;

/// A console that has been read.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// Reports that began before the run was armed: boot noise, or the reason why it never was.
    pub before: Vec<Report>,
    /// Reports that began after: these count.
    pub armed: Vec<Report>,
    /// The kernel has stopped to check locks (the line that says so, or the report of lockdep's that was its last); after
    /// that, silence of lockdep means nothing.
    pub blind: Option<String>,
    /// Where that line is: it begins at this byte.
    pub blind_at: Option<usize>,
    /// Parts of the console are missing since the run was armed (the line that says so).
    pub gap: Option<String>,
    /// Where it says so, in bytes; at most [`MAX_GAPS`] places.
    pub gaps: Vec<Range<usize>>,
    /// So many reports are not listed, because there were too many of their kind. If there are any, `gap` says so too.
    pub omitted: u64,
}

/// More places are not listed in [`Console::gaps`].
pub const MAX_GAPS: usize = 1000;

impl Console {
    /// Reads a console. `armed` is the length that it had when the run was armed; `None` if it never was.
    pub fn read(bytes: &[u8], armed: Option<u64>) -> Console {
        let mut scan = Scan::default();
        scan.advance_to_end(bytes);
        scan.console(bytes, armed)
    }

    /// Sorts what was found, in the order of the console, into what counts and what does not.
    fn sorted(found: Vec<Report>, armed: usize, omitted: u64) -> Console {
        let mut console = Console {
            omitted,
            ..Console::default()
        };
        // The line that says so is worth more than a report that implies it.
        let says = |r: &&Report| r.is(Flag::Blind) || r.is(Flag::Splat);
        let off = found.iter().find(says);
        let off = off.or(found.iter().find(|r| r.is(Flag::Stops)));
        console.blind = off.map(|r| r.title.clone());
        console.blind_at = off.map(|r| r.span.start);
        for report in found {
            let counts = report.span.start >= armed;
            let blind = report.is(Flag::Blind);
            if blind || report.is(Flag::Sees) {
                continue;
            }
            if report.is(Flag::Gap) {
                if counts {
                    console.gap.get_or_insert(report.title);
                    if console.gaps.len() < MAX_GAPS {
                        console.gaps.push(report.span);
                    }
                }
            } else if counts {
                console.armed.push(report);
            } else if !report.is(Flag::Boot) {
                console.before.push(report);
            }
        }
        if omitted > 0 {
            console
                .gap
                .get_or_insert_with(|| format!("{omitted} more reports of the same kinds"));
        }
        console
    }
}

/// A text without escape sequences: `ESC [ ... letter`, and `ESC` with one more byte.
pub(super) fn plain(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr(0x1b, text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if *first != 0x1b {
            plain.push(*first);
            rest = tail;
            continue;
        }
        rest = match tail.split_first() {
            Some((b'[', parameters)) => {
                let length = parameters
                    .iter()
                    .take_while(|b| matches!(**b, 0x20..=0x3f))
                    .count();
                parameters.get(length + 1..).unwrap_or_default()
            }
            Some((_, tail)) => tail,
            None => tail,
        };
    }
    Cow::Owned(plain)
}
