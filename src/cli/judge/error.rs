// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a console or a recording that is to be judged.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::exit::ExitCode;
use crate::report::RecordingError;

/// A console that cannot be judged.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum JudgeError {
    /// The console's file.
    #[error("cannot read the console {path}")]
    Console {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// A directory.
    #[error("the console {path} is a directory")]
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("the console {path} is empty")]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// There is too much in it.
    #[error("the console {path} is longer than 4 GiB")]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// `--armed`.
    #[error("--armed {offset} is behind the console's end: it has {length} bytes")]
    Beyond {
        /// As given.
        offset: u64,
        /// Bytes of the console.
        length: u64,
    },
    /// `--after`.
    #[error("no line of the console has `{text}`")]
    NoText {
        /// As given.
        text: String,
    },
    /// The recording.
    #[error("cannot use the recording {path}")]
    Events {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RecordingError,
    },
    /// A recording without its beginning.
    #[error("the recording {path} does not say which scenario was run")]
    NoScenario {
        /// Which.
        path: PathBuf,
    },
    /// The document cannot be written.
    #[error("the judgement cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

impl JudgeError {
    pub fn console(path: &Path, source: Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::IsADirectory => JudgeError::Directory { path },
            _ => JudgeError::Console { path, source },
        }
    }

    /// The exit code: a file that is not what it should be is the request's mistake, one that breaks the machine's.
    pub fn exit(&self) -> ExitCode {
        match self {
            JudgeError::Console { source, .. }
            | JudgeError::Events {
                source: RecordingError::File(source),
                ..
            } => match source.kind() {
                ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::InvalidInput => ExitCode::Usage,
                _ => ExitCode::Infrastructure,
            },
            JudgeError::Json(_) => ExitCode::Infrastructure,
            _ => ExitCode::Usage,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            JudgeError::Directory { path } if path.join("console.log").is_file() => {
                let path = path.display();
                return Some(format!(
                    "`vfrace judge {path}/console.log --events {path}` judges a run again"
                ));
            }
            JudgeError::Directory { .. } => "name the file with the console's bytes",
            JudgeError::Console { .. } => "check the path; `-` reads standard input",
            JudgeError::Empty { .. } => "check that the machine's serial port was recorded",
            JudgeError::TooLong { .. } => "cut it, e.g. with `tail -c 1G`",
            JudgeError::NoText { .. } => {
                "the text must be in one line, as it is in the file; --armed takes a byte instead"
            }
            JudgeError::NoScenario { .. } => "name it with --scenario",
            JudgeError::Beyond { .. } | JudgeError::Events { .. } | JudgeError::Json(_) => {
                return None;
            }
        };
        Some(hint.to_owned())
    }
}
