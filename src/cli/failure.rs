// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that can end a command before it has a verdict, and how a person is told.

use std::path::PathBuf;

use crate::arch::Arch;
use crate::campaign::CampaignError;
use crate::campaign::bisection::BisectionError;
use crate::exit::ExitCode;
use crate::host::HostError;
use crate::kernel::{KernelError, KernelName};
use crate::oracle::{ExpectError, KnownError};
use crate::paths::PathError;
use crate::qemu::{AccelError, ProvideError};
use crate::run::RunError;
use crate::scenario::ScenarioError;
use crate::symbols::SymbolsError;

use super::judge::JudgeError;
use super::report::ReportError;
use super::say;
use super::serve::ServeError;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The request's scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A point that the kernel under test does not have.
    #[error("the point {point} is not there in the kernel {kernel}: {why}")]
    Point {
        /// The point.
        point: String,
        /// The kernel.
        kernel: String,
        /// Why its function cannot be one.
        why: String,
    },
    /// A server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// QEMU or busybox.
    #[error(transparent)]
    Provide(#[from] ProvideError),
    /// The accelerator.
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// Cache or data directory.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The list of known issues.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// The list of expected verdicts.
    #[error(transparent)]
    Expect(#[from] ExpectError),
    /// A run's directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The kernel to compare with is not run.
    #[error("the reference `{0}` is not among --kernels")]
    Reference(KernelName),
    /// There is no kernel where one should have been built.
    #[error("no kernel was named")]
    NoKernel,
    /// A single run in the directory of a campaign.
    #[error("{0} has a campaign, and a single run would take the place of one of its boots")]
    IsCampaign(PathBuf),
    /// A campaign's directory.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// A part of a campaign that cannot be.
    #[error("{0}")]
    Shard(String),
    /// A scenario without an unplug has one schedule only.
    #[error("there is nothing to explore in `{0}`: nothing is unplugged in it")]
    NothingToExplore(String),
    /// Only a mutant says which scenarios reach it.
    #[error("`{kernel}` names no scenarios that reach it", kernel = .0)]
    NoReach(KernelName),
    /// One kernel is wanted, and several are named, or none.
    #[error("one kernel is wanted, and `{asked}` stands for {}", listed(kernels))]
    SeveralKernels {
        /// What was asked for.
        asked: String,
        /// What that is.
        kernels: Vec<KernelName>,
    },
    /// A console or recording that is to be judged.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A recording that is to be reported.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The symbols that were named for it.
    #[error(transparent)]
    Symbols(#[from] SymbolsError),
    /// The bisection that the tree is in.
    #[error(transparent)]
    Bisection(#[from] BisectionError),
    /// A rate has to be measured, and nothing says on which commit.
    #[error("{path} is not in a bisection that has a commit with the finding", path = .0.display())]
    NoBisection(PathBuf),
    /// The commit that should have the finding does not show it.
    #[error("{kernel} should have the finding, and {boots} boots did not show it: {wanted}")]
    NoReference {
        /// The kernel.
        kernel: String,
        /// The finding.
        wanted: String,
        /// Boots.
        boots: u32,
    },
    /// The commit that should have the finding cannot be tried.
    #[error("{commit} should have the finding, and does not build: {why}")]
    ReferenceDoesNotBuild {
        /// The commit.
        commit: String,
        /// The first line of the error.
        why: String,
    },
    /// Boots failed again and again, whatever the kernel.
    #[error("boots of {kernel} fail: {why}")]
    Machine {
        /// The kernel.
        kernel: String,
        /// What the evidence says.
        why: String,
    },
    /// SIGINT or SIGTERM.
    #[error("stopped before there was a result")]
    Interrupted,
    /// One series is halved.
    #[error("one series of patches on one source is wanted")]
    SeveralSeries,
    /// A rate has to be measured, and neither end has the finding.
    #[error(
        "neither the source as it is nor the whole series shows it, and there is no rate to go by: {wanted}"
    )]
    NoEnd {
        /// The finding.
        wanted: String,
    },
    /// More kernels, or fewer, than can be compared.
    #[error("two kernels can be compared, and these are {}: {}", .0.len(), listed(.0))]
    NotTwo(Vec<KernelName>),
    /// A guest of another architecture than s390x needs no shim.
    #[error("--no-shim is for guests of s390x, and these are of {0}")]
    NoShim(Arch),
    /// Signal handlers.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The results directory.
    #[error("cannot write the results to {path}")]
    Results {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Kernels in a sentence.
fn listed(kernels: &[KernelName]) -> String {
    if kernels.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = kernels.iter().take(3).map(KernelName::to_string).collect();
    let more = if kernels.len() > names.len() {
        ", ..."
    } else {
        ""
    };
    format!("{}: {}{more}", kernels.len(), names.join(", "))
}

impl Failure {
    /// The exit code.
    pub(super) fn exit(&self) -> ExitCode {
        match self {
            Failure::Scenario(error) => error.exit(),
            Failure::Point { .. } => ExitCode::Usage,
            Failure::Serve(error) => error.exit(),
            Failure::Kernel(error) => error.exit(),
            Failure::Host(error) => error.exit(),
            Failure::Provide(error) => error.exit(),
            Failure::Accel(error) => error.exit(),
            Failure::Judge(error) => error.exit(),
            Failure::Report(error) => error.exit(),
            Failure::Campaign(error) => error.exit(),
            Failure::Symbols(_)
            | Failure::Shard(_)
            | Failure::Reference(_)
            | Failure::NoKernel
            | Failure::IsCampaign(_) => ExitCode::Usage,

            Failure::NothingToExplore(_)
            | Failure::NoReach(_)
            | Failure::SeveralKernels { .. }
            | Failure::NoBisection(_)
            | Failure::NotTwo(_)
            | Failure::SeveralSeries
            | Failure::NoShim(_)
            | Failure::NoEnd { .. }
            | Failure::NoReference { .. }
            | Failure::ReferenceDoesNotBuild { .. } => ExitCode::Usage,
            Failure::Bisection(error) => error.exit(),
            Failure::Machine { .. } => ExitCode::Infrastructure,
            Failure::Interrupted => ExitCode::Interrupted,
            Failure::Path(_)
            | Failure::Known(_)
            | Failure::Expect(_)
            | Failure::Run(_)
            | Failure::Signals(_)
            | Failure::Results { .. } => ExitCode::Infrastructure,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Failure::Point { kernel, .. } => Some(format!(
                "`vfrace points --kernel {kernel}` lists the points that it has"
            )),
            Failure::Serve(error) => error.hint(),
            Failure::Kernel(error) => error.hint(),
            Failure::Host(error) => error.hint(),
            Failure::Provide(error) => error.hint(),
            Failure::Accel(error) => error.hint(),
            Failure::Judge(error) => error.hint(),
            Failure::Report(error) => error.hint(),
            Failure::Bisection(error) => error.hint(),
            Failure::NoBisection(_) => Some(
                "give the rate with --rate HITS/ROUNDS, or begin with `git bisect start BAD GOOD`"
                    .to_owned(),
            ),
            Failure::SeveralSeries => {
                Some("leave out --patch and --each-patch, and give --commit once".to_owned())
            }
            Failure::NoEnd { .. } => {
                Some("give the rate with --rate HITS/ROUNDS, or --boots instead of --error".to_owned())
            }
            Failure::NoShim(_) => Some("leave it out, or add --arch s390x".to_owned()),
            Failure::NotTwo(_) => Some(
                "name two, or one that --commit is given twice for, e.g. `vfrace compare base v7`"
                    .to_owned(),
            ),
            Failure::NoReference { .. } => Some(
                "look at it with `vfrace run`; give another bad commit, another scenario or --wanted, or more --most-boots"
                    .to_owned(),
            ),
            Failure::ReferenceDoesNotBuild { .. } => {
                Some("give the rate with --rate HITS/ROUNDS, e.g. of another commit that has it".to_owned())
            }
            Failure::Campaign(error) => error.hint(),
            Failure::NothingToExplore(_) => {
                Some("use a scenario with an unplug, e.g. unbind-vs-vf-unplug".to_owned())
            }
            Failure::Reference(_) => Some("add it there: its hits have to be counted".to_owned()),
            Failure::IsCampaign(_) => Some("name another directory with --out".to_owned()),
            Failure::SeveralKernels { .. } => {
                Some("name one of those that `vfrace kernel list` shows, or one commit, or one patch; `vfrace matrix` takes several".to_owned())
            }
            Failure::NoReach(_) => Some(
                "give `--scenarios reach` to mutants only, and name scenarios for other kernels"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// What it is, on one line.
    pub(super) fn line(&self) -> String {
        let text = self.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Prints it, its causes and what to do, and gives the exit code.
    pub(super) fn tell(self) -> ExitCode {
        let (exit, hint) = (self.exit(), self.hint());
        if let Failure::Scenario(error) = self {
            say::err(format_args!("{:?}\n", miette::Report::new(error)));
            return exit;
        }
        say::err(format_args!("error: {self}\n"));
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            say::err(format_args!("  because: {error}\n"));
            cause = error.source();
        }
        if let Some(hint) = hint {
            say::err(format_args!("  to mend it: {hint}\n"));
        }
        exit
    }
}
