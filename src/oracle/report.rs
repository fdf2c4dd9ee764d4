// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports: from the headline to the end of the trace, in the stream of one caller.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::console::Line;
use super::rules::{Flag, Rule, Rules};
use crate::event::Class;

/// A report is at most this long; lockdep's with two chains and KASAN's with three stacks have some 200 lines.
const MAX_LINES: usize = 500;
/// A caller that was silent for so many seconds has begun something new. TCG prints a stack within some 0.1 s.
const MAX_SILENCE: f64 = 5.0;
/// Within so many lines of a headline, and before any stack, another headline can be part of the same report.
const JOIN_LINES: usize = 12;

/// Something that the kernel complained about.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The rule's id.
    pub rule: String,
    /// Its class.
    pub class: Class,
    /// The headline.
    pub title: String,
    /// First function that tells something.
    pub frame: Option<String>,
    /// Reliable functions of its first stack, innermost first.
    pub stack: Vec<String>,
    /// The same with their offsets, as printed, without addresses; where it happened comes first, if the headline or the
    /// registers say it.
    pub frames: Vec<String>,
    /// From the headline to the end, in bytes of the console. Lines of other callers may lie in between.
    pub span: Range<usize>,
    /// Its lines, without those of other callers.
    pub text: String,
    /// It has an end; otherwise it was cut off or interrupted.
    pub complete: bool,
    flags: Vec<Flag>,
}

impl Report {
    /// The task or the machine died of it.
    pub fn fatal(&self) -> bool {
        self.is(Flag::Fatal)
    }

    /// The kernel prints it only once a boot.
    pub fn once(&self) -> bool {
        self.is(Flag::Once)
    }

    pub(super) fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

struct Patterns {
    frame: Regex,
    place: Regex,
    body: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
        Some(Patterns {
            // x86 ` func+0x1/0x2`, s390x ` [<000003ffe04ef6f4>] func+0x1/0x2`; `?` and `([<..>]` are unreliable
            frame: Regex::new(r"^\s+(?:\[<[0-9a-f]+>\] )?(([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?)").ok()?,
            // where it happened: the WARNING line, the registers, KASAN's headline
            place: Regex::new(r"(?:^RIP: 0010:|^Krnl PSW : .*\(| at | in |:\d+ )(([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?)").ok()?,
            // what can follow a stack within the same report
            body: Regex::new(concat!(
                r"^(\s|$|\(\[<|RIP:|Code:|RSP:|R[A-Z0-9]{2}:|[A-Z]{2}:|CR2|DR\d|PKRU|EFLAGS|irq event|(hard|soft)irqs last|",
                r"Modules linked|CPU:|Hardware name|Tainted|Call Trace|Workqueue|Comm:|Last Breaking|Krnl |",
                r"Allocated by|Freed by|Last potentially|Second to last|The buggy|page:|page_type|page dumped|head:|",
                r"flags:|raw:|Memory state|>|-> #|other info|stack backtrace|\d+ locks? held|no locks held|#\d+:|",
                r"which lock|the existing|but task|Possible|Chain exists|task:|INFO: task|Showing|Sending NMI|NMI backtrace|---\[|=====)",
            ))
            .ok()?,
        })
    });
    PATTERNS.as_ref()
}

/// Finds the reports in the lines of one caller.
pub(super) fn reports(lines: &[Line], rules: &Rules) -> Vec<Report> {
    let Some(patterns) = patterns() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut open: Option<Open<'_>> = None;
    for line in lines {
        let headline = rules.headline(&line.text, None);
        if let Some(rule) = headline {
            if rule.is(Flag::Single) {
                let mut single = Open::new(rule, line);
                single.complete = true;
                found.push(single.close(rules, patterns));
                continue;
            }
            match &mut open {
                Some(report) if report.is_joined_by(rule) => report.push(line, patterns),
                Some(report) if report.is_explained_by(rule) => {
                    report.rule = rule;
                    report.headline = line;
                    report.push(line, patterns);
                }
                _ => {
                    found.extend(open.take().map(|r| r.close(rules, patterns)));
                    open = Some(Open::new(rule, line));
                }
            }
            continue;
        }
        let Some(report) = &mut open else { continue };
        match report.ends_at(line, patterns) {
            End::Not => report.push(line, patterns),
            End::With => {
                report.push(line, patterns);
                report.complete = true;
                found.extend(open.take().map(|r| r.close(rules, patterns)));
            }
            End::Before => {
                report.complete |= report.frames > 0;
                found.extend(open.take().map(|r| r.close(rules, patterns)));
            }
        }
    }
    found.extend(open.map(|r| r.close(rules, patterns)));
    found
}

/// A level of a stack.
struct Call {
    /// With the offset.
    text: String,
    /// Without.
    function: String,
}

enum End {
    Not,
    With,
    Before,
}

