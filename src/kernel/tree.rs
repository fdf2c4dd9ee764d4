// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel source tree that is switched between variants.
//!
//! Before a file is changed for the first time, its original goes to a directory beside the tree. A switch computes
//! what every file ever changed should hold (its original, or that with the patch applied, in a scratch directory) and
//! writes those that differ, so that make compiles nothing else. Nothing is remembered about the tree's state: a
//! switch that was killed is made good by the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::KernelError;
use super::variant::Patch;
use crate::host::{HostError, command, files, tools};

/// Rejected hunks that are shown, in lines.
const REJECT_LINES: usize = 40;

/// The tree and the originals. The caller holds the source's lock.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Kernel's top directory.
    pub source: &'a Path,
    /// Where originals are kept: `file/PATH`, or `absent/PATH` for a file that the source does not have.
    pub originals: &'a Path,
    /// Source version, for messages.
    pub version: &'a str,
}

impl Tree<'_> {
    /// Brings the tree to `patch` (`None`: as it came). Returns the files that it wrote or removed.
    pub fn switch(&self, patch: Option<&Patch>) -> Result<Vec<PathBuf>, KernelError> {
        let mut wanted: BTreeMap<PathBuf, Option<Vec<u8>>> = self.originals()?;
        if let Some(patch) = patch {
            let mut before = BTreeMap::new();
            for file in &patch.files {
                let original = match wanted.get(file) {
                    Some(original) => original.clone(),
                    None => files::read_if_there(&self.source.join(file))?,
                };
                self.keep(file, original.as_deref())?;
                before.insert(file.clone(), original);
            }
            wanted.extend(self.patched(patch, &before)?);
        }
        let mut written = Vec::new();
        for (file, content) in wanted {
            let path = self.source.join(&file);
            let changed = match content {
                Some(bytes) => files::write_if_changed(&path, &bytes)?,
                None if path.exists() => {
                    files::remove(&path)?;
                    true
                }
                None => false,
            };
            if changed {
                written.push(file);
            }
        }
        Ok(written)
    }

    /// What is kept so far.
    fn originals(&self) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>, HostError> {
        let mut found = BTreeMap::new();
        for (kind, present) in [("file", true), ("absent", false)] {
            let top = self.originals.join(kind);
            for path in files_below(&top)? {
                let Ok(relative) = path.strip_prefix(&top) else {
                    continue;
                };
                let content = if present {
                    files::read_if_there(&path)?
                } else {
                    None
                };
                found.insert(relative.to_path_buf(), content);
            }
        }
        Ok(found)
    }

    /// Keeps an original. It is written whole before the tree is touched, and never again.
    fn keep(&self, file: &Path, original: Option<&[u8]>) -> Result<(), HostError> {
        let kind = if original.is_some() { "file" } else { "absent" };
        let path = self.originals.join(kind).join(file);
        if path.exists() {
            return Ok(());
        }
        files::write_whole(&path, original.unwrap_or_default())
    }

    /// Applies the patch to copies of the originals.
    fn patched(
        &self,
        patch: &Patch,
        before: &BTreeMap<PathBuf, Option<Vec<u8>>>,
    ) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>, KernelError> {
        tools::require(&[tools::Tool {
            name: "patch",
            package: "patch",
            used_for: "kernel variants",
        }])?;
        let scratch =
            tempfile::tempdir().map_err(files::failed("create", &std::env::temp_dir()))?;
        let dir = scratch.path().join("tree");
        files::make_dir(&dir)?;
        for (file, content) in before {
            if let Some(bytes) = content {
                files::write_whole(&dir.join(file), bytes)?;
            }
        }
        let rejects = scratch.path().join("rejects");
        let run = |more: &[&str]| {
            let mut command = Command::new("patch");
            command
                .args(["-p1", "--force", "--no-backup-if-mismatch", "-i"])
                .arg(&patch.path);
            command
                .arg("-r")
                .arg(&rejects)
                .args(more)
                .current_dir(&dir)
                .env("LC_ALL", "C");
            command::output(&mut command, "patch")
        };
        let refused = |output: String| KernelError::PatchDoesNotApply {
            patch: patch
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            source_version: self.version.to_owned(),
            output,
        };
        match run(&["--dry-run"]).and_then(|_| run(&[])) {
            Ok(_) => {}
            Err(HostError::Failed { tail, .. }) => {
                // Once more for real, in the scratch directory, for the hunks that it refuses.
                let _ = run(&[]);
                let hunks = std::fs::read_to_string(&rejects).unwrap_or_default();
                let hunks: Vec<&str> = hunks.lines().take(REJECT_LINES).collect();
                return Err(refused(format!("{tail}\n{}", hunks.join("\n"))));
            }
            Err(other) => return Err(other.into()),
        }
        let mut after = BTreeMap::new();
        for file in before.keys() {
            after.insert(file.clone(), files::read_if_there(&dir.join(file))?);
        }
        Ok(after)
    }
}

