// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use crate::event::{Class, Finding, Standing, Verdict};
use crate::oracle::builder::data;
use crate::oracle::{ExpectError, Expectations, Judgement, KnownIssues};
use crate::scenario::list;

/// The kernels of the history: the unfixed one, the fix that was reverted, and proposals that differ in what they lock.
const KERNELS: [&str; 9] = ["base", "b1", "v5", "v6", "v7", "v9", "v10", "v11", "v14"];

fn table() -> Expectations {
    Expectations::load(&data("guest-tests/expect/expect.toml")).unwrap()
}

#[test]
fn every_scenario_has_an_expectation_on_every_kernel() {
    let table = table();
    for entry in list(&data("guest-tests/scenarios")).unwrap() {
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
/// order of [`KERNELS`]: pass, double removal, deadlock (`L`), finding.
#[test]
fn expectations_are_those_of_the_history() {
    let table = table();
    for (scenario, row) in [
        ("numvfs-zero-vs-vf-unplug", "PPPPPPPPP"),
        ("unbind-vs-vf-unplug", "DPPPPPPPP"),
        ("rmmod-vs-vf-unplug", "DPPPPPPPP"),
        ("unbind-alone", "PPPPPPPPP"),
        ("pf-remove-with-vfs", "PLPPPPPPP"),
        ("unbind-vs-rescan", "FPPPPPPPP"),
        ("numvfs-on-vs-rescan", "PPPPPPPPP"),
        ("bind-vs-rescan", "FPPPPPPPP"),
        ("unbind-vs-pf-remove", "PLLLLLPPP"),
        ("numvfs-zero-vs-pf-remove", "LLLLLLPPP"),
        ("unbind-vs-surprise", "PLLLLLLLL"),
        ("unbind-vs-button", "PLLLLLLLL"),
        ("numvfs-zero-vs-surprise", "LLLLLLLLL"),
        ("unbind-vs-bridge-remove", "PLLLLLLLL"),
        ("numvfs-on-error-vs-vf-unplug", "PPPPPPPPP"),
        ("bind-error-vs-vf-unplug", "DPPPPPPPP"),
        ("pf-remove-vs-bridge-remove", "FLFFFFFFF"),
        ("unbind-lockdep", "FPPPPPPPP"),
        ("numvfs-zero-alone", "PPPPPPPPP"),
        ("unbind-vs-first-vf-unplug", "DPPPPPPPP"),
        ("unbind-vs-last-vf-unplug", "DPPPPPPPP"),
        ("unbind-lookup-vs-vf-unplug", "DPPPPPPPP"),
        ("vf-unplug-vs-unbind", "DPPPPPPPP"),
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
