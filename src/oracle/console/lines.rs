// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of a console as lines: who wrote each, when, and where its text is. Nothing is copied.

use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::stamp::{self, Tag};

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Writer {
    /// The kernel, in the context of the task with this pid (printk's `T93`, with CONFIG_PRINTK_CALLER).
    Task(u32),
    /// The kernel, on this CPU outside of any task (`C0`).
    Cpu(u32),
    /// The kernel, with a time but without a caller.
    Kernel,
    /// Nobody says: a program or firmware, or a kernel that prints no times.
    Bare,
    /// Surely not the kernel: text in front of a kernel line in the same line, or a line that a log collector says is of
    /// another program.
    Program,
}

impl Writer {
    /// Whether the line says in which context the kernel printed it.
    pub fn is_caller(self) -> bool {
        matches!(self, Writer::Task(_) | Writer::Cpu(_))
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Writer::Task(pid) => write!(f, "T{pid}"),
            Writer::Cpu(cpu) => write!(f, "C{cpu}"),
            Writer::Kernel => f.write_str("kernel"),
            Writer::Bare => f.write_str("unknown"),
            Writer::Program => f.write_str("program"),
        }
    }
}

/// A line, or the part of a line that one writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its bytes in the console, with the line's end. The spans of all lines follow each other without a gap.
    pub span: Range<usize>,
    /// Its text: without what stands in front (time, caller, log level, a collector's stamp) and without the line's end.
    pub text: Range<usize>,
    /// Microseconds since boot, if the kernel printed them.
    pub time: Option<u64>,
    /// Who wrote it.
    pub writer: Writer,
    /// It has no end: the next line began in the middle of it.
    pub torn: bool,
    /// It has no end: the console ends within it.
    pub unfinished: bool,
}

/// The lines of a console that is complete.
pub fn lines(bytes: &[u8]) -> Lines<'_> {
    Lines::new(bytes, 0, true)
}

/// Iterates over lines, see [`lines`]. Reads every byte a fixed number of times, whatever they are.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The text of the line that `at` is in ends here.
    end: usize,
    /// The next line begins here.
    next: usize,
    /// What comes behind the last end of a line is a line.
    complete: bool,
}

impl<'a> Lines<'a> {
    /// Begins at `at`. If more can follow, the bytes are not `complete` and what has no end yet is left for later.
    pub(super) fn new(bytes: &'a [u8], at: usize, complete: bool) -> Self {
        Lines {
            bytes,
            at,
            end: at,
            next: at,
            complete,
        }
    }

    /// Where the next line begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn part(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Finds the end of the line that begins at `at`: `\n`, or any number of `\r` and perhaps one `\n`.
    fn find_end(&mut self) -> Option<()> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match memchr2(b'\n', b'\r', rest) {
            Some(n) => {
                self.end = self.at + n;
                let tail = rest.get(n..).unwrap_or_default();
                let returns = tail.iter().take_while(|b| **b == b'\r').count();
                let newline = usize::from(tail.get(returns) == Some(&b'\n'));
                if !self.complete && newline == 0 && returns == tail.len() {
                    return None;
                }
                self.next = self.end + returns + newline;
            }
            None if rest.is_empty() || !self.complete => return None,
            None => {
                self.end = self.bytes.len();
                self.next = self.end;
            }
        }
        Some(())
    }

    /// The first place from `from` to the end of the line where a kernel line begins.
    fn find_kernel(&self, from: usize) -> Option<usize> {
        let mut from = from;
        while let Some(n) = memchr(b'[', self.part(from..self.end)) {
            let at = from + n;
            if stamp::begins(self.part(at..self.end)) {
                return Some(at);
            }
            from = at + 1;
        }
        None
    }
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.at >= self.next {
            self.find_end()?;
        }
        let start = self.at;
        let mut line = Line {
            span: start..self.next,
            text: start..self.end,
            time: None,
            writer: Writer::Bare,
            torn: false,
            unfinished: self.next == self.end,
        };
        let whole = self.part(start..self.end);
        match stamp::printk(whole) {
            Some(found) => {
                line.time = Some(found.time);
                line.writer = found.writer;
                line.text.start = start + found.length;
                if let Some(at) = self.find_kernel(line.text.start) {
                    line.span.end = at;
                    line.text.end = at;
                    line.torn = true;
                    line.unfinished = false;
                }
            }
            None => match self.find_kernel(start) {
                Some(at) => {
                    line.writer = Writer::Program;
                    line.span.end = at;
                    line.text.end = at;
                }
                None => {
                    let (length, tag) = stamp::foreign(whole);
                    line.text.start = start + length;
                    line.writer = match tag {
                        Tag::None => Writer::Bare,
                        Tag::Kernel => Writer::Kernel,
                        Tag::Caller(writer) => writer,
                        Tag::Program => Writer::Program,
                    };
                }
            },
        }
        self.at = line.span.end;
        // LAVA keeps a line as `- {"dt": "..", "lvl": "target", "msg": "[    5.625410] text"}`.
        if self.part(line.text.clone()).ends_with(b"\"}") {
            line.text.end -= 2;
        }
        Some(line)
    }
}
