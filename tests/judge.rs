// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace judge`: consoles without a run, a recording, and files that are none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

const DOUBLE_PUT: &str = "tests/fixtures/x86-double-put-s_h2_op3_vf3.log";
const PCIEHP: &str = "tests/fixtures/x86-pciehp-surprise.log";
const RUN: &str = "tests/fixtures/run-base";

struct Said {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap()
    }
}

/// Runs it with an empty cache and `input` on its standard input.
fn judge_input(arguments: &[&str], input: &[u8]) -> Said {
    let cache = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .arg("judge")
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("VFRACE_CACHE", cache.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || to.write_all(input).ok());
        child.wait_with_output().unwrap()
    });
    Said {
        code: output.status.code(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn judge(arguments: &[&str]) -> Said {
    judge_input(arguments, b"")
}

fn refused(arguments: &[&str], words: &[&str]) {
    let said = judge(arguments);
    assert_eq!(said.code, Some(129), "{arguments:?}: {}", said.err);
    assert!(said.out.is_empty());
    for word in words {
        assert!(said.err.contains(word), "`{word}` is not in: {}", said.err);
    }
}

#[test]
fn a_console_alone_can_convict() {
    let said = judge(&[DOUBLE_PUT]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    insta::assert_snapshot!(said.text());
}

#[test]
fn it_never_acquits() {
    for (console, words) in [
        (PCIEHP, "no finding that is not known; a console alone"),
        (
            "tests/fixtures/x86-unbind-v7.log",
            "no finding; a console alone",
        ),
    ] {
        let said = judge(&[console]);
        assert_eq!(said.code, Some(125), "{}", said.err);
        assert!(said.text().contains(": INCONCLUSIVE\n"), "{}", said.text());
        assert!(said.text().contains(words), "{}", said.text());
    }
}

#[test]
fn a_known_issue_is_that_of_some_kernels() {
    let standing = |more: &[&str]| {
        let said = judge(&[&[PCIEHP, "--format", "json"], more].concat());
        let standing = said.json()["findings"][0]["standing"].clone();
        (said.code, standing.as_str().unwrap().to_owned())
    };
    assert_eq!(standing(&[]), (Some(125), "known".into()));
    assert_eq!(
        standing(&["--release", "6.12.1"]),
        (Some(1), "other".into())
    );

    let baseline = "tests/fixtures/x86-unbind-baseline.log";
    let code = |more: &[&str]| judge(&[&[baseline], more].concat()).code;
    assert_eq!(
        code(&["--kernel", "base", "--release", "7.2.12"]),
        Some(125)
    );
    assert_eq!(code(&["--kernel", "v7", "--release", "7.2.12"]), Some(1));
    assert_eq!(code(&["--kernel", "base"]), Some(1));
    // The release is what the kernel called itself when it booted.
    let mut console = b"[    0.000000] Linux version 7.2.3 (a@b) (gcc) #1 SMP\n".to_vec();
    console.extend(std::fs::read(baseline).unwrap());
    let said = judge_input(&["-", "--kernel", "base"], &console);
    assert_eq!(said.code, Some(125), "{}", said.text());
    assert!(!said.text().contains("OOPS"), "a boot is no finding");
}

#[test]
fn what_came_before_does_not_count() {
    let all = judge(&[DOUBLE_PUT, "--format", "json"]).json();
    let second = &all["findings"][1]["console"][0];
    let from = |more: &[&str]| judge(&[&[DOUBLE_PUT, "--format", "json"], more].concat());
    let said = from(&["--armed", &second.to_string()]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.json()["findings"].as_array().unwrap().len(), 1);
    assert_eq!(
        said.json()["remarks"]["before"].as_array().unwrap().len(),
        1
    );
    assert_eq!(said.json()["counts_from"], *second);

    let said = from(&["--after", "general protection fault, prob"]);
    assert_eq!(said.code, Some(125), "that line itself does not count");
    assert_eq!(said.json()["findings"].as_array().unwrap().len(), 0);

    // Behind a mark nobody wanted another boot.
    let console = b"=== go\n[    0.000000] Linux version 7.2.3 (a@b) (gcc) #1 SMP\n";
    assert_eq!(judge_input(&["-"], console).code, Some(125));
    assert_eq!(
        judge_input(&["-", "--after", "=== go"], console).code,
        Some(1)
    );
}

#[test]
fn the_document_has_everything() {
    let said = judge(&[DOUBLE_PUT, "--format", "json"]);
    assert_eq!(said.code, Some(1));
    let json = said.json();
    assert_eq!(json["schema"], "vfrace-judge");
    assert_eq!(json["version"], 1);
    assert_eq!(json["verdict"], "FINDING");
    assert_eq!(json["exit"], 1);
    assert_eq!(json["console"], DOUBLE_PUT);
    let length = std::fs::metadata(DOUBLE_PUT).unwrap().len();
    assert_eq!(json["bytes"], length);
    let first = &json["findings"][0];
    assert_eq!(first["class"], "USE-AFTER-FREE");
    assert_eq!(first["frame"], "device_del");
    assert_eq!(first["standing"], "other");
    let frames = first["stack"].as_array().unwrap();
    assert!(
        frames
            .iter()
            .any(|f| f["text"] == "device_del+0x835/0x8c0" && f["places"].is_null()),
        "{first}"
    );
    let off = &json["remarks"]["lockdep_off"];
    let console = std::fs::read(DOUBLE_PUT).unwrap();
    let at = off["at"].as_u64().unwrap() as usize;
    let text = off["text"].as_str().unwrap();
    assert!(console[at..].starts_with(text.as_bytes()), "{off}");
    assert_eq!(json["symbols"], Value::Null);
}

#[test]
fn a_recording_is_judged_as_its_run_was() {
    let console = format!("{RUN}/console.log");
    let recording = std::fs::read_to_string(format!("{RUN}/events.jsonl")).unwrap();
    let judged: Value = recording
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["event"] == "judged")
        .unwrap();
    for events in [RUN, &format!("{RUN}/events.jsonl")] {
        let said = judge(&[&console, "--events", events, "--format", "json"]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        let json = said.json();
        assert_eq!(json["verdict"], "DOUBLE-REMOVAL");
        for field in ["verdict", "hits", "rounds"] {
            assert_eq!(json[field], judged[field], "{field}");
        }
        // What the run said about its rounds; what the console says may get better.
        let rounds = |from: &Value| -> Vec<String> {
            let all = from["evidence"].as_array().unwrap().iter();
            let lines = all.map(|line| line.as_str().unwrap().to_owned());
            lines.filter(|line| line.starts_with("round ")).collect()
        };
        assert!(rounds(&judged).len() > 3);
        assert_eq!(rounds(&json), rounds(&judged));
        assert_eq!(json["scenario"], "unbind-vs-vf-unplug");
        assert_eq!(json["kernel"], "base");
    }
    // A recording by an older module lacks records: what it has still convicts.
    let older = "tests/fixtures/run-base-older";
    let said = judge(&[&format!("{older}/console.log"), "--events", older]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.text().contains(": DOUBLE-REMOVAL  1/1 rounds"),
        "{}",
        said.text()
    );
    // Another scenario, another judgement: a control has nothing that could overlap.
    let said = judge(&[&console, "--events", RUN, "--scenario", "unbind-alone"]);
    assert!(said.text().starts_with("unbind-alone on base: "));
    let said = judge(&["/dev/null", "--events", RUN]);
    assert_eq!(
        said.code,
        Some(1),
        "the module saw it, whatever was printed"
    );
}

#[test]
fn raw_lines_are_those_of_the_report_alone() {
    let mine = "[    5.100000][   T93] refcount_t: underflow; use-after-free.\r\n\
                [    5.100100][   T93] WARNING: CPU: 0 PID: 93 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110\r\n\
                [    5.100200][   T93] RIP: 0010:refcount_warn_saturate+0xba/0x110\r\n\
                [    5.100300][   T93] Call Trace:\r\n\
                [    5.100400][   T93]  <TASK>\r\n\
                [    5.100500][   T93]  kobject_put+0x1e/0x40\r\n\
                [    5.100600][   T93]  sriov_disable+0x22/0x50\r\n\
                [    5.100700][   T93]  </TASK>\r\n\
                [    5.100800][   T93] ---[ end trace 0000000000000000 ]---\r\n";
    let mut mixed = "booting\n".to_owned();
    for line in mine.split_inclusive('\n') {
        mixed += "[    5.100000][   T40]  <TASK>\r\n";
        mixed += "sh: ";
        mixed += line;
    }
    let said = judge_input(&["-", "--raw"], mixed.as_bytes());
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert_eq!(said.text(), mine);
    assert!(
        judge(&["tests/fixtures/x86-unbind-v7.log", "--raw"])
            .out
            .is_empty()
    );
}

/// The function `outer` in a file with symbols, and the frame of its call of `inner`.
fn program(dir: &Path) -> (PathBuf, String) {
    let source = dir.join("place.c");
    std::fs::write(
        &source,
        "volatile int value;\n\
         __attribute__((noinline)) void inner(void)\n{\n\tvalue++;\n}\n\
         static inline void middle(void)\n{\n\tinner();\n\tvalue++;\n}\n\
         __attribute__((noinline)) void outer(void)\n{\n\tmiddle();\n\tvalue++;\n}\n\
         int main(void)\n{\n\touter();\n\treturn 0;\n}\n",
    )
    .unwrap();
    let file = dir.join("place");
    let built = Command::new("gcc")
        .args(["-g", "-O2", "-o"])
        .args([&file, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let said = Command::new("nm").arg("-n").arg(&file).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let symbols: Vec<(u64, &str)> = said
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let at = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((at, words.nth(1)?))
        })
        .collect();
    let (start, _) = symbols.iter().find(|(_, name)| *name == "outer").unwrap();
    let (next, _) = symbols.iter().find(|(at, _)| at > start).unwrap();
    // The call is its first instruction, of five bytes, or behind an endbr64 of four.
    (file, format!("outer+0x5/{:#x}", next - start))
}

#[test]
fn frames_get_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (file, frame) = program(dir.path());
    let file = file.to_str().unwrap();
    let console = format!(
        "BUG: KASAN: slab-use-after-free in {frame}\n\
         Read of size 8 at addr ff110000056e2388 by task sh/90\n\
         Call Trace:\n <TASK>\n {frame}\n vfrace_hold+0x1/0x2 [vfrace]\n </TASK>\n"
    );
    let said = judge_input(&["-", "--vmlinux", file], console.as_bytes());
    assert_eq!(said.code, Some(1), "{}", said.err);
    let line = said.text();
    assert!(
        line.contains("            outer ") && line.contains("place.c:13"),
        "{line}"
    );
    assert!(line.contains("(inlined: middle "), "{line}");
    let said = judge_input(
        &["-", "--vmlinux", file, "--format", "json"],
        console.as_bytes(),
    );
    let json = said.json();
    assert_eq!(json["symbols"]["placed"], json["symbols"]["frames"]);
    let places = json["findings"][0]["stack"][0]["places"].clone();
    assert_eq!(places[0]["function"], "middle");
    assert_eq!(places[0]["line"], 8);
    assert_eq!(places[1]["function"], "outer");

    // Another kernel's symbols are not believed.
    let said = judge(&[DOUBLE_PUT, "--vmlinux", file]);
    assert!(
        said.text().contains("is it of this kernel?"),
        "{}",
        said.text()
    );
}

#[test]
fn what_cannot_be_judged() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty", b"");
    let console = format!("{RUN}/console.log");
    refused(&[], &["CONSOLE"]);
    refused(
        &["/nowhere/console.log"],
        &["/nowhere/console.log", "No such file"],
    );
    refused(
        &[RUN],
        &["is a directory", "--events tests/fixtures/run-base"],
    );
    refused(&["src"], &["is a directory"]);
    refused(&[&empty], &["is empty"]);
    refused(&["-"], &["is empty"]);
    refused(&[DOUBLE_PUT, "--armed", "99999999"], &["99999999", "bytes"]);
    refused(&[DOUBLE_PUT, "--after", "no such"], &["no such"]);
    refused(&[DOUBLE_PUT, "--after", "a", "--armed", "1"], &["--armed"]);
    refused(&[DOUBLE_PUT, "--scenario", "unbind-alone"], &["--events"]);
    refused(&[DOUBLE_PUT, "--format", "yaml"], &["yaml", "json"]);
    refused(&[DOUBLE_PUT, "--raw", "--format", "json"], &["--raw"]);
    refused(
        &[DOUBLE_PUT, "--vmlinux", "Cargo.toml"],
        &["Cargo.toml", "not an ELF file"],
    );
    refused(
        &[DOUBLE_PUT, "--vmlinux", "/nowhere/vmlinux"],
        &["/nowhere/vmlinux"],
    );

    let with = |events: &str| [console.clone(), "--events".into(), events.to_owned()];
    let refused_with = |events: &str, more: &[&str], words: &[&str]| {
        let with = with(events);
        let all: Vec<&str> = with.iter().map(String::as_str).collect();
        refused(&[&all, more].concat(), words);
    };
    refused_with("/nowhere", &[], &["/nowhere"]);
    refused_with("src", &[], &["src/events.jsonl"]);
    refused_with(&empty, &[], &["--scenario"]);
    refused_with(RUN, &["--scenario", "unbind-alon"], &["unbind-alone"]);
    refused_with(RUN, &["--release", "7.2"], &["--release"]);
    let recording = std::fs::read_to_string(format!("{RUN}/events.jsonl")).unwrap();
    let broken = recording.replacen("\"event\":\"schedule\"", "\"event\":\"shedule\"", 1);
    let line = 1 + broken.lines().position(|l| l.contains("shedule")).unwrap();
    let broken = file("broken.jsonl", broken.as_bytes());
    refused_with(&broken, &[], &[&format!("line {line} "), "broken.jsonl"]);
}

#[test]
fn any_bytes_are_no_panic() {
    let mut random = 1u64;
    let noise: Vec<u8> = (0..2_000_000)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as u8
        })
        .collect();
    let said = judge_input(&["-"], &noise);
    assert_eq!(said.code, Some(125), "{}", said.err);
    // With the words of reports among them.
    let good = std::fs::read(DOUBLE_PUT).unwrap();
    for (n, cut) in noise.chunks(5000).take(6).enumerate() {
        let mut mixed = good.clone();
        for pair in cut.chunks_exact(4).take(200) {
            let at = u32::from_le_bytes([pair[0], pair[1], pair[2], 0]) as usize;
            let at = at % mixed.len();
            mixed[at] = pair[3];
        }
        for arguments in [["-", "--raw"], ["-", "--format=json"]] {
            let said = judge_input(&arguments, &mixed);
            assert!(matches!(said.code, Some(1 | 125)), "{n}: {}", said.err);
        }
    }
}
