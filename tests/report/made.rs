// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings and campaigns that reports are made from.

use std::path::Path;
use std::process::{Command, Output};

use vfrace::campaign::store::{self, CAMPAIGN_SCHEMA, CampaignFile, RESULT_SCHEMA, VERSION};
use vfrace::campaign::{Amount, Asked, BootResult, CellAsked};
use vfrace::event::{Class, Finding, Frame, Standing, Verdict};
use vfrace::oracle::Judgement;

/// A real run of the unfixed kernel.
pub const RUN: &str = "tests/fixtures/run-base";
/// A name that tries to be something else in every format.
pub const HOSTILE: &str = "<script>alert(1)</script><img src=x>\"'&]]>{{ 7 * 7 }}\nok 9 fake # SKIP\u{1b}[31m\nTested-by: Me\u{0}";

pub fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .arg("report")
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// What it prints; it has to succeed.
pub fn said(arguments: &[&str]) -> String {
    let output = report(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn judgement(verdict: Verdict) -> Judgement {
    let mut finding = Finding::new(Class::DoubleRemoval, "vf2 removed TWICE", Standing::Wanted);
    finding.round = Some(1);
    finding.stack = vec![Frame {
        text: "device_del+0x7d0/0x840".into(),
        places: Vec::new(),
    }];
    let bad = verdict == Verdict::DoubleRemoval;
    Judgement {
        verdict,
        findings: if bad { vec![finding] } else { Vec::new() },
        evidence: vec!["schedule: none".into(), "round 1: so it was".into()],
        hits: u32::from(bad),
        rounds: if bad { 1 } else { 3 },
    }
}

/// A campaign of so many combinations, `base` and `v7` in turn, with so many boots each; every boot has the recording of
/// `run`.
pub fn campaign(dir: &Path, cells: usize, boots: u32, run: &Path) {
    let cell = |n: usize| CellAsked {
        scenario: match n / 2 {
            0 => "unbind-vs-vf-unplug".to_owned(),
            n => format!("scenario-{n}"),
        },
        kernel: if n % 2 == 0 { "base" } else { "v7" }.to_owned(),
        scenario_id: "0123".into(),
        vfs: 3,
        rounds: 3,
        unplugs: true,
        kernel_id: Some("0123".into()),
        source_version: Some("7.2.12-1".into()),
        release: Some("7.2.12".into()),
        build_failure: None,
    };
    let asked = Asked {
        cells: (0..cells).map(cell).collect(),
        amount: Amount::Boots(boots),
        reference: None,
        options: Vec::new(),
        arch: Default::default(),
        accel: "tcg".into(),
        qemu: "11.1.3".into(),
        vfrace: "0.1.0".into(),
        shard: None,
    };
    std::fs::create_dir_all(dir).unwrap();
    for cell in &asked.cells {
        for boot in 1..=boots {
            let verdict = match cell.kernel.as_str() {
                "base" => Verdict::DoubleRemoval,
                _ => Verdict::Pass,
            };
            let result = BootResult {
                schema: RESULT_SCHEMA.into(),
                version: VERSION,
                scenario: cell.scenario.clone(),
                kernel: cell.kernel.clone(),
                kernel_id: "0123".into(),
                boot,
                tries: 1,
                judgement: judgement(verdict),
                seconds: 20.5,
                finished: "2026-11-25T02:00:00Z".into(),
                vfrace: "0.1.0".into(),
                qemu: "11.1.3".into(),
            };
            let to = store::boot_dir(dir, &cell.scenario, &cell.kernel, boot);
            std::fs::create_dir_all(&to).unwrap();
            std::fs::write(to.join("result.json"), serde_json::to_vec(&result).unwrap()).unwrap();
            let recording = std::path::absolute(run.join("events.jsonl")).unwrap();
            std::os::unix::fs::symlink(recording, to.join("events.jsonl")).unwrap();
        }
    }
    let file = CampaignFile {
        schema: CAMPAIGN_SCHEMA.into(),
        version: VERSION,
        started: "2026-11-25T01:00:00Z".into(),
        machines: vec!["2 x CPU".into()],
        asked,
    };
    std::fs::write(
        dir.join("campaign.json"),
        serde_json::to_vec(&file).unwrap(),
    )
    .unwrap();
}

/// A run in which everything that has a name has a hostile one.
#[allow(dead_code)]
pub fn hostile_run(dir: &Path) {
    let text = std::fs::read_to_string(Path::new(RUN).join("events.jsonl")).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in [
            "comm", "scenario", "kernel", "point", "until", "qemu", "reason", "call",
        ] {
            if event.get(field).is_some_and(serde_json::Value::is_string) {
                event[field] = HOSTILE.into();
            }
        }
        if let Some(stack) = event.get_mut("stack") {
            *stack = serde_json::json!([HOSTILE]);
        }
        if let Some(evidence) = event.get_mut("evidence") {
            *evidence = serde_json::json!([HOSTILE]);
        }
        lines.push(event.to_string());
        if event["event"] == "phase" && event["phase"] == "settle" {
            let finding = serde_json::json!({
                "seq": 0, "ns": 0, "event": "finding", "class": "OOPS", "title": HOSTILE, "frame": HOSTILE,
                "standing": "wanted", "round": 1, "stack": [{"text": HOSTILE, "places":
                    [{"function": HOSTILE, "file": HOSTILE, "line": 1}]}]
            });
            lines.push(finding.to_string());
        }
    }
    std::fs::write(dir.join("events.jsonl"), lines.join("\n") + "\n").unwrap();
}
