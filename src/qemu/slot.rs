// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hotplug slot of the root port: it loses its card, and gets it back.
//!
//! QEMU has no command that pulls a card out. But the root port detaches its card when Slot Control is written such
//! that power is off, and raises Presence Detect Changed (QEMU hw/pci/pcie.c, pcie_cap_slot_write_config()). So that is
//! written from outside, through qtest, and the value before right after it, without the guest running in between: a
//! guest that finds its slot powered off thinks that it did it itself (Linux pciehp: "Already disabled").
//!
//! The network back ends of the functions stay when the card goes, with their chardevs and vhost-user connections: the
//! card that is plugged in next is put on them.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::FunctionId;

use super::link::LinkError;
use super::machine::{BRIDGE_DEVICE, device_id, function_device};
use super::qmp::{EventMark, Qmp, QmpError};
use super::qtest::{Access, Qtest, QtestError, Sent};

/// Where firmware puts q35's ECAM (SeaBIOS src/fw/dev-q35.h, Q35_HOST_BRIDGE_PCIEXBAR_ADDR). A function's 4 KiB are at
/// bus << 20 | device << 15 | function << 12 (PCI Express Base Specification, section 7.2.2).
const ECAM: u64 = 0xb000_0000;
/// Configuration space of the root port.
const PORT: u64 = ECAM + ((BRIDGE_DEVICE as u64) << 15);

/// Vendor and device of QEMU's pcie-root-port (QEMU docs/specs/pci-ids.rst).
const PORT_ID: u64 = 0x000c_1b36;

// Linux include/uapi/linux/pci_regs.h has these; PCI Express Base Specification, sections 7.5.1 and 7.5.3.
const CAPABILITY_LIST: u64 = 0x34;
const CAP_ID_EXP: u64 = 0x10;
const SLOT_CONTROL: u64 = 0x18;
const SLOT_STATUS: u64 = 0x1a;
/// Power Indicator Control: both bits set mean off.
const INDICATOR_OFF: u16 = 0x0300;
const INDICATOR_ON: u16 = 0x0100;
/// Power Controller Control: set means off.
const POWER_OFF: u16 = 0x0400;
const OFF: u16 = INDICATOR_OFF | POWER_OFF;
/// Presence Detect State in Slot Status.
const PRESENT: u64 = 0x0040;
/// Most capabilities that fit into the 192 bytes for them.
const CAPABILITIES: usize = 48;

/// Between looks at a register. Each look takes QEMU's global lock for microseconds.
const LOOK: Duration = Duration::from_millis(10);
/// After it has turned the indicator off, pciehp looks once more whether there is a card, and turns the slot on if so
/// (Linux drivers/pci/hotplug/pciehp_ctrl.c, pciehp_handle_presence_or_link_change()). A card that comes in between is
/// found there, and its button event then turns the slot off again. A thread that is not preempted needs under 1 ms.
const SETTLE: Duration = Duration::from_millis(100);

/// The slot does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Through qtest.
    #[error("the slot's registers cannot be reached")]
    Qtest(#[from] QtestError),
    /// Through QMP.
    #[error("QEMU does not do what the slot needs")]
    Qmp(#[from] QmpError),
    /// The root port is not where it should be.
    #[error("there is no root port at {PORT:#x}, but {found:#x}")]
    NoPort {
        /// Vendor and device there.
        found: u64,
    },
    /// It has no PCI Express capability.
    #[error("the root port has no PCI Express capability")]
    NoCapability,
    /// There is no card, or it has no power.
    #[error("the slot is off or empty (Slot Control {control:#06x}, Slot Status {status:#06x})")]
    Off {
        /// Slot Control.
        control: u16,
        /// Slot Status.
        status: u64,
    },
    /// QEMU left the card where it is.
    #[error("the card is still there (Slot Status {status:#06x})")]
    StillThere {
        /// Slot Status.
        status: u64,
    },
    /// The guest has not finished with the card that was there before.
    #[error(
        "the guest did not turn the slot off within {limit:?} (Slot Control {control:#06x}, Slot Status {status:#06x})"
    )]
    StillOn {
        /// The time it had.
        limit: Duration,
        /// Slot Control.
        control: u16,
        /// Slot Status.
        status: u64,
    },
}

