// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A user's kernel tree, as it is now or at a commit, and the checkout in the cache that it is built in.
//!
//! Nothing is written into the user's directory or its repository. A private repository in the cache borrows the
//! objects of the user's one (gitrepository-layout(5), objects/info/alternates), and takes new ones in. The work tree
//! with its uncommitted changes becomes a tree object by way of an index of our own, at first a copy of the user's, for
//! what that knows of unchanged files. Its name is the content's hash, so a kernel that was built from the same content
//! is found again, whatever the commit. The checkout is brought from one tree to the next by git, which writes the
//! files that differ and no other: make compiles nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::KernelError;
use super::git::{self, Git};
use super::layer::{Layer, Rejected};
use crate::event::EventSink;
use crate::host::HostError;
use crate::host::files::{self, Lock};

/// Digits of a commit or tree in a kernel's name.
const SHORT: usize = 12;
/// Room for a checkout, in MiB (1,900 measured for Linux 7.2).
const CHECKOUT_MIB: u64 = 2200;
/// Says that the checkout is on its way from one tree to another.
const UNDER_WAY: &str = "under-way";
/// The index of the user's work tree.
const USER_INDEX: &str = "user.index";
/// The index of the checkout.
const CHECKOUT_INDEX: &str = "checkout.index";
/// What a build leaves in a source that is no git tree. Its .gitignore files are not asked: those of Debian's sources
/// exclude everything.
const PRODUCTS: &str = "*.o\n*.ko\n*.a\n*.cmd\n*.mod\n*.mod.c\n*.order\n*.symvers\n.tmp_*\n.config*\nvmlinux*\n!vmlinux*.[Sh]\n!vmlinux*.c\nSystem.map\n/include/config/\n/include/generated/\n/arch/*/include/generated/\n/arch/*/boot/bzImage\n.git\n";

/// A kernel tree of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRequest {
    /// Top directory of a git work tree, of an unpacked source, or a bare repository.
    pub dir: PathBuf,
    /// The commits of its repository that are wanted, as git-rev-parse(1) takes them; none: the work tree as it is.
    pub commits: Vec<String>,
}

/// One state of a user's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Where a kernel's name has its source: `g` and digits of the commit, or `t` and digits of the tree if that is not
    /// the tree of a commit.
    pub tag: String,
    /// The commit; `None` for a work tree with changes, or a source that is no repository.
    pub commit: Option<String>,
    /// The tree's object id.
    pub tree: String,
    /// As the kernel's Makefile has it: `7.2.12`.
    pub version: String,
}

impl Revision {
    /// `7.2` of `7.2.12`.
    pub(super) fn series(&self) -> String {
        let mut numbers = self.version.split(['.', '-']);
        format!(
            "{}.{}",
            numbers.next().unwrap_or_default(),
            numbers.next().unwrap_or_default()
        )
    }
}

/// The states of a user's tree that were asked for.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The user's directory.
    pub dir: PathBuf,
    /// In the order of the request.
    pub revisions: Vec<Revision>,
    room: PathBuf,
}

/// The user's repository.
struct Theirs {
    git_dir: PathBuf,
    objects: PathBuf,
    bare: bool,
}

impl Snapshot {
    /// Finds the states that are asked for and takes what is needed of them into the cache.
    pub fn take(
        cache: &Path,
        request: &TreeRequest,
        events: &EventSink,
        stop: &AtomicBool,
    ) -> Result<Self, KernelError> {
        git::require()?;
        let shown = request.dir.display().to_string();
        let wrong = |why: &str| KernelError::Tree {
            dir: request.dir.clone(),
            why: why.to_owned(),
        };
        let dir = match std::fs::canonicalize(&request.dir) {
            Ok(dir) if dir.is_dir() => dir,
            Ok(_) => return Err(wrong("it is no directory")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(wrong("it does not exist"));
            }
            Err(error) => return Err(files::failed("open", &request.dir)(error).into()),
        };
        let theirs = Theirs::of(&dir)?;
        match &theirs {
            None if !request.commits.is_empty() => {
                return Err(wrong("it is not the top of a git tree, and has no commits"));
            }
            None if !dir.join("Makefile").is_file() => {
                return Err(wrong("it has no Makefile"));
            }
            Some(theirs) if theirs.bare && request.commits.is_empty() => {
                return Err(wrong("it is a bare repository, without a work tree"));
            }
            _ => {}
        }
        let key: String = files::hex(&Sha256::digest(dir.as_os_str().as_encoded_bytes()))
            .chars()
            .take(16)
            .collect();
        let room = cache.join("sources").join(format!("tree-{key}"));
        let step = format!("tree {shown}");
        let mut snapshot = Self {
            dir,
            revisions: Vec::new(),
            room,
        };
        let _lock = Lock::take(&snapshot.lock(), stop, || {
            events.progress(&step, "waiting for another vfrace that uses it", None);
        })?;
        snapshot.borrow(theirs.as_ref())?;
        if request.commits.is_empty() {
            events.progress(&step, "looking for changes", None);
            let revision = snapshot.work_tree(theirs.as_ref(), stop)?;
            snapshot.revisions.push(revision);
        } else if let Some(theirs) = &theirs {
            for asked in &request.commits {
                let revision = snapshot.commit(theirs, asked)?;
                if !snapshot.revisions.contains(&revision) {
                    snapshot.revisions.push(revision);
                }
            }
        }
        let found: Vec<String> = snapshot
            .revisions
            .iter()
            .map(|r| format!("{} (Linux {})", r.tag, r.version))
            .collect();
        events.finished(&step, found.join(", "));
        Ok(snapshot)
    }

