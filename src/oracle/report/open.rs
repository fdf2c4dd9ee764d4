// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report that is being read: which lines of one caller belong to it, and where it ends.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};

use super::stack::{self, Call};
use super::{FINGERPRINT, Report};
use crate::oracle::console::{Line, Writer, plain};
use crate::oracle::rules::{Flag, Headline, LONG_LINE, Rule, Rules};

/// A report is at most this long; lockdep's with two chains and KASAN's with three stacks have some 200 lines.
const MAX_LINES: usize = 500;
/// A caller that was silent for so many microseconds has begun something new. TCG prints a stack within some 0.1 s.
pub(in crate::oracle) const MAX_SILENCE: u64 = 5_000_000;
/// A trace of which nothing came for so many microseconds has been printed; what ends the console cut nothing off.
const TRACE_TIME: u64 = 1_000_000;
/// Within so many lines of a headline, and before any stack, another headline can be part of the same report.
const JOIN_LINES: usize = 12;
/// So many lines in a row can be another CPU's, if the end of the report is marked and if it is not.
const STRAYS_MARKED: usize = 12;
const STRAYS: usize = 3;
/// So many lines without a level of a stack, and without anything that belongs to a report, can follow a headline.
const LOOSE_LINES: usize = 24;

/// What can follow a stack within the same report.
fn body(text: &[u8]) -> bool {
    static BODY: LazyLock<Option<Regex>> = LazyLock::new(|| {
        RegexBuilder::new(concat!(
            r"^(\s|$|\(\[<|RIP:|Code:|RSP:|R[A-Z0-9]{2}:|[A-Z]{2}:|CR2|DR\d|PKRU|EFLAGS|irq event|(hard|soft)irqs last|",
            r"Modules linked|CPU:|Hardware name|Tainted|Call Trace|Workqueue|Comm:|Last Breaking|Krnl |User PSW|User GPRS|",
            r"Allocated by|Freed by|Last potentially|Second to last|The buggy|page:|page_type|page dumped|head:|aops:|",
            r"flags:|raw:|Memory state|>|-> #|other info|stack backtrace|\d+ locks? held|no locks held|#\d+:|",
            r"which lock|the existing|but task|but this|Possible|Chain exists|task:|INFO: task|Showing|Sending NMI|",
            r"NMI backtrace|---\[|=====|\.\.\. |to a |and this task|which would|the dependencies|the shortest|",
            // KFENCE, KMSAN, KCSAN, slub
            r"kfence-#|allocated by|freed by|Uninit was|Local variable|Bytes? \d|Memory access|Data copied|",
            r"(read|write) (\(|to)|(read|write)-write|value changed|Reported by Kernel|Object |Redzone |Padding |Bytes b4|",
            r"Slab |FIX |-----|Disabling lock debugging|",
            // RCU stalls, lockups, show_all_workqueues()
            r"kmemleak: |rcu: \t|rcu: rcu_|rcu: (Stack|RCU|Unless|Possible)|workqueue |pool \d|Mem-Info)",
        ))
        .unicode(false)
        .build()
        .ok()
    });
    BODY.as_ref().is_some_and(|body| body.is_match(text))
}

/// What a line means to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::oracle) enum End {
    /// It goes on.
    Not,
    /// Another CPU's line, without a caller that says so: not a part of it.
    Stray,
    /// This is its last line.
    With,
    /// It ended before this line.
    Before,
}

/// A report that is being read.
#[derive(Clone, Debug)]
pub(in crate::oracle) struct Open {
    rule: usize,
    writer: Writer,
    /// Which of `lines` is the headline.
    headline: usize,
    lines: Vec<Range<usize>>,
    span: Range<usize>,
    /// Of its first line and of its last one that have a time.
    begun: Option<u64>,
    time: Option<u64>,
    /// Levels of a stack so far.
    levels: usize,
    /// The kernel marks the end of such reports.
    marked: bool,
    /// The mark came.
    ended: bool,
    /// Something else came behind it.
    over: bool,
    /// Gaps in the console before it began.
    gaps: usize,
    warning: bool,
    /// What the headline that joined it says of the task and of lockdep.
    joined: Vec<Flag>,
    /// The headline was torn: the line behind it is its rest.
    torn: bool,
    /// Lines since its last one that are not its.
    strays: usize,
}

/// The text of a line from `from` on, or what of it can be the kernel's.
fn short(line: &Line, from: usize) -> Range<usize> {
    let start = line.text.end.min(line.text.start + from);
    start..line.text.end.min(start + LONG_LINE)
}

impl Open {
    pub fn new(rule: &Headline<'_>, line: &Line, text: &[u8], gaps: usize) -> Self {
        Open {
            rule: rule.number,
            writer: line.writer,
            headline: 0,
            lines: vec![short(line, rule.from)],
            span: line.span.start..line.span.end,
            begun: line.time,
            time: line.time,
            levels: 0,
            marked: rule.rule.is(Flag::Marked),
            ended: false,
            over: false,
            gaps,
            warning: memmem::find(text, b"WARNING: ").is_some(),
            joined: Vec::new(),
            torn: false,
            strays: 0,
        }
    }

