// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifest of kernel variants, `guest-tests/variants/variants.toml`, and their patches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::KernelError;
use super::name::is_variant;

/// The manifest, or a patch that it names, is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or not the fields that a manifest has. The text has line and column.
    #[error("{path}: {text}", path = path.display())]
    Toml {
        /// The manifest.
        path: PathBuf,
        /// What the parser says, with line, column and the line itself.
        text: String,
    },
    /// The entries do not make sense.
    #[error("{path}:{line}: variant `{variant}`: {text}", path = path.display())]
    Entry {
        /// The manifest.
        path: PathBuf,
        /// Line of the variant's name, from 1.
        line: usize,
        /// Which variant.
        variant: String,
        /// What is wrong.
        text: String,
    },
}

/// One kernel variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Name, as on the command line.
    pub name: String,
    /// Day of the proposal, ISO 8601.
    pub date: String,
    /// How it locks, in a line.
    pub mechanism: String,
    /// Message-ID of the proposal.
    pub source: String,
    /// Source versions that the patch was tried on.
    pub applies_to: Vec<String>,
    /// Files that the patch changes, relative to the kernel's top directory.
    pub touches: Vec<PathBuf>,
    /// The patch; `None` for the source as it is.
    #[serde(skip)]
    pub patch: Option<Patch>,
}

/// A unified diff against the kernel's top directory (`patch -p1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// The files that it changes, creates or removes, sorted.
    pub files: Vec<PathBuf>,
}

/// All variants, in the manifest's order.
#[derive(Clone, Debug)]
pub struct Manifest {
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "variant")]
    variants: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: toml::Spanned<String>,
    date: String,
    mechanism: String,
    source: String,
    applies_to: Vec<String>,
    touches: Vec<PathBuf>,
    patch: Option<String>,
}

impl Manifest {
    /// Reads the manifest below the data directory, and every patch.
    pub fn load(data: &Path) -> Result<Self, ManifestError> {
        let path = data.join("guest-tests/variants/variants.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let file: File = toml::from_str(text).map_err(|e| ManifestError::Toml {
            path: path.to_path_buf(),
            text: e.to_string().trim_end().to_owned(),
        })?;
        let mut names = BTreeSet::new();
        let mut variants = Vec::new();
        for entry in file.variants {
            let line = 1 + text
                .bytes()
                .take(entry.name.span().start)
                .filter(|b| *b == b'\n')
                .count();
            let name = entry.name.into_inner();
            let wrong = |text: String| ManifestError::Entry {
                path: path.to_path_buf(),
                line,
                variant: name.clone(),
                text,
            };
            if !is_variant(&name) {
                return Err(wrong(
                    "a name is letters, digits, `-`, `_` and `.`".to_owned(),
                ));
            }
            if !names.insert(name.clone()) {
                return Err(wrong("the name is there twice".to_owned()));
            }
            let patch = match entry.patch {
                None => None,
                Some(file) if file.contains('/') => {
                    return Err(wrong(format!("`{file}` is not a file beside the manifest")));
                }
                Some(file) => {
                    let path = path.with_file_name(&file);
                    let bytes = std::fs::read(&path).map_err(|source| ManifestError::Read {
                        path: path.clone(),
                        source,
                    })?;
                    let files =
                        files_of(&bytes).map_err(|text| wrong(format!("{file}: {text}")))?;
                    Some(Patch { path, bytes, files })
                }
            };
            let mut touches = entry.touches;
            touches.sort();
            let really = patch.as_ref().map(|p| p.files.clone()).unwrap_or_default();
            if touches != really {
                let list: Vec<_> = really.iter().map(|p| p.display().to_string()).collect();
                return Err(wrong(format!(
                    "`touches` differs from what the patch touches: [{}]",
                    list.join(", ")
                )));
            }
            variants.push(Variant {
                date: entry.date,
                mechanism: entry.mechanism,
                source: entry.source,
                applies_to: entry.applies_to,
                touches,
                patch,
                name,
            });
        }
        Ok(Self { variants })
    }

    /// All of them.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The one of that name.
    pub fn find(&self, name: &str) -> Result<&Variant, KernelError> {
        self.variants
            .iter()
            .find(|v| v.name == name)
            .ok_or_else(|| KernelError::UnknownVariant {
                name: name.to_owned(),
                known: self.variants.iter().map(|v| v.name.clone()).collect(),
            })
    }
}

