// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace bisect`: whether the kernel tree that one stands in has a finding, as `git bisect run` wants to know it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::campaign::bisection::{Bisection, End, Measured, Store, work_tree};
use crate::campaign::decide::{Decided, Decision, Tally, Wanted};
use crate::event::Verdict;
use crate::exit::ExitCode;
use crate::kernel::KernelName;
use crate::oracle::Judgement;
use crate::scenario::Scenario;

use super::bench::{Bench, Options, only, telling_line};
use super::failure::Failure;
use super::guest::GuestOption;
use super::kernels::KernelOptions;
use super::say;
use super::trial::{Trial, Trying, fresh};

/// Arguments of `vfrace bisect`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("out", |out| out.help("Where results go [default: a directory in the cache, which is printed]")))]
pub(super) struct Args {
    /// Scenario: a name, or a path to a .toml file
    #[arg(long, value_name = "S")]
    scenario: String,
    /// Look for the commit that cures the finding: 0 for a kernel that has it, 1 for one that is clean
    #[arg(long)]
    fixed: bool,
    /// A variant to put onto the tree first, see `vfrace kernel list`
    #[arg(long, value_name = "K")]
    kernel: Option<KernelName>,
    #[command(flatten)]
    trying: Trying,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    from: KernelOptions,
}

/// What a step of a bisection gave, as JSON the contents of `bisect.json`.
#[derive(Debug, Serialize)]
struct Told<'a> {
    scenario: &'a str,
    wanted: String,
    kernel: &'a str,
    kernel_id: Option<&'a str>,
    #[serde(flatten)]
    decided: &'a Decided,
    tally: Tally,
    verdicts: Vec<Verdict>,
    reference: Option<Measured>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let decided = match play(args) {
        Ok(decided) => decided,
        Err(failure) => {
            let exit = failure.exit();
            let word = match exit {
                ExitCode::CannotTell => "cannot tell",
                ExitCode::Usage => "the request",
                ExitCode::Interrupted => "stopped",
                _ => "infrastructure",
            };
            let line = format!("{word}: {}", failure.line());
            failure.tell();
            say::out(format_args!("{line}\n"));
            return exit;
        }
    };
    say::out(format_args!("{decided}\n"));
    match (args.fixed, decided.decision) {
        (true, Decision::Good) => ExitCode::Bad,
        (true, Decision::Bad) => ExitCode::Good,
        (_, decision) => decision.exit(),
    }
}

fn play(args: &Args) -> Result<Decided, Failure> {
    let bench = Bench::new(args.guest.arch)?;
    let scenario = bench.load(&args.options, &args.scenario)?;
    let wanted = args.trying.wanted();
    let top = match args.from.linux() {
        Some(dir) => dir.to_path_buf(),
        None => work_tree(Path::new("."))?,
    };
    let step = Step {
        args,
        scenario: &scenario,
        wanted: &wanted,
        // A plain source is in no bisection.
        bisection: match Bisection::of(&top) {
            Ok(bisection) => bisection,
            Err(_) if args.from.linux().is_some() => None,
            Err(error) => return Err(error.into()),
        },
        top: &top,
    };
    if args.trying.goal().is_none() && step.bisection.is_none() {
        return Err(Failure::NoBisection(top));
    }
    step.decide(bench)
}

struct Step<'a> {
    args: &'a Args,
    scenario: &'a Scenario,
    wanted: &'a Wanted,
    bisection: Option<Bisection>,
    top: &'a Path,
}

