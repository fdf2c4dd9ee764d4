// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots of one kernel after the other, until each is good, bad or cannot be told: what `bisect` and `bisect-series` share.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::campaign::ErrorBound;
use crate::campaign::decide::{Decided, Decision, Goal, Step, Tally, Wanted, is_rate_known, next};
use crate::campaign::stats::Rate;
use crate::event::Verdict;
use crate::kernel::BuiltKernel;
use crate::oracle::Judgement;
use crate::run::{RunError, run};
use crate::scenario::Scenario;

use super::bench::{Bench, Ready};
use super::explore::recorder;
use super::failure::Failure;

/// How a kernel is tried. Flattened into the commands that decide about kernels.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "When a kernel is good")]
pub(super) struct Trying {
    /// The finding that makes a kernel bad: a class, with text of its title if need be, e.g. `REFCOUNT: PF reference`
    /// [default: what the scenario looks for]
    #[arg(long, value_name = "CLASS[: TEXT]")]
    wanted: Option<Wanted>,
    /// Boots without the finding until a kernel is good
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "error", value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,
    /// The chance to call a kernel good that has the finding as often as the reference: 1%, 0.001, 1e-9
    #[arg(long, value_name = "E")]
    error: Option<ErrorBound>,
    /// With --error: how often the finding comes in rounds of a kernel that has it, as in 20/20 [default: measured]
    #[arg(long, value_name = "HITS/ROUNDS", requires = "error", value_parser = rate)]
    rate: Option<Rate>,
    /// With --error: no more boots of one kernel than that
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    most_boots: u32,
    /// Guests at the same time [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
}

impl Trying {
    /// The finding.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted.clone().unwrap_or_default()
    }

    /// What was asked for, as far as no kernel is needed for the answer; `None`: a rate has to be measured for it.
    pub(super) fn goal(&self) -> Option<Goal> {
        match (self.error, self.rate) {
            (None, _) => Some(Goal::Boots(self.boots)),
            (Some(error), Some(reference)) => Some(self.bound(error.0, reference)),
            (Some(_), None) => None,
        }
    }

    /// The same with a rate that has been measured.
    pub(super) fn with_rate(&self, rate: Rate) -> Self {
        Self {
            rate: Some(rate),
            ..self.clone()
        }
    }

    /// The error that was asked for.
    pub(super) fn error(&self) -> Option<f64> {
        self.error.map(|error| error.0)
    }

    /// The goal once the rate is known.
    pub(super) fn bound(&self, error: f64, reference: Rate) -> Goal {
        Goal::Error {
            error,
            reference,
            most_boots: self.most_boots,
        }
    }

    fn jobs(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs
            .unwrap_or_else(|| u32::try_from(cores()).unwrap_or(1))
            .max(1)
    }
}

/// `20/20`.
fn rate(text: &str) -> Result<Rate, String> {
    let parsed = text.split_once('/').and_then(|(hits, of)| {
        let (hits, of) = (hits.trim().parse().ok()?, of.trim().parse().ok()?);
        (0 < hits && hits <= of).then(|| Rate::new(hits, of))
    });
    parsed.ok_or_else(|| "a rate is HITS/ROUNDS with at least one hit, as in 20/20".to_owned())
}

/// Where kernels are tried.
pub(super) struct Trial<'a> {
    pub(super) bench: &'a Bench,
    pub(super) ready: &'a Ready<'a>,
    pub(super) scenario: &'a Scenario,
    pub(super) trying: &'a Trying,
    pub(super) wanted: &'a Wanted,
}

