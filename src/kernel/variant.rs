// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifest of kernel variants, `guest-tests/variants/variants.toml`, that of the mutants beside it, and their patches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mutant::{self, Mutant};
use super::name::{ALL, ALL_MUTANTS, RANGE, is_variant};
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Name, as on the command line.
    pub name: String,
    /// The variant that has the same code under the name by which it is built and judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    /// How it locks, in a line; for a mutant what is wrong with it, in a sentence.
    pub mechanism: String,
    /// Where it comes from; `None` for a mutant, which nobody has proposed, and for a patch of the user's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Source versions that the patch was tried on.
    pub applies_to: Vec<String>,
    /// Sources, and fragments of the configuration, with which it does not build, and why not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, String>,
    /// Files that the patch changes, relative to the kernel's top directory.
    pub touches: Vec<PathBuf>,
    /// The patch; `None` for the source as it is.
    #[serde(skip)]
    pub patch: Option<Patch>,
    /// It is broken on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutant: Option<Mutant>,
}

/// A variant in the history of the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    /// Day of the proposal, ISO 8601.
    pub date: String,
    /// Message-ID of its mail.
    pub message_id: String,
    /// What it was made for: a commit, a tag, a day of linux-next.
    pub base: String,
    /// What is new in it, and why.
    pub change: String,
    /// Who has pci_rescan_remove_lock when.
    pub locks: Vec<String>,
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
    change: String,
    message_id: String,
    base: String,
    alias_of: Option<String>,
    // What an alias does not have.
    mechanism: Option<String>,
    #[serde(default)]
    locks: Vec<String>,
    #[serde(default)]
    applies_to: Vec<String>,
    #[serde(default)]
    unfit: BTreeMap<String, String>,
    #[serde(default)]
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
        let reserved = [ALL, ALL_MUTANTS].contains(&place.name.as_str());
        if !is_variant(&place.name) || place.name.contains(RANGE) || reserved {
            return Err(place.wrong(format!(
                "a name is letters, digits, `-`, `_` and `.`, without `{RANGE}`, and neither `{ALL}` nor `{ALL_MUTANTS}`"
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
        let mut variants: Vec<Variant> = Vec::new();
        for entry in file.variants {
            let place = Place::of(path, text, entry.name, &mut names)?;
            let mut history = History {
                date: entry.date,
                message_id: entry.message_id,
                base: entry.base,
                change: entry.change,
                locks: entry.locks,
            };
            let variant = match (entry.alias_of, entry.mechanism) {
                (None, None) => return Err(place.wrong("it says no `mechanism`")),
                (Some(_), Some(_)) => {
                    return Err(place.wrong("an alias has the mechanism of the other one"));
                }
                (Some(other), None) => {
                    let same = variants
                        .iter()
                        .find(|v| v.name == other && v.alias_of.is_none());
                    let same = same.ok_or_else(|| {
                        place.wrong(format!("alias_of: there is no variant `{other}` before it"))
                    })?;
                    if entry.patch.is_some() {
                        return Err(place.wrong("an alias has the patch of the other one"));
                    }
                    let locks = same.history.as_ref().map(|h| h.locks.clone());
                    history.locks = locks.unwrap_or_default();
                    Variant {
                        name: place.name,
                        alias_of: Some(other),
                        history: Some(history),
                        ..same.clone()
                    }
                }
                (None, Some(mechanism)) => {
                    let mut touches = entry.touches;
                    let patch = place.patch(entry.patch.as_deref(), &mut touches)?;
                    Variant {
                        alias_of: None,
                        mechanism,
                        history: Some(history),
                        applies_to: entry.applies_to,
                        unfit: entry.unfit,
                        touches,
                        patch,
                        mutant: None,
                        name: place.name,
                    }
                }
            };
            variants.push(variant);
        }
        Ok(Self { variants })
    }

    /// One more, after the others.
    pub(super) fn add(&mut self, variant: Variant) {
        self.variants.push(variant);
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

    /// The kernels that are meant by a list: `all` is every ordinary variant, `mutants` every mutant, `v5..v7` those from
    /// the first to the last in the order of the manifest; their fragments and source go to all of them. An alias is
    /// replaced by the variant that has its code. Each kernel once, where it is named first.
    pub fn expand(&self, names: &[KernelName]) -> Result<Vec<KernelName>, KernelError> {
        let mut kernels: Vec<KernelName> = Vec::new();
        for name in names {
            let meant: Vec<&Variant> = match (name.variant(), name.variant().split_once(RANGE)) {
                (ALL_MUTANTS, _) => self.mutants().map(|(v, _)| v).collect(),
                (ALL, _) => self.ordinary().collect(),
                (_, Some((first, last))) => self.range(name, first, last)?,
                (one, None) => vec![self.find(one)?],
            };
            for variant in meant {
                let kernel = name.with(variant.alias_of.as_ref().unwrap_or(&variant.name));
                if !kernels.contains(&kernel) {
                    kernels.push(kernel);
                }
            }
        }
        Ok(kernels)
    }

    fn range(
        &self,
        name: &KernelName,
        first: &str,
        last: &str,
    ) -> Result<Vec<&Variant>, KernelError> {
        let ends = (&self.find(first)?.name, &self.find(last)?.name);
        let mut meant = Vec::new();
        for variant in self.variants.iter().skip_while(|v| v.name != *ends.0) {
            meant.push(variant);
            if variant.name == *ends.1 {
                return Ok(meant);
            }
        }
        Err(KernelError::Range {
            name: name.variant().to_owned(),
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
mod page;
#[cfg(test)]
mod tests;
