// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A scenario: what is torn down, what is unplugged, at which point, and what both should lead to.

mod error;
mod file;
mod filled;
mod fits;
mod grammar;
mod point;
mod schedule;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::event::{Class, FunctionId, Role, Target};

pub use error::{Malformed, ScenarioError};
pub use file::{Entry, list, load};
pub use fits::MOST_VFS_S390X;
pub use grammar::grammar_pages;
pub use point::{MESSAGES, PointError};
pub use schedule::{At, Hold, LockName, Schedule, ScheduleError, Step, Until};

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
    /// The PF's driver.
    pub driver: PfDriver,
    /// What is unplugged meanwhile; `None` for a control.
    pub unplug: Option<Unplug>,
    /// Who goes first and who is held where. Without steps nothing is held; an unplug then needs one that fires it.
    pub schedule: Schedule,
    /// Schedules in its place on guests of other architectures, see [`Scenario::on`].
    #[serde(skip)]
    pub schedule_on: BTreeMap<Arch, Schedule>,
    /// Guests that it can be played on; empty: all that have what it needs, see [`Scenario::fits`].
    #[serde(skip)]
    pub only_on: Vec<Arch>,
    /// Classes of findings that the scenario looks for, beside a double removal (with an unplug) and a task that does
    /// not come back.
    pub wants: Vec<Class>,
}

/// The driver's side of a race. Most of these take VFs away; those that bring them up do so on the way to an error or to
/// meet a rescan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Teardown {
    /// The PF's driver is unbound; its .remove() disables SR-IOV (virtio_pci_remove in drivers/virtio/virtio_pci_common.c).
    Unbind,
    /// The PF's driver module is unloaded; needs [`PfDriver::Module`].
    Rmmod,
    /// The PF is removed through its sysfs `remove` file, with VFs on.
    PfRemove,
    /// 0 is written to the PF's `sriov_numvfs`.
    NumvfsZero,
    /// 0 and then the number of VFs again are written to the PF's `sriov_numvfs`.
    NumvfsCycle,
    /// The number of VFs is written to the PF's `sriov_numvfs`; the round begins without VFs.
    NumvfsOn,
    /// A driver that enables SR-IOV in its .probe() is bound to the PF; the round begins without VFs. Needs
    /// [`PfDriver::Module`].
    Bind,
    /// The slot is powered off through its sysfs `power` file (pciehp).
    SlotPowerOff,
    /// The PF's function is reset through its sysfs `reset` file.
    Reset,
    /// The PF is recovered through the sysfs `recover` file that zPCI has (Linux arch/s390/pci/pci_sysfs.c,
    /// recover_store()): removed with its VFs on, enabled anew and found again, all under pci_rescan_remove_lock.
    Recover,
}

impl Teardown {
    /// Whether the PF is gone when it has worked.
    pub fn removes_pf(self) -> bool {
        matches!(self, Teardown::PfRemove | Teardown::SlotPowerOff)
    }

    /// Whether only [`PfDriver::Module`] can do it: virtio-pci is built into the kernel, and enables no VFs by itself.
    pub fn needs_module(self) -> bool {
        matches!(self, Teardown::Rmmod | Teardown::Bind)
    }

    /// Whether the round begins with VFs on.
    pub fn begins_with_vfs(self) -> bool {
        !matches!(self, Teardown::NumvfsOn | Teardown::Bind)
    }

    /// Whether there are VFs when it has worked.
    pub fn ends_with_vfs(self) -> bool {
        matches!(
            self,
            Teardown::NumvfsOn | Teardown::Bind | Teardown::NumvfsCycle | Teardown::Reset
        )
    }

    /// Whether the VFs that there are when it has worked were there before, and never gone.
    pub fn keeps_vfs(self) -> bool {
        self == Teardown::Reset
    }
}

/// The driver that the PF is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PfDriver {
    /// virtio-pci, the device's own: its .remove() disables SR-IOV.
    #[default]
    Virtio,
    /// The guest's module vfrace_pf, a PF driver that can be unloaded and that can enable SR-IOV in its .probe().
    Module {
        /// How long its .remove() sleeps before it disables SR-IOV, in milliseconds.
        remove_ms: u32,
    },
}

