// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `vfrace` program: everything is in the library.

use vfrace::exit::ExitCode;

fn main() -> std::process::ExitCode {
    ExitCode::of(|| vfrace::cli::main(std::env::args_os())).into()
}
