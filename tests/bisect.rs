// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `git bisect run` makes of vfrace's exit codes where no guest is needed: whatever is not about the kernel ends the
//! bisection and marks no commit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output};

const VFRACE: &str = env!("CARGO_BIN_EXE_vfrace");

fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(dir);
    git.args(["-c", "user.name=n", "-c", "user.email=e@example.org"]);
    git.args(["-c", "commit.gpgsign=false"]);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("LC_ALL", "C");
    git
}

fn git_says(dir: &Path, arguments: &[&str]) -> String {
    let output = git(dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A repository of no kernel, in a bisection.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    git_says(dir.path(), &["init", "-q", "-b", "main"]);
    for at in 0..6 {
        std::fs::write(dir.path().join("file"), at.to_string()).unwrap();
        git_says(dir.path(), &["add", "file"]);
        git_says(dir.path(), &["commit", "-q", "-m", &at.to_string()]);
    }
    git_says(dir.path(), &["bisect", "start", "HEAD", "HEAD~5"]);
    dir
}

/// `git bisect run` with this command; gives what it said and what it marked beside the two ends.
fn bisect_run(dir: &Path, command: &[&str]) -> (Output, usize) {
    let cache = tempfile::tempdir().unwrap();
    let output = git(dir)
        .args(["bisect", "run"])
        .args(command)
        .env("VFRACE_CACHE", cache.path())
        .output()
        .unwrap();
    let marked = git_says(dir, &["for-each-ref", "refs/bisect/"]);
    (output, marked.lines().count() - 2)
}

/// The last line on standard output, which is vfrace's, and the code.
fn bisect(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new(VFRACE)
        .current_dir(dir)
        .arg("bisect")
        .args(arguments)
        .env("VFRACE_CACHE", cache.path())
        .env("GIT_CEILING_DIRECTORIES", "/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default().to_owned();
    (output.status.code(), last)
}

#[test]
fn a_mistake_in_the_request_marks_no_commit() {
    let dir = repository();
    for wrong in [
        &["--scenario", "no-such-scenario"][..],
        &["--scenario", "unbind-alone", "--boots", "0"],
        &["--scenario", "unbind-alone", "--wanted", "NONSENSE"],
        &["--scenario", "unbind-alone", "--error", "2"],
        &["--no-such-option"],
    ] {
        let command = [&[VFRACE, "bisect"], wrong].concat();
        let (output, marked) = bisect_run(dir.path(), &command);
        assert!(!output.status.success(), "{wrong:?}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("129"), "{wrong:?}: {told}");
        assert_eq!(marked, 0, "{wrong:?}");
    }
}

#[test]
fn trouble_on_the_host_marks_no_commit() {
    let dir = repository();
    let scenario = ["bisect", "--scenario", "unbind-alone"];
    // No git, no compiler, nothing.
    let without = [&["env", "PATH=/nonexistent", VFRACE], &scenario[..]].concat();
    // A cache that cannot be made.
    let cache = [&["env", "VFRACE_CACHE=/proc/no", VFRACE], &scenario[..]].concat();
    for command in [without, cache] {
        let (output, marked) = bisect_run(dir.path(), &command);
        assert!(!output.status.success(), "{command:?}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("128"), "{command:?}: {told}");
        assert_eq!(marked, 0, "{command:?}");
    }
}

#[test]
fn the_last_line_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (code, last) = bisect(dir.path(), &["--scenario", "unbind-alone"]);
    assert_eq!(code, Some(129), "{last}");
    assert!(
        last.starts_with("the request: ") && last.contains("git work tree"),
        "{last}"
    );
    // A rate has to be measured, and nothing says on what.
    let repository = repository();
    git_says(repository.path(), &["bisect", "reset"]);
    let error = ["--scenario", "unbind-alone", "--error", "1%"];
    let (code, last) = bisect(repository.path(), &error);
    assert_eq!(code, Some(129), "{last}");
    assert!(last.contains("not in a bisection"), "{last}");
}
