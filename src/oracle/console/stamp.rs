// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What stands in front of the text of a line: printk's own time and caller, and what log collectors put there.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

use super::lines::Writer;

/// What printk put in front (kernel/printk/printk.c, print_time() and print_caller()).
pub(super) struct Printk {
    /// Microseconds.
    pub time: u64,
    /// Task or CPU, or [`Writer::Kernel`] if it does not say.
    pub writer: Writer,
    /// Bytes, with the blank behind it.
    pub length: usize,
}

/// What a collector says about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Nothing.
    None,
    /// The kernel wrote it.
    Kernel,
    /// The kernel wrote it, in this context.
    Caller(Writer),
    /// A program wrote it.
    Program,
}

/// `[    5.625410]` in the middle of a line: only as the kernel pads it, "%5lu.%06lu".
pub(super) fn begins(bytes: &[u8]) -> bool {
    time(bytes).is_some_and(|(_, length)| length >= 14)
}

/// `[    5.625410][   T93] text`, `[    5.625410] text`, and what `journalctl -o short-monotonic` makes of it:
/// `[    5.625410] host kernel: text`.
pub(super) fn printk(bytes: &[u8]) -> Option<Printk> {
    let (time, mut length) = time(bytes)?;
    let rest = bytes.get(length..)?;
    let found = caller(rest);
    if let Some((_, caller)) = found {
        length += caller;
    }
    let rest = bytes.get(length..)?;
    length += usize::from(rest.first() == Some(&b' '));
    if found.is_none() {
        length += bytes.get(length..).map_or(0, tagged);
    }
    Some(Printk {
        time,
        writer: found.map_or(Writer::Kernel, |(writer, _)| writer),
        length,
    })
}

/// `[`, blanks, up to 9 digits, `.`, 6 digits, `]`.
fn time(bytes: &[u8]) -> Option<(u64, usize)> {
    let rest = bytes.strip_prefix(b"[")?;
    let blanks = rest.iter().take(12).take_while(|b| **b == b' ').count();
    let (seconds, digits) = number(rest.get(blanks..)?)?;
    let dot = blanks + digits;
    let (micros, after) = number(rest.get(dot..)?.strip_prefix(b".")?)?;
    let end = dot + 1 + after;
    (after == 6 && rest.get(end) == Some(&b']')).then_some((seconds * 1_000_000 + micros, end + 2))
}

/// `[   T93]` or `[    C0]`, with a blank in front from newer versions of dmesg.
fn caller(bytes: &[u8]) -> Option<(Writer, usize)> {
    let blank = usize::from(bytes.first() == Some(&b' '));
    let rest = bytes.get(blank..)?.strip_prefix(b"[")?;
    let blanks = rest.iter().take(8).take_while(|b| **b == b' ').count();
    let kind = *rest.get(blanks)?;
    let (number, digits) = number(rest.get(blanks + 1..)?)?;
    let number = u32::try_from(number).ok()?;
    let writer = match kind {
        b'T' => Writer::Task(number),
        b'C' => Writer::Cpu(number),
        _ => return None,
    };
    let end = blanks + 1 + digits;
    (rest.get(end) == Some(&b']')).then_some((writer, blank + end + 2))
}

/// Up to nine digits.
fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    let digits = bytes
        .iter()
        .take(10)
        .take_while(|b| b.is_ascii_digit())
        .count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let value = bytes.iter().take(digits);
    Some((value.fold(0, |n, b| n * 10 + u64::from(b - b'0')), digits))
}

/// `host kernel: `, its length.
fn tagged(bytes: &[u8]) -> usize {
    let Some(blank) = bytes.iter().take(64).position(|b| *b == b' ') else {
        return 0;
    };
    match bytes
        .get(blank..)
        .is_some_and(|r| r.starts_with(b" kernel: "))
    {
        true if blank > 0 => blank + 9,
        _ => 0,
    }
}

fn patterns() -> Option<&'static (Regex, Regex)> {
    static PATTERNS: LazyLock<Option<(Regex, Regex)>> = LazyLock::new(|| {
        let compile = |p: &str| RegexBuilder::new(p).unicode(false).build().ok();
        Some((
            compile(concat!(
                r"^(?:\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>78])*",
                // LAVA's record of a line
                r#"(?:- \{"dt": "[^"]*", "lvl": "[a-z]*", "msg": ")?"#,
                r"(?:",
                // ISO 8601, as LAVA, ts, dmesg --time-format iso and continuous integration write it
                r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?:? ?",
                // dmesg -T
                r"|\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\] ?",
                // terminal programs
                r"|\[\d\d:\d\d:\d\d(?:\.\d{1,6})?\] ?",
                r")?",
                // dmesg -r, dmesg -x
                r"(?:<\d{1,3}>|(?:kern|user|daemon) *:(?:emerg|alert|crit|err|warn|notice|info|debug) *: )?",
            ))?,
            // syslog and journalctl: `Nov 24 22:32:22 host kernel: `, `... host sshd[12]: `
            compile(
                r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,6})? (?:(\S{1,64}) ([^\s:\[]{1,64})(?:\[\d+\])?: )?",
            )?,
        ))
    });
    PATTERNS.as_ref()
}

/// What stands in front of a line that has no time of printk's, and what that says about the writer.
pub(super) fn foreign(bytes: &[u8]) -> (usize, Tag) {
    let Some((stamp, syslog)) = patterns() else {
        return (0, Tag::None);
    };
    // Most lines have nothing in front.
    let first = bytes.first().copied().unwrap_or_default();
    let mut length = 0;
    let mut tag = Tag::None;
    if matches!(first, b'[' | b'<' | b'-' | b'\x1b' | b'0'..=b'9')
        || bytes.starts_with(b"kern")
        || bytes.starts_with(b"user")
        || bytes.starts_with(b"daemon")
    {
        length = stamp.find(bytes).map_or(0, |found| found.end());
    } else if first.is_ascii_uppercase() && bytes.get(3) == Some(&b' ') {
        if let Some(found) = syslog.captures(bytes) {
            length = found.get(0).map_or(0, |whole| whole.end());
            tag = match found.get(2).map(|name| name.as_bytes()) {
                None => Tag::None,
                Some(b"kernel") => Tag::Kernel,
                Some(_) => Tag::Program,
            };
        }
    }
    if tag == Tag::Program {
        return (length, tag);
    }
    if let Some((writer, more)) = bytes.get(length..).and_then(caller) {
        length += more;
        length += usize::from(bytes.get(length) == Some(&b' '));
        tag = Tag::Caller(writer);
    }
    (length, tag)
}
