// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Races other than that of an unbind with the unplug of a VF.

use super::deadlock::{RL, WAITS_IN_DISABLE, WAITS_IN_REMOVE};
use super::verdict::{classes, told};
use crate::event::*;
use crate::oracle::builder::{HANDLER, Kernel, TEARDOWN, Tape, fixture, known, race, scenario};
use crate::oracle::{Judgement, judge, judge_round};
use crate::scenario::{Actuator, Scenario, Teardown, Unplug};

pub(super) const AT_DISABLE: &str = "teardown/pf:call:sriov_disable#0@enter";
pub(super) const UNTIL_BLOCKED: &str = "teardown first; teardown/pf:call:sriov_disable#0@enter fire until \
                             other-blocked(device_lock(pf)) <=5000ms";
pub(super) const PF: Target = Target::Function(FunctionId::Pf);

/// A scenario whose file does not matter here.
fn made(teardown: Teardown, unplug: Option<(Actuator, Target)>, rounds: u32) -> Scenario {
    let mut made = scenario("unbind-vs-vf-unplug", rounds);
    made.teardown = teardown;
    made.unplug = unplug.map(|(actuator, target)| Unplug { actuator, target });
    made
}

pub(super) fn unbind_vs_remove() -> Scenario {
    made(Teardown::Unbind, Some((Actuator::SysfsRemove, PF)), 1)
}

fn says(judgement: &Judgement, words: &str) {
    assert!(
        judgement.evidence.iter().any(|line| line.contains(words)),
        "no `{words}` in {}",
        told(judgement)
    );
}

/// An unbind that is held where it has the PF's device lock until the removal of the PF waits for that.
fn held(end: Option<HoldEnd>, status: i32) -> Tape {
    let mut tape = Tape::booted("v11");
    tape.schedule = UNTIL_BLOCKED;
    tape.ready(1);
    tape.tears(1);
    tape.at(TEARDOWN, AT_DISABLE);
    let event = tape.unplug("sysfs-remove", PF);
    if let Some(end) = end {
        tape.goes_on(TEARDOWN, AT_DISABLE, end);
    }
    for vf in 1..=3 {
        tape.remove(TEARDOWN, vf);
    }
    tape.done();
    tape.unplugged(event, status);
    tape.settled(1, 0);
    tape.after(|v| v.pf_references = -1);
    tape.finish();
    tape
}

#[test]
fn holds_that_led_where_they_should_are_the_proof() {
    let judgement = held(Some(HoldEnd::Reached), 0).judge(&unbind_vs_remove());
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn a_hold_that_came_to_nothing_shows_nothing() {
    for (end, status, words) in [
        (
            Some(HoldEnd::Bound),
            0,
            "ran into its bound before the other side waited for device_lock(pf)",
        ),
        (Some(HoldEnd::Missed), 0, "was for nothing"),
        (Some(HoldEnd::Stopped), 0, "was stopped"),
        (None, 0, "was not seen"),
        (Some(HoldEnd::Reached), -19, "refused with error 19"),
    ] {
        let judgement = held(end, status).judge(&unbind_vs_remove());
        assert_eq!(judgement.verdict, Verdict::Inconclusive, "{words}");
        says(&judgement, words);
    }
    // a point that the teardown never came to
    let mut tape = held(Some(HoldEnd::Reached), 0);
    tape.events.retain(
        |e| !matches!(&e.kind, EventKind::Guest(r) if matches!(r.what, Observation::Point { .. })),
    );
    let judgement = tape.judge(&unbind_vs_remove());
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "was never reached");
}

#[test]
fn tasks_that_follow_each_other_did_not_meet() {
    let mut tape = Tape::booted("v11");
    tape.ready(1);
    tape.tears(1);
    for vf in 1..=3 {
        tape.remove(TEARDOWN, vf);
    }
    tape.done();
    let event = tape.unplug("sysfs-remove", PF);
    tape.unplugged(event, 0);
    tape.settled(1, 0);
    tape.after(|v| v.pf_references = -1);
    tape.finish();
    let judgement = tape.judge(&unbind_vs_remove());
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "the teardown was done before the handler began");
}

/// VFs that are brought up, in a round that begins without any.
fn brought_up(left: u64, between: impl Fn(&mut Tape)) -> Tape {
    let mut tape = Tape::booted("base");
    tape.vfs = 0;
    tape.ready(1);
    tape.tears(1);
    tape.enter(TEARDOWN, "sriov_enable", FunctionId::Pf, &[]);
    for vf in 1..=3 {
        tape.add(TEARDOWN, vf);
    }
    between(&mut tape);
    tape.leave(TEARDOWN, "sriov_enable", FunctionId::Pf);
    tape.done();
    tape.settled(1, left);
    tape.finish();
    tape
}

