// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::Path;

use super::fake::{asked, file, judgement, result, results};
use crate::campaign::{Amount, Asked, Results, Table};
use crate::event::{Class, Finding, Standing, Verdict};
use crate::exit::ExitCode;
use crate::oracle::{Expectations, Judgement};

use Verdict::{BuildFail, DoubleRemoval, Inconclusive, Pass};

/// The table with what should come out of `s` on each kernel.
fn table(asked: &Asked, results: &Results, expected: &[(&str, &str)]) -> Table {
    let row = |(kernel, row): &(&str, &str)| {
        format!(
            "[[expect]]\nscenarios = [\"s\"]\nkernels = [\"{kernel}\"]\nreason = \"r\"\n{row}\n"
        )
    };
    let text: String = expected.iter().map(row).collect();
    let expected: Expectations = toml::from_str(&text).unwrap();
    Table::new(
        &file(asked),
        results,
        &expected,
        None,
        Path::new("results/x"),
    )
}

#[test]
fn an_expected_finding_is_good_and_an_unexpected_pass_is_not() {
    let asked = asked(&["s on base"], Amount::Boots(1));
    let double = ("base", "verdict = \"DOUBLE-REMOVAL\"");
    let exit = |verdict, expected: &[(&str, &str)]| {
        table(&asked, &results(&asked, &[&[verdict]]), expected).exit(false)
    };
    assert_eq!(exit(DoubleRemoval, &[double]), ExitCode::Good);
    assert_eq!(exit(Pass, &[double]), ExitCode::Bad);
    assert_eq!(exit(Pass, &[]), ExitCode::Good);
    assert_eq!(exit(DoubleRemoval, &[]), ExitCode::Bad);
    assert_eq!(exit(Inconclusive, &[]), ExitCode::CannotTell);
    assert_eq!(exit(Verdict::Infra, &[double]), ExitCode::Infrastructure);
    let nothing = table(&asked, &Results::new(), &[]);
    assert!(nothing.outcomes.is_empty());
    assert_eq!(
        (nothing.missing, nothing.exit(false)),
        (1, ExitCode::CannotTell)
    );
    assert_eq!(nothing.missing_of, [("s on base".to_owned(), 1)]);
    assert_eq!(nothing.exit(true), ExitCode::Interrupted);
}

#[test]
fn the_right_verdict_for_another_reason_is_bad() {
    let asked = asked(&["s on m"], Amount::Boots(2));
    let found = |boot, class, title: &str| {
        let judgement = Judgement {
            findings: vec![
                Finding::new(Class::Assert, "known", Standing::Known),
                Finding::new(class, title, Standing::Other),
            ],
            ..judgement(Verdict::Finding)
        };
        ((0, boot), result(&asked, 0, boot, judgement))
    };
    let of = |boots: Vec<_>| {
        let expected = "verdict = \"FINDING\"\nclass = \"REFCOUNT\"\ntitle = \"PF\"";
        table(&asked, &boots.into_iter().collect(), &[("m", expected)])
    };
    let right = found(1, Class::Refcount, "PF 4 -> 3");
    let good = of(vec![right.clone()]);
    assert!(good.outcomes[0].as_expected);
    assert_eq!(good.outcomes[0].seen.as_ref().unwrap().title, "PF 4 -> 3");
    // One boot of two that has the verdict and not the reason.
    let wrong = found(2, Class::Leak, "PF 4 -> 5");
    assert_eq!(of(vec![right, wrong.clone()]).exit(false), ExitCode::Bad);
    let bad = of(vec![wrong]);
    assert_eq!(bad.exit(false), ExitCode::Bad);
    assert_eq!(bad.outcomes[0].seen.as_ref().unwrap().title, "PF 4 -> 5");
}

#[test]
fn a_kernel_that_does_not_build_has_a_verdict() {
    let mut asked = asked(&["s on v7+rt", "s on v6+rt"], Amount::Boots(1));
    let why = "ld: probe.c: undefined reference to `pci_lock'";
    asked.cells[0].kernel_id = None;
    asked.cells[0].build_failure = Some(why.to_owned());
    let results = results(&asked, &[&[], &[Pass]]);
    let expected = (
        "v7+rt",
        "verdict = \"BUILD-FAIL\"\nclass = \"BUILD\"\ntitle = \"undefined reference\"",
    );
    let told = table(&asked, &results, &[expected]);
    let outcome = &told.outcomes[0];
    assert_eq!((outcome.verdict, outcome.as_expected), (BuildFail, true));
    assert_eq!(outcome.seen.as_ref().unwrap().title, why);
    assert_eq!((told.missing, told.exit(false)), (0, ExitCode::Good));
    assert_eq!(
        table(&asked, &results, &[]).exit(false),
        ExitCode::CannotTell
    );
    let other = (
        "v7+rt",
        "verdict = \"BUILD-FAIL\"\nclass = \"BUILD\"\ntitle = \"does not apply\"",
    );
    assert!(!table(&asked, &results, &[other]).outcomes[0].as_expected);
}

