// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace merge`: the table of a campaign from what is on the disk, from one directory or from several parts.

use std::path::PathBuf;

use crate::campaign::{ErrorBound, Table, merge};
use crate::exit::ExitCode;
use crate::host::files;
use crate::oracle::Expectations;
use crate::paths;
use crate::report::{self, Style};

use super::failure::Failure;
use super::say;

/// Arguments of `vfrace merge`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directories of `vfrace matrix`: one campaign, or parts of one
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Copies results and evidence into this directory; `vfrace matrix --out` can go on there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Says of every PASS how many clean rounds are missing until a false one is no more likely than this: 1%, 1e-9
    #[arg(long, value_name = "E")]
    error: Option<ErrorBound>,
    /// Writes the table as a page in Markdown as well
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let expect = paths::data_dir()?.join("guest-tests/expect/expect.toml");
    let expected = Expectations::load(&expect)?;
    let merged = merge::merge(&args.dirs)?;
    let expected = expected.on(merged.file.asked.arch);
    if let Some(out) = &args.out {
        merged.write(out)?;
    }
    let dir = args.out.clone().unwrap_or_else(|| merged.dir());
    let error = args.error.map(|error| error.0);
    let table = Table::new(&merged.file, &merged.results, &expected, error, &dir);
    if args.out.is_some() {
        table.write(&dir)?;
    }
    if let Some(file) = &args.markdown {
        files::write_whole(file, report::markdown(&table).as_bytes())?;
    }
    say::out(report::matrix(&table, Style::stdout().color));
    Ok(table.exit(false))
}
