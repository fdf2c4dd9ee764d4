// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which functions a kernel has, and why one is not to be had: two tables beside the kernel in the cache.
//!
//! `functions` has the names that ftrace can redirect, one a line, sorted; ` *N` after a name says that N functions
//! have it. `functions.others` says what is known of other names: NAME, a kind and its value, with tabs between.
//!
//! Compared with a guest's available_filter_functions (Linux 7.2): every name of that file is in the table. The table
//! has the second names of functions as well (`compat_sys_x`, `__x64_sys_getpid`), and counts for N also functions of
//! the name that ftrace cannot redirect, because a look-up by name may find those.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::definitions::{self, DIRECTORIES};
use super::image::{self, Image};
use super::{BuiltKernel, KernelError};
use crate::host::{HostError, files};

/// The table of what can be redirected.
const TRACEABLE: &str = "functions";
/// The table of everything else.
const OTHERS: &str = "functions.others";
/// A name is no longer in a kernel (include/linux/kallsyms.h, KSYM_NAME_LEN).
const NAME: usize = 512;

/// What a kernel makes of a function's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "why")]
pub enum Presence {
    /// One function has the name, and ftrace can redirect it.
    Ftraceable,
    /// That many functions have the name: it does not say which is meant.
    Ambiguous(u32),
    /// It is there, and ftrace cannot redirect it.
    NotFtraceable(Untraceable),
    /// No function has the name.
    Absent(Absence),
}

/// Why ftrace cannot redirect a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Untraceable {
    /// Its memory is given back after boot.
    Init,
    /// Compiled without a call of ftrace: marked `notrace` or `noinstr`, written in assembler, or in such a file.
    NoTrace,
}

/// Why a kernel has no function of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absence {
    /// The compiler made this one of it, with other arguments.
    Cloned(String),
    /// The file is compiled; the compiler inlined the function, or the configuration leaves it out.
    InlinedOrOff(String),
    /// It is defined in this header, and inlined where it is used.
    Header(String),
    /// This configuration does not build the file.
    NotBuilt(String),
    /// The source does not have it, as far as it was looked at.
    Unknown,
}

/// Presence as people say it: "yes", or why not.
impl fmt::Display for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Presence::Ftraceable => f.write_str("yes"),
            Presence::Ambiguous(count) => write!(f, "{count} functions have this name"),
            Presence::NotFtraceable(Untraceable::Init) => {
                f.write_str("its memory is given back after boot")
            }
            Presence::NotFtraceable(Untraceable::NoTrace) => {
                f.write_str("compiled without a call of ftrace (notrace)")
            }
            Presence::Absent(absence) => absence.fmt(f),
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absence::Cloned(name) => {
                write!(f, "inlined or cloned by the compiler ({name} is there)")
            }
            Absence::InlinedOrOff(file) => write!(
                f,
                "{file} is built, but the compiler inlined it or the configuration leaves it out"
            ),
            Absence::Header(file) => write!(f, "an inline function or macro of {file}"),
            Absence::NotBuilt(file) => write!(f, "{file} is not built in this configuration"),
            Absence::Unknown => write!(
                f,
                "no such function in this kernel, and none in its source under {}",
                DIRECTORIES.join(", ")
            ),
        }
    }
}

/// A table in the cache is not as it was written. Building the kernel again, after its directory was removed, mends it.
#[derive(Debug, thiserror::Error)]
#[error("{path}:{line}: {text}", path = path.display())]
pub struct TableError {
    /// The table.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub text: &'static str,
}

/// The functions of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    traceable: BTreeMap<String, u32>,
    others: BTreeMap<String, Presence>,
    clones: BTreeMap<String, BTreeSet<String>>,
}

impl Functions {
    /// Reads the tables of a kernel that was built. An error says which file and line is broken.
    pub fn load(kernel: &BuiltKernel) -> Result<Self, KernelError> {
        Self::read(&kernel.functions)
    }

    fn read(path: &Path) -> Result<Self, KernelError> {
        let text = |path: &Path| {
            std::fs::read(path)
                .map(|b| String::from_utf8_lossy(&b).into_owned())
                .map_err(files::failed("read", path))
        };
        let others = path.with_file_name(OTHERS);
        let mut table = Self::default();
        let wrong = |path: &Path| {
            let path = path.to_path_buf();
            |(line, text)| TableError { path, line, text }
        };
        table.traceable(&text(path)?).map_err(wrong(path))?;
        table.others(&text(&others)?).map_err(wrong(&others))?;
        Ok(table)
    }

    /// What the kernel makes of `name`.
    pub fn has(&self, name: &str) -> Presence {
        match (self.traceable.get(name), self.others.get(name)) {
            (Some(1), _) => Presence::Ftraceable,
            (Some(count), _) => Presence::Ambiguous(*count),
            (None, Some(other)) => other.clone(),
            (None, None) => Presence::Absent(Absence::Unknown),
        }
    }

