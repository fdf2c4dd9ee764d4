// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each scenario is expected to lead to on each kernel: guest-tests/expect/expect.toml.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::event::Verdict;

/// The table of expected verdicts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    /// Not there, or not readable.
    #[error("cannot read the expected verdicts in {path}; set VFRACE_DATA to the checkout")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error(
        "the expected verdicts in {path} are malformed; mend the file at the place that is named"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// The table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    #[serde(default)]
    expect: Vec<Row>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    scenarios: Vec<String>,
    kernels: Vec<String>,
    verdict: Verdict,
    reason: String,
}

impl Expectations {
    /// Reads `expect.toml`.
    pub fn load(path: &Path) -> Result<Self, ExpectError> {
        let text = std::fs::read_to_string(path).map_err(|source| ExpectError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        toml::from_str(&text).map_err(|e| ExpectError::Malformed {
            path: path.to_path_buf(),
            source: Box::new(e),
        })
    }

    fn row(&self, scenario: &str, kernel: &str) -> Option<&Row> {
        self.expect.iter().find(|row| {
            row.scenarios.iter().any(|s| s == scenario)
                && row.kernels.iter().any(|k| names(k, kernel))
        })
    }

    /// The verdict expected of a scenario on a kernel; `None` if nothing is known about it. An entry `v7` is good for
    /// `v7@7.2` as well, one with a version for that version only.
    pub fn expectation(&self, scenario: &str, kernel: &str) -> Option<Verdict> {
        self.row(scenario, kernel).map(|row| row.verdict)
    }

    /// Why that is expected.
    pub fn reason(&self, scenario: &str, kernel: &str) -> Option<&str> {
        self.row(scenario, kernel).map(|row| row.reason.as_str())
    }
}

/// Whether `entry`, a name or NAME@VERSION, is meant by `kernel`.
pub(super) fn names(entry: &str, kernel: &str) -> bool {
    entry == kernel
        || kernel
            .split_once('@')
            .is_some_and(|(name, _)| name == entry)
}
