// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The card of a guest of s390x: functions that are plugged and unplugged one by one, over QMP.
//!
//! On a real machine firmware shows VFs to the guest when the PF's VF Enable is set, and takes them away when it is
//! cleared. QEMU knows neither VFs nor that bit, so both is done here, by the same means: each function is a device with its
//! identifiers ([`ccw::plugs`]), and the guest hears of it by an availability event (Linux arch/s390/pci/pci_event.c,
//! zpci_event_availability()). To unplug one QEMU sends event 0x0303, the guest lets go of the function, and QEMU takes it
//! away and says so by 0x0308 (QEMU hw/s390x/s390-pci-bus.c).
//!
//! The network back ends stay, with their chardevs and vhost-user connections, as those of a [slot](super::slot).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::FunctionId;

use super::link::LinkError;
use super::machine::{ccw, device_id};
use super::qmp::{EventMark, Qmp, QmpError};

/// A function cannot be plugged or unplugged.
#[derive(Debug, thiserror::Error)]
pub enum ZpciError {
    /// Through QMP.
    #[error("QEMU does not plug or unplug {function}")]
    Qmp {
        /// The function.
        function: FunctionId,
        /// Why.
        source: QmpError,
    },
    /// The guest has been asked and keeps it.
    #[error("the guest did not let go of {function} within {limit:?}")]
    Kept {
        /// The function.
        function: FunctionId,
        /// The time it had.
        limit: Duration,
    },
    /// It is none of the card.
    #[error("{function} is no function that is plugged by itself")]
    NoFunction {
        /// The function.
        function: FunctionId,
    },
}

impl ZpciError {
    /// Whether it is the guest that does not do its part.
    pub fn is_guest(&self) -> bool {
        matches!(self, Self::Kept { .. })
    }
}

/// A function that is in.
#[derive(Clone, Copy)]
struct Plugged {
    /// QMP's events before it came do not count.
    since: EventMark,
    /// It has been asked for: it goes when the guest lets go of it.
    asked: bool,
}

/// The card. Usable from any thread.
pub struct Zpci {
    qmp: Arc<Qmp>,
    vfs: u16,
    queue_pairs: u16,
    plugged: Mutex<BTreeMap<FunctionId, Plugged>>,
}

impl Zpci {
    /// The card of a machine with so many VFs and queue pairs. Nothing of it is plugged in.
    pub fn new(qmp: Arc<Qmp>, vfs: u16, queue_pairs: u16) -> Self {
        Self {
            qmp,
            vfs,
            queue_pairs,
            plugged: Mutex::default(),
        }
    }

    fn plugged(&self) -> MutexGuard<'_, BTreeMap<FunctionId, Plugged>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a function is in, asked for or not.
    pub fn is_in(&self, function: FunctionId) -> bool {
        self.plugged().contains_key(&function)
    }

    /// Plugs a function in, unless it is. The guest has its event when this returns, and has yet to find it. One that was
    /// asked for is waited for first.
    ///
    /// # Errors
    /// [`ZpciError`]. No half of it is left.
    pub fn plug(&self, function: FunctionId, limit: Duration) -> Result<(), ZpciError> {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        if self
            .plugged()
            .get(&function)
            .is_some_and(|here| !here.asked)
        {
            return Ok(());
        }
        self.wait_gone(function, limit)?;
        let failed = |source| ZpciError::Qmp { function, source };
        let [zpci, net] = ccw::plugs(function, self.vfs, self.queue_pairs)
            .ok_or(ZpciError::NoFunction { function })?;
        let since = self.qmp.mark();
        self.qmp.device_add(zpci, left()).map_err(failed)?;
        if let Err(error) = self.qmp.device_add(net, left()) {
            // It has no function and goes at once.
            if let Err(error) = self.qmp.device_del(&ccw::zpci_id(function), left()) {
                log::warn!("the identifiers of {function} cannot be taken back: {error}");
            }
            return Err(failed(error));
        }
        let here = Plugged {
            since,
            asked: false,
        };
        self.plugged().insert(function, here);
        Ok(())
    }

    /// Asks for a function: the guest has its event when this returns. `false`: it is not in, or has been asked for.
    ///
    /// # Errors
    /// [`ZpciError::Qmp`].
    pub fn unplug(&self, function: FunctionId, limit: Duration) -> Result<bool, ZpciError> {
        match self.plugged().get_mut(&function) {
            Some(here) if !here.asked => here.asked = true,
            _ => return Ok(false),
        }
        let asked = self.qmp.device_del(&device_id(function), limit);
        asked.map_err(|source| ZpciError::Qmp { function, source })?;
        Ok(true)
    }

    /// Asks for all VFs that are in, the first one first: a burst of events.
    ///
    /// # Errors
    /// [`ZpciError::Qmp`]; those before have been asked for.
    pub fn unplug_vfs(&self, limit: Duration) -> Result<(), ZpciError> {
        for number in 1..=self.vfs {
            self.unplug(FunctionId::Vf(number), limit)?;
        }
        Ok(())
    }

    /// Waits until a function that was asked for is gone. One that was not is not waited for.
    ///
    /// # Errors
    /// [`ZpciError::Kept`], or that of the connection.
    pub fn wait_gone(&self, function: FunctionId, limit: Duration) -> Result<(), ZpciError> {
        let Some(Plugged { since, asked: true }) = self.plugged().get(&function).copied() else {
            return Ok(());
        };
        // Two devices make a function, and the second one frees the identifiers.
        let deadline = Instant::now() + limit;
        for id in [device_id(function), ccw::zpci_id(function)] {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.qmp.wait_deleted(&id, since, left) {
                Ok(()) => {}
                Err(QmpError::Link(LinkError::Late { .. })) => {
                    return Err(ZpciError::Kept { function, limit });
                }
                Err(source) => return Err(ZpciError::Qmp { function, source }),
            }
        }
        self.plugged().remove(&function);
        Ok(())
    }

    /// The platform's answer to VF Enable: all VFs are shown to the guest, the first one first.
    ///
    /// # Errors
    /// [`ZpciError`]; those before stay.
    pub fn enable_vfs(&self, limit: Duration) -> Result<(), ZpciError> {
        (1..=self.vfs).try_for_each(|number| self.plug(FunctionId::Vf(number), limit))
    }

    /// The platform's answer to its end: all VFs that are still there are taken away.
    ///
    /// # Errors
    /// [`ZpciError`].
    pub fn disable_vfs(&self, limit: Duration) -> Result<(), ZpciError> {
        self.unplug_vfs(limit)?;
        (1..=self.vfs).try_for_each(|number| self.wait_gone(FunctionId::Vf(number), limit))
    }
}