#[test]
fn a_pass_says_how_sure_it_is() {
    let asked = asked(
        &["s on base", "s on v7", "s on v9", "t on v7"],
        Amount::Boots(20),
    );
    let results = results(
        &asked,
        &[
            &[DoubleRemoval; 20],
            &[Pass; 20],
            &[Inconclusive, Pass],
            &[Pass],
        ],
    );
    let table = table(&asked, &results, &[]);
    let [base, v7, v9, alone] = table.outcomes.as_slice() else {
        panic!("four combinations")
    };
    assert!(base.bound.is_none());
    assert!(base.interval.unwrap().low > 0.83);
    let bound = v7.bound.as_ref().unwrap();
    assert_eq!(
        (bound.reference.as_str(), bound.rate.hits, bound.rate.of),
        ("base", 20, 20)
    );
    // 1 / C(80, 20)
    assert!(
        bound.false_pass < 1e-18 && bound.false_pass > 1e-19,
        "{bound:?}"
    );
    assert_eq!(bound.needed, None);
    assert_eq!(v9.verdict, Inconclusive);
    assert_eq!((v9.tally.clean, v9.tally.rounds), (3, 6));
    assert_eq!(v9.verdicts, [(Inconclusive, 1), (Pass, 1)]);
    assert!(alone.bound.is_none());
    assert_eq!(
        table.missing_of,
        [("s on v9".to_owned(), 18), ("t on v7".to_owned(), 19)]
    );
    assert_eq!(table.missing, 37);
}

#[test]
fn where_an_error_is_asked_for_boots_without_an_overlap_do_not_count() {
    let amount = |error| Amount::Error {
        error,
        most_boots: 50,
    };
    let cells = ["s on base", "s on v7"];
    let all: [&[Verdict]; 2] = [&[DoubleRemoval; 5], &[Inconclusive, Pass, Pass]];
    let of = |error| {
        let asked = asked(&cells, amount(error));
        let table = table(&asked, &results(&asked, &all), &[]);
        (
            table.outcomes[1].verdict,
            table.outcomes[1].bound.clone().unwrap().needed,
            table.missing,
        )
    };
    // 1 / C(11, 5) = 1/462
    assert_eq!(of(0.01), (Pass, Some(0), 0));
    assert_eq!(of(0.002), (Inconclusive, Some(1), 2));
    // Anything else does.
    let asked = asked(&cells, amount(0.01));
    let results = results(
        &asked,
        &[&[DoubleRemoval; 5], &[Verdict::Infra, Pass, Pass]],
    );
    assert_eq!(
        table(&asked, &results, &[]).outcomes[1].verdict,
        Verdict::Infra
    );
}

#[test]
fn errors_are_numbers_or_percent() {
    let of = |text: &str| text.parse::<crate::campaign::ErrorBound>().map(|e| e.0);
    assert_eq!(of("1%"), Ok(0.01));
    assert_eq!(of("0.001"), Ok(0.001));
    assert_eq!(of("1e-9"), Ok(1e-9));
    assert_eq!(of("50%"), Ok(0.5));
    for text in [
        "",
        "%",
        "0",
        "-1%",
        "51%",
        "1",
        "nan",
        "inf",
        "x",
        "1 percent",
    ] {
        assert!(of(text).is_err(), "{text}");
    }
}

#[test]
fn the_evidence_of_a_pass_is_how_both_sides_met() {
    use crate::oracle::builder::{Kernel, control, race, scenario};
    let passed = race("v7", Kernel::Locked, 3).judge(&scenario("unbind-vs-vf-unplug", 3));
    let collided = race("base", Kernel::Base, 2).judge(&scenario("unbind-vs-vf-unplug", 3));
    let alone = control(2).judge(&scenario("unbind-alone", 2));
    let asked = asked(&["s on v7", "s on base", "t on v7"], Amount::Boots(1));
    let of =
        |(at, judgement): (usize, &Judgement)| ((at, 1), result(&asked, at, 1, judgement.clone()));
    let results = [&passed, &collided, &alone].into_iter().enumerate();
    let table = table(&asked, &results.map(of).collect(), &[]);
    let line = |at: usize| table.outcomes[at].evidence.as_deref().unwrap();
    assert!(
        line(0).starts_with("round 1: handler entered "),
        "{}",
        line(0)
    );
    assert!(
        line(1).contains("both removals ran together"),
        "{}",
        line(1)
    );
    assert!(
        line(2).starts_with("round 1: vf1, vf2 and vf3 removed once"),
        "{}",
        line(2)
    );
}
