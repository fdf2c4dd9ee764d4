// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's module measures and looks at beyond calls and counts of the PF: bodies of removals by pci_dev, VFs
//! and their bus, lists, the words that variants keep about their lock.

use super::verdict::{classes, told};
use crate::arch::Arch;
use crate::event::*;
use crate::oracle::builder::{HANDLER, Kernel, TEARDOWN, Tape, control, race, scenario};
use crate::oracle::{FEW_PROBES, Judgement, shows_double_removal};

fn alone(tape: &Tape) -> Judgement {
    tape.judge(&scenario("unbind-alone", 1))
}

fn says(judgement: &Judgement, words: &str) {
    assert!(
        judgement.evidence.iter().any(|line| line.contains(words)),
        "no `{words}` in {}",
        told(judgement)
    );
}

/// A control in which `also` happens behind the removals.
fn quiet_and(also: impl Fn(&mut Tape)) -> Tape {
    let mut tape = Tape::booted("base");
    tape.quiet_with(|tape, at_end| {
        if at_end {
            also(tape);
        }
    });
    tape
}

#[test]
fn a_pci_dev_that_is_released_twice_was_removed_twice() {
    let release = "pci_release_dev";
    let tape = quiet_and(|tape| {
        tape.body(TEARDOWN, release, 2, 2);
        tape.body_ends(TEARDOWN, release, 2);
    });
    let judgement = alone(&tape);
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
    assert_eq!(
        judgement.findings[0].title,
        "pci_release_dev ran TWICE for vf2, by teardown (sh, pid 88)"
    );
    says(&judgement, "vf2: pci_release_dev by teardown (sh, pid 88)");
    assert!(shows_double_removal(&tape.events, 1));
    // the one that came after it, of the same VF: late, but another
    let tape = quiet_and(|tape| {
        tape.body(TEARDOWN, release, 2, 77);
        tape.body_ends(TEARDOWN, release, 2);
    });
    assert_eq!(alone(&tape).verdict, Verdict::Pass);
}

#[test]
fn a_pci_dev_that_is_deleted_twice_was_removed_twice() {
    // Behind the first removal, of which nothing is under way any more, and not through the lookup.
    let tape = quiet_and(|tape| {
        tape.body(HANDLER, "pci_destroy_dev", 3, 3);
        tape.body(HANDLER, "device_del", 3, 3);
        tape.body_ends(HANDLER, "device_del", 3);
        tape.body_ends(HANDLER, "pci_destroy_dev", 3);
    });
    let judgement = alone(&tape);
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
    assert_eq!(judgement.findings.len(), 1, "{}", told(&judgement));
    // one that its own check stopped is none
    let tape = quiet_and(|tape| {
        tape.body(HANDLER, "pci_destroy_dev", 3, 3);
        tape.body_ends(HANDLER, "pci_destroy_dev", 3);
    });
    assert_eq!(alone(&tape).verdict, Verdict::Pass);
}

/// Takes records away as if they had never been made.
fn without(tape: &mut Tape, gone: impl Fn(&Observation) -> bool) {
    let mut number = 0;
    tape.events
        .retain(|e| !matches!(&e.kind, EventKind::Guest(record) if gone(&record.what)));
    for event in &mut tape.events {
        if let EventKind::Guest(record) = &mut event.kind {
            record.number = number;
            number += 1;
        }
    }
}

fn is_body(what: &Observation) -> bool {
    let bodies = [
        "pci_stop_dev",
        "pci_destroy_dev",
        "device_del",
        "pci_release_dev",
    ];
    match what {
        Observation::Enter { call, .. } | Observation::Return { call, .. } => {
            bodies.contains(&call.as_str())
        }
        _ => false,
    }
}

#[test]
fn without_bodies_nothing_is_proven_unless_few_probes_were_asked_for() {
    let mut tape = control(1);
    without(&mut tape, is_body);
    let judgement = alone(&tape);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(
        &judgement,
        "pci_destroy_dev of vf2 was not observed in its removal",
    );
    for event in &mut tape.events {
        if let EventKind::RunStarted { options, .. } = &mut event.kind {
            options.push(FEW_PROBES.to_owned());
        }
    }
    let judgement = alone(&tape);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    says(&judgement, "wrapped as few functions as possible");
    // The race still shows.
    let mut tape = race("base", Kernel::Base, 1);
    without(&mut tape, is_body);
    let judgement = tape.judge(&scenario("unbind-vs-vf-unplug", 1));
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
}

