// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a campaign gave: a line for each scenario on each kernel, with how sure it is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::asked::{Amount, Asked, CellAsked};
use super::bound::{clean_needed, false_pass, meets};
use super::error::CampaignError;
use super::plan::{self, End};
use super::reference::{Tally, reference};
use super::shard::Shard;
use super::stats::{Interval, Rate};
use super::store::{BootResult, CampaignFile, Results, boot_dir};
use super::{UNBUILT, verdict_exit};
use crate::event::{Class, Finding, Standing, Verdict};
use crate::exit::ExitCode;
use crate::host::files;
use crate::oracle::{Expectations, Expected, Judgement};

/// What the file matrix.json calls itself.
const SCHEMA: &str = "vfrace-matrix";
/// Its version. Raised when a field changes its meaning or goes away; fields may be added.
const VERSION: u32 = 1;

/// What a campaign gave.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    schema: &'static str,
    version: u32,
    /// When it was begun, as in RFC 3339.
    pub started: String,
    /// When its last boot was judged; `None` without any.
    pub finished: Option<String>,
    /// The machines that worked on it.
    pub machines: Vec<String>,
    /// This program's version.
    pub vfrace: String,
    /// QEMU's version.
    pub qemu: String,
    /// Accelerator.
    pub accel: String,
    /// What was done to the guests beside the schedule.
    pub options: Vec<String>,
    /// How many boots were asked for.
    pub amount: Amount,
    /// The part that this is; `None` for the whole.
    pub shard: Option<Shard>,
    /// The error that the bounds are compared with, if one was stated.
    pub error: Option<f64>,
    /// A line for each combination with a verdict, in the order in which they were asked for.
    pub outcomes: Vec<Outcome>,
    /// Boots that should be there and are not, or for an error bound combinations that need more.
    pub missing: u64,
    /// Which combinations they belong to, with how many.
    pub missing_of: Vec<(String, u64)>,
}

/// What a combination gave.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// Kernel identity; `None` for one that does not build.
    pub kernel_id: Option<String>,
    /// Version of the kernel's source.
    pub source_version: Option<String>,
    /// Over all boots: the one that ranks first in the order of [`Verdict`].
    pub verdict: Verdict,
    /// What was expected, if the list says anything about it.
    pub expected: Option<Expected>,
    /// Whether it is what it should be: what is expected, and without an expectation a PASS.
    pub as_expected: bool,
    /// The finding that it rests on.
    pub seen: Option<Finding>,
    /// A line of the first boot with the verdict that says what it rests on.
    pub evidence: Option<String>,
    /// Rounds and boots, counted.
    #[serde(flatten)]
    pub tally: Tally,
    /// Rounds that showed what the verdict says, in the boots that have it; not all of it need be what the scenario looks
    /// for.
    pub shown: u32,
    /// 95 % interval of the rate of hits; `None` without hits.
    pub interval: Option<Interval>,
    /// How sure a PASS is; `None` without clean rounds or with a hit.
    pub bound: Option<Bound>,
    /// Why it gets no more boots; `None` if no error bound was asked for.
    pub ended: Option<End>,
    /// Seconds of all boots together.
    pub seconds: f64,
    /// Boots by verdict.
    pub verdicts: Vec<(Verdict, u32)>,
    /// Where the evidence is.
    pub dir: PathBuf,
    /// The boots.
    #[serde(skip)]
    pub boots: Vec<BootResult>,
    /// The judgement on a kernel that does not build.
    #[serde(skip)]
    unbuilt: Option<Judgement>,
}

/// The chance that a kernel as bad as the reference shows as little.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The reference's name.
    pub reference: String,
    /// Its hits.
    pub rate: Rate,
    /// The chance.
    pub false_pass: f64,
    /// Clean rounds that are still needed for the error that was stated; 0 if it is met.
    pub needed: Option<u32>,
}

impl Outcome {
    /// What the verdict rests on.
    fn decisive(&self) -> impl Iterator<Item = &Judgement> {
        let boots = self.boots.iter().map(|boot| &boot.judgement);
        let verdict = self.verdict;
        self.unbuilt
            .iter()
            .chain(boots)
            .filter(move |judgement| judgement.verdict == verdict)
    }

