// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is installed beside the program: man pages and completions, made from the command line's own description.

use std::path::{Path, PathBuf};

use clap::Command;

use crate::exit::ExitCode;

use super::failure::Failure;
use super::say;

/// `vfrace man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Directory that they are written to; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `vfrace completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Writes a page for the program and one for each subcommand: vfrace.1, vfrace-run.1, vfrace-kernel-build.1.
pub(super) fn man(args: &ManArgs, command: Command) -> ExitCode {
    match pages(&args.out, command) {
        Ok(()) => ExitCode::Good,
        Err((path, source)) => Failure::Results { path, source }.tell(),
    }
}

fn pages(dir: &Path, command: Command) -> Result<(), (PathBuf, std::io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        |source| (path, source)
    };
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    clap_mangen::generate_to(command, dir).map_err(at(dir))
}

/// Prints what a shell reads to complete the command line.
pub(super) fn completions(args: &CompletionArgs, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "vfrace", &mut text);
    say::out(String::from_utf8_lossy(&text));
    ExitCode::Good
}
