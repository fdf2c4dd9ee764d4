// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The events that every other part speaks: what was sent, held, fired, observed and concluded.
//!
//! The engine emits them through an [`EventSink`]; the JSON lines file, the terminal and the oracle only consume them.
//! An event is self-contained: a recording can be judged and rendered long after the run, without QEMU.

mod names;
mod observation;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;

pub use names::{FunctionId, Part, Role, Target};
pub use observation::{GuestRecord, HangKind, Invariants, Lists, Observation, VfReferences};

/// One end of a vhost-user socket, as the sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The front end, QEMU.
    Qemu,
    /// The back end, this program.
    Backend,
}

/// A vhost-user message as the tap saw it (QEMU docs/interop/vhost-user.rst, "Message Specification").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireMessage {
    /// The function whose socket it went over.
    pub function: FunctionId,
    /// Who sent it. A message from the back end is an answer.
    pub from: Side,
    /// Name without the VHOST_USER_ prefix, e.g. `GET_VRING_BASE`; `REQUEST_n` for one that is not known.
    pub message: String,
    /// The vring that it is about, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vring: Option<u32>,
    /// The 64-bit payload, where it is one (features, SET_VRING_ENABLE's num, an acknowledgement).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<u64>,
    /// The sender wants an acknowledgement (flag bit 3).
    pub need_reply: bool,
    /// Payload bytes.
    pub size: u32,
    /// File descriptors passed along.
    pub fds: u32,
    /// How often this message of this function and direction was seen before, since the run was armed (from 0).
    pub nth: u32,
    /// The tap answered it itself; the back end never saw it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub answered_by_tap: bool,
}

/// Part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// QEMU starts, the kernel boots, the module loads.
    Boot,
    /// The PF is bound, VFs are on, invariants measured; from here on the console counts.
    Armed,
    /// The teardown has been started.
    Teardown,
    /// Both sides should be back; invariants are measured.
    Settle,
    /// The PF is removed as a last step.
    FinalRemove,
    /// The guest powers off.
    PowerOff,
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldEnd {
    /// The condition came true.
    Reached,
    /// The upper bound came first: the other side did not get where the scenario wanted it.
    Bound,
    /// The other side ended without getting there.
    Missed,
    /// The run was stopped.
    Stopped,
}

/// What the judge says about a run. Precedence is that of the order here, INFRA first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Verdict {
    /// QEMU, the build or the host failed: nothing is known about the kernel.
    Infra,
    /// The kernel does not compile or link, or its patch does not fit the source.
    BuildFail,
    /// The kernel did not reach the guest's init.
    BootFail,
    /// A VF's removal body ran more than once.
    DoubleRemoval,
    /// A task did not come back.
    Deadlock,
    /// Any other wanted or unexpected finding; the finding's class says which.
    Finding,
    /// The guest stopped answering and printed nothing.
    Silent,
    /// Teardown and unplug were not shown to overlap.
    Inconclusive,
    /// Removed once, everything as before, overlap shown (or none expected).
    Pass,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Infra => "INFRA",
            Verdict::BuildFail => "BUILD-FAIL",
            Verdict::BootFail => "BOOT-FAIL",
            Verdict::DoubleRemoval => "DOUBLE-REMOVAL",
            Verdict::Deadlock => "DEADLOCK",
            Verdict::Finding => "FINDING",
            Verdict::Silent => "SILENT",
            Verdict::Inconclusive => "INCONCLUSIVE",
            Verdict::Pass => "PASS",
        })
    }
}

/// Class of a finding (the same words as in the rule table, src/oracle/rules.toml).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Class {
    /// A removal body ran twice for one VF.
    DoubleRemoval,
    /// A reference count is off.
    Refcount,
    /// Freed memory was used.
    UseAfterFree,
    /// A list is corrupt.
    ListCorruption,
    /// Two tasks, or one with itself, wait for ever.
    Deadlock,
    /// lockdep: order, recursion, state.
    LockOrder,
    /// An assertion about a lock.
    Assert,
    /// Something was not given back.
    Leak,
    /// The kernel died: oops, BUG, panic.
    Oops,
    /// Another warning.
    Warn,
    /// Lockup or stall.
    Stall,
    /// A patch that does not fit, a compiler's or linker's error.
    Build,
    /// Something else worth a look.
    Other,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::DoubleRemoval => "DOUBLE-REMOVAL",
            Class::Refcount => "REFCOUNT",
            Class::UseAfterFree => "USE-AFTER-FREE",
            Class::ListCorruption => "LIST-CORRUPTION",
            Class::Deadlock => "DEADLOCK",
            Class::LockOrder => "LOCK-ORDER",
            Class::Assert => "ASSERT",
            Class::Leak => "LEAK",
            Class::Oops => "OOPS",
            Class::Warn => "WARN",
            Class::Stall => "STALL",
            Class::Build => "BUILD",
            Class::Other => "OTHER",
        })
    }
}

