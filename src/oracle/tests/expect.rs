// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use crate::event::Verdict;
use crate::oracle::builder::data;
use crate::oracle::{ExpectError, Expectations, KnownIssues};
use crate::scenario::list;

/// Scenarios whose verdicts are known from real guests.
const KNOWN: [&str; 3] = ["pf-remove-with-vfs", "unbind-alone", "unbind-vs-vf-unplug"];

#[test]
fn every_known_scenario_has_an_expectation_on_every_kernel() {
    let table = Expectations::load(&data("guest-tests/expect/expect.toml")).unwrap();
    let mut entries = list(&data("guest-tests/scenarios")).unwrap();
    entries.retain(|entry| KNOWN.contains(&entry.name.as_str()));
    assert_eq!(entries.len(), KNOWN.len());
    for entry in entries {
        for kernel in ["base", "v5", "v6", "v7", "base@7.3", "v7@7.2"] {
            let race = entry.name == "unbind-vs-vf-unplug" && kernel.starts_with("base");
            let expected = if race {
                Verdict::DoubleRemoval
            } else {
                Verdict::Pass
            };
            assert_eq!(
                table.expectation(&entry.name, kernel),
                Some(expected),
                "{} {kernel}",
                entry.name
            );
            assert!(
                table
                    .reason(&entry.name, kernel)
                    .is_some_and(|r| !r.is_empty())
            );
        }
    }
    assert_eq!(table.expectation("unbind-alone", "v12"), None);
    assert_eq!(table.expectation("something-else", "base"), None);
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