#[test]
fn an_old_recording_is_judged_and_does_not_pass() {
    let old = |mut tape: Tape| {
        without(&mut tape, |what| {
            is_body(what) || matches!(what, Observation::Measured { label, .. } if label == "armed")
        });
        for event in &mut tape.events {
            match &mut event.kind {
                EventKind::Guest(GuestRecord {
                    what: Observation::Hello { version, .. },
                    ..
                }) => *version = 2,
                EventKind::Guest(GuestRecord {
                    what: Observation::Measured { values, .. },
                    ..
                }) => {
                    values.vfs = None;
                    values.lists = None;
                }
                _ => {}
            }
        }
        tape
    };
    let judgement = alone(&old(control(1)));
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(judgement.findings.is_empty());
    says(&judgement, "the guest's module spoke protocol 2");
    let judgement = old(race("base", Kernel::Base, 1)).judge(&scenario("unbind-vs-vf-unplug", 1));
    assert_eq!(judgement.verdict, Verdict::DoubleRemoval);
}

/// Changes the values of the measurement with a label.
fn change(tape: &mut Tape, wanted: &str, change: impl Fn(&mut Invariants)) {
    for event in &mut tape.events {
        if let EventKind::Guest(GuestRecord {
            what: Observation::Measured { label, values },
            ..
        }) = &mut event.kind
        {
            if label == wanted {
                change(values);
            }
        }
    }
}

#[test]
fn a_list_that_is_not_in_order_is_a_finding() {
    let defect = "devices of 0000:01: vf2 is on it, which is removed";
    for (label, title, round) in [
        ("armed", "when armed: ", Some(1)),
        ("after", "afterwards: ", Some(1)),
        ("final", "behind the last step: ", None),
    ] {
        let mut tape = control(1);
        change(&mut tape, label, |values| {
            values.lists = Some(Lists {
                walked: 9,
                entries: 40,
                defects: 1,
                defect: defect.into(),
            });
        });
        let judgement = alone(&tape);
        assert_eq!(judgement.verdict, Verdict::Finding);
        assert_eq!(
            classes(&judgement),
            [(Class::ListCorruption, Standing::Other)]
        );
        assert_eq!(judgement.findings[0].title, format!("{title}{defect}"));
        assert_eq!(judgement.findings[0].round, round);
    }
    // none that was walked is none in order
    let mut tape = control(1);
    change(&mut tape, "after", |values| values.lists = None);
    let judgement = alone(&tape);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(&judgement, "no list was walked after it");
}

#[test]
fn what_is_left_behind_the_last_step_is_a_finding() {
    type Change = fn(&mut Invariants);
    let cases: [(Change, Class); 4] = [
        (|v| v.pf_references = 2, Class::Leak),
        (
            |v| {
                v.unreleased.push(VfReferences {
                    first: FunctionId::Pf,
                    last: FunctionId::Pf,
                    references: 1,
                });
            },
            Class::Leak,
        ),
        (|v| v.vfs_released -= 1, Class::Leak),
        (|v| v.vfs_released += 1, Class::Refcount),
    ];
    for (spoil, class) in cases {
        let mut tape = control(1);
        change(&mut tape, "final", spoil);
        let judgement = alone(&tape);
        assert_eq!(classes(&judgement), [(class, Standing::Other)]);
        assert_eq!(judgement.findings[0].round, None);
    }
    let mut tape = control(1);
    without(
        &mut tape,
        |what| matches!(what, Observation::Measured { label, .. } if label == "final"),
    );
    assert_eq!(alone(&tape).verdict, Verdict::Inconclusive);
}

/// A round that leaves its VFs, with the references of vf2 as given.
fn stays(references: u32) -> Judgement {
    let mut tape = Tape::booted("base");
    tape.ready(1);
    tape.tears(1);
    tape.done();
    tape.settled(1, 3);
    tape.after(|values| {
        for row in values.vfs.iter_mut().flatten() {
            if row.first == FunctionId::Vf(2) {
                row.references = references;
            }
        }
    });
    tape.finish();
    tape.judge(&scenario("reset-alone", 1))
}

