// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace report`: every format from a recorded run and from campaigns, hostile names, and files that are none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "report/made.rs"]
mod made;

use std::path::Path;
use std::time::{Duration, Instant};

use made::{HOSTILE, RUN, campaign, hostile_run, report, said};

#[test]
fn a_run_in_every_format() {
    let table = said(&[RUN]);
    assert!(
        table.starts_with("unbind-vs-vf-unplug on base: DOUBLE-REMOVAL  1/1 rounds"),
        "{table}"
    );
    let ktap = said(&[RUN, "--format", "ktap"]);
    let lines: Vec<&str> = ktap.lines().collect();
    assert_eq!(lines[..2], ["KTAP version 1", "1..1"]);
    assert!(
        ktap.contains("\n    not ok 1 base\nnot ok 1 unbind-vs-vf-unplug\n"),
        "{ktap}"
    );
    let junit = said(&[RUN, "--format", "junit"]);
    assert!(
        junit.contains("<failure message=\"DOUBLE-REMOVAL 1/1\" type=\"DOUBLE-REMOVAL\">"),
        "{junit}"
    );
    let mail = said(&[RUN, "--format", "mail"]);
    assert!(mail.contains("no Tested-by"), "{mail}");
    assert_eq!(said(&[RUN, "--mail"]), mail);
    let html = said(&[RUN, "--format", "html"]);
    for words in [
        "vf2 was removed TWICE: by teardown (init, pid 56) and by unplug handler (vfrace-unplug, pid 48)",
        "both at once: 49.969 ms",
        "held at vf2:wire:GET_VRING_BASE#0@request",
    ] {
        assert!(html.contains(words), "`{words}` is not in the page");
    }
    for outside in ["src=\"", "href=\"http", "url(", "@import", "fetch("] {
        assert!(!html.contains(outside), "`{outside}` needs a network");
    }
}

#[test]
fn a_deadlock_and_a_wait_can_be_read_off() {
    let html = said(&["tests/fixtures/run-deadlock", "--format", "html"]);
    for words in [
        "DEADLOCK: AB-BA: teardown (init, pid 54) holds device_lock(pf) and waits for pci_rescan_remove_lock",
        "unplug handler: waits for device_lock(pf), held by the teardown",
        "held by unplug handler",
        "no return is recorded",
    ] {
        assert!(html.contains(words), "`{words}` is not in the page");
    }
    let html = said(&["tests/fixtures/run-pass", "--format", "html"]);
    for words in [
        "vf2 was removed once; both tasks came back; the unplug handler (vfrace-unplug, pid 47) waited 41.",
        "waits for pci_rescan_remove_lock, held by pid 54",
        "vf2 GET_VRING_BASE of vring 0, QEMU to the back end",
    ] {
        assert!(html.contains(words), "`{words}` is not in the page");
    }
    let mail = said(&["tests/fixtures/run-pass", "--format", "mail"]);
    assert!(
        mail.contains("Tested-by: NAME <ADDRESS> # tree@g4b83c379df7f: 1 round\n"),
        "{mail}"
    );
}

/// A directory with runs below it is a report of all of them, and of a run that was not judged it says so.
#[test]
fn runs_without_a_campaign() {
    let dir = tempfile::tempdir().unwrap();
    for (name, run) in [("a", "run-base"), ("b", "run-base"), ("c", "run-pass")] {
        let to = dir.path().join("s/k").join(name);
        std::fs::create_dir_all(&to).unwrap();
        let from = Path::new("tests/fixtures").join(run).join("events.jsonl");
        std::fs::copy(from, to.join("events.jsonl")).unwrap();
    }
    let broken = dir.path().join("s/k/d");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("events.jsonl"), "{}\n").unwrap();
    let table = said(&[dir.path().to_str().unwrap()]);
    for words in [
        "DOUBLE-REMOVAL  2/2",
        "PASS",
        "3 runs",
        "1 of 4 recordings are not in it",
        "no bound for a PASS",
    ] {
        assert!(table.contains(words), "`{words}` is not in: {table}");
    }
}

#[test]
fn an_older_recording_has_a_report() {
    let html = said(&["tests/fixtures/run-base-older", "--format", "html"]);
    assert!(html.contains("<figure class=\"tl\""), "no timeline");
}

#[test]
fn lines_of_a_mail_are_short() {
    let dir = tempfile::tempdir().unwrap();
    campaign(dir.path(), 2, 3, Path::new(RUN));
    let dir = dir.path().to_str().unwrap();
    let text = said(&[
        dir,
        "--format",
        "mail",
        "--tested-by",
        "A Person <a@example.org>",
    ]);
    for line in text.lines().chain(said(&[RUN, "--format", "mail"]).lines()) {
        let trailer = line.starts_with("Tested-by:");
        assert!(trailer || line.chars().count() < 72, "{line}");
    }
    assert!(
        text.contains("Tested-by: A Person <a@example.org> # v7: 9 rounds\n"),
        "{text}"
    );
    assert!(!text.contains("# base"), "{text}");
    assert!(
        text.contains("base: DOUBLE-REMOVAL in 3 of 3 rounds"),
        "{text}"
    );
}

/// The command of a mail is the same for a shell, however it is broken into lines.
#[test]
fn a_command_in_a_mail_can_be_pasted() {
    let mail = said(&[RUN, "--format", "mail"]);
    let begin = mail.find("  vfrace run").unwrap();
    let end = begin + mail[begin..].find("\n\n").unwrap();
    let script = format!(
        "vfrace() {{ printf '%s\\n' \"$@\"; }}\n{}",
        &mail[begin..end]
    );
    let shell = std::process::Command::new("sh")
        .arg("-c")
        .arg(script)
        .output()
        .unwrap();
    let words = String::from_utf8(shell.stdout).unwrap();
    let schedule =
        "teardown first; vf2:wire:GET_VRING_BASE#0@request fire until other-committed <=100ms";
    assert_eq!(
        words.lines().collect::<Vec<_>>(),
        [
            "run",
            "unbind-vs-vf-unplug",
            "--kernel",
            "base",
            "--schedule",
            schedule
        ]
    );
}