#[test]
fn vfs_that_were_brought_up_may_be_there() {
    let alone = made(Teardown::NumvfsOn, None, 1);
    let judge = |tape: &Tape| tape.judge(&alone);
    let judgement = judge(&brought_up(3, |_| {}));
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    says(&judgement, "PF reference count 9 -> 12, expected 12");
    // one that was given back though nobody removed it
    let judgement = judge(&brought_up(2, |_| {}));
    assert_eq!(judgement.verdict, Verdict::Finding);
    assert_eq!(
        judgement
            .findings
            .iter()
            .map(|f| f.class)
            .collect::<Vec<_>>(),
        [Class::Refcount, Class::Refcount]
    );
    // a reference that was not
    let mut tape = brought_up(3, |_| {});
    tape.after(|v| v.pf_references += 1);
    assert_eq!(classes(&judge(&tape)), [(Class::Leak, Standing::Other)]);
}

#[test]
fn an_unplugged_vf_is_one_less() {
    let platform = (Actuator::Platform, Target::Function(FunctionId::Vf(2)));
    let scenario = made(Teardown::NumvfsOn, Some(platform), 1);
    let waits = |waits: bool| {
        let mut tape = brought_up(2, |tape| {
            tape.lock(TEARDOWN);
            let event = tape.fire();
            tape.seen(event);
            if waits {
                tape.guest(HANDLER, Observation::LockWait { owner: TEARDOWN });
            }
            tape.guest(TEARDOWN, Observation::LockRelease);
            tape.guest(HANDLER, Observation::LockTaken { nested: false });
            tape.remove(HANDLER, 2);
            tape.guest(HANDLER, Observation::LockRelease);
            tape.unplugged(event, 0);
        });
        tape.events
            .retain(|e| !matches!(e.kind, EventKind::Schedule { .. }));
        tape.judge(&scenario)
    };
    let judgement = waits(true);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    says(&judgement, "after sriov_enable began, waited");
    let judgement = waits(false);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "did not have to wait");
}

#[test]
fn a_handler_that_was_first_is_shown_by_the_teardowns_wait() {
    let platform = (Actuator::Platform, Target::Function(FunctionId::Vf(2)));
    let scenario = made(Teardown::Unbind, Some(platform), 1);
    let run = |waits: bool| {
        let mut tape = Tape::booted("v7");
        tape.schedule = "unplug first";
        tape.ready(1);
        let event = tape.fire();
        tape.seen(event);
        tape.lock(HANDLER);
        tape.removal_begins(HANDLER, 2);
        tape.tears(1);
        tape.enter(TEARDOWN, "sriov_disable", FunctionId::Pf, &[]);
        if waits {
            tape.guest(TEARDOWN, Observation::LockWait { owner: HANDLER });
        }
        tape.removal_ends(HANDLER, 2);
        tape.guest(HANDLER, Observation::LockRelease);
        tape.guest(TEARDOWN, Observation::LockTaken { nested: false });
        tape.unplugged(event, 0);
        tape.remove(TEARDOWN, 1);
        tape.remove(TEARDOWN, 3);
        tape.guest(TEARDOWN, Observation::LockRelease);
        tape.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
        tape.settle(1);
        tape.finish();
        tape.judge(&scenario)
    };
    let judgement = run(true);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    says(
        &judgement,
        "before sriov_disable was entered, the teardown waited 3.000 ms for pci_rescan_remove_lock held by the handler",
    );
    let judgement = run(false);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "the handler alone removed vf2");
}