/// On s390x its slot has a reference of the bus, as it has itself.
#[test]
fn a_vf_that_stays_has_as_many_references_of_the_bus_as_its_platform_takes() {
    let judged = |on, more| {
        let mut tape = Tape::booted("base");
        for event in &mut tape.events {
            if let EventKind::RunStarted { arch, .. } = &mut event.kind {
                *arch = on;
            }
        }
        tape.ready(1);
        tape.tears(1);
        tape.done();
        tape.settled(1, 3);
        tape.after(|values| values.bus_references += more);
        tape.finish();
        tape.judge(&scenario("reset-alone", 1)).verdict
    };
    assert_eq!(judged(Arch::X86_64, 0), Verdict::Pass);
    assert_eq!(judged(Arch::X86_64, 3), Verdict::Finding);
    assert_eq!(judged(Arch::S390x, 3), Verdict::Pass);
    assert_eq!(judged(Arch::S390x, 0), Verdict::Finding);
}

#[test]
fn a_vf_that_stays_keeps_its_references() {
    assert_eq!(stays(7).verdict, Verdict::Pass, "{}", told(&stays(7)));
    for (references, class) in [(6, Class::Refcount), (8, Class::Leak)] {
        let judgement = stays(references);
        assert_eq!(classes(&judgement), [(class, Standing::Other)]);
        assert_eq!(
            judgement.findings[0].title,
            format!("vf2 reference count 7 -> {references}, expected 7")
        );
    }
}

#[test]
fn vfs_are_alike_when_armed() {
    let mut tape = control(1);
    change(&mut tape, "armed", |values| {
        if let Some(row) = values.vfs.iter_mut().flatten().next() {
            row.references = 6;
        }
    });
    let judgement = alone(&tape);
    assert_eq!(classes(&judgement), [(Class::Refcount, Standing::Other)]);
    assert_eq!(
        judgement.findings[0].title,
        "vf1 has 6 references when armed, the others 7"
    );
}

