// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A campaign that is killed, again and again.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::fake::{asked, judgement, ran};
use crate::campaign::store::{self, boot_dir};
use crate::campaign::{Amount, Asked, Job, Results, Store, play};
use crate::event::Verdict;
use crate::run::{RunError, RunResult};

/// Says to the test binary that it is the campaign that is to be killed.
const DIR: &str = "VFRACE_TEST_CAMPAIGN";
const KILLS: u32 = 25;
const BOOTS: u32 = 100;

fn campaign() -> Asked {
    asked(&["s on base", "s on v7", "t on v7"], Amount::Boots(BOOTS))
}

fn journal(dir: &Path) -> PathBuf {
    dir.with_extension("journal")
}

/// The campaign. A boot says in the journal that it begins, works for a moment, and writes in pieces.
#[test]
#[ignore = "started by the test that kills it"]
fn victim() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let (store, there) = Store::open(&dir, &campaign(), "a machine").unwrap();
    let boot = |job: &Job| -> Result<RunResult, RunError> {
        let mut journal = std::fs::File::options()
            .append(true)
            .create(true)
            .open(journal(&dir))
            .unwrap();
        journal
            .write_all(format!("{} {}\n", job.cell, job.boot).as_bytes())
            .unwrap();
        let mut events = std::fs::File::create(job.dir.join("events.jsonl")).unwrap();
        for _ in 0..4 {
            events.write_all(b"{\"seq\":").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let verdict = match job.cell {
            0 => Verdict::DoubleRemoval,
            _ => Verdict::Pass,
        };
        Ok(ran(job, judgement(verdict)))
    };
    play(&store, there, 3, &AtomicBool::new(false), &boot).unwrap();
}

fn start(dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "campaign::tests::kill::victim",
            "--ignored",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Boots that were begun, in order.
fn begun(dir: &Path) -> Vec<(usize, u32)> {
    let text = std::fs::read_to_string(journal(dir)).unwrap_or_default();
    let whole = text.lines().filter_map(|line| line.split_once(' '));
    whole
        .filter_map(|(at, boot)| Some((at.parse().ok()?, boot.parse().ok()?)))
        .collect()
}

fn kept(dir: &Path) -> Results {
    match store::is_campaign(dir) {
        true => store::read(dir).unwrap().results,
        false => Results::new(),
    }
}

#[test]
fn nothing_is_lost_or_doubled_when_it_is_killed() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("campaign");
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut before = Results::new();
    let (mut cut, mut half) = (0, 0);
    let total = 3 * BOOTS as usize;
    for _ in 0..KILLS {
        let mut child = start(&dir);
        let boots = begun(&dir).len();
        // Not before it is at work, unless that is over already.
        let patience = Instant::now() + Duration::from_secs(60);
        while begun(&dir).len() == boots && before.len() < total && Instant::now() < patience {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..25_000)));
        // SIGKILL
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        cut += u32::from(ended.code().is_none());
        let now = kept(&dir);
        // What was there is there, as it was, and none of it was run again.
        for (key, result) in &before {
            assert_eq!(now.get(key), Some(result), "{key:?}");
        }
        for key in begun(&dir).split_off(boots) {
            assert!(!before.contains_key(&key), "{key:?} was run again");
        }
        let started = |(at, boot): &(usize, u32)| {
            let cell = &campaign().cells[*at];
            boot_dir(&dir, &cell.scenario, &cell.kernel, *boot).exists()
        };
        half += begun(&dir)
            .iter()
            .filter(|key| !now.contains_key(key) && started(key))
            .count();
        before = now;
    }
    let mut child = start(&dir);
    let ended = child.wait().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(ended.success(), "{said}");
    let all = kept(&dir);
    assert_eq!(all.len(), total);
    for (key, result) in &before {
        assert_eq!(all.get(key), Some(result));
    }
    for ((at, _), result) in &all {
        let expected = [Verdict::DoubleRemoval, Verdict::Pass, Verdict::Pass][*at];
        assert_eq!(result.judgement, judgement(expected));
    }
    // The test is worth something only if kills met boots that were under way.
    assert!(cut >= 20, "{cut} of {KILLS} were killed at work");
    assert!(half >= 20, "{half} boots were cut in the middle");
    let left = |dir: &Path| {
        let names = std::fs::read_dir(dir).unwrap();
        names
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(".vfrace")
            })
            .count()
    };
    assert_eq!(left(&dir), 0);
    for (at, boot) in all.keys() {
        let cell = &campaign().cells[*at];
        assert_eq!(
            left(&boot_dir(&dir, &cell.scenario, &cell.kernel, *boot)),
            0
        );
    }
}
