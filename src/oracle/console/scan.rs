// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One pass over a console: every line goes to the reports of its caller.

use std::collections::HashMap;

use super::{Console, Line, Lines, Writer, plain};
use crate::oracle::report::Report;
use crate::oracle::report::open::{End, Open};
use crate::oracle::rules::{Flag, Headline, Rules};

/// Reports within reports; a real kernel has one or two.
const MAX_NESTED: usize = 4;
/// So many callers can be in the middle of a report; a real kernel has as many as CPUs and tasks that print at once.
const MAX_STREAMS: usize = 4096;
/// So many reports of one kind (rule and place) are kept, the others are counted.
const MAX_OF_A_KIND: u32 = 500;
/// What a panic comes of is among so many reports before it.
const LATEST: usize = 64;
/// So many reports are kept at all.
const MAX_REPORTS: usize = 50_000;

/// What has been read of a console so far. A console that still grows can be read piece by piece: what was read is not
/// read again.
///
/// ```
/// use vfrace::oracle::{Console, Scan};
///
/// let console = b"[    1.000000][   T93] BUG: KASAN: slab-use-after-free in f+0x1/0x2\n[    1.0";
/// let mut scan = Scan::default();
/// scan.advance(&console[..20]);
/// assert!(scan.console(&console[..20], Some(0)).armed.is_empty());
/// scan.advance(console);
/// assert_eq!(scan.console(console, Some(0)).armed.len(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Everything before this was read.
    at: usize,
    /// The reports that each caller is in the middle of, the innermost last. Callers without one are not in here.
    streams: HashMap<Writer, Vec<Open>>,
    found: Vec<Report>,
    kinds: HashMap<(usize, bool, Option<String>), u32>,
    omitted: u64,
    gaps: usize,
    /// Of the last line that has one, in microseconds.
    time: u64,
    /// Lines with a time of printk's, and how many of them have a caller.
    stamped: usize,
    called: usize,
    /// A kernel line that another one began in, and who was cut.
    torn: Option<Line>,
    /// Last caller that printed a line, and where that line began; the same for the last one that was another.
    last: Option<(Writer, usize)>,
    last_other: Option<(Writer, usize)>,
}

impl Scan {
    /// Reads on, up to the last complete line. `bytes` is the whole console, of which the part that was read before has
    /// not changed; what it says of that part is not looked at again.
    pub fn advance(&mut self, bytes: &[u8]) {
        self.read(bytes, false);
    }

    /// Reads on; the console is complete.
    pub(super) fn advance_to_end(&mut self, bytes: &[u8]) {
        self.read(bytes, true);
    }

    /// What was found so far, as [`Console::read`] would find it in these bytes: the same `bytes` as at the last
    /// [`advance`](Self::advance). A line that has no end yet counts as a line.
    pub fn console(&self, bytes: &[u8], armed: Option<u64>) -> Console {
        let mut all = self.clone();
        all.advance_to_end(bytes);
        all.finish(bytes, armed)
    }

    fn read(&mut self, bytes: &[u8], complete: bool) {
        let rules = Rules::built_in();
        let mut lines = Lines::new(bytes, self.at, complete);
        while let Some(line) = lines.next() {
            self.line(bytes, rules, &line);
            self.at = lines.at();
        }
    }

    fn line(&mut self, bytes: &[u8], rules: &Rules, line: &Line) {
        if line.writer == Writer::Program {
            return;
        }
        if let Some(time) = line.time {
            self.stamped += 1;
            self.time = time;
        }
        if line.writer.is_caller() {
            self.called += 1;
            if let Some(last) = self.last.filter(|(writer, _)| *writer != line.writer) {
                self.last_other = Some(last);
            }
            self.last = Some((line.writer, line.span.start));
        }
        let text = plain(bytes.get(line.text.clone()).unwrap_or_default());
        if let Some(first) = self.torn.take() {
            if line.writer == Writer::Bare {
                self.rest_of_torn(bytes, rules, line, &first, &text);
                return;
            }
            // The line that began in the middle of it.
            if first.span.end == line.span.start {
                self.torn = Some(first);
            }
        }
        if line.torn {
            self.torn = Some(line.clone());
        }
        let found = rules.headline(&text, None);
        self.feed(bytes, rules, line, &text, found);
    }

