// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace run`: one scenario, one kernel, the evidence.

use std::sync::Mutex;

use crate::campaign::verdict_exit;
use crate::exit::ExitCode;
use crate::kernel::KernelName;
use crate::report::terminal;
use crate::run::RunResult;

use super::bench::{Bench, Options};
use super::failure::Failure;

/// Arguments of `vfrace run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A scenario by name (see guest-tests/scenarios), or a file
    scenario: String,
    /// Kernel under test: base, v5, v6, v7; NAME@7.3 for another source
    #[arg(long, value_name = "K", default_value = "base")]
    kernel: KernelName,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let mut bench = Bench::new()?;
    let scenario = args.options.load(&args.scenario, &bench.data)?;
    let last: Mutex<Option<RunResult>> = Mutex::default();
    let keep = |_: &_, _, result: &RunResult| {
        *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result.clone());
    };
    let ready = bench.ready(std::slice::from_ref(&args.kernel), &args.options)?;
    ready.play(std::slice::from_ref(&scenario), 1, 1, &keep)?;
    let dir = ready.dir().to_path_buf();
    bench.quiet();
    let last = last.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(result) = last else {
        eprintln!("stopped; what there is of the run is in {}", dir.display());
        return Ok(ExitCode::Interrupted);
    };
    print!("{}", terminal::verdict(&scenario, &args.kernel.to_string(), &result.judgement, result.seconds, &result.dir));
    Ok(verdict_exit(result.judgement.verdict))
}
