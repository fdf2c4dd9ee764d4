// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest kernel's functions that are worth a call point, as data.
//!
//! Any function that ftrace can redirect may be named in a point; these are the ones that the ways of a VF's and a
//! PF's removal and addition go through, in the order in which they are reached. Read off Linux 7.2; files are those
//! of 7.2 as well. Whether a kernel has one of them, [`super::Functions::has`] says.

use serde::Serialize;

/// How a call says which PCI function it is about: what a point with `pf:` or `vfK:` is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The first argument is its `struct pci_dev *`.
    PciDev,
    /// The first argument is a `struct device *`: the function's own if it is `&pci_dev->dev`.
    Device,
    /// The first argument is a `struct kobject *`: the function's own if it is `&pci_dev->dev.kobj`. Not every kobject
    /// is in a device, so compare addresses and follow nothing.
    Kobject,
    /// The first argument is the PF's `struct pci_dev *`, the second the VF's number as an int, from 0.
    PfAndIndex,
    /// No argument says it: a point here can only be `any:`.
    None,
}

impl Scope {
    /// As a word for people.
    pub fn word(self) -> &'static str {
        match self {
            Scope::PciDev => "pci_dev",
            Scope::Device => "device",
            Scope::Kobject => "kobject",
            Scope::PfAndIndex => "pf+index",
            Scope::None => "any",
        }
    }
}

/// A function worth a call point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KnownFunction {
    /// Its name in the kernel.
    pub name: &'static str,
    /// Which argument names the PCI function.
    pub scope: Scope,
    /// Source file, from the kernel's top directory.
    pub file: &'static str,
    /// What it is, a line.
    pub what: &'static str,
}

const BUS: &str = "drivers/base/bus.c";
const CORE: &str = "drivers/base/core.c";
const DD: &str = "drivers/base/dd.c";
const IOV: &str = "drivers/pci/iov.c";
const PCI: &str = "drivers/pci/pci.c";
const PCI_BUS: &str = "drivers/pci/bus.c";
const PCI_DRIVER: &str = "drivers/pci/pci-driver.c";
const PROBE: &str = "drivers/pci/probe.c";
const REMOVE: &str = "drivers/pci/remove.c";
const SYSFS: &str = "drivers/pci/pci-sysfs.c";
const CTRL: &str = "drivers/pci/hotplug/pciehp_ctrl.c";
const SLOT: &str = "drivers/pci/hotplug/pciehp_pci.c";
const VIRTIO: &str = "drivers/virtio/virtio_pci_common.c";

const fn f(
    name: &'static str,
    scope: Scope,
    file: &'static str,
    what: &'static str,
) -> KnownFunction {
    KnownFunction {
        name,
        scope,
        file,
        what,
    }
}

