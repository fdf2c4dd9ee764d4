// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace kernel`: build kernels under test, list those in the cache.

use std::io::Write;

use crate::exit::ExitCode;
use crate::kernel::{KernelError, KernelName, Kernels};

/// Build kernels, or list them.
#[derive(Clone, Debug, clap::Args)]
pub struct KernelArgs {
    #[command(subcommand)]
    command: KernelCommand,
}

/// What to do with kernels.
#[derive(Clone, Debug, clap::Subcommand)]
enum KernelCommand {
    /// Build kernels that are not in the cache: fetch the source, apply the variant's patch, compile, with guest module
    Build(BuildArgs),
    /// List the variants that there are and the kernels that were built
    List,
}

#[derive(Clone, Debug, clap::Args)]
struct BuildArgs {
    /// VARIANT or VARIANT@SOURCE: base, v5, v6, v7, v7@7.3; `mutants`: all that are broken on purpose
    #[arg(required = true, value_name = "KERNEL", value_delimiter = ',')]
    kernels: Vec<KernelName>,
    /// Print a JSON object a kernel instead of text
    #[arg(long)]
    json: bool,
}

/// A kernel that could not be built, as `vfrace kernel` returns it to its caller.
pub type Failure = KernelError;

/// Runs the subcommand. Results go to `out`; progress goes to the events of `kernels`. The first error ends it and is
/// returned for the caller to print, with [`KernelError::exit`] as the exit code.
pub fn run(args: &KernelArgs, kernels: &Kernels, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match &args.command {
        KernelCommand::Build(build) => {
            for name in kernels.manifest()?.expand(&build.kernels) {
                let kernel = kernels.build(&name)?;
                let text = match (build.json, serde_json::to_string(&kernel)) {
                    (true, Ok(json)) => json,
                    _ => format!(
                        "{:<10} {}  Linux {} ({})\n           {}\n           {}",
                        kernel.name.to_string(),
                        kernel.id,
                        kernel.release,
                        kernel.source_version,
                        kernel.config_summary,
                        kernel.dir.display()
                    ),
                };
                print(out, &text);
            }
        }
        KernelCommand::List => {
            let manifest = kernels.manifest()?;
            let built = kernels.list();
            print(out, "variants:");
            for v in manifest.ordinary() {
                print(
                    out,
                    &format!(
                        "  {:<8} {}  {} [{}]",
                        v.name,
                        v.date,
                        v.mechanism,
                        v.applies_to.join(", ")
                    ),
                );
            }
            print(out, "mutants, broken on purpose (docs/mutants.md):");
            for (v, mutant) in manifest.mutants() {
                print(
                    out,
                    &format!("  {:<28} on {:<5} {}", v.name, mutant.on, v.mechanism),
                );
            }
            print(
                out,
                if built.is_empty() {
                    "nothing is built"
                } else {
                    "built:"
                },
            );
            for k in built {
                print(
                    out,
                    &format!(
                        "  {:<8} {}  {}  {} s",
                        k.name, k.id, k.source_version, k.seconds
                    ),
                );
            }
        }
    }
    Ok(ExitCode::Good)
}

/// A reader that went away (a closed pipe) is no error of ours: what was asked for has been done.
fn print(out: &mut dyn Write, text: &str) {
    let _ = writeln!(out, "{text}");
}
