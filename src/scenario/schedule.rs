// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A schedule: who goes first, where each side is stopped, and what it waits for there. It is one line of text.

mod check;
mod parse;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::Point;
use crate::event::{FunctionId, Role};

/// Bound of a hold at a wire point that says none.
pub(super) const DEFAULT_WIRE_HOLD: Duration = Duration::from_millis(100);
/// Bound of a hold at a call point that says none.
pub(super) const DEFAULT_CALL_HOLD: Duration = Duration::from_millis(2000);
/// A held message stops a vCPU that owns QEMU's global lock; longer than this and the guest's watchdogs bark at the hold.
pub(super) const MAX_WIRE_HOLD: Duration = Duration::from_secs(10);
/// A held task sleeps; the kernel calls a task hung after 120 s, and a round should be over long before.
pub(super) const MAX_CALL_HOLD: Duration = Duration::from_secs(30);
/// A side is done, or stuck, long before this.
pub(super) const MAX_AFTER: Duration = Duration::from_secs(60);

/// The conditions of a hold, as they are written, and what they mean.
pub(super) const CONDITIONS: &[(&str, &str)] = &[
    ("time", "the time in the bound has passed"),
    (
        "other-started",
        "the other side has begun: the handler has seen the event, the teardown's task runs",
    ),
    (
        "other-committed",
        "the other side is past its lookup of the VF, in the removal's body; or waits for a taken lock; or is done",
    ),
    ("other-at(POINT)", "the other side has reached a point"),
    (
        "other-blocked(LOCK)",
        "the other side waits for a lock: `pci_rescan_remove_lock`, or `device_lock(FUNCTION)`, a device's own; \
         without `(LOCK)`: for any mutex",
    ),
    ("other-done", "the other side is done"),
    (
        "other-rests",
        "the other side does not go on by itself: it is done, held, or blocked for a while",
    ),
];

/// A text that is not a schedule, or one that makes no sense for its scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ScheduleError {
    /// What is wrong.
    pub what: String,
    /// Where in the text, in bytes.
    pub at: Range<usize>,
    /// What to write instead.
    pub hint: String,
}

/// In which order the two sides of a race go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The side that is started first. The other one is started by the first step that fires.
    pub first: Role,
    /// What happens where.
    pub steps: Vec<Step>,
}

/// Something to do at a place of one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Where.
    pub at: At,
    /// Start the other side.
    pub fire: bool,
    /// Hold the task there.
    pub hold: Option<Hold>,
    /// The function is not called (at its entry) or its value is replaced (at its return): what it returns.
    pub returns: Option<i64>,
}

/// A place of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// A trigger point.
    Point(Point),
    /// A time after a side was started, for undirected runs.
    Time {
        /// Whose start it counts from.
        role: Role,
        /// How long after it.
        after: Duration,
    },
}

/// How long a task is held at a point. At a wire point it is the message that is held: the task stands still, and with it
/// everything that needs QEMU's global lock. At a call point the task sleeps and blocks nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    /// What is waited for.
    pub until: Until,
    /// Upper bound. A hold that runs into it is marked in the evidence.
    pub at_most: Duration,
}

/// What a hold waits for. "The other side" is the one that the held task does not belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Until {
    /// The time in [`Hold::at_most`] has passed.
    Time,
    /// The other side has begun: the handler has seen the event, the teardown's task runs.
    OtherStarted,
    /// The other side is past its lookup of the VF (in the removal's body), or waits for a lock that is taken, or is done.
    OtherCommitted,
    /// The other side has reached a point.
    OtherAt(Point),
    /// The other side waits for a lock; `None`: for any mutex.
    OtherBlocked(Option<LockName>),
    /// The other side is done.
    OtherDone,
    /// The other side does not go on by itself: it is done, held, or blocked on something for a while.
    OtherRests,
}

/// A lock that a task can be blocked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockName {
    /// pci_rescan_remove_lock (drivers/pci/probe.c).
    RescanRemove,
    /// The mutex of a function's struct device (device_lock()).
    Device(FunctionId),
}

impl Schedule {
    /// What a scenario without a schedule does: nothing is held, and an unplug is ordered when the teardown begins.
    pub fn undirected(unplugs: bool) -> Self {
        let fire = Step {
            at: At::Time {
                role: Role::Teardown,
                after: Duration::ZERO,
            },
            fire: true,
            hold: None,
            returns: None,
        };
        Self {
            first: Role::Teardown,
            steps: unplugs.then_some(fire).into_iter().collect(),
        }
    }
}

impl Schedule {
    /// The points that it names: where something happens, and what is waited for.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.steps.iter().flat_map(|step| {
            let at = match &step.at {
                At::Point(point) => Some(point),
                At::Time { .. } => None,
            };
            let waited_for = match step.hold.as_ref().map(|hold| &hold.until) {
                Some(Until::OtherAt(point)) => Some(point),
                _ => None,
            };
            at.into_iter().chain(waited_for)
        })
    }
}

/// Writes what [`std::str::FromStr`] reads.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} first", self.first)?;
        for step in &self.steps {
            write!(f, "; {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)?;
        if self.fire {
            f.write_str(" fire")?;
        }
        if let Some(hold) = &self.hold {
            write!(f, " until {} <={}ms", hold.until, hold.at_most.as_millis())?;
        }
        if let Some(value) = self.returns {
            write!(f, " return {value}")?;
        }
        Ok(())
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Point(point) => point.fmt(f),
            At::Time { role, after } => write!(f, "{role}+{}ms", after.as_millis()),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Time => f.write_str("time"),
            Until::OtherStarted => f.write_str("other-started"),
            Until::OtherCommitted => f.write_str("other-committed"),
            Until::OtherAt(point) => write!(f, "other-at({point})"),
            Until::OtherBlocked(None) => f.write_str("other-blocked"),
            Until::OtherBlocked(Some(lock)) => write!(f, "other-blocked({lock})"),
            Until::OtherDone => f.write_str("other-done"),
            Until::OtherRests => f.write_str("other-rests"),
        }
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockName::RescanRemove => f.write_str("pci_rescan_remove_lock"),
            LockName::Device(function) => write!(f, "device_lock({function})"),
        }
    }
}

impl Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
