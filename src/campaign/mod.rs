// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many runs: scenarios on kernels, several boots of each; and the search for a schedule.

pub mod bisect;
pub mod bisection;
pub mod bound;
pub mod compare;
pub mod decide;
pub mod explore;
pub mod mutants;
pub mod stats;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::{Finding, Standing, Verdict};
use crate::exit::ExitCode;
use crate::kernel::BuiltKernel;
use crate::oracle::{Expectations, Expected, KnownIssues};
use crate::qemu::{Accel, QemuBinary};
use crate::run::{Listener, RunConfig, RunError, RunResult, Stop, run};
use crate::scenario::Scenario;

/// What a campaign is made of.
pub struct Campaign<'a> {
    /// Which scenarios on which kernels.
    pub cells: &'a [Cell<'a>],
    /// Boots per cell.
    pub boots: u32,
    /// Guests at the same time.
    pub jobs: usize,
    /// QEMU.
    pub qemu: &'a QemuBinary,
    /// Accelerator.
    pub accel: Accel,
    /// A static busybox for the guests.
    pub busybox: &'a Path,
    /// The guests' init.
    pub init: &'a Path,
    /// Known issues.
    pub known: &'a KnownIssues,
    /// What each cell should give.
    pub expected: &'a Expectations,
    /// Where results go: `DIR/SCENARIO/KERNEL/boot-N`.
    pub dir: PathBuf,
    /// As [`RunConfig::few_probes`].
    pub few_probes: bool,
    /// As [`RunConfig::skip_sleep`].
    pub skip_sleep: bool,
    /// As [`RunConfig::repair`].
    pub repair: bool,
    /// Ends the campaign early.
    pub stop: Stop,
    /// Makes the listener for one run, given its directory.
    pub listen: &'a (dyn Fn(&Path) -> Listener + Sync),
}

/// One combination of scenario and kernel.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The kernel.
    pub kernel: &'a BuiltKernel,
}

/// What a cell gave.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// Kernel identity.
    pub kernel_id: String,
    /// Over all boots: the one that ranks first in the order of [`Verdict`].
    pub verdict: Verdict,
    /// What was expected, if the list says anything about this cell.
    pub expected: Option<Expected>,
    /// Rounds in which the wanted finding was seen.
    pub hits: u32,
    /// Rounds run.
    pub rounds: u32,
    /// Boots that were judged.
    pub boots: u32,
    /// Seconds of all boots together.
    pub seconds: f64,
    /// The runs, a boot each, in the order in which they ended.
    pub runs: Vec<RunResult>,
    /// Where the evidence is.
    pub dir: PathBuf,
}

impl Outcome {
    /// Whether it is what it should be, for the reason that it should have: each boot with that verdict has the finding
    /// that is expected. Without an expectation, PASS is.
    pub fn is_as_expected(&self) -> bool {
        let Some(expected) = &self.expected else {
            return self.verdict == Verdict::Pass;
        };
        let mut decisive = self
            .runs
            .iter()
            .map(|run| &run.judgement)
            .filter(|judgement| judgement.verdict == self.verdict);
        self.verdict == expected.verdict && decisive.all(|judgement| expected.met_by(judgement))
    }

    /// The finding that it rests on: the one that is expected, or the first that is not a known issue.
    pub fn seen(&self) -> Option<&Finding> {
        let decisive = || {
            let runs = self.runs.iter().map(|run| &run.judgement);
            runs.filter(|judgement| judgement.verdict == self.verdict)
        };
        let wanted = self.expected.as_ref().filter(|e| e.has_reason());
        wanted
            .and_then(|e| decisive().find_map(|judgement| e.reason(&judgement.findings)))
            .or_else(|| {
                let mut all = decisive().flat_map(|judgement| &judgement.findings);
                all.find(|finding| finding.standing != Standing::Known)
            })
    }

    /// The exit code for this cell alone.
    pub fn exit(&self) -> ExitCode {
        match self.verdict {
            _ if self.is_as_expected() => ExitCode::Good,
            // The finding that should be there is not: that is news, and not good news.
            Verdict::Pass => ExitCode::Bad,
            verdict => verdict_exit(verdict),
        }
    }
}

/// The exit code for a verdict by itself, as `vfrace run` gives it.
pub fn verdict_exit(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Pass => ExitCode::Good,
        Verdict::Infra => ExitCode::Infrastructure,
        Verdict::BuildFail | Verdict::BootFail | Verdict::Inconclusive => ExitCode::CannotTell,
        Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding | Verdict::Silent => {
            ExitCode::Bad
        }
    }
}

/// The exit code for a whole campaign: the worst of its cells. A verdict that was not expected is bad even when other
/// cells could not be told.
pub fn exit(outcomes: &[Outcome], interrupted: bool) -> ExitCode {
    if interrupted {
        return ExitCode::Interrupted;
    }
    let exits: Vec<ExitCode> = outcomes.iter().map(Outcome::exit).collect();
    [
        ExitCode::Infrastructure,
        ExitCode::Bad,
        ExitCode::CannotTell,
    ]
    .into_iter()
    .find(|code| exits.contains(code))
    .unwrap_or(ExitCode::Good)
}

