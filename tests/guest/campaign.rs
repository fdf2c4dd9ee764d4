// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The verdicts that the whole thing is about, as a user gets them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use vfrace::event::{Event, EventKind, Observation, Verdict};

pub fn vfrace(arguments: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .args(arguments)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap()
}

pub fn told(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}\n--- standard error:\n{err}")
}

pub fn events(dir: &Path) -> Vec<Event> {
    let file = std::fs::read_to_string(dir.join("boot-1/events.jsonl")).unwrap();
    file.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn verdict(events: &[Event]) -> Verdict {
    let judged = events.iter().find_map(|event| match event.kind {
        EventKind::Judged { verdict, .. } => Some(verdict),
        _ => None,
    });
    judged.unwrap()
}

#[test]
#[ignore = "boots a guest: make test"]
fn the_unfixed_kernel_removes_a_vf_twice() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &["run", "unbind-vs-vf-unplug", "--kernel", "base"],
        dir.path(),
    );
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("DOUBLE-REMOVAL"), "{said}");
    let cell = dir.path().join("unbind-vs-vf-unplug/base");
    let events = events(&cell);
    assert_eq!(verdict(&events), Verdict::DoubleRemoval);
    // the evidence is the guest's own: two tasks in the removal body of the same VF
    let mut tasks: Vec<u32> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Guest(record) => Some(record),
            _ => None,
        })
        .filter(|record| {
            matches!(&record.what, Observation::Enter { call, function, .. }
                if call == "pci_stop_and_remove_bus_device" && function.is_some_and(|f| f.to_string() == "vf2"))
        })
        .map(|record| record.pid)
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), 2, "{said}");
    // and the lost reference shows when the PF goes
    let console = std::fs::read_to_string(cell.join("boot-1/console.log")).unwrap();
    assert!(console.contains("KASAN: slab-use-after-free"), "{console}");
    for file in ["qemu.log", "command.sh"] {
        assert!(cell.join("boot-1").join(file).exists(), "{file}");
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn v7_passes_with_both_sides_shown_to_meet() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &["run", "unbind-vs-vf-unplug", "--kernel", "v7"],
        dir.path(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let events = events(&dir.path().join("unbind-vs-vf-unplug/v7"));
    let fired = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::UnplugFired { .. }))
        .count();
    let waited = events.iter().filter(|event| {
        matches!(&event.kind, EventKind::Guest(record)
            if record.comm == "vfrace-unplug" && matches!(record.what, Observation::LockWait { owner } if owner != 0))
    });
    assert_eq!((fired, waited.count()), (3, 3), "{}", told(&output));
}

#[test]
#[ignore = "boots a guest: make test"]
fn controls_pass_and_say_that_no_overlap_is_expected() {
    for (scenario, kernel) in [("unbind-alone", "base"), ("pf-remove-with-vfs", "v7")] {
        let dir = tempfile::tempdir().unwrap();
        let output = vfrace(
            &["run", scenario, "--kernel", kernel, "--rounds", "1"],
            dir.path(),
        );
        assert_eq!(
            output.status.code(),
            Some(0),
            "{scenario}: {}",
            told(&output)
        );
        assert!(
            told(&output).contains("no overlap expected"),
            "{scenario}: {}",
            told(&output)
        );
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_matrix_compares_with_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(
        &[
            "matrix",
            "--kernels",
            "base",
            "--scenarios",
            "unbind-vs-vf-unplug",
            "--vfs",
            "1",
            "--vf",
            "1",
        ],
        dir.path(),
    );
    // a finding that is expected is good
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let matrix = std::fs::read_to_string(dir.path().join("matrix.json")).unwrap();
    assert!(
        matrix.contains("\"verdict\": \"DOUBLE-REMOVAL\""),
        "{matrix}"
    );
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_task_that_does_not_come_back_is_a_deadlock_with_its_lock_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = vfrace(&["run", "pf-remove-with-vfs", "--kernel", "b1"], dir.path());
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("DEADLOCK"), "{said}");
    let events = events(&dir.path().join("pf-remove-with-vfs/b1"));
    assert_eq!(verdict(&events), Verdict::Deadlock);
    assert!(said.contains("pci_rescan_remove_lock"), "{said}");
}

/// Two boots each of two kernels, a round in a boot.
const SMALL: [&str; 9] = [
    "matrix",
    "--kernels",
    "base,v7",
    "--scenarios",
    "unbind-vs-vf-unplug",
    "--rounds",
    "1",
    "--boots",
    "2",
];

fn small(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    command.args(SMALL).args(["--jobs", "2", "--out"]).arg(out);
    for variable in ["ID", "MIN", "MAX", "STEP", "COUNT"] {
        command.env_remove(format!("SLURM_ARRAY_TASK_{variable}"));
    }
    command.env_remove("JOB_COMPLETION_INDEX");
    command
}

