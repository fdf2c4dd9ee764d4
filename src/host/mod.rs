// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the machine has to provide: programs, room on the disk, and packages from Debian's archive.
//!
//! Nothing in here knows what a kernel or QEMU is; `kernel` and `qemu` fetch and build with it.

pub mod apt;
pub mod command;
pub mod files;
pub mod machine;
pub mod tools;
pub mod versions;

use std::path::PathBuf;

use crate::exit::ExitCode;

/// The machine does not provide what is needed. Every case is an [`ExitCode::Infrastructure`], but for
/// [`HostError::Interrupted`].
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A program is not installed.
    #[error("the program `{tool}` is missing")]
    Missing {
        /// Its name.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program could not be started.
    #[error("cannot start {tool}")]
    Start {
        /// Its name or path.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{what} failed ({status}){tail}", tail = command::indented(tail))]
    Failed {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: String,
        /// Last lines that it printed.
        tail: String,
    },
    /// A file operation.
    #[error("cannot {what} {path}")]
    Io {
        /// The verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not enough room.
    #[error("{path} has {free} MiB free, {needed} MiB are needed")]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Free, MiB.
        free: u64,
        /// Needed, MiB.
        needed: u64,
    },
    /// A package is not the one that was tested, although its version is the same.
    #[error("{package} {version} has sha256 {found}, images/versions.toml has {expected}")]
    Checksum {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// As recorded.
        expected: String,
        /// As downloaded.
        found: String,
    },
    /// The archive has no such package, or cannot be reached.
    #[error("Debian's archive has no package {package} that can be installed{tail}", tail = command::indented(tail))]
    NoPackage {
        /// The package.
        package: String,
        /// What apt said.
        tail: String,
    },
    /// images/versions.toml cannot be read.
    #[error("{path} is malformed: {text}")]
    Versions {
        /// The file.
        path: PathBuf,
        /// With line and column.
        text: String,
    },
    /// The user stopped it.
    #[error("stopped")]
    Interrupted,
}

impl HostError {
    /// How the process ends with this error.
    pub fn exit(&self) -> ExitCode {
        match self {
            HostError::Interrupted => ExitCode::Interrupted,
            _ => ExitCode::Infrastructure,
        }
    }

    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            HostError::Missing { package, .. } => Some(format!("apt-get install {package}, or run images/setup.sh")),
            HostError::NoSpace { .. } => {
                Some("free some space, or set VFRACE_CACHE to a directory on a larger disk".to_owned())
            }
            HostError::Checksum { .. } => {
                Some("the download is not what it claims to be; remove it and look into the mirror".to_owned())
            }
            HostError::NoPackage { .. } => {
                Some("look at the network and at the mirror in /etc/apt; a mirror must have trixie-backports".to_owned())
            }
            HostError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("the cache belongs to somebody else: set VFRACE_CACHE to a directory of your own".to_owned())
            }
            _ => None,
        }
    }
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
