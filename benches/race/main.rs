// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `make bench`: how often the race of unbind and VF unplug is hit, directed and undirected, and where a round's time
//! goes. docs/performance.md says how to read it.

mod play;
mod setup;
mod tell;

use std::process::ExitCode;

use setup::Setup;
use tell::Results;
use vfrace::host::chain;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    // `cargo test --all-targets` starts benches too; guests for half an hour are not what it wants.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!(
            "not run: this takes long, and `cargo bench --bench race` (or `make bench`) runs it"
        );
        return ExitCode::SUCCESS;
    }
    match bench() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<ExitCode, Error> {
    let setup = Setup::new()?;
    let mut results = Results::new(&setup);
    for kernel in &setup.kernels {
        for way in setup.loops() {
            results.add(play::section(&setup, kernel, way)?);
            // After each: what there is survives whatever comes.
            results.write(&setup.json())?;
            if setup.is_stopped() {
                eprintln!("stopped; what there is so far follows");
                print!("{}", results.markdown());
                return Ok(ExitCode::from(130));
            }
        }
    }
    print!("{}", results.markdown());
    eprintln!("the same as JSON: {}", setup.json().display());
    Ok(ExitCode::SUCCESS)
}
