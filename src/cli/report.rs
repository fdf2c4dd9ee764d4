// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace report`: a report from recordings alone.

mod error;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::campaign::store::{self, is_campaign};
use crate::event::Event;
use crate::exit::ExitCode;
use crate::host::files;
use crate::oracle::Expectations;
use crate::paths;
use crate::report::{self, Book, Recorded, Style, jsonl, lines};

use super::failure::Failure;
use super::say;

pub(super) use error::ReportError;

/// The recording in a run's directory.
const RECORDING: &str = "events.jsonl";
/// Directories between the one that is named and those of its runs: SCENARIO/KERNEL/boot-N, and one more for a search.
const DEPTH: u32 = 4;

/// Arguments of `vfrace report`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of a run or of a campaign, or a report as JSON lines
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// What is made
    #[arg(long, value_name = "HOW", default_value = "table")]
    format: Format,
    /// The same as --format mail
    #[arg(long, conflicts_with = "format")]
    mail: bool,
    /// Writes it into this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Who has tested, for the trailers of a mail: 'Name <address>'
    #[arg(long, value_name = "WHO")]
    tested_by: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    Table,
    /// One HTML file with verdicts, timelines, evidence and findings
    Html,
    /// The kernel's test output, version 1
    Ktap,
    /// XML as CI systems read it
    Junit,
    /// One JSON object a line, docs/reports.md has the fields
    Jsonl,
    /// Plain text under 72 columns for a mail about a patch
    Mail,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let book = book(&args.from)?;
    let format = match args.mail {
        true => Format::Mail,
        false => args.format,
    };
    let mut made = Vec::new();
    match format {
        Format::Table => {
            let color = args.out.is_none() && Style::stdout().color;
            made.extend_from_slice(report::summary(&book, color).as_bytes());
        }
        Format::Html => {
            let page = report::html(&book, &mut recording).map_err(ReportError::from)?;
            made.extend_from_slice(page.as_bytes());
        }
        Format::Ktap => made.extend_from_slice(report::ktap(&book).as_bytes()),
        Format::Junit => {
            let text = report::junit(&book).map_err(ReportError::from)?;
            made.extend_from_slice(text.as_bytes());
        }
        Format::Jsonl => match &args.out {
            // It may be long: it is not kept in memory.
            Some(path) => {
                write_lines(&book, path)?;
                return Ok(ExitCode::Good);
            }
            None => lines::write(&book, &mut made).map_err(ReportError::Lines)?,
        },
        Format::Mail => {
            let text = report::mail(&book, args.tested_by.as_deref());
            made.extend_from_slice(text.as_bytes());
        }
    }
    match &args.out {
        Some(path) => files::write_whole(path, &made)?,
        None => say::bytes([made.as_slice()]),
    }
    Ok(ExitCode::Good)
}

fn write_lines(book: &Book, path: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::Results {
        path: path.to_path_buf(),
        source,
    };
    let mut to = BufWriter::new(File::create(path).map_err(failed)?);
    lines::write(book, &mut to)
        .and_then(|()| to.flush())
        .map_err(failed)
}

/// The events of a run, or why there are none.
fn recording(dir: &Path) -> Result<Vec<Event>, String> {
    let path = dir.join(RECORDING);
    jsonl::read_file(&path).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{}: {error} ({cause})", path.display()),
        None => format!("{}: {error}", path.display()),
    })
}

fn book(from: &Path) -> Result<Book, Failure> {
    if is_campaign(from) {
        let kept = store::read(from)?;
        let expect = paths::data_dir()?.join("guest-tests/expect/expect.toml");
        let expected = Expectations::load(&expect)?.on(kept.file.asked.arch);
        return Ok(Book::of_campaign(kept, &expected));
    }
    if from.is_dir() {
        return runs(from);
    }
    let failed = |source| ReportError::Open {
        path: from.to_path_buf(),
        source,
    };
    let file = File::open(from).map_err(failed)?;
    let book = lines::read(BufReader::new(file)).map_err(|source| ReportError::Read {
        path: from.to_path_buf(),
        source,
    })?;
    Ok(book)
}

/// The runs in a directory, or that it is one of.
fn runs(from: &Path) -> Result<Book, Failure> {
    let mut dirs = Vec::new();
    find(from, DEPTH, &mut dirs);
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for dir in &dirs {
        let recorded = recording(dir).and_then(|events| {
            let said = Recorded::new(dir, &events);
            said.map_err(|why| format!("{}: {why}", dir.display()))
        });
        match recorded {
            Ok(recorded) => read.push(recorded),
            Err(why) => unread.push(why),
        }
    }
    match (read.is_empty(), unread.into_iter().next()) {
        (false, first) => {
            let left_out = dirs.len() - read.len();
            let remark = first.map(|why| {
                format!(
                    "{left_out} of {} recordings are not in it; the first: {why}",
                    dirs.len()
                )
            });
            Ok(Book::of_runs(read, remark.into_iter().collect()))
        }
        (true, Some(why)) => Err(ReportError::NotJudged { why }.into()),
        (true, None) => Err(ReportError::Nothing {
            path: from.to_path_buf(),
        }
        .into()),
    }
}

/// Directories with a recording, in order of their names, numbers by value.
fn find(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    if dir.join(RECORDING).is_file() {
        found.push(dir.to_path_buf());
        return;
    }
    if depth == 0 {
        return;
    }
    let mut below = files::dirs_in(dir);
    below.sort_by_key(|path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let end = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: Option<u64> = name.get(end..).and_then(|digits| digits.parse().ok());
        (name.get(..end).unwrap_or_default().to_owned(), number)
    });
    for path in below {
        find(&path, depth - 1, found);
    }
}