impl Trial<'_> {
    /// Boots a kernel until it is decided. `boots` are those that it has had; their files are in `dir`. `bound` is asked
    /// for a goal when none could be given beforehand and the kernel would be good otherwise; if it has none either, the
    /// kernel is good as far as it goes.
    pub(super) fn decide(
        &self,
        kernel: &BuiltKernel,
        dir: &Path,
        boots: &mut Vec<Judgement>,
        bound: &mut dyn FnMut() -> Result<Option<Goal>, Failure>,
    ) -> Result<Decided, Failure> {
        let mut goal = self.trying.goal();
        loop {
            let step = next(
                goal.unwrap_or(Goal::Boots(1)),
                self.wanted,
                boots,
                self.scenario.rounds,
            );
            match step {
                Step::Over(decided) if goal.is_some() || decided.decision != Decision::Good => {
                    return Ok(decided);
                }
                Step::Over(decided) => match bound()? {
                    Some(bound) => goal = Some(bound),
                    None => return Ok(decided),
                },
                Step::Boot(more) => self.boot(kernel, dir, boots, more)?,
            }
        }
    }

    /// Boots a kernel that should have the finding until its rate is known for the error, or the limit is reached. `kept`
    /// gets the tally after every few boots.
    pub(super) fn measure(
        &self,
        kernel: &BuiltKernel,
        dir: &Path,
        so_far: Rate,
        boots_so_far: u32,
        error: f64,
        kept: &mut dyn FnMut(Rate, u32) -> Result<(), Failure>,
    ) -> Result<Rate, Failure> {
        let mut boots: Vec<Judgement> = Vec::new();
        let mut number = boots_so_far;
        let mut rate = so_far;
        while !is_rate_known(rate, error) && number < self.trying.most_boots {
            let before = boots.len();
            let more = self.trying.jobs().min(self.trying.most_boots - number);
            self.boot_from(kernel, dir, &mut boots, number, more)?;
            number += more;
            let infra = |boot: &&Judgement| boot.verdict == Verdict::Infra;
            if boots.iter().filter(infra).count() >= 3 {
                return Err(Failure::Machine {
                    kernel: kernel.name.to_string(),
                    why: boots
                        .last()
                        .and_then(|boot| boot.evidence.first().cloned())
                        .unwrap_or_default(),
                });
            }
            let new = boots.get(before..).unwrap_or_default();
            let seen = Tally::of(new, self.wanted).rate();
            rate = Rate::new(
                rate.hits.saturating_add(seen.hits),
                rate.of.saturating_add(seen.of),
            );
            kept(rate, number)?;
        }
        match rate.hits {
            0 => Err(Failure::NoReference {
                kernel: kernel.name.to_string(),
                wanted: self.wanted.to_string(),
                boots: number,
            }),
            _ => Ok(rate),
        }
    }

    /// Boots a kernel so many times more, or as often as guests may run at the same time.
    fn boot(
        &self,
        kernel: &BuiltKernel,
        dir: &Path,
        boots: &mut Vec<Judgement>,
        more: u32,
    ) -> Result<(), Failure> {
        let from = u32::try_from(boots.len()).unwrap_or(u32::MAX);
        self.boot_from(kernel, dir, boots, from, more.min(self.trying.jobs()))
    }

    /// Boots `from` + 1 to `from` + `more` at the same time.
    fn boot_from(
        &self,
        kernel: &BuiltKernel,
        dir: &Path,
        boots: &mut Vec<Judgement>,
        from: u32,
        more: u32,
    ) -> Result<(), Failure> {
        self.ready.check(self.scenario, kernel)?;
        let next = AtomicU32::new(from);
        let judged: Mutex<Vec<(u32, Result<Judgement, Failure>)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..more {
                scope.spawn(|| {
                    let number = next.fetch_add(1, Ordering::Relaxed) + 1;
                    let one = self.one(kernel, &dir.join(format!("boot-{number}")), number);
                    let mut judged = judged
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    judged.push((number, one));
                });
            }
        });
        let mut judged = judged
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        judged.sort_by_key(|(number, _)| *number);
        for (_, one) in judged {
            boots.push(one?);
        }
        Ok(())
    }

    fn one(&self, kernel: &BuiltKernel, dir: &Path, number: u32) -> Result<Judgement, Failure> {
        let step = format!("{} on {}, boot {number}", self.scenario.name, kernel.name);
        let made = std::fs::create_dir_all(dir);
        made.map_err(|source| RunError::Write {
            path: dir.to_path_buf(),
            source,
        })?;
        self.bench.events.progress(&step, String::new(), None);
        let config = self.ready.one_run(self.scenario, kernel, dir.to_path_buf());
        let result = run(&config, recorder(dir))?;
        if result.interrupted {
            return Err(Failure::Interrupted);
        }
        let judgement = result.judgement;
        self.bench.events.finished(
            &step,
            format!(
                "{}  {}/{} rounds  {:.1} s",
                judgement.verdict,
                self.wanted.hits(&judgement),
                judgement.rounds,
                result.seconds
            ),
        );
        Ok(judgement)
    }
}

/// A directory below `dir` that is not there yet: `1-NAME`, `2-NAME`, ...
pub(super) fn fresh(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| Failure::Results { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    let taken = std::fs::read_dir(dir).map_err(failed(dir))?.count();
    for number in taken + 1.. {
        let path = dir.join(format!("{number}-{name}"));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(dir.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_hits() {
        assert_eq!(rate("19/20"), Ok(Rate::new(19, 20)));
        for text in ["0/20", "21/20", "20", "a/b", "/"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fresh_directory_takes_nobody_elses_place() {
        let dir = tempfile::tempdir().unwrap();
        let first = fresh(dir.path(), "g1").unwrap();
        let second = fresh(dir.path(), "g1").unwrap();
        assert_ne!(first, second);
        assert!(first.ends_with("1-g1") && second.ends_with("2-g1"));
    }
}
