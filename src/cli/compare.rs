// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace compare`: the first schedule that separates two kernels.

use std::path::PathBuf;

use crate::campaign::compare::{Side, compare};
use crate::campaign::explore::{Budget, Effort, Guest, Guests, Outcome, Runner, Settings, Trace};
use crate::event::{FunctionId, Role};
use crate::exit::ExitCode;
use crate::kernel::{BuiltKernel, Functions, KernelName, Presence};
use crate::report::{self, CompareReport, Style};
use crate::run::{RunError, run as run_alone};
use crate::scenario::{Scenario, Schedule, What};

use super::bench::{Bench, Options, Ready};
use super::explore::recorder;
use super::failure::Failure;
use super::guest::GuestOption;
use super::kernels::KernelOptions;
use super::say;

/// Arguments of `vfrace compare`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The two kernels; of two commits or patches, what the options below give is enough
    #[arg(value_name = "KERNEL", num_args = 0..=2)]
    kernels: Vec<KernelName>,
    /// Scenario: a name, or a path to a .toml file
    #[arg(long, value_name = "S")]
    scenario: String,
    /// How many schedules to try at most, the scenario's own one included
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    schedules: u32,
    /// Seed of the random schedules
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    from: KernelOptions,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let bench = Bench::new(args.guest.arch)?;
    let scenario = bench.load(&args.options, &args.scenario)?;
    let bench = bench.build_from(&args.from)?;
    let kernels = args.from.names(bench.kernels(), &args.kernels, &[])?;
    // An alias is the kernel that it stands for.
    let two = kernels.len() == 2 || kernels.len() == 1 && args.kernels.len() == 2;
    if !two {
        return Err(Failure::NotTwo(kernels));
    }
    let ready = bench.ready(&kernels, &args.options)?;
    let mut built = ready.kernels().iter().flatten();
    let a = built.next().ok_or(Failure::NoKernel)?;
    let b = built.next().unwrap_or(a);
    ready.check(&scenario, a)?;
    ready.check(&scenario, b)?;
    let dir = ready.dir().to_path_buf();
    let settings = scenario.unplug.map(|unplug| Settings {
        budget: Budget::Schedules(args.schedules),
        seed: args.seed,
        depth: DEPTH,
        stop_at_first: true,
        target: unplug.target.function().unwrap_or(FunctionId::Pf),
    });
    let most_rounds = args.options.most_rounds_in_a_boot();
    let side = |number: u8, kernel| side(&ready, &scenario, kernel, number, most_rounds);
    let mut sides = [side(1, a)?, side(2, b)?];
    let names = [a.name.to_string(), b.name.to_string()];
    let step = format!("compare {}", names.join(" and "));
    let found = compare(
        &mut sides,
        &scenario.schedule,
        settings.as_ref(),
        args.schedules,
        &step,
        &bench.stop,
        &bench.events,
    );
    drop(sides);
    let given = args.options.given();
    let mut replay: Vec<String> = given
        .iter()
        .map(|(name, value)| format!("--{name} {value}"))
        .collect();
    replay.extend(args.guest.replay());
    let ids = [a.id.clone(), b.id.clone()];
    drop(ready);
    bench.quiet();
    let told = CompareReport {
        scenario: &scenario.name,
        kernels: &names,
        kernel_ids: &ids,
        options: &replay.join(" "),
        compared: &found,
        files: &dir,
    };
    say::out(report::compare(&told, Style::stdout().color));
    let file = dir.join("compare.json");
    let json = serde_json::to_vec_pretty(&told).map_err(std::io::Error::from);
    json.and_then(|json| std::fs::write(&file, json))
        .map_err(|source| Failure::Results { path: file, source })?;
    Ok(found.exit())
}

/// Depth of the random schedules, as `explore` has it.
const DEPTH: u32 = 3;

/// Makes a directory.
fn made(dir: PathBuf) -> Result<PathBuf, RunError> {
    match std::fs::create_dir_all(&dir) {
        Ok(()) => Ok(dir),
        Err(source) => Err(RunError::Write { path: dir, source }),
    }
}

/// One of the two. The same kernel twice is allowed: `number` keeps their directories apart.
fn side<'a>(
    ready: &'a Ready<'a>,
    scenario: &'a Scenario,
    kernel: &'a BuiltKernel,
    number: u8,
    most_rounds: u32,
) -> Result<Kernel<'a, impl FnMut(u32) -> Result<Guest<'a>, RunError> + Send>, Failure> {
    let dir = ready.dir().join(format!("{number}-{}", kernel.name));
    let shared = dir.clone();
    let start = move |boot| {
        let dir = made(shared.join(format!("boot-{boot}")))?;
        let listener = recorder(&dir);
        Guest::boot(ready.one_run(scenario, kernel, dir), listener)
    };
    Ok(Kernel {
        guests: Guests::new(start, most_rounds),
        ready,
        scenario,
        kernel,
        functions: Functions::load(kernel)?,
        dir,
        alone: 0,
    })
}

/// One of the two.
struct Kernel<'a, S> {
    /// Guests that serve one round after the other.
    guests: Guests<Guest<'a>, S>,
    ready: &'a Ready<'a>,
    scenario: &'a Scenario,
    kernel: &'a BuiltKernel,
    functions: Functions,
    dir: PathBuf,
    alone: u32,
}

impl<'a, S: FnMut(u32) -> Result<Guest<'a>, RunError>> Runner for Kernel<'a, S> {
    type Error = RunError;

    fn trace(&mut self, first: Role) -> Result<Trace, RunError> {
        self.guests.trace(first)
    }

    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, RunError> {
        self.guests.run(schedule)
    }

    fn effort(&self) -> Effort {
        self.guests.effort()
    }
}

impl<'a, S: FnMut(u32) -> Result<Guest<'a>, RunError>> Side for Kernel<'a, S> {
    fn alone(&mut self, schedule: &Schedule) -> Result<Outcome, RunError> {
        self.alone += 1;
        let scenario = Scenario {
            schedule: schedule.clone(),
            ..self.scenario.clone()
        };
        let dir = made(self.dir.join(format!("alone-{}", self.alone)))?;
        let listener = recorder(&dir);
        let result = run_alone(&self.ready.one_run(&scenario, self.kernel, dir), listener)?;
        Ok(Outcome {
            verdict: result.judgement.verdict,
            findings: result.judgement.findings,
            points_reached: Vec::new(),
            schedule_kept: true,
            seconds: result.seconds,
        })
    }

    fn has(&self, schedule: &Schedule) -> bool {
        schedule.points().all(|point| match &point.what {
            What::Call { call, .. } => self.functions.has(call) == Presence::Ftraceable,
            What::Wire { .. } => true,
        })
    }
}
