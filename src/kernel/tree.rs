// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel source tree that is switched between variants.
//!
//! Before a file is changed for the first time, its original goes to a directory beside the tree. A switch computes
//! what every file ever changed should hold (its original, or that with the patch applied, in a scratch directory) and
//! writes those that differ, so that make compiles nothing else. Nothing is remembered about the tree's state: a
//! switch that was killed is made good by the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::git::{self, Git};
use super::layer::{Layer, Rejected};
use crate::host::{HostError, files};

/// Files and what is in them; `None` for one that does not exist.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// The tree and the originals. The caller holds the source's lock.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Kernel's top directory.
    pub source: &'a Path,
    /// Where originals are kept: `file/PATH`, or `absent/PATH` for a file that the source does not have.
    pub originals: &'a Path,
}

impl Tree<'_> {
    /// Brings the tree to these patches, one on the other (none: as it came). Returns the files that it wrote or removed;
    /// the inner error is the first patch that does not fit, with which nothing was changed.
    pub fn switch(&self, layers: &[Layer]) -> Result<Result<Vec<PathBuf>, Rejected>, HostError> {
        let mut wanted = self.originals()?;
        let mut before = Contents::new();
        for file in layers.iter().flat_map(|layer| &layer.files) {
            let original = match wanted.get(file) {
                Some(original) => original.clone(),
                None => files::read_if_there(&self.source.join(file))?,
            };
            self.keep(file, original.as_deref())?;
            before.insert(file.clone(), original);
        }
        if !layers.is_empty() {
            match patched(layers, &before)? {
                Ok(after) => wanted.extend(after),
                Err(rejected) => return Ok(Err(rejected)),
            }
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
        Ok(Ok(written))
    }

    /// What is kept so far.
    fn originals(&self) -> Result<Contents, HostError> {
        let mut found = Contents::new();
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
}

/// Applies the patches to copies of the originals.
fn patched(layers: &[Layer], before: &Contents) -> Result<Result<Contents, Rejected>, HostError> {
    git::require()?;
    let scratch = tempfile::tempdir().map_err(files::failed("create", &std::env::temp_dir()))?;
    let dir = scratch.path().join("tree");
    files::make_dir(&dir)?;
    for (file, content) in before {
        if let Some(bytes) = content {
            files::write_whole(&dir.join(file), bytes)?;
        }
    }
    let mut git = Git::at(&dir);
    git.ceiling = Some(scratch.path().to_path_buf());
    for layer in layers {
        if let Err(rejected) = layer.apply(&git, false)? {
            return Ok(Err(rejected));
        }
    }
    let mut after = Contents::new();
    for file in before.keys() {
        after.insert(file.clone(), files::read_if_there(&dir.join(file))?);
    }
    Ok(Ok(after))
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

    use super::super::layer::files_of;
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

        fn switch(&self, layers: &[&Layer]) -> Result<Vec<PathBuf>, Rejected> {
            let (source, originals) = (self.src(), self.dir.path().join("originals"));
            let layers: Vec<Layer> = layers.iter().map(|layer| (*layer).clone()).collect();
            Tree {
                source: &source,
                originals: &originals,
            }
            .switch(&layers)
            .unwrap()
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

    fn layer(label: &str, text: &str) -> Layer {
        Layer {
            label: label.to_owned(),
            bytes: text.into(),
            strip: 1,
            loose: false,
            files: files_of(text.as_bytes(), 1).unwrap(),
        }
    }

    const A: &str = "--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n--- /dev/null\n+++ b/new.c\n@@ -0,0 +1 @@\n+new\n";
    const B: &str = "--- a/sub/b.h\n+++ b/sub/b.h\n@@ -1 +1 @@\n-x\n+y\n";

    #[test]
    fn a_switch_restores_what_the_previous_variant_changed() {
        let fake = Fake::new();
        let (a, b) = (layer("a.patch", A), layer("b.patch", B));
        assert_eq!(
            fake.switch(&[&a]).unwrap(),
            [PathBuf::from("a.c"), PathBuf::from("new.c")]
        );
        assert_eq!(
            (fake.text("a.c").as_str(), fake.text("new.c").as_str()),
            ("one\nTWO\nthree\n", "new\n")
        );
        fake.switch(&[&b]).unwrap();
        assert_eq!(
            (fake.text("a.c").as_str(), fake.text("sub/b.h").as_str()),
            ("one\ntwo\nthree\n", "y\n")
        );
        assert!(!fake.src().join("new.c").exists());
        assert_eq!(fake.switch(&[]).unwrap(), [PathBuf::from("sub/b.h")]);
        assert_eq!(fake.text("sub/b.h"), "x\n");
    }

    #[test]
    fn what_does_not_change_keeps_its_time() {
        let fake = Fake::new();
        let a = layer("a.patch", A);
        let untouched = fake.time("c.c");
        let before = fake.time("a.c");
        fake.switch(&[&a]).unwrap();
        let patched = fake.time("a.c");
        assert!(patched > before);
        assert!(fake.switch(&[&a]).unwrap().is_empty());
        assert_eq!((fake.time("a.c"), fake.time("c.c")), (patched, untouched));
    }

    #[test]
    fn a_half_done_switch_is_made_good() {
        let fake = Fake::new();
        let a = layer("a.patch", A);
        fake.switch(&[&a]).unwrap();
        std::fs::remove_file(fake.src().join("new.c")).unwrap();
        std::fs::write(fake.src().join("a.c"), "one\n").unwrap();
        fake.switch(&[]).unwrap();
        assert_eq!(fake.text("a.c"), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_patch_that_does_not_fit_leaves_the_tree_alone() {
        let fake = Fake::new();
        let bad = layer("bad.patch", &A.replace("-two", "-zwei"));
        let rejected = fake.switch(&[&bad]).unwrap_err();
        assert_eq!(rejected.label, "bad.patch");
        let text = rejected.output;
        assert!(
            text.contains("patch failed: a.c:1") && text.contains("-zwei"),
            "{text}"
        );
        assert_eq!(fake.text("a.c"), "one\ntwo\nthree\n");
        assert!(!fake.src().join("new.c").exists());
    }

    #[test]
    fn patches_lie_on_each_other() {
        let fake = Fake::new();
        let first = layer("1", A);
        let second = layer(
            "2",
            "--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n one\n-TWO\n+2\n three\n",
        );
        let third = layer(
            "3",
            "diff --git a/new.c b/newer.c\nsimilarity index 100%\nrename from new.c\nrename to newer.c\n",
        );
        let rejected = fake.switch(&[&second, &first]).unwrap_err();
        assert_eq!(rejected.label, "2");
        fake.switch(&[&first, &second, &third]).unwrap();
        assert_eq!(fake.text("a.c"), "one\n2\nthree\n");
        assert_eq!(fake.text("newer.c"), "new\n");
        assert!(!fake.src().join("new.c").exists());
        fake.switch(&[]).unwrap();
        assert_eq!(fake.text("a.c"), "one\ntwo\nthree\n");
        assert!(!fake.src().join("newer.c").exists());
    }
}
