// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the lines of a report say: the levels of its stack, where it happened, the kernel's taint.

use std::sync::LazyLock;

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};

/// A level of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// With the offset and the module, `device_del+0x835/0x8c0`, `hold+0x83/0xc0 [vfrace]`.
    pub text: String,
    /// Without, and without the compiler's suffix for a part of a function (`.isra.0`, `.cold`).
    pub function: String,
}

/// Length of the name that `bytes` begins with.
fn name(bytes: &[u8]) -> usize {
    let starts = bytes
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    match starts {
        true => bytes
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(**b, b'_' | b'.' | b'$'))
            .count(),
        false => 0,
    }
}

/// Length of `0x` and hexadecimal digits that `bytes` begins with.
fn hex(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.strip_prefix(b"0x")?;
    let count = digits.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    (count > 0).then_some(count + 2)
}

/// `device_del+0x835/0x8c0`, perhaps with ` [module]` or ` [module buildid]` behind it, at the start of `bytes`: the
/// length of the name and of all but the module, and the module.
fn symbol(bytes: &[u8]) -> Option<(usize, usize, Option<&[u8]>)> {
    let name = name(bytes);
    if name == 0 {
        return None;
    }
    let mut at = name;
    at += 1 + hex(bytes.get(at..)?.strip_prefix(b"+")?)?;
    at += 1 + hex(bytes.get(at..)?.strip_prefix(b"/")?)?;
    let module = bytes.get(at..).and_then(|rest| {
        let rest = rest.strip_prefix(b" [")?;
        let end = rest.iter().take(128).position(|b| *b == b']')?;
        let inside = rest.get(..end)?.split(|b| *b == b' ').next()?;
        let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        (!inside.is_empty() && inside != b"inline" && inside.iter().all(word)).then_some(inside)
    });
    Some((name, at, module))
}

fn call(bytes: &[u8]) -> Option<Call> {
    let (name, end, module) = symbol(bytes)?;
    let text = |range| String::from_utf8_lossy(bytes.get(range).unwrap_or_default()).into_owned();
    let mut whole = text(0..end);
    if let Some(module) = module {
        whole.push_str(" [");
        whole.push_str(&String::from_utf8_lossy(module));
        whole.push(']');
    }
    let function = text(0..name);
    let function = match function.split_once('.') {
        Some((bare, _)) if !bare.is_empty() => bare.to_owned(),
        _ => function,
    };
    Some(Call {
        text: whole,
        function,
    })
}

/// What stands in front of a reliable level: blanks, on s390x and old x86 ` [<000003ffe04ef6f4>] `. `? ` and `([<...>]`
/// mark levels that are only remains in the stack.
fn level_at(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"kmemleak:").unwrap_or(text);
    let blanks = text
        .iter()
        .take_while(|b| matches!(**b, b' ' | b'\t'))
        .count();
    if blanks == 0 {
        return None;
    }
    let rest = text.get(blanks..)?;
    let Some(inside) = rest.strip_prefix(b"[<") else {
        return Some(rest);
    };
    let digits = inside
        .iter()
        .take(20)
        .take_while(|b| b.is_ascii_hexdigit())
        .count();
    inside.get(digits..)?.strip_prefix(b">] ")
}

/// Whether a line is a level of a stack.
pub(super) fn is_level(text: &[u8]) -> bool {
    level_at(text).and_then(symbol).is_some()
}

/// The level of a stack that a line is.
pub(super) fn level(text: &[u8]) -> Option<Call> {
    level_at(text).and_then(call)
}

/// The function in `[<ffffffff8170d239>] pci_unlock_rescan_remove+0x19/0x20` (kernel/locking/lockdep.c, print_ip_sym()).
pub(super) fn address(text: &[u8]) -> Option<Call> {
    let at = memmem::find(text.strip_prefix(b"[<")?, b">] ")?;
    call(text.get(at + 5..)?)
}

/// The function in `Workqueue: events sriov_unlock`, perhaps with ` (description)` behind it (kernel/workqueue.c,
/// print_worker_info()).
pub(super) fn work(text: &[u8]) -> Option<String> {
    let rest = text.strip_prefix(b"Workqueue: ")?;
    let rest = match memmem::find(rest, b" (") {
        Some(end) => rest.get(..end)?,
        None => rest,
    };
    let last = rest.trim_ascii_end().rsplit(|b| *b == b' ').next()?;
    let length = name(last);
    let bare = last.get(..length)?.split(|b| *b == b'.').next()?;
    (length > 0 && last.len() == length).then(|| String::from_utf8_lossy(bare).into_owned())
}

/// Where it happened, if the line says that: the WARNING line, the registers, KASAN's headline.
pub(super) fn place(text: &[u8]) -> Option<Call> {
    let after = |mark: &[u8]| {
        let at = memmem::find(text, mark)?;
        text.get(at + mark.len()..)
    };
    if let Some(rest) = text.strip_prefix(b"RIP: 0010:") {
        return call(rest);
    }
    if text.starts_with(b"Krnl PSW : ") {
        return call(after(b" (")?);
    }
    if let Some(rest) = text.strip_prefix(b"pc : ") {
        return call(rest);
    }
    let old = |rest: &'_ [u8]| {
        // WARNING: CPU: 0 PID: 55 at drivers/pci/remove.c:127 func+0x70/0x90, perhaps with `[condition] ` before the file
        let blanks = rest.iter().take(400).enumerate();
        let mut blanks = blanks.filter(|(_, b)| **b == b' ');
        blanks.find_map(|(at, _)| call(rest.get(at + 1..)?))
    };
    let at = after(b" at ");
    at.and_then(call)
        .or_else(|| after(b" in ").and_then(call))
        .or_else(|| at.and_then(old))
}

/// The taint that a line states: `G        W  O`, or `Not tainted` (kernel/panic.c, print_tainted()).
pub(super) fn taint(text: &[u8]) -> Option<String> {
    static TAINT: LazyLock<Option<Regex>> = LazyLock::new(|| {
        RegexBuilder::new(r"Tainted: ([GP][A-Z ]{0,31})|Not tainted")
            .unicode(false)
            .build()
            .ok()
    });
    let found = TAINT.as_ref()?.captures(text)?;
    let flags = found.get(1).or(found.get(0))?;
    let flags = String::from_utf8_lossy(flags.as_bytes());
    Some(flags.trim_end().to_owned())
}