impl SlotError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Qtest(error) => return error.hint(),
            Self::Qmp(error) => return error.hint(),
            Self::NoPort { .. } => {
                "firmware sets it up: look for the slot only when the guest has booted"
            }
            Self::NoCapability => "use the QEMU that `vfrace doctor` names",
            Self::Off { .. } => {
                "plug the card in and let the guest's pciehp turn the slot on first"
            }
            Self::StillThere { .. } => "the guest wrote to the slot at the same time: try again",
            Self::StillOn { .. } => {
                "pciehp must be bound to the root port and must not hang: see the guest's console"
            }
        };
        Some(text.to_owned())
    }

    /// QEMU did not answer in time: whether the order is carried out is not known.
    pub fn is_late(&self) -> bool {
        matches!(
            self,
            Self::Qtest(QtestError::Link(LinkError::Late { .. }))
                | Self::Qmp(QmpError::Link(LinkError::Late { .. }))
        )
    }
}

/// The slot. Usable from any thread. No call waits for longer than its `limit`, also while a vhost-user answer is held
/// back and QEMU answers nothing.
pub struct Slot {
    qmp: Arc<Qmp>,
    qtest: Arc<Qtest>,
    vfs: u16,
    queue_pairs: u16,
    /// Address of the PCI Express capability.
    capability: u64,
    /// Slot Control when the slot was last seen on.
    on: AtomicU16,
    /// Where in QMP's events the card was plugged in.
    plugged: Mutex<EventMark>,
}

/// A removal that was ordered.
#[derive(Debug)]
pub struct Ordered(Sent);