    /// Copies of a function that the compiler made for some of its callers: a point at `name` does not see those calls.
    pub fn clones(&self, name: &str) -> impl Iterator<Item = &str> {
        self.clones
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// The names that ftrace can redirect, sorted, with the number of functions of the name.
    pub fn all(&self) -> impl Iterator<Item = (&str, u32)> {
        self.traceable
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
    }

    fn traceable(&mut self, text: &str) -> Result<(), (usize, &'static str)> {
        for (line, entry) in text.lines().enumerate() {
            let (name, count) = match entry.split_once(" *") {
                None => (entry, 1),
                Some((name, count)) => match count.parse() {
                    Ok(count) if count > 1 => (name, count),
                    _ => return Err((line + 1, "no number of functions after ` *`")),
                },
            };
            if !is_name(name) {
                return Err((line + 1, "not the name of a function"));
            }
            self.traceable.insert(name.to_owned(), count);
        }
        if self.traceable.is_empty() {
            return Err((1, "no function at all"));
        }
        Ok(())
    }

    fn others(&mut self, text: &str) -> Result<(), (usize, &'static str)> {
        for (line, entry) in text.lines().enumerate() {
            let mut fields = entry.split('\t');
            let (Some(name), Some(kind), Some(value), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err((line + 1, "not three fields with tabs between"));
            };
            if !is_name(name) {
                return Err((line + 1, "not the name of a function"));
            }
            let value = value.to_owned();
            let presence = match kind {
                "init" => Presence::NotFtraceable(Untraceable::Init),
                "notrace" => Presence::NotFtraceable(Untraceable::NoTrace),
                "copy" => {
                    self.clones
                        .entry(name.to_owned())
                        .or_default()
                        .insert(value);
                    continue;
                }
                "cloned" => Presence::Absent(Absence::Cloned(value)),
                "compiled" => Presence::Absent(Absence::InlinedOrOff(value)),
                "header" => Presence::Absent(Absence::Header(value)),
                "unbuilt" => Presence::Absent(Absence::NotBuilt(value)),
                _ => return Err((line + 1, "a kind that does not exist")),
            };
            self.others.insert(name.to_owned(), presence);
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.$".contains(&b))
}

/// Where the table of what can be redirected is, in a kernel's directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(TRACEABLE)
}

/// Writes the tables of the kernel that is in the object tree into `dir`.
pub(super) fn write(source: &Path, objects: &Path, dir: &Path) -> Result<(), KernelError> {
    let vmlinux = objects.join("vmlinux");
    let bytes = std::fs::read(&vmlinux).map_err(files::failed("read", &vmlinux))?;
    let image = image::read(&bytes).map_err(|source| KernelError::Image {
        path: vmlinux.clone(),
        source,
    })?;
    let (traceable, others) = tables(&image, &definitions::scan(source, objects));
    let put = |file: PathBuf, text: String| -> Result<(), HostError> {
        files::write_whole(&file, text.as_bytes())
    };
    put(path(dir), traceable)?;
    put(dir.join(OTHERS), others)?;
    Ok(())
}

/// Writes the tables of a kernel whose vmlinux is not there, from its System.map: what ftrace can redirect of it is not
/// known, a guest finds out.
pub(super) fn write_from_map(map: &Path, dir: &Path) -> Result<(), KernelError> {
    let text = std::fs::read(map).map_err(files::failed("read", map))?;
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    let text = String::from_utf8_lossy(&text);
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some("t" | "T"), Some(name)) = (words.next(), words.next()) {
            let count = count.entry(name).or_default();
            *count = count.saturating_add(1);
        }
    }
    let mut table = String::new();
    for (name, count) in count.iter().filter(|(name, _)| is_name(name)) {
        // Writing to a string does not fail.
        let _ = match count {
            1 => writeln!(table, "{name}"),
            more => writeln!(table, "{name} *{more}"),
        };
    }
    files::write_whole(&path(dir), table.as_bytes())?;
    Ok(files::write_whole(&dir.join(OTHERS), b"")?)
}

/// The text of the two tables.
fn tables(
    image: &Image,
    defined: &BTreeMap<String, (definitions::Kind, String)>,
) -> (String, String) {
    let (mut traceable, mut others) = (String::new(), String::new());
    let mut cloned: BTreeMap<&str, &str> = BTreeMap::new();
    // Writing to a string does not fail.
    for (name, function) in image.iter().filter(|(name, _)| is_name(base(name))) {
        let base = base(name);
        if base != name && !name.contains(".cold") {
            if image.contains_key(base) {
                let _ = writeln!(others, "{base}\tcopy\t{name}");
            } else {
                cloned.entry(base).or_insert(name);
            }
        }
        match function {
            f if f.ftraceable > 0 && f.count == 1 => {
                let _ = writeln!(traceable, "{name}");
            }
            f if f.ftraceable > 0 => {
                let _ = writeln!(traceable, "{name} *{}", f.count);
            }
            f if base == name => {
                let kind = if f.init == f.count { "init" } else { "notrace" };
                let _ = writeln!(others, "{name}\t{kind}\t");
            }
            _ => {}
        }
    }
    for (base, name) in &cloned {
        let _ = writeln!(others, "{base}\tcloned\t{name}");
    }
    for (name, (kind, file)) in defined {
        if image.contains_key(name) || cloned.contains_key(name.as_str()) {
            continue;
        }
        let kind = match kind {
            definitions::Kind::Compiled => "compiled",
            definitions::Kind::Header => "header",
            definitions::Kind::Unbuilt => "unbuilt",
        };
        let _ = writeln!(others, "{name}\t{kind}\t{file}");
    }
    (traceable, others)
}

/// `x` of `x.isra.0`.
fn base(name: &str) -> &str {
    name.split_once('.').map_or(name, |(base, _)| base)
}

#[cfg(test)]
mod tests;
