// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Patches of the user's: a diff, a mail, a mailbox, a directory of these, commits. git takes mails apart (git-mailsplit(1),
//! git-mailinfo(1)), with all the encodings that they come in.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::KernelError;
use super::git::{self, Git};
use super::layer::{Layer, files_of};
use super::name::is_variant;
use crate::host::HostError;
use crate::host::files;

/// Bytes of one source of patches.
const BYTES: u64 = 32 << 20;
/// Patches of one source.
const PATCHES: usize = 1000;
/// Letters of a name that is made of a file's; `.` and a number may follow.
const NAME: usize = 32;
/// Stands for standard input.
const STDIN: &str = "-";
/// Endings of a file that its kernel's name does not have.
const ENDINGS: [&str; 6] = [".patch", ".diff", ".mbox", ".mbx", ".eml", ".txt"];

/// What `--patch` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchRequest {
    /// A file, `-` for standard input, a directory, or `A..B` for commits.
    pub from: String,
    /// A kernel for every patch, with those before it; else one with all of them.
    pub each: bool,
    /// The variant that they are put on; `None`: the source as it is.
    pub on: Option<String>,
}

/// Patches in the order in which they are put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// What its kernel is called.
    pub name: String,
    /// Where it is from, for people.
    pub from: String,
    /// The patches, at least one.
    pub patches: Vec<SeriesPatch>,
}

/// A patch of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesPatch {
    /// The mail's subject without `[PATCH 1/2]`; else the file's name.
    pub subject: String,
    /// The diff; what is before it does no harm.
    pub diff: Vec<u8>,
    /// The files that it touches, from the kernel's top directory, sorted.
    pub files: Vec<PathBuf>,
    /// Leading directories of the diff's paths that are not the source's.
    pub strip: u8,
}

/// One mail or diff, before it is known whether there is a patch in it.
struct Part {
    subject: String,
    /// `(1, 3)` of `[PATCH 1/3]`.
    number: Option<(u32, u32)>,
    bytes: Vec<u8>,
    strip: u8,
}

impl Series {
    /// Reads it. `tree` is where the commits of `A..B` are looked for; the working directory if there is none.
    pub fn read(from: &str, tree: Option<&Path>) -> Result<Self, KernelError> {
        git::require()?;
        let reader = Reader { from };
        let path = Path::new(from);
        let (mut parts, shown) = if from == STDIN {
            let parts = reader.parts(reader.bytes(std::io::stdin().lock())?, "patch")?;
            (parts, "standard input".to_owned())
        } else if path.is_dir() {
            (reader.dir(path)?, from.to_owned())
        } else if path.exists() {
            (reader.file(path, 1)?, from.to_owned())
        } else if from.contains("..") && !from.contains('/')
            || tree.is_some() && from.contains("..")
        {
            let dir = tree.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
            (reader.commits(&dir)?, from.to_owned())
        } else {
            return Err(reader.wrong("there is no such file"));
        };
        let numbers: Vec<u32> = parts.iter().filter_map(|p| Some(p.number?.0)).collect();
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        if numbers.len() == parts.len() && once.len() == parts.len() {
            // Mails come in any order.
            parts.sort_by_key(|part| part.number);
        }
        let mut patches = Vec::new();
        for part in parts {
            let text = String::from_utf8_lossy(&part.bytes);
            let binary = text.contains("\nGIT binary patch") || text.contains("\nBinary files ");
            if binary {
                return Err(reader.wrong(&format!("`{}` changes a binary file", part.subject)));
            }
            let files = files_of(&part.bytes, part.strip)
                .map_err(|why| reader.wrong(&format!("`{}`: {why}", part.subject)))?;
            patches.push(SeriesPatch {
                subject: part.subject,
                files,
                diff: part.bytes,
                strip: part.strip,
            });
        }
        if patches.is_empty() {
            return Err(reader.wrong("there is no patch in it"));
        }
        Ok(Self {
            name: name_of(from),
            from: shown,
            patches,
        })
    }

    /// The first `count` of them, to be put on a source.
    pub(super) fn layers(&self, count: usize) -> Vec<Layer> {
        let of = self.patches.len();
        let layer = |(at, patch): (usize, &SeriesPatch)| Layer {
            label: match of {
                1 => self.from.clone(),
                _ => format!("{}, patch {}/{of} ({})", self.from, at + 1, patch.subject),
            },
            bytes: patch.diff.clone(),
            strip: patch.strip,
            loose: false,
            files: patch.files.clone(),
        };
        self.patches
            .iter()
            .take(count)
            .enumerate()
            .map(layer)
            .collect()
    }
}