#[test]
fn json_lines_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    campaign(&dir.path().join("c"), 2, 3, Path::new(RUN));
    let from = dir.path().join("c").to_str().unwrap().to_owned();
    let file = dir.path().join("report.jsonl").to_str().unwrap().to_owned();
    said(&[&from, "--format", "jsonl", "-o", &file]);
    let written = std::fs::read_to_string(&file).unwrap();
    let first: serde_json::Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["schema"], &first["version"]),
        (&"vfrace-report".into(), &1.into())
    );
    let records: Vec<String> = written
        .lines()
        .map(|l| {
            serde_json::from_str::<serde_json::Value>(l).unwrap()["record"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let boots = ["combination", "boot", "boot", "boot"];
    assert_eq!(
        records,
        [&["report"], boots.as_slice(), boots.as_slice(), &["end"]].concat()
    );
    assert_eq!(said(&[&file, "--format", "jsonl"]), written);
    for format in ["table", "ktap", "junit", "mail", "html"] {
        assert_eq!(
            said(&[&file, "--format", format]),
            said(&[&from, "--format", format]),
            "{format}"
        );
    }
    let refused = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = report(&[&file]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(129), "{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    };
    refused(
        &written.replacen("\"version\":1", "\"version\":2", 1),
        &[
            "`vfrace-report 2`",
            "reads `vfrace-report 1`",
            "use the vfrace that wrote it",
        ],
    );
    refused(
        &written.replacen("vfrace-report", "vfrace-other", 1),
        &["its first line"],
    );
    refused("", &["its first line"]);
    refused("\u{0}\u{1}\n", &["its first line"]);
    let whole: Vec<&str> = written.lines().collect();
    refused(&whole[..whole.len() - 1].join("\n"), &["not complete"]);
    refused(
        &[&whole[..3], &whole[4..]].concat().join("\n"),
        &["not complete"],
    );
    refused(
        &written.replacen("\"record\":\"boot\"", "\"record\":\"boat\"", 1),
        &["line 3"],
    );
    refused(
        &[
            written.as_str(),
            "{\"record\":\"end\",\"combinations\":0,\"boots\":0}\n",
        ]
        .concat(),
        &["behind the end"],
    );
}

#[test]
fn hostile_names_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    hostile_run(dir.path());
    let from = dir.path().to_str().unwrap();
    let html = said(&[from, "--format", "html"]);
    assert!(!html.contains("<script>alert"), "a script got through");
    assert!(!html.contains("<img"), "an element got through");
    assert!(html.contains("&lt;script&gt;alert"), "the name is shown");
    let ktap = said(&[from, "--format", "ktap"]);
    // Nothing in a name makes a line or a directive of its own.
    let cases = ktap
        .lines()
        .filter(|l| l.trim_start().starts_with("ok ") || l.trim_start().starts_with("not ok "));
    assert_eq!(cases.count(), 2, "{ktap}");
    assert!(!ktap.contains("# SKIP"), "{ktap}");
    let junit = said(&[from, "--format", "junit"]);
    let parsed = quick_junit::Report::deserialize_from_str(&junit).unwrap();
    assert_eq!(parsed.test_suites[0].test_cases.len(), 1);
    assert!(!junit.contains('\u{1b}') && !junit.contains('\u{0}'));
    let mail = said(&[from, "--format", "mail"]);
    assert!(!mail.lines().any(|l| l.starts_with("Tested-by")), "{mail}");
    assert!(HOSTILE.contains('\n'));
}

#[test]
fn what_cannot_be_reported_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, words: &[&str]| {
        let output = report(&[path.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(129), "{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    };
    refused(
        &dir.path().join("nowhere"),
        &["cannot read", "vfrace matrix"],
    );
    refused(dir.path(), &["neither a campaign nor a recording"]);
    refused(
        &Path::new(RUN).join("events.jsonl"),
        &["its first line", "the directory of a run"],
    );
    let run = dir.path().join("s/k/boot-1");
    std::fs::create_dir_all(&run).unwrap();
    let recording = std::fs::read_to_string(Path::new(RUN).join("events.jsonl")).unwrap();
    let begun: Vec<&str> = recording.lines().take(100).collect();
    std::fs::write(run.join("events.jsonl"), begun.join("\n") + "\n").unwrap();
    refused(dir.path(), &["was not judged", "vfrace judge"]);
    std::fs::write(run.join("events.jsonl"), "nonsense\n").unwrap();
    refused(dir.path(), &["line 1 of the recording is no event"]);
}

/// A thousand boots: what is not drawn is named, and the page stays small.
#[test]
fn a_large_campaign_says_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    campaign(&dir.path().join("c"), 100, 10, Path::new(RUN));
    let from = dir.path().join("c").to_str().unwrap().to_owned();
    let begun = Instant::now();
    let html = said(&[&from, "--format", "html"]);
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(60),
        "{took:?} without optimization"
    );
    assert!(html.len() < 5 << 20, "{} bytes", html.len());
    assert!(html.contains("Not shown here: boots 2-10 (9 of 10)"));
    assert!(html.contains("900 boots are not shown"));
    let drawn = html.matches("<figure class=\"tl\"").count();
    let without = html.matches("no timeline: the page is full").count();
    assert!(
        drawn > 10 && drawn + without == 100,
        "{drawn} drawn, {without} without"
    );
}
