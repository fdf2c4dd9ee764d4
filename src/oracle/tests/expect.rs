// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use crate::arch::Arch;
use crate::event::{Class, Finding, Standing, Verdict};
use crate::oracle::builder::data;
use crate::oracle::{ExpectError, Expectations, Judgement, KnownIssues};
use crate::scenario::{list, load};

/// The kernels of the history, each code once.
const KERNELS: [&str; 15] = [
    "b0", "b1", "b2", "base", "v1", "v2", "v4", "v5", "v6", "v7", "v9", "v10", "v11", "v13", "v14",
];

fn table() -> Expectations {
    Expectations::load(&data("guest-tests/expect/expect.toml"))
        .unwrap()
        .on(Arch::X86_64)
}

#[test]
fn every_scenario_has_an_expectation_on_every_kernel() {
    let table = table();
    for entry in list(&data("guest-tests/scenarios")).unwrap() {
        let scenario = load(&entry.name, &data("guest-tests/scenarios"), &[]).unwrap();
        if scenario.fits(Arch::X86_64).is_err() {
            continue;
        }
        for kernel in KERNELS.into_iter().chain(["base@7.3", "v7@7.2"]) {
            let name = &entry.name;
            assert!(table.expectation(name, kernel).is_some(), "{name} {kernel}");
            assert!(
                table.reason(name, kernel).is_some_and(|r| !r.is_empty()),
                "{name} {kernel}"
            );
        }
    }
    assert_eq!(table.expectation("unbind-alone", "v12"), None);
    assert_eq!(table.expectation("something-else", "base"), None);
}

