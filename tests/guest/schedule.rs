// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Schedules on real guests: tasks held at call points, unplugs of every kind, replay, the search.

use std::path::Path;
use std::process::Output;

use vfrace::event::{Event, EventKind, HoldEnd, Observation, Verdict};

use crate::campaign::{events, told, verdict, vfrace};

/// What was reached and how holds ended, in order.
fn points(events: &[Event]) -> Vec<String> {
    let said = |event: &Event| match &event.kind {
        EventKind::PointReached { point } => Some(format!("at {point}")),
        EventKind::HoldEnded { point, end, .. } => Some(format!("{end:?} {point}")),
        EventKind::UnplugFired { target, .. } => Some(format!("fired {target}")),
        EventKind::Guest(record) => match &record.what {
            Observation::Point { point } => Some(format!("at {point}")),
            Observation::HoldOver { point, end, .. } => Some(format!("{end:?} {point}")),
            Observation::UnplugSeen { .. } => Some("seen".to_owned()),
            Observation::UnplugDone { .. } => Some("done".to_owned()),
            _ => None,
        },
        _ => None,
    };
    events.iter().filter_map(said).collect()
}

/// One round of the race of unbind and VF unplug with another schedule.
fn play(kernel: &str, schedule: &str, out: &Path) -> (Output, Vec<Event>) {
    let scenario = "unbind-vs-vf-unplug";
    let output = vfrace(
        &[
            "run",
            scenario,
            "--kernel",
            kernel,
            "--rounds",
            "1",
            "--schedule",
            schedule,
        ],
        out,
    );
    let events = events(&out.join(scenario).join(kernel));
    (output, events)
}

#[test]
#[ignore = "boots a guest: make test"]
fn removing_and_unbinding_the_pf_at_once_deadlocks_on_v7_and_not_on_v11() {
    let dir = tempfile::tempdir().unwrap();
    let scenario = "unbind-vs-pf-remove";
    let arguments = ["run", scenario, "--kernel", "v7", "--rounds", "1"];
    let output = vfrace(&arguments, dir.path());
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(
        verdict(&events(&dir.path().join(scenario).join("v7"))),
        Verdict::Deadlock
    );
    for words in [
        "AB-BA: teardown",
        "holds device_lock(pf) and waits for pci_rescan_remove_lock, held by unplug handler",
        "which waits for device_lock(pf)",
        "stands in sriov_del_vfs <- sriov_disable",
        "<- remove_store",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let arguments = ["run", scenario, "--kernel", "v11", "--rounds", "2"];
    let output = vfrace(&arguments, dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
}

#[test]
#[ignore = "boots a guest: make test"]
fn the_slot_loses_its_card_while_the_pf_is_unbound() {
    let dir = tempfile::tempdir().unwrap();
    let scenario = "unbind-vs-surprise";
    let output = vfrace(
        &["run", scenario, "--kernel", "v7", "--rounds", "1"],
        dir.path(),
    );
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // the other task is the kernel's own: the interrupt thread of the hotplug port
    assert!(said.contains("AB-BA: teardown"), "{said}");
    assert!(said.contains("pciehp_unconfigure_device"), "{said}");
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_schedule_is_replayed_from_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let schedule = "teardown first; \
                    teardown/vf2:call:device_del#0@enter fire until other-at(unplug/vf2:call:pci_stop_and_remove_bus_device#0@enter) <=3000ms; \
                    unplug/vf2:call:pci_stop_and_remove_bus_device#0@enter until other-rests <=3000ms";
    let mut orders = Vec::new();
    for run in ["a", "b"] {
        let out = dir.path().join(run);
        let (output, events) = play("base", schedule, &out);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(verdict(&events), Verdict::DoubleRemoval, "{said}");
        let printed = events.iter().find_map(|event| match &event.kind {
            EventKind::Schedule { text } => Some(text.clone()),
            _ => None,
        });
        assert_eq!(printed.as_deref(), Some(schedule));
        orders.push(points(&events));
    }
    assert!(!orders.first().unwrap().is_empty());
    assert_eq!(orders.first(), orders.last());
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_hold_that_nobody_ends_is_no_proof() {
    let dir = tempfile::tempdir().unwrap();
    // the handler never comes there, and is done before the bound
    let schedule =
        "teardown/pf:call:sriov_disable fire until other-at(unplug/pf:call:sriov_enable) <=5000ms";
    let (output, events) = play("v7", schedule, dir.path());
    let said = told(&output);
    assert_eq!(output.status.code(), Some(125), "{said}");
    let ended = events.iter().find_map(|event| match &event.kind {
        EventKind::Guest(record) => match record.what {
            Observation::HoldOver { end, .. } => Some(end),
            _ => None,
        },
        _ => None,
    });
    assert!(
        matches!(ended, Some(HoldEnd::Bound | HoldEnd::Missed)),
        "{said}"
    );
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_point_that_the_kernel_lacks_is_refused_before_anything_boots() {
    let dir = tempfile::tempdir().unwrap();
    for (call, why) in [
        ("pci_no_such_function", "no such function in this kernel"),
        ("vm_get_page_prot", "notrace"),
    ] {
        let schedule = format!("teardown/any:call:{call} fire until other-done");
        let output = vfrace(
            &["run", "unbind-vs-vf-unplug", "--schedule", &schedule],
            dir.path(),
        );
        let said = told(&output);
        assert_eq!(output.status.code(), Some(129), "{said}");
        assert!(said.contains(call) && said.contains(why), "{said}");
        assert!(said.contains("vfrace points --kernel base"), "{said}");
    }
    assert!(!Path::new(&dir.path().join("unbind-vs-vf-unplug")).exists());
}

#[test]
#[ignore = "boots a guest: make test"]
fn the_search_finds_the_double_removal_without_a_point() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &[
            "explore",
            "unbind-vs-vf-unplug",
            "--kernel",
            "base",
            "--budget",
            "60",
            "--stop-at-first",
        ],
        dir.path(),
    );
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("found by schedule"), "{said}");
    assert!(said.contains("--schedule '"), "{said}");
    assert!(dir.path().join("explore.json").exists());
}

#[test]
#[ignore = "boots a guest: make test"]
fn the_unplug_may_go_first() {
    let dir = tempfile::tempdir().unwrap();
    // the handler is past its lookup, and waits there until the teardown is so as well
    let schedule = "unplug first; unplug/vf2:call:pci_stop_and_remove_bus_device fire until \
                    other-at(teardown/vf2:call:pci_stop_and_remove_bus_device) <=8000ms";
    let (output, events) = play("base", schedule, dir.path());
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(verdict(&events), Verdict::DoubleRemoval, "{said}");
    let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).unwrap();
    let held = place(&|event| {
        matches!(&event.kind, EventKind::Guest(record)
            if matches!(record.what, Observation::Point { .. }))
    });
    let torn_down = place(&|event| {
        matches!(&event.kind, EventKind::Guest(record)
            if matches!(record.what, Observation::Task { .. }))
    });
    assert!(held < torn_down, "{said}");
}
