// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's shell is told: bringing the device up, tearing it down, bringing it back.

use crate::arch::Arch;
use crate::event::FunctionId;
use crate::qemu::machine::{Places, ccw};
use crate::scenario::{Actuator, PfDriver, Scenario, Schedule, Teardown};

const DRIVERS: &str = "/sys/bus/pci/drivers";
/// The module's name, as a driver as well.
const MODULE: &str = "vfrace_pf";

fn directory(at: Places) -> String {
    format!("/sys/bus/pci/devices/{}", at.pf)
}

fn driver(scenario: &Scenario) -> &'static str {
    match scenario.driver {
        PfDriver::Virtio => "virtio-pci",
        PfDriver::Module { .. } => MODULE,
    }
}

/// The PF without a driver and without VFs: how every round begins.
pub(crate) fn unbind(at: Places, scenario: &Scenario) -> String {
    let (pf, address) = (directory(at), at.pf);
    let unload = match scenario.driver {
        PfDriver::Virtio => String::new(),
        PfDriver::Module { .. } => format!("; [ ! -e /sys/module/{MODULE} ] || rmmod {MODULE}"),
    };
    format!("[ ! -e {pf}/driver ] || echo {address} >{pf}/driver/unbind{unload}")
}

/// The PF as the teardown leaves it, without VFs: what references are counted in before a round. `None`: as [`unbind`]
/// leaves it.
pub(crate) fn as_afterwards(
    at: Places,
    scenario: &Scenario,
    schedule: &Schedule,
) -> Option<String> {
    match scenario.teardown {
        // A .probe() that the schedule makes fail leaves no driver.
        Teardown::Bind if schedule.steps.iter().any(|step| step.returns.is_some()) => None,
        Teardown::Unbind | Teardown::Rmmod | Teardown::PfRemove | Teardown::SlotPowerOff => None,
        Teardown::NumvfsZero
        | Teardown::NumvfsCycle
        | Teardown::NumvfsOn
        | Teardown::Reset
        | Teardown::Recover
        | Teardown::Bind => Some(bind(at, scenario)),
    }
}

/// Whether a round that went well leaves the PF as [`unbind`] does, so that the next one need not begin with it.
pub(crate) fn ends_as_it_begins(scenario: &Scenario) -> bool {
    let unbound = match scenario.teardown {
        // A module that was not removed is still loaded.
        Teardown::Unbind => matches!(scenario.driver, PfDriver::Virtio),
        Teardown::Rmmod => true,
        _ => false,
    };
    let only_vfs_go = !scenario.removes_pf()
        && scenario.unplug.is_none_or(|unplug| match unplug.actuator {
            Actuator::Platform => true,
            Actuator::PlatformSurprise => !unplug.removes_pf(),
            _ => false,
        });
    unbound && only_vfs_go
}

fn bind(at: Places, scenario: &Scenario) -> String {
    let (pf, address) = (directory(at), at.pf);
    let by_platform = at.arch == Arch::S390x;
    match scenario.driver {
        // One that the platform has just plugged in may not be ready for a moment yet (pci_dev_allow_binding()). If it is
        // bound by then, references were counted too early.
        PfDriver::Virtio if by_platform => format!(
            "{{ b=not-yet; n=0; while [ $b = not-yet ]; do if echo {address} >{DRIVERS}/virtio-pci/bind; then b=bound; \
             elif [ -e {pf}/driver ] || [ $n -ge 50 ]; then b=failed; else {PAUSE}; fi; done; \
             [ $b = bound ] && {BIND_AGAIN}; }}"
        ),
        PfDriver::Virtio => format!("echo {address} >{DRIVERS}/virtio-pci/bind"),
        // A device that is meant for the module is bound when the module comes.
        PfDriver::Module { remove_ms } => {
            let before = match by_platform {
                true => format!("{BIND_AGAIN} && "),
                false => String::new(),
            };
            format!(
                "{before}echo {MODULE} >{pf}/driver_override && insmod /{MODULE}.ko remove_ms={remove_ms} && [ -e {pf}/driver ]"
            )
        }
    }
}

