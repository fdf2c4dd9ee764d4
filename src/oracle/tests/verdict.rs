// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use crate::event::*;
use crate::oracle::builder::{
    HANDLER, Kernel, TEARDOWN, Tape, control, fixture, known, race, scenario,
};
use crate::oracle::{Judgement, judge};

const RACE: &str = "unbind-vs-vf-unplug";

fn of(tape: &Tape, name: &str, rounds: u32) -> Judgement {
    tape.judge(&scenario(name, rounds))
}

pub(super) fn classes(judgement: &Judgement) -> Vec<(Class, Standing)> {
    judgement
        .findings
        .iter()
        .map(|f| (f.class, f.standing))
        .collect()
}

/// What a person gets to read of it.
pub(super) fn told(judgement: &Judgement) -> String {
    let mut text = format!(
        "{} {}/{}\n",
        judgement.verdict, judgement.hits, judgement.rounds
    );
    for line in &judgement.evidence {
        text += &format!("  {line}\n");
    }
    for f in &judgement.findings {
        text += &format!(
            "  {:?} {:?} {:?}: {}",
            f.standing, f.class, f.round, f.title
        );
        text += &f
            .reason
            .as_ref()
            .map_or("\n".into(), |r| format!("\n    ({r})\n"));
    }
    text
}

#[test]
fn the_unfixed_kernel_removes_twice() {
    let judgement = of(&race("base", Kernel::Base, 2), RACE, 3);
    assert_eq!(
        (judgement.verdict, judgement.hits, judgement.rounds),
        (Verdict::DoubleRemoval, 2, 2)
    );
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn a_fixed_kernel_passes_with_its_evidence() {
    let judgement = of(&race("v7@7.2", Kernel::Locked, 3), RACE, 3);
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn a_control_expects_no_overlap() {
    let judgement = of(&control(2), "unbind-alone", 2);
    insta::assert_snapshot!(told(&judgement));
}

/// Every single event that goes missing from a run that passes must cost it the PASS, except those that only tell a
/// person what happened.
#[test]
fn a_pass_needs_every_record() {
    let scenario = scenario(RACE, 1);
    let tape = race("v7", Kernel::Locked, 1);
    assert_eq!(tape.judge(&scenario).verdict, Verdict::Pass);
    for at in 0..tape.events.len() {
        let mut events = tape.events.clone();
        let gone = events.remove(at).kind;
        let verdict = judge(&scenario, &events, &tape.console, &known()).verdict;
        let decoration = matches!(
            gone,
            EventKind::RunStarted { .. }
                | EventKind::Schedule { .. }
                | EventKind::PointReached { .. }
                | EventKind::HoldEnded { .. }
                | EventKind::Phase {
                    phase: Phase::Boot | Phase::Settle,
                    ..
                }
        );
        assert_eq!(
            verdict == Verdict::Pass,
            decoration,
            "{verdict} without {gone:?}"
        );
    }
}

/// The same when the guest had never made the record: the numbers then have no gap.
#[test]
fn a_pass_needs_what_the_records_say() {
    let scenario = scenario(RACE, 1);
    let tape = race("v7", Kernel::Locked, 1);
    let mut survived = Vec::new();
    for at in 0..tape.events.len() {
        let mut events = tape.events.clone();
        let EventKind::Guest(gone) = events.remove(at).kind else {
            continue;
        };
        for event in &mut events {
            if let EventKind::Guest(record) = &mut event.kind {
                record.number -= u64::from(record.number > gone.number);
            }
        }
        if judge(&scenario, &events, &tape.console, &known()).verdict == Verdict::Pass {
            survived.push(format!("{:?}", gone.what));
        }
    }
    // The teardown's own acquisition is shown by the handler's wait for it; the handler's release by the lock being
    // free in the end.
    insta::assert_snapshot!(survived.join("\n"));
}

#[test]
fn a_quiet_run_without_overlap_is_inconclusive() {
    // nothing fired
    let judgement = of(&control(1), RACE, 1);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("no unplug was fired")),
        "{:?}",
        judgement.evidence
    );

    // fired, but the handler came when the teardown was done
    let mut tape = Tape::booted("v7");
    tape.quiet_with(|tape, at_end| {
        if at_end {
            let event = tape.fire();
            tape.seen(event);
            tape.lock(HANDLER);
            tape.guest(HANDLER, Observation::LockRelease);
            tape.guest(HANDLER, Observation::UnplugDone { event, status: 0 });
        }
    });
    let judgement = of(&tape, RACE, 1);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("outside of the teardown")),
        "{:?}",
        judgement.evidence
    );

    // the handler came in between but had no need to wait
    let mut tape = Tape::booted("v7");
    tape.quiet_with(|tape, at_end| {
        if !at_end {
            let event = tape.fire();
            tape.seen(event);
            tape.lock(HANDLER);
            tape.guest(HANDLER, Observation::LockRelease);
            tape.guest(HANDLER, Observation::UnplugDone { event, status: 0 });
        }
    });
    let judgement = of(&tape, RACE, 1);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("did not have to wait")),
        "{:?}",
        judgement.evidence
    );
}