/// Runs every cell. The outcomes are in the order of the cells; a campaign that is stopped gives those that have at
/// least one judged boot.
pub fn play(campaign: &Campaign<'_>) -> Result<Vec<Outcome>, RunError> {
    let cells = campaign.cells;
    let boots = campaign.boots as usize;
    // One run after the other off a common list; results sorted into their cells.
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, RunResult)>> = Mutex::default();
    let failed: Mutex<Option<RunError>> = Mutex::default();
    let stopped = || campaign.stop.load(Ordering::Acquire);
    std::thread::scope(|scope| {
        for _ in 0..campaign.jobs.clamp(1, cells.len().max(1) * boots.max(1)) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (at, boot) = (
                        number.checked_div(boots).unwrap_or(usize::MAX),
                        number % boots.max(1),
                    );
                    let Some(cell) = cells.get(at) else { break };
                    if stopped() || lock(&failed).is_some() {
                        break;
                    }
                    match one(campaign, cell, boot) {
                        Ok(result) if result.interrupted => break,
                        Ok(result) => lock(&results).push((at, result)),
                        Err(error) => *lock(&failed) = Some(error),
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let results = std::mem::take(&mut *lock(&results));
    let mut runs: Vec<Vec<RunResult>> = cells.iter().map(|_| Vec::new()).collect();
    for (at, result) in results {
        if let Some(cell) = runs.get_mut(at) {
            cell.push(result);
        }
    }
    Ok(cells
        .iter()
        .zip(runs)
        .filter_map(|(cell, runs)| sum(campaign, cell, runs))
        .collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn cell_dir(campaign: &Campaign<'_>, cell: &Cell<'_>) -> PathBuf {
    campaign
        .dir
        .join(&cell.scenario.name)
        .join(cell.kernel.name.to_string())
}

fn one(campaign: &Campaign<'_>, cell: &Cell<'_>, boot: usize) -> Result<RunResult, RunError> {
    let dir = cell_dir(campaign, cell).join(format!("boot-{}", boot + 1));
    std::fs::create_dir_all(&dir).map_err(|source| RunError::Write {
        path: dir.clone(),
        source,
    })?;
    let listener = (campaign.listen)(&dir);
    let config = RunConfig {
        skip_sleep: campaign.skip_sleep,
        few_probes: campaign.few_probes,
        repair: campaign.repair,
        scenario: cell.scenario,
        kernel: cell.kernel,
        qemu: campaign.qemu,
        accel: campaign.accel,
        busybox: campaign.busybox,
        init: campaign.init,
        known: campaign.known,
        dir,
        stop: campaign.stop.clone(),
    };
    run(&config, listener)
}

fn sum(campaign: &Campaign<'_>, cell: &Cell<'_>, runs: Vec<RunResult>) -> Option<Outcome> {
    let verdict = runs.iter().map(|run| run.judgement.verdict).min()?;
    let kernel = cell.kernel.name.to_string();
    Some(Outcome {
        scenario: cell.scenario.name.clone(),
        expected: campaign.expected.expectation(&cell.scenario.name, &kernel),
        kernel,
        kernel_id: cell.kernel.id.clone(),
        verdict,
        hits: runs.iter().map(|run| run.judgement.hits).sum(),
        rounds: runs.iter().map(|run| run.judgement.rounds).sum(),
        boots: runs.len() as u32,
        seconds: runs.iter().map(|run| run.seconds).sum(),
        dir: cell_dir(campaign, cell),
        runs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Class;
    use crate::oracle::Judgement;

    fn outcome(verdict: Verdict, expected: Option<Verdict>) -> Outcome {
        let expected = expected.map(Expected::verdict);
        Outcome {
            scenario: "s".to_owned(),
            kernel: "k".to_owned(),
            kernel_id: "0".to_owned(),
            verdict,
            expected,
            hits: 0,
            rounds: 1,
            boots: 1,
            seconds: 1.0,
            runs: Vec::new(),
            dir: PathBuf::new(),
        }
    }

    #[test]
    fn an_expected_finding_is_good_and_an_unexpected_pass_is_not() {
        let wanted = Some(Verdict::DoubleRemoval);
        assert_eq!(
            outcome(Verdict::DoubleRemoval, wanted).exit(),
            ExitCode::Good
        );
        assert_eq!(outcome(Verdict::Pass, wanted).exit(), ExitCode::Bad);
        assert_eq!(outcome(Verdict::DoubleRemoval, None).exit(), ExitCode::Bad);
        assert_eq!(
            outcome(Verdict::Inconclusive, None).exit(),
            ExitCode::CannotTell
        );
    }

    #[test]
    fn the_right_verdict_for_another_reason_is_bad() {
        let found = |class, title: &str| RunResult {
            judgement: Judgement {
                verdict: Verdict::Finding,
                findings: vec![
                    Finding::new(Class::Assert, "known", Standing::Known),
                    Finding::new(class, title, Standing::Other),
                ],
                evidence: Vec::new(),
                hits: 1,
                rounds: 1,
            },
            dir: PathBuf::new(),
            interrupted: false,
            seconds: 1.0,
        };
        let mut cell = outcome(Verdict::Finding, None);
        cell.expected = Some(Expected {
            class: Some(Class::Refcount),
            title: Some("PF".to_owned()),
            ..Expected::verdict(Verdict::Finding)
        });
        cell.runs = vec![found(Class::Refcount, "PF 4 -> 3")];
        assert_eq!(cell.exit(), ExitCode::Good);
        assert_eq!(cell.seen().unwrap().title, "PF 4 -> 3");
        // One boot of two that has the verdict and not the reason.
        cell.runs.push(found(Class::Leak, "PF 4 -> 5"));
        assert_eq!(cell.exit(), ExitCode::Bad);
        cell.runs.remove(0);
        assert_eq!(cell.exit(), ExitCode::Bad);
        assert_eq!(cell.seen().unwrap().title, "PF 4 -> 5");
    }
}