/// The results that are kept in a directory, by their files.
fn results(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut results = BTreeMap::new();
    for kernel in ["base", "v7"] {
        for boot in ["boot-1", "boot-2", "boot-3"] {
            let file = Path::new("unbind-vs-vf-unplug")
                .join(kernel)
                .join(boot)
                .join("result.json");
            if let Ok(text) = std::fs::read_to_string(dir.join(&file)) {
                results.insert(file, text);
            }
        }
    }
    results
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_campaign_is_dealt_out_and_put_together_again() {
    let top = tempfile::tempdir().unwrap();
    let dirs = [top.path().join("1"), top.path().join("2")];
    // At the same time, as a Slurm array of two tasks would.
    let tasks: Vec<_> = ["7", "9"]
        .iter()
        .zip(&dirs)
        .map(|(id, dir)| {
            let variables = [
                ("ID", *id),
                ("MIN", "7"),
                ("MAX", "9"),
                ("STEP", "2"),
                ("COUNT", "2"),
            ];
            let mut command = small(dir);
            for (name, value) in variables {
                command.env(format!("SLURM_ARRAY_TASK_{name}"), value);
            }
            let out = Stdio::piped();
            command
                .args(["--shard", "auto"])
                .stdout(out)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for task in tasks {
        let output = task.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert!(told(&output).contains("this is part"), "{}", told(&output));
    }
    let [one, two] = [results(&dirs[0]), results(&dirs[1])];
    assert_eq!((one.len(), two.len()), (2, 2));
    assert!(one.keys().all(|file| !two.contains_key(file)));
    // The second part again, as the same part of a Job of Kubernetes: there is nothing left to do.
    let output = small(&dirs[1])
        .args(["--shard", "auto/2"])
        .env("JOB_COMPLETION_INDEX", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(results(&dirs[1]), two);
    let output = small(&dirs[1]).args(["--shard", "1/2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(129), "{}", told(&output));
    assert!(
        told(&output).contains("shard: 2/2, now 1/2"),
        "{}",
        told(&output)
    );
    let out = top.path().join("out");
    let merge = |dirs: &[&PathBuf]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
        command
            .arg("merge")
            .args(dirs)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap()
    };
    let output = merge(&[&dirs[0], &dirs[1]]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let said = told(&output);
    // One of C(4, 2) = 6.
    assert!(said.contains("2/2 (base 2/2; false-pass <= 0.2)"), "{said}");
    assert!(said.contains("2 of 2 as expected; 4 boots"), "{said}");
    assert_eq!(results(&out).len(), 4);
    for file in ["console.log", "events.jsonl", "command.sh"] {
        let boot = Path::new("unbind-vs-vf-unplug/base/boot-1").join(file);
        let of = |dir: &Path| std::fs::read(dir.join(&boot)).unwrap();
        assert!(!of(&out).is_empty());
        assert_eq!(of(&out), of(&dirs[0]), "{file}");
    }
    // The whole is there: without a part there is nothing left to do either.
    let output = small(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_campaign_that_is_killed_goes_on() {
    let kills: u32 = std::env::var("VFRACE_TEST_KILLS").map_or(2, |n| n.parse().unwrap());
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("out");
    let command = || {
        let mut command = small(&dir);
        command
            .args(["--skip-sleep"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    // Different times in every run of the test, and each is told.
    let random = || {
        let mut bytes = [0u8; 2];
        std::io::Read::read_exact(
            &mut std::fs::File::open("/dev/urandom").unwrap(),
            &mut bytes,
        )
        .unwrap();
        u64::from(u16::from_le_bytes(bytes))
    };
    let (mut before, mut met): (BTreeMap<PathBuf, String>, u32) = (BTreeMap::new(), 0);
    for kill in 1..=kills {
        let mut child = command().spawn().unwrap();
        // At any time, and every other time when there is a new result.
        let patience = Instant::now() + Duration::from_secs(300);
        while kill % 2 == 0 && results(&dir).len() == before.len() && Instant::now() < patience {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let most = if kill % 2 == 0 { 4_000 } else { 20_000 };
        let time = Duration::from_millis(random() % most);
        let end = Instant::now() + time;
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        met += u32::from(child.wait().unwrap().code().is_none());
        let now = results(&dir);
        println!("kill {kill} after {time:?}: {} results", now.len());
        for (file, text) in &before {
            assert_eq!(now.get(file), Some(text), "{}", file.display());
        }
        before = now;
    }
    println!("{met} of {kills} met it at work");
    let output = command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let all = results(&dir);
    assert_eq!(all.len(), 4);
    for (file, text) in &before {
        assert_eq!(all.get(file), Some(text), "{}", file.display());
    }
    assert!(
        told(&output).contains("2 of 2 as expected; 4 boots, 4 rounds"),
        "{}",
        told(&output)
    );
    // No guest is left behind that would write into a boot that was run again.
    for file in all.keys() {
        let events =
            std::fs::read_to_string(dir.join(file).with_file_name("events.jsonl")).unwrap();
        assert_eq!(
            events.matches("\"event\":\"judged\"").count(),
            1,
            "{}",
            file.display()
        );
        assert!(events.ends_with('\n'));
    }
}