/// How a finding stands to the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// What the scenario looks for.
    Wanted,
    /// In the list of known issues (guest-tests/expect/known.toml).
    Known,
    /// Neither: somebody should look.
    Other,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its class.
    pub class: Class,
    /// One line.
    pub title: String,
    /// First frame that is not plumbing, if there is a stack.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub frame: Option<String>,
    /// Wanted, known or other.
    pub standing: Standing,
    /// The round it belongs to (from 1), if one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round: Option<u32>,
    /// Byte span in the console file, for a finding from there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub console: Option<(u64, u64)>,
    /// Why it is known, for a known one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The last point that was reached before it, in its text form.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub point: Option<String>,
    /// Where it happened and how that was reached, innermost first; empty without a stack.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stack: Vec<Frame>,
    /// Up to five functions, the telling frame first: two findings of the same class with the same ones are the same bug.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fingerprint: Vec<String>,
    /// The kernel's taint as the report says it, e.g. `G        W  O` (Documentation/admin-guide/tainted-kernels.rst).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub taint: Option<String>,
    /// Whether lockdep still checked locks then; unknown if nothing says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lockdep: Option<bool>,
    /// Whether the guest went on afterwards; unknown if nothing says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alive: Option<bool>,
    /// What keeps the tasks from coming back, for a deadlock that the guest's own states tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hang: Option<HangKind>,
}

impl Finding {
    /// A finding of which nothing else is known.
    pub fn new(class: Class, title: impl Into<String>, standing: Standing) -> Self {
        Finding {
            class,
            title: title.into(),
            frame: None,
            standing,
            round: None,
            console: None,
            reason: None,
            point: None,
            stack: Vec::new(),
            fingerprint: Vec::new(),
            taint: None,
            lockdep: None,
            alive: None,
            hang: None,
        }
    }
}

/// One level of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// As the kernel printed it: `device_del+0x835/0x8c0`, behind it ` [module]` if it is in one.
    pub text: String,
    /// Where that is in the source, inlined functions first and the function that has them last; empty without symbols.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub places: Vec<Place>,
}

