// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::collections::BTreeMap;
use std::process::Command;
use std::time::SystemTime;

use super::super::layer::files_of;
use super::*;

const MAKEFILE: &str =
    "# SPDX\nVERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 12\nEXTRAVERSION = -rc1\nNAME = x\n";

/// Everything below a directory: what kind, how big, how old, and what is in it.
type Picture = BTreeMap<PathBuf, (String, SystemTime, Vec<u8>)>;

fn picture(top: &Path) -> Picture {
    let mut found = Picture::new();
    let mut dirs = vec![top.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let kind = format!("{:?} {:?}", meta.file_type(), meta.permissions());
            found.insert(path.clone(), (kind, meta.modified().unwrap(), bytes));
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

struct Fake {
    top: tempfile::TempDir,
    events: EventSink,
    stop: AtomicBool,
}

impl Fake {
    /// A source without a repository.
    fn plain() -> Self {
        let fake = Self {
            top: tempfile::tempdir().unwrap(),
            events: EventSink::new().0,
            stop: AtomicBool::new(false),
        };
        fake.write("Makefile", MAKEFILE);
        fake.write("drivers/pci/iov.c", "one\ntwo\nthree\n");
        fake.write(".gitignore", "*.o\nignored\n");
        fake
    }

    /// A repository with one commit.
    fn repository() -> Self {
        let fake = Self::plain();
        fake.git(&["init", "-q", "-b", "main"]);
        fake.commit();
        fake
    }

    fn dir(&self) -> PathBuf {
        self.top.path().join("linux")
    }

    fn write(&self, file: &str, text: &str) {
        files::write_whole(&self.dir().join(file), text.as_bytes()).unwrap();
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git::clean(&mut git);
        let out = git
            .args(["-c", "user.name=T", "-c", "user.email=t@example.org"])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(self.dir())
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    fn commit(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn cache(&self) -> PathBuf {
        self.top.path().join("cache")
    }

    fn take_of(&self, dir: &Path, commits: &[&str]) -> Result<Snapshot, KernelError> {
        let request = TreeRequest {
            dir: dir.to_path_buf(),
            commits: commits.iter().map(|c| (*c).to_owned()).collect(),
        };
        Snapshot::take(&self.cache(), &request, &self.events, &self.stop)
    }

    fn take(&self, commits: &[&str]) -> Snapshot {
        self.take_of(&self.dir(), commits).unwrap()
    }

    /// Checks out the first state and gives what is there.
    fn files(&self, snapshot: &Snapshot) -> Vec<String> {
        snapshot
            .check_out(&snapshot.revisions[0].tree, &self.stop)
            .unwrap();
        let top = snapshot.tree();
        let mut files: Vec<String> = picture(&top)
            .into_iter()
            .filter(|(path, _)| !path.is_dir())
            .map(|(path, _)| path.strip_prefix(&top).unwrap().display().to_string())
            .collect();
        files.sort();
        files
    }
}

#[test]
fn a_clean_tree_is_its_commit_and_changes_make_it_another() {
    let fake = Fake::repository();
    let head = fake.git(&["rev-parse", "HEAD"]);
    let clean = fake.take(&[]);
    let [is] = clean.revisions.as_slice() else {
        panic!("{clean:?}")
    };
    assert_eq!(is.tag, format!("g{}", &head[..12]));
    assert_eq!(is.commit.as_deref(), Some(head.as_str()));
    assert_eq!(
        (is.version.as_str(), is.series().as_str()),
        ("7.2.12-rc1", "7.2")
    );

    fake.write("drivers/pci/iov.c", "one\n2\nthree\n");
    fake.write("new.c", "new\n");
    fake.write("x.o", "ignored by .gitignore\n");
    let dirty = fake.take(&[]);
    let changed = &dirty.revisions[0];
    assert!(changed.tag.starts_with('t') && changed.commit.is_none());
    assert_eq!(
        fake.files(&dirty),
        [".gitignore", "Makefile", "drivers/pci/iov.c", "new.c"]
    );
    let text = std::fs::read_to_string(dirty.tree().join("drivers/pci/iov.c")).unwrap();
    assert_eq!(text, "one\n2\nthree\n");
    // The same content as a commit is the same tree.
    fake.commit();
    assert_eq!(fake.take(&[]).revisions[0].tree, changed.tree);
    // And back.
    fake.git(&["reset", "-q", "--hard", &head]);
    assert_eq!(fake.take(&[]).revisions, clean.revisions);
}

#[test]
fn nothing_is_written_into_the_users_tree() {
    let fake = Fake::repository();
    fake.write("drivers/pci/iov.c", "changed\n");
    fake.write("staged.c", "staged\n");
    fake.git(&["add", "staged.c"]);
    std::fs::write(
        fake.dir().join(".git/hooks/post-index-change"),
        "#!/bin/sh\ntouch hook-ran\n",
    )
    .unwrap();
    let hook = fake.dir().join(".git/hooks/post-index-change");
    files::set_mode(&hook, 0o755).unwrap();
    // What a configuration can make git run.
    let touch = format!("touch {}", fake.top.path().join("ran").display());
    for key in [
        "core.fsmonitor",
        "filter.f.clean",
        "core.pager",
        "core.sshCommand",
    ] {
        fake.git(&["config", key, &touch]);
    }
    fake.write(".gitattributes", "*.c filter=f\n");
    let before = picture(&fake.dir());
    let snapshot = fake.take(&[]);
    fake.files(&snapshot);
    fake.take(&["HEAD"]);
    fake.write("more.c", "more\n");
    let snapshot = fake.take(&[]);
    fake.files(&snapshot);
    std::fs::remove_file(fake.dir().join("more.c")).unwrap();
    let mut after = picture(&fake.dir());
    let mut was = before;
    // Its own time moved when the test wrote into it.
    for picture in [&mut was, &mut after] {
        picture.remove(&fake.dir());
    }
    let differs: Vec<_> = was
        .iter()
        .filter(|(path, is)| after.get(*path) != Some(is))
        .collect();
    assert!(
        differs.is_empty() && was.len() == after.len(),
        "{differs:?}"
    );
    assert!(!fake.top.path().join("ran").exists());
    assert!(!fake.dir().join("hook-ran").exists());
}

#[test]
fn commits_are_taken_whatever_the_work_tree_is() {
    let fake = Fake::repository();
    let first = fake.git(&["rev-parse", "HEAD"]);
    fake.write("drivers/pci/iov.c", "second\n");
    fake.commit();
    fake.git(&["tag", "-a", "-m", "t", "tagged"]);
    fake.write("drivers/pci/iov.c", "dirty\n");
    let snapshot = fake.take(&["tagged", "HEAD~1", &first, "main"]);
    let tags: Vec<&str> = snapshot.revisions.iter().map(|r| r.tag.as_str()).collect();
    assert_eq!(tags.len(), 2, "the same commit once: {tags:?}");
    assert_eq!(
        snapshot.revisions[1].commit.as_deref(),
        Some(first.as_str())
    );
    for unknown in [
        "nothing",
        "HEAD~9",
        "",
        "--help",
        "HEAD:Makefile",
        "-x",
        "main..tagged",
    ] {
        let error = fake.take_of(&fake.dir(), &[unknown]).unwrap_err();
        assert!(
            matches!(&error, KernelError::NoCommit { commit, .. } if commit == unknown),
            "{unknown}: {error}"
        );
    }
}

#[test]
fn a_switch_writes_only_what_differs() {
    let fake = Fake::repository();
    let first = fake.take(&[]);
    fake.files(&first);
    let time = |snapshot: &Snapshot, file: &str| {
        snapshot
            .tree()
            .join(file)
            .metadata()
            .unwrap()
            .modified()
            .unwrap()
    };
    let old = (time(&first, "Makefile"), time(&first, "drivers/pci/iov.c"));
    std::thread::sleep(std::time::Duration::from_millis(20));
    fake.write("drivers/pci/iov.c", "other\n");
    let second = fake.take(&[]);
    fake.files(&second);
    assert_eq!(time(&second, "Makefile"), old.0);
    assert!(time(&second, "drivers/pci/iov.c") > old.1);
}

#[test]
fn what_was_killed_is_mended() {
    let fake = Fake::repository();
    let first = fake.take(&[]);
    fake.files(&first);
    let git = first.room.join("git");
    // In the middle of a check-out: a part is written, the index is not, the locks are there.
    files::write_whole(&first.room.join(UNDER_WAY), b"x").unwrap();
    for lock in ["user.index.lock", "checkout.index.lock"] {
        std::fs::write(git.join(lock), "half").unwrap();
    }
    std::fs::write(first.tree().join("drivers/pci/iov.c"), "of another").unwrap();
    std::fs::write(first.tree().join("of-another.c"), "x").unwrap();
    std::fs::remove_file(first.tree().join("Makefile")).unwrap();
    let again = fake.take(&[]);
    assert_eq!(
        fake.files(&again),
        [".gitignore", "Makefile", "drivers/pci/iov.c"]
    );
    let text = std::fs::read_to_string(again.tree().join("drivers/pci/iov.c")).unwrap();
    assert_eq!(text, "one\ntwo\nthree\n");
    assert!(!first.room.join(UNDER_WAY).exists());
    // An index that is none, and a repository that is half there.
    std::fs::write(git.join(USER_INDEX), "DIRC garbage").unwrap();
    std::fs::remove_file(git.join("HEAD")).unwrap();
    assert_eq!(fake.take(&[]).revisions, first.revisions);
    std::fs::remove_dir_all(&git).unwrap();
    assert_eq!(fake.take(&[]).revisions, first.revisions);
    assert_eq!(fake.files(&again).len(), 3);
}

#[test]
fn an_index_in_parts_or_with_dropped_objects_does_not_matter() {
    let fake = Fake::repository();
    let clean = fake.take(&[]).revisions;
    // Known to the private index only by the user's object, which is then dropped.
    fake.write("staged.c", "staged\n");
    fake.git(&["add", "staged.c"]);
    let staged = fake.take(&[]).revisions;
    assert_ne!(clean, staged);
    fake.git(&["reset", "-q"]);
    fake.git(&["prune", "--expire=now"]);
    let again = fake.take(&[]);
    assert_eq!(again.revisions, staged);
    assert!(fake.files(&again).contains(&"staged.c".to_owned()));
    // A split index names a file beside it.
    let fake = Fake::repository();
    fake.git(&["update-index", "--split-index"]);
    fake.write("b.c", "b\n");
    fake.git(&["add", "b.c"]);
    assert!(fake.files(&fake.take(&[])).contains(&"b.c".to_owned()));
}

#[test]
fn a_file_that_was_changed_right_after_git_looked_is_seen() {
    for _ in 0..20 {
        let fake = Fake::repository();
        // The same size, within the resolution of a time: only the copied index' time tells.
        fake.write("drivers/pci/iov.c", "ONE\nTWO\nTHREE\n");
        let snapshot = fake.take(&[]);
        assert!(snapshot.revisions[0].commit.is_none());
    }
}

#[test]
fn a_file_that_is_ignored_and_tracked_belongs_to_the_tree() {
    let fake = Fake::plain();
    // As in Debian's sources: everything is.
    fake.write(".gitignore", "/*\n");
    fake.git(&["init", "-q", "-b", "main"]);
    let force = |message: &str| {
        fake.git(&["add", "--force", "--all"]);
        fake.git(&["commit", "-q", "-m", message]);
        fake.git(&["rev-parse", "HEAD^{tree}"])
    };
    let first = force("first");
    assert_eq!(fake.take(&[]).revisions[0].tree, first);
    // Our index is from before.
    fake.write("drivers/pnp/core.c", "new\n");
    let second = force("second");
    let snapshot = fake.take(&[]);
    assert_eq!(snapshot.revisions[0].tree, second);
    assert!(snapshot.revisions[0].commit.is_some());
    fake.git(&["checkout", "-q", "HEAD~1"]);
    assert_eq!(fake.take(&[]).revisions[0].tree, first);
    // One that is not tracked stays out.
    fake.write("drivers/pnp/other.c", "new\n");
    assert_eq!(fake.take(&[]).revisions[0].tree, first);
}

#[test]
fn a_source_without_a_repository() {
    let fake = Fake::plain();
    // As in Debian's sources.
    fake.write(".gitignore", "/*\n");
    fake.write("drivers/pci/iov.o", "object\n");
    fake.write(".config", "CONFIG_X=y\n");
    fake.write("include/config/auto.conf", "x\n");
    fake.write("vmlinux", "x\n");
    fake.write("arch/x86/boot/compressed/vmlinux.bin.gz", "x\n");
    // Sources, whatever they are called.
    fake.write("arch/x86/kernel/vmlinux.lds.S", "x\n");
    fake.write("arch/sh/boot/compressed/vmlinux.scr", "x\n");
    fake.write("tools/perf/util/bpf_skel/vmlinux/vmlinux.h", "x\n");
    std::fs::create_dir_all(fake.dir().join("nested")).unwrap();
    let mut git = Command::new("git");
    git::clean(&mut git);
    let status = git
        .args(["init", "-q"])
        .current_dir(fake.dir().join("nested"))
        .status();
    assert!(status.unwrap().success());
    let before = picture(&fake.dir());
    let snapshot = fake.take(&[]);
    assert_eq!(
        fake.files(&snapshot),
        [
            ".gitignore",
            "Makefile",
            "arch/sh/boot/compressed/vmlinux.scr",
            "arch/x86/kernel/vmlinux.lds.S",
            "drivers/pci/iov.c",
            "tools/perf/util/bpf_skel/vmlinux/vmlinux.h"
        ]
    );
    assert_eq!(before, picture(&fake.dir()));
    assert!(snapshot.revisions[0].tag.starts_with('t'));
    std::fs::remove_file(fake.dir().join("drivers/pci/iov.c")).unwrap();
    let without = fake.take(&[]);
    assert!(
        !fake
            .files(&without)
            .contains(&"drivers/pci/iov.c".to_owned())
    );
    let error = fake.take_of(&fake.dir(), &["HEAD"]).unwrap_err();
    assert!(error.to_string().contains("has no commits"), "{error}");
}

#[test]
fn a_source_inside_another_repository_is_itself() {
    let fake = Fake::repository();
    let inner = fake.dir().join("ignored");
    files::write_whole(&inner.join("Makefile"), MAKEFILE.as_bytes()).unwrap();
    files::write_whole(&inner.join("a.c"), b"a\n").unwrap();
    let snapshot = fake.take_of(&inner, &[]).unwrap();
    assert_eq!(fake.files(&snapshot), ["Makefile", "a.c"]);
    let around = TreeRequest::around(&inner).unwrap().unwrap();
    assert_eq!(
        around.canonicalize().unwrap(),
        fake.dir().canonicalize().unwrap()
    );
    assert_eq!(TreeRequest::around(fake.top.path()).unwrap(), None);
}

#[test]
fn a_bare_repository_and_a_linked_work_tree() {
    let fake = Fake::repository();
    let bare = fake.top.path().join("bare.git");
    fake.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    let error = fake.take_of(&bare, &[]).unwrap_err();
    assert!(error.to_string().contains("bare"), "{error}");
    let snapshot = fake.take_of(&bare, &["main"]).unwrap();
    assert_eq!(fake.files(&snapshot).len(), 3);
    let linked = fake.top.path().join("linked");
    fake.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "HEAD"]);
    std::fs::write(linked.join("b.c"), "b\n").unwrap();
    let snapshot = fake.take_of(&linked, &[]).unwrap();
    assert!(fake.files(&snapshot).contains(&"b.c".to_owned()));
    assert!(snapshot.revisions[0].commit.is_none());
}

#[test]
fn what_is_no_kernel_tree() {
    let fake = Fake::plain();
    let refused = |dir: &Path, words: &str| {
        let error = fake.take_of(dir, &[]).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.exit(), crate::exit::ExitCode::Usage);
        assert!(error.hint().is_some());
    };
    refused(&fake.top.path().join("nowhere"), "does not exist");
    refused(&fake.dir().join("Makefile"), "no directory");
    refused(&fake.dir().join("drivers"), "no Makefile");
    for makefile in [
        "all:\n",
        "VERSION = x\nPATCHLEVEL = 1\n",
        "VERSION = 7\n",
        "\u{0}\u{1}",
    ] {
        fake.write("Makefile", makefile);
        refused(&fake.dir(), "no VERSION and PATCHLEVEL");
    }
    fake.write("Makefile", MAKEFILE);
    std::fs::write(fake.dir().join(".git"), "gitdir: /nowhere\n").unwrap();
    let error = fake.take_of(&fake.dir(), &[]).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[test]
fn odd_names_and_kinds_of_files() {
    let fake = Fake::repository();
    fake.write("with space and \"quote\".c", "x\n");
    fake.write("new\nline.c", "x\n");
    std::os::unix::fs::symlink("Makefile", fake.dir().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", fake.dir().join("out")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(fake.dir().join("fifo"))
            .status()
            .unwrap()
            .success()
    );
    let snapshot = fake.take(&[]);
    let files = fake.files(&snapshot);
    assert!(files.contains(&"new\nline.c".to_owned()), "{files:?}");
    assert!(!files.contains(&"fifo".to_owned()), "{files:?}");
    assert!(std::fs::read_link(snapshot.tree().join("out")).is_ok());
}

#[test]
fn patches_on_a_tree() {
    let fake = Fake::repository();
    let snapshot = fake.take(&[]);
    let layer = |label: &str, text: &str| Layer {
        label: label.to_owned(),
        bytes: text.into(),
        strip: 1,
        loose: false,
        files: files_of(text.as_bytes(), 1).unwrap(),
    };
    let first = layer(
        "1/2",
        "--- a/drivers/pci/iov.c\n+++ b/drivers/pci/iov.c\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n",
    );
    let second = layer("2/2", "--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+new\n");
    let tree = &snapshot.revisions[0].tree;
    let both = snapshot
        .patched(tree, &[first.clone(), second.clone()])
        .unwrap()
        .unwrap();
    snapshot.check_out(&both, &fake.stop).unwrap();
    assert!(snapshot.tree().join("new.c").exists());
    snapshot.check_out(tree, &fake.stop).unwrap();
    assert!(!snapshot.tree().join("new.c").exists());
    let rejected = snapshot
        .patched(&both, &[second, first])
        .unwrap()
        .unwrap_err();
    assert_eq!(rejected.label, "2/2");
    assert!(rejected.output.contains("already exists"), "{rejected:?}");
}

#[test]
fn versions_of_makefiles() {
    let of = |text: &str| version(text);
    assert_eq!(
        of("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 0\nEXTRAVERSION =\n").unwrap(),
        "6.12.0"
    );
    assert_eq!(of("VERSION=7\nPATCHLEVEL=3\n").unwrap(), "7.3.0");
    assert_eq!(
        of("VERSION = 7\nPATCHLEVEL = 3\nEXTRAVERSION = $(shell rm -rf /)\n").unwrap(),
        "7.3.0"
    );
    assert_eq!(of("VERSION = 99999\nPATCHLEVEL = 3\n"), None);
}

#[test]
fn paths_in_alternates() {
    assert_eq!(quoted(Path::new("/a b:c")), "\"/a b:c\"");
    assert_eq!(quoted(Path::new("/a\"b\\")), "\"/a\\\"b\\\\\"");
}
