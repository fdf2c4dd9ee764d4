// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bisection that a repository is in, and what has to be remembered from one of its steps to the next: how often the
//! finding comes on a kernel that has it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::stats::Rate;
use crate::exit::ExitCode;
use crate::host::files::{self, Lock};
use crate::host::{HostError, command};
use crate::kernel::TreeRequest;

/// Digits of a key, which is a file name.
const KEY_DIGITS: usize = 20;

/// The bisection cannot be found out about.
#[derive(Debug, thiserror::Error)]
pub enum BisectionError {
    /// No git work tree.
    #[error("{path} is not in a git work tree", path = path.display())]
    NoWorkTree {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl BisectionError {
    /// The exit code: nothing that a bisection could go on with.
    pub fn exit(&self) -> ExitCode {
        match self {
            BisectionError::NoWorkTree { .. } => ExitCode::Usage,
            BisectionError::Host(error) => error.exit(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            BisectionError::NoWorkTree { .. } => {
                Some("go into a kernel's git tree, or name one with --linux".to_owned())
            }
            BisectionError::Host(error) => error.hint(),
        }
    }
}

/// The end of a bisection whose kernels have the wanted finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `bad` or `new`: a bug is looked for.
    New,
    /// `good` or `old`: the commit that cures one is looked for.
    Old,
}

/// A bisection under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bisection {
    /// Which one it is: the repository, what was checked out before it, and when it was begun.
    identity: String,
    old: Vec<String>,
    new: Option<String>,
}

impl Bisection {
    /// The bisection that the git work tree at `dir` is in, if it is in one. The words for its two ends can be the user's
    /// own (git-bisect(1), "Alternate terms").
    pub fn of(dir: &Path) -> Result<Option<Self>, BisectionError> {
        let top = work_tree(dir)?;
        let start = git_path(&top, "BISECT_START")?;
        let Some(begun_at) = files::read_if_there(&start)? else {
            return Ok(None);
        };
        let when = std::fs::metadata(&start)
            .and_then(|meta| meta.modified())
            .map_err(files::failed("read", &start))?;
        let when = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        let terms = files::read_if_there(&git_path(&top, "BISECT_TERMS")?)?;
        let terms =
            String::from_utf8_lossy(terms.as_deref().unwrap_or(b"bad\ngood\n")).into_owned();
        let mut terms = terms.lines();
        let (new, old) = (
            terms.next().unwrap_or("bad"),
            terms.next().unwrap_or("good"),
        );
        let refs = git(
            &top,
            &[
                "for-each-ref",
                "--format=%(refname) %(objectname)",
                "refs/bisect/",
            ],
        )?;
        let commits = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            let refs = refs.lines().filter_map(|line| line.split_once(' '));
            refs.filter(|(name, _)| name.strip_prefix("refs/bisect/").is_some_and(wanted))
                .map(|(_, commit)| commit.to_owned())
                .collect()
        };
        let old_start = format!("{old}-");
        Ok(Some(Self {
            identity: format!(
                "{}\n{}\n{}\n",
                start.display(),
                String::from_utf8_lossy(&begun_at).trim_end(),
                when.as_nanos(),
            ),
            new: commits(&|name| name == new).into_iter().next(),
            old: commits(&|name| name.starts_with(&old_start)),
        }))
    }

    /// A commit that is known to be at this end.
    pub fn commit(&self, end: End) -> Option<&str> {
        match end {
            End::New => self.new.as_deref(),
            End::Old => self.old.first().map(String::as_str),
        }
    }

    /// What the rate of a finding is kept under. `what` are the scenario, the finding and everything else that changes how
    /// often it comes.
    pub fn key(&self, end: End, what: &[&str]) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.identity);
        hash.update([u8::from(end == End::New)]);
        for part in what {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hex = files::hex(&hash.finalize());
        hex.chars().take(KEY_DIGITS).collect()
    }
}

/// The top of the git work tree around `dir`.
pub fn work_tree(dir: &Path) -> Result<PathBuf, BisectionError> {
    TreeRequest::around(dir)?.ok_or_else(|| BisectionError::NoWorkTree {
        path: dir.to_path_buf(),
    })
}

/// A file of git's own.
fn git_path(top: &Path, name: &str) -> Result<PathBuf, HostError> {
    let path = git(top, &["rev-parse", "--git-path", name])?;
    // Relative to `top`, or absolute.
    Ok(top.join(path.trim_end_matches('\n')))
}

/// What git prints. Reads only.
fn git(dir: &Path, arguments: &[&str]) -> Result<String, HostError> {
    let mut git = Command::new("git");
    git.arg("-C").arg(dir).args(arguments);
    // A hook or another git that called us must not lead us into its own repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git.env_remove(name);
    }
    git.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0");
    command::output(&mut git, "git")
}

/// How often the finding came on a kernel that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The commit that was measured.
    pub commit: String,
    /// Its kernel's identity.
    pub kernel: String,
    /// Boots so far.
    pub boots: u32,
    /// Rounds that showed it.
    pub hits: u32,
    /// Rounds that could have.
    pub of: u32,
}

impl Measured {
    /// The rate.
    pub fn rate(&self) -> Rate {
        Rate::new(self.hits, self.of)
    }
}

/// Where the rate of one bisection is kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// In the cache directory, under the key of [`Bisection::key`].
    pub fn new(cache: &Path, key: &str) -> Self {
        Self {
            path: cache.join("bisect").join(key).join("rate.json"),
        }
    }

    /// The directory of this bisection, for its results.
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// What has been measured so far. A file that cannot be read as one is as good as none: it is measured again.
    pub fn load(&self) -> Result<Option<Measured>, HostError> {
        let bytes = files::read_if_there(&self.path)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Keeps it, whole or not at all.
    pub fn save(&self, measured: &Measured) -> Result<(), HostError> {
        files::make_dir(self.dir())?;
        let json = serde_json::to_vec_pretty(measured)
            .map_err(|error| files::failed("write", &self.path)(error.into()))?;
        files::write_whole(&self.path, &json)
    }

    /// Keeps other processes from measuring the same at the same time.
    pub fn lock(&self, stop: &std::sync::atomic::AtomicBool) -> Result<Lock, HostError> {
        files::make_dir(self.dir())?;
        Lock::take(&self.dir().join("lock"), stop, || {
            log::warn!("waiting for another vfrace that works on the same bisection");
        })
    }
}

#[cfg(test)]
mod tests;
