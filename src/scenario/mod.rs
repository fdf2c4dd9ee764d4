// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A scenario: what is torn down, what is unplugged, at which point, and what both should lead to.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::FunctionId;

/// A scenario with its parameters filled in, ready to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scenario {
    /// Name, as given on the command line: the file's stem.
    pub name: String,
    /// One line.
    pub title: String,
    /// The report that it comes from, in our words.
    pub source: String,
    /// Number of VFs, 1..=255.
    pub vfs: u16,
    /// Rounds in one boot; a boot ends early at the first round with a wanted finding.
    pub rounds: u32,
    /// What is torn down.
    pub teardown: Teardown,
    /// What is unplugged meanwhile; `None` for a control.
    pub unplug: Option<Unplug>,
}

/// How the VFs are torn down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Teardown {
    /// The PF's driver is unbound; its .remove() disables SR-IOV (virtio_pci_remove in drivers/virtio/virtio_pci_common.c).
    Unbind,
    /// The PF is removed through its sysfs `remove` file, with VFs on.
    PfRemove,
}

/// Who removes the VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actuator {
    /// The guest module does what s390's event handler does: takes the rescan/remove lock, then
    /// pci_iov_remove_virtfn(PF, vf) (arch/s390/pci/pci_iov.c, zpci_iov_remove_virtfn).
    Platform,
}

/// An unplug and when it is fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unplug {
    /// Who removes it.
    pub actuator: Actuator,
    /// What is removed.
    pub target: FunctionId,
    /// Where it is fired.
    pub at: Point,
    /// How long the message at that point is held.
    pub hold: Hold,
}

/// A trigger point, `FUNCTION:FAMILY:WHAT[#N][@PHASE]`, e.g. `vf2:wire:GET_VRING_BASE#0@request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The function that it is scoped to.
    pub function: FunctionId,
    /// Name of the vhost-user message without VHOST_USER_.
    pub message: String,
    /// Which occurrence since the run was armed, from 0.
    pub nth: u32,
    /// Whether the request or its answer is meant.
    pub phase: WirePhase,
}

/// Which of the two messages of a vhost-user exchange a point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WirePhase {
    /// QEMU's request, before the back end sees it.
    Request,
    /// The back end's answer, before QEMU sees it.
    Reply,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            WirePhase::Request => "request",
            WirePhase::Reply => "reply",
        };
        write!(f, "{}:wire:{}#{}@{phase}", self.function, self.message, self.nth)
    }
}

impl Serialize for Point {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// How long the message at a point is held back. While it is, the guest's teardown task stands still, and with it
/// everything that needs QEMU's global lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// What is waited for.
    pub until: HoldUntil,
    /// Upper bound. A hold that runs into it is marked in the evidence.
    pub at_most: Duration,
}

/// What a hold waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldUntil {
    /// Nothing: the message goes on at once.
    None,
    /// The time in [`Hold::at_most`] has passed.
    Time,
    /// The guest's unplug handler has seen the event.
    UnplugSeen,
    /// The handler is committed: it is past its lookup of the VF (in its removal body), or it has found
    /// pci_rescan_remove_lock taken and waits for it.
    UnplugCommitted,
}
