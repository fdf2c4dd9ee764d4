// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's module says: calls, locks, states of tasks, invariants.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{FunctionId, HoldEnd, Part};

/// What the guest module observed. Times are the guest's own clock (`ktime_get`, nanoseconds).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// Running number, from 0, without gaps: a gap is a lost observation.
    pub number: u64,
    /// Guest monotonic time, nanoseconds.
    pub guest_ns: u64,
    /// Task that was running.
    pub pid: u32,
    /// CPU that it ran on.
    pub cpu: u32,
    /// Its name.
    pub comm: String,
    /// What happened.
    #[serde(flatten)]
    pub what: Observation,
}

/// The kinds of observation (guest-tests/module/vfrace_proto.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "observation", rename_all = "kebab-case")]
pub enum Observation {
    /// The module is loaded and the mailbox works.
    Hello {
        /// The kernel's release string.
        release: String,
        /// Protocol version of the module.
        version: u32,
    },
    /// The guest's init reads commands.
    AgentReady,
    /// A piece of a command's output.
    Output {
        /// Which command.
        command: u32,
        /// Its text.
        text: String,
    },
    /// A command has ended.
    Done {
        /// Which command.
        command: u32,
        /// Its exit status.
        status: i32,
    },
    /// The running task says what it is: "teardown".
    Task {
        /// Its part in the scenario, the text form of a [`Role`](super::Role).
        role: String,
    },
    /// The unplug event has been seen by the polling handler, which has not done anything yet.
    UnplugSeen {
        /// Number of the event. `event` is the tag of [`EventKind`](super::EventKind) in a recording.
        #[serde(rename = "unplug")]
        event: u32,
        /// The function it is about, where it is about one.
        function: Option<FunctionId>,
    },
    /// The unplug handler is done.
    UnplugDone {
        /// Number of the event.
        #[serde(rename = "unplug")]
        event: u32,
        /// What a write to sysfs gave: 0, or the negative error number.
        #[serde(default)]
        status: i32,
    },
    /// A task has reached a call point of the schedule.
    Point {
        /// The point in its text form.
        point: String,
    },
    /// The hold at a call point is over.
    HoldOver {
        /// The point in its text form.
        point: String,
        /// Nanoseconds held.
        held_ns: u64,
        /// Why it ended.
        end: HoldEnd,
    },
    /// Where a task stands, asked for when it did not come back. The record's own pid is the asker's.
    TaskState {
        /// Its part.
        role: Part,
        /// Its pid.
        task: u32,
        /// Its name.
        name: String,
        /// The mutex that it waits for: `pci_rescan_remove_lock`, `device_lock(pf)`, an address for another one; empty
        /// if it waits for none.
        lock: String,
        /// pid of that mutex's owner, 0 if it has none, [`Observation::DEAD`] if the owner is no more.
        owner: u32,
        /// How often it was taken off a CPU so far: the same twice means that it did nothing in between. Unknown in
        /// recordings of protocol 2, as the next.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        switches: Option<u64>,
        /// It sleeps.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        sleeps: Option<bool>,
        /// Where it is, innermost first.
        stack: Vec<String>,
    },
    /// A kernel function was entered.
    Enter {
        /// The function, e.g. `pci_iov_remove_virtfn`.
        call: String,
        /// The PCI function that it was called for, where that is known.
        function: Option<FunctionId>,
        /// Which of the pci_devs that this function has had so far: a running number over all functions. Unknown for
        /// calls that name the PF and an index, and in recordings of protocol 2.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        instance: Option<u64>,
        /// Callers, innermost first.
        stack: Vec<String>,
    },
    /// A kernel function returned.
    Return {
        /// The function.
        call: String,
        /// The PCI function.
        function: Option<FunctionId>,
    },
    /// The task is about to take pci_rescan_remove_lock.
    LockWait {
        /// pid of the task that holds it, 0 if nobody does.
        owner: u32,
    },
    /// The task has it.
    LockTaken {
        /// The task held it before: a nested acquisition.
        nested: bool,
    },
    /// The task is about to release one level of it.
    LockRelease,
    /// Said when pci_rescan_remove_lock is not as the task that has just taken it, or is about to release a level of it,
    /// should find it.
    LockOdd {
        /// It is about to release it.
        releases: bool,
        /// pid of the mutex' owner, 0 if it has none.
        holder: u32,
        /// pid in the variant's owner word, 0 for none; absent if the kernel has no such word.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        owner_word: Option<u32>,
        /// The variant's nesting word; absent if the kernel has none.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        depth: Option<u64>,
        /// What that should be; absent if what the task did before is not known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        expected: Option<u64>,
    },
    /// What a call of a small function costs its caller in this guest, nanoseconds.
    Cost {
        /// As it is.
        plain: u64,
        /// Wrapped by the module, which is not armed.
        passed: u64,
        /// The module looks what it is about.
        looked_at: u64,
        /// Entry and return are reported, with the stack.
        reported: u64,
    },
    /// Invariants, at a moment when nothing should be going on.
    Measured {
        /// Which measurement: "before", "armed", "after", "final".
        label: String,
        /// The values.
        #[serde(flatten)]
        values: Invariants,
    },
    /// The module could not do what it was told.
    Failed {
        /// Why.
        text: String,
    },
}