impl Slot {
    /// Looks for the slot. The guest must have booted (firmware places the registers), and the card must be in. To be
    /// called again after a reset of the guest. `vfs` and `queue_pairs` are the machine's.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn find(
        qmp: Arc<Qmp>,
        qtest: Arc<Qtest>,
        vfs: u16,
        queue_pairs: u16,
        limit: Duration,
    ) -> Result<Self, SlotError> {
        let deadline = Deadline::after(limit);
        let capability = capability(|access| Ok(qtest.read(access, deadline.left())?))?;
        let plugged = Mutex::new(qmp.mark());
        let slot = Self {
            qmp,
            qtest,
            vfs,
            queue_pairs,
            capability,
            on: AtomicU16::new(0),
            plugged,
        };
        slot.look_while_on(deadline.left())?;
        // QEMU 11.1.3 starts with the indicator off and the power on, and pciehp leaves a slot as it finds it. Then the
        // slot would look off a second too early: pciehp turns the power off first and the indicator a second later
        // (Linux drivers/pci/hotplug/pciehp_ctrl.c, remove_board()).
        let on = slot.on.load(Ordering::Acquire);
        if on & INDICATOR_OFF == INDICATOR_OFF {
            let lit = on & !INDICATOR_OFF | INDICATOR_ON;
            slot.qtest.execute(
                &[Access::Write16(capability + SLOT_CONTROL, lit)],
                deadline.left(),
            )?;
            slot.on.store(lit, Ordering::Release);
        }
        Ok(slot)
    }

    /// The card is gone from one moment to the next, with all its functions; pciehp hears of it by interrupt ("Card not
    /// present"). When this returns, QEMU has taken the card away.
    ///
    /// # Errors
    /// [`SlotError::Off`], [`SlotError::StillThere`], or that of a connection. If it [is late](SlotError::is_late), the
    /// card may still go later.
    pub fn surprise_remove(&self, limit: Duration) -> Result<(), SlotError> {
        let deadline = Deadline::after(limit);
        self.look_while_on(deadline.left())?;
        let ordered = self.order_surprise_removal()?;
        self.finish(ordered, deadline.left())
    }

    /// Orders [`Slot::surprise_remove`] and does not wait: for hooks that hold a vhost-user message, and with it QEMU's
    /// global lock. The card goes when that lock is free. The slot must be on; it is not looked at again.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn order_surprise_removal(&self) -> Result<Ordered, SlotError> {
        let on = self.on.load(Ordering::Acquire);
        let control = self.capability + SLOT_CONTROL;
        // The third answer says whether the card went, before anybody can have plugged another one in.
        Ok(Ordered(self.qtest.send(&[
            Access::Write16(control, on | OFF),
            Access::Write16(control, on),
            Access::Read16(self.capability + SLOT_STATUS),
        ])?))
    }

    /// Waits until a removal that was ordered has been carried out.
    ///
    /// # Errors
    /// As [`Slot::surprise_remove`], without [`SlotError::Off`].
    pub fn finish(&self, ordered: Ordered, limit: Duration) -> Result<(), SlotError> {
        let answers = self.qtest.wait(ordered.0, limit)?;
        let status = answers.last().copied().unwrap_or_default();
        if status & PRESENT != 0 {
            return Err(SlotError::StillThere { status });
        }
        Ok(())
    }

    /// Presses the attention button: Linux' pciehp turns the slot off after 5 s, with which the card goes. There is no
    /// second press that calls it off: QEMU refuses it.
    ///
    /// # Errors
    /// [`SlotError::Qmp`]. If it [is late](SlotError::is_late), the button may still be pressed later.
    pub fn press_button(&self, limit: Duration) -> Result<(), SlotError> {
        // QEMU makes no difference between the functions: pcie_cap_slot_unplug_request_cb() is about the slot.
        Ok(self.qmp.device_del(&device_id(FunctionId::Pf), limit)?)
    }

    /// Waits until QEMU has taken the card away, whoever made it go.
    ///
    /// # Errors
    /// [`SlotError::Qmp`].
    pub fn wait_until_empty(&self, limit: Duration) -> Result<(), SlotError> {
        Ok(self
            .qmp
            .wait_deleted(&device_id(FunctionId::Pf), self.plugged(), limit)?)
    }

    /// Plugs the card in again, with all its functions, whichever way it went: waits until the guest has turned the slot
    /// off, as pciehp does a second after it has removed the functions, then plugs them in. When this returns, the
    /// guest has its interrupt and has yet to find the card. To be called from one thread at a time.
    ///
    /// # Errors
    /// [`SlotError::StillOn`] if the guest does not finish with the old card, [`SlotError::Qmp`] if QEMU refuses the new
    /// one; no part of it is left behind then, as far as QEMU still obeys.
    pub fn plug_back(&self, limit: Duration) -> Result<(), SlotError> {
        let deadline = Deadline::after(limit);
        self.wait_until_off(limit, &deadline)?;
        let functions = || {
            (1..=self.vfs)
                .rev()
                .map(FunctionId::Vf)
                .chain([FunctionId::Pf])
        };
        // The ids and the network back ends are free only when QEMU says so.
        self.wait_gone(functions(), self.plugged(), deadline.left())?;
        let mark = self.qmp.mark();
        // QEMU shows the card to the guest when function 0 is there (pcie_cap_slot_plug_cb()), and pairs VFs with a PF
        // that comes after them.
        for function in functions() {
            let device = function_device(function, self.queue_pairs);
            if let Err(error) = self.qmp.device_add(device, deadline.left()) {
                self.take_back(functions().take_while(|there| *there != function), mark);
                return Err(error.into());
            }
        }
        *self.plugged.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        Ok(())
    }

    fn plugged(&self) -> EventMark {
        *self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_gone(
        &self,
        mut functions: impl Iterator<Item = FunctionId>,
        since: EventMark,
        limit: Duration,
    ) -> Result<(), QmpError> {
        let deadline = Deadline::after(limit);
        functions.try_for_each(|function| {
            self.qmp
                .wait_deleted(&device_id(function), since, deadline.left())
        })
    }

    /// Takes functions away again that the guest has never seen: QEMU does so without asking it.
    fn take_back(&self, functions: impl Iterator<Item = FunctionId> + Clone, since: EventMark) {
        let taken = functions
            .clone()
            .try_for_each(|function| self.qmp.device_del(&device_id(function), SETTLE))
            .and_then(|()| self.wait_gone(functions, since, SETTLE));
        if let Err(error) = taken {
            log::warn!("half a card cannot be taken out of the slot again: {error}");
        }
    }

    fn wait_until_off(&self, limit: Duration, deadline: &Deadline) -> Result<(), SlotError> {
        loop {
            let (control, status) = self.registers(deadline.left().max(LOOK))?;
            if control & OFF == OFF && status & PRESENT == 0 {
                std::thread::sleep(SETTLE);
                return Ok(());
            }
            if deadline.left().is_zero() {
                return Err(SlotError::StillOn {
                    limit,
                    control,
                    status,
                });
            }
            std::thread::sleep(LOOK.min(deadline.left()));
        }
    }

    /// Remembers Slot Control of a slot that is on.
    fn look_while_on(&self, limit: Duration) -> Result<(), SlotError> {
        let (control, status) = self.registers(limit)?;
        if control & OFF == OFF || status & PRESENT == 0 {
            return Err(SlotError::Off { control, status });
        }
        self.on.store(control, Ordering::Release);
        Ok(())
    }

    /// Slot Control and Slot Status, read at the same moment.
    fn registers(&self, limit: Duration) -> Result<(u16, u64), SlotError> {
        let both = self
            .qtest
            .read(Access::Read32(self.capability + SLOT_CONTROL), limit)?;
        let control = u16::try_from(both & 0xffff).unwrap_or_default();
        Ok((control, both >> 16))
    }
}