    /// Whether it is what it should be, for the reason that it should have: each boot with that verdict has the finding
    /// that is expected. Without an expectation, PASS is.
    fn compare(&self) -> bool {
        let Some(expected) = &self.expected else {
            return self.verdict == Verdict::Pass;
        };
        self.verdict == expected.verdict && self.decisive().all(|j| expected.met_by(j))
    }

    /// The finding that it rests on: the one that is expected, or one that the scenario looks for, or the first that is
    /// not a known issue.
    fn find_seen(&self) -> Option<Finding> {
        let named = self.expected.as_ref().filter(|e| e.has_reason());
        let of = |is: &dyn Fn(&Finding) -> bool| {
            let mut all = self.decisive().flat_map(|judgement| &judgement.findings);
            all.find(|finding| is(finding))
        };
        let class = match self.verdict {
            Verdict::DoubleRemoval => Some(Class::DoubleRemoval),
            Verdict::Deadlock => Some(Class::Deadlock),
            _ => None,
        };
        named
            .and_then(|e| self.decisive().find_map(|j| e.reason(&j.findings)))
            .or_else(|| of(&|finding| finding.standing == Standing::Wanted))
            .or_else(|| of(&|f| f.standing != Standing::Known && Some(f.class) == class))
            .or_else(|| of(&|finding| finding.standing != Standing::Known))
            .cloned()
    }

    fn find_evidence(&self) -> Option<String> {
        let mut told = self.decisive().filter_map(Judgement::telling_evidence);
        told.next().map(str::to_owned)
    }

    /// The exit code for this combination alone.
    pub fn exit(&self) -> ExitCode {
        match self.verdict {
            _ if self.as_expected => ExitCode::Good,
            // The finding that should be there is not: that is news, and not good news.
            Verdict::Pass => ExitCode::Bad,
            verdict => verdict_exit(verdict),
        }
    }
}

impl Table {
    /// Makes it out of results. `error` is what the bounds are compared with, if the campaign itself has none; `dir` is
    /// where the evidence is.
    pub fn new(
        file: &CampaignFile,
        results: &Results,
        expected: &Expectations,
        error: Option<f64>,
        dir: &Path,
    ) -> Self {
        let asked = &file.asked;
        let error = match asked.amount {
            Amount::Error { error, .. } => Some(error),
            Amount::Boots(_) => error,
        };
        let tallies = plan::tallies(asked, results);
        let outcome = |at| outcome(asked, results, &tallies, expected, error, dir, at);
        let missing = plan::missing(asked, results);
        let name = |(at, missing): &(usize, u64)| Some((asked.cells.get(*at)?.title(), *missing));
        Self {
            schema: SCHEMA,
            version: VERSION,
            started: file.started.clone(),
            finished: results.values().map(|result| result.finished.clone()).max(),
            machines: file.machines.clone(),
            vfrace: asked.vfrace.clone(),
            qemu: asked.qemu.clone(),
            accel: asked.accel.clone(),
            options: asked.options.clone(),
            amount: asked.amount,
            shard: asked.shard,
            error,
            outcomes: (0..asked.cells.len()).filter_map(outcome).collect(),
            missing: missing.iter().map(|(_, missing)| missing).sum(),
            missing_of: missing.iter().filter_map(name).collect(),
        }
    }

    /// Writes matrix.json into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), CampaignError> {
        let path = dir.join("matrix.json");
        let json = serde_json::to_vec_pretty(self).map_err(|source| CampaignError::Malformed {
            path: path.clone(),
            source,
        })?;
        Ok(files::write_whole(&path, &json)?)
    }

    /// The exit code for the whole: the worst of its combinations. A verdict that was not expected is bad even when other
    /// combinations could not be told; so they could not when a boot is missing.
    pub fn exit(&self, interrupted: bool) -> ExitCode {
        if interrupted {
            return ExitCode::Interrupted;
        }
        let mut exits: Vec<ExitCode> = self.outcomes.iter().map(Outcome::exit).collect();
        if self.missing > 0 {
            exits.push(ExitCode::CannotTell);
        }
        [
            ExitCode::Infrastructure,
            ExitCode::Bad,
            ExitCode::CannotTell,
        ]
        .into_iter()
        .find(|code| exits.contains(code))
        .unwrap_or(ExitCode::Good)
    }
}

