// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report as JSON lines, and back (docs/reports.md has the fields). Not the recording of a run: that is
//! [`jsonl`](super::jsonl).

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::book::{Book, Boot, Cell, Head};

/// What the first line calls itself.
pub const SCHEMA: &str = "vfrace-report";
/// Its version. Raised when a field changes its meaning or goes away; fields may be added.
pub const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Begin {
    schema: String,
    version: u32,
}

#[derive(Serialize)]
struct First<'a> {
    schema: &'a str,
    version: u32,
    #[serde(flatten)]
    line: Line<'a>,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Line<'a> {
    Report(&'a Head),
    Combination(&'a Cell),
    Boot(&'a Boot),
    End { combinations: usize, boots: usize },
}

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Read {
    Report(Box<Head>),
    Combination(Box<Cell>),
    Boot(Box<Boot>),
    End { combinations: usize, boots: usize },
}

/// A report that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The file does not go on.
    #[error("it cannot be read")]
    File(#[from] io::Error),
    /// The first line does not say that it is a report.
    #[error("its first line is not that of a `{SCHEMA}`")]
    NoReport,
    /// Of another version.
    #[error("it is a `{found}`, and this vfrace reads `{SCHEMA} {VERSION}`")]
    Version {
        /// What it says it is.
        found: String,
    },
    /// A line that is none of a report.
    #[error("line {line} is none of a report")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
    /// A record where it cannot be.
    #[error("line {line} is out of place: {why}")]
    Order {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The last line is missing, or says something else.
    #[error("it is not complete: its end is missing")]
    Cut,
}

/// Writes it, one line after the other.
pub fn write(book: &Book, to: &mut dyn Write) -> io::Result<()> {
    let first = First {
        schema: SCHEMA,
        version: VERSION,
        line: Line::Report(&book.head),
    };
    put(to, &first)?;
    for (cell, boots) in &book.cells {
        put(to, &Line::Combination(cell))?;
        for boot in boots {
            put(to, &Line::Boot(boot))?;
        }
    }
    let end = Line::End {
        combinations: book.cells.len(),
        boots: book.cells.iter().map(|(_, boots)| boots.len()).sum(),
    };
    put(to, &end)
}

fn put<T: Serialize>(to: &mut dyn Write, line: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line).map_err(io::Error::from)?;
    to.write_all(b"\n")
}

/// Reads it.
pub fn read(input: impl BufRead) -> Result<Book, LinesError> {
    let mut head = None;
    let mut cells: Vec<(Cell, Vec<Boot>)> = Vec::new();
    let mut end = None;
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => LinesError::NoReport,
            _ => LinesError::File(error),
        })?;
        if number == 1 {
            let begin: Begin = serde_json::from_str(&line).map_err(|_| LinesError::NoReport)?;
            if begin.schema != SCHEMA {
                return Err(LinesError::NoReport);
            }
            if begin.version != VERSION {
                return Err(LinesError::Version {
                    found: format!("{} {}", begin.schema, begin.version),
                });
            }
        }
        let record = serde_json::from_str(&line).map_err(|source| LinesError::Line {
            line: number,
            source,
        })?;
        let order = |why| LinesError::Order { line: number, why };
        match record {
            Read::Report(_) if head.is_some() => return Err(order("a second report")),
            Read::Report(first) => head = Some(*first),
            _ if head.is_none() => return Err(order("the report itself comes first")),
            _ if end.is_some() => return Err(order("it is behind the end")),
            Read::Combination(cell) => cells.push((*cell, Vec::new())),
            Read::Boot(boot) => match cells.last_mut() {
                Some((_, boots)) => boots.push(*boot),
                None => return Err(order("a boot without a combination")),
            },
            Read::End {
                combinations,
                boots,
            } => end = Some((combinations, boots)),
        }
    }
    let boots = cells.iter().map(|(_, boots)| boots.len()).sum();
    match (head, end) {
        (None, _) => Err(LinesError::NoReport),
        (Some(head), Some(counts)) if counts == (cells.len(), boots) => Ok(Book { head, cells }),
        _ => Err(LinesError::Cut),
    }
}