#[test]
fn a_lock_that_is_not_as_it_should_be_is_a_finding() {
    let odd = |releases, holder, owner_word, depth: Option<u64>| {
        let tape = quiet_and(move |tape| {
            tape.lock(TEARDOWN);
            tape.guest(
                TEARDOWN,
                Observation::LockOdd {
                    releases,
                    holder,
                    owner_word,
                    depth,
                    expected: depth.map(|_| 1),
                },
            );
            tape.guest(TEARDOWN, Observation::LockRelease);
        });
        let judgement = alone(&tape);
        assert_eq!(judgement.findings.len(), 1, "{}", told(&judgement));
        let finding = &judgement.findings[0];
        format!("{:?} {}", finding.class, finding.title)
    };
    let all = [
        odd(true, HANDLER, None, None),
        odd(false, 0, None, None),
        odd(true, TEARDOWN, Some(HANDLER), Some(1)),
        odd(false, TEARDOWN, Some(TEARDOWN), Some(2)),
        odd(true, TEARDOWN, None, Some(u32::MAX.into())),
        odd(true, Observation::DEAD, None, None),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn who_held_the_lock_and_who_waited_is_told() {
    let tape = quiet_and(|tape| {
        tape.lock(TEARDOWN);
        tape.guest(HANDLER, Observation::LockWait { owner: TEARDOWN });
        tape.guest(TEARDOWN, Observation::LockWait { owner: TEARDOWN });
        tape.guest(TEARDOWN, Observation::LockTaken { nested: true });
        tape.guest(TEARDOWN, Observation::LockRelease);
        tape.guest(TEARDOWN, Observation::LockRelease);
        tape.guest(HANDLER, Observation::LockTaken { nested: false });
        tape.guest(HANDLER, Observation::LockRelease);
        tape.lock(TEARDOWN);
        tape.guest(TEARDOWN, Observation::LockRelease);
    });
    says(
        &alone(&tape),
        "round 1: pci_rescan_remove_lock: teardown held it 6.000 ms in 2 times (1 nested); vfrace (pid 40) waited 5.000 \
         ms, then held it 1.000 ms",
    );
}

#[test]
fn a_pf_keeps_the_references_of_vfs_that_were_not_looked_up() {
    let run = |references: u32, by_lookup: bool| {
        let mut tape = Tape::booted("base");
        tape.ready(1);
        tape.tears(1);
        for vf in 1..=3 {
            let callers: &[&str] = match by_lookup {
                true => &["pci_iov_remove_virtfn"],
                false => &["pciehp_unconfigure_device"],
            };
            let call = "pci_stop_and_remove_bus_device";
            tape.enter(TEARDOWN, call, FunctionId::Vf(vf), callers);
            tape.stop(TEARDOWN, vf);
            tape.removal_ends(TEARDOWN, vf);
        }
        tape.settle(1);
        tape.after(|values| {
            values.pf_references = -1;
            values.unreleased.push(VfReferences {
                first: FunctionId::Pf,
                last: FunctionId::Pf,
                references,
            });
        });
        tape.finish();
        let kept = tape.events.iter().find_map(|e| match &e.kind {
            EventKind::Guest(GuestRecord {
                what: Observation::Measured { label, values },
                ..
            }) if label == "after" => Some(values.unreleased.clone()),
            _ => None,
        });
        // It does not come back with the last step.
        change(&mut tape, "final", |values| {
            values.unreleased = kept.clone().unwrap_or_default();
        });
        tape.judge(&scenario("pf-remove-with-vfs", 1))
    };
    let known = run(3, false);
    assert_eq!(known.verdict, Verdict::Pass, "{}", told(&known));
    assert_eq!(classes(&known), [(Class::Leak, Standing::Known)]);
    for (references, by_lookup) in [(4, false), (2, false), (3, true)] {
        let judgement = run(references, by_lookup);
        assert_eq!(classes(&judgement), [(Class::Leak, Standing::Other)]);
    }
}

#[test]
fn a_release_may_come_in_the_next_life() {
    let run = |released: bool| {
        let mut tape = Tape::booted("base");
        tape.ready(1);
        tape.tears(1);
        tape.remove(TEARDOWN, 1);
        tape.removal_begins(TEARDOWN, 2);
        tape.body(TEARDOWN, "pci_destroy_dev", 2, 2);
        tape.body(TEARDOWN, "device_del", 2, 2);
        tape.body_ends(TEARDOWN, "device_del", 2);
        tape.body_ends(TEARDOWN, "pci_destroy_dev", 2);
        tape.leave(
            TEARDOWN,
            "pci_stop_and_remove_bus_device",
            FunctionId::Vf(2),
        );
        tape.remove(TEARDOWN, 3);
        for vf in 1..=3 {
            tape.add(TEARDOWN, vf);
        }
        if released {
            tape.body(TEARDOWN, "pci_release_dev", 2, 2);
            tape.body_ends(TEARDOWN, "pci_release_dev", 2);
        }
        tape.done();
        tape.settled(1, 3);
        tape.finish();
        tape.judge(&scenario("numvfs-cycle-alone", 1))
    };
    let judgement = run(true);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", told(&judgement));
    let judgement = run(false);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    says(
        &judgement,
        "pci_release_dev of vf2 was not observed in its removal",
    );
}

#[test]
fn a_module_that_fails_before_a_round_is_no_pass_in_that_round() {
    let failed = || Observation::Failed {
        text: "pci_stop_dev is not there".into(),
    };
    let mut tape = Tape::booted("base");
    tape.guest(1, failed());
    tape.quiet(1);
    tape.quiet(1);
    tape.finish();
    let alone = scenario("unbind-alone", 2);
    let judgement = tape.judge(&alone);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    let told_so =
        "cannot tell: before round 1: the guest's module failed: pci_stop_dev is not there";
    assert!(
        judgement.evidence.iter().any(|e| e == told_so),
        "{judgement:?}"
    );
    let round = |n| told(&tape.judge_round(&alone, n));
    assert!(round(1).contains(told_so), "{}", round(1));
    assert!(!round(2).contains("module failed"), "{}", round(2));
}
