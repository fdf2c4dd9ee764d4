// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `vfrace` program: everything is in the library.

use vfrace::exit::ExitCode;

fn main() -> std::process::ExitCode {
    // A panic would end with 101, which `git bisect run` takes for a bad commit. It has been printed.
    std::panic::catch_unwind(|| vfrace::cli::main(std::env::args_os()))
        .unwrap_or(ExitCode::Infrastructure)
        .into()
}
