// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports: what the kernel said about one thing that went wrong, from the headline to the end of the trace.

pub(super) mod open;
mod stack;

use std::ops::Range;

use super::console::Writer;
use super::rules::Flag;
use crate::event::{Class, Finding, Frame, Standing};

/// So many functions make a fingerprint.
const FINGERPRINT: usize = 5;

/// Without times, what comes within so many bytes comes soon.
const NEAR: usize = 8192;

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
    /// Up to five functions that tell something, `frame` first. Two reports of one class with the same ones are the same
    /// bug.
    pub fingerprint: Vec<String>,
    /// The kernel's taint as the report states it: `G        W  O`, or `Not tainted`.
    pub taint: Option<String>,
    /// Whether lockdep still checked locks when this was printed; `None` if the console does not tell.
    pub lockdep: Option<bool>,
    /// From the headline to the end, in bytes of the console. Lines of other callers may lie in between.
    pub span: Range<usize>,
    /// Its lines, without those of other callers.
    pub text: String,
    /// It has an end; otherwise it was cut off or interrupted, or lines of it are missing.
    pub complete: bool,
    /// Who printed it.
    pub writer: Writer,
    /// Another caller printed something after its end: the machine went on. Only known if the kernel prints callers.
    pub followed: bool,
    /// Of its first and of its last line, in microseconds since boot.
    times: (Option<u64>, Option<u64>),
    flags: Vec<Flag>,
}

impl Report {
    /// The task or the machine died of it.
    pub fn fatal(&self) -> bool {
        self.is(Flag::Fatal)
    }

    /// The whole machine stopped.
    pub fn halted(&self) -> bool {
        self.is(Flag::Halts)
    }

    /// The kernel prints it only once a boot.
    pub fn once(&self) -> bool {
        self.is(Flag::Once)
    }

    /// As a finding, with everything that the report itself says.
    pub fn finding(&self, standing: Standing) -> Finding {
        let level = |text: &String| Frame {
            text: text.clone(),
            places: Vec::new(),
        };
        Finding {
            frame: self.frame.clone(),
            console: Some((self.span.start as u64, self.span.end as u64)),
            stack: self.frames.iter().map(level).collect(),
            fingerprint: self.fingerprint.clone(),
            taint: self.taint.clone(),
            lockdep: self.lockdep,
            ..Finding::new(self.class, self.title.clone(), standing)
        }
    }

    /// Whether this is what came of that report: printed by the same caller, soon behind it.
    pub(super) fn follows(&self, earlier: &Report) -> bool {
        let soon = match (earlier.times.1, self.times.0) {
            (Some(last), Some(now)) => now.saturating_sub(last) <= open::MAX_SILENCE,
            _ => self.span.start.saturating_sub(earlier.span.end) <= NEAR,
        };
        // What an Oops brings about comes of nothing less.
        let needs_oops = self.rule == "init-died" || self.title.contains("Fatal exception");
        self.is(Flag::Follows)
            && !earlier.is(Flag::Halts)
            && earlier.writer == self.writer
            && earlier.span.start < self.span.start
            && soon
            && (!needs_oops || earlier.fatal())
    }

    /// Takes up what came of it.
    pub(super) fn ends_with(&mut self, last: &Report) {
        let new = last.flags.iter().filter(|f| **f != Flag::Follows);
        let new: Vec<Flag> = new.copied().filter(|f| !self.is(*f)).collect();
        self.flags.extend(new);
        if !self.complete {
            self.span.end = self.span.end.max(last.span.end);
            self.complete = last.complete;
        }
    }

    pub(super) fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}