#[test]
fn a_command_may_fail_where_the_schedule_has_it_fail() {
    let add = "teardown/vf3:call:pci_iov_add_virtfn#0@enter";
    let scenario = made(Teardown::NumvfsOn, None, 1);
    let run = |schedule: &'static str| {
        let mut tape = Tape::booted("base");
        tape.schedule = schedule;
        tape.vfs = 0;
        tape.ready(1);
        tape.tears(1);
        tape.enter(TEARDOWN, "sriov_enable", FunctionId::Pf, &[]);
        tape.add(TEARDOWN, 1);
        tape.add(TEARDOWN, 2);
        tape.at(TEARDOWN, add);
        tape.remove(TEARDOWN, 2);
        tape.remove(TEARDOWN, 1);
        tape.leave(TEARDOWN, "sriov_enable", FunctionId::Pf);
        tape.fails();
        tape.settled(1, 0);
        tape.finish();
        tape.judge(&scenario)
    };
    let designed = run("teardown first; teardown/vf3:call:pci_iov_add_virtfn#0@enter return -12");
    assert_eq!(designed.verdict, Verdict::Pass, "{}", told(&designed));
    let judgement = run("teardown first");
    assert_eq!(
        judgement.verdict,
        Verdict::Finding,
        "the VFs should be there"
    );
    // a teardown that fails by itself
    let mut tape = Tape::booted("base");
    tape.arm(1);
    for vf in 1..=3 {
        tape.remove(TEARDOWN, vf);
    }
    tape.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
    tape.fails();
    tape.settled(1, 0);
    tape.finish();
    let judgement = tape.judge(&made(Teardown::Unbind, None, 1));
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "the teardown's command failed");
}

/// A roll-back that removes a VF while the platform does.
#[test]
fn a_roll_back_meets_the_removal_of_a_vf() {
    let platform = (Actuator::Platform, Target::Function(FunctionId::Vf(2)));
    let scenario = made(Teardown::Bind, Some(platform), 1);
    let run = |locked: bool, forced: bool| {
        let add = "teardown/vf3:call:pci_iov_add_virtfn#0@enter";
        let mut tape = Tape::booted("base");
        tape.schedule = "teardown first; teardown/vf3:call:pci_iov_add_virtfn#0@enter return -12; \
                         teardown/vf2:call:device_del#0@enter fire until other-committed <=100ms";
        tape.vfs = 0;
        tape.ready(1);
        tape.tears(1);
        tape.enter(TEARDOWN, "sriov_enable", FunctionId::Pf, &[]);
        if locked {
            tape.lock(TEARDOWN);
        }
        tape.add(TEARDOWN, 1);
        tape.add(TEARDOWN, 2);
        if forced {
            tape.at(TEARDOWN, add);
        }
        tape.removal_begins(TEARDOWN, 2);
        let event = tape.fire();
        tape.seen(event);
        if locked {
            tape.guest(HANDLER, Observation::LockWait { owner: TEARDOWN });
        } else {
            tape.lock(HANDLER);
            tape.removal_begins(HANDLER, 2);
        }
        tape.removal_ends(TEARDOWN, 2);
        tape.remove(TEARDOWN, 1);
        if locked {
            tape.guest(TEARDOWN, Observation::LockRelease);
            tape.guest(HANDLER, Observation::LockTaken { nested: false });
        } else {
            tape.removal_ends(HANDLER, 2);
        }
        tape.guest(HANDLER, Observation::LockRelease);
        tape.unplugged(event, 0);
        tape.leave(TEARDOWN, "sriov_enable", FunctionId::Pf);
        tape.fails();
        tape.settled(1, 0);
        tape.finish();
        tape.judge(&scenario)
    };
    let judgement = run(false, true);
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
    says(
        &judgement,
        "after sriov_enable began and did not wait; both removals ran together",
    );
    let judgement = run(true, true);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    // without the error there was no roll-back to meet
    let judgement = run(true, false);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(
        &judgement,
        "the point teardown/vf3:call:pci_iov_add_virtfn#0@enter was never reached",
    );
}

#[test]
fn a_vf_that_was_created_again_can_be_removed_again() {
    let scenario = made(Teardown::NumvfsCycle, None, 1);
    let run = |adds: bool| {
        let mut tape = Tape::booted("base");
        tape.arm(1);
        for vf in 1..=3 {
            tape.remove(TEARDOWN, vf);
        }
        if adds {
            for vf in 1..=3 {
                tape.add(TEARDOWN, vf);
            }
        }
        tape.remove(HANDLER, 2);
        tape.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
        tape.done();
        tape.settled(1, 3);
        tape.finish();
        tape.judge(&scenario).verdict
    };
    assert_eq!(run(true), Verdict::Pass);
    assert_eq!(run(false), Verdict::DoubleRemoval);
}