/// All plain files below a directory; none if it is not there. Temporary files of a killed write are left out.
fn files_below(top: &Path) -> Result<Vec<PathBuf>, HostError> {
    let mut found = Vec::new();
    let mut dirs = vec![top.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(files::failed("read", &dir)(e)),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if !entry.file_name().to_string_lossy().starts_with(".vfrace-") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Fake {
        dir: tempfile::TempDir,
    }

    impl Fake {
        fn new() -> Self {
            let fake = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            for (file, text) in [
                ("a.c", "one\ntwo\nthree\n"),
                ("sub/b.h", "x\n"),
                ("c.c", "untouched\n"),
            ] {
                files::write_whole(&fake.src().join(file), text.as_bytes()).unwrap();
            }
            let old = SystemTime::now() - Duration::from_secs(3600);
            for file in ["a.c", "sub/b.h", "c.c"] {
                std::fs::File::open(fake.src().join(file))
                    .unwrap()
                    .set_modified(old)
                    .unwrap();
            }
            fake
        }

        fn src(&self) -> PathBuf {
            self.dir.path().join("src")
        }

        fn patch(&self, name: &str, text: &str, files: &[&str]) -> Patch {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Patch {
                path,
                bytes: text.into(),
                files: files.iter().map(PathBuf::from).collect(),
            }
        }

        fn switch(&self, patch: Option<&Patch>) -> Result<Vec<PathBuf>, KernelError> {
            let (source, originals) = (self.src(), self.dir.path().join("originals"));
            Tree {
                source: &source,
                originals: &originals,
                version: "7.2",
            }
            .switch(patch)
        }

        fn text(&self, file: &str) -> String {
            std::fs::read_to_string(self.src().join(file)).unwrap()
        }

        fn time(&self, file: &str) -> SystemTime {
            self.src()
                .join(file)
                .metadata()
                .unwrap()
                .modified()
                .unwrap()
        }
    }

    const A: &str = "--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+new\n";
    const B: &str = "--- a/sub/b.h\n+++ b/sub/b.h\n@@ -1 +1 @@\n-x\n+y\n";

    #[test]
    fn a_switch_restores_what_the_previous_variant_changed() {
        let fake = Fake::new();
        let (a, b) = (
            fake.patch("a.patch", A, &["a.c", "new.c"]),
            fake.patch("b.patch", B, &["sub/b.h"]),
        );
        assert_eq!(
            fake.switch(Some(&a)).unwrap(),
            [PathBuf::from("a.c"), PathBuf::from("new.c")]
        );
        assert_eq!(
            (fake.text("a.c").as_str(), fake.text("new.c").as_str()),
            ("one\nTWO\nthree\n", "new\n")
        );
        fake.switch(Some(&b)).unwrap();
        assert_eq!(
            (fake.text("a.c").as_str(), fake.text("sub/b.h").as_str()),
            ("one\ntwo\nthree\n", "y\n")
        );
        assert!(!fake.src().join("new.c").exists());
        assert_eq!(fake.switch(None).unwrap(), [PathBuf::from("sub/b.h")]);
        assert_eq!(fake.text("sub/b.h"), "x\n");
    }

    #[test]
    fn what_does_not_change_keeps_its_time() {
        let fake = Fake::new();
        let a = fake.patch("a.patch", A, &["a.c", "new.c"]);
        let untouched = fake.time("c.c");
        let before = fake.time("a.c");
        fake.switch(Some(&a)).unwrap();
        let patched = fake.time("a.c");
        assert!(patched > before);
        assert!(fake.switch(Some(&a)).unwrap().is_empty());
        assert_eq!((fake.time("a.c"), fake.time("c.c")), (patched, untouched));
    }

    #[test]
    fn a_half_done_switch_is_made_good() {
        let fake = Fake::new();
        let a = fake.patch("a.patch", A, &["a.c", "new.c"]);
        fake.switch(Some(&a)).unwrap();
        std::fs::remove_file(fake.src().join("new.c")).unwrap();
        std::fs::write(fake.src().join("a.c"), "one\n").unwrap();
        fake.switch(None).unwrap();
        assert_eq!(fake.text("a.c"), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_patch_that_does_not_fit_leaves_the_tree_alone() {
        let fake = Fake::new();
        let bad = fake.patch("bad.patch", &A.replace("-two", "-zwei"), &["a.c", "new.c"]);
        let error = fake.switch(Some(&bad)).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit(), crate::exit::ExitCode::CannotTell);
        assert!(
            text.contains("bad.patch does not apply to linux-source-7.2"),
            "{text}"
        );
        assert!(text.contains("FAILED") && text.contains("-zwei"), "{text}");
        assert_eq!(fake.text("a.c"), "one\ntwo\nthree\n");
        assert!(!fake.src().join("new.c").exists());
    }
}
