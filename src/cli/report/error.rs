// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with what a report is to be made from.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use crate::exit::ExitCode;
use crate::report::html::PageError;
use crate::report::lines::LinesError;

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ReportError {
    /// What was named is not there.
    #[error("cannot read {path}")]
    Open {
        /// It.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// A file that is no report, or of another version.
    #[error("cannot use the report {path}")]
    Read {
        /// It.
        path: PathBuf,
        /// Why.
        source: LinesError,
    },
    /// A directory without recordings.
    #[error("{path} has neither a campaign nor a recording")]
    Nothing {
        /// It.
        path: PathBuf,
    },
    /// Recordings that do not say enough.
    #[error("no recording can be reported: {why}")]
    NotJudged {
        /// The first of them, and why.
        why: String,
    },
    /// The page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The JUnit document.
    #[error("the JUnit document cannot be made")]
    Junit(#[from] quick_junit::SerializeError),
    /// The JSON lines.
    #[error("the JSON lines cannot be made")]
    Lines(#[source] Error),
}

impl ReportError {
    /// The exit code: what is not what it should be is the request's mistake.
    pub fn exit(&self) -> ExitCode {
        match self {
            ReportError::Open { source, .. }
            | ReportError::Read {
                source: LinesError::File(source),
                ..
            } => match source.kind() {
                ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory => ExitCode::Usage,
                _ => ExitCode::Infrastructure,
            },
            ReportError::Read { .. }
            | ReportError::Nothing { .. }
            | ReportError::NotJudged { .. } => ExitCode::Usage,
            ReportError::Page(_) | ReportError::Junit(_) | ReportError::Lines(_) => {
                ExitCode::Infrastructure
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ReportError::Open { .. } | ReportError::Nothing { .. } => {
                "name the directory of `vfrace run` or `vfrace matrix`, or a file of `vfrace report --format jsonl`"
            }
            ReportError::Read {
                source: LinesError::Version { .. },
                ..
            } => "use the vfrace that wrote it, or make it again from the recordings",
            ReportError::Read {
                source: LinesError::NoReport,
                ..
            } => {
                "name the directory of a run, not its events.jsonl, or a file of `vfrace report --format jsonl`"
            }
            ReportError::Read { .. } => "make it again from the recordings",
            ReportError::NotJudged { .. } => {
                "`vfrace judge DIR/console.log --events DIR` judges a run that was stopped"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
