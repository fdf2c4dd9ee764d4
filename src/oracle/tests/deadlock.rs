// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tasks that do not come back, as the guest's own states tell it.

use super::races::{AT_DISABLE, PF, UNTIL_BLOCKED, unbind_vs_remove};
use super::verdict::told;
use crate::event::*;
use crate::oracle::Judgement;
use crate::oracle::builder::{HANDLER, TEARDOWN, Tape};

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