#[test]
fn counts_that_do_not_come_back_are_findings() {
    type Change = fn(&mut Invariants);
    let cases: [(Change, Class); 12] = [
        (|v| v.pf_references -= 1, Class::Refcount),
        // REFCOUNT_SATURATED: more than all that were ever taken, since too few were left.
        (|v| v.pf_references = 0xc000_0000, Class::Refcount),
        (|v| v.pf_references = -1, Class::Refcount),
        (|v| v.pf_references += 1, Class::Leak),
        (
            |v| {
                v.vfs_released -= 1;
                v.bus_references += 1;
            },
            Class::Leak,
        ),
        (|v| v.bus_references -= 1, Class::Refcount),
        (|v| v.bus_references += 1, Class::Leak),
        (|v| v.vf_bus_references = Some(2), Class::Leak),
        (|v| v.lock_owner_word = Some(88), Class::Leak),
        (|v| v.lock_depth = u32::MAX.into(), Class::Refcount),
        (|v| v.vfs_released += 1, Class::Refcount),
        (|v| v.lock_depth = 1, Class::Leak),
    ];
    for (change, class) in cases {
        let mut tape = Tape::booted("base");
        tape.quiet(1);
        tape.after(change);
        tape.finish();
        let judgement = of(&tape, "unbind-alone", 1);
        assert_eq!(judgement.verdict, Verdict::Finding, "{judgement:?}");
        assert_eq!(
            (classes(&judgement), judgement.hits),
            (vec![(class, Standing::Other)], 1)
        );
    }
    // dropped observations are no finding, but no PASS either
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.after(|v| v.dropped = 1);
    tape.finish();
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Inconclusive);
}

#[test]
fn a_pf_that_is_removed_for_good_is_gone_afterwards() {
    let mut tape = Tape::booted("base");
    for round in 1..=2 {
        tape.quiet(round);
        tape.after(|v| v.pf_references = -1);
    }
    tape.finish();
    let judgement = of(&tape, "pf-remove-with-vfs", 2);
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement:?}");
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.finish();
    assert_eq!(
        of(&tape, "pf-remove-with-vfs", 1).verdict,
        Verdict::Inconclusive
    );
}

#[test]
fn fewer_rounds_than_asked_for_are_no_pass() {
    assert_eq!(
        of(&race("v7", Kernel::Locked, 2), RACE, 3).verdict,
        Verdict::Inconclusive
    );
    assert_eq!(
        of(&race("v7", Kernel::Locked, 3), RACE, 3).verdict,
        Verdict::Pass
    );
}

/// A PF remove on a kernel whose lock is not reentrant.
fn self_deadlock() -> Tape {
    let mut tape = Tape::booted("naive");
    tape.measure("before", 9);
    tape.phase(Phase::Armed, 1);
    tape.phase(Phase::Teardown, 1);
    tape.guest(
        TEARDOWN,
        Observation::Task {
            role: "teardown".into(),
        },
    );
    tape.lock(TEARDOWN);
    tape.enter(TEARDOWN, "sriov_disable", FunctionId::Pf, &[]);
    tape.guest(TEARDOWN, Observation::LockWait { owner: TEARDOWN });
    tape
}

#[test]
fn a_task_that_waits_for_itself_is_deadlocked() {
    let mut tape = self_deadlock();
    tape.cut(false);
    let judgement = of(&tape, "pf-remove-with-vfs", 3);
    assert_eq!((judgement.verdict, judgement.hits), (Verdict::Deadlock, 1));
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn two_tasks_that_wait_for_each_other_are_named() {
    let mut tape = Tape::booted("v7");
    tape.arm(1);
    tape.lock(TEARDOWN);
    let event = tape.fire();
    tape.seen(event);
    tape.guest(HANDLER, Observation::LockWait { owner: TEARDOWN });
    tape.phase(Phase::Settle, 1);
    tape.measure("after", 12);
    let judgement = of(&tape, RACE, 1);
    assert_eq!(judgement.verdict, Verdict::Deadlock);
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn a_hung_task_report_alone_is_a_finding_and_with_a_cut_a_deadlock() {
    let hung = "[    9.000000][   T21] INFO: task sh:88 blocked for more than 30 seconds.\n";
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.prints(hung);
    tape.finish();
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Finding);

    let mut tape = Tape::booted("base");
    tape.arm(1);
    tape.prints(hung);
    tape.cut(false);
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Deadlock);
}

