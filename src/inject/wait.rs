// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the unplug's side is, as far as its records tell: for holds at wire points, which the host ends.

use crate::event::{FunctionId, GuestRecord, HoldEnd, Observation};
use crate::scenario::{LockName, Until};

/// Follows the records of the side that is not held. A held message belongs to the teardown, so that is the handler's.
pub(super) struct OtherSide {
    target: Option<FunctionId>,
    /// Its task, once it has begun.
    pid: Option<u32>,
    done: bool,
}

impl OtherSide {
    /// `target` is the function that it is to remove, if it is one.
    pub(super) fn new(target: Option<FunctionId>) -> Self {
        Self {
            target,
            pid: None,
            done: false,
        }
    }

    /// Takes a record in; `Some` when `until` has come true or cannot come true any more.
    pub(super) fn take(&mut self, record: &GuestRecord, until: &Until) -> Option<HoldEnd> {
        match &record.what {
            Observation::UnplugSeen { .. } => self.pid = Some(record.pid),
            Observation::UnplugDone { .. } => self.done = true,
            _ => {}
        }
        let its = self.pid == Some(record.pid);
        let blocked = || match &record.what {
            Observation::LockWait { owner } => its && *owner != 0 && *owner != record.pid,
            _ => false,
        };
        let reached = match until {
            Until::Time => return None,
            Until::OtherStarted => self.pid.is_some(),
            Until::OtherDone => self.done,
            Until::OtherCommitted => self.done || blocked() || (its && self.is_removal(record)),
            Until::OtherRests => self.done || blocked(),
            Until::OtherAt(point) => {
                matches!(&record.what, Observation::Point { point: text } if *text == point.to_string())
            }
            Until::OtherBlocked(None | Some(LockName::RescanRemove)) => blocked(),
            // Refused when the schedule is read: nothing tells it while QEMU's lock is taken.
            Until::OtherBlocked(Some(LockName::Device(_))) => false,
        };
        match (reached, self.done) {
            (true, _) => Some(HoldEnd::Reached),
            (false, true) => Some(HoldEnd::Missed),
            (false, false) => None,
        }
    }

    /// Past the lookup in pci_iov_remove_virtfn(): this is the body.
    fn is_removal(&self, record: &GuestRecord) -> bool {
        matches!(&record.what, Observation::Enter { call, function, .. }
            if call == "pci_stop_and_remove_bus_device" && (self.target.is_none() || *function == self.target))
    }
}
