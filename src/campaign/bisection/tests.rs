// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

/// A repository with commits of one file, none of them signed, made by nobody.
struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn new(commits: usize) -> Self {
        let repository = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        repository.git(&["init", "-q", "-b", "main"]);
        for at in 0..commits {
            std::fs::write(repository.dir.path().join("file"), at.to_string()).unwrap();
            repository.git(&["add", "file"]);
            repository.git(&["commit", "-q", "-m", &format!("commit {at}")]);
        }
        repository
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.dir.path());
        git.args(["-c", "user.name=n", "-c", "user.email=e@example.org"]);
        git.args(["-c", "commit.gpgsign=false"]).args(arguments);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            git.env_remove(name);
        }
        let output = git.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn bisection(&self) -> Option<Bisection> {
        Bisection::of(self.dir.path()).unwrap()
    }
}

#[test]
fn both_ends_of_a_bisection_are_found() {
    let repository = Repository::new(5);
    assert_eq!(repository.bisection(), None);
    let (bad, good) = (
        repository.git(&["rev-parse", "HEAD"]),
        repository.git(&["rev-parse", "HEAD~4"]),
    );
    repository.git(&["bisect", "start", "HEAD", "HEAD~4"]);
    let bisection = repository.bisection().unwrap();
    assert_eq!(bisection.commit(End::New), Some(bad.as_str()));
    assert_eq!(bisection.commit(End::Old), Some(good.as_str()));
    // From a directory below as well, where `git bisect run` does not stand but a user may.
    let below = repository.dir.path().join("below");
    std::fs::create_dir(&below).unwrap();
    assert_eq!(Bisection::of(&below).unwrap(), Some(bisection));
}

#[test]
fn the_ends_can_have_other_names() {
    let repository = Repository::new(4);
    repository.git(&[
        "bisect",
        "start",
        "--term-new=fixed",
        "--term-old=broken",
        "HEAD",
        "HEAD~3",
    ]);
    let bisection = repository.bisection().unwrap();
    let head = repository.git(&["rev-parse", "main"]);
    assert_eq!(bisection.commit(End::New), Some(head.as_str()));
    assert!(bisection.commit(End::Old).is_some());
}

#[test]
fn a_rate_belongs_to_one_bisection() {
    let repository = Repository::new(6);
    repository.git(&["bisect", "start", "HEAD", "HEAD~5"]);
    let first = repository.bisection().unwrap();
    let key = first.key(End::New, &["s", "REFCOUNT"]);
    assert_eq!(key.len(), KEY_DIGITS);
    assert_ne!(key, first.key(End::New, &["s", "LEAK"]));
    assert_ne!(key, first.key(End::New, &["sREF", "COUNT"]));
    assert_ne!(key, first.key(End::Old, &["s", "REFCOUNT"]));
    // Its steps do not change it.
    repository.git(&["bisect", "bad"]);
    let later = repository.bisection().unwrap();
    assert_eq!(key, later.key(End::New, &["s", "REFCOUNT"]));
    assert_ne!(first.commit(End::New), later.commit(End::New));
    repository.git(&["bisect", "reset"]);
    assert_eq!(repository.bisection(), None);
    std::thread::sleep(std::time::Duration::from_millis(20));
    repository.git(&["bisect", "start", "HEAD", "HEAD~5"]);
    let another = repository.bisection().unwrap();
    assert_ne!(key, another.key(End::New, &["s", "REFCOUNT"]));
}

#[test]
fn a_plain_directory_is_in_no_bisection() {
    let dir = tempfile::tempdir().unwrap();
    let error = Bisection::of(dir.path()).unwrap_err();
    assert_eq!(error.exit(), ExitCode::Usage);
    assert!(error.hint().is_some());
}

#[test]
fn what_was_measured_is_kept_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "0123");
    assert_eq!(store.load().unwrap(), None);
    let measured = Measured {
        commit: "abc".to_owned(),
        kernel: "def".to_owned(),
        boots: 5,
        hits: 5,
        of: 6,
    };
    store.save(&measured).unwrap();
    assert_eq!(store.load().unwrap(), Some(measured.clone()));
    assert_eq!(measured.rate(), Rate::new(5, 6));
    std::fs::write(store.dir().join("rate.json"), "{\"commit\": \"a").unwrap();
    assert_eq!(store.load().unwrap(), None);
}
