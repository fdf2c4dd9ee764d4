// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The repository of a user's tree. It is asked for commits, and never written.

use std::path::{Path, PathBuf};

use super::KernelError;
use super::git::Git;
use crate::host::HostError;
use crate::host::files;

/// The user's repository.
pub(super) struct Theirs {
    /// The directory of it; of a linked work tree its own.
    pub git_dir: PathBuf,
    /// The directory of its objects.
    pub objects: PathBuf,
    /// It has no work tree.
    pub bare: bool,
}

impl Theirs {
    /// The repository that `dir` is the top of, or that it is; one further up is none of it.
    pub fn of(dir: &Path) -> Result<Option<Self>, KernelError> {
        let mut git = Git::at(dir);
        git.ceiling = dir.parent().map(Path::to_path_buf);
        let said = git.say(
            &[
                "rev-parse",
                "--path-format=absolute",
                "--absolute-git-dir",
                "--git-path",
                "objects",
                "--is-inside-work-tree",
            ],
            &[],
        )?;
        if !said.ok {
            if std::fs::symlink_metadata(dir.join(".git")).is_ok() {
                said.ok(&format!("opening the repository of {}", dir.display()))?;
            }
            return Ok(None);
        }
        let text = said.line();
        let mut lines = text.lines();
        let mut path = || lines.next().map(PathBuf::from).unwrap_or_default();
        Ok(Some(Self {
            git_dir: path(),
            objects: path(),
            bare: path() != Path::new("true"),
        }))
    }

    /// What the user's own index has, each with a zero byte behind it.
    pub fn tracked(&self, dir: &Path) -> Result<Vec<u8>, HostError> {
        let mut git = Git::at(dir);
        git.dir = Some(self.git_dir.clone());
        git.work = Some(dir.to_path_buf());
        Ok(git.say(&["ls-files", "-z"], &[])?.ok("git ls-files")?.out)
    }

    /// The commit that `name` means, and its tree.
    pub fn resolve(&self, name: &str) -> Result<Option<(String, String)>, HostError> {
        let mut git = Git::at(&self.git_dir);
        git.dir = Some(self.git_dir.clone());
        let ask = |what: String| {
            let said = git.say(
                &[
                    "rev-parse",
                    "--verify",
                    "--quiet",
                    "--end-of-options",
                    &what,
                ],
                &[],
            )?;
            Ok::<_, HostError>(said.ok.then(|| said.line()).filter(|id| is_id(id)))
        };
        let Some(commit) = ask(format!("{name}^{{commit}}"))? else {
            return Ok(None);
        };
        let tree = ask(format!("{commit}^{{tree}}"))?;
        Ok(tree.map(|tree| (commit, tree)))
    }

    /// Copies the user's index, if there is one, with its time: git takes a file that is as new as the index, and looks
    /// the same, for one that may have changed since.
    pub fn copy_index(&self, to: &Path) -> Result<(), HostError> {
        let from = self.git_dir.join("index");
        let Some(bytes) = files::read_if_there(&from)? else {
            return Ok(());
        };
        let time = from
            .metadata()
            .and_then(|meta| meta.modified())
            .map_err(files::failed("read", &from))?;
        let beside = to.with_extension("copy");
        files::write_whole(&beside, &bytes)?;
        std::fs::File::options()
            .write(true)
            .open(&beside)
            .and_then(|file| file.set_modified(time))
            .and_then(|()| std::fs::rename(&beside, to))
            .map_err(files::failed("write", to))
    }
}

/// A whole object id, SHA-1 or SHA-256.
fn is_id(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
