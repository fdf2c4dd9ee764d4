// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What keeps a campaign from going on.

use std::path::PathBuf;

use crate::exit::ExitCode;
use crate::host::{HostError, command};
use crate::run::RunError;

/// A campaign's directory cannot be used, or a run's.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// Somebody else works on it.
    #[error("{dir} is in use by another vfrace{who}", who = process.map(|id| format!(" (process {id})")).unwrap_or_default())]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// The other process, if it could be read.
        process: Option<u32>,
    },
    /// It was asked for something else.
    #[error("the campaign in {dir} is another one{list}", list = command::indented(&differences.join("\n")))]
    Differs {
        /// The directory.
        dir: PathBuf,
        /// What is another, a line each.
        differences: Vec<String>,
    },
    /// There are runs without a campaign.
    #[error("{boot} belongs to no campaign, and would be lost")]
    Foreign {
        /// Directory of a boot.
        boot: PathBuf,
    },
    /// A directory without a campaign.
    #[error("{dir} has no campaign.json")]
    None {
        /// The directory.
        dir: PathBuf,
    },
    /// A file that cannot be read.
    #[error("{path} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file of another version.
    #[error("{path} is a `{found}`, and this vfrace reads `{wanted}`")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// A result of something else than the directory that it is in says.
    #[error("{path} is the result of another scenario, kernel or boot than its place says")]
    Strange {
        /// The file.
        path: PathBuf,
    },
    /// Two results of one boot.
    #[error("{what} has two different results, in {first} and in {second}")]
    Twice {
        /// Scenario, kernel and boot.
        what: String,
        /// A directory.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// The disk is full.
    #[error(
        "{dir} has {free} MiB free, too few for the evidence of a boot; the results so far are kept"
    )]
    Full {
        /// The directory.
        dir: PathBuf,
        /// Free, MiB.
        free: u64,
    },
    /// A run's directory.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl CampaignError {
    /// How the process ends with this error.
    pub fn exit(&self) -> ExitCode {
        match self {
            CampaignError::Differs { .. }
            | CampaignError::Foreign { .. }
            | CampaignError::None { .. }
            | CampaignError::Twice { .. }
            | CampaignError::Version { .. } => ExitCode::Usage,
            CampaignError::Busy { .. }
            | CampaignError::Malformed { .. }
            | CampaignError::Strange { .. }
            | CampaignError::Full { .. }
            | CampaignError::Run(_) => ExitCode::Infrastructure,
            CampaignError::Host(error) => error.exit(),
        }
    }

    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            CampaignError::Busy { .. } => {
                "wait for it, or name another directory with --out".to_owned()
            }
            CampaignError::Differs { .. } => {
                "ask for the same as then, or name another directory with --out".to_owned()
            }
            CampaignError::Foreign { .. } => {
                "name a new directory with --out, or one with a campaign.json".to_owned()
            }
            CampaignError::None { .. } => {
                "name a directory that `vfrace matrix --out DIR` has written".to_owned()
            }
            CampaignError::Malformed { path, .. } | CampaignError::Strange { path }
                if path.file_name().is_some_and(|name| name == super::store::CAMPAIGN) =>
            {
                "it was changed by something else: name another directory".to_owned()
            }
            CampaignError::Malformed { path, .. } | CampaignError::Strange { path } => format!(
                "it was changed by something else; remove {} and the boot is run again",
                path.parent().unwrap_or(path).display()
            ),
            CampaignError::Version { .. } => {
                "use the vfrace that wrote it, or another directory".to_owned()
            }
            CampaignError::Twice { .. } => {
                "these are two campaigns of the same kind: merge parts of one only".to_owned()
            }
            CampaignError::Full { .. } => {
                "free some space and give the same command again: it goes on where it was".to_owned()
            }
            CampaignError::Run(RunError::Write { source, .. })
            | CampaignError::Host(HostError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                "the disk is full: free some space and give the same command again, it goes on where it was"
                    .to_owned()
            }
            CampaignError::Run(_) => return None,
            CampaignError::Host(error) => return error.hint(),
        };
        Some(text)
    }
}
