// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn boot(verdict: Verdict) -> Judgement {
    Judgement {
        verdict,
        findings: Vec::new(),
        evidence: vec!["schedule: x".to_owned(), "round 3: never met".to_owned()],
        hits: 0,
        rounds: 3,
    }
}

fn found(verdict: Verdict, class: Class, title: &str, standing: Standing) -> Judgement {
    let mut finding = Finding::new(class, title, standing);
    finding.round = Some(1);
    Judgement {
        findings: vec![finding],
        rounds: 1,
        ..boot(verdict)
    }
}

fn removed_twice() -> Judgement {
    let title = "vf2 removed TWICE";
    found(
        Verdict::DoubleRemoval,
        Class::DoubleRemoval,
        title,
        Standing::Wanted,
    )
}

fn lost_reference() -> Judgement {
    let title = "PF reference count 4 -> 3, expected 4";
    found(Verdict::Finding, Class::Refcount, title, Standing::Other)
}

fn decided(goal: Goal, wanted: &str, boots: &[Judgement]) -> (Decision, String) {
    let wanted = match wanted {
        "" => Wanted::Scenario,
        text => text.parse().unwrap(),
    };
    match next(goal, &wanted, boots, 3) {
        Step::Over(decided) => (decided.decision, decided.reason),
        Step::Boot(more) => panic!("{more} more boots"),
    }
}

fn more(goal: Goal, boots: &[Judgement]) -> u32 {
    match next(goal, &Wanted::Scenario, boots, 3) {
        Step::Boot(more) => more,
        Step::Over(decided) => panic!("{decided}"),
    }
}

const TWO: Goal = Goal::Boots(2);

#[test]
fn only_the_wanted_finding_is_bad() {
    let (decision, reason) = decided(TWO, "", &[boot(Verdict::Pass), removed_twice()]);
    assert_eq!(decision, Decision::Bad);
    assert_eq!(
        reason,
        "DOUBLE-REMOVAL: vf2 removed TWICE (boot 2, round 1)"
    );
    // The same kernel, when another finding is looked for.
    let (decision, reason) = decided(TWO, "refcount", &[removed_twice()]);
    assert_eq!(decision, Decision::CannotTell);
    assert_eq!(
        reason,
        "not the wanted finding but DOUBLE-REMOVAL: vf2 removed TWICE"
    );
    let wanted = "REFCOUNT: PF reference count";
    assert_eq!(decided(TWO, wanted, &[lost_reference()]).0, Decision::Bad);
    let (decision, _) = decided(TWO, "REFCOUNT: VF reference count", &[lost_reference()]);
    assert_eq!(decision, Decision::CannotTell);
    assert_eq!(
        decided(TWO, "", &[lost_reference()]).0,
        Decision::CannotTell
    );
}

#[test]
fn a_known_issue_counts_when_it_is_asked_for_by_name() {
    let warns = found(Verdict::Pass, Class::Assert, "WARNING: x", Standing::Known);
    assert_eq!(
        decided(TWO, "ASSERT", std::slice::from_ref(&warns)).0,
        Decision::Bad
    );
    let (decision, reason) = decided(TWO, "", &[warns.clone(), warns]);
    assert_eq!(
        (decision, reason.as_str()),
        (Decision::Good, "PASS in 2 rounds of 2 boots")
    );
}

#[test]
fn what_is_neither_good_nor_bad_is_skipped_at_once() {
    for (verdict, times) in [(Verdict::BootFail, 2), (Verdict::Silent, 1)] {
        let mut boots = vec![boot(Verdict::Pass)];
        boots.extend(vec![boot(verdict); times]);
        let (decision, reason) = decided(TWO, "", &boots);
        assert_eq!(decision, Decision::CannotTell);
        assert_eq!(reason, format!("{verdict}: schedule: x"));
        assert_eq!(decision.exit(), ExitCode::CannotTell);
    }
    // Once is not enough: the machine may have been busy.
    assert_eq!(more(TWO, &[boot(Verdict::BootFail)]), 2);
    // The finding tells more than a boot that failed before.
    let boots = [
        boot(Verdict::BootFail),
        boot(Verdict::BootFail),
        removed_twice(),
    ];
    assert_eq!(decided(TWO, "", &boots).0, Decision::Bad);
}