struct Open<'a> {
    rule: &'a Rule,
    headline: &'a Line,
    lines: Vec<&'a Line>,
    frames: usize,
    complete: bool,
}

impl<'a> Open<'a> {
    fn new(rule: &'a Rule, line: &'a Line) -> Self {
        Open {
            rule,
            headline: line,
            lines: vec![line],
            frames: 0,
            complete: false,
        }
    }

    fn push(&mut self, line: &'a Line, patterns: &Patterns) {
        self.frames += usize::from(patterns.frame.is_match(&line.text));
        self.lines.push(line);
    }

    fn is_joined_by(&self, rule: &Rule) -> bool {
        rule.is(Flag::Joins)
            && rule.id != self.rule.id
            && self.frames == 0
            && self.lines.len() <= JOIN_LINES
    }

    /// A WARNING has no more than its place in the first line; the second can be its message (lib/bug.c prints the
    /// message before or after it, depending on the architecture).
    fn is_explained_by(&self, rule: &Rule) -> bool {
        self.rule.is(Flag::Joins)
            && self.lines.len() == 1
            && !rule.is(Flag::Joins)
            && self.headline.text.contains("WARNING: ")
    }

    fn ends_at(&self, line: &Line, patterns: &Patterns) -> End {
        let silent = match (self.lines.last().and_then(|l| l.time), line.time) {
            (Some(last), Some(now)) => now - last > MAX_SILENCE,
            _ => false,
        };
        let text = line.text.as_str();
        if silent || self.lines.len() >= MAX_LINES {
            End::Before
        } else if text.contains("---[ end trace") || text.contains("---[ end Kernel panic") {
            End::With
        } else if self.frames == 0 {
            End::Not
        } else if text.starts_with("=========") {
            End::With
        } else if text.contains("[ cut here ]") || !patterns.body.is_match(text) {
            End::Before
        } else {
            End::Not
        }
    }

    fn close(self, rules: &Rules, patterns: &Patterns) -> Report {
        let first = self.lines.first();
        let title = printable(&self.headline.text);
        let start = first.map_or(0, |l| l.span.start);
        let end = self.lines.last().map_or(start, |l| l.span.end);
        let (place, mut calls) = self.stack(patterns);
        calls.retain(|call| !rules.is_wrapper(&call.function));
        let innermost = place.as_ref().or(calls.first());
        let innermost = innermost.map(|call| call.function.as_str());
        let rule = rules.headline(&title, innermost).unwrap_or(self.rule);
        let all = || place.iter().chain(&calls);
        let frame = all().find(|call| !rules.is_plumbing(&call.function));
        let frame = frame.map(|call| call.function.clone());
        // KASAN's headline and the registers name the place that the stack begins with as well.
        let again = |call: &&Call| calls.iter().any(|c| c.text == call.text);
        let place = place.iter().filter(|call| !again(call));
        let frames = place.chain(&calls).map(|call| call.text.clone()).collect();
        let stack = calls.iter().map(|call| call.function.clone()).collect();
        let text: Vec<&str> = self.lines.iter().map(|l| l.text.as_str()).collect();
        Report {
            rule: rule.id.clone(),
            class: rule.class,
            title,
            frame,
            stack,
            frames,
            span: start..end,
            text: text.join("\n"),
            complete: self.complete,
            flags: rule.flags.clone(),
        }
    }

    /// Where it happened, and the functions of the stack that led there.
    fn stack(&self, patterns: &Patterns) -> (Option<Call>, Vec<Call>) {
        let call = |re: &Regex, text: &str| {
            let captures = re.captures(text)?;
            Some(Call {
                text: captures.get(1)?.as_str().to_owned(),
                function: captures.get(2)?.as_str().to_owned(),
            })
        };
        let begin = self
            .lines
            .iter()
            .position(|l| l.text.trim_start().starts_with("Call Trace"))
            .unwrap_or(0);
        let head = self
            .lines
            .get(..begin.max(JOIN_LINES.min(self.lines.len())))
            .unwrap_or_default();
        // Lockdep's headline is no place; it names one only in the description of the lock that is wanted.
        let lockdep = self
            .lines
            .iter()
            .take(8)
            .any(|l| l.text.contains("is trying to"));
        let place = match lockdep {
            true => None,
            false => head.iter().find_map(|l| call(&patterns.place, &l.text)),
        };
        let mut stack = Vec::new();
        for line in self.lines.get(begin..).unwrap_or_default() {
            let text = line.text.trim_start();
            if ["Allocated by", "Freed by", "RIP: 0033"]
                .iter()
                .any(|end| text.starts_with(end))
            {
                break;
            }
            stack.extend(call(&patterns.frame, &line.text));
        }
        (place, stack)
    }
}

/// A line as a title: without the escape sequences of a firmware that spoke before.
fn printable(text: &str) -> String {
    let text = text.rsplit_once("\u{1b}[2J").map_or(text, |(_, rest)| rest);
    text.chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .trim()
        .to_owned()
}
