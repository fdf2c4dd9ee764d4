// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A console from anywhere: a serial log, LAVA, syzkaller. There is no run, so nothing is known but what the kernel
//! printed: it can convict, and it can never acquit.

mod raw;

use std::sync::LazyLock;

use regex::bytes::Regex;
use serde::Serialize;

use super::console::Console;
use super::known::KnownIssues;
use super::report::Report;
use super::verdict::Judgement;
use crate::event::{Class, Event, EventKind, Finding, Phase, Standing, Verdict};

pub use raw::raw;

/// Titles that are listed of what does not count.
const MOST_TITLES: usize = 20;

/// What is known about the kernel of a console.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// Its name as in the list of known issues, e.g. `base`.
    pub kernel: Option<&'a str>,
    /// Its release; without it, what the last `Linux version` line before a finding says, or the finding's own text.
    pub release: Option<&'a str>,
}

/// A line that was found in a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The line, without time and caller.
    pub text: String,
    /// Where it is, in bytes; `None` if it is not one line.
    pub at: Option<u64>,
}

/// What limits what a console can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Remarks {
    /// The releases of the kernels that say `Linux version`, one for each boot.
    pub boots: Vec<String>,
    /// Lockdep is off from here on: it checks no more locks.
    pub lockdep_off: Option<Said>,
    /// Part of the console is missing.
    pub gap: Option<Said>,
    /// Reports that have no end and no stack: the console was cut off in them.
    pub cut: Vec<String>,
    /// Reports before the console counts, the first of them.
    pub before: Vec<String>,
}

impl Remarks {
    /// Collects them from a console that was read from `bytes`.
    pub fn of(console: &Console, bytes: &[u8]) -> Self {
        let said = |text: &Option<String>, at: Option<usize>| {
            text.as_ref().map(|text| Said {
                text: text.clone(),
                at: at.map(|at| at as u64),
            })
        };
        let titles = |reports: &mut dyn Iterator<Item = &Report>| {
            reports
                .take(MOST_TITLES)
                .map(|report| report.title.clone())
                .collect()
        };
        let cut = |r: &&Report| !r.complete && r.frames.is_empty();
        Remarks {
            boots: boots(bytes).into_iter().map(|(_, name)| name).collect(),
            lockdep_off: said(&console.blind, console.blind_at),
            gap: said(&console.gap, console.gaps.first().map(|gap| gap.start)),
            cut: titles(&mut console.armed.iter().filter(cut)),
            before: titles(&mut console.before.iter()),
        }
    }
}

/// Judges a console without a run. The verdict is FINDING or INCONCLUSIVE, never anything better. `counted` says that
/// the console was read from some place on that its owner named: a boot behind it was not meant to be.
pub fn judge_console(
    console: &Console,
    bytes: &[u8],
    counted: bool,
    origin: &Origin<'_>,
    known: &KnownIssues,
) -> Judgement {
    let boots = boots(bytes);
    let (mut findings, mut nameless) = (Vec::new(), 0usize);
    let mut last = None;
    for report in &console.armed {
        // Without a mark the boot itself is in the console, and a serial log has several.
        if report.rule == "reboot" && !counted {
            continue;
        }
        let start = report.span.start as u64;
        let booted = boots.iter().rev().find(|(at, _)| *at <= start);
        let release = origin
            .release
            .or(booted.map(|(_, name)| name.as_str()))
            .or(release_in(report))
            .or(last);
        last = release;
        nameless += usize::from(release.is_none());
        let known = known.find(report, origin.kernel, release);
        let mut finding = finding(report);
        if let Some(known) = known {
            finding.standing = Standing::Known;
            finding.reason = Some(known.reason.clone());
        }
        findings.push(finding);
    }
    let convicts = |f: &&Finding| f.standing != Standing::Known;
    let convicting: Vec<&Finding> = findings.iter().filter(convicts).collect();
    let mut evidence = Vec::new();
    let verdict = match convicting.is_empty() {
        false => {
            let mut classes: Vec<Class> = convicting.iter().map(|f| f.class).collect();
            classes.sort_unstable();
            classes.dedup();
            let words: Vec<String> = classes.iter().map(Class::to_string).collect();
            evidence.push(format!("class {}", words.join(", ")));
            Verdict::Finding
        }
        true => {
            let what = match findings.is_empty() {
                true => "no finding",
                false => "no finding that is not known",
            };
            evidence.push(format!(
                "{what}; a console alone cannot show that anything was tested"
            ));
            Verdict::Inconclusive
        }
    };
    if nameless > 0 {
        evidence.push(format!(
            "the kernel's release is not known for {nameless} of the findings: known issues that are limited to some \
             releases need --release"
        ));
    }
    Judgement {
        verdict,
        findings,
        evidence,
        hits: 0,
        rounds: 0,
    }
}

