// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many runs: scenarios on kernels, several boots of each, with how sure the result is; and the search for a schedule.
//!
//! [`Store`] keeps every boot's result on the disk, [`play`] runs those that are missing, [`Table`] says what came out.

mod asked;
pub mod bisect;
pub mod bisection;
pub mod bound;
pub mod compare;
pub mod decide;
mod error;
pub mod explore;
pub mod merge;
pub mod mutants;
pub mod plan;
mod play;
mod reference;
mod shard;
pub mod stats;
pub mod store;
mod table;

#[cfg(test)]
pub(crate) mod tests;

use crate::event::Verdict;
use crate::exit::ExitCode;
use crate::kernel::BuiltKernel;
use crate::scenario::Scenario;

pub use asked::{Amount, Asked, CellAsked, ErrorBound, MOST_BOOTS};
pub use error::CampaignError;
pub use play::{Boot, Job, play};
pub use reference::Tally;
pub use shard::{Shard, ShardWish};
pub use store::{BootResult, Results, Store};
pub use table::{Bound, Outcome, Table};

/// The verdict on a kernel that does not build.
pub const UNBUILT: Verdict = Verdict::BuildFail;

/// One combination of scenario and kernel.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The kernel, or why there is none.
    pub kernel: Result<&'a BuiltKernel, &'a Unbuilt>,
}

/// A kernel that does not build, or whose patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unbuilt {
    /// Its name.
    pub name: String,
    /// What the compiler, the linker or the patch tool said, in a line.
    pub why: String,
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
