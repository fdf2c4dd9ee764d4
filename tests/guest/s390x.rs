// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of s390x: what vfrace sets up for them, on a real one.

use std::time::Duration;

use vfrace::event::{FunctionId, Observation};
use vfrace::qemu::machine::ccw::PF_ADDRESS;
use vfrace::qemu::zpci::ZpciError;

use crate::bench::Guest;

const LIMIT: Duration = Duration::from_secs(60);
const PF: &str = PF_ADDRESS;

/// Waits, for half a minute of the guest's, until a test of its shell's is true.
fn wait(guest: &mut Guest, is: &str) {
    guest.shell(&format!(
        "n=0; until {is} || [ $n = 300 ]; do usleep 100000; n=$((n+1)); done; {is}"
    ));
}

/// The module's first report and init's come through the mailbox: guest memory is shared, and what is in it has the same
/// order of bytes on both sides.
#[test]
#[ignore = "boots a guest: make test-s390x"]
fn s390x_guest_boots_and_is_heard_of() {
    let mut guest = Guest::boot_s390x(2, true);
    assert!(guest.any(0, |record| matches!(
        &record.what,
        Observation::Hello { release, version } if !release.is_empty() && *version == vfrace::guest::proto::VERSION
    )));
    assert_eq!(guest.shell("uname -m").trim(), "s390x");
    // Only the mailbox.
    assert_eq!(
        guest.shell("ls /sys/bus/pci/devices").trim(),
        "0001:00:00.0"
    );
}

/// As QEMU describes it, the PF is a function without SR-IOV.
#[test]
#[ignore = "boots a guest: make test-s390x"]
fn s390x_without_the_shim_there_is_no_sriov() {
    let mut guest = Guest::boot_s390x(1, false);
    let card = guest.zpci();
    card.plug(FunctionId::Pf, LIMIT).unwrap();
    wait(
        &mut guest,
        &format!("[ -e /sys/bus/pci/devices/{PF}/driver ]"),
    );
    guest.shell(&format!(
        "[ ! -e /sys/bus/pci/devices/{PF}/sriov_totalvfs ]"
    ));
}

/// PF and VFs are plugged one by one, and the kernel makes an SR-IOV device of them.
#[test]
#[ignore = "boots a guest: make test-s390x"]
fn s390x_functions_become_a_pf_and_its_vfs() {
    let mut guest = Guest::boot_s390x(2, true);
    let card = guest.zpci();
    card.plug(FunctionId::Pf, LIMIT).unwrap();
    wait(
        &mut guest,
        &format!("[ -e /sys/bus/pci/devices/{PF}/driver ]"),
    );
    let total = guest.shell(&format!("cat /sys/bus/pci/devices/{PF}/sriov_totalvfs"));
    assert_eq!(total.trim(), "2");
    guest.shell(&format!("echo 2 >/sys/bus/pci/devices/{PF}/sriov_numvfs"));
    card.enable_vfs(LIMIT).unwrap();
    wait(
        &mut guest,
        &format!("[ -e /sys/bus/pci/devices/{PF}/virtfn1/driver ]"),
    );
    let links = guest.shell(&format!(
        "cd /sys/bus/pci/devices/{PF}; readlink -f virtfn0 virtfn1"
    ));
    assert!(
        links.contains("1000:00:00.1") && links.contains("1000:00:00.2"),
        "{links}"
    );
    // The platform takes a VF away: the kernel's own handler removes it.
    assert!(card.unplug(FunctionId::Vf(1), LIMIT).unwrap());
    assert!(!card.unplug(FunctionId::Vf(1), LIMIT).unwrap());
    card.wait_gone(FunctionId::Vf(1), LIMIT).unwrap();
    guest.shell(&format!("[ ! -e /sys/bus/pci/devices/{PF}/virtfn0 ]"));
    card.plug(FunctionId::Vf(1), LIMIT).unwrap();
    wait(
        &mut guest,
        &format!("[ -e /sys/bus/pci/devices/{PF}/virtfn0/driver ]"),
    );
    guest.shell(&format!("echo 0 >/sys/bus/pci/devices/{PF}/sriov_numvfs"));
    card.disable_vfs(LIMIT).unwrap();
    let error = card.plug(FunctionId::Bridge, LIMIT).unwrap_err();
    assert!(matches!(error, ZpciError::NoFunction { .. }), "{error}");
}
