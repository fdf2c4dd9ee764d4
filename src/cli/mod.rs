// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line, one file a subcommand.

mod bench;
mod bisect;
mod bisect_series;
mod compare;
mod ctl;
mod doctor;
mod explore;
mod failure;
mod guest;
mod install;
mod judge;
mod kernel;
mod kernels;
mod matrix;
mod merge;
mod points;
mod report;
mod run;
mod say;
mod serve;
mod tap;
mod trial;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit::ExitCode;

/// Breakpoints in the teardown of an SR-IOV device.
///
/// Boots a kernel under QEMU with a PF and VFs whose vhost-user back end is this program, tears the VFs down, unplugs
/// one of them at exactly the point that a scenario names, and says what the kernel did: removed it once, removed it
/// twice, or never came back.
#[derive(Debug, Parser)]
#[command(
    name = "vfrace",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    /// More log lines on standard error (-v: what is done, -vv: everything)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario on one kernel and show the evidence
    Run(run::Args),
    /// Run scenarios on kernels and compare with what is expected
    Matrix(matrix::Args),
    /// Put the parts of a matrix together, or show the table of one that was run
    Merge(merge::Args),
    /// Make a report from what was recorded: a page, KTAP, JUnit, JSON lines, text for a mail
    ///
    /// Reads recordings alone, old ones too; runs nothing. Ends with 0 when the report is written, whatever it says.
    Report(report::Args),
    /// Search for a schedule that shows what a scenario looks for
    ///
    /// Needs no trigger point: two traces tell which there are. Then each side is stopped at one point after the other,
    /// and after these at random ones. A boot serves rounds until it is damaged, at most --rounds of them.
    Explore(explore::Args),
    /// Say whether the kernel tree here is good or bad, for `git bisect run`
    ///
    /// Builds the work tree as it is, boots it, and ends with 0 (good), 1 (the wanted finding), 125 (cannot tell: does not
    /// build or boot, never overlapped, another finding) or 128 and above (not the kernel). The last line says why.
    Bisect(bisect::Args),
    /// Find the patch of a series that brings a finding, or cures it
    ///
    /// Builds and boots the source with none and with all patches, then halves. Ends with what the whole series is: 0 without
    /// the finding, 1 with it; 125 if no patch can be named.
    BisectSeries(bisect_series::Args),
    /// Find the first schedule that separates two kernels
    ///
    /// Both run the scenario's own schedule and then those that `explore` would try, in the same order. Ends with 1 and the
    /// schedule if their verdicts differ, twice; with 0 if nothing separates them.
    Compare(compare::Args),
    /// Judge a console from anywhere, or a recording again
    ///
    /// A console alone can show a finding (exit code 1), but never that there is none to be found (125).
    Judge(judge::Args),
    /// Serve the device for a QEMU that somebody else starts, and take orders meanwhile
    ///
    /// Prints the arguments that QEMU needs, says `ready`, and goes on until SIGINT, SIGTERM or `vfrace ctl stop`. QEMU may go
    /// and come again. docs/serve.md has the protocol of the control socket.
    Serve(serve::Args),
    /// Say to a `vfrace serve` or `vfrace tap` what is to be done, and print its answer, a JSON object a line
    Ctl(ctl::Args),
    /// Stand between QEMU and somebody else's vhost-user back end: points at messages, and a trace of them
    Tap(tap::Args),
    /// Build and list the kernels under test
    Kernel(kernel::KernelArgs),
    /// List where a teardown or an unplug can be stopped, and what of it a kernel has
    Points(points::PointsArgs),
    /// Say what is there, what is missing and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Write the man pages
    Man(install::ManArgs),
    /// Print what a shell needs to complete vfrace's command line
    Completions(install::CompletionArgs),
}

/// The command line with its exit codes.
fn command() -> clap::Command {
    let codes: Vec<String> = ExitCode::ALL
        .iter()
        .map(|(code, meaning)| format!("  {:>3}  {meaning}", code.code()))
        .collect();
    Cli::command().after_help(format!("Exit codes:\n{}", codes.join("\n")))
}

/// Parses `args`, does it, and gives the exit code. Everything a person has to read has been printed.
pub fn main(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let parsed = command()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing to be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Good
            };
        }
    };
    let level = match cli.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Error)
        .filter_module("vfrace", level)
        .parse_default_env()
        .format_target(false)
        .init();
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Explore(args) => explore::run(&args),
        Command::Bisect(args) => bisect::run(&args),
        Command::BisectSeries(args) => bisect_series::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Tap(args) => tap::run(&args),
        Command::Kernel(args) => bench::kernel(&args).unwrap_or_else(failure::Failure::tell),
        Command::Points(args) => bench::points(&args).unwrap_or_else(failure::Failure::tell),
        Command::Doctor(args) => bench::doctor(&args).unwrap_or_else(failure::Failure::tell),
        Command::Man(args) => install::man(&args, command()),
        Command::Completions(args) => install::completions(&args, command()),
    }
}

#[cfg(test)]
mod tests;