    /// A report that is nothing but its headline.
    pub fn single(rule: &Headline<'_>, line: &Line, text: &[u8], gaps: usize) -> Self {
        let mut open = Open::new(rule, line, text, gaps);
        open.ended = true;
        open
    }

    /// Where its last line ends.
    pub fn end(&self) -> usize {
        self.span.end
    }

    /// The kernel will still say where it ends, so that another report in between is a report within this one.
    pub fn goes_on(&self, line: &Line) -> bool {
        self.marked && !self.ended && !self.silent(line) && self.lines.len() < MAX_LINES
    }

    pub fn push(&mut self, line: &Line, text: &[u8]) {
        self.levels += usize::from(stack::is_level(text));
        self.strays = 0;
        self.lines.push(short(line, 0));
        self.span.end = line.span.end;
        self.time = line.time.or(self.time);
    }

    /// This line is its headline, and nothing else came yet.
    pub fn begins_with(&self, line: &Line) -> bool {
        self.lines.len() == 1 && self.span.start == line.span.start
    }

    /// The rest of its headline, which another line cut.
    pub fn push_rest(&mut self, line: &Line, text: &[u8]) {
        self.torn = true;
        self.push(line, text);
    }

    /// It was its last line.
    pub fn push_last(&mut self, line: &Line, text: &[u8]) {
        self.push(line, text);
        self.ended = true;
    }

    /// Something else follows.
    pub fn is_over(&mut self) {
        self.over = true;
    }

    /// Its last line came long before `now`: had it gone on, it would have by then.
    pub fn is_older(&self, now: u64) -> bool {
        self.time
            .is_some_and(|last| now.saturating_sub(last) > TRACE_TIME)
    }

    /// Another headline goes with this report: `Oops: ` after `BUG: `.
    pub fn is_joined_by(&self, rules: &Rules, found: &Headline<'_>, line: &Line) -> bool {
        found.rule.is(Flag::Joins)
            && found.number != self.rule
            && rules.get(self.rule).is_some_and(|r| r.is(Flag::Message))
            && self.levels == 0
            && self.lines.len() <= JOIN_LINES
            && !self.silent(line)
    }

    /// Takes the headline that joins it as one more line.
    pub fn join(&mut self, found: &Headline<'_>, line: &Line, text: &[u8]) {
        self.marked |= found.rule.is(Flag::Marked);
        let more = [Flag::Fatal, Flag::Stops].into_iter();
        self.joined.extend(more.filter(|flag| found.rule.is(*flag)));
        self.push(line, text);
    }

    /// A WARNING has no more than its place in the first line; the second can be its message (lib/bug.c prints the
    /// message before or after it, depending on the architecture).
    pub fn is_explained_by(&self, rules: &Rules, rule: &Rule, line: &Line) -> bool {
        let joins = |rule: &Rule| rule.is(Flag::Joins);
        rules.get(self.rule).is_some_and(joins)
            && self.lines.len() == 1
            && rule.is(Flag::Message)
            && !joins(rule)
            && self.warning
            && !self.silent(line)
    }

    /// Takes the message as its headline.
    pub fn explain(&mut self, found: &Headline<'_>, line: &Line, text: &[u8]) {
        self.rule = found.number;
        self.headline = self.lines.len();
        self.join(found, line, text);
    }

    fn silent(&self, line: &Line) -> bool {
        match (self.time, line.time) {
            (Some(last), Some(now)) => now.saturating_sub(last) > MAX_SILENCE,
            _ => false,
        }
    }

    /// What a line that is no headline means to it.
    pub fn ends_at(&self, line: &Line, text: &[u8]) -> End {
        if self.silent(line) || self.lines.len() >= MAX_LINES {
            return End::Before;
        }
        if text.starts_with(b"---[ end ") {
            return End::With;
        }
        if text.starts_with(b"=========") {
            // Its last line, or the first one of another report.
            return match self.levels > 0 || !self.marked {
                true => End::With,
                false => End::Before,
            };
        }
        let cut_here = memmem::find(text, b"[ cut here ]").is_some();
        if body(text) || (cut_here && self.marked) {
            // A WARNING within it may come; if there is none, what follows will end it.
            return End::Not;
        }
        if cut_here || text.starts_with(b"sysrq: ") {
            return End::Before;
        }
        match (self.levels, self.marked) {
            (0, _) if self.lines.len() < LOOSE_LINES => End::Not,
            (0, _) => End::Before,
            (_, true) if self.strays < STRAYS_MARKED => End::Stray,
            (_, false) if self.strays < STRAYS => End::Stray,
            _ => End::Before,
        }
    }

    /// Counts a stray line.
    pub fn stray(&mut self) {
        self.strays += 1;
    }