/// Who removes the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actuator {
    /// The guest module does what s390's event handler does for a VF: takes the rescan/remove lock, then
    /// pci_iov_remove_virtfn(PF, vf) (arch/s390/pci/pci_iov.c, zpci_iov_remove_virtfn).
    Platform,
    /// The guest module takes the rescan/remove lock and removes the target by pci_stop_and_remove_bus_device(), as s390's
    /// event handler does for a PF (arch/s390/pci/pci_bus.c, zpci_bus_remove_device). For a VF nobody then drops the
    /// reference to the PF that pci_iov_remove_virtfn() would drop, which the judge calls a LEAK.
    PlatformDevice,
    /// The platform takes the target away and says so afterwards: s390's event 0x0304 (arch/s390/pci/pci_event.c,
    /// zpci_event_hard_deconfigured). Target: a VF, all of them in one burst, or the PF.
    PlatformSurprise,
    /// The slot loses its card without warning; the kernel's pciehp handles it. Target: the slot.
    PciehpSurprise,
    /// The slot's attention button is pressed; pciehp removes the card five seconds later. Target: the slot.
    PciehpButton,
    /// A guest task writes to the target's sysfs `remove` file. Target: the PF or the bridge; on s390x a VF as well. VFs have
    /// no such file elsewhere (drivers/pci/pci-sysfs.c, pci_dev_hp_attrs_are_visible()); on s390x a function is made known
    /// as a VF after its files were made (arch/s390/pci/pci.c, pcibios_bus_add_device()).
    SysfsRemove,
    /// A guest task rescans all buses (/sys/bus/pci/rescan). Target: the PF, whose bus is meant.
    SysfsRescan,
    /// A guest task writes 0 to the PF's `sriov_numvfs`. Target: the PF.
    SysfsNumvfs,
    /// A guest task switches the slot off (/sys/bus/pci/slots/N/power). Target: the slot.
    SysfsPower,
    /// A guest task unbinds the PF's driver. Target: the PF.
    SysfsUnbind,
}

impl Actuator {
    /// As in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Actuator::Platform => "platform",
            Actuator::PlatformDevice => "platform-device",
            Actuator::PlatformSurprise => "platform-surprise",
            Actuator::PciehpSurprise => "pciehp-surprise",
            Actuator::PciehpButton => "pciehp-button",
            Actuator::SysfsRemove => "sysfs-remove",
            Actuator::SysfsRescan => "sysfs-rescan",
            Actuator::SysfsNumvfs => "sysfs-numvfs",
            Actuator::SysfsPower => "sysfs-power",
            Actuator::SysfsUnbind => "sysfs-unbind",
        }
    }

    /// The targets that it can take, in words; and whether `target` is one.
    fn takes(self, target: Target) -> (&'static str, bool) {
        use FunctionId::{Bridge, Pf, Vf};
        match self {
            Actuator::Platform => (
                "a VF, e.g. vf{vf}, or vfs",
                matches!(target, Target::Function(Vf(_)) | Target::Vfs),
            ),
            Actuator::PlatformSurprise => (
                "a VF, e.g. vf{vf}, or vfs, or the pf",
                matches!(target, Target::Function(Vf(_) | Pf) | Target::Vfs),
            ),
            Actuator::PlatformDevice => (
                "a VF, the pf or the bridge",
                matches!(target, Target::Function(Vf(_) | Pf | Bridge)),
            ),
            Actuator::PciehpSurprise | Actuator::PciehpButton | Actuator::SysfsPower => {
                ("the slot", target == Target::Slot)
            }
            Actuator::SysfsRemove => (
                "the pf, the bridge, or a VF on s390x",
                matches!(target, Target::Function(Pf | Bridge | Vf(_))),
            ),
            Actuator::SysfsRescan | Actuator::SysfsNumvfs | Actuator::SysfsUnbind => {
                ("the pf", target == Target::Function(Pf))
            }
        }
    }
}

/// An unplug. When it is fired is the schedule's matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unplug {
    /// Who removes it.
    pub actuator: Actuator,
    /// What is removed.
    pub target: Target,
}

impl Unplug {
    /// The functions that are its target, the first one first, of a card with so many VFs. None for a slot.
    pub fn functions(&self, vfs: u16) -> impl Iterator<Item = FunctionId> + use<> {
        let (one, all) = match self.target {
            Target::Function(function) => (Some(function), 0),
            Target::Vfs => (None, vfs),
            Target::Slot => (None, 0),
        };
        one.into_iter().chain((1..=all).map(FunctionId::Vf))
    }