#[test]
fn two_bodies_at_a_time_are_a_double_removal_whatever_their_way() {
    let scenario = made(Teardown::Unbind, None, 1);
    let vf = FunctionId::Vf(2);
    let call = "pci_stop_and_remove_bus_device";
    let by_slot = |together: bool, returns: bool| {
        let mut tape = Tape::booted("base");
        tape.quiet_with(|tape, at_end| {
            if at_end {
                return;
            }
            tape.enter(HANDLER, call, vf, &["pciehp_unconfigure_device"]);
            if together {
                tape.removal_begins(TEARDOWN, 2);
            }
            if returns {
                tape.leave(HANDLER, call, vf);
            }
            if together {
                tape.removal_ends(TEARDOWN, 2);
            }
        });
        tape.judge(&scenario).verdict
    };
    // quiet_with() has removed it once already: two by the lookup, and the one of the slot between them
    assert_eq!(by_slot(true, true), Verdict::DoubleRemoval);
    assert_eq!(by_slot(false, true), Verdict::Pass);
    // a return that was not seen is no proof
    assert_eq!(by_slot(false, false), Verdict::Inconclusive);
}

#[test]
fn what_is_below_a_bridge_is_removed_by_its_deletion() {
    let bridge = (Actuator::SysfsRemove, Target::Function(FunctionId::Bridge));
    let scenario = made(Teardown::Unbind, Some(bridge), 1);
    let run = |twice: bool| {
        let mut tape = Tape::booted("v14");
        tape.schedule = UNTIL_BLOCKED;
        tape.ready(1);
        tape.tears(1);
        tape.at(TEARDOWN, AT_DISABLE);
        let event = tape.unplug("sysfs-remove", Target::Function(FunctionId::Bridge));
        tape.goes_on(TEARDOWN, AT_DISABLE, HoldEnd::Reached);
        for vf in 1..=3 {
            tape.stop(HANDLER, vf);
            tape.deletion_begins(HANDLER, vf);
            if twice && vf == 2 {
                tape.remove(TEARDOWN, 2);
            }
            tape.deletion_ends(HANDLER, vf);
        }
        tape.done();
        tape.unplugged(event, 0);
        tape.settled(1, 0);
        tape.after(|v| v.pf_references = -1);
        tape.finish();
        tape.judge(&scenario)
    };
    let judgement = run(false);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    says(
        &judgement,
        "vf1, vf2 and vf3 removed once by unplug handler",
    );
    let judgement = run(true);
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
    says(&judgement, "vf2 removed TWICE");
}

#[test]
fn an_unplug_that_was_not_fired_takes_no_pf() {
    let surprise = (Actuator::PciehpSurprise, Target::Slot);
    let scenario = made(Teardown::NumvfsOn, Some(surprise), 1);
    let judgement = brought_up(3, |_| {}).judge(&scenario);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(judgement.findings.is_empty(), "{}", told(&judgement));
    says(&judgement, "no unplug was fired");
}

#[test]
fn wrapped_functions_are_entered_once() {
    let mut tape = Tape::booted("base");
    tape.arm(1);
    let call = "pci_stop_and_remove_bus_device";
    for number in 1..=3 {
        let vf = FunctionId::Vf(number);
        let callers = ["pci_iov_remove_virtfn+0x2ab/0x4d0", "sriov_disable"];
        tape.enter(TEARDOWN, call, vf, &callers);
        let wrapped: Vec<&str> = ["vfrace_wrapped", "[vfrace]", "wrap_7", "[vfrace]"]
            .into_iter()
            .chain(callers)
            .collect();
        tape.enter(TEARDOWN, call, vf, &wrapped);
        tape.stop(TEARDOWN, number);
        tape.deletion_begins(TEARDOWN, number);
        tape.deletion_ends(TEARDOWN, number);
        tape.leave(TEARDOWN, call, vf);
        tape.leave(TEARDOWN, call, vf);
    }
    tape.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
    tape.settle(1);
    tape.finish();
    let judgement = tape.judge(&made(Teardown::Unbind, None, 1));
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    // and a chain shows nothing of it
    let mut tape = Tape::booted("base");
    tape.quiet_with(|tape, at_end| {
        if !at_end {
            let callers = [
                "wrap_7+0x1/0x2",
                "[vfrace]",
                "pci_iov_remove_virtfn",
                "remove_store",
            ];
            tape.enter(HANDLER, call, FunctionId::Vf(2), &callers);
            tape.leave(HANDLER, call, FunctionId::Vf(2));
        }
    });
    let judgement = tape.judge(&made(Teardown::Unbind, None, 1));
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
    says(
        &judgement,
        "(vfrace, pid 40, CPU 1): pci_iov_remove_virtfn <- remove_store",
    );
}