/// The files named in a diff's headers. A header is a `---` line directly followed by a `+++` line.
fn files_of(diff: &[u8]) -> Result<Vec<PathBuf>, String> {
    let text = String::from_utf8_lossy(diff);
    let mut files = BTreeSet::new();
    let mut previous = "";
    for line in text.lines() {
        if let (Some(old), Some(new)) = (previous.strip_prefix("--- "), line.strip_prefix("+++ ")) {
            let side = |s: &str| s.split('\t').next().unwrap_or_default().trim().to_owned();
            let (old, new) = (side(old), side(new));
            let chosen = if new == "/dev/null" { old } else { new };
            let (_, file) = chosen
                .split_once('/')
                .ok_or_else(|| format!("`{chosen}` is no path for patch -p1"))?;
            let file = PathBuf::from(file);
            let plain = file
                .components()
                .all(|c| matches!(c, std::path::Component::Normal(_)));
            if !plain || file.as_os_str().is_empty() {
                return Err(format!("`{chosen}` leaves the source tree"));
            }
            files.insert(file);
        }
        previous = line;
    }
    if files.is_empty() {
        return Err("there is no diff in it".to_owned());
    }
    Ok(files.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    const ENTRY: &str = "[[variant]]\nname = \"a\"\ndate = \"d\"\nmechanism = \"m\"\nsource = \"s\"\napplies_to = []\ntouches = []\n";

    fn error(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("p.patch"),
            "--- a/x/y.c\n+++ b/x/y.c\n@@ -1 +1 @@\n-a\n+b\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("bad.patch"), "--- a/../y\n+++ b/../y\n").unwrap();
        Manifest::parse(text, &dir.path().join("variants.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_manifest_in_the_tree() {
        let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let names: Vec<_> = manifest
            .variants()
            .iter()
            .map(|v| v.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "base", "b1", "b2", "v5", "v6", "v7", "v9", "v10", "v11", "v14"
            ]
        );
        let v5 = manifest.find("v5").unwrap();
        assert!(v5.touches.contains(&PathBuf::from("include/linux/pci.h")));
        assert!(manifest.find("base").unwrap().patch.is_none());
        let unknown = manifest.find("v99").unwrap_err();
        assert_eq!(unknown.exit(), ExitCode::Usage);
        assert!(
            unknown
                .hint()
                .unwrap()
                .contains("base, b1, b2, v5, v6, v7, v9")
        );
    }

    #[test]
    fn errors_name_file_and_line() {
        let text = error("[[variant]]\nname = \"a\"\ndaet = \"d\"\n");
        assert!(
            text.contains("variants.toml") && text.contains("line 3") && text.contains("daet"),
            "{text}"
        );
        let text = error(&format!("{ENTRY}\n{ENTRY}"));
        assert!(
            text.contains("variants.toml:10: variant `a`: the name is there twice"),
            "{text}"
        );
        let text = error(&format!("{ENTRY}patch = \"p.patch\"\n"));
        assert!(text.contains("touches") && text.contains("x/y.c"), "{text}");
        let text = error(&format!("{ENTRY}patch = \"bad.patch\"\n"));
        assert!(text.contains("leaves the source tree"), "{text}");
        let text = error(&format!("{ENTRY}patch = \"../p.patch\"\n"));
        assert!(text.contains("beside the manifest"), "{text}");
        let text = error(&format!("{ENTRY}patch = \"none.patch\"\n"));
        assert!(text.starts_with("cannot read"), "{text}");
        let text = error(&ENTRY.replace("\"a\"", "\"a/b\""));
        assert!(text.contains(":2:"), "{text}");
    }

    #[test]
    fn created_and_removed_files_count() {
        let diff = b"--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
        assert_eq!(
            files_of(diff).unwrap(),
            [PathBuf::from("new"), PathBuf::from("old")]
        );
    }
}
