// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a scenario, and how a person is told.

use std::ops::Range;
use std::path::PathBuf;

use miette::{Diagnostic, NamedSource, SourceSpan};

use crate::arch::Arch;
use crate::exit::ExitCode;

/// A scenario that cannot be run. Render it with miette to see the place in the file.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ScenarioError {
    /// No scenario of that name, no file at that path.
    #[error("there is no scenario `{name}`")]
    NotFound {
        /// What was asked for.
        name: String,
        /// What to try instead.
        #[help]
        hint: String,
    },
    /// The file or directory cannot be read.
    #[error("cannot read {path}")]
    #[diagnostic(help(
        "check that the file exists and may be read; VFRACE_DATA names the checkout"
    ))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A parameter given on the command line does not fit.
    #[error("{what}")]
    Parameter {
        /// The parameter's name.
        name: String,
        /// What is wrong, with the value.
        what: String,
        /// The allowed range, or the names that exist.
        #[help]
        hint: String,
    },
    /// A parameter given on the command line is none of this scenario's.
    #[error("this scenario has no parameter `{name}` that could be {value}")]
    NoParameter {
        /// The parameter's name.
        name: String,
        /// What it was to be.
        value: i64,
        /// The names that exist.
        #[help]
        hint: String,
    },
    /// The guest's architecture does not have what it is about.
    #[error("`{scenario}` is not for guests of {arch}: {what}")]
    Lacks {
        /// The scenario.
        scenario: String,
        /// The architecture.
        arch: Arch,
        /// What it does not have, in a sentence.
        what: String,
        /// What to do.
        #[help]
        hint: String,
    },
    /// The file does not say something that makes sense.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Malformed(Box<Malformed>),
}

impl ScenarioError {
    /// The program's exit code for it: all of these are mistakes in the request.
    pub fn exit(&self) -> ExitCode {
        ExitCode::Usage
    }
}

/// A mistake at a place in a scenario file.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{what}")]
pub struct Malformed {
    /// The mistake, in a sentence.
    pub what: String,
    /// The file.
    #[source_code]
    pub file: NamedSource<String>,
    /// The place, in bytes.
    #[label("here")]
    pub place: SourceSpan,
    /// What to write instead.
    #[help]
    pub hint: Option<String>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Malformed {
    /// A mistake at `place` (bytes) of the file `name` with the contents `text`. A place outside of it is moved to its end.
    pub fn new(
        name: &str,
        text: &str,
        place: Range<usize>,
        what: String,
        hint: Option<String>,
    ) -> Self {
        let mut start = place.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let end = place.end.clamp(start, text.len());
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        Self {
            what: format!("{what} ({name}, line {line}, column {column})"),
            file: NamedSource::new(name, text.to_owned()),
            place: (start..end).into(),
            hint,
            line,
            column,
        }
    }
}

/// The entry of `names` that is most like `word`, if any is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |s: &str| s.to_ascii_lowercase().replace('_', "-");
    let word = fold(word);
    names
        .into_iter()
        .map(|name| (distance(&word, &fold(name)), name))
        .filter(|(d, name)| {
            *d <= if name.len() < 4 {
                1
            } else {
                (name.len() / 3).max(2)
            }
        })
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let value = (diagonal + usize::from(x != y))
                .min(*cell + 1)
                .min(left + 1);
            diagonal = std::mem::replace(cell, value);
            left = value;
        }
    }
    row.last().copied().unwrap_or_default()
}
