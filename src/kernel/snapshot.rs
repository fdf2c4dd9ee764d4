// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A user's kernel tree, as it is now or at a commit, and the checkout in the cache that it is built in.
//!
//! Nothing is written into the user's directory or its repository. A private repository in the cache takes the objects
//! of changed files in; those of the user's repository are read where they are. The work tree
//! with its uncommitted changes becomes a tree object by way of an index of our own, at first a copy of the user's, for
//! what that knows of unchanged files. Its name is the content's hash, so a kernel that was built from the same content
//! is found again, whatever the commit. The checkout is brought from one tree to the next by git, which writes the
//! files that differ and no other: make compiles nothing else.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::KernelError;
use super::git::{self, Git};
use super::layer::{Layer, Rejected};
use super::repository::Theirs;
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
const PRODUCTS: &str = "*.o\n*.ko\n*.a\n*.cmd\n*.mod\n*.mod.c\n*.order\n*.symvers\n.tmp_*\n.config*\n/vmlinux\n/vmlinux.*\n/arch/*/boot/compressed/vmlinux\n/arch/*/boot/compressed/vmlinux.bin*\n/arch/*/boot/compressed/vmlinux.relocs\n/System.map\n/include/config/\n/include/generated/\n/arch/*/include/generated/\n/arch/*/boot/bzImage\n.git\n";

/// A kernel tree of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRequest {
    /// Top directory of a git work tree, of an unpacked source, or a bare repository.
    pub dir: PathBuf,
    /// The commits of its repository that are wanted, as git-rev-parse(1) takes them; none: the work tree as it is.
    pub commits: Vec<String>,
}