#[test]
fn what_is_wanted_is_no_known_issue() {
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.console.extend(fixture("x86-unbind-baseline"));
    tape.finish();
    let mut scenario = made(Teardown::Unbind, None, 1);
    assert_eq!(tape.judge(&scenario).verdict, Verdict::Pass);
    scenario.wants = vec![Class::Assert];
    let judgement = tape.judge(&scenario);
    assert_eq!(judgement.verdict, Verdict::Finding);
    assert_eq!(classes(&judgement), [(Class::Assert, Standing::Wanted); 3]);
    // and a count as well
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.after(|v| v.pf_references += 1);
    tape.finish();
    scenario.wants = vec![Class::Leak];
    assert_eq!(
        classes(&tape.judge(&scenario)),
        [(Class::Leak, Standing::Wanted)]
    );
}

#[test]
fn a_round_is_judged_while_the_run_goes_on() {
    let vf = scenario("unbind-vs-vf-unplug", 9);
    let mut tape = Tape::booted("v7");
    tape.raced(1, Kernel::Base);
    tape.raced(2, Kernel::Locked);
    tape.ready(3);
    let verdicts: Vec<Verdict> = (1..=4).map(|n| tape.judge_round(&vf, n).verdict).collect();
    use Verdict::*;
    assert_eq!(verdicts, [DoubleRemoval, Pass, Inconclusive, Inconclusive]);
    let judgement = tape.judge_round(&vf, 2);
    insta::assert_snapshot!(told(&judgement));
    says(&tape.judge_round(&vf, 4), "round 4 was not begun");
    // what is printed belongs to the round that it is printed in
    tape.prints("kernel BUG at lib/list_debug.c:62!\n");
    assert_eq!(tape.judge_round(&vf, 2).verdict, Pass);
    assert_eq!(tape.judge_round(&vf, 3).verdict, Finding);
}

#[test]
fn schedules_that_differ_are_told_with_their_rounds() {
    let mut tape = race("v7", Kernel::Locked, 2);
    let last = tape
        .events
        .iter_mut()
        .rev()
        .find_map(|e| match &mut e.kind {
            EventKind::Schedule { text } => Some(text),
            _ => None,
        });
    *last.unwrap() = "unplug first; teardown+5ms fire".into();
    let judgement = tape.judge(&scenario("unbind-vs-vf-unplug", 2));
    says(&judgement, "round 1: schedule: teardown first; vf2:wire");
    says(
        &judgement,
        "round 2: schedule: unplug first; teardown+5ms fire",
    );
}

proptest::proptest! {
    /// Recordings come from files, files from anywhere, and the explorer judges what has just been written.
    #[test]
    fn any_part_of_any_recording_gets_a_verdict(
        order in proptest::collection::vec(0usize..200, 0..120),
        cut in 0usize..200,
        late: bool,
        round in 0u32..4,
        which in 0usize..5,
    ) {
        let mut tape = held(Some(HoldEnd::Reached), 0);
        tape.raced(2, Kernel::Base);
        tape.phase(Phase::Settle, 2);
        tape.state(Role::Teardown, RL, HANDLER, &WAITS_IN_DISABLE);
        tape.state(Role::Unplug, "device_lock(pf)", TEARDOWN, &WAITS_IN_REMOVE);
        tape.prints("INFO: task sh:88 blocked for more than 30 seconds.\n");
        let all = tape.events.clone();
        let shuffled: Vec<Event> = order.iter().filter_map(|n| all.get(*n).cloned()).collect();
        let prefix = all.get(..cut.min(all.len())).unwrap().to_vec();
        let scenarios = [
            unbind_vs_remove(),
            scenario("unbind-vs-vf-unplug", 2),
            made(Teardown::NumvfsCycle, Some((Actuator::SysfsNumvfs, PF)), 1),
            made(Teardown::Bind, Some((Actuator::PlatformDevice, Target::Function(FunctionId::Vf(2)))), 1),
            made(Teardown::Reset, Some((Actuator::PciehpSurprise, Target::Slot)), 1),
        ];
        for mut events in [shuffled, prefix] {
            if late {
                for event in &mut events {
                    if let EventKind::Guest(record) = &mut event.kind {
                        record.guest_ns = u64::MAX - record.guest_ns % 7;
                    }
                }
            }
            let whole = judge(&scenarios[which], &events, &tape.console, &known());
            proptest::prop_assert!(whole.hits <= whole.rounds);
            let one = judge_round(&scenarios[which], &events, &tape.console, &known(), round);
            proptest::prop_assert!(one.hits <= 1);
        }
    }
}