    /// A line without a prefix, behind one that was cut by another CPU's: probably its rest. It can complete a headline,
    /// and it cannot end anything.
    fn rest_of_torn(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        line: &Line,
        first: &Line,
        text: &[u8],
    ) {
        let alone = rules.headline(text, None);
        if alone.is_none() {
            if self.push_rest(line, first, text) {
                return;
            }
            let begun = plain(bytes.get(first.text.clone()).unwrap_or_default());
            let whole = [&begun, text].concat();
            if let (None, Some(found)) =
                (rules.headline(&begun, None), rules.headline(&whole, None))
            {
                self.feed(bytes, rules, first, &whole, Some(found));
                self.push_rest(line, first, text);
                return;
            }
        }
        self.feed(bytes, rules, line, text, alone);
    }

    /// Gives the rest of a headline that began in `first` to its report; whether there is one.
    fn push_rest(&mut self, line: &Line, first: &Line, text: &[u8]) -> bool {
        let open = self
            .streams
            .get_mut(&first.writer)
            .and_then(|s| s.last_mut());
        let open = open.filter(|open| open.begins_with(first));
        open.map(|open| open.push_rest(line, text)).is_some()
    }

    fn feed(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        line: &Line,
        text: &[u8],
        found: Option<Headline<'_>>,
    ) {
        let open = self.streams.contains_key(&line.writer);
        let found = found.filter(|found| !(open && found.rule.is(Flag::Orphan)));
        let Some(found) = found else {
            // Most lines end here.
            if self.streams.is_empty() {
                return;
            }
            if let Some(mut stream) = self.streams.remove(&line.writer) {
                self.ordinary(bytes, rules, &mut stream, line, text);
                if !stream.is_empty() {
                    self.streams.insert(line.writer, stream);
                }
            }
            return;
        };
        self.gaps += usize::from(found.rule.is(Flag::Gap));
        if found.rule.is(Flag::Single) {
            if let Some(open) = self
                .streams
                .get_mut(&line.writer)
                .and_then(|s| s.last_mut())
            {
                open.stray();
            }
            self.close(bytes, rules, Open::single(&found, line, text, self.gaps));
            return;
        }
        let mut stream = self.streams.remove(&line.writer).unwrap_or_default();
        self.headline(bytes, rules, &mut stream, &found, line, text);
        if self.streams.len() >= MAX_STREAMS {
            self.close_old(bytes, rules);
        }
        self.streams.insert(line.writer, stream);
    }

    fn ordinary(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        stream: &mut Vec<Open>,
        line: &Line,
        text: &[u8],
    ) {
        while let Some(mut open) = stream.pop() {
            match open.ends_at(line, text) {
                // Who knows what the rest of a line that has no end would have been.
                _ if line.unfinished => {
                    open.push(line, text);
                    stream.push(open);
                    return;
                }
                End::Not => {
                    open.push(line, text);
                    stream.push(open);
                    return;
                }
                End::Stray => {
                    open.stray();
                    stream.push(open);
                    return;
                }
                End::With => {
                    open.push_last(line, text);
                    self.close(bytes, rules, open);
                    return;
                }
                End::Before => {
                    open.is_over();
                    self.close(bytes, rules, open);
                }
            }
        }
    }

    fn headline(
        &mut self,
        bytes: &[u8],
        rules: &Rules,
        stream: &mut Vec<Open>,
        found: &Headline<'_>,
        line: &Line,
        text: &[u8],
    ) {
        if let Some(open) = stream.last_mut() {
            if open.is_joined_by(rules, found, line) {
                open.join(found, line, text);
                return;
            }
            if open.is_explained_by(rules, found.rule, line) {
                open.explain(found, line, text);
                return;
            }
        }
        while let Some(mut open) = stream.pop() {
            if open.goes_on(line) && stream.len() + 1 < MAX_NESTED {
                stream.push(open);
                break;
            }
            open.is_over();
            self.close(bytes, rules, open);
        }
        stream.push(Open::new(found, line, text, self.gaps));
    }

    /// Closes the half of the reports that had no new line for longest.
    fn close_old(&mut self, bytes: &[u8], rules: &Rules) {
        let end = |stream: &Vec<Open>| stream.last().map_or(0, Open::end);
        let mut ends: Vec<usize> = self.streams.values().map(end).collect();
        ends.sort_unstable();
        let middle = ends.get(ends.len() / 2).copied().unwrap_or_default();
        let mut old = Vec::new();
        self.streams.retain(|_, stream| {
            let keep = end(stream) > middle;
            if !keep {
                old.append(stream);
            }
            keep
        });
        for open in old {
            self.close(bytes, rules, open);
        }
    }

