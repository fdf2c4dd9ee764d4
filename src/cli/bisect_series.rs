// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace bisect-series`: which patch of a series brings a finding, or cures it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::campaign::bisect::{Answer, Halved, halve};
use crate::campaign::decide::{Decided, Decision, Tally, Wanted};
use crate::campaign::stats::Rate;
use crate::exit::ExitCode;
use crate::kernel::{BuiltKernel, KernelName};
use crate::oracle::Judgement;
use crate::scenario::Scenario;

use super::bench::{Bench, Options, Ready, telling_line};
use super::failure::Failure;
use super::guest::GuestOption;
use super::kernels::KernelOptions;
use super::say;
use super::trial::{Trial, Trying};

/// Arguments of `vfrace bisect-series`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The series, as `--patch` takes it
    #[arg(value_name = "FILE|DIR|A..B")]
    series: String,
    /// Scenario: a name, or a path to a .toml file
    #[arg(long, value_name = "S")]
    scenario: String,
    #[command(flatten)]
    trying: Trying,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    from: KernelOptions,
}

/// A prefix that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Looked {
    patches: usize,
    kernel: String,
    kernel_id: Option<String>,
    #[serde(flatten)]
    decided: Decided,
    tally: Tally,
}

/// What came out, as JSON the contents of `series.json`.
#[derive(Debug, Serialize)]
struct Told<'a> {
    scenario: &'a str,
    wanted: String,
    series: &'a str,
    subjects: &'a [String],
    #[serde(flatten)]
    halved: &'a Halved,
    reference: Option<Rate>,
    looked: &'a [Looked],
}

/// A prefix: its name, and what is known of it so far.
struct Prefix {
    name: KernelName,
    /// The kernel, or why there is none.
    built: Option<Result<BuiltKernel, Decided>>,
    boots: Vec<Judgement>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let bench = Bench::new(args.guest.arch)?;
    let scenario = bench.load(&args.options, &args.scenario)?;
    let wanted = args.trying.wanted();
    let bench = bench.build_from(&args.from.each_of(&args.series))?;
    let (subjects, names) = prefixes(&bench)?;
    let mut prefixes: Vec<Prefix> = names
        .into_iter()
        .map(|name| Prefix {
            name,
            built: None,
            boots: Vec::new(),
        })
        .collect();
    let patches = subjects.len();
    let (mut looked, mut reference) = (Vec::new(), None);
    // The first that builds gives the bench what it needs of a kernel.
    let mut ready = None;
    for at in 0..=patches {
        if let Some(prefix) = prefixes.get_mut(at) {
            let names = std::slice::from_ref(&prefix.name);
            let tried = bench.ready_as_far_as_they_build(names, &args.options)?;
            match tried.kernels().first().cloned() {
                Some(Ok(kernel)) => {
                    prefix.built = Some(Ok(kernel));
                    ready = Some(tried);
                    break;
                }
                Some(Err(unbuilt)) => {
                    prefix.built = Some(Err(Decided::does_not_build(&unbuilt.why)));
                }
                None => return Err(Failure::NoKernel),
            }
        }
    }
    let dir = match (&ready, args.options.out()) {
        (Some(ready), _) => ready.dir().to_path_buf(),
        (None, Some(out)) => out.to_path_buf(),
        (None, None) => PathBuf::from("results"),
    };
    let halved = match &ready {
        None => Halved {
            answer: Answer::CannotTell,
            seen: Vec::new(),
        },
        Some(ready) => {
            let mut series = Series {
                bench: &bench,
                ready,
                scenario: &scenario,
                wanted: &wanted,
                trying: args.trying.clone(),
                prefixes: &mut prefixes,
                looked: &mut looked,
            };
            reference = series.reference()?;
            halve(patches, |at| series.look(at))?
        }
    };
    drop(ready);
    bench.quiet();
    let told = Told {
        scenario: &scenario.name,
        wanted: wanted.to_string(),
        series: &args.series,
        subjects: &subjects,
        halved: &halved,
        reference,
        looked: &looked,
    };
    tell(&told, &dir)
}

/// Subjects of the patches, and the kernels with the first 0, 1, 2, ... of them.
fn prefixes(bench: &Bench) -> Result<(Vec<String>, Vec<KernelName>), Failure> {
    let kernels = bench.kernels();
    let mut all = kernels.series();
    let (Some(series), None) = (all.next(), all.next()) else {
        return Err(Failure::SeveralSeries);
    };
    let names = kernels.names(&kernels.prefixes(series))?;
    let subjects: Vec<String> = series.patches.iter().map(|p| p.subject.clone()).collect();
    // Several commits of a tree would give several of each.
    if names.len() != subjects.len() + 1 {
        return Err(Failure::SeveralSeries);
    }
    Ok((subjects, names))
}

struct Series<'a> {
    bench: &'a Bench,
    ready: &'a Ready<'a>,
    scenario: &'a Scenario,
    wanted: &'a Wanted,
    trying: Trying,
    prefixes: &'a mut [Prefix],
    looked: &'a mut Vec<Looked>,
}

