// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace run`: one scenario, one kernel, the evidence.

use crate::campaign::verdict_exit;
use crate::exit::ExitCode;
use crate::kernel::KernelName;
use crate::paths;
use crate::report::{self, RunReport, Style};

use super::bench::{Bench, Options, only, titles};
use super::failure::Failure;
use super::guest::GuestOption;
use super::kernels::KernelOptions;
use super::say;

/// Arguments of `vfrace run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A scenario by name, or a file; without it, those that exist are listed
    scenario: Option<String>,
    /// Kernel under test: base, v1 to v14, ...; NAME@7.3 for another source, NAME+rt with more options [default: base,
    /// or what the options below say]
    #[arg(long, value_name = "K")]
    kernel: Option<KernelName>,
    /// Who is stopped where, instead of the scenario's own schedule: a text as every run prints it (docs/schedules.md)
    #[arg(long, value_name = "TEXT")]
    schedule: Option<String>,
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
    let Some(name) = &args.scenario else {
        let titles = titles(&paths::data_dir()?)?;
        say::err(format_args!("which scenario? There are:\n{titles}"));
        return Ok(ExitCode::Usage);
    };
    let bench = Bench::new(args.guest.arch)?;
    let mut scenario = bench.load(&args.options, name)?;
    if let Some(text) = &args.schedule {
        scenario.set_schedule(text)?;
        scenario.fits(bench.arch)?;
    }
    let bench = bench.build_from(&args.from)?;
    let listed = args.kernel.as_slice();
    let asked = match &args.kernel {
        Some(kernel) => kernel.to_string(),
        None => "base".to_owned(),
    };
    let kernels = args.from.names(bench.kernels(), listed, &["base"])?;
    let kernel = only(kernels, &args.from.asked(&asked))?;
    let ready = bench.ready(std::slice::from_ref(&kernel), &args.options)?;
    let result = ready.run(&scenario, ready.kernel()?)?;
    let (dir, expected) = (
        ready.dir().to_path_buf(),
        ready.expected(&scenario, &kernel),
    );
    bench.quiet();
    if result.interrupted {
        say::err(format_args!(
            "stopped; what there is of the run is in {}\n",
            dir.display()
        ));
        return Ok(ExitCode::Interrupted);
    }
    let told = RunReport {
        scenario: &scenario.name,
        kernel: &kernel.to_string(),
        judgement: &result.judgement,
        expected: expected.as_ref(),
        seconds: result.seconds,
        files: &result.dir,
    };
    say::out(report::run(&told, Style::stdout().color));
    Ok(verdict_exit(result.judgement.verdict))
}