/// The table as the history of the series has it (docs: history of the SR-IOV locking series), a letter a kernel in the
/// order of [`KERNELS`]: pass, double removal, deadlock (`L`), finding. Where the runs have shown something else
/// than the history, the reason in the table says why.
#[test]
fn expectations_are_those_of_the_history() {
    let table = table();
    for (scenario, row) in [
        ("numvfs-zero-vs-vf-unplug", "DPDPPPPPPPPPPPP"),
        ("unbind-vs-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("rmmod-vs-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("unbind-alone", "PPPPPPPPPPPPPPP"),
        ("pf-remove-with-vfs", "PLPPPPPPPPPPPPP"),
        ("unbind-vs-rescan", "FPFFPPPPPPPPPPP"),
        ("numvfs-on-vs-rescan", "FLFPPPPPPPPPPPP"),
        ("bind-vs-rescan", "FLFFPPPPPPPPPPP"),
        ("unbind-vs-pf-remove", "PLPPLLLLLLLPPPP"),
        ("numvfs-zero-vs-pf-remove", "PLPLLLLLLLLPPPP"),
        ("unbind-vs-surprise", "PLPPLLLLLLLLLLL"),
        ("unbind-vs-button", "PLPPLLLLLLLLLLL"),
        ("numvfs-zero-vs-surprise", "PLPLLLLLLLLLLLL"),
        ("unbind-vs-bridge-remove", "PLPPLLLLLLLLLLL"),
        ("numvfs-on-error-vs-vf-unplug", "DPDPPPPPPPPPPPP"),
        ("bind-error-vs-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("pf-remove-vs-bridge-remove", "FLFFFFFFFFFFFFF"),
        ("unbind-lockdep", "PPFFPPPPPPPPPPP"),
        ("numvfs-zero-alone", "PPFPPPPPPPPPPPP"),
        ("unbind-vs-first-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("unbind-vs-last-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("unbind-lookup-vs-vf-unplug", "DPDDPPPPPPPPPPP"),
        ("vf-unplug-vs-unbind", "DPDDPPPPPPPPPPP"),
    ] {
        let verdict = |kernel: &str| table.expectation(scenario, kernel).map(|e| e.verdict);
        let letter = |kernel: &str| match verdict(kernel) {
            Some(Verdict::Pass) => 'P',
            Some(Verdict::DoubleRemoval) => 'D',
            Some(Verdict::Deadlock) => 'L',
            Some(Verdict::Finding) => 'F',
            _ => '-',
        };
        let found: String = KERNELS.into_iter().map(letter).collect();
        assert_eq!(found, row, "{scenario}");
    }
}

/// A verdict counts as expected only with the finding that it should rest on.
#[test]
fn the_reason_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("expect.toml");
    let row = "[[expect]]\nscenarios = [\"s\"]\nkernels = [\"m-x\"]\nverdict = \"FINDING\"\nreason = \"r\"\n";
    let read = |more: &str| {
        std::fs::write(&path, format!("{row}{more}")).unwrap();
        let table = Expectations::load(&path).unwrap();
        assert_eq!(table.scenarios("m-x@7.2"), ["s"]);
        assert!(table.scenarios("m-y").is_empty());
        table.expectation("s", "m-x").unwrap()
    };
    let judged = |verdict, standing| Judgement {
        verdict,
        findings: vec![
            Finding::new(Class::Assert, "an assertion", Standing::Other),
            Finding::new(Class::Refcount, "PF reference count 4 -> 3", standing),
        ],
        evidence: Vec::new(),
        hits: 1,
        rounds: 1,
    };
    let finding = judged(Verdict::Finding, Standing::Other);
    let known = judged(Verdict::Finding, Standing::Known);
    let any = read("");
    assert!(any.met_by(&finding) && any.met_by(&known));
    assert!(!any.met_by(&judged(Verdict::Deadlock, Standing::Other)));
    let right = read("class = \"REFCOUNT\"\ntitle = \"PF reference count\"\n");
    assert!(right.met_by(&finding) && !right.met_by(&known));
    assert!(!right.met_by(&judged(Verdict::Deadlock, Standing::Other)));
    assert_eq!(right.to_string(), "FINDING (REFCOUNT: PF reference count)");
    // The class is that of one finding, the title that of another.
    assert!(!read("class = \"ASSERT\"\ntitle = \"PF reference count\"\n").met_by(&finding));
    assert!(!read("class = \"LEAK\"\n").met_by(&finding));
    assert!(read("title = \"an assertion\"\n").met_by(&finding));
}

#[test]
fn a_row_is_about_one_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("expect.toml");
    let row = |arch: &str, verdict: &str| {
        format!(
            "[[expect]]\n{arch}scenarios = [\"a\"]\nkernels = [\"v5\"]\nverdict = \"{verdict}\"\nreason = \"r\"\n"
        )
    };
    let text = row("", "PASS") + &row("arch = \"s390x\"\n", "DEADLOCK");
    std::fs::write(&path, text).unwrap();
    let verdict = |arch| {
        let table = Expectations::load(&path).unwrap().on(arch);
        table
            .expectation("a", "v5")
            .map(|expected| expected.verdict)
    };
    assert_eq!(verdict(Arch::X86_64), Some(Verdict::Pass));
    assert_eq!(verdict(Arch::S390x), Some(Verdict::Deadlock));
    std::fs::write(&path, row("arch = \"vax\"\n", "PASS")).unwrap();
    assert!(Expectations::load(&path).is_err());
}

#[test]
fn broken_tables_say_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("expect.toml");
    assert!(matches!(
        Expectations::load(&path),
        Err(ExpectError::Read { .. })
    ));
    std::fs::write(&path, "[[expect]]\nscenario = 1\n").unwrap();
    let error = Expectations::load(&path).unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("line 2")
    );
    assert!(
        KnownIssues::load(&path)
            .unwrap_err()
            .to_string()
            .contains("known issues")
    );
}

#[test]
fn entries_are_about_every_source_and_fragment_unless_they_name_one() {
    use crate::oracle::expect::names;
    for (entry, kernel) in [
        ("v7", "v7"),
        ("v7", "v7@7.3"),
        ("v7", "v7+rt+lean@7.3"),
        ("v7+rt", "v7+lean+rt"),
        ("v7@7.3", "v7+rt@7.3"),
        ("tree", "tree@g0123456"),
    ] {
        assert!(names(entry, kernel), "{entry} {kernel}");
    }
    for (entry, kernel) in [
        ("v7", "v70"),
        ("v7+rt", "v7"),
        ("v7@7.3", "v7"),
        ("v7@7.3", "v7@7.2"),
        ("", "v7"),
    ] {
        assert!(!names(entry, kernel), "{entry} {kernel}");
    }
    let expected = table().expectation("unbind-alone", "v7+rt").unwrap();
    assert_eq!(expected.verdict, Verdict::BuildFail);
    let expected = table().expectation("unbind-alone", "v6+rt").unwrap();
    assert_eq!(expected.verdict, Verdict::Pass);
}
