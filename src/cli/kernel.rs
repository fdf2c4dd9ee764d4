// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace kernel`: build kernels under test, list those in the cache, say what a variant is.

use std::io::Write;

use crate::exit::ExitCode;
use crate::kernel::{KernelError, KernelName, Kernels, Variant};
use crate::oracle::Expectations;

use super::guest::GuestOption;
use super::kernels::KernelOptions;

/// Build kernels, list them, or say what one is.
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
    /// Say what a variant is: where it comes from, how it locks, what is expected of it, its patch
    Show(ShowArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct ShowArgs {
    /// The variant, as in `vfrace kernel list`
    #[arg(value_name = "KERNEL")]
    kernel: KernelName,
    /// Print the patch alone
    #[arg(long, conflicts_with = "json")]
    patch: bool,
    /// Print a JSON object instead of text, without the patch
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct BuildArgs {
    /// VARIANT[+FRAGMENT][@SOURCE]: base, v7, v7@7.3, v7+rt; `v5..v14`: from v5 to v14; `all`; `mutants`: all that are
    /// broken on purpose
    #[arg(
        required_unless_present_any = ["linux", "patch"],
        value_name = "KERNEL",
        value_delimiter = ','
    )]
    kernels: Vec<KernelName>,
    /// Print a JSON object a kernel instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    from: KernelOptions,
}

impl KernelArgs {
    /// What they are built for.
    pub(super) fn guest(&self) -> GuestOption {
        match &self.command {
            KernelCommand::Build(build) => build.guest,
            KernelCommand::List | KernelCommand::Show(_) => GuestOption::default(),
        }
    }

    /// What kernels are built from, if some are to be.
    pub(super) fn from(&self) -> Option<&KernelOptions> {
        match &self.command {
            KernelCommand::Build(build) => Some(&build.from),
            KernelCommand::List | KernelCommand::Show(_) => None,
        }
    }
}

/// A kernel that could not be built, as `vfrace kernel` returns it to its caller.
pub type Failure = KernelError;

/// Runs the subcommand. Results go to `out`; progress goes to the events of `kernels`. The first error ends it and is
/// returned for the caller to print, with [`KernelError::exit`] as the exit code. `expected` is what `show` tells.
pub fn run(
    args: &KernelArgs,
    kernels: &Kernels,
    expected: &Expectations,
    out: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    match &args.command {
        KernelCommand::Build(build) => {
            for name in build.from.names(kernels, &build.kernels, &[])? {
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
                let date = v.history.as_ref().map_or("", |h| h.date.as_str());
                let what = match &v.alias_of {
                    Some(other) => format!("the code of {other}"),
                    None => format!("{} [{}]", v.mechanism, v.applies_to.join(", ")),
                };
                print(out, &format!("  {:<8} {date}  {what}", v.name));
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
                        "  {:<8} {}  {}  {} s{}",
                        k.name,
                        k.id,
                        k.source_version,
                        k.seconds,
                        match k.arch.is_default() {
                            true => String::new(),
                            false => format!("  {}", k.arch),
                        }
                    ),
                );
            }
        }
        KernelCommand::Show(asked) => {
            let manifest = kernels.manifest()?;
            let variant = manifest.find(asked.kernel.variant())?;
            if asked.json {
                if let Ok(json) = serde_json::to_string_pretty(variant) {
                    print(out, &json);
                }
            } else if asked.patch {
                let bytes = variant.patch.as_ref().map_or(&[][..], |p| &p.bytes);
                let _ = out.write_all(bytes);
            } else {
                show(variant, expected, out);
            }
        }
    }
    Ok(ExitCode::Good)
}

/// Everything that is known of a variant. What is expected is that of the variant with its code.
fn show(variant: &Variant, expected: &Expectations, out: &mut dyn Write) {
    let mut line = |name: &str, text: &str| {
        if !text.is_empty() {
            print(out, &format!("{name:<10} {text}"));
        }
    };
    line("name", &variant.name);
    let code = variant.alias_of.as_ref().unwrap_or(&variant.name);
    if code != &variant.name {
        line("code", &format!("that of {code}"));
    }
    line("mechanism", &variant.mechanism);
    if let Some(h) = &variant.history {
        line("change", &h.change);
        for (at, lock) in h.locks.iter().enumerate() {
            line(if at == 0 { "locks" } else { "" }, lock);
        }
        line("date", &h.date);
        line(
            "mail",
            &format!("https://lore.kernel.org/all/{}/", h.message_id),
        );
        line("base", &h.base);
    }
    if let Some(mutant) = &variant.mutant {
        line("built on", &mutant.on);
    }
    line("tried on", &variant.applies_to.join(", "));
    for (what, why) in &variant.unfit {
        line("not with", &format!("{what}: {why}"));
    }
    let touches: Vec<_> = variant
        .touches
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    line("touches", &touches.join(" "));
    for scenario in expected.scenarios(code) {
        if let Some(verdict) = expected.expectation(scenario, code) {
            line("expected", &format!("{scenario:<30} {verdict}"));
        }
    }
    if let Some(patch) = &variant.patch {
        print(
            out,
            &format!("\n{}", String::from_utf8_lossy(&patch.bytes).trim_end()),
        );
    }
}

/// A reader that went away (a closed pipe) is no error of ours: what was asked for has been done.
fn print(out: &mut dyn Write, text: &str) {
    let _ = writeln!(out, "{text}");
}
