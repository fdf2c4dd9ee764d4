// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's shell is told: bringing the device up, tearing it down, bringing it back.

use crate::qemu::machine::{BRIDGE_ADDRESS, PF_ADDRESS, SLOT_DIRECTORY};
use crate::scenario::{Actuator, PfDriver, Scenario, Schedule, Teardown, Unplug};

const DRIVERS: &str = "/sys/bus/pci/drivers";
/// The module's name, as a driver as well.
const MODULE: &str = "vfrace_pf";

fn pf() -> String {
    format!("/sys/bus/pci/devices/{PF_ADDRESS}")
}

fn driver(scenario: &Scenario) -> &'static str {
    match scenario.driver {
        PfDriver::Virtio => "virtio-pci",
        PfDriver::Module { .. } => MODULE,
    }
}

/// The PF without a driver and without VFs: how every round begins.
pub(super) fn unbind(scenario: &Scenario) -> String {
    let pf = pf();
    let unload = match scenario.driver {
        PfDriver::Virtio => String::new(),
        PfDriver::Module { .. } => format!("; [ ! -e /sys/module/{MODULE} ] || rmmod {MODULE}"),
    };
    format!("[ ! -e {pf}/driver ] || echo {PF_ADDRESS} >{pf}/driver/unbind{unload}")
}

/// The PF as the teardown leaves it, without VFs: what references are counted in before a round. `None`: as [`unbind`]
/// leaves it.
pub(super) fn as_afterwards(scenario: &Scenario, schedule: &Schedule) -> Option<String> {
    match scenario.teardown {
        // A .probe() that the schedule makes fail leaves no driver.
        Teardown::Bind if schedule.steps.iter().any(|step| step.returns.is_some()) => None,
        Teardown::Unbind | Teardown::Rmmod | Teardown::PfRemove | Teardown::SlotPowerOff => None,
        Teardown::NumvfsZero
        | Teardown::NumvfsCycle
        | Teardown::NumvfsOn
        | Teardown::Reset
        | Teardown::Bind => Some(bind(scenario)),
    }
}

/// Whether a round that went well leaves the PF as [`unbind`] does, so that the next one need not begin with it.
pub(super) fn ends_as_it_begins(scenario: &Scenario) -> bool {
    let unbound = match scenario.teardown {
        // A module that was not removed is still loaded.
        Teardown::Unbind => matches!(scenario.driver, PfDriver::Virtio),
        Teardown::Rmmod => true,
        _ => false,
    };
    let only_vfs_go = !scenario.removes_pf()
        && scenario
            .unplug
            .is_none_or(|unplug| matches!(unplug.actuator, Actuator::Platform));
    unbound && only_vfs_go
}

fn bind(scenario: &Scenario) -> String {
    match scenario.driver {
        PfDriver::Virtio => format!("echo {PF_ADDRESS} >{DRIVERS}/virtio-pci/bind"),
        // A device that is meant for the module is bound when the module comes.
        PfDriver::Module { remove_ms } => {
            let pf = pf();
            format!(
                "echo {MODULE} >{pf}/driver_override && insmod /{MODULE}.ko remove_ms={remove_ms} && [ -e {pf}/driver ]"
            )
        }
    }
}

/// Whether the PF with this directory has so many VFs. Without a program: each costs the guest some 40 ms.
fn count_vfs(pf: &str, vfs: u16) -> String {
    format!(
        "{{ n=0; for vf in {pf}/virtfn*; do [ -e $vf ] && n=$((n + 1)); done; [ $n = {vfs} ]; }}"
    )
}

/// The driver bound and the VFs on, as far as the teardown begins with them. Comes after [`as_afterwards`].
pub(super) fn bring_up(scenario: &Scenario, schedule: &Schedule) -> String {
    let (pf, vfs) = (pf(), scenario.vfs);
    let mut steps = Vec::new();
    if as_afterwards(scenario, schedule).is_none() {
        steps.push(bind(scenario));
    }
    if scenario.teardown.begins_with_vfs() {
        steps.push(format!("echo {vfs} >{pf}/sriov_numvfs"));
        steps.push(count_vfs(&pf, vfs));
    }
    if scenario.teardown == Teardown::Bind {
        steps.push(format!("echo {PF_ADDRESS} >{pf}/driver/unbind"));
        steps.push(format!("echo {vfs} >/sys/module/{MODULE}/parameters/vfs"));
    }
    if steps.is_empty() {
        steps.push("true".to_owned());
    }
    steps.join(" && ")
}

