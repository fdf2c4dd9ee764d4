// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifest of kernel variants, `guest-tests/variants/variants.toml`, that of the mutants beside it, and their patches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mutant::{self, Mutant};
use super::name::{ALL_MUTANTS, is_variant};
use super::{KernelError, KernelName};

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
    /// Day of the proposal, ISO 8601; empty for a mutant.
    pub date: String,
    /// How it locks, in a line; for a mutant what is wrong with it, in a sentence.
    pub mechanism: String,
    /// Message-ID of the proposal; empty for a mutant, which nobody has proposed.
    pub source: String,
    /// Source versions that the patch was tried on.
    pub applies_to: Vec<String>,
    /// Files that the patch changes, relative to the kernel's top directory.
    pub touches: Vec<PathBuf>,
    /// The patch; `None` for the source as it is.
    #[serde(skip)]
    pub patch: Option<Patch>,
    /// It is broken on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutant: Option<Mutant>,
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

/// All variants, in the order of the manifests, mutants last.
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

/// Where an entry of a manifest is, to say what is wrong with it.
pub(super) struct Place<'a> {
    manifest: &'a Path,
    line: usize,
    pub(super) name: String,
}

impl<'a> Place<'a> {
    /// The entry of this name in `text`, the manifest in the file. A name must be one, and be there once.
    pub(super) fn of(
        manifest: &'a Path,
        text: &str,
        name: toml::Spanned<String>,
        names: &mut BTreeSet<String>,
    ) -> Result<Self, ManifestError> {
        let before = text.bytes().take(name.span().start);
        let place = Place {
            manifest,
            line: 1 + before.filter(|b| *b == b'\n').count(),
            name: name.into_inner(),
        };
        if !is_variant(&place.name) || place.name == ALL_MUTANTS {
            return Err(place.wrong(format!(
                "a name is letters, digits, `-`, `_` and `.`, and not `{ALL_MUTANTS}`"
            )));
        }
        if !names.insert(place.name.clone()) {
            return Err(place.wrong("the name is there twice"));
        }
        Ok(place)
    }

    pub(super) fn wrong(&self, text: impl Into<String>) -> ManifestError {
        ManifestError::Entry {
            path: self.manifest.to_path_buf(),
            line: self.line,
            variant: self.name.clone(),
            text: text.into(),
        }
    }

    /// The patch in `file` beside the manifest, which must touch just these files.
    pub(super) fn patch(
        &self,
        file: Option<&str>,
        touches: &mut [PathBuf],
    ) -> Result<Option<Patch>, ManifestError> {
        let patch = match file {
            None => None,
            Some(file) if file.contains('/') => {
                return Err(self.wrong(format!("`{file}` is not a file beside the manifest")));
            }
            Some(file) => {
                let path = self.manifest.with_file_name(file);
                let bytes = std::fs::read(&path).map_err(|source| ManifestError::Read {
                    path: path.clone(),
                    source,
                })?;
                let files =
                    files_of(&bytes).map_err(|text| self.wrong(format!("{file}: {text}")))?;
                Some(Patch { path, bytes, files })
            }
        };
        touches.sort();
        let really: &[PathBuf] = patch.as_ref().map_or(&[], |p| &p.files);
        if touches != really {
            let list: Vec<_> = really.iter().map(|p| p.display().to_string()).collect();
            return Err(self.wrong(format!(
                "`touches` differs from what the patch touches: [{}]",
                list.join(", ")
            )));
        }
        Ok(patch)
    }
}

fn read(path: &Path) -> Result<String, ManifestError> {
    std::fs::read_to_string(path).map_err(|source| ManifestError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// A manifest in TOML.
pub(super) fn toml<T: serde::de::DeserializeOwned>(
    text: &str,
    path: &Path,
) -> Result<T, ManifestError> {
    toml::from_str(text).map_err(|e| ManifestError::Toml {
        path: path.to_path_buf(),
        text: e.to_string().trim_end().to_owned(),
    })
}

impl Manifest {
    /// Reads the manifests below the data directory, and every patch.
    pub fn load(data: &Path) -> Result<Self, ManifestError> {
        let path = data.join("guest-tests/variants/variants.toml");
        let mut manifest = Self::parse(&read(&path)?, &path)?;
        let path = data.join("guest-tests/variants/mutants/mutants.toml");
        let mutants = mutant::parse(&read(&path)?, &path, &manifest.variants)?;
        manifest.variants.extend(mutants);
        Ok(manifest)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let file: File = toml(text, path)?;
        let mut names = BTreeSet::new();
        let mut variants = Vec::new();
        for entry in file.variants {
            let place = Place::of(path, text, entry.name, &mut names)?;
            let mut touches = entry.touches;
            let patch = place.patch(entry.patch.as_deref(), &mut touches)?;
            variants.push(Variant {
                date: entry.date,
                mechanism: entry.mechanism,
                source: entry.source,
                applies_to: entry.applies_to,
                touches,
                patch,
                mutant: None,
                name: place.name,
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
                known: self.ordinary().map(|v| v.name.clone()).collect(),
            })
    }

    /// Those that are not broken on purpose.
    pub fn ordinary(&self) -> impl Iterator<Item = &Variant> {
        self.variants.iter().filter(|v| v.mutant.is_none())
    }

    /// Those that are, with what is known of them.
    pub fn mutants(&self) -> impl Iterator<Item = (&Variant, &Mutant)> {
        self.variants
            .iter()
            .filter_map(|v| Some((v, v.mutant.as_ref()?)))
    }

    /// The names with all mutants in the place of `mutants`, on its source. Each kernel once, where it is named first.
    pub fn expand(&self, names: &[KernelName]) -> Vec<KernelName> {
        let mut kernels: Vec<KernelName> = Vec::new();
        for name in names {
            let meant = match name.variant() {
                ALL_MUTANTS => self.mutants().map(|(v, _)| name.with(&v.name)).collect(),
                _ => vec![name.clone()],
            };
            for kernel in meant {
                if !kernels.contains(&kernel) {
                    kernels.push(kernel);
                }
            }
        }
        kernels
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
        let names: Vec<_> = manifest.ordinary().map(|v| v.name.as_str()).collect();
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
    fn mutants_stand_for_all_of_them() {
        let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let names = |text: &[&str]| -> Vec<KernelName> {
            text.iter().map(|name| name.parse().unwrap()).collect()
        };
        let all = manifest.expand(&names(&["v7", "mutants", "base", "v7"]));
        assert_eq!(all.len(), manifest.mutants().count() + 2);
        assert!(all.len() > 14);
        assert_eq!(all.first().map(KernelName::variant), Some("v7"));
        assert_eq!(all.last().map(KernelName::variant), Some("base"));
        let on = manifest.expand(&names(&["mutants@7.3"]));
        assert!(on.iter().all(|name| name.source() == "7.3"), "{on:?}");
        assert_eq!(manifest.expand(&names(&["m-x"])), names(&["m-x"]));
        assert!(manifest.find("mutants").is_err());
        assert!(manifest.find("m-plain-lock").unwrap().mutant.is_some());
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
        for name in ["a/b", "mutants"] {
            let text = error(&ENTRY.replace("\"a\"", &format!("\"{name}\"")));
            assert!(text.contains(":2:") && text.contains("a name is"), "{text}");
        }
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