#[test]
fn a_guest_that_dies_without_a_word_is_silent() {
    let mut tape = Tape::booted("base");
    tape.arm(1);
    tape.cut(false);
    let judgement = of(&tape, "unbind-alone", 1);
    assert_eq!(judgement.verdict, Verdict::Silent, "{judgement:?}");
    // with a word, it is a finding
    tape.prints("[    9.000000][   T88] Oops: general protection fault: 0000 [#1] SMP KASAN\n");
    let judgement = of(&tape, "unbind-alone", 1);
    assert_eq!((judgement.verdict, judgement.hits), (Verdict::Finding, 1));
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("did not come back (after: Oops")),
        "{judgement:?}"
    );
    // a known issue is not the word
    let mut tape = Tape::booted("base");
    tape.arm(1);
    tape.prints("WARNING: drivers/pci/remove.c:127 at pci_stop_and_remove_bus_device+0x70/0x90, CPU#0: sh/88\n");
    tape.cut(false);
    let judgement = of(&tape, "unbind-alone", 1);
    assert_eq!(judgement.verdict, Verdict::Silent);
    assert_eq!(classes(&judgement), [(Class::Assert, Standing::Known)]);
}

#[test]
fn the_machine_comes_first() {
    let mut tape = race("base", Kernel::Base, 1);
    tape.cut(true);
    assert_eq!(of(&tape, RACE, 1).verdict, Verdict::Infra);
    assert_eq!(of(&tape, RACE, 1).rounds, 1);
    let mut tape = Tape::begun("base");
    tape.cut(true);
    assert_eq!(of(&tape, RACE, 1).verdict, Verdict::Infra);
}

#[test]
fn a_kernel_that_does_not_boot() {
    let mut tape = Tape::begun("base");
    tape.prints("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n");
    tape.cut(false);
    let judgement = of(&tape, RACE, 1);
    assert_eq!(judgement.verdict, Verdict::BootFail);
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("Unable to mount root")),
        "{judgement:?}"
    );
    assert!(judgement.findings.is_empty());
    // init answers, but something dies before the run is armed
    let mut tape = Tape::booted("base");
    tape.cut(false);
    assert_eq!(of(&tape, RACE, 1).verdict, Verdict::Inconclusive);
    tape.prints("Oops: general protection fault: 0000 [#1] SMP KASAN\n");
    assert_eq!(of(&tape, RACE, 1).verdict, Verdict::BootFail);
    assert_eq!(
        judge(&scenario(RACE, 1), &[], &[], &known()).verdict,
        Verdict::BootFail
    );
}

/// The console of a real double put, as the last step of a run.
fn with_console(kernel: &str, how: Kernel) -> Tape {
    let mut tape = Tape::booted(kernel);
    tape.console = fixture("x86-boot-noise-kasan");
    tape.raced(1, how);
    tape.phase(Phase::FinalRemove, 0);
    tape.console.extend(fixture("x86-double-put-s_h2_op3_vf3"));
    tape
}

#[test]
fn damage_after_a_double_removal_belongs_to_it() {
    let mut tape = with_console("base", Kernel::Base);
    tape.cut(false);
    let judgement = of(&tape, RACE, 3);
    assert_eq!(
        (judgement.verdict, judgement.hits),
        (Verdict::DoubleRemoval, 1)
    );
    insta::assert_snapshot!(told(&judgement));
}

#[test]
fn damage_without_a_double_removal_is_somebody_elses() {
    let mut tape = with_console("v7", Kernel::Locked);
    tape.done();
    tape.phase(Phase::PowerOff, 0);
    let judgement = of(&tape, RACE, 1);
    assert_eq!(judgement.verdict, Verdict::Finding);
    let other = Standing::Other;
    assert_eq!(
        classes(&judgement),
        [(Class::UseAfterFree, other), (Class::ListCorruption, other)]
    );
}

#[test]
fn known_issues_change_nothing() {
    let with = |kernel: &str| {
        let mut tape = Tape::booted(kernel);
        tape.quiet(1);
        tape.console.extend(fixture("x86-unbind-baseline"));
        tape.finish();
        of(&tape, "unbind-alone", 1)
    };
    let judgement = with("base");
    assert_eq!(judgement.verdict, Verdict::Pass);
    assert_eq!(classes(&judgement), [(Class::Assert, Standing::Known); 3]);
    assert!(
        judgement
            .findings
            .iter()
            .all(|f| f.reason.is_some() && f.console.is_some() && f.round == Some(1))
    );
    // where they are not known, they are findings
    let judgement = with("v7");
    assert_eq!(judgement.verdict, Verdict::Finding);
    assert!(
        judgement.evidence.iter().any(|e| e == "class ASSERT"),
        "{judgement:?}"
    );
}