/// What a combination gave; `None` if there is nothing of it yet.
fn outcome(
    asked: &Asked,
    results: &Results,
    tallies: &[Tally],
    expected: &Expectations,
    error: Option<f64>,
    dir: &Path,
    at: usize,
) -> Option<Outcome> {
    let cell = asked.cells.get(at)?;
    let tally = *tallies.get(at)?;
    let boots: Vec<BootResult> = results
        .range((at, 0)..=(at, u32::MAX))
        .map(|(_, result)| result.clone())
        .collect();
    let bound = bound(asked, tallies, error, at);
    let verdicts = verdicts(&boots);
    let verdict = match &cell.kernel_id {
        None => UNBUILT,
        Some(_) => total(asked.amount, &verdicts, bound.as_ref())?,
    };
    let unbuilt = cell.kernel_id.is_none().then(|| unbuilt(cell));
    let first = boot_dir(dir, &cell.scenario, &cell.kernel, 1);
    let mut outcome = Outcome {
        scenario: cell.scenario.clone(),
        kernel: cell.kernel.clone(),
        kernel_id: cell.kernel_id.clone(),
        source_version: cell.source_version.clone(),
        verdict,
        expected: expected.expectation(&cell.scenario, &cell.kernel),
        as_expected: false,
        seen: None,
        evidence: None,
        tally,
        shown: 0,
        interval: tally.rate().interval().filter(|_| tally.hits > 0),
        bound,
        ended: plan::end(asked, tallies, at),
        seconds: boots
            .iter()
            .map(|boot| boot.seconds)
            .fold(0.0, |sum, s| sum + s),
        verdicts,
        dir: first.parent().unwrap_or(dir).to_path_buf(),
        boots,
        unbuilt,
    };
    outcome.evidence = outcome.find_evidence();
    outcome.shown = outcome.decisive().map(|judgement| judgement.hits).sum();
    outcome.as_expected = outcome.compare();
    outcome.seen = outcome.find_seen();
    Some(outcome)
}

/// The judgement on a kernel that does not build: the line that says why is its finding.
fn unbuilt(cell: &CellAsked) -> Judgement {
    let why = cell.build_failure.clone().unwrap_or_default();
    Judgement {
        verdict: UNBUILT,
        findings: vec![Finding::new(Class::Build, &why, Standing::Other)],
        evidence: vec![why],
        hits: 0,
        rounds: 0,
    }
}

/// Boots by verdict, in the order of [`Verdict`].
fn verdicts(boots: &[BootResult]) -> Vec<(Verdict, u32)> {
    let mut verdicts = std::collections::BTreeMap::new();
    for boot in boots {
        *verdicts.entry(boot.judgement.verdict).or_default() += 1;
    }
    verdicts.into_iter().collect()
}

/// The verdict over all boots. Where an error bound was asked for and the clean rounds alone meet it, boots in which
/// nothing overlapped do not count.
fn total(amount: Amount, verdicts: &[(Verdict, u32)], bound: Option<&Bound>) -> Option<Verdict> {
    let first = verdicts.iter().map(|(verdict, _)| *verdict).min()?;
    let is_met = match amount {
        Amount::Error { error, .. } => bound.is_some_and(|bound| meets(bound.false_pass, error)),
        Amount::Boots(_) => false,
    };
    let passes = verdicts
        .iter()
        .any(|(verdict, _)| *verdict == Verdict::Pass);
    Some(match first {
        Verdict::Inconclusive if is_met && passes => Verdict::Pass,
        verdict => verdict,
    })
}

fn bound(asked: &Asked, tallies: &[Tally], error: Option<f64>, at: usize) -> Option<Bound> {
    let tally = tallies.get(at)?;
    if tally.hits > 0 || tally.clean == 0 {
        return None;
    }
    let other = reference(asked, tallies, at)?;
    let rate = tallies.get(other)?.rate();
    let needed = error.and_then(|error| clean_needed(rate, error));
    Some(Bound {
        reference: asked.cells.get(other)?.kernel.clone(),
        rate,
        false_pass: false_pass(rate, tally.clean)?,
        needed: needed.map(|needed| needed.saturating_sub(tally.clean)),
    })
}
