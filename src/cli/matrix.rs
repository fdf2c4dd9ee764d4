// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace matrix`: scenarios times kernels, against what is expected.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::campaign::{Cell, exit, mutants};
use crate::exit::ExitCode;
use crate::kernel::KernelName;
use crate::report::{self, MatrixRow, Style};
use crate::scenario::{self, ScenarioError};

use super::bench::{Bench, Options};
use super::failure::Failure;
use super::kernels::KernelOptions;

/// Arguments of `vfrace matrix`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kernels under test; `all` stands for every variant, `v5..v14` for those from v5 to v14, `mutants` for all that are
    /// broken on purpose [default: base,v5,v6,v7, or what the options below say]
    #[arg(long, value_name = "K,...", value_delimiter = ',')]
    kernels: Vec<KernelName>,
    /// Scenarios; `all` stands for all of them, `controls` for those in which nothing is unplugged, `reach` for those that
    /// reach a mutant's mistake [default: reach if all kernels are mutants, else
    /// unbind-vs-vf-unplug,unbind-alone,pf-remove-with-vfs]
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Boots of each combination
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,
    /// Guests at the same time [default: two a core, as memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    from: KernelOptions,
}

impl Args {
    /// A guest sleeps for over a third of its time, a second in each sriov_disable() alone: two a core keep a machine
    /// busy (measured on two cores). Each takes about 1 GiB with QEMU; half of the memory is left alone.
    fn jobs(&self) -> usize {
        let default = || {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let memory = rustix::system::sysinfo();
            let gib = u64::from(memory.mem_unit).saturating_mul(memory.totalram as u64) >> 30;
            (2 * cores)
                .min(usize::try_from(gib / 2).unwrap_or(usize::MAX))
                .max(1)
        };
        self.jobs.map_or_else(default, usize::from)
    }
}

/// The kernels, unless others are named.
const USUAL: [&str; 4] = ["base", "v5", "v6", "v7"];
/// Every scenario, where scenarios are listed.
const ALL: &str = "all";
/// The scenarios without an unplug.
const CONTROLS: &str = "controls";

/// Replaces [`ALL`] and [`CONTROLS`] by the scenarios below `data` that they stand for. Every file is loaded then: one that
/// is malformed is an error, not left out.
fn groups(listed: &[String], data: &Path) -> Result<Vec<String>, ScenarioError> {
    let dir = data.join("guest-tests/scenarios");
    let mut named = Vec::new();
    for name in listed {
        if ![ALL, CONTROLS].contains(&name.as_str()) {
            named.push(name.clone());
            continue;
        }
        for entry in scenario::list(&dir)? {
            let scenario = scenario::load(&entry.name, &dir, &[])?;
            if name == ALL || scenario.unplug.is_none() {
                named.push(entry.name);
            }
        }
    }
    Ok(named)
}

pub(super) fn run(args: &Args) -> ExitCode {
    play(args).unwrap_or_else(Failure::tell)
}

fn play(args: &Args) -> Result<ExitCode, Failure> {
    let bench = Bench::new()?;
    let bench = bench.build_from(&args.from)?;
    let manifest = bench.manifest()?;
    let kernels = args.from.names(bench.kernels(), &args.kernels, &USUAL)?;
    let named = groups(&args.scenarios, &bench.data)?;
    let pairs = mutants::pairs(&manifest, &kernels, &named).map_err(Failure::NoReach)?;
    let mut names: Vec<String> = Vec::new();
    for (name, _) in &pairs {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let scenarios = args.options.load_all(&names, &bench.data)?;
    let ready = bench.ready(&kernels, &args.options)?;
    let cell = |(name, at): &(String, usize)| {
        let named = names.iter().position(|n| n == name)?;
        Some(Cell {
            scenario: scenarios.get(named)?,
            kernel: ready.kernels().get(*at)?,
        })
    };
    let cells: Vec<Cell<'_>> = pairs.iter().filter_map(cell).collect();
    let outcomes = ready.play(&cells, args.boots, args.jobs())?;
    let dir = ready.dir().to_path_buf();
    let interrupted = bench.stop.load(Ordering::Acquire);
    bench.quiet();
    let rows: Vec<MatrixRow> = outcomes
        .iter()
        .map(|outcome| MatrixRow {
            scenario: outcome.scenario.clone(),
            kernel: outcome.kernel.clone(),
            verdict: outcome.verdict,
            expected: outcome.expected.clone(),
            as_expected: outcome.expected.is_none() || outcome.is_as_expected(),
            seen: outcome.seen().map(report::in_a_line),
            hits: outcome.hits,
            rounds: outcome.rounds,
            seconds: outcome.seconds,
        })
        .collect();
    let file = dir.join("matrix.json");
    let json = serde_json::to_vec_pretty(&outcomes).map_err(std::io::Error::from);
    json.and_then(|json| std::fs::write(&file, json))
        .map_err(|source| Failure::Results { path: file, source })?;
    print!("{}", report::matrix(&rows, Style::stdout().color));
    if interrupted {
        println!(
            "stopped before the end: {} of {} combinations were run",
            rows.len(),
            pairs.len()
        );
    }
    println!("evidence: {}", dir.display());
    Ok(exit(&outcomes, interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_for_scenarios() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        let of = |listed: &[&str]| {
            let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
            groups(&listed, data).unwrap()
        };
        let controls = of(&["controls"]);
        assert!(
            controls.contains(&"unbind-alone".to_owned()),
            "{controls:?}"
        );
        assert!(
            controls.contains(&"pf-remove-with-vfs".to_owned()),
            "{controls:?}"
        );
        assert!(
            controls.iter().all(|name| !name.contains("-vs-")),
            "{controls:?}"
        );
        let all = of(&["all"]);
        assert!(controls.iter().all(|name| all.contains(name)));
        assert!(all.contains(&"unbind-vs-vf-unplug".to_owned()));
        assert_eq!(of(&["x", "reach"]), ["x", "reach"]);
        assert!(groups(&["all".to_owned()], Path::new("/nowhere")).is_err());
    }
}
