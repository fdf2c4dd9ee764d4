// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace points`: where a teardown or an unplug can be stopped, and whether a kernel has the place.

use std::io::Write;

use serde::Serialize;

use crate::exit::ExitCode;
use crate::kernel::{
    BuiltKernel, Functions, KernelError, KernelName, Kernels, KnownFunction, POINTS, Presence,
    Scope,
};
use crate::scenario::MESSAGES;

use super::guest::GuestOption;

/// Arguments of `vfrace points`.
#[derive(Clone, Debug, clap::Args)]
pub struct PointsArgs {
    /// Say of every function whether this kernel has it; built if it is not in the cache
    #[arg(long, value_name = "K")]
    kernel: Option<KernelName>,
    #[command(flatten)]
    pub(super) guest: GuestOption,
    /// Only names with this text in them, in capitals or not
    #[arg(long = "match", value_name = "TEXT")]
    text: Option<String>,
    /// List every function of the kernel that ftrace can redirect
    #[arg(long, requires = "kernel")]
    all: bool,
    /// Text for people, or one JSON object
    #[arg(long, value_name = "WHAT", default_value = "text")]
    format: Format,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

impl PointsArgs {
    fn wants(&self, name: &str) -> bool {
        self.text
            .as_ref()
            .is_none_or(|text| name.to_lowercase().contains(&text.to_lowercase()))
    }
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    kernel: Option<Kernel<'a>>,
    functions: Vec<Row<'a>>,
    /// What the kernel makes of the text that was looked for, if no function of the table has it.
    looked_for: Option<Presence>,
    /// With `--all`.
    ftraceable: Option<Vec<Name<'a>>>,
    messages: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Kernel<'a> {
    name: &'a KernelName,
    id: &'a str,
    release: &'a str,
}

/// A function of the table.
#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    function: &'static KnownFunction,
    here: Option<Presence>,
    /// Copies of it that some of its callers call instead.
    copies: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Name<'a> {
    name: &'a str,
    count: u32,
}

/// Runs the subcommand. The listing goes to `out`, progress of a build to the events of `kernels`. An unknown kernel is
/// an error before anything is built; with every error goes its [`KernelError::exit`].
pub fn run(
    args: &PointsArgs,
    kernels: &Kernels,
    out: &mut dyn Write,
) -> Result<ExitCode, KernelError> {
    let built = match &args.kernel {
        Some(name) => Some(kernels.build(name)?),
        None => None,
    };
    let functions = built.as_ref().map(Functions::load).transpose()?;
    let listing = list(args, built.as_ref(), functions.as_ref());
    let text = match args.format {
        Format::Text => text(&listing, args.text.as_deref()),
        Format::Json => serde_json::to_string(&listing).unwrap_or_default() + "\n",
    };
    // A reader that went away (a closed pipe) is no error of ours.
    let _ = out.write_all(text.as_bytes());
    Ok(ExitCode::Good)
}

fn list<'a>(
    args: &PointsArgs,
    built: Option<&'a BuiltKernel>,
    functions: Option<&'a Functions>,
) -> Listing<'a> {
    let rows: Vec<Row<'a>> = POINTS
        .iter()
        .filter(|function| args.wants(function.name))
        .map(|function| Row {
            function,
            here: functions.map(|all| all.has(function.name)),
            copies: functions
                .into_iter()
                .flat_map(|all| all.clones(function.name))
                .collect(),
        })
        .collect();
    let messages: Vec<_> = MESSAGES
        .iter()
        .copied()
        .filter(|name| args.wants(name))
        .collect();
    let looked_for = match (functions, &args.text) {
        (Some(all), Some(text)) if !args.all && rows.is_empty() && messages.is_empty() => {
            Some(all.has(text))
        }
        _ => None,
    };
    let ftraceable = functions.filter(|_| args.all).map(|all| {
        all.all()
            .filter(|(name, _)| args.wants(name))
            .map(|(name, count)| Name { name, count })
            .collect()
    });
    Listing {
        kernel: built.map(|kernel| Kernel {
            name: &kernel.name,
            id: &kernel.id,
            release: &kernel.release,
        }),
        functions: rows,
        looked_for,
        ftraceable,
        messages,
    }
}

fn text(listing: &Listing<'_>, looked_for: Option<&str>) -> String {
    let mut lines = Vec::new();
    let of = listing.kernel.as_ref().map_or(String::new(), |kernel| {
        format!(
            ", and whether {} (Linux {}) has them",
            kernel.name, kernel.release
        )
    });
    if !listing.functions.is_empty() {
        lines.push(format!(
            "call points, FUNCTION:call:NAME[#N]@enter or @return{of}:"
        ));
    }
    let mut file = "";
    for row in &listing.functions {
        if file != row.function.file {
            file = row.function.file;
            lines.push(format!("  {file}"));
        }
        let scope = row.function.scope.word();
        let (name, what) = (row.function.name, row.function.what);
        match &row.here {
            None => lines.push(format!("    {name:<38} {scope:<8}  {what}")),
            Some(here) => {
                let yes = *here == Presence::Ftraceable;
                let mark = if yes { "yes" } else { "no" };
                lines.push(format!("    {name:<38} {scope:<8}  {mark:<3}  {what}"));
                if !yes {
                    lines.push(format!("      not here: {here}"));
                }
            }
        }
        if !row.copies.is_empty() {
            lines.push(format!(
                "      some callers call {} instead",
                row.copies.join(", ")
            ));
        }
    }
    if !listing.functions.is_empty() {
        lines.extend(legend(&listing.functions));
    }
    if let (Some(presence), Some(name)) = (&listing.looked_for, looked_for) {
        lines.push(format!(
            "{name} is not in the table; as a call point: {presence}"
        ));
    }
    if let Some(all) = &listing.ftraceable {
        lines.push(format!(
            "every function that ftrace can redirect ({}):",
            all.len()
        ));
        lines.extend(all.iter().map(|name| match name.count {
            1 => format!("  {}", name.name),
            count => format!("  {}  ({count} of this name: cannot be a point)", name.name),
        }));
    }
    if !listing.messages.is_empty() {
        lines.push("wire points, FUNCTION:wire:MESSAGE[#N]@request or @reply:".to_owned());
        lines.extend(listing.messages.iter().map(|name| format!("  {name}")));
    }
    if lines.is_empty() {
        lines.push("nothing has that in its name".to_owned());
    }
    lines.join("\n") + "\n"
}

/// What the scopes in the rows mean.
fn legend(rows: &[Row<'_>]) -> Vec<String> {
    let meanings = [
        (
            Scope::PciDev,
            "the first argument is the PCI function, pf or vfK",
        ),
        (Scope::Device, "the first argument is the function's device"),
        (
            Scope::Kobject,
            "the first argument is the kobject of the function's device",
        ),
        (
            Scope::PfAndIndex,
            "the first argument is the PF, the second says which VF",
        ),
        (
            Scope::None,
            "no argument says which function: only any:call:NAME",
        ),
    ];
    meanings
        .into_iter()
        .filter(|(scope, _)| rows.iter().any(|row| row.function.scope == *scope))
        .map(|(scope, meaning)| format!("  {:<8}  {meaning}", scope.word()))
        .collect()
}

#[cfg(test)]
mod tests;