impl TreeRequest {
    /// The top directory of the git work tree around `dir`, if there is one.
    pub fn around(dir: &Path) -> Result<Option<PathBuf>, HostError> {
        git::require()?;
        let said = Git::at(dir).say(&["rev-parse", "--show-toplevel"], &[])?;
        Ok((said.ok && !said.out.is_empty()).then(|| PathBuf::from(said.line())))
    }
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
    /// [`Git::borrowed`]: the user's objects.
    objects: Option<String>,
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
            objects: theirs.as_ref().map(|theirs| quoted(&theirs.objects)),
        };
        let _lock = Lock::take(&snapshot.lock(), stop, || {
            events.progress(&step, "waiting for another vfrace that uses it", None);
        })?;
        snapshot.prepare()?;
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

    /// The private repository with an index in it, to write objects.
    fn git(&self, index: &str) -> Git {
        let dir = self.room.join("git");
        Git {
            index: Some(dir.join(index)),
            at: dir.clone(),
            dir: Some(dir),
            ..Git::default()
        }
    }

    /// The same, to read objects of it and of the user's.
    fn reader(&self, index: &str) -> Git {
        Git {
            borrowed: self.objects.clone(),
            ..self.git(index)
        }
    }

    /// Makes the private repository, or mends it. The caller holds the lock: who has left something is dead.
    fn prepare(&self) -> Result<(), KernelError> {
        let git = self.git(USER_INDEX);
        files::make_dir(&git.at)?;
        files::make_dir(&self.tree())?;
        for index in [USER_INDEX, CHECKOUT_INDEX] {
            files::remove(&git.at.join(format!("{index}.lock")))?;
        }
        git.ask(&["init", "--quiet", "--bare", "--template="])?;
        Ok(())
    }

    /// The work tree as it is.
    fn work_tree(
        &self,
        theirs: Option<&Theirs>,
        stop: &AtomicBool,
    ) -> Result<Revision, KernelError> {
        let index = self.room.join("git").join(USER_INDEX);
        let head = theirs.map(|theirs| theirs.resolve("HEAD")).transpose()?;
        let head = head.flatten();
        let head_tree = head.as_ref().map(|(_, tree)| tree.as_str());
        if let (false, Some(theirs)) = (index.exists(), theirs) {
            theirs.copy_index(&index)?;
        }
        let tree = match self.add(theirs, head_tree, stop) {
            Ok(Some(tree)) => tree,
            Err(HostError::Interrupted) => return Err(HostError::Interrupted.into()),
            // An index that does not fit any more: it names objects that the user's git has dropped, or is in parts. One
            // from the commit does, and knows after a look at every file which are as in there.
            Ok(None) | Err(_) => {
                files::remove(&index)?;
                if let Some(tree) = head_tree {
                    let mut git = self.reader(USER_INDEX);
                    git.ask(&["read-tree", tree])?;
                    git.work = Some(self.dir.clone());
                    git.at = self.dir.clone();
                    // Its status is 1 if a file differs.
                    git.long(&["update-index", "-q", "--refresh"], stop, |_| {})?;
                }
                let tree = self.add(theirs, head_tree, stop)?;
                tree.ok_or_else(|| KernelError::Tree {
                    dir: self.dir.clone(),
                    why: "its repository lacks objects of the commit that is checked out"
                        .to_owned(),
                })?
            }
        };
        let commit = head
            .filter(|(_, head_tree)| *head_tree == tree)
            .map(|(commit, _)| commit);
        self.revision(commit, tree)
    }

    /// Puts the work tree into the index, and that into a tree object. `None`: an object of it is neither here nor in
    /// the user's repository.
    fn add(
        &self,
        theirs: Option<&Theirs>,
        head_tree: Option<&str>,
        stop: &AtomicBool,
    ) -> Result<Option<String>, HostError> {
        let what = format!("reading {}", self.dir.display());
        let mut git = self.git(USER_INDEX);
        git.work = Some(self.dir.clone());
        git.at = self.dir.clone();
        if let Some(theirs) = theirs {
            let exclude = theirs.git_dir.join("info/exclude");
            git.settings
                .push(format!("core.excludesFile={}", exclude.display()));
            git.long(&["add", "--all", "--", "."], stop, |_| {})?
                .ok(what.as_str())?;
            // A file that is ignored and tracked all the same is passed over as long as our index does not have it.
            let ours = git.say(&["ls-files", "-z"], &[])?.ok(&what)?;
            let ours: BTreeSet<&[u8]> = ours.out.split(|b| *b == 0).collect();
            let mut missing: Vec<u8> = Vec::new();
            for file in theirs
                .tracked(&self.dir)?
                .split(|b| *b == 0)
                .filter(|f| !ours.contains(f))
            {
                // A directory is a submodule, which is no part of the source.
                let path = self.dir.join(OsStr::from_bytes(file));
                if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                    missing.extend(file);
                    missing.push(0);
                }
            }
            if !missing.is_empty() {
                let update = ["update-index", "-z", "--add", "--stdin"];
                git.say(&update, &missing)?.ok(&what)?;
            }
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
            git.say_until(&update, &changed, stop)?.ok(&what)?;
        }
        let said = git.say(&["write-tree", "--missing-ok"], &[])?;
        let tree = said.ok(&what)?.line();
        Ok(self.is_whole(&tree, head_tree)?.then_some(tree))
    }

    /// Whether the files in which a tree differs from that of a commit, which is whole, are all there.
    fn is_whole(&self, tree: &str, head_tree: Option<&str>) -> Result<bool, HostError> {
        let Some(head_tree) = head_tree else {
            return Ok(true);
        };
        let reader = self.reader(CHECKOUT_INDEX);
        let args = [
            "diff-tree",
            "-r",
            "--no-renames",
            "--raw",
            "-z",
            head_tree,
            tree,
        ];
        let said = reader.say(&args, &[])?.ok("git diff-tree")?;
        let mut wanted = String::new();
        for field in String::from_utf8_lossy(&said.out).split('\0') {
            // `:100644 100644 OLD NEW M`; a submodule, mode 160000, is no object of it.
            let mut words = field.split(' ').skip(1);
            if let (Some(mode), Some(_), Some(new)) = (words.next(), words.next(), words.next()) {
                if field.starts_with(':') && mode != "160000" && !new.bytes().all(|b| b == b'0') {
                    wanted.push_str(new);
                    wanted.push('\n');
                }
            }
        }
        let check = ["cat-file", "--batch-check"];
        let said = reader.say(&check, wanted.as_bytes())?.ok("git cat-file")?;
        Ok(!String::from_utf8_lossy(&said.out)
            .lines()
            .any(|line| line.ends_with(" missing")))
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
            .reader(CHECKOUT_INDEX)
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
        let index = scratch.path().join("index");
        let with = |git: Git| Git {
            index: Some(index.clone()),
            ..git
        };
        let (reader, writer) = (with(self.reader("")), with(self.git("")));
        reader.ask(&["read-tree", tree])?;
        // What the patches are put on has to be among our own objects.
        let mut list: Vec<OsString> = ["ls-files", "-z", "--stage", "--"].map(Into::into).into();
        let touched: BTreeSet<&PathBuf> = layers.iter().flat_map(|layer| &layer.files).collect();
        list.extend(touched.into_iter().map(|file| literal(file)));
        let listed = reader.say(&list, &[])?.ok("git ls-files")?;
        for entry in String::from_utf8_lossy(&listed.out).split('\0') {
            // `100644 OBJECT 0<TAB>FILE`
            if let Some(id) = entry.split(' ').nth(1) {
                let blob = reader.say(&["cat-file", "blob", id], &[])?;
                let blob = blob.ok("git cat-file")?;
                let put = ["hash-object", "-w", "--stdin", "--no-filters"];
                writer.say(&put, &blob.out)?.ok("git hash-object")?;
            }
        }
        for layer in layers {
            if let Err(rejected) = layer.apply(&writer, true)? {
                return Ok(Err(rejected));
            }
        }
        Ok(Ok(writer.ask(&["write-tree", "--missing-ok"])?))
    }

    /// A hash of some files of a tree.
    pub fn hash_of(&self, tree: &str, wanted: impl Fn(&str) -> bool) -> Result<String, HostError> {
        let list = ["ls-tree", "-r", "-z", "--full-tree", tree];
        let said = self.reader(CHECKOUT_INDEX).say(&list, &[])?;
        let mut hash = Sha256::new();
        // `100644 blob OBJECT<TAB>FILE`
        for entry in String::from_utf8_lossy(&said.ok("git ls-tree")?.out).split('\0') {
            if entry.split_once('\t').is_some_and(|(_, file)| wanted(file)) {
                hash.update(entry);
            }
        }
        Ok(files::hex(&hash.finalize()))
    }

    /// Brings the checkout to a tree. The caller holds the lock.
    pub fn check_out(&self, tree: &str, stop: &AtomicBool) -> Result<(), KernelError> {
        let mut git = self.reader(CHECKOUT_INDEX);
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

/// A path for GIT_ALTERNATE_OBJECT_DIRECTORIES, in quotes: there is a colon between two.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}

/// A file as a path for git that stands for nothing else.
fn literal(file: &Path) -> OsString {
    let mut text = OsString::from(":(top,literal)");
    text.push(file);
    text
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
