// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The verdicts that the whole thing is about, as a user gets them.

use std::path::Path;
use std::process::{Command, Output};

use vfrace::event::{Event, EventKind, Observation, Verdict};

pub fn vfrace(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap()
}

pub fn told(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}\n--- standard error:\n{err}")
}

pub fn events(dir: &Path) -> Vec<Event> {
    let file = std::fs::read_to_string(dir.join("boot-1/events.jsonl")).unwrap();
    file.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn verdict(events: &[Event]) -> Verdict {
    let judged = events.iter().find_map(|event| match event.kind {
        EventKind::Judged { verdict, .. } => Some(verdict),
        _ => None,
    });
    judged.unwrap()
}

#[test]
#[ignore = "boots a guest: make test"]
fn the_unfixed_kernel_removes_a_vf_twice() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &["run", "unbind-vs-vf-unplug", "--kernel", "base"],
        dir.path(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("DOUBLE-REMOVAL"), "{said}");
    let cell = dir.path().join("unbind-vs-vf-unplug/base");
    let events = events(&cell);
    assert_eq!(verdict(&events), Verdict::DoubleRemoval);
    // the evidence is the guest's own: two tasks in the removal body of the same VF
    let mut tasks: Vec<u32> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Guest(record) => Some(record),
            _ => None,
        })
        .filter(|record| {
            matches!(&record.what, Observation::Enter { call, function, .. }
                if call == "pci_stop_and_remove_bus_device" && function.is_some_and(|f| f.to_string() == "vf2"))
        })
        .map(|record| record.pid)
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 2, "{said}");
    // and the lost reference shows when the PF goes
    let console = std::fs::read_to_string(cell.join("boot-1/console.log")).unwrap();
    assert!(console.contains("KASAN: slab-use-after-free"), "{console}");
    for file in ["qemu.log", "command.sh"] {
        assert!(cell.join("boot-1").join(file).exists(), "{file}");
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn v7_passes_with_both_sides_shown_to_meet() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &["run", "unbind-vs-vf-unplug", "--kernel", "v7"],
        dir.path(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let events = events(&dir.path().join("unbind-vs-vf-unplug/v7"));
    let fired = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::UnplugFired { .. }))
        .count();
    let waited = events.iter().filter(|event| {
        matches!(&event.kind, EventKind::Guest(record)
            if record.comm == "vfrace-unplug" && matches!(record.what, Observation::LockWait { owner } if owner != 0))
    });
    assert_eq!((fired, waited.count()), (3, 3), "{}", told(&output));
}

#[test]
#[ignore = "boots a guest: make test"]
fn controls_pass_and_say_that_no_overlap_is_expected() {
    for (scenario, kernel) in [("unbind-alone", "base"), ("pf-remove-with-vfs", "v7")] {
        let dir = tempfile::tempdir().unwrap();
        let output = vfrace(
            &["run", scenario, "--kernel", kernel, "--rounds", "1"],
            dir.path(),
        );
        assert_eq!(
            output.status.code(),
            Some(0),
            "{scenario}: {}",
            told(&output)
        );
        assert!(
            told(&output).contains("no overlap expected"),
            "{scenario}: {}",
            told(&output)
        );
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_matrix_compares_with_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &[
            "matrix",
            "--kernels",
            "base",
            "--scenarios",
            "unbind-vs-vf-unplug",
            "--vfs",
            "1",
            "--vf",
            "1",
        ],
        dir.path(),
    );
    // a finding that is expected is good
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let matrix = std::fs::read_to_string(dir.path().join("matrix.json")).unwrap();
    assert!(
        matrix.contains("\"verdict\": \"DOUBLE-REMOVAL\""),
        "{matrix}"
    );
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_task_that_does_not_come_back_is_a_deadlock_with_its_lock_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(&["run", "pf-remove-with-vfs", "--kernel", "b1"], dir.path());
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("DEADLOCK"), "{said}");
    let events = events(&dir.path().join("pf-remove-with-vfs/b1"));
    assert_eq!(verdict(&events), Verdict::Deadlock);
    assert!(said.contains("pci_rescan_remove_lock"), "{said}");
}
