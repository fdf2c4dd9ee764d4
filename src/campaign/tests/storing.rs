// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::fake::{asked, judgement, ran, run};
use crate::campaign::store::{self, boot_dir, is_campaign};
use crate::campaign::{Amount, CampaignError, Job, Store, play};
use crate::event::Verdict;
use crate::exit::ExitCode;
use crate::run::{RunError, RunResult};

const TWO: [&str; 2] = ["s on base", "s on v7"];

fn jobs(dir: &Path, asked: &crate::campaign::Asked) -> Vec<(usize, u32)> {
    let jobs = Mutex::new(Vec::new());
    run(dir, asked, |job| {
        jobs.lock().unwrap().push((job.cell, job.boot));
        Verdict::Pass
    })
    .unwrap();
    let mut jobs = jobs.into_inner().unwrap();
    jobs.sort_unstable();
    jobs
}

#[test]
fn a_boot_without_a_result_is_run_again_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&TWO, Amount::Boots(3));
    assert_eq!(
        jobs(dir.path(), &asked),
        [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    );
    assert!(is_campaign(dir.path()));
    assert!(jobs(dir.path(), &asked).is_empty());
    // As if it had been killed in the middle of a boot.
    let boot = boot_dir(dir.path(), "s", "v7", 2);
    std::fs::remove_file(boot.join(store::RESULT)).unwrap();
    std::fs::write(boot.join("half"), "").unwrap();
    assert_eq!(jobs(dir.path(), &asked), [(1, 2)]);
    assert!(!boot.join("half").exists());
    assert!(boot.join("console.log").exists());
    // In the order of another list it is the same campaign, and keeps its own order.
    let mut turned = asked.clone();
    turned.cells.reverse();
    assert!(jobs(dir.path(), &turned).is_empty());
    assert_eq!(store::read(dir.path()).unwrap().file.asked, asked);
}

#[test]
fn another_campaign_is_refused_with_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let first = asked(&TWO, Amount::Boots(1));
    run(dir.path(), &first, |_| Verdict::Pass).unwrap();
    let mut now = asked(&["s on base", "s on v9"], Amount::Boots(2));
    now.options = vec!["skip-sleep".to_owned()];
    now.qemu = "10.0.0".to_owned();
    now.shard = Some("1/2".parse().unwrap());
    now.cells[0].kernel_id = Some("another".to_owned());
    now.cells[0].rounds = 1;
    let error = run(dir.path(), &now, |_| Verdict::Pass).unwrap_err();
    assert_eq!(error.exit(), ExitCode::Usage);
    let text = error
        .to_string()
        .replace(&dir.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text);
    let mut now = first.clone();
    now.cells[0].scenario_id = "4567".to_owned();
    let error = run(dir.path(), &now, |_| Verdict::Pass).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("s on base: the scenario was changed since"),
        "{error}"
    );
    // What the compiler says differs from machine to machine.
    let unbuilt = |why: &str| {
        let mut asked = first.clone();
        asked.cells[1].kernel_id = None;
        asked.cells[1].build_failure = Some(why.to_owned());
        asked
    };
    assert!(unbuilt("/a").differences(&unbuilt("/b")).is_empty());
    assert_eq!(first.differences(&unbuilt("/a")).len(), 1);
}

#[test]
fn runs_that_belong_to_nothing_are_not_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let boot = boot_dir(dir.path(), "s", "base", 1);
    std::fs::create_dir_all(&boot).unwrap();
    std::fs::write(boot.join("console.log"), "x").unwrap();
    let error = run(dir.path(), &asked(&TWO, Amount::Boots(1)), |_| {
        Verdict::Pass
    })
    .unwrap_err();
    assert!(matches!(error, CampaignError::Foreign { .. }), "{error}");
    assert!(boot.join("console.log").exists());
    assert!(!is_campaign(dir.path()));
}

#[test]
fn one_process_has_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&TWO, Amount::Boots(1));
    let (store, _) = Store::open(dir.path(), &asked, "a machine").unwrap();
    let error = Store::open(dir.path(), &asked, "a machine").unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(error, CampaignError::Busy { process, .. } if process == Some(own)),
        "{error}"
    );
    assert_eq!(error.exit(), ExitCode::Infrastructure);
    // Whoever only reads may.
    assert!(store::read(dir.path()).unwrap().results.is_empty());
    drop(store);
    let (_, there) = Store::open(dir.path(), &asked, "another").unwrap();
    assert!(there.is_empty());
    let machines = store::read(dir.path()).unwrap().file.machines;
    assert_eq!(machines, ["a machine", "another"]);
}

