// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of s390x: what vfrace sets up for them, on a real one.

use std::time::Duration;

use vfrace::event::{EventKind, FunctionId, Observation, Verdict};
use vfrace::qemu::machine::ccw::PF_ADDRESS;
use vfrace::qemu::zpci::ZpciError;

use crate::bench::Guest;
use crate::campaign::{events, told, verdict, vfrace};
use crate::frames::ping_those_that_are;

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
#[ignore = "boots a guest: make test"]
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

/// As QEMU describes them, functions belong to nobody. Nothing is said of the kernel then.
#[test]
#[ignore = "boots a guest: make test"]
fn s390x_without_the_shim_vfs_are_isolated_functions_and_there_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let request = "run unbind-vs-vf-unplug --arch s390x --kernel base --vfs 2 --no-shim";
    let words: Vec<&str> = request.split(' ').collect();
    let output = vfrace(&words, dir.path());
    let said = told(&output);
    assert_eq!(output.status.code(), Some(128), "{said}");
    let cell = dir.path().join("unbind-vs-vf-unplug/base");
    assert_eq!(verdict(&events(&cell)), Verdict::Infra, "{said}");
    for words in [
        "its VFs are isolated functions (vf1 is 1001:00:00.0, vf2 is 1002:00:00.0, without physfn)",
        "vfrace_zpci is not at work in the guest",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The bug where it was reported: the platform's own handler removes the VF that the unbind is removing.
#[test]
#[ignore = "boots a guest: make test"]
fn s390x_the_unfixed_kernel_removes_a_vf_twice() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &[
            "run",
            "unbind-vs-vf-unplug",
            "--arch",
            "s390x",
            "--rounds",
            "1",
        ],
        dir.path(),
    );
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let events = events(&dir.path().join("unbind-vs-vf-unplug/base"));
    assert_eq!(verdict(&events), Verdict::DoubleRemoval, "{said}");
    // By way of the event: what the machine check thread was in when it removed the VF.
    let by_event = events.iter().any(|event| match &event.kind {
        EventKind::Guest(record) => match &record.what {
            Observation::Enter { call, stack, .. } => {
                record.comm == "kmcheck"
                    && call == "pci_iov_remove_virtfn"
                    && [
                        "zpci_iov_remove_virtfn",
                        "zpci_bus_remove_device",
                        "zpci_event_availability",
                    ]
                    .iter()
                    .all(|name| stack.iter().any(|frame| frame.contains(name)))
            }
            _ => false,
        },
        _ => false,
    });
    assert!(by_event, "{said}");
}

#[test]
#[ignore = "boots a guest: make test"]
fn s390x_the_fixed_kernel_removes_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &[
            "run",
            "unbind-vs-vf-unplug",
            "--arch",
            "s390x",
            "--kernel",
            "v7",
            "--rounds",
            "2",
        ],
        dir.path(),
    );
    let said = told(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let events = events(&dir.path().join("unbind-vs-vf-unplug/v7"));
    assert_eq!(verdict(&events), Verdict::Pass, "{said}");
    // The handler came while the unbind had the lock, and waited for it.
    let waited = events.iter().filter(|event| {
        matches!(&event.kind, EventKind::Guest(record) if record.comm == "kmcheck"
            && matches!(record.what, Observation::LockWait { owner } if owner != 0))
    });
    assert!(waited.count() >= 2, "{said}");
}

/// PF and VFs are plugged one by one, and the kernel makes an SR-IOV device of them.
#[test]
#[ignore = "boots a guest: make test"]
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
        "cd /sys/bus/pci/devices/{PF}; readlink -f virtfn0; readlink -f virtfn1"
    ));
    assert!(
        links.contains("1000:00:00.1") && links.contains("1000:00:00.2"),
        "{links}"
    );
    ping_those_that_are(&mut guest, PF);
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