    /// What it is counted under when there are too many: the rule, the place of the first level, who says so.
    pub fn kind(&self, bytes: &[u8]) -> (usize, bool, Option<String>) {
        let place = self.lines.iter().take(JOIN_LINES * 4).find_map(|range| {
            let text = plain(bytes.get(range.clone()).unwrap_or_default());
            stack::place(&text).or_else(|| stack::level(&text))
        });
        (
            self.rule,
            self.writer.is_caller(),
            place.map(|call| call.function),
        )
    }

    /// The report. `gaps` is how many gaps the console has so far.
    pub fn close(&self, bytes: &[u8], rules: &Rules, gaps: usize) -> Option<Report> {
        let lines = self
            .lines
            .iter()
            .map(|range| plain(bytes.get(range.clone()).unwrap_or_default()))
            .collect::<Vec<_>>();
        let mut title = lines
            .get(self.headline)
            .map_or(Vec::new(), |line| line.to_vec());
        if self.torn {
            title.extend(lines.get(1).into_iter().flat_map(|line| line.iter()));
        }
        let title = printable(&title);
        let (mut place, mut calls) = read_stack(&lines);
        let innermost = place.iter().chain(&calls);
        let innermost = innermost
            .map(|call| call.function.as_str())
            .find(|function| !rules.is_wrapper(function));
        let rule = rules
            .headline(title.as_bytes(), innermost)
            .map(|found| found.rule)
            .or(rules.get(self.rule))?;
        calls.retain(|call| !rules.is_wrapper(&call.function));
        place = place.filter(|call| !rules.is_wrapper(&call.function));
        let mut telling = place
            .iter()
            .chain(&calls)
            .filter(|call| !rules.is_plumbing(&call.function))
            .peekable();
        let frame = telling.peek().map(|call| call.function.clone());
        // A work function that ends with a call is no level any more, but the report says whose work it was.
        let frame = match frame.as_deref() {
            Some("process_one_work") => lines.iter().find_map(|l| stack::work(l)).or(frame),
            _ => frame,
        };
        // KASAN's headline and the registers name the place that the stack begins with as well.
        let again = |call: &&Call| calls.iter().any(|c| c.text == call.text);
        let place = place.iter().filter(|call| !again(call));
        let frames: Vec<&Call> = place.chain(&calls).collect();
        let mut fingerprint: Vec<String> = frames
            .iter()
            .filter(|call| !rules.is_plumbing(&call.function))
            .map(|call| call.function.clone())
            .collect();
        fingerprint.dedup();
        fingerprint.truncate(FINGERPRINT);
        let text: Vec<Cow<'_, str>> = lines.iter().map(|l| String::from_utf8_lossy(l)).collect();
        let missing = gaps != self.gaps && !rule.is(Flag::Single);
        Some(Report {
            rule: rule.id.clone(),
            class: rule.class,
            title,
            frame,
            frames: frames.iter().map(|call| call.text.clone()).collect(),
            stack: calls.iter().map(|call| call.function.clone()).collect(),
            fingerprint,
            taint: lines.iter().find_map(|line| stack::taint(line)),
            lockdep: None,
            span: self.span.clone(),
            text: text.join("\n"),
            complete: !missing
                && (self.ended
                    || (!self.marked && (self.over || self.strays > 0) && self.levels > 0)),
            writer: self.writer,
            followed: false,
            times: (self.begun, self.time),
            flags: rule.flags.iter().chain(&self.joined).copied().collect(),
        })
    }
}

/// Where it happened, and the functions of the stack that led there.
fn read_stack(lines: &[Cow<'_, [u8]>]) -> (Option<Call>, Vec<Call>) {
    let trace = |line: &Cow<'_, [u8]>| line.trim_ascii_start().starts_with(b"Call Trace");
    let begin = lines.iter().position(trace).unwrap_or(0);
    let head = lines
        .get(..begin.max(JOIN_LINES.min(lines.len())))
        .unwrap_or_default();
    // Lockdep's headline is no place; it names one only in the description of the lock that is wanted.
    let lockdep = lines
        .iter()
        .take(8)
        .any(|line| memmem::find(line, b"is trying to").is_some());
    let release = b"is trying to release lock (";
    let release = (head.iter()).position(|line| memmem::find(line, release).is_some());
    let place = match lockdep {
        true => release.and_then(|at| stack::address(head.get(at + 1)?)),
        false => head.iter().find_map(|line| stack::place(line)),
    };
    let mut calls = Vec::new();
    // KCSAN has no "Call Trace:" and tells the other task's access first.
    for line in lines.get(begin..).unwrap_or_default() {
        let text = line.trim_ascii_start();
        let other = [
            "Allocated by",
            "Freed by",
            "allocated by",
            "freed by",
            "Uninit was",
            "RIP: 0033",
            "Last Breaking",
            "Showing",
        ];
        if other.iter().any(|end| text.starts_with(end.as_bytes())) {
            break;
        }
        if !calls.is_empty() && (text.is_empty() || text.starts_with(b"Call Trace")) {
            break;
        }
        calls.extend(stack::level(line));
    }
    (place, calls)
}

/// A headline as a title.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .filter(|c| !c.is_control())
        .take(500)
        .collect::<String>()
        .trim()
        .to_owned()
}