#[test]
fn boots_that_never_overlap_are_repeated_and_then_given_up() {
    let (pass, apart) = (boot(Verdict::Pass), boot(Verdict::Inconclusive));
    assert_eq!(more(TWO, &[apart.clone(), apart.clone()]), 2);
    let (decision, reason) = decided(TWO, "", &vec![apart.clone(); 3]);
    assert_eq!(decision, Decision::CannotTell);
    assert_eq!(reason, "INCONCLUSIVE in 3 of 3 boots, round 3: never met");
    let boots = [apart.clone(), pass.clone(), apart.clone(), apart, pass];
    assert_eq!(decided(TWO, "", &boots).0, Decision::Good);
}

#[test]
fn the_machine_gets_three_chances() {
    let infra = boot(Verdict::Infra);
    assert_eq!(more(TWO, &[infra.clone(), infra.clone()]), 2);
    let (decision, reason) = decided(TWO, "", &vec![infra; 3]);
    assert_eq!(decision, Decision::Infrastructure);
    assert_eq!(reason, "3 boots failed, schedule: x");
    assert!(decision.exit().code() >= 128);
}

#[test]
fn an_error_asks_for_so_many_clean_rounds() {
    let goal = |hits, of, most_boots| Goal::Error {
        error: 0.01,
        reference: Rate::new(hits, of),
        most_boots,
    };
    let pass = boot(Verdict::Pass);
    // C(5,5)/C(5+N,5) <= 0.01 from N = 5 on: two boots of three rounds.
    assert_eq!(more(goal(5, 5, 20), &[]), 2);
    assert_eq!(more(goal(5, 5, 20), std::slice::from_ref(&pass)), 1);
    let (decision, reason) = decided(goal(5, 5, 20), "", &vec![pass.clone(); 2]);
    assert_eq!(decision, Decision::Good);
    assert_eq!(
        reason,
        "PASS in 6 rounds of 2 boots; reference 5/5, missed with p <= 0.005"
    );
    // One hit in 20: hopeless with 20 boots.
    assert_eq!(more(goal(1, 20, 2), &[]), 2);
    let (decision, reason) = decided(goal(1, 20, 2), "", &vec![pass.clone(); 2]);
    assert_eq!(decision, Decision::CannotTell);
    assert!(reason.contains("no more than 2 boots"), "{reason}");
    assert_eq!(decided(goal(0, 20, 2), "", &[pass]).0, Decision::CannotTell);
}

#[test]
fn a_rate_is_known_when_the_other_kernel_needs_no_more_rounds() {
    assert!(!is_rate_known(Rate::new(4, 4), 0.01));
    assert!(is_rate_known(Rate::new(5, 5), 0.01));
    assert!(!is_rate_known(Rate::new(0, 500), 0.5));
    assert!(!is_rate_known(Rate::new(5, 50), 1e-9));
}

#[test]
fn rounds_are_counted_once_however_much_they_show() {
    let mut twice = removed_twice();
    twice.rounds = 3;
    twice.findings.push(twice.findings[0].clone());
    let mut late = twice.findings[0].clone();
    late.round = Some(2);
    twice.findings.push(late);
    assert_eq!(Wanted::Scenario.hits(&twice), 2);
    for finding in &mut twice.findings {
        finding.round = None;
    }
    assert_eq!(Wanted::Scenario.hits(&twice), 1);
    let boots = [twice, boot(Verdict::Pass), boot(Verdict::Inconclusive)];
    let tally = Tally::of(&boots, &Wanted::Scenario);
    assert_eq!((tally.boots, tally.clean_boots), (3, 1));
    assert_eq!(tally.rate(), Rate::new(1, 6));
}

#[test]
fn what_is_wanted_reads_as_it_is_written() {
    for text in ["REFCOUNT", "LEAK: PF reference count"] {
        assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
    }
    assert_eq!("leak: ".parse::<Wanted>().unwrap().to_string(), "LEAK");
    assert!("".parse::<Wanted>().is_err());
    assert!("FINDING".parse::<Wanted>().is_err());
}

#[test]
fn a_build_error_is_one_line() {
    let decided = Decided::does_not_build("v7 does not build (exit status 2)\n  ld: x");
    assert_eq!(
        decided.to_string(),
        "cannot tell: the kernel does not build: v7 does not build (exit status 2)"
    );
}