/// Reads what one `--patch` names.
struct Reader<'a> {
    from: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, why: &str) -> KernelError {
        KernelError::Patch {
            from: self.from.to_owned(),
            why: why.to_owned(),
        }
    }

    fn bytes(&self, from: impl Read) -> Result<Vec<u8>, KernelError> {
        let mut bytes = Vec::new();
        from.take(BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| self.wrong(&format!("it cannot be read: {e}")))?;
        if bytes.len() as u64 > BYTES {
            return Err(self.wrong(&format!("it is longer than {} MiB", BYTES >> 20)));
        }
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(self.wrong("it is compressed; unpack it with gunzip first"));
        }
        Ok(bytes)
    }

    fn file(&self, path: &Path, strip: u8) -> Result<Vec<Part>, KernelError> {
        let file = std::fs::File::open(path)
            .map_err(|e| self.wrong(&format!("{} cannot be read: {e}", path.display())))?;
        let subject = path.file_name().unwrap_or_default().to_string_lossy();
        let mut parts = self.parts(self.bytes(file)?, &subject)?;
        for part in &mut parts {
            part.strip = strip;
        }
        Ok(parts)
    }

    /// A mail or mailbox becomes its patches, everything else is one diff.
    fn parts(&self, bytes: Vec<u8>, subject: &str) -> Result<Vec<Part>, KernelError> {
        if !is_mail(&bytes) {
            let part = Part {
                subject: subject.to_owned(),
                number: None,
                bytes,
                strip: 1,
            };
            return Ok(vec![part]);
        }
        self.mails(|git, out| git.say(&["mailsplit", "-b", out], &bytes))
    }

    /// Takes mails apart that `split` has put into a directory, one file each.
    fn mails(
        &self,
        split: impl FnOnce(&Git, &str) -> Result<git::Said, HostError>,
    ) -> Result<Vec<Part>, KernelError> {
        let scratch =
            tempfile::tempdir().map_err(files::failed("create", &std::env::temp_dir()))?;
        let dir = scratch.path();
        let git = Git {
            ceiling: Some(dir.to_path_buf()),
            ..Git::at(dir)
        };
        let mails = dir.join("mails");
        files::make_dir(&mails)?;
        let said = split(&git, &format!("-o{}", mails.display()))?;
        if !said.ok {
            return Err(self.wrong(&format!(
                "git cannot split it into mails: {}",
                said.err.trim()
            )));
        }
        let mut found: Vec<PathBuf> = std::fs::read_dir(&mails)
            .map_err(files::failed("read", &mails))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        if found.len() > PATCHES {
            return Err(self.wrong(&format!("it has more than {PATCHES} mails")));
        }
        found.sort();
        let mut parts = Vec::new();
        for (at, path) in found.iter().enumerate() {
            let mail = std::fs::read(path).map_err(files::failed("read", path))?;
            // -k: the subject as it is, for its number.
            let info = ["mailinfo", "-k", "--quoted-cr=strip", "message", "diff"];
            let said = git.say(&info, &mail)?;
            if !said.ok {
                let why = said.err.trim();
                return Err(self.wrong(&format!("git cannot read mail {}: {why}", at + 1)));
            }
            let said = String::from_utf8_lossy(&said.out).into_owned();
            let subject = said.lines().find_map(|line| line.strip_prefix("Subject: "));
            let (subject, number) = subject_of(subject.unwrap_or_default());
            let diff = dir.join("diff");
            let bytes = std::fs::read(&diff).map_err(files::failed("read", &diff))?;
            let has_diff = files_of(&bytes, 1) != Err(super::layer::NO_DIFF.to_owned());
            // A cover letter has none; what a reply has is not the patch.
            if let (Some(subject), true) = (subject, has_diff) {
                parts.push(Part {
                    subject,
                    number,
                    bytes,
                    strip: 1,
                });
            }
        }
        Ok(parts)
    }

    fn dir(&self, dir: &Path) -> Result<Vec<Part>, KernelError> {
        for top in [dir.to_path_buf(), dir.join("patches")] {
            if top.join("series").is_file() {
                return self.quilt(&top);
            }
        }
        if dir.join("cur").is_dir() && dir.join("new").is_dir() {
            let path = std::path::absolute(dir).map_err(files::failed("find", dir))?;
            let path = path.to_string_lossy().into_owned();
            return self.mails(|git, out| git.say(&["mailsplit", out, "--", &path], &[]));
        }
        let entries =
            std::fs::read_dir(dir).map_err(|e| self.wrong(&format!("it cannot be read: {e}")))?;
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| {
            path.is_file()
                && path
                    .extension()
                    .is_some_and(|e| e == "patch" || e == "diff")
        });
        found.sort();
        let mut parts = Vec::new();
        for path in found {
            parts.extend(self.file(&path, 1)?.into_iter().map(unnumbered));
        }
        Ok(parts)
    }

    /// A directory as quilt(1) has it: `series` names the patches, a line each, and may say how many directories to strip.
    fn quilt(&self, top: &Path) -> Result<Vec<Part>, KernelError> {
        let list = top.join("series");
        let file = std::fs::File::open(&list)
            .map_err(|e| self.wrong(&format!("its series file cannot be read: {e}")))?;
        let text = String::from_utf8_lossy(&self.bytes(file)?).into_owned();
        let mut parts = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let place = format!("series:{}", at + 1);
            let line = match line.split_once(" #") {
                _ if line.starts_with('#') => continue,
                Some((before, _)) => before,
                None => line,
            };
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let mut strip = 1;
            for word in words {
                strip = match word {
                    "-p0" => 0,
                    "-p1" | "-pab" => 1,
                    "-p2" => 2,
                    _ => {
                        return Err(self.wrong(&format!(
                            "{place}: `{word}` is not understood; only -p0, -p1 and -p2 are"
                        )));
                    }
                };
            }
            let inside = Path::new(name)
                .components()
                .all(|c| matches!(c, Component::Normal(_)));
            if !inside {
                return Err(self.wrong(&format!("{place}: `{name}` is not in the directory")));
            }
            parts.extend(
                self.file(&top.join(name), strip)?
                    .into_iter()
                    .map(unnumbered),
            );
        }
        Ok(parts)
    }

    /// The commits of a range, as mails.
    fn commits(&self, dir: &Path) -> Result<Vec<Part>, KernelError> {
        let args = [
            "format-patch",
            "--stdout",
            "--no-stat",
            "--full-index",
            "--no-signature",
            "--no-cover-letter",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--no-renames",
            "--numbered",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--end-of-options",
            self.from,
        ];
        let said = Git::at(dir).say(&args, &[])?;
        if !said.ok {
            let why = said
                .err
                .trim()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            return Err(self.wrong(&format!(
                "it is no file, and no range of commits in {}: {why}",
                dir.display()
            )));
        }
        if said.out.is_empty() {
            return Err(self.wrong("there is no commit in this range"));
        }
        self.parts(self.bytes(said.out.as_slice())?, self.from)
    }
}