#[test]
fn files_that_were_changed_are_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&TWO, Amount::Boots(1));
    run(dir.path(), &asked, |_| Verdict::Pass).unwrap();
    let path = boot_dir(dir.path(), "s", "base", 1).join(store::RESULT);
    let good = std::fs::read_to_string(&path).unwrap();
    for (bad, word) in [
        ("", "malformed"),
        ("{", "malformed"),
        (
            "{\"schema\": \"vfrace-result\", \"version\": 1}",
            "malformed",
        ),
        (
            &*good.replace("\"version\": 1", "\"version\": 2"),
            "vfrace-result 2",
        ),
        (
            &*good.replace("\"boot\": 1", "\"boot\": 2"),
            "another scenario, kernel or boot",
        ),
        (
            &*good.replace("\"kernel\": \"base\"", "\"kernel\": \"v7\""),
            "another scenario",
        ),
        (&*good.replace("id-of-base", "id"), "another scenario"),
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = store::read(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("result.json") && text.contains(word),
            "{text}"
        );
        assert!(error.hint().is_some());
    }
    std::fs::write(&path, good).unwrap();
    // A name must not lead out of the directory.
    let path = dir.path().join(store::CAMPAIGN);
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in ["..", "/etc", "a/b", "", "."] {
        std::fs::write(
            &path,
            good.replace("\"scenario\": \"s\"", &format!("\"scenario\": \"{bad}\"")),
        )
        .unwrap();
        let error = store::read(dir.path()).unwrap_err();
        assert!(
            matches!(error, CampaignError::Strange { .. }),
            "{bad}: {error}"
        );
        assert!(Store::open(dir.path(), &asked, "a machine").is_err());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        store::read(dir.path()),
        Err(CampaignError::None { .. })
    ));
}

#[test]
fn a_machine_that_fails_is_tried_again_three_times_and_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&["s on base", "s on v7"], Amount::Boots(1));
    let tries = AtomicU32::new(0);
    let verdict = |job: &Job| match (
        job.cell,
        tries.fetch_add(u32::from(job.cell == 0), Ordering::SeqCst),
    ) {
        (0, _) => Verdict::Infra,
        _ => Verdict::Pass,
    };
    let results = run(dir.path(), &asked, verdict).unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    assert_eq!(results[&(0, 1)].judgement.verdict, Verdict::Infra);
    assert_eq!(results[&(0, 1)].tries, 4);
    assert_eq!(results[&(1, 1)].tries, 1);
    assert_eq!(store::read(dir.path()).unwrap().results, results);
    // It is no result: the same command tries once more.
    tries.store(0, Ordering::SeqCst);
    let once = |job: &Job| match tries.fetch_add(1, Ordering::SeqCst) {
        _ if job.cell != 0 => panic!("that one has a result"),
        0 => Verdict::Infra,
        _ => Verdict::DoubleRemoval,
    };
    let results = run(dir.path(), &asked, once).unwrap();
    assert_eq!(results[&(0, 1)].judgement.verdict, Verdict::DoubleRemoval);
    assert_eq!(results[&(0, 1)].tries, 2);
}

#[test]
fn a_stopped_boot_is_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&TWO, Amount::Boots(4));
    let (store, there) = Store::open(dir.path(), &asked, "a machine").unwrap();
    let stop = AtomicBool::new(false);
    let boot = |job: &Job| -> Result<RunResult, RunError> {
        stop.store(job.boot == 3, Ordering::SeqCst);
        Ok(RunResult {
            interrupted: job.boot == 3,
            ..ran(job, judgement(Verdict::Pass))
        })
    };
    let results = play(&store, there, 1, &stop, &boot).unwrap();
    assert_eq!(
        results.keys().copied().collect::<Vec<_>>(),
        [(0, 1), (0, 2)]
    );
    assert_eq!(store::read(dir.path()).unwrap().results.len(), 2);
    drop(store);
    assert_eq!(jobs(dir.path(), &asked).len(), 6);
}

#[test]
fn an_error_ends_it_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(&TWO, Amount::Boots(2));
    let (store, there) = Store::open(dir.path(), &asked, "a machine").unwrap();
    let boot = |job: &Job| -> Result<RunResult, RunError> {
        match (job.cell, job.boot) {
            (0, 2) => Err(RunError::Write {
                path: job.dir.clone(),
                source: std::io::ErrorKind::StorageFull.into(),
            }),
            _ => Ok(ran(job, judgement(Verdict::Pass))),
        }
    };
    let error = play(&store, there, 1, &AtomicBool::new(false), &boot).unwrap_err();
    assert_eq!(error.exit(), ExitCode::Infrastructure);
    assert!(error.hint().unwrap().contains("disk is full"));
    drop(store);
    assert_eq!(jobs(dir.path(), &asked), [(0, 2), (1, 1), (1, 2)]);
}

#[test]
fn a_panic_in_a_boot_ends_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = asked(
        &TWO,
        Amount::Error {
            error: 0.01,
            most_boots: 50,
        },
    );
    let played = std::panic::catch_unwind(|| {
        run(dir.path(), &asked, |job| match job.boot {
            2 => panic!("on purpose"),
            _ => Verdict::Pass,
        })
    });
    assert!(played.is_err());
}
