// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each scenario is expected to lead to on each kernel: guest-tests/expect/expect.toml.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Judgement;
use crate::arch::Arch;
use crate::event::{Class, Finding, Standing, Verdict};

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
    /// Guests that it is about, x86_64 if it does not say.
    #[serde(default)]
    arch: Arch,
    scenarios: Vec<String>,
    kernels: Vec<String>,
    verdict: Verdict,
    class: Option<Class>,
    title: Option<String>,
    reason: String,
}

/// What a scenario should lead to on a kernel: the verdict, and the finding that it should rest on. A verdict for
/// another reason is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// There has to be a finding of this class that is not a known issue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The same finding has to have this in its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

impl Expected {
    /// A verdict, whatever it rests on.
    pub fn verdict(verdict: Verdict) -> Self {
        Self {
            verdict,
            class: None,
            title: None,
        }
    }

    /// Whether a finding is of the kind that is expected. Any is, if nothing is said about it.
    fn is_reason(&self, finding: &Finding) -> bool {
        finding.standing != Standing::Known
            && self.class.is_none_or(|class| class == finding.class)
            && self
                .title
                .as_ref()
                .is_none_or(|t| finding.title.contains(t))
    }

    /// Whether a certain finding is expected.
    pub fn has_reason(&self) -> bool {
        self.class.is_some() || self.title.is_some()
    }

    /// The first finding that is the reason for the verdict expected.
    pub fn reason<'f>(&self, findings: &'f [Finding]) -> Option<&'f Finding> {
        findings.iter().find(|finding| self.is_reason(finding))
    }

    /// Whether this is what a run led to, verdict and reason.
    pub fn met_by(&self, judgement: &Judgement) -> bool {
        self.verdict == judgement.verdict
            && (!self.has_reason() || self.reason(&judgement.findings).is_some())
    }
}

impl fmt::Display for Expected {
    /// `FINDING (REFCOUNT: PF reference count)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict.fmt(f)?;
        match (self.class, &self.title) {
            (None, None) => Ok(()),
            (Some(class), None) => write!(f, " ({class})"),
            (None, Some(title)) => write!(f, " ({title})"),
            (Some(class), Some(title)) => write!(f, " ({class}: {title})"),
        }
    }
}

impl Expectations {
    /// What of it is about guests of `arch`: another machine has other handlers.
    #[must_use]
    pub fn on(mut self, arch: Arch) -> Self {
        self.expect.retain(|row| row.arch == arch);
        self
    }

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

    /// What is expected of a scenario on a kernel; `None` if nothing is known about it. An entry `v7` is good for
    /// `v7@7.2` as well, one with a version for that version only.
    pub fn expectation(&self, scenario: &str, kernel: &str) -> Option<Expected> {
        self.row(scenario, kernel).map(|row| Expected {
            verdict: row.verdict,
            class: row.class,
            title: row.title.clone(),
        })
    }

    /// The scenarios that have an expectation on a kernel, in the order of the table, each once.
    pub fn scenarios(&self, kernel: &str) -> Vec<&str> {
        let mut scenarios: Vec<&str> = Vec::new();
        let rows = self.expect.iter();
        for row in rows.filter(|row| row.kernels.iter().any(|k| names(k, kernel))) {
            for scenario in &row.scenarios {
                if !scenarios.contains(&scenario.as_str()) {
                    scenarios.push(scenario);
                }
            }
        }
        scenarios
    }

    /// Why that is expected.
    pub fn reason(&self, scenario: &str, kernel: &str) -> Option<&str> {
        self.row(scenario, kernel).map(|row| row.reason.as_str())
    }
}

/// Whether an entry of a table is about `kernel`: it is the same variant, on the source that the entry names, if it names
/// one, with the fragments that the entry names and any others. `v7` is about `v7+rt@7.3`, `v7+rt` not about `v7`.
pub(super) fn names(entry: &str, kernel: &str) -> bool {
    let parts = |name: &str| {
        let (head, source) = match name.split_once('@') {
            Some((head, source)) => (head.to_owned(), Some(source.to_owned())),
            None => (name.to_owned(), None),
        };
        let mut words = head.split('+').map(str::to_owned);
        (words.next(), words.collect::<Vec<_>>(), source)
    };
    let (entry, kernel) = (parts(entry), parts(kernel));
    entry.0 == kernel.0
        && entry.1.iter().all(|word| kernel.1.contains(word))
        && (entry.2.is_none() || entry.2 == kernel.2)
}