/// Whether the PF with this directory has so many VFs. Without a program: each costs the guest some 40 ms.
fn count_vfs(pf: &str, vfs: u16) -> String {
    format!(
        "{{ v=0; for vf in {pf}/virtfn*; do [ -e $vf ] && v=$((v + 1)); done; [ $v = {vfs} ]; }}"
    )
}

/// The driver bound and the VFs on, as far as the teardown begins with them. Comes after [`as_afterwards`].
pub(crate) fn bring_up(at: Places, scenario: &Scenario, schedule: &Schedule) -> String {
    let (pf, vfs, address) = (directory(at), scenario.vfs, at.pf);
    let mut steps = Vec::new();
    if as_afterwards(at, scenario, schedule).is_none() {
        steps.push(bind(at, scenario));
    }
    if scenario.teardown.begins_with_vfs() {
        steps.push(format!("echo {vfs} >{pf}/sriov_numvfs"));
        // On s390x the platform shows them to the guest after that, which is the host's part.
        if at.arch != Arch::S390x {
            steps.push(count_vfs(&pf, vfs));
        }
    }
    if scenario.teardown == Teardown::Bind {
        steps.push(format!("echo {address} >{pf}/driver/unbind"));
        steps.push(format!("echo {vfs} >/sys/module/{MODULE}/parameters/vfs"));
    }
    if steps.is_empty() {
        steps.push("true".to_owned());
    }
    steps.join(" && ")
}

/// The teardown. The task that does it says first that it is the one.
pub(crate) fn teardown(at: Places, scenario: &Scenario) -> String {
    let (pf, vfs, driver) = (directory(at), scenario.vfs, driver(scenario));
    let (address, slot) = (at.pf, at.slot);
    let action = match scenario.teardown {
        Teardown::Unbind => format!("echo {address} >{DRIVERS}/{driver}/unbind"),
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
        Teardown::Bind => format!("echo {address} >{DRIVERS}/{driver}/bind"),
        Teardown::SlotPowerOff => format!("echo 0 >{slot}/power"),
        Teardown::Reset => format!("echo 1 >{pf}/reset"),
        Teardown::Recover => format!("echo 1 >{pf}/recover"),
    };
    // echo and printf are builtins of the guest's shell: no other task gets to do it.
    format!("printf 'task teardown\\n' >&3; {action}")
}

