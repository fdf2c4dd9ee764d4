// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::PathBuf;

use super::fake::{asked, run};
use crate::campaign::merge::merge;
use crate::campaign::store::{self, boot_dir};
use crate::campaign::{Amount, Asked, CampaignError, Shard, Table};
use crate::event::Verdict;
use crate::exit::ExitCode;
use crate::oracle::Expectations;

fn part(at: u32) -> Asked {
    Asked {
        shard: Shard::new(at, 3),
        ..asked(&["s on base", "s on v7"], Amount::Boots(4))
    }
}

fn verdict(job: &crate::campaign::Job) -> Verdict {
    match job.cell {
        0 => Verdict::DoubleRemoval,
        _ => Verdict::Pass,
    }
}

fn parts(top: &std::path::Path) -> Vec<PathBuf> {
    let dirs: Vec<PathBuf> = (1..=3).map(|at| top.join(at.to_string())).collect();
    for (at, dir) in (1..).zip(&dirs) {
        run(dir, &part(at), verdict).unwrap();
    }
    dirs
}

fn exit(merged: &crate::campaign::merge::Merged) -> (u64, ExitCode) {
    let none = Expectations::default();
    let table = Table::new(&merged.file, &merged.results, &none, None, &merged.dir());
    (table.missing, table.exit(false))
}

#[test]
fn parts_make_the_whole() {
    let top = tempfile::tempdir().unwrap();
    let dirs = parts(top.path());
    let whole = merge(&dirs).unwrap();
    assert_eq!(whole.results.len(), 8);
    assert_eq!(
        whole.file.asked,
        asked(&["s on base", "s on v7"], Amount::Boots(4))
    );
    assert_eq!(exit(&whole), (0, ExitCode::Bad));
    // The same twice counts once.
    let again: Vec<PathBuf> = dirs.iter().chain(&dirs).cloned().collect();
    assert_eq!(merge(&again).unwrap().results, whole.results);
    let some = merge(&dirs[..2]).unwrap();
    assert_eq!(exit(&some).0, 2);
    let only_v7 = |results: &crate::campaign::Results| results.keys().all(|(at, _)| *at == 1);
    let mut rest = some.clone();
    rest.results.retain(|(at, _), _| *at == 1);
    assert!(only_v7(&rest.results));
    assert_eq!(exit(&rest).1, ExitCode::CannotTell, "boots are missing");
}

#[test]
fn the_whole_can_be_kept_and_gone_on_with() {
    let top = tempfile::tempdir().unwrap();
    let dirs = parts(top.path());
    let out = top.path().join("out");
    merge(&dirs[..2]).unwrap().write(&out).unwrap();
    let kept = store::read(&out).unwrap();
    assert_eq!(kept.results, merge(&dirs[..2]).unwrap().results);
    assert_eq!(kept.file.asked.shard, None);
    for result in kept.results.values() {
        let boot = boot_dir(&out, &result.scenario, &result.kernel, result.boot);
        assert!(boot.join("console.log").exists());
    }
    // The third part into it, and again.
    for _ in 0..2 {
        merge(&dirs).unwrap().write(&out).unwrap();
        assert_eq!(
            store::read(&out).unwrap().results,
            merge(&dirs).unwrap().results
        );
    }
    // Without a part, `matrix` runs what is missing.
    let out = top.path().join("other");
    merge(&dirs[1..]).unwrap().write(&out).unwrap();
    let whole = asked(&["s on base", "s on v7"], Amount::Boots(4));
    assert_eq!(run(&out, &whole, verdict).unwrap().len(), 8);
    // These boots are now other ones than those of the first part.
    let error = merge(&[out.clone(), dirs[0].clone()]).unwrap_err();
    assert!(
        matches!(&error, CampaignError::Twice { first, second, .. } if *first == out && *second == dirs[0]),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("boot 1 has two different results"),
        "{error}"
    );
    let error = merge(&dirs).unwrap().write(&out).unwrap_err();
    assert!(matches!(error, CampaignError::Twice { .. }), "{error}");
}

#[test]
fn a_failure_of_the_machine_gives_way() {
    let top = tempfile::tempdir().unwrap();
    let dirs = parts(top.path());
    let failed = top.path().join("failed");
    let results = run(&failed, &part(1), |_| Verdict::Infra).unwrap();
    assert!(!results.is_empty());
    for both in [
        [failed.clone(), dirs[0].clone()],
        [dirs[0].clone(), failed.clone()],
    ] {
        let merged = merge(&both).unwrap();
        assert!(
            merged
                .results
                .values()
                .all(|r| r.judgement.verdict != Verdict::Infra)
        );
    }
    let merged = merge(&[failed, dirs[1].clone(), dirs[2].clone()]).unwrap();
    assert_eq!(exit(&merged), (0, ExitCode::Infrastructure));
}

#[test]
fn parts_of_different_campaigns_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let dirs = parts(top.path());
    let other = top.path().join("other");
    let mut another = part(1);
    another.amount = Amount::Boots(5);
    run(&other, &another, verdict).unwrap();
    let error = merge(&[dirs[0].clone(), other]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("boots: --boots 4, now --boots 5"),
        "{error}"
    );
    assert_eq!(error.exit(), ExitCode::Usage);
    let error = merge(&[top.path().join("none")]).unwrap_err();
    assert!(
        error.to_string().contains("has no campaign.json"),
        "{error}"
    );
}
