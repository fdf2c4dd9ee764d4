// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tasks that do not come back, as the guest's own states tell it.

use super::races::{AT_DISABLE, PF, UNTIL_BLOCKED, unbind_vs_remove};
use super::verdict::told;
use crate::event::*;
use crate::oracle::Judgement;
use crate::oracle::builder::{HANDLER, TEARDOWN, THIRD, Tape};

/// The stacks are those of the two tasks as sysrq-w would print them, with the module's wrappers.
pub(super) const WAITS_IN_DISABLE: [&str; 6] = [
    "__mutex_lock+0x1/0x2",
    "sriov_disable+0x34/0x140",
    "wrap_12+0x10/0x20",
    "[vfrace]",
    "virtio_pci_remove",
    "unbind_store",
];
pub(super) const WAITS_IN_REMOVE: [&str; 5] = [
    "mutex_lock",
    "device_release_driver_internal",
    "pci_stop_bus_device",
    "remove_store",
    "vfrace_wrapped",
];

/// Two tasks that did not come back, of which the guest says what `tell` says.
fn stuck(tell: impl Fn(&mut Tape)) -> Judgement {
    let mut tape = Tape::booted("v7");
    tape.schedule = UNTIL_BLOCKED;
    tape.ready(1);
    tape.tears(1);
    tape.at(TEARDOWN, AT_DISABLE);
    tape.unplug("sysfs-remove", PF);
    tape.goes_on(TEARDOWN, AT_DISABLE, HoldEnd::Reached);
    tape.phase(Phase::Settle, 1);
    tell(&mut tape);
    tape.cut(false);
    tape.judge(&unbind_vs_remove())
}

pub(super) const RL: &str = "pci_rescan_remove_lock";