    fn close(&mut self, bytes: &[u8], rules: &Rules, open: Open) {
        if self.found.len() >= MAX_REPORTS {
            self.omitted += 1;
            return;
        }
        let count = self.kinds.entry(open.kind(bytes)).or_default();
        *count += 1;
        if *count > MAX_OF_A_KIND {
            self.omitted += 1;
            return;
        }
        self.found.extend(open.close(bytes, rules, self.gaps));
    }

    fn finish(mut self, bytes: &[u8], armed: Option<u64>) -> Console {
        let rules = Rules::built_in();
        let mut streams: Vec<_> = std::mem::take(&mut self.streams).into_iter().collect();
        streams.sort_by_key(|(writer, _)| *writer);
        for mut open in streams.into_iter().flat_map(|(_, stream)| stream) {
            if open.is_older(self.time) {
                open.is_over();
            }
            self.close(bytes, rules, open);
        }
        // With caller ids on, a line without one is a program's, whatever it says, except for printk's own remark that
        // messages were dropped, which has no prefix. One line that looks as if it had one does not turn that on.
        let callers = self.called > 0 && self.called * 2 >= self.stamped;
        // With only times, a line without is a program's too; but if it has a stack, better look at it.
        let times = self.stamped > 0;
        self.found.retain(|report| {
            let believed = match report.writer {
                Writer::Task(_) | Writer::Cpu(_) => true,
                Writer::Kernel => !callers || report.stack.len() > 1,
                Writer::Bare => !callers && (!times || report.stack.len() > 1),
                Writer::Program => false,
            };
            believed || (report.is(Flag::Gap) && !report.is(Flag::Orphan))
        });
        self.found.sort_by_key(|r| (r.span.start, r.span.end));
        self.lockdep();
        let armed = armed.map_or(bytes.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
        self.consequences(armed);
        for report in &mut self.found {
            report.followed = [self.last, self.last_other]
                .into_iter()
                .flatten()
                .any(|(writer, at)| writer != report.writer && at >= report.span.end);
        }
        Console::sorted(self.found, armed, self.omitted)
    }

    /// A panic that only comes of a report is a part of it, if the run was armed before both or after both.
    fn consequences(&mut self, armed: usize) {
        let found = std::mem::take(&mut self.found);
        for report in found {
            let before = report.span.start < armed;
            let real = |r: &&mut Report| !(r.is(Flag::Single) || r.is(Flag::Gap));
            let mut earlier = self.found.iter_mut().rev().take(LATEST).filter(real);
            let earlier = earlier.find(|r| r.writer == report.writer);
            match earlier.filter(|r| report.follows(r) && (r.span.start < armed) == before) {
                Some(earlier) => earlier.ends_with(&report),
                None => self.found.push(report),
            }
        }
    }

    /// Says of every report whether lockdep still checked locks then: yes up to the line that turns it off, no from there
    /// up to the next boot.
    fn lockdep(&mut self) {
        let mut checks: Option<bool> = None;
        // Nothing is known of the reports from here on, but what a report that turns lockdep off without a word implies.
        let mut unknown = 0;
        let mut implied = false;
        for at in 0..self.found.len() {
            let Some(report) = self.found.get_mut(at) else {
                break;
            };
            if report.is(Flag::Boot) {
                (checks, unknown, implied) = (None, at, false);
            } else if report.is(Flag::Sees) {
                (checks, unknown, implied) = (Some(true), at, false);
            }
            report.lockdep = checks;
            if report.is(Flag::Stops) && checks != Some(false) {
                (checks, implied) = (Some(false), true);
            }
            let says_off = report.is(Flag::Blind) || report.is(Flag::Splat);
            if !says_off || (checks == Some(false) && !implied) {
                continue;
            }
            // `lockdep is turned off` is said within a report, of which the headline may be some lines above.
            let (start, already) = (report.span.start, report.is(Flag::Already));
            for earlier in self.found.iter_mut().take(at + 1).skip(unknown) {
                match already {
                    true if earlier.span.end > start => earlier.lockdep = Some(false),
                    true => {}
                    false => earlier.lockdep = Some(true),
                }
            }
            (checks, implied) = (Some(false), false);
        }
    }
}