/// The address of the root port's PCI Express capability.
fn capability(read: impl Fn(Access) -> Result<u64, SlotError>) -> Result<u64, SlotError> {
    let found = read(Access::Read32(PORT))?;
    if found != PORT_ID {
        return Err(SlotError::NoPort { found });
    }
    // An entry is a byte of identity and a byte with the address of the next, whose two low bits are reserved.
    let mut next = read(Access::Read16(PORT + CAPABILITY_LIST))? & 0xfc;
    for _ in 0..CAPABILITIES {
        if next == 0 {
            break;
        }
        let entry = read(Access::Read16(PORT + next))?;
        if entry & 0xff == CAP_ID_EXP {
            return Ok(PORT + next);
        }
        next = (entry >> 8) & 0xfc;
    }
    Err(SlotError::NoCapability)
}

struct Deadline(Instant);

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn walk(entries: &[(u64, u64)]) -> Result<u64, SlotError> {
        let space: BTreeMap<u64, u64> = entries.iter().copied().collect();
        capability(|access| match access {
            Access::Read16(address) | Access::Read32(address) => {
                Ok(space.get(&(address - PORT)).copied().unwrap_or_default())
            }
            Access::Write16(..) => panic!("a look must not write"),
        })
    }

    #[test]
    fn the_capability_is_found_wherever_it_is() {
        let entries = [(0, PORT_ID), (0x34, 0x54), (0x54, 0xc805), (0xc8, 0x0010)];
        assert_eq!(walk(&entries).unwrap(), 0xb001_00c8);
    }

    #[test]
    fn a_list_without_it_or_without_an_end_is_an_error() {
        for entries in [
            &[(0, PORT_ID)][..],
            &[(0, PORT_ID), (0x34, 0x54), (0x54, 0x0005)],
            &[(0, PORT_ID), (0x34, 0x54), (0x54, 0x5405)],
        ] {
            assert!(matches!(walk(entries), Err(SlotError::NoCapability)));
        }
        let nothing = walk(&[(0, 0xffff_ffff)]).unwrap_err();
        assert!(matches!(nothing, SlotError::NoPort { .. }), "{nothing}");
    }
}
