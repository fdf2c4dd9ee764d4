// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Consumers of events and verdicts: the terminal, the recording as JSON lines, and the reports that are made from
//! recordings afterwards ([`book`] is what those are about). They only render; nothing here decides anything, and nothing
//! else in the program prints.

pub mod book;
pub mod compare;
pub mod explore;
pub mod html;
pub mod jsonl;
pub mod judge;
pub mod junit;
pub mod ktap;
pub mod lines;
pub mod mail;
pub mod matrix;
pub mod summary;
pub mod terminal;
pub mod text;
pub mod timeline;

#[cfg(test)]
mod tests;

pub use book::{Book, Recorded};
pub use compare::{CompareReport, compare};
pub use explore::{ExploreReport, explore};
pub use html::html;
pub use jsonl::{Recorder, RecordingError};
pub use judge::{JudgeReport, SymbolsUsed};
pub use junit::junit;
pub use ktap::ktap;
pub use mail::mail;
pub use matrix::{markdown, matrix};
pub use summary::summary;
pub use terminal::{Style, Terminal};
pub use text::{RunReport, in_a_line, run};
