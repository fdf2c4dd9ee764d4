// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace matrix`: scenarios times kernels, against what is expected.

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::arch::Arch;
use crate::campaign::{Amount, Cell, ErrorBound, MOST_BOOTS, Shard, ShardWish, mutants};
use crate::exit::ExitCode;
use crate::kernel::KernelName;
use crate::report::{self, Style};
use crate::scenario::{self, ScenarioError};

use super::bench::{Bench, Options, Order};
use super::failure::Failure;
use super::guest::GuestOption;
use super::kernels::KernelOptions;
use super::say;

/// More boots of one combination than anybody can wait for.
const MOST: i64 = 1_000_000;

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
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST))]
    boots: u32,
    /// As many boots as it takes until a false PASS is no more likely than this: 1%, 0.001, 1e-9 (docs/statistics.md)
    #[arg(long, value_name = "E", conflicts_with = "boots")]
    error: Option<ErrorBound>,
    /// With --error: boots of a combination at most
    #[arg(long, value_name = "N", requires = "error", default_value_t = MOST_BOOTS, value_parser = clap::value_parser!(u32).range(1..=MOST))]
    max_boots: u32,
    /// The kernel whose hits the others are compared with [default: base if it has any, else the one with the most]
    #[arg(long, value_name = "K")]
    reference: Option<KernelName>,
    /// Only part I of N of the boots, for `vfrace merge`; `auto` or `auto/N` for the task of a Slurm array or of an
    /// Indexed Job that this is (docs/clusters.md)
    #[arg(long, value_name = "I/N")]
    shard: Option<ShardWish>,
    /// Guests at the same time [default: two a core, as memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    from: KernelOptions,
}

impl Args {
    fn amount(&self) -> Amount {
        match self.error {
            None => Amount::Boots(self.boots),
            Some(ErrorBound(error)) => Amount::Error {
                error,
                most_boots: self.max_boots,
            },
        }
    }

    fn shard(&self) -> Result<Option<Shard>, Failure> {
        let Some(wish) = self.shard else {
            return Ok(None);
        };
        if self.error.is_some() {
            return Err(Failure::Shard(
                "--error needs all results, and a part has only its own: use --boots, then `vfrace merge --error`"
                    .to_owned(),
            ));
        }
        let variable = |name: &str| std::env::var(name).ok();
        wish.part(&variable).map(Some).map_err(Failure::Shard)
    }

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
/// is malformed is an error, not left out; one that needs what guests of `arch` do not have is left out.
fn groups(listed: &[String], data: &Path, arch: Arch) -> Result<Vec<String>, ScenarioError> {
    let dir = data.join("guest-tests/scenarios");
    let mut named = Vec::new();
    for name in listed {
        if ![ALL, CONTROLS].contains(&name.as_str()) {
            named.push(name.clone());
            continue;
        }
        for entry in scenario::list(&dir)? {
            let scenario = scenario::load(&entry.name, &dir, &[])?;
            let asked = name == ALL || scenario.unplug.is_none();
            if asked && scenario.fits(arch).is_ok() {
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
    let bench = Bench::new(args.guest.arch)?;
    let bench = bench.build_from(&args.from)?;
    let manifest = bench.manifest()?;
    let kernels = args.from.names(bench.kernels(), &args.kernels, &USUAL)?;
    let shard = args.shard()?;
    let reference = match &args.reference {
        None => None,
        Some(name) => {
            let name = bench.one_kernel(name)?;
            if !kernels.contains(&name) {
                return Err(Failure::Reference(name));
            }
            Some(name.to_string())
        }
    };
    let named = groups(&args.scenarios, &bench.data, bench.arch)?;
    let pairs = mutants::pairs(&manifest, &kernels, &named).map_err(Failure::NoReach)?;
    let mut names: Vec<String> = Vec::new();
    for (name, _) in &pairs {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let scenarios = args.options.load_all(&names, &bench.data)?;
    let scenarios = scenarios
        .into_iter()
        .map(|scenario| scenario.on(bench.arch))
        .collect::<Result<Vec<_>, _>>()?;
    let ready = bench.ready_as_far_as_they_build(&kernels, &args.options)?;
    let cell = |(name, at): &(String, usize)| {
        let named = names.iter().position(|n| n == name)?;
        Some(Cell {
            scenario: scenarios.get(named)?,
            kernel: ready.kernels().get(*at)?.as_ref(),
        })
    };
    let cells: Vec<Cell<'_>> = pairs.iter().filter_map(cell).collect();
    let order = Order {
        amount: args.amount(),
        reference,
        shard,
        jobs: args.jobs(),
    };
    let table = ready.play(&cells, &order)?;
    let dir = ready.dir().to_path_buf();
    let interrupted = bench.stop.load(Ordering::Acquire);
    bench.quiet();
    // What a person waits for comes before a file that may not be written.
    say::out(report::matrix(&table, Style::stdout().color));
    if interrupted {
        say::out(format_args!(
            "stopped before the end: the same command with --out {} goes on\n",
            dir.display()
        ));
    }
    say::out(format_args!("evidence: {}\n", dir.display()));
    table.write(&dir)?;
    Ok(table.exit(interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_for_scenarios() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        let of = |listed: &[&str]| {
            let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
            groups(&listed, data, Arch::X86_64).unwrap()
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
        let elsewhere = groups(&["all".to_owned()], data, Arch::S390x).unwrap();
        assert!(elsewhere.contains(&"unbind-vs-vf-unplug".to_owned()));
        assert!(!elsewhere.contains(&"unbind-vs-surprise".to_owned()));
        assert_eq!(of(&["x", "reach"]), ["x", "reach"]);
        assert!(groups(&["all".to_owned()], Path::new("/nowhere"), Arch::X86_64).is_err());
    }
}