    /// Whether its actuator takes its target; if not, what it takes, in words.
    pub fn fits(&self) -> Result<(), &'static str> {
        match self.actuator.takes(self.target) {
            (_, true) => Ok(()),
            (takes, false) => Err(takes),
        }
    }

    /// Whether the PF is gone when it has worked.
    pub fn removes_pf(&self) -> bool {
        match self.actuator {
            Actuator::PciehpSurprise | Actuator::PciehpButton | Actuator::SysfsPower => true,
            Actuator::SysfsRemove | Actuator::PlatformDevice | Actuator::PlatformSurprise => {
                !matches!(
                    self.target,
                    Target::Function(FunctionId::Vf(_) | FunctionId::Mailbox) | Target::Vfs
                )
            }
            Actuator::Platform
            | Actuator::SysfsRescan
            | Actuator::SysfsNumvfs
            | Actuator::SysfsUnbind => false,
        }
    }
}

impl Scenario {
    /// The one of a device that is served without a scenario: its PF is unbound, and nothing is unplugged unless said.
    pub fn of_a_device(vfs: u16) -> Self {
        Self {
            name: "none".to_owned(),
            title: "a device that is served".to_owned(),
            source: String::new(),
            vfs,
            rounds: 1,
            teardown: Teardown::Unbind,
            driver: PfDriver::Virtio,
            unplug: None,
            schedule: Schedule::undirected(false),
            schedule_on: BTreeMap::new(),
            only_on: Vec::new(),
            wants: Vec::new(),
        }
    }

    /// Whether the PF is gone at the end of a round.
    pub fn removes_pf(&self) -> bool {
        self.teardown.removes_pf() || self.unplug.is_some_and(|unplug| unplug.removes_pf())
    }

    /// Replaces its schedule by `text`, which came from the command line: as [`Schedule::read`], with the mistake shown in
    /// the text.
    pub fn set_schedule(&mut self, text: &str) -> Result<(), ScenarioError> {
        let shown =
            |e: ScheduleError| Malformed::new("--schedule", text, e.at, e.what, Some(e.hint));
        self.schedule =
            Schedule::read(text, self).map_err(|e| ScenarioError::Malformed(Box::new(shown(e))))?;
        Ok(())
    }
}

/// A trigger point, `[SIDE/]FUNCTION:FAMILY:WHAT[#N][@PHASE]`, e.g. `vf2:wire:GET_VRING_BASE#0@request` or
/// `teardown/pf:call:sriov_disable#0@enter`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// The side whose task is meant; `None`: either. A wire point has none, messages do not say which task is behind them.
    pub role: Option<Role>,
    /// The function that it is scoped to; `None` (`any`): whatever the kernel function is called for.
    pub function: Option<FunctionId>,
    /// What happens there.
    pub what: What,
    /// Which occurrence since the round was armed, from 0.
    pub nth: u32,
}

/// What happens at a point: its family and the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// A vhost-user message.
    Wire {
        /// Its name without VHOST_USER_.
        message: String,
        /// Request or answer.
        phase: WirePhase,
    },
    /// A call of a guest kernel function.
    Call {
        /// The function's name.
        call: String,
        /// Entry or return.
        phase: CallPhase,
    },
}

/// Which of the two messages of a vhost-user exchange a point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WirePhase {
    /// QEMU's request, before the back end sees it.
    Request,
    /// The back end's answer, before QEMU sees it.
    Reply,
}

/// Which end of a call a point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallPhase {
    /// Before the function's first instruction.
    Enter,
    /// After its last.
    Return,
}

impl Point {
    /// Whether it is a vhost-user message.
    pub fn is_wire(&self) -> bool {
        matches!(self.what, What::Wire { .. })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(role) = self.role {
            write!(f, "{role}/")?;
        }
        match self.function {
            Some(function) => function.fmt(f)?,
            None => f.write_str("any")?,
        }
        let (family, name, phase) = match &self.what {
            What::Wire { message, phase } => (
                "wire",
                message,
                match phase {
                    WirePhase::Request => "request",
                    WirePhase::Reply => "reply",
                },
            ),
            What::Call { call, phase } => (
                "call",
                call,
                match phase {
                    CallPhase::Enter => "enter",
                    CallPhase::Return => "return",
                },
            ),
        };
        write!(f, ":{family}:{name}#{}@{phase}", self.nth)
    }
}

impl Serialize for Point {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