impl Observation {
    /// Instead of a pid: a task that is no more.
    pub const DEAD: u32 = u32::MAX;
}

/// What is measured in the guest before and after each round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invariants {
    /// `kref` of the PF's struct device. -1: there is no such pci_dev any more.
    pub pf_references: i64,
    /// `kref` of the PF's bus device.
    pub bus_references: i64,
    /// VF pci_devs handed to pci_device_add() since the module was loaded.
    pub vfs_created: u64,
    /// VF pci_devs that went through pci_release_dev().
    pub vfs_released: u64,
    /// pid of the owner of pci_rescan_remove_lock, 0 if it is free.
    pub lock_owner: u32,
    /// The variant's nesting word (`pci_rescan_remove_count`, `_depth` or `_reentrant_count`), -1 if it has none. One
    /// that went below zero is 4294967295.
    pub lock_depth: i64,
    /// pid in the variant's owner word (`pci_rescan_remove_owner`), 0 for none; absent if the kernel has no such word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lock_owner_word: Option<u32>,
    /// `kref` of the VFs' bus device, where that is another bus than the PF's and there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vf_bus_references: Option<i64>,
    /// `kref` of the VFs that are there; absent in recordings of protocol 2, as the next two.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vfs: Option<Vec<VfReferences>>,
    /// `kref` of the VFs, and of the PF, that were removed and are not released.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub unreleased: Vec<VfReferences>,
    /// The lists that functions are on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lists: Option<Lists>,
    /// Observations that did not fit and were dropped.
    pub dropped: u64,
}

/// VFs in a row whose struct devices have the same number of references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfReferences {
    /// The first of them.
    pub first: FunctionId,
    /// The last of them.
    pub last: FunctionId,
    /// `kref` of each.
    pub references: u32,
}

/// What a walk over the lists that functions are on has shown: bus->devices and bus->children of the PF's bus, of the
/// root bus and of the VFs' bus, and the klists of parent, drivers and bus type. Forwards and backwards, each link
/// checked both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    /// Lists that were walked.
    pub walked: u32,
    /// Entries that were seen on them.
    pub entries: u32,
    /// What is wrong with them, in number.
    pub defects: u32,
    /// The first of that in words, empty without one.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub defect: String,
}

/// What keeps tasks from coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HangKind {
    /// A task waits for a mutex that it holds itself.
    SelfDeadlock,
    /// Two or more tasks wait for one another.
    AbBa,
    /// A mutex that nobody holds who could give it back: without an owner, its owner is no more, or came back with it.
    LostLock,
    /// Others go on, it does not: it can run, or the mutex that it waits for is taken and given back.
    Starvation,
    /// A task sleeps for ever and has a mutex that others wait for.
    SleepsWithLock,
    /// A task sleeps, and it is not known for what; no mutex is in it.
    Asleep,
    /// What the states say fits none of these.
    Unclear,
}

impl fmt::Display for HangKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HangKind::SelfDeadlock => "self-deadlock",
            HangKind::AbBa => "AB-BA",
            HangKind::LostLock => "lost lock",
            HangKind::Starvation => "starvation",
            HangKind::SleepsWithLock => "sleeps with the lock",
            HangKind::Asleep => "asleep",
            HangKind::Unclear => "unclear",
        })
    }
}
