// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One diff on its way onto a source. `git apply` puts it there as `git am` would: at another line if need be, but only
//! where all the context is as in the diff.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::git::Git;
use super::variant::Patch;
use crate::host::HostError;

/// What [`files_of`] says of a text without a diff.
pub(super) const NO_DIFF: &str = "there is no diff in it";
/// Lines of a hunk that are shown.
const HUNK_LINES: usize = 40;

/// A diff and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// For messages: `v7.patch`, `fix.mbox, patch 2/3 (PCI: ...)`.
    pub label: String,
    /// The diff; text before it does no harm.
    pub bytes: Vec<u8>,
    /// Leading directories of its paths that are not the source's.
    pub strip: u8,
    /// One line of context around a change is enough: for a variant, which is put on sources that it was not made for.
    pub loose: bool,
    /// The files that it changes, creates or removes, sorted.
    pub files: Vec<PathBuf>,
}

/// A diff that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    /// Its [`Layer::label`].
    pub label: String,
    /// What git said, and the hunk that it refused.
    pub output: String,
}

impl From<&Patch> for Layer {
    fn from(patch: &Patch) -> Self {
        Self {
            label: patch
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            bytes: patch.bytes.clone(),
            strip: 1,
            loose: true,
            files: patch.files.clone(),
        }
    }
}

impl Layer {
    /// Puts it onto the index of `git` (`cached`), or onto the files in its working directory. The inner error is a diff
    /// that does not fit; nothing was changed then.
    pub fn apply(&self, git: &Git, cached: bool) -> Result<Result<(), Rejected>, HostError> {
        let strip = format!("-p{}", self.strip);
        let mut args = vec!["apply", "--whitespace=nowarn", &strip];
        if cached {
            args.push("--cached");
        }
        if self.loose {
            args.push("-C1");
        }
        args.push("-");
        let said = git.say(&args, &self.bytes)?;
        if said.ok {
            return Ok(Ok(()));
        }
        let mut output = said.err.trim_end().to_owned();
        if let Some(hunk) = self.refused(&output) {
            output.push('\n');
            output.push_str(&hunk);
        }
        Ok(Err(Rejected {
            label: self.label.clone(),
            output,
        }))
    }

    /// The hunk that `error: patch failed: FILE:LINE` is about.
    fn refused(&self, said: &str) -> Option<String> {
        let place = said
            .lines()
            .find_map(|line| line.strip_prefix("error: patch failed: "))?;
        let (file, line) = place.rsplit_once(':')?;
        let text = String::from_utf8_lossy(&self.bytes);
        let mut lines = text.lines().skip_while(|l| {
            !((l.starts_with("--- ") || l.starts_with("+++ ")) && l.contains(file))
        });
        let starts = [format!("@@ -{line},"), format!("@@ -{line} ")];
        let head = lines.find(|l| starts.iter().any(|start| l.starts_with(start)))?;
        let body = lines
            .take_while(|l| l.is_empty() || l.starts_with([' ', '+', '-', '\\', '\t']))
            .take_while(|l| !l.starts_with("-- ") && !l.starts_with("--- "))
            .take(HUNK_LINES);
        let hunk: Vec<&str> = std::iter::once(head).chain(body).collect();
        Some(hunk.join("\n"))
    }
}

/// The files that a diff changes, creates, removes or renames, from the kernel's top, sorted. `strip` is the number of
/// leading directories to take off. The text says what is wrong with it.
pub(super) fn files_of(diff: &[u8], strip: u8) -> Result<Vec<PathBuf>, String> {
    let text = String::from_utf8_lossy(diff);
    let mut files = BTreeSet::new();
    let mut previous = "";
    // Lines of a hunk that are still to come: in there `--- x` is a removed line.
    let (mut old, mut new) = (0u64, 0u64);
    for line in text.lines() {
        if old > 0 || new > 0 {
            match line.as_bytes().first() {
                Some(b'+') => new = new.saturating_sub(1),
                Some(b'-') => old = old.saturating_sub(1),
                Some(b'\\') => {}
                _ => (old, new) = (old.saturating_sub(1), new.saturating_sub(1)),
            }
            continue;
        }
        if let Some((o, n)) = hunk(line) {
            (old, new) = (o, n);
        } else if let (Some(old), Some(new)) =
            (previous.strip_prefix("--- "), line.strip_prefix("+++ "))
        {
            let side = |s: &str| unquoted(s.split('\t').next().unwrap_or_default().trim());
            let both = [side(old), side(new)];
            // The old one too: `git apply` takes the name from there if the new one is gone.
            for name in both.iter().filter(|name| *name != "/dev/null") {
                files.insert(relative(name, strip)?);
            }
        } else if let Some(name) = ["rename from ", "rename to ", "copy from ", "copy to "]
            .iter()
            .find_map(|start| line.strip_prefix(start))
        {
            files.insert(relative(&unquoted(name), 0)?);
        } else if let Some((old, new)) = line
            .strip_prefix("diff --git ")
            .and_then(|names| names.split_once(' '))
        {
            // A change of the mode, an empty file, a binary one: no other line has the name.
            if let (Ok(old), Ok(new)) = (relative(old, strip), relative(new, strip)) {
                files.extend([old, new]);
            }
        }
        previous = line;
    }
    if files.is_empty() {
        return Err(NO_DIFF.to_owned());
    }
    Ok(files.into_iter().collect())
}

/// The numbers of old and new lines of `@@ -1,2 +3,4 @@`.
fn hunk(line: &str) -> Option<(u64, u64)> {
    let (old, rest) = line.strip_prefix("@@ -")?.split_once(" +")?;
    let (new, _) = rest.split_once(" @@")?;
    let count = |range: &str| match range.split_once(',') {
        Some((_, count)) => count.parse().ok(),
        None => Some(1),
    };
    Some((count(old)?, count(new)?))
}

/// A name as git writes it when it has unusual characters (core.quotePath in git-config(1)).
fn unquoted(name: &str) -> String {
    let Some(inner) = name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) else {
        return name.to_owned();
    };
    let mut bytes = Vec::new();
    let mut rest = inner.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b't') => bytes.push(b'\t'),
            Some(b'n') => bytes.push(b'\n'),
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                while let Some(digit @ b'0'..=b'7') = rest.peek() {
                    value = (value << 3 | u32::from(digit - b'0')) & 0xff;
                    rest.next();
                }
                bytes.push(value as u8);
            }
            Some(other) => bytes.push(other),
            None => {}
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path of a diff without its first directories. One that leaves the source is an error.
fn relative(name: &str, strip: u8) -> Result<PathBuf, String> {
    let leaves = || format!("`{name}` leaves the source tree");
    let mut path = Path::new(name);
    for _ in 0..strip {
        let mut rest = path.components();
        match rest.next() {
            Some(Component::Normal(_)) => path = rest.as_path(),
            Some(_) => return Err(leaves()),
            None => break,
        }
    }
    if path.as_os_str().is_empty() {
        return Err(format!("`{name}` is no path for patch -p{strip}"));
    }
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    let git = path
        .components()
        .any(|c| c.as_os_str().eq_ignore_ascii_case(".git"));
    if plain && !git {
        Ok(path.to_path_buf())
    } else {
        Err(leaves())
    }
}

#[cfg(test)]
mod tests;
