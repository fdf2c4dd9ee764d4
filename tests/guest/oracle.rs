// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the judge sees in real guests, and that it is the same afterwards.

use std::process::Command;

use vfrace::event::{EventKind, Finding, Observation};

use crate::campaign::{events, told, vfrace};

/// One that is convicted by its console, and three by what the module measured: a list that keeps what is removed, a
/// reference that is not put, a word of the lock that is not cleared. Of the last lockdep prints only at boot, before
/// anything counts; of the first KASAN prints when the PF goes as the last step.
const MUTANTS: &str = "m-use-after-put,m-list-del-missing,m-pf-put-missing,m-owner-kept";

#[test]
#[ignore = "boots a guest: make test"]
fn mutants_are_convicted_where_they_are_reached_and_for_their_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(&["matrix", "--kernels", MUTANTS], dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for reason in [
        "yes, USE-AFTER-FREE: BUG: KASAN",
        "yes, LIST-CORRUPTION: afterwards: ",
        "yes, LEAK: PF reference count",
        "yes, LOCK-ORDER: teardown",
        "yes, LEAK: pci_rescan_remove_lock is not free",
    ] {
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert!(said.contains("5 of 5 as expected"), "{said}");
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_finding_has_lines_of_source_and_the_recording_is_judged_alike() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &["run", "unbind-lockdep", "--kernel", "base", "--rounds", "1"],
        dir.path(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let cell = dir.path().join("unbind-lockdep/base");
    let findings: Vec<Finding> = events(&cell)
        .into_iter()
        .filter_map(|event| match event.kind {
            EventKind::Finding(finding) => Some(finding),
            _ => None,
        })
        .collect();
    let assert = findings
        .iter()
        .find(|f| f.frame.as_deref() == Some("pci_stop_and_remove_bus_device"))
        .unwrap();
    assert_eq!(assert.fingerprint[0], "pci_stop_and_remove_bus_device");
    assert_eq!(assert.fingerprint[1], "pci_iov_remove_virtfn");
    // Nothing on a quiet console says that lockdep is on, and nothing may say that it is off.
    assert_ne!(assert.lockdep, Some(false));
    assert_eq!(assert.alive, Some(true));
    let places = assert.stack.iter().flat_map(|frame| &frame.places);
    let files: Vec<&str> = places.map(|place| place.file.as_str()).collect();
    assert!(files.contains(&"drivers/pci/remove.c"), "{assert:?}");
    assert!(files.contains(&"drivers/pci/iov.c"), "{assert:?}");

    let boot = cell.join("boot-1");
    let again = Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .arg("judge")
        .arg(boot.join("console.log"))
        .arg("--events")
        .arg(&boot)
        .args(["--format", "json"])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let judged: Vec<Finding> = serde_json::from_value(json["findings"].clone()).unwrap();
    assert_eq!(judged, findings);
}

#[test]
#[ignore = "boots a guest: make test"]
fn few_probes_are_enough_for_a_verdict() {
    for (kernel, code) in [("base", 1), ("v7", 0)] {
        let dir = tempfile::tempdir().unwrap();
        let output = vfrace(
            &[
                "run",
                "unbind-vs-vf-unplug",
                "--few-probes",
                "--rounds",
                "1",
                "--kernel",
                kernel,
            ],
            dir.path(),
        );
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("wrapped as few functions as possible"),
            "{said}"
        );
        let deleted = events(&dir.path().join("unbind-vs-vf-unplug").join(kernel))
            .into_iter()
            .any(|event| match event.kind {
                EventKind::Guest(record) => {
                    matches!(record.what, Observation::Enter { call, .. } if call == "device_del")
                }
                _ => false,
            });
        assert!(!deleted, "device_del was wrapped");
    }
}