    /// The top directory of the git work tree around `dir`, if there is one.
    pub fn around(dir: &Path) -> Result<Option<PathBuf>, HostError> {
        git::require()?;
        let said = Git::at(dir).say(&["rev-parse", "--show-toplevel"], &[])?;
        Ok((said.ok && !said.out.is_empty()).then(|| PathBuf::from(said.line())))
    }

    /// The lock for the private repository, the checkout, and the object trees of it.
    pub fn lock(&self) -> PathBuf {
        self.room.join("lock")
    }

    /// The checkout.
    pub fn tree(&self) -> PathBuf {
        self.room.join("tree")
    }

    /// What the directories of this tree are called in the cache.
    pub fn key(&self) -> String {
        let name = self.room.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The private repository with an index in it.
    fn git(&self, index: &str) -> Git {
        let dir = self.room.join("git");
        Git {
            index: Some(dir.join(index)),
            at: dir.clone(),
            dir: Some(dir),
            ..Git::default()
        }
    }

    /// Makes the private repository, or mends it, and lets it see the user's objects.
    fn borrow(&self, theirs: Option<&Theirs>) -> Result<(), KernelError> {
        let dir = self.room.join("git");
        files::make_dir(&dir)?;
        files::make_dir(&self.tree())?;
        let mut init = Git::at(&dir);
        // Without GIT_DIR the new one would be made in git/.git.
        init.dir = Some(dir.clone());
        init.ask(&["init", "--quiet", "--bare", "--template="])?;
        for index in [USER_INDEX, CHECKOUT_INDEX] {
            // We hold the lock: who left it is dead.
            files::remove(&dir.join(format!("{index}.lock")))?;
        }
        let alternates = theirs.map_or_else(String::new, |theirs| quoted(&theirs.objects));
        files::write_if_changed(&dir.join("objects/info/alternates"), alternates.as_bytes())?;
        Ok(())
    }

    /// The work tree as it is.
    fn work_tree(
        &self,
        theirs: Option<&Theirs>,
        stop: &AtomicBool,
    ) -> Result<Revision, KernelError> {
        let index = self.room.join("git").join(USER_INDEX);
        let known = index.exists();
        if let (false, Some(theirs)) = (known, theirs) {
            theirs.copy_index(&index)?;
        }
        let first = self.add(theirs.is_some(), stop);
        let tree = match first {
            Ok(tree) => tree,
            Err(KernelError::Host(HostError::Interrupted)) => {
                return Err(HostError::Interrupted.into());
            }
            // An index that does not fit any more: it names objects that the user's git has dropped, or is in parts.
            Err(_) if index.exists() => {
                files::remove(&index)?;
                self.add(theirs.is_some(), stop)?
            }
            Err(error) => return Err(error),
        };
        let head = theirs.map(|theirs| theirs.resolve("HEAD")).transpose()?;
        let commit = head
            .flatten()
            .filter(|(_, head_tree)| *head_tree == tree)
            .map(|(commit, _)| commit);
        self.revision(commit, tree)
    }

    /// Puts the work tree into the index, and that into a tree object.
    fn add(&self, repository: bool, stop: &AtomicBool) -> Result<String, KernelError> {
        let what = format!("reading {}", self.dir.display());
        let mut git = self.git(USER_INDEX);
        git.work = Some(self.dir.clone());
        git.at = self.dir.clone();
        if repository {
            let exclude = Theirs::of(&self.dir)?
                .map_or_else(|| "/dev/null".into(), |t| t.git_dir.join("info/exclude"));
            git.settings
                .push(format!("core.excludesFile={}", exclude.display()));
            git.long(&["add", "--all", "--", "."], stop, |_| {})?
                .ok(what.as_str())?;
        } else {
            let products = self.room.join("git/products");
            files::write_if_changed(&products, PRODUCTS.as_bytes())?;
            let exclude = format!("--exclude-from={}", products.display());
            let list = [
                "ls-files",
                "-z",
                "--others",
                "--modified",
                "--deleted",
                &exclude,
            ];
            let said = git.say(&list, &[])?.ok(&what)?;
            // `dir/` is a repository in it, which is no part of the source.
            let mut changed: Vec<u8> = Vec::new();
            for file in said.out.split_inclusive(|b| *b == 0) {
                if !file.ends_with(b"/\0") {
                    changed.extend(file);
                }
            }
            // One pack in place of 90,000 small files.
            git.settings.push("core.bigFileThreshold=1".to_owned());
            let update = ["update-index", "-z", "--add", "--remove", "--stdin"];
            git.say(&update, &changed)?.ok(&what)?;
        }
        Ok(git.say(&["write-tree"], &[])?.ok(&what)?.line())
    }

    fn commit(&self, theirs: &Theirs, asked: &str) -> Result<Revision, KernelError> {
        let (commit, tree) = theirs
            .resolve(asked)?
            .ok_or_else(|| KernelError::NoCommit {
                dir: self.dir.clone(),
                commit: asked.to_owned(),
            })?;
        self.revision(Some(commit), tree)
    }

    fn revision(&self, commit: Option<String>, tree: String) -> Result<Revision, KernelError> {
        let makefile = self
            .git(CHECKOUT_INDEX)
            .say(&["cat-file", "blob", &format!("{tree}:Makefile")], &[])?;
        let version = makefile
            .ok
            .then(|| version(&String::from_utf8_lossy(&makefile.out)))
            .flatten();
        let version = version.ok_or_else(|| KernelError::Tree {
            dir: self.dir.clone(),
            why: "it is no kernel source: its Makefile has no VERSION and PATCHLEVEL".to_owned(),
        })?;
        let (letter, id) = match &commit {
            Some(commit) => ('g', commit),
            None => ('t', &tree),
        };
        let short: String = id.chars().take(SHORT).collect();
        Ok(Revision {
            tag: format!("{letter}{short}"),
            commit,
            tree,
            version,
        })
    }

    /// The tree with patches on it, one after the other. The inner error is the first that does not fit.
    pub fn patched(
        &self,
        tree: &str,
        layers: &[Layer],
    ) -> Result<Result<String, Rejected>, KernelError> {
        if layers.is_empty() {
            return Ok(Ok(tree.to_owned()));
        }
        // Outside of the repository, which this needs no lock for: objects are only added to it.
        let scratch =
            tempfile::tempdir().map_err(files::failed("create", &std::env::temp_dir()))?;
        let mut git = self.git("");
        git.index = Some(scratch.path().join("index"));
        git.ask(&["read-tree", tree])?;
        for layer in layers {
            if let Err(rejected) = layer.apply(&git, true)? {
                return Ok(Err(rejected));
            }
        }
        Ok(Ok(git.ask(&["write-tree"])?))
    }

    /// Brings the checkout to a tree. The caller holds the lock.
    pub fn check_out(&self, tree: &str, stop: &AtomicBool) -> Result<(), KernelError> {
        let mut git = self.git(CHECKOUT_INDEX);
        git.work = Some(self.tree());
        git.at = self.tree();
        let mark = self.room.join(UNDER_WAY);
        let broken = mark.exists();
        if !self.room.join("git").join(CHECKOUT_INDEX).exists() {
            files::need_space(&self.room, CHECKOUT_MIB)?;
        }
        let at = self.room.join("at");
        let there = self.tree().join("Makefile").exists();
        if there && !broken && files::read_if_there(&at)?.as_deref() == Some(tree.as_bytes()) {
            return Ok(());
        }
        files::write_whole(&mark, tree.as_bytes())?;
        git.long(&["read-tree", "--reset", "-u", tree], stop, |_| {})?
            .ok(format!("checking out {}", self.dir.display()))?;
        if broken {
            // What one that was killed has written beyond the index.
            git.long(&["clean", "-ffdxq"], stop, |_| {})?
                .ok("git clean")?;
        }
        files::write_whole(&at, tree.as_bytes())?;
        files::remove(&mark)?;
        Ok(())
    }
}

impl Theirs {
    /// The repository that `dir` is the top of, or that it is; one further up is none of it.
    fn of(dir: &Path) -> Result<Option<Self>, KernelError> {
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

    /// The commit that `name` means, and its tree.
    fn resolve(&self, name: &str) -> Result<Option<(String, String)>, HostError> {
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
    fn copy_index(&self, to: &Path) -> Result<(), HostError> {
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

/// A path as a line of objects/info/alternates.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.contains(['\n', '"']) {
        let inner = text.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("\"{}\"\n", inner.replace('\n', "\\n"));
    }
    format!("{text}\n")
}

/// The version in the kernel's Makefile: `7.2.12`, `7.3.0-rc1`.
fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile.lines().take(20).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let number = |name: &str| {
        value(name).filter(|v| (1..=4).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit()))
    };
    let extra = value("EXTRAVERSION").unwrap_or_default();
    let extra = Some(extra).filter(|extra| {
        extra.len() <= 20
            && extra
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._+".contains(&b))
    });
    Some(format!(
        "{}.{}.{}{}",
        number("VERSION")?,
        number("PATCHLEVEL")?,
        number("SUBLEVEL").unwrap_or_else(|| "0".to_owned()),
        extra.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests;