#[test]
fn a_module_that_fails_in_a_round_is_no_pass() {
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.guest(
        1,
        Observation::Failed {
            text: "kretprobe missed 3".into(),
        },
    );
    tape.finish();
    let judgement = of(&tape, "unbind-alone", 1);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement.evidence.iter().any(|e| e.contains("missed 3")),
        "{judgement:?}"
    );
}

#[test]
fn a_removal_by_another_way_than_the_lookup_does_not_count() {
    let mut tape = Tape::booted("base");
    tape.quiet_with(|tape, at_end| {
        if !at_end {
            tape.enter(
                HANDLER,
                "pci_stop_and_remove_bus_device",
                FunctionId::Vf(2),
                &["pciehp_unconfigure_device"],
            );
            tape.leave(HANDLER, "pci_stop_and_remove_bus_device", FunctionId::Vf(2));
        }
    });
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Pass);
    tape = Tape::booted("base");
    tape.quiet_with(|tape, at_end| {
        if !at_end {
            tape.removal_begins(HANDLER, 2);
            tape.removal_ends(HANDLER, 2);
        }
    });
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::DoubleRemoval);
}

#[test]
fn a_console_with_a_hole_is_no_pass() {
    let mut tape = control(1);
    let end = tape.console.len() as u64;
    tape.prints("** 12 printk messages dropped **\n");
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Inconclusive);
    // before the run was armed it does not matter
    for event in &mut tape.events {
        if let EventKind::Phase { console, .. } = &mut event.kind {
            *console = end + 40;
        }
    }
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Pass);
}

#[test]
fn a_run_with_lockdep_off_says_so() {
    let mut tape = control(1);
    tape.prints("INFO: lockdep is turned off.\n");
    let judgement = of(&tape, "unbind-alone", 1);
    assert_eq!(judgement.verdict, Verdict::Pass);
    assert!(
        judgement
            .evidence
            .iter()
            .any(|e| e.contains("lockdep went off")),
        "{judgement:?}"
    );
}

#[test]
fn a_final_removal_that_hangs_is_not_a_pass() {
    let mut tape = Tape::booted("base");
    tape.quiet(1);
    tape.phase(Phase::FinalRemove, 0);
    tape.cut(false);
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Silent);
    tape.phase(Phase::PowerOff, 0);
    assert_eq!(of(&tape, "unbind-alone", 1).verdict, Verdict::Deadlock);
}

proptest::proptest! {
    /// Recordings come from files, and files from anywhere.
    #[test]
    fn any_recording_gets_a_verdict(
        order in proptest::collection::vec(0usize..200, 0..120),
        which: bool,
        armed: u64,
    ) {
        let kernel = if which { Kernel::Base } else { Kernel::Locked };
        let mut tape = race("v7", kernel, 2);
        tape.console.extend(fixture("x86-pciehp-surprise"));
        let all = tape.events.clone();
        tape.events = order.iter().filter_map(|n| all.get(*n).cloned()).collect();
        for event in &mut tape.events {
            match &mut event.kind {
                EventKind::Phase { console, .. } => *console = armed % 9000,
                EventKind::Guest(record) if armed % 3 == 0 => record.guest_ns = u64::MAX - record.guest_ns % 7,
                _ => {}
            }
        }
        let judgement = of(&tape, RACE, 2);
        // a PASS that comes out of a shuffled recording would have to be the recording itself
        if judgement.verdict == Verdict::Pass {
            proptest::prop_assert_eq!(&tape.events, &all);
        }
        proptest::prop_assert!(judgement.hits <= judgement.rounds);
    }
}

/// A scenario that looks for what lockdep prints, after a report that turned lockdep off.
#[test]
fn lockdep_that_is_off_acquits_nobody() {
    let splat = "[    0.600000][    T1] WARNING: bad unlock balance detected!\n";
    let told = |early: bool, name: &str| {
        let mut tape = Tape::booted("v7");
        if early {
            tape.prints(splat);
        }
        tape.quiet(1);
        tape.finish();
        if !early {
            tape.prints("[    9.600000][    T1] INFO: lockdep is turned off.\n");
        }
        of(&tape, name, 1)
    };
    let off = told(true, "unbind-lockdep");
    assert_eq!(off.verdict, Verdict::Inconclusive, "{}", self::told(&off));
    let says = |j: &Judgement, text: &str| j.evidence.iter().any(|line| line.contains(text));
    assert!(says(&off, "lockdep went off before the first round"));
    assert!(says(&off, "round 1: lockdep was off"));

    let later = told(false, "unbind-lockdep");
    assert_eq!(later.verdict, Verdict::Pass, "{}", self::told(&later));
    assert!(says(&later, "lockdep went off after the rounds"));

    // Another scenario rests on other things, and says what it did not have.
    let other = told(true, "unbind-alone");
    assert_eq!(other.verdict, Verdict::Pass, "{}", self::told(&other));
    assert!(says(&other, "lockdep went off before the first round"));
}
