// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Issues of the kernel that are known and not what is looked for: guest-tests/expect/known.toml. They are listed in
//! every report and never change a verdict.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::expect::names;
use super::report::Report;
use crate::event::Class;

/// The list of known issues cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// Not there, or not readable.
    #[error("cannot read the known issues in {path}; set VFRACE_DATA to the checkout")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what it should be.
    #[error("the known issues in {path} are malformed; mend the file at the place that is named")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

/// The list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssues {
    #[serde(default)]
    known: Vec<Known>,
}

/// One known issue. Everything that it states must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Unique name.
    pub id: String,
    /// Class of the finding.
    pub class: Class,
    /// Its telling frame.
    pub frame: Option<String>,
    /// Words that its text must have, all of them: names of locks, functions.
    #[serde(default)]
    pub names: Vec<String>,
    /// It is not in the console but in what the guest measured: the name of the check that finds it, which says there
    /// when it applies.
    pub measured: Option<String>,
    /// Kernels (`base`, `v7@7.2`) that have it; all, if absent.
    pub kernels: Option<Vec<String>>,
    /// First release that has it, e.g. `6.18`.
    pub from: Option<String>,
    /// Last release that has it.
    pub to: Option<String>,
    /// Why it is there and why it is not the finding.
    pub reason: String,
}

impl KnownIssues {
    /// Reads `known.toml`.
    pub fn load(path: &Path) -> Result<Self, KnownError> {
        let text = std::fs::read_to_string(path).map_err(|source| KnownError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        toml::from_str(&text).map_err(|e| KnownError::Malformed {
            path: path.to_path_buf(),
            source: Box::new(e),
        })
    }

    /// The known issue that a report is, on `kernel` (as in RunStarted) of release `release` (as the guest said), if any.
    /// An unknown kernel or release has none of the issues that are limited to some.
    pub fn find(
        &self,
        report: &Report,
        kernel: Option<&str>,
        release: Option<&str>,
    ) -> Option<&Known> {
        self.known.iter().find(|known| {
            let frame = known.frame.is_none() || known.frame == report.frame;
            let names_all = known
                .names
                .iter()
                .all(|name| report.text.contains(name.as_str()));
            known.measured.is_none()
                && known.class == report.class
                && frame
                && names_all
                && known.is_of(kernel, release)
        })
    }

    /// The known issue that is found by the check named `check`, on that kernel and release, if there is one.
    pub fn measured(
        &self,
        check: &str,
        kernel: Option<&str>,
        release: Option<&str>,
    ) -> Option<&Known> {
        self.known
            .iter()
            .find(|known| known.measured.as_deref() == Some(check) && known.is_of(kernel, release))
    }
}

impl Known {
    fn is_of(&self, kernel: Option<&str>, release: Option<&str>) -> bool {
        let kernel_fits = match &self.kernels {
            None => true,
            Some(list) => {
                kernel.is_some_and(|kernel| list.iter().any(|entry| names(entry, kernel)))
            }
        };
        kernel_fits && self.covers(release)
    }

    fn covers(&self, release: Option<&str>) -> bool {
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        let Some(release) = release.map(numbers) else {
            return false;
        };
        let from = self
            .from
            .as_deref()
            .is_none_or(|from| release >= numbers(from));
        // `7.2` as the last release means all of 7.2.y
        let to = self.to.as_deref().map(numbers);
        let to = to.is_none_or(|to| release.iter().take(to.len()).le(to.iter()));
        from && to
    }
}

/// The numbers at the start of a release: `7.2.12-rc1+` has 7, 2, 12.
fn numbers(release: &str) -> Vec<u32> {
    let number = release
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default();
    number.split('.').map_while(|n| n.parse().ok()).collect()
}
