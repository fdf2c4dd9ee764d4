// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions that a VF's pci_dev goes through when it is removed, on a recording made by hand.

use super::Tape;
use crate::event::{FunctionId, Observation};

impl Tape {
    /// A body of a VF's removal, which takes no time.
    pub fn body(&mut self, pid: u32, call: &str, vf: u16, instance: u64) {
        self.clock -= 999_999;
        self.guest(
            pid,
            Observation::Enter {
                call: call.into(),
                function: Some(FunctionId::Vf(vf)),
                instance: Some(instance),
                stack: vec!["pci_stop_and_remove_bus_device".into()],
            },
        );
    }

    /// Its return.
    pub fn body_ends(&mut self, pid: u32, call: &str, vf: u16) {
        self.clock -= 999_999;
        self.leave(pid, call, FunctionId::Vf(vf));
    }

    /// The driver is taken away.
    pub fn stop(&mut self, pid: u32, vf: u16) {
        let device = self.device(vf);
        self.body(pid, "pci_stop_dev", vf, device);
        self.body_ends(pid, "pci_stop_dev", vf);
    }

    /// The VF's pci_dev, or the one that it had last.
    pub(super) fn device(&mut self, vf: u16) -> u64 {
        self.devices.get(&vf).copied().unwrap_or(self.last_device)
    }

    /// The device is deleted, and released when that returns.
    pub fn deletion_begins(&mut self, pid: u32, vf: u16) {
        let device = self.device(vf);
        self.body(pid, "pci_destroy_dev", vf, device);
        self.body(pid, "device_del", vf, device);
    }

    pub fn deletion_ends(&mut self, pid: u32, vf: u16) {
        self.body_ends(pid, "device_del", vf);
        if let Some(device) = self.devices.remove(&vf) {
            self.body(pid, "pci_release_dev", vf, device);
            self.body_ends(pid, "pci_release_dev", vf);
        }
        self.body_ends(pid, "pci_destroy_dev", vf);
    }
}