/// The functions, files that userspace writes first.
#[rustfmt::skip]
pub const POINTS: &[KnownFunction] = &[
    f("unbind_store", Scope::None, BUS, "a write to a driver's `unbind`; the function is named in the text"),
    f("bind_store", Scope::None, BUS, "a write to a driver's `bind`; the function is named in the text"),
    f("remove_store", Scope::Device, SYSFS, "a write to a function's `remove`; its file is gone when it goes on"),
    f("rescan_store", Scope::None, SYSFS, "a write to /sys/bus/pci/rescan: every bus, under the rescan/remove lock"),
    f("dev_rescan_store", Scope::Device, SYSFS, "a write to a function's `rescan`: its bus, under the rescan/remove lock"),
    f("bus_rescan_store", Scope::None, SYSFS, "a write to a bus's `rescan`, under the rescan/remove lock"),
    f("reset_store", Scope::Device, SYSFS, "a write to a function's `reset`"),
    f("sriov_numvfs_store", Scope::Device, IOV, "a write to the PF's `sriov_numvfs`: calls the driver under the PF's device lock"),
    f("power_write_file", Scope::None, "drivers/pci/hotplug/pci_hotplug_core.c", "a write to a slot's `power`"),
    f("driver_unregister", Scope::None, "drivers/base/driver.c", "a driver goes (rmmod): unbinds all of its devices"),
    f("driver_detach", Scope::None, DD, "unbinds a driver from its devices, one after the other"),
    f("device_release_driver", Scope::Device, DD, "unbinds the driver, and takes the device's lock for it"),
    f("device_release_driver_internal", Scope::Device, DD, "takes the locks of parent and device, then unbinds"),
    f("__device_release_driver", Scope::Device, DD, "unbinds, with the device's lock taken"),
    f("device_unbind_cleanup", Scope::Device, DD, "after the driver's .remove: releases what it had (devres)"),
    f("pci_device_probe", Scope::Device, PCI_DRIVER, "the PCI bus binds a driver: calls its .probe"),
    f("pci_device_remove", Scope::Device, PCI_DRIVER, "the PCI bus unbinds a driver: calls its .remove"),
    f("virtio_pci_probe", Scope::PciDev, VIRTIO, "the driver's .probe"),
    f("virtio_pci_remove", Scope::PciDev, VIRTIO, "the driver's .remove: of a PF, it disables SR-IOV first"),
    f("virtio_pci_sriov_configure", Scope::PciDev, VIRTIO, "the PF driver's answer to `sriov_numvfs`"),
    f("unregister_virtio_device", Scope::None, "drivers/virtio/virtio.c", "the virtio device below a function goes"),
    f("pci_enable_sriov", Scope::PciDev, IOV, "a PF driver enables VFs"),
    f("sriov_enable", Scope::PciDev, IOV, "switches the VFs on, waits 100 ms, adds them"),
    f("sriov_add_vfs", Scope::PciDev, IOV, "adds the PF's VFs one after the other; takes them back on an error"),
    f("pci_iov_add_virtfn", Scope::PfAndIndex, IOV, "adds one VF: makes its pci_dev and its links, binds a driver"),
    f("virtfn_add_bus", Scope::None, IOV, "finds or makes the bus that a VF is on"),
    f("pci_disable_sriov", Scope::PciDev, IOV, "a PF driver disables its VFs"),
    f("sriov_disable", Scope::PciDev, IOV, "removes the PF's VFs, switches them off, waits 1 s"),
    f("sriov_del_vfs", Scope::PciDev, IOV, "removes the PF's VFs one after the other"),
    f("pci_iov_remove_virtfn", Scope::PfAndIndex, IOV, "removes one VF: looks it up, takes its links away, removes it, puts the PF"),
    f("virtfn_remove_bus", Scope::None, IOV, "removes the bus that a VF was on, if no device is left on it"),
    f("pci_stop_and_remove_bus_device_locked", Scope::PciDev, REMOVE, "takes the rescan/remove lock and removes a function"),
    f("pci_stop_and_remove_bus_device", Scope::PciDev, REMOVE, "removes a function and all below it; wants the rescan/remove lock"),
    f("pci_stop_bus_device", Scope::PciDev, REMOVE, "first half: stops a function, after all below it"),
    f("pci_stop_dev", Scope::PciDev, REMOVE, "unbinds one function from its driver"),
    f("pci_remove_bus_device", Scope::PciDev, REMOVE, "second half: removes a function, after all below it"),
    f("pci_destroy_dev", Scope::PciDev, REMOVE, "takes one function out of the driver core and off its bus's list"),
    f("pci_free_resources", Scope::PciDev, REMOVE, "gives back the addresses of a function that goes"),
    f("pci_release_dev", Scope::Device, PROBE, "the last reference is put: frees the pci_dev"),
    f("kill_device", Scope::Device, CORE, "marks a device dead: no driver can be bound any more"),
    f("device_del", Scope::Device, CORE, "takes a device out of sysfs and off its bus and its parent"),
    f("device_add", Scope::Device, CORE, "puts a device into sysfs and on its bus"),
    f("sysfs_remove_link", Scope::Kobject, "fs/sysfs/symlink.c", "takes a link away, such as `virtfn0` of the PF or `physfn` of the VF"),
    f("sysfs_create_link", Scope::Kobject, "fs/sysfs/symlink.c", "makes a link, such as `virtfn0` of the PF or `physfn` of the VF"),
    f("pci_rescan_bus", Scope::None, PROBE, "looks for new functions on a bus and below it"),
    f("pci_setup_device", Scope::PciDev, PROBE, "reads a new function's configuration space"),
    f("pci_device_add", Scope::PciDev, PROBE, "puts a new function on its bus's list and into the driver core"),
    f("pci_bus_add_devices", Scope::None, PCI_BUS, "binds drivers to what is new on a bus and below it"),
    f("pci_bus_add_device", Scope::PciDev, PCI_BUS, "makes the files of a new function and binds a driver"),
    f("pci_lock_rescan_remove", Scope::None, PROBE, "takes the rescan/remove lock"),
    f("pci_unlock_rescan_remove", Scope::None, PROBE, "gives the rescan/remove lock back"),
    f("pci_reset_function", Scope::PciDev, PCI, "resets a function, under its device lock"),
    f("pciehp_ist", Scope::None, "drivers/pci/hotplug/pciehp_hpc.c", "a slot's interrupt thread: everything that a slot does is in it"),
    f("pciehp_handle_presence_or_link_change", Scope::None, CTRL, "the card came or went"),
    f("pciehp_handle_disable_request", Scope::None, CTRL, "the button was pressed, or the slot's `power` written"),
    f("pciehp_configure_device", Scope::None, SLOT, "adds what is in the slot, under the rescan/remove lock"),
    f("pciehp_unconfigure_device", Scope::None, SLOT, "removes what was in the slot, under the rescan/remove lock"),
    f("msleep", Scope::None, "kernel/time/sleep_timeout.c", "any sleep; the 1 s of sriov_disable() is one"),
];

/// The known function of that name.
pub fn known(name: &str) -> Option<&'static KnownFunction> {
    POINTS.iter().find(|point| point.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut names: Vec<_> = POINTS.iter().map(|p| p.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POINTS.len(), "a name is there twice");
        for point in POINTS {
            assert!(point.file.ends_with(".c"), "{}", point.name);
            assert!(
                point.what.len() <= 90 && !point.what.ends_with('.'),
                "{}",
                point.name
            );
        }
        assert_eq!(known("pci_stop_dev").map(|p| p.scope), Some(Scope::PciDev));
        assert_eq!(known("pci_stop"), None);
    }

    #[test]
    fn what_the_compiler_would_inline_is_kept_out_of_line() {
        // msleep() is called from elsewhere, and from its own file by nobody.
        for point in POINTS.iter().filter(|p| p.name != "msleep") {
            let stem = point.file.trim_end_matches(".c");
            assert!(super::super::outline::OBJECTS.contains(&stem), "{stem}");
        }
    }
}