/// The order is that of the files.
fn unnumbered(part: Part) -> Part {
    Part {
        number: None,
        ..part
    }
}

/// A mail or a mailbox: a `From ` line, or header fields up to an empty line, one of them the subject.
fn is_mail(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"From ") {
        return true;
    }
    let mut subject = false;
    for (at, line) in bytes.split(|b| *b == b'\n').take(300).enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return subject;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if at == 0 {
                return false;
            }
            continue;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return false;
        };
        let (key, _) = line.split_at(colon);
        if key.is_empty() || !key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') {
            return false;
        }
        subject |= key.eq_ignore_ascii_case(b"subject");
    }
    false
}

/// The subject without `[PATCH v3 1/2]`, `None` for a reply, and the numbers in it.
fn subject_of(line: &str) -> (Option<String>, Option<(u32, u32)>) {
    let mut rest = line.trim();
    let mut number = None;
    if rest
        .get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("re:"))
    {
        return (None, None);
    }
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        for word in inside.split_whitespace() {
            let pair = word.split_once('/');
            let pair = pair.and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
            number = pair.or(number);
        }
        rest = after.trim_start();
    }
    let rest: String = rest.chars().filter(|c| !c.is_control()).take(120).collect();
    let subject = if rest.is_empty() {
        "no subject".to_owned()
    } else {
        rest
    };
    (Some(subject), number)
}

/// What the kernel with these patches is called: the file's name without its ending, with letters that a name may have.
fn name_of(from: &str) -> String {
    let path = Path::new(from);
    let is_range = !path.exists() && from.contains("..");
    let mut stem = if is_range {
        from.replace("...", "..").replace("..", "-to-")
    } else {
        let resolved = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let resolved = resolved.or_else(|| {
            let whole = std::fs::canonicalize(path).ok()?;
            Some(whole.file_name()?.to_string_lossy().into_owned())
        });
        resolved.unwrap_or_default()
    };
    if let Some(short) = ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending)) {
        stem = short.to_owned();
    }
    let mut name = String::new();
    for letter in stem.chars() {
        let letter = if letter.is_ascii_alphanumeric() || "_.".contains(letter) {
            letter
        } else {
            '-'
        };
        // Not `..`, which is a range of kernels, nor a row of dashes.
        if !("-.".contains(letter) && name.ends_with(['-', '.'])) {
            name.push(letter);
        }
    }
    let name: String = name
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .chars()
        .take(NAME)
        .collect();
    let name = name.trim_end_matches(['-', '.', '_']);
    if is_variant(name) { name } else { "patch" }.to_owned()
}

#[cfg(test)]
mod tests;