/// The remarks in words, for the evidence.
pub fn in_words(remarks: &Remarks, bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let place = |said: &Said| match said.at {
        Some(at) => format!("{} (console byte {at})", said.text),
        None => said.text.clone(),
    };
    match remarks.boots.as_slice() {
        [] if !is_printk(bytes) => words.push(
            "nothing in it shows that a kernel printed there: no `Linux version`, no times, no stack".into(),
        ),
        [] | [_] => {}
        many => words.push(format!("{} boots in it: {}", many.len(), many.join(", "))),
    }
    if let Some(off) = &remarks.lockdep_off {
        words.push(format!(
            "lockdep went off and checked no more locks: {}",
            place(off)
        ));
    }
    if let Some(gap) = &remarks.gap {
        words.push(format!("part of the console is missing: {}", place(gap)));
    }
    for title in &remarks.cut {
        words.push(format!("this report is cut off: {title}"));
    }
    for title in &remarks.before {
        words.push(format!("before it counts: {title}"));
    }
    words
}

/// Where the console of a recording begins to count.
pub fn armed_at(events: &[Event]) -> Option<u64> {
    events.iter().find_map(|e| match e.kind {
        EventKind::Phase {
            phase: Phase::Armed,
            console,
            ..
        } => Some(console),
        _ => None,
    })
}

/// Where the first line ends that has `text` in it.
pub fn after(bytes: &[u8], text: &str) -> Option<u64> {
    let (_, end) = find(bytes, text.as_bytes())?;
    let rest = bytes.get(usize::try_from(end).ok()?..)?;
    let line = rest.iter().position(|b| *b == b'\n');
    Some(line.map_or(bytes.len() as u64, |n| end + n as u64 + 1))
}

/// What a report says by itself. It was followed by another caller's line, or it stopped the machine, or nothing is known.
fn finding(report: &Report) -> Finding {
    let alive = match (report.halted(), report.fatal() && report.followed) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    };
    Finding {
        alive,
        ..report.finding(Standing::Other)
    }
}

/// The first place where `text` is, in bytes.
fn find(bytes: &[u8], text: &[u8]) -> Option<(u64, u64)> {
    let escaped = regex::escape(std::str::from_utf8(text).ok()?);
    let found = Regex::new(&escaped).ok()?.find(bytes)?;
    Some((found.start() as u64, found.end() as u64))
}

/// The places of `Linux version` (init/version.c, linux_banner) with the release.
fn boots(bytes: &[u8]) -> Vec<(u64, String)> {
    static BANNER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?-u)Linux version (\d[!-~]{0,127}) \(").ok());
    let Some(banner) = BANNER.as_ref() else {
        return Vec::new();
    };
    let all = banner.captures_iter(bytes).filter_map(|captures| {
        let (whole, release) = (captures.get(0)?, captures.get(1)?);
        let release = String::from_utf8_lossy(release.as_bytes()).into_owned();
        Some((whole.start() as u64, release))
    });
    all.collect()
}

/// The release in a report's `CPU: 0 UID: 0 PID: 55 Comm: sh Not tainted 7.2.0 #1` (lib/dump_stack.c,
/// dump_stack_print_info).
fn release_in(report: &Report) -> Option<&str> {
    static LINE: LazyLock<Option<regex::Regex>> = LazyLock::new(|| {
        regex::Regex::new(r"(?m)^CPU: \d+ .*\bComm: .* (\d+\.\d+[!-~]{0,127}) #\d").ok()
    });
    let found = LINE.as_ref()?.captures(&report.text)?;
    found.get(1).map(|release| release.as_str())
}

/// Whether anything has a time as printk writes it, or could do without.
fn is_printk(bytes: &[u8]) -> bool {
    static STAMP: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?-u)\[ *\d{1,9}\.\d{6}\]|Call Trace:|\+0x[0-9a-f]+/0x[0-9a-f]+").ok()
    });
    STAMP.as_ref().is_some_and(|stamp| stamp.is_match(bytes))
}