impl Series<'_> {
    /// With an error to be kept to and no rate for it: measures the rate on the end that has the finding.
    fn reference(&mut self) -> Result<Option<Rate>, Failure> {
        let (None, Some(error)) = (self.trying.goal(), self.trying.error()) else {
            return Ok(None);
        };
        let last = self.prefixes.len().saturating_sub(1);
        for at in [0, last] {
            let (decided, _) = self.decide(at)?;
            let Some(prefix) = self.prefixes.get(at) else {
                continue;
            };
            let (Decision::Bad, Some(Ok(kernel))) = (decided.decision, &prefix.built) else {
                continue;
            };
            let tally = Tally::of(&prefix.boots, self.wanted);
            let dir = self.dir(at, &prefix.name);
            let trial = self.trial();
            let mut keep = |_: Rate, _: u32| Ok(());
            let rate = trial.measure(kernel, &dir, tally.rate(), tally.boots, error, &mut keep)?;
            self.trying = self.trying.with_rate(rate);
            return Ok(Some(rate));
        }
        Err(Failure::NoEnd {
            wanted: self.wanted.to_string(),
        })
    }

    fn look(&mut self, at: usize) -> Result<Decision, Failure> {
        let (decided, kernel_id) = self.decide(at)?;
        let decision = decided.decision;
        if decision == Decision::Infrastructure {
            let name = self.prefixes.get(at).map(|p| p.name.to_string());
            return Err(Failure::Machine {
                kernel: name.unwrap_or_default(),
                why: decided.reason,
            });
        }
        if let Some(prefix) = self.prefixes.get(at) {
            self.looked.push(Looked {
                patches: at,
                kernel: prefix.name.to_string(),
                kernel_id,
                decided,
                tally: Tally::of(&prefix.boots, self.wanted),
            });
        }
        Ok(decision)
    }

    /// Builds a prefix, if that has not been done, and boots it until it is decided.
    fn decide(&mut self, at: usize) -> Result<(Decided, Option<String>), Failure> {
        let Some(prefix) = self.prefixes.get_mut(at) else {
            // There is one for every number that the halving knows.
            return Err(Failure::SeveralSeries);
        };
        let built = match prefix.built.take() {
            Some(built) => built,
            None => match self.bench.kernels().build(&prefix.name) {
                Ok(kernel) => Ok(kernel),
                Err(error) if error.exit() == ExitCode::CannotTell => {
                    Err(Decided::does_not_build(&telling_line(&error)))
                }
                Err(error) => return Err(error.into()),
            },
        };
        let mut boots = std::mem::take(&mut prefix.boots);
        let name = prefix.name.clone();
        let decided = match &built {
            Ok(kernel) => {
                let dir = self.dir(at, &name);
                let trial = self.trial();
                let decided = trial.decide(kernel, &dir, &mut boots, &mut || Ok(None))?;
                (decided, Some(kernel.id.clone()))
            }
            Err(decided) => (decided.clone(), None),
        };
        if let Some(prefix) = self.prefixes.get_mut(at) {
            prefix.built = Some(built);
            prefix.boots = boots;
        }
        Ok(decided)
    }

    fn dir(&self, at: usize, name: &KernelName) -> PathBuf {
        self.ready.dir().join(format!("{at}-{name}"))
    }

    fn trial(&self) -> Trial<'_> {
        Trial {
            bench: self.bench,
            ready: self.ready,
            scenario: self.scenario,
            trying: &self.trying,
            wanted: self.wanted,
        }
    }
}

/// Prints what came out, keeps it, and gives the exit code.
fn tell(told: &Told<'_>, dir: &Path) -> Result<ExitCode, Failure> {
    let patches = told.subjects.len();
    for looked in told.looked {
        say::out(format_args!(
            "{:>4}  {}  {}\n",
            looked.patches, looked.kernel, looked.decided
        ));
    }
    say::out(format_args!("evidence: {}\n", dir.display()));
    let subject = |patch: usize| {
        let subject = patch.checked_sub(1).and_then(|at| told.subjects.get(at));
        subject.map_or("", String::as_str)
    };
    let does = |to: Decision| match to {
        Decision::Bad => "brings",
        _ => "cures",
    };
    let wanted = &told.wanted;
    match &told.halved.answer {
        Answer::Patch { patch, to, .. } => say::out(format_args!(
            "patch {patch} of {patches} {} it ({wanted}): {}\n",
            does(*to),
            subject(*patch)
        )),
        Answer::OneOf {
            first, last, to, ..
        } => {
            say::out(format_args!(
                "one of patches {first} to {last} {} it ({wanted}):\n",
                does(*to)
            ));
            for patch in *first..=*last {
                say::out(format_args!("  {patch}  {}\n", subject(patch)));
            }
        }
        Answer::Unchanged { both } => {
            say::out(format_args!(
                "no patch of {patches} changes it ({wanted}): {both} with and without them\n"
            ));
        }
        Answer::CannotTell => say::out("cannot tell: fewer than two prefixes can be tested\n"),
    }
    let file = dir.join("series.json");
    let json = serde_json::to_vec_pretty(told).map_err(std::io::Error::from);
    std::fs::create_dir_all(dir)
        .and(json)
        .and_then(|json| std::fs::write(&file, json))
        .map_err(|source| Failure::Results { path: file, source })?;
    Ok(match told.halved.answer {
        Answer::Patch { .. } | Answer::Unchanged { .. } => told
            .halved
            .whole(patches)
            .map_or(ExitCode::CannotTell, Decision::exit),
        Answer::OneOf { .. } | Answer::CannotTell => ExitCode::CannotTell,
    })
}