/// The teardown. The task that does it says first that it is the one.
pub(super) fn teardown(scenario: &Scenario) -> String {
    let (pf, vfs, driver) = (pf(), scenario.vfs, driver(scenario));
    let action = match scenario.teardown {
        Teardown::Unbind => format!("echo {PF_ADDRESS} >{DRIVERS}/{driver}/unbind"),
        // A program: it has to be the task that said so.
        Teardown::Rmmod => {
            return format!("sh -c 'printf \"task teardown\\n\" >&3; exec rmmod {MODULE}'");
        }
        Teardown::PfRemove => format!("echo 1 >{pf}/remove"),
        Teardown::NumvfsZero => format!("echo 0 >{pf}/sriov_numvfs"),
        Teardown::NumvfsCycle => {
            format!("echo 0 >{pf}/sriov_numvfs && echo {vfs} >{pf}/sriov_numvfs")
        }
        Teardown::NumvfsOn => format!("echo {vfs} >{pf}/sriov_numvfs"),
        Teardown::Bind => format!("echo {PF_ADDRESS} >{DRIVERS}/{driver}/bind"),
        Teardown::SlotPowerOff => format!("echo 0 >{SLOT_DIRECTORY}/power"),
        Teardown::Reset => format!("echo 1 >{pf}/reset"),
    };
    // echo and printf are builtins of the guest's shell: no other task gets to do it.
    format!("printf 'task teardown\\n' >&3; {action}")
}

/// Whether the slot has lost its card when the round is over, with the unplug `fired` or not.
pub(super) fn empties_slot(scenario: &Scenario, fired: bool) -> bool {
    scenario.teardown == Teardown::SlotPowerOff
        || scenario.unplug.is_some_and(|unplug| {
            fired
                && matches!(
                    unplug.actuator,
                    Actuator::PciehpSurprise | Actuator::PciehpButton | Actuator::SysfsPower
                )
        })
}

/// Finds the PF again that a removal took out of the kernel, and waits for it.
pub(super) const FIND_PF: &str = "echo 1 >/sys/bus/pci/rescan";

/// Waits for the PF, for some seconds.
pub(super) fn wait_for_pf() -> String {
    let pf = pf();
    format!(
        "n=0; while [ ! -e {pf} ] && [ $n -lt 100 ]; do usleep 100000; n=$((n + 1)); done; [ -e {pf} ]"
    )
}

/// The guest's command that says what the unplug does.
pub(super) fn unplug(unplug: &Unplug, number: u32) -> String {
    crate::guest::plan::unplug_command(unplug, PF_ADDRESS, BRIDGE_ADDRESS, SLOT_DIRECTORY, number)
}

/// Whether the module's own thread handles the unplug.
pub(super) fn by_module(unplug: &Unplug) -> bool {
    !matches!(
        unplug.actuator,
        Actuator::PciehpSurprise | Actuator::PciehpButton
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_a_teardown_that_unbinds_and_takes_vfs_ends_as_a_round_begins() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
        let load = |name: &str| crate::scenario::load(name, &dir, &[]).unwrap();
        for name in [
            "unbind-alone",
            "unbind-vs-vf-unplug",
            "rmmod-alone",
            "rmmod-vs-vf-unplug",
        ] {
            assert!(ends_as_it_begins(&load(name)), "{name}");
        }
        // A driver that is still bound, one that is still loaded, a PF or a card that is gone, a rescan.
        for name in [
            "numvfs-zero-vs-vf-unplug",
            "bind-alone",
            "reset-alone",
            "unbind-vs-pf-remove",
            "unbind-vs-rescan",
            "unbind-vs-surprise",
            "pf-remove-with-vfs",
        ] {
            assert!(!ends_as_it_begins(&load(name)), "{name}");
        }
        let mut loaded = load("unbind-alone");
        loaded.driver = PfDriver::Module { remove_ms: 0 };
        assert!(!ends_as_it_begins(&loaded));
    }

    #[test]
    fn bringing_up_counts_the_vfs() {
        // The same text in a shell, on a directory instead of the PF's.
        let dir = tempfile::tempdir().unwrap();
        for vf in 0..3 {
            std::fs::write(dir.path().join(format!("virtfn{vf}")), "").unwrap();
        }
        for (vfs, expected) in [(3, true), (2, false), (4, false)] {
            let count = count_vfs(&dir.path().display().to_string(), vfs);
            let shell = std::process::Command::new("sh")
                .args(["-c", &count])
                .status();
            assert_eq!(shell.unwrap().success(), expected, "{vfs}");
        }
    }
}