#[test]
fn a_deadlock_names_both_tasks_and_their_locks() {
    let judgement = stuck(|tape| {
        tape.state(Role::Teardown, RL, HANDLER, &WAITS_IN_DISABLE);
        tape.state(Role::Unplug, "device_lock(pf)", TEARDOWN, &WAITS_IN_REMOVE);
    });
    assert_eq!((judgement.verdict, judgement.hits), (Verdict::Deadlock, 1));
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn other_hangs_are_told_apart() {
    let title = |tell: &dyn Fn(&mut Tape)| {
        let judgement = stuck(tell);
        assert_eq!(judgement.verdict, Verdict::Deadlock);
        judgement.findings[0].title.clone()
    };
    let both = |lock: &'static str, owner, other: &'static str, owns| {
        title(&move |tape: &mut Tape| {
            tape.state(Role::Teardown, lock, owner, &["schedule", "sriov_disable"]);
            tape.state(
                Role::Unplug,
                other,
                owns,
                &["schedule", "synchronize_irq", "free_irq"],
            );
        })
    };
    let titles = [
        both(RL, TEARDOWN, RL, TEARDOWN),
        both(RL, 777, "device_lock(pf)", TEARDOWN),
        both(RL, HANDLER, "", 0),
        both(RL, 0, "0xffff888004c7a0a8", 5),
    ];
    insta::assert_snapshot!(titles.join("\n"));
}

#[test]
fn only_tasks_that_did_not_come_back_count() {
    let mut tape = Tape::booted("v7");
    tape.ready(1);
    tape.tears(1);
    let event = tape.unplug("sysfs-remove", PF);
    tape.unplugged(event, 0);
    tape.phase(Phase::Settle, 1);
    tape.state(Role::Teardown, RL, HANDLER, &["schedule"]);
    tape.state(Role::Unplug, "device_lock(pf)", TEARDOWN, &["schedule"]);
    tape.cut(false);
    let judgement = tape.judge(&unbind_vs_remove());
    assert_eq!(judgement.verdict, Verdict::Deadlock);
    assert_eq!(
        judgement.findings[0].title,
        "lost lock: teardown (sh, pid 88) waits for pci_rescan_remove_lock, held by unplug handler (vfrace-unplug, \
         pid 40), which came back with it"
    );
}

/// The same with two looks at the tasks.
fn looked_twice(
    first: impl Fn(&mut Tape),
    second: impl Fn(&mut Tape),
) -> (Option<HangKind>, String) {
    let judgement = stuck(|tape| {
        first(tape);
        second(tape);
    });
    assert_eq!(judgement.verdict, Verdict::Deadlock);
    let finding = &judgement.findings[0];
    (finding.hang, finding.title.clone())
}

const DEVICE: &str = "device_lock(pf)";

#[test]
fn a_circle_may_lead_over_a_third_task() {
    let look = |tape: &mut Tape| {
        tape.state(Role::Teardown, RL, HANDLER, &WAITS_IN_DISABLE);
        tape.state(Role::Unplug, "mutex:reset_lock", THIRD, &WAITS_IN_REMOVE);
        tape.state(Part::Other, DEVICE, TEARDOWN, &["schedule", "pciehp_ist"]);
    };
    let judgement = stuck(look);
    let finding = &judgement.findings[0];
    assert_eq!(finding.hang, Some(HangKind::AbBa));
    assert_eq!(
        finding.title,
        "AB-BA over 3 tasks: teardown (sh, pid 88) waits for pci_rescan_remove_lock, held by unplug handler \
         (vfrace-unplug, pid 40), which waits for mutex:reset_lock, held by another task (irq/24-pciehp, pid 60), which \
         waits for device_lock(pf), held by the first"
    );
    let stands = "another task (irq/24-pciehp, pid 60) stands in pciehp_ist";
    assert!(judgement.evidence.iter().any(|line| line.contains(stands)));
    let json = serde_json::to_value(finding).unwrap();
    assert_eq!(json["hang"], "ab-ba");
}

#[test]
fn hangs_have_their_kinds() {
    let holder = |tape: &mut Tape, switches, sleeps| {
        tape.state_at(Role::Teardown, RL, THIRD, &[], Some(5), Some(true));
        tape.state_at(
            Part::Other,
            "",
            0,
            &["synchronize_irq"],
            Some(switches),
            Some(sleeps),
        );
    };
    let waits = |tape: &mut Tape, owner: u32| {
        tape.state_at(Role::Teardown, RL, owner, &[], Some(5), Some(true));
    };
    let asleep = |tape: &mut Tape, switches, sleeps| {
        tape.state_at(
            Role::Teardown,
            "",
            0,
            &["schedule_timeout"],
            Some(switches),
            Some(sleeps),
        );
    };
    let cases = [
        looked_twice(|t| waits(t, TEARDOWN), |t| waits(t, TEARDOWN)),
        looked_twice(|t| waits(t, 0), |t| waits(t, 0)),
        looked_twice(|t| waits(t, THIRD), |t| waits(t, Observation::DEAD)),
        // It is given from one to the next, and this one never gets it.
        looked_twice(|t| waits(t, 777), |t| holder(t, 9, true)),
        looked_twice(|t| holder(t, 8, true), |t| holder(t, 9, true)),
        looked_twice(|t| holder(t, 9, false), |t| holder(t, 9, false)),
        looked_twice(|t| holder(t, 9, true), |t| holder(t, 9, true)),
        looked_twice(|t| asleep(t, 5, true), |t| asleep(t, 5, true)),
        looked_twice(|t| asleep(t, 5, true), |t| asleep(t, 7, true)),
        looked_twice(|t| asleep(t, 5, false), |t| asleep(t, 5, false)),
        looked_twice(|t| waits(t, 777), |t| waits(t, 777)),
    ];
    let told: Vec<String> = cases
        .iter()
        .map(|(kind, title)| format!("{kind:?}: {title}"))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn who_sleeps_with_the_lock_is_told() {
    let asleep = |tape: &mut Tape| {
        tape.state_at(
            Role::Teardown,
            "",
            0,
            &["msleep", "sriov_disable"],
            Some(5),
            Some(true),
        );
    };
    let mut tape = Tape::booted("v7");
    tape.ready(1);
    tape.tears(1);
    tape.lock(TEARDOWN);
    tape.phase(Phase::Settle, 1);
    asleep(&mut tape);
    asleep(&mut tape);
    tape.cut(false);
    let judgement = tape.judge(&unbind_vs_remove());
    assert_eq!(judgement.findings[0].hang, Some(HangKind::SleepsWithLock));
}