/// Whether the slot has lost its card when the round is over, with the unplug `fired` or not.
pub(crate) fn empties_slot(scenario: &Scenario, fired: bool) -> bool {
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
pub(crate) const FIND_PF: &str = "echo 1 >/sys/bus/pci/rescan";

/// Lets a tenth of a second go by. Nothing is ever written to the console; the shell waits by itself, where a program would
/// cost the guest as much again.
const PAUSE: &str = "read -r -t 0.1 nothing </dev/console; n=$((n + 1))";

/// Waits for the PF, for some seconds.
pub(crate) fn wait_for_pf(at: Places) -> String {
    let pf = directory(at);
    format!("n=0; until [ -e {pf} ] || [ $n -ge 100 ]; do {PAUSE}; done; [ -e {pf} ]")
}

/// Waits for the device_lock of a function that is there, and does nothing else if it has a driver, or if it is not enabled
/// (drivers/pci/pci-sysfs.c, enable_store()). Who probes has that lock (drivers/base/dd.c, __device_attach()).
fn wait_for_lock(function: &str) -> String {
    format!("{{ echo 0 >{function}/enable || true; }} 2>/dev/null")
}

/// Where the platform plugs the PF in: comes before that. A round begins with a PF that has no driver.
pub(crate) const LEAVE_UNBOUND: &str = "echo 0 >/sys/bus/pci/drivers_autoprobe";
/// Takes that back.
const BIND_AGAIN: &str = "echo 1 >/sys/bus/pci/drivers_autoprobe";

/// Status of [`find_plugged_pf`] if the PF cannot have VFs.
pub(crate) const NO_SRIOV: i32 = 3;

/// Comes after that: waits until the PF is there as [`unbind`] leaves it, and looks whether it can have VFs (Linux
/// Documentation/ABI/testing/sysfs-bus-pci, sriov_totalvfs). A kernel whose
/// pci_bus_add_device() calls device_attach() (6.12) binds it in spite of [`LEAVE_UNBOUND`].
pub(crate) fn find_plugged_pf(at: Places) -> String {
    let (pf, wait) = (directory(at), wait_for_pf(at));
    let lock = wait_for_lock(&pf);
    let address = at.pf;
    format!(
        "{wait} && {{ {lock}; [ ! -e {pf}/driver ] || echo {address} >{pf}/driver/unbind; }} && \
         {{ [ -e {pf}/sriov_totalvfs ] || (exit {NO_SRIOV}); }}"
    )
}

/// Waits, for some seconds, until the VFs that the platform has shown to the guest are the PF's, with their drivers: a
/// driver's link comes before its .probe(), and the place in its list behind that (really_probe() and driver_bound() in
/// drivers/base/dd.c).
pub(crate) fn wait_for_vfs(at: Places, scenario: &Scenario) -> String {
    let pf = directory(at);
    // They come one after the other.
    let last = format!("{pf}/virtfn{}", scenario.vfs.saturating_sub(1));
    let there = format!("{} && [ -e {last}/driver ]", count_vfs(&pf, scenario.vfs));
    let lock = wait_for_lock(&last);
    format!("n=0; until {there} || [ $n -ge 100 ]; do {PAUSE}; done; {there} && {lock}")
}

/// Prints of each VF that was plugged in where it is in a guest whose kernel does not know whose it is: the first function
/// of the domain that its UID names (Linux arch/s390/pci/pci_bus.c, zpci_bus_get_by_topo()).
pub(crate) fn isolated_vfs(vfs: u16) -> String {
    let list: Vec<String> = (1..=vfs)
        .map(FunctionId::Vf)
        .filter_map(|vf| Some(format!("{vf}={:04x}:00:00.0", ccw::uid(vf)?)))
        .collect();
    let list = list.join(" ");
    format!(
        "n=0; for vf in {list}; do d=/sys/bus/pci/devices/${{vf#*=}}; \
         until [ -e $d ] || [ $n -ge 100 ]; do {PAUSE}; done; \
         [ -e $d ] && [ ! -e $d/physfn ] && echo ${{vf%=*}} is ${{vf#*=}}; done; true"
    )
}

/// Tells vfrace_zpci, which plays that part of the platform, which functions are lost without being asked for. `None`: the
/// unplug is of another kind. An id that was told before and not used is forgotten.
pub(super) fn surprise(scenario: &Scenario) -> Option<String> {
    let unplug = scenario.unplug?;
    if unplug.actuator != Actuator::PlatformSurprise {
        return None;
    }
    let ids: Vec<String> = unplug
        .functions(scenario.vfs)
        .filter_map(|function| ccw::fid(function, scenario.vfs))
        .map(|fid| format!("{fid:#x}"))
        .collect();
    let ids = ids.join(",");
    Some(format!(
        "echo {ids} >/sys/module/vfrace_zpci/parameters/surprise"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::guest::plan::by_module;
    use crate::qemu::machine::places;

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
    fn on_s390x_the_host_brings_the_vfs() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
        let scenario = crate::scenario::load("unbind-vs-vf-unplug", &dir, &[]).unwrap();
        let up = |arch| bring_up(places(arch), &scenario, &scenario.schedule);
        let pf = "/sys/bus/pci/devices/1000:00:00.0";
        let said = up(Arch::S390x);
        assert!(said.contains(&format!("echo 1000:00:00.0 >{DRIVERS}/virtio-pci/bind")));
        assert!(said.ends_with(&format!("; }} && echo 3 >{pf}/sriov_numvfs")));
        assert!(up(Arch::X86_64).contains("virtfn*"));
        let wait = wait_for_vfs(places(Arch::S390x), &scenario);
        assert!(wait.contains("virtfn2/driver"), "{wait}");
        let unplug = scenario.unplug.unwrap();
        assert!(by_module(Arch::X86_64, &unplug));
        assert!(!by_module(Arch::S390x, &unplug));
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
