// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace explore`: searches for a schedule that shows what a scenario looks for.

use std::path::{Path, PathBuf};

use crate::campaign::explore::{Budget, Guest, Guests, Settings, explore};
use crate::event::{EventKind, FunctionId};
use crate::exit::ExitCode;
use crate::kernel::{BuiltKernel, KernelName};
use crate::report::{self, ExploreReport, Recorder, Style};
use crate::run::{Listener, RunError};
use crate::scenario::Scenario;

use super::bench::{Bench, Options, Ready};
use super::failure::Failure;
use super::guest::GuestOption;
use super::say;

/// Arguments of `vfrace explore`.
///
/// `--rounds` limits the rounds that one boot serves; without it a boot serves until it is damaged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario: a name, or a path to a .toml file; its own schedule is left aside
    scenario: String,
    /// Kernel under test
    #[arg(long, value_name = "K", default_value = "base")]
    kernel: KernelName,
    /// How much to spend: a number of schedules, or a time such as 10m
    #[arg(long, value_name = "N|TIME", default_value = "60")]
    budget: Budget,
    /// Seed of the random schedules; the same seed gives the same ones
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Depth of the random schedules: so many ordering constraints does the bug need
    #[arg(long, value_name = "D", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    depth: u32,
    /// End the search at the first wanted finding; it is still minimised
    #[arg(long)]
    stop_at_first: bool,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let bench = Bench::new(args.guest.arch)?;
    let scenario = bench.load(&args.options, &args.scenario)?;
    let Some(unplug) = scenario.unplug else {
        return Err(Failure::NothingToExplore(scenario.name));
    };
    let settings = Settings {
        budget: args.budget,
        seed: args.seed,
        depth: args.depth,
        stop_at_first: args.stop_at_first,
        target: unplug.target.function().unwrap_or(FunctionId::Pf),
    };
    let named = bench.one_kernel(&args.kernel)?;
    let ready = bench.ready(std::slice::from_ref(&named), &args.options)?;
    let dir = ready.dir().to_path_buf();
    let kernel = ready.kernel()?.clone();
    let step = format!("explore {} on {}", scenario.name, named);
    let mut guests = Guests::new(
        |boot| one_boot(&ready, &scenario, &kernel, boot),
        args.options.most_rounds_in_a_boot(),
    );
    let found = explore(&mut guests, &settings, &step, &bench.stop, &bench.events);
    drop(guests);
    bench.quiet();
    let given = args.options.given();
    let mut replay: Vec<String> = given
        .iter()
        .filter(|(name, _)| *name != "rounds")
        .map(|(name, value)| format!("--{name} {value}"))
        .collect();
    replay.extend(args.guest.replay());
    let told = ExploreReport {
        scenario: &scenario.name,
        kernel: &named.to_string(),
        kernel_id: &kernel.id,
        options: &replay.join(" "),
        exploration: &found,
        files: &dir,
    };
    // What a person waits for comes before a file that may not be written.
    say::out(report::explore(&told, Style::stdout().color));
    let file = dir.join("explore.json");
    let json = serde_json::to_vec_pretty(&told).map_err(std::io::Error::from);
    json.and_then(|json| std::fs::write(&file, json))
        .map_err(|source| Failure::Results { path: file, source })?;
    Ok(found.exit())
}

/// Starts a guest. Its evidence is in a directory of its own.
fn one_boot<'a>(
    ready: &'a Ready<'_>,
    scenario: &'a Scenario,
    kernel: &'a BuiltKernel,
    boot: u32,
) -> Result<Guest<'a>, RunError> {
    let dir = ready.dir().join(format!("boot-{boot}"));
    std::fs::create_dir_all(&dir).map_err(|source| RunError::Write {
        path: dir.clone(),
        source,
    })?;
    let listener = recorder(&dir);
    Guest::boot(ready.one_run(scenario, kernel, dir), listener)
}

/// Writes the events of a boot. Progress is told by the search.
pub(super) fn recorder(dir: &Path) -> Listener {
    let path: PathBuf = dir.join("events.jsonl");
    let told = {
        let path = path.display().to_string();
        move |error| log::error!("the recording {path} is incomplete: {error}")
    };
    let mut file = Recorder::create(&path).map_err(&told).ok();
    Box::new(move |event| {
        let last = matches!(event.kind, EventKind::Judged { .. });
        let written = file.as_mut().map_or(Ok(()), |file| {
            file.write(event)?;
            if last { file.flush() } else { Ok(()) }
        });
        if let Err(error) = written {
            told(error);
            file = None;
        }
    })
}