/// A line of source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The function, perhaps one that was inlined.
    pub function: String,
    /// The file, from the kernel's top directory where it is below that.
    pub file: String,
    /// The line, from 1; 0 if it is not known.
    pub line: u32,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A long step (download, build, boot) has begun, moved on, or ended.
    Progress {
        /// What is being done, stable over the step: "kernel v7: compile".
        step: String,
        /// Where it is: a file name, a count.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        detail: String,
        /// How much is done and of how much, in the step's own unit, if that is known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        part: Option<(u64, u64)>,
        /// The step has ended.
        #[serde(skip_serializing_if = "std::ops::Not::not", default)]
        finished: bool,
    },
    /// A run begins.
    RunStarted {
        /// Scenario name.
        scenario: String,
        /// Kernel name, e.g. `v7@7.2`.
        kernel: String,
        /// Kernel identity: hash of source, patch and config.
        kernel_id: String,
        /// Architecture of the guest. A recording that does not say is of the default.
        #[serde(skip_serializing_if = "Arch::is_default", default)]
        arch: Arch,
        /// Number of VFs.
        vfs: u16,
        /// Accelerator.
        accel: String,
        /// QEMU's version.
        qemu: String,
        /// What else was done to the guest, e.g. `skip-sleep`.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        options: Vec<String>,
    },
    /// A phase begins. `console` is the length of the console file at that moment.
    Phase {
        /// Which.
        phase: Phase,
        /// The round it belongs to, from 1; 0 outside rounds.
        round: u32,
        /// Bytes of console so far.
        console: u64,
    },
    /// A vhost-user message.
    Wire(WireMessage),
    /// A connection to a function came or went.
    Connection {
        /// The function.
        function: FunctionId,
        /// Connected?
        up: bool,
        /// Why it went, if it went.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        reason: String,
    },
    /// The schedule of a round, said when it is armed.
    Schedule {
        /// Its text form; replaying it means running the scenario with it.
        text: String,
    },
    /// A wire point was reached, or the time of a step has come. Call points are reported by the guest
    /// ([`Observation::Point`]).
    PointReached {
        /// The point in its text form.
        point: String,
    },
    /// An unplug was ordered.
    UnplugFired {
        /// Actuator, e.g. `platform`.
        actuator: String,
        /// What is unplugged.
        target: Target,
        /// Number of the event, as in [`Observation::UnplugSeen`].
        number: u32,
    },
    /// A message is being held.
    HoldBegan {
        /// The point in its text form.
        point: String,
        /// What is waited for.
        until: String,
    },
    /// The held message went on.
    HoldEnded {
        /// The point in its text form.
        point: String,
        /// Nanoseconds held.
        held_ns: u64,
        /// Why it ended.
        end: HoldEnd,
    },
    /// The PF was given back references that a double removal took, so that the next round begins as the first did.
    Repaired {
        /// How many.
        references: u32,
    },
    /// The guest module observed something.
    Guest(GuestRecord),
    /// The run was cut short: a wait ran into its limit, QEMU died, the user stopped it.
    Cut {
        /// In which words.
        reason: String,
        /// The host's fault or the user's, not the guest's.
        infrastructure: bool,
    },
    /// Something is wrong.
    Finding(Finding),
    /// The judgement on a run.
    Judged {
        /// The verdict.
        verdict: Verdict,
        /// Evidence, a line each.
        evidence: Vec<String>,
        /// Rounds in which the wanted finding was seen.
        hits: u32,
        /// Rounds run.
        rounds: u32,
        /// Seconds it took.
        seconds: f64,
    },
}

/// An event with its place in the order of things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Running number within the recording. `number` is also a field of what happened, hence the other name there.
    #[serde(rename = "seq")]
    pub number: u64,
    /// Host monotonic nanoseconds since the recording began.
    pub ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Where events go. Cheap to clone, usable from any thread, never blocks: the reader of the other end drains an
/// unbounded channel. When that reader is gone, events are dropped without an error, since a run must not fail because
/// nobody listens any more.
#[derive(Clone, Debug)]
pub struct EventSink {
    sender: Sender<Event>,
    start: Instant,
    next: Arc<AtomicU64>,
}

impl EventSink {
    /// A sink and the end to read from. The clock starts now.
    pub fn new() -> (Self, std::sync::mpsc::Receiver<Event>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (
            Self {
                sender,
                start: Instant::now(),
                next: Arc::default(),
            },
            receiver,
        )
    }

    /// A sink that nobody reads.
    pub fn discard() -> Self {
        Self::new().0
    }

    /// Sends an event, stamped with the time of the call.
    pub fn emit(&self, kind: EventKind) {
        let ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // The receiver being gone is not the sender's problem, see the type's documentation.
        let _ = self.sender.send(Event { number, ns, kind });
    }

    /// Events sent so far, by all sinks of this recording.
    pub fn sent(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Says that a long step is at `detail`.
    pub fn progress(&self, step: &str, detail: impl Into<String>, part: Option<(u64, u64)>) {
        self.emit(EventKind::Progress {
            step: step.to_owned(),
            detail: detail.into(),
            part,
            finished: false,
        });
    }

    /// Says that a long step has ended.
    pub fn finished(&self, step: &str, detail: impl Into<String>) {
        self.emit(EventKind::Progress {
            step: step.to_owned(),
            detail: detail.into(),
            part: None,
            finished: true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_read_as_they_are_written() {
        for word in [
            "DOUBLE-REMOVAL",
            "REFCOUNT",
            "USE-AFTER-FREE",
            "LIST-CORRUPTION",
            "DEADLOCK",
            "LOCK-ORDER",
            "ASSERT",
            "LEAK",
            "OOPS",
            "WARN",
            "STALL",
            "OTHER",
        ] {
            let class: Class = serde_json::from_value(word.into()).unwrap();
            assert_eq!(class.to_string(), word);
        }
    }
}
