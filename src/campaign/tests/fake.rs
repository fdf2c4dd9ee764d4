// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A campaign without guests.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::arch::Arch;
use crate::campaign::store::{CAMPAIGN_SCHEMA, CampaignFile, RESULT_SCHEMA, VERSION, now};
use crate::campaign::{
    Amount, Asked, BootResult, CampaignError, CellAsked, Job, Results, Store, play,
};
use crate::event::{Class, Finding, Standing, Verdict};
use crate::oracle::Judgement;
use crate::run::{RunError, RunResult};

/// `s on base`, `s on v7`, ... with so many boots; 3 rounds in a boot.
pub fn asked(names: &[&str], amount: Amount) -> Asked {
    let cell = |name: &&str| {
        let (scenario, kernel) = name.split_once(" on ").unwrap();
        CellAsked {
            scenario: scenario.to_owned(),
            kernel: kernel.to_owned(),
            scenario_id: "0123".to_owned(),
            vfs: 3,
            rounds: 3,
            unplugs: true,
            kernel_id: Some(format!("id-of-{kernel}")),
            source_version: Some("7.2.12-1".to_owned()),
            release: Some("7.2.12".to_owned()),
            build_failure: None,
        }
    };
    Asked {
        cells: names.iter().map(cell).collect(),
        amount,
        reference: None,
        options: Vec::new(),
        arch: Arch::default(),
        accel: "tcg".to_owned(),
        qemu: "11.1.3".to_owned(),
        vfrace: "0.1.0".to_owned(),
        shard: None,
    }
}

pub fn file(asked: &Asked) -> CampaignFile {
    CampaignFile {
        schema: CAMPAIGN_SCHEMA.to_owned(),
        version: VERSION,
        started: "2026-11-25T01:00:00Z".to_owned(),
        machines: vec!["2 x CPU, 8 GiB, Linux 6.1.0".to_owned()],
        asked: asked.clone(),
    }
}

/// A judgement; a verdict that is a finding comes with a wanted one in round 1.
pub fn judgement(verdict: Verdict) -> Judgement {
    let class = match verdict {
        Verdict::DoubleRemoval => Some(Class::DoubleRemoval),
        Verdict::Deadlock => Some(Class::Deadlock),
        Verdict::Finding => Some(Class::Assert),
        _ => None,
    };
    let finding = |class| Finding {
        round: Some(1),
        ..Finding::new(class, "what was seen", Standing::Wanted)
    };
    Judgement {
        verdict,
        findings: class.map(finding).into_iter().collect(),
        evidence: vec!["schedule: none".to_owned(), "round 1: so it was".to_owned()],
        hits: u32::from(class.is_some()),
        rounds: if class.is_some() { 1 } else { 3 },
    }
}

pub fn result(asked: &Asked, at: usize, boot: u32, judgement: Judgement) -> BootResult {
    let cell = &asked.cells[at];
    BootResult {
        schema: RESULT_SCHEMA.to_owned(),
        version: VERSION,
        scenario: cell.scenario.clone(),
        kernel: cell.kernel.clone(),
        kernel_id: cell.kernel_id.clone().unwrap_or_default(),
        boot,
        tries: 1,
        judgement,
        seconds: 20.5,
        finished: "2026-11-25T02:00:00Z".to_owned(),
        vfrace: asked.vfrace.clone(),
        qemu: asked.qemu.clone(),
    }
}

/// What boots of a combination led to, in order.
pub fn results(asked: &Asked, cells: &[&[Verdict]]) -> Results {
    let mut results = Results::new();
    for (at, verdicts) in cells.iter().enumerate() {
        for (boot, verdict) in (1..).zip(*verdicts) {
            results.insert((at, boot), result(asked, at, boot, judgement(*verdict)));
        }
    }
    results
}

pub fn ran(job: &Job, judgement: Judgement) -> RunResult {
    std::fs::write(job.dir.join("console.log"), "what the guest said\n").unwrap();
    // No two boots are alike.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    RunResult {
        judgement,
        seconds: f64::from(RUNS.fetch_add(1, Ordering::Relaxed)),
        dir: job.dir.clone(),
        interrupted: false,
    }
}

/// Plays a campaign to its end; `verdict` says what a boot leads to.
pub fn run(
    dir: &Path,
    asked: &Asked,
    verdict: impl Fn(&Job) -> Verdict + Sync,
) -> Result<Results, CampaignError> {
    let (store, there) = Store::open(dir, asked, "a machine")?;
    let boot = |job: &Job| -> Result<RunResult, RunError> { Ok(ran(job, judgement(verdict(job)))) };
    play(&store, there, 3, &AtomicBool::new(false), &boot)
}

/// Now is written as RFC 3339.
#[test]
fn times_are_readable() {
    assert!(humantime::parse_rfc3339(&now()).is_ok());
}
