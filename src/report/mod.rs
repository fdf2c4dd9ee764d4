// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consumers of events and verdicts: the terminal, the recording as JSON lines. They only render; nothing here decides
//! anything, and nothing else in the program prints.

pub mod compare;
pub mod explore;
pub mod jsonl;
pub mod judge;
pub mod terminal;
pub mod text;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::event::Verdict;
use crate::oracle::Expected;

pub use compare::{CompareReport, compare};
pub use explore::{ExploreReport, explore};
pub use jsonl::{Recorder, RecordingError};
pub use judge::{JudgeReport, SymbolsUsed};
pub use terminal::{Style, Terminal};
pub use text::{RunReport, in_a_line, matrix, run};

/// A line of the matrix: one scenario on one kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatrixRow {
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// The verdict.
    pub verdict: Verdict,
    /// What was expected, if anything was.
    pub expected: Option<Expected>,
    /// Whether it came as expected, the reason included; with nothing expected there is nothing to miss.
    pub as_expected: bool,
    /// The finding that it rests on, a line.
    pub seen: Option<String>,
    /// Rounds that showed it, over all boots.
    pub hits: u32,
    /// Rounds run, over all boots.
    pub rounds: u32,
    /// Seconds it took, boots included.
    pub seconds: f64,
}
