// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's shell is told: bringing the device up, tearing it down, bringing it back.

use crate::arch::Arch;
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
    match scenario.driver {
        PfDriver::Virtio => format!("echo {address} >{DRIVERS}/virtio-pci/bind"),
        // A device that is meant for the module is bound when the module comes.
        PfDriver::Module { remove_ms } => {
            format!(
                "echo {MODULE} >{pf}/driver_override && insmod /{MODULE}.ko remove_ms={remove_ms} && [ -e {pf}/driver ]"
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

/// Waits for the PF, for some seconds. Where an event of the platform brings it, until it has its driver: that comes later
/// than the directory, and a round begins with the PF's being unbound.
pub(crate) fn wait_for_pf(at: Places) -> String {
    let there = match at.arch {
        Arch::X86_64 => directory(at),
        Arch::S390x => format!("{}/driver", directory(at)),
    };
    format!(
        "n=0; while [ ! -e {there} ] && [ $n -lt 100 ]; do usleep 100000; n=$((n + 1)); done; [ -e {there} ]"
    )
}

/// Waits, for some seconds, until the VFs that the platform has shown to the guest are the PF's, with their drivers.
pub(crate) fn wait_for_vfs(at: Places, scenario: &Scenario) -> String {
    let pf = directory(at);
    // They come one after the other: the last one has its driver last.
    let last = scenario.vfs.saturating_sub(1);
    let up = format!(
        "{} && [ -e {pf}/virtfn{last}/driver ]",
        count_vfs(&pf, scenario.vfs)
    );
    // Its link comes before .probe(), and its place in the driver's list behind it (really_probe() and driver_bound() in
    // drivers/base/dd.c). This waits for the VF's device_lock, which is held meanwhile, and does nothing else.
    let address = format!(
        "{}{:02x}.{}",
        at.pf.trim_end_matches("00.0"),
        scenario.vfs >> 3,
        scenario.vfs & 7
    );
    let bound = format!("echo {address} >/sys/bus/pci/drivers_probe");
    format!(
        "n=0; until {up} || [ $n -ge 100 ]; do usleep 100000; n=$((n + 1)); done; {up} && {bound}"
    )
}

/// Whether the PF can have VFs (Linux Documentation/ABI/testing/sysfs-bus-pci, sriov_totalvfs).
pub(crate) fn is_sriov(at: Places) -> String {
    format!("[ -e {}/sriov_totalvfs ]", directory(at))
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
        assert_eq!(
            up(Arch::S390x),
            format!("echo 1000:00:00.0 >{DRIVERS}/virtio-pci/bind && echo 3 >{pf}/sriov_numvfs")
        );
        assert!(up(Arch::X86_64).contains("virtfn*"));
        let wait = wait_for_vfs(places(Arch::S390x), &scenario);
        assert!(wait.contains("virtfn2/driver"), "{wait}");
        assert!(
            wait.ends_with("&& echo 1000:00:00.3 >/sys/bus/pci/drivers_probe"),
            "{wait}"
        );
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