impl Step<'_> {
    /// The end of the bisection that has the finding.
    fn end(&self) -> End {
        match self.args.fixed {
            true => End::Old,
            false => End::New,
        }
    }

    /// Where the rate of this bisection is kept, and its results.
    fn store(&self, cache: &Path) -> Option<Store> {
        let bisection = self.bisection.as_ref()?;
        let wanted = self.wanted.to_string();
        let options = self.args.options.shown();
        let (from, kernel) = (self.args.from.shown(), self.args.kernel.as_ref());
        let kernel = kernel.map(KernelName::to_string).unwrap_or_default();
        let mut what = vec![
            self.scenario.name.as_str(),
            wanted.as_str(),
            options.as_str(),
            from.as_str(),
            kernel.as_str(),
        ];
        // Nothing for the default: what was kept before there were others is found again.
        let arch = self.args.guest.arch;
        if !arch.is_default() {
            what.push(arch.name());
        }
        Some(Store::new(cache, &bisection.key(self.end(), &what)))
    }

    fn decide(&self, bench: Bench) -> Result<Decided, Failure> {
        let options = self.args.from.on(self.top);
        let bench = bench.build_from(&options)?;
        let listed = self.args.kernel.as_slice();
        let name = only(
            options.names(bench.kernels(), listed, &["base"])?,
            &options.asked("the tree"),
        )?;
        let store = self.store(&bench.cache);
        // Not into the tree, whose state it would change.
        let steps = match &store {
            Some(store) => store.dir().join("steps"),
            None => bench.cache.join("bisect").join("alone"),
        };
        let dir = match self.args.options.out() {
            Some(out) => out.to_path_buf(),
            None => fresh(&steps, name.source())?,
        };
        let mut boots = Vec::new();
        let mut reference = None;
        let given = self.args.options.with_out(dir.clone());
        let ready = bench.ready_as_far_as_they_build(std::slice::from_ref(&name), &given)?;
        let (decided, kernel_id) = match ready.kernels().first() {
            Some(Ok(kernel)) => {
                let trial = Trial {
                    bench: &bench,
                    ready: &ready,
                    scenario: self.scenario,
                    trying: &self.args.trying,
                    wanted: self.wanted,
                };
                let mut bound = || {
                    let (error, rate) = self.rate(&trial, store.as_ref(), &mut reference)?;
                    Ok(Some(self.args.trying.bound(error, rate.rate())))
                };
                let decided = trial.decide(kernel, &dir, &mut boots, &mut bound)?;
                (decided, Some(kernel.id.clone()))
            }
            Some(Err(unbuilt)) => (Decided::does_not_build(&unbuilt.why), None),
            None => return Err(Failure::NoKernel),
        };
        drop(ready);
        bench.quiet();
        self.tell(
            &dir,
            &name,
            kernel_id.as_deref(),
            &decided,
            &boots,
            reference,
        )?;
        Ok(decided)
    }

    /// The rate of the finding on a commit that has it: kept from an earlier step, or measured.
    fn rate(
        &self,
        trial: &Trial<'_>,
        store: Option<&Store>,
        reference: &mut Option<Measured>,
    ) -> Result<(f64, Measured), Failure> {
        let none = || Failure::NoBisection(self.top.to_path_buf());
        let error = self.args.trying.error().ok_or_else(none)?;
        let bisection = self.bisection.as_ref().ok_or_else(none)?;
        let (store, commit) = match (store, bisection.commit(self.end())) {
            (Some(store), Some(commit)) => (store, commit),
            _ => return Err(none()),
        };
        let _lock = store.lock(&trial.bench.stop)?;
        let kept = store.load()?;
        let mut measured = kept.unwrap_or_else(|| Measured {
            commit: commit.to_owned(),
            ..Measured::default()
        });
        let options = self.args.from.at(self.top, &measured.commit);
        let kernels = trial.bench.kernels_from(&options)?;
        let listed = self.args.kernel.as_slice();
        let name = only(
            options.names(&kernels, listed, &["base"])?,
            &options.asked("the tree"),
        )?;
        let built = kernels.build(&name).map_err(|error| match error.exit() {
            ExitCode::CannotTell => Failure::ReferenceDoesNotBuild {
                commit: measured.commit.clone(),
                why: telling_line(&error),
            },
            _ => error.into(),
        })?;
        measured.kernel.clone_from(&built.id);
        let dir = store.dir().join("reference");
        let (rate, number) = (measured.rate(), measured.boots);
        let mut keep = |rate: crate::campaign::stats::Rate, boots| {
            (measured.hits, measured.of, measured.boots) = (rate.hits, rate.of, boots);
            Ok(store.save(&measured)?)
        };
        trial.measure(&built, &dir, rate, number, error, &mut keep)?;
        *reference = Some(measured.clone());
        Ok((error, measured))
    }

    fn tell(
        &self,
        dir: &Path,
        name: &KernelName,
        kernel_id: Option<&str>,
        decided: &Decided,
        boots: &[Judgement],
        reference: Option<Measured>,
    ) -> Result<(), Failure> {
        let name = name.to_string();
        let told = Told {
            scenario: &self.scenario.name,
            wanted: self.wanted.to_string(),
            kernel: &name,
            kernel_id,
            decided,
            tally: Tally::of(boots, self.wanted),
            verdicts: boots.iter().map(|boot| boot.verdict).collect(),
            reference,
        };
        say::out(format_args!(
            "{} on {name}: {}\n",
            told.scenario,
            dir.display()
        ));
        let file: PathBuf = dir.join("bisect.json");
        let json = serde_json::to_vec_pretty(&told).map_err(std::io::Error::from);
        std::fs::create_dir_all(dir)
            .and(json)
            .and_then(|json| std::fs::write(&file, json))
            .map_err(|source| Failure::Results { path: file, source })
    }
}
