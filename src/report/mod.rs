// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consumers of events and verdicts: the terminal, the recording as JSON lines. They only render; nothing here decides
//! anything, and nothing else in the program prints.

pub mod compare;
pub mod explore;
pub mod jsonl;
pub mod judge;
pub mod matrix;
pub mod terminal;
pub mod text;

#[cfg(test)]
mod tests;

pub use compare::{CompareReport, compare};
pub use explore::{ExploreReport, explore};
pub use jsonl::{Recorder, RecordingError};
pub use judge::{JudgeReport, SymbolsUsed};
pub use matrix::{markdown, matrix};
pub use terminal::{Style, Terminal};
pub use text::{RunReport, in_a_line, run};
