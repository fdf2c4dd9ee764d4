// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test bench that `run` and `matrix` share: QEMU, kernels, the guest's parts, signals, progress, results.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crate::campaign::{Campaign, Cell, Outcome, play};
use crate::event::{EventKind, EventSink};
use crate::exit::ExitCode;
use crate::kernel::{BuiltKernel, Functions, KernelName, Kernels, Manifest, Presence};
use crate::oracle::{Expectations, Expected, KnownIssues};
use crate::paths;

use crate::qemu::provide::{provide, provide_busybox};
use crate::qemu::{Accel, QemuBinary, Wish, choose_accel};
use crate::report::{Recorder, Terminal, terminal};
use crate::run::{Listener, RunConfig, Stop};
use crate::scenario::{self, Scenario, ScenarioError, What};

use super::doctor::DoctorArgs;
use super::failure::Failure;
use super::kernel::KernelArgs;
use super::kernels::KernelOptions;
use super::points::PointsArgs;

/// Options that every command that runs guests has.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Number of VFs [default: the scenario's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    vfs: Option<i64>,
    /// The VF that is unplugged, from 1 [default: the scenario's]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    vf: Option<i64>,
    /// Rounds in one boot [default: the scenario's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rounds: Option<i64>,
    /// How guest code is run; `auto` takes KVM only if a kernel has been seen to boot with it
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    accel: Wish,
    /// Where results go [default: results/DATE-TIME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The kernel's one-second sleep in sriov_disable() returns at once; stated in the evidence
    #[arg(long)]
    pub(super) skip_sleep: bool,
    /// Give the PF back the references that a double removal took, so that more rounds fit into a boot; stated in the
    /// evidence
    #[arg(long)]
    pub(super) repair: bool,
    /// The guest's module wraps fewer functions of the kernel, to see what its probes do to the race; stated in the
    /// evidence
    #[arg(long)]
    pub(super) few_probes: bool,
}

/// The scenarios below `data` with their titles, one a line.
pub(super) fn titles(data: &Path) -> Result<String, ScenarioError> {
    let dir = data.join("guest-tests/scenarios");
    let entries = scenario::list(&dir)?;
    let width = entries.iter().map(|entry| entry.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |entry: scenario::Entry| {
        let title = match scenario::load(&entry.name, &dir, &[]) {
            Ok(scenario) => scenario.title,
            Err(error) => format!("cannot be used: {error}"),
        };
        format!("  {:width$}  {title}\n", entry.name)
    };
    Ok(entries.into_iter().map(line).collect())
}

impl Options {
    /// The scenario's parameters that were given, with their values.
    pub(super) fn given(&self) -> Vec<(&'static str, i64)> {
        let all = [("vfs", self.vfs), ("vf", self.vf), ("rounds", self.rounds)];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// Rounds that one boot may serve where nothing but damage ends it: as many as it likes unless told otherwise.
    pub(super) fn most_rounds_in_a_boot(&self) -> u32 {
        let given = self.rounds.and_then(|rounds| u32::try_from(rounds).ok());
        given.unwrap_or(u32::MAX)
    }

    /// Reads a scenario with these parameters.
    pub(super) fn load(&self, name: &str, data: &Path) -> Result<Scenario, ScenarioError> {
        scenario::load(name, &data.join("guest-tests/scenarios"), &self.given())
    }

    /// Reads several scenarios. A parameter goes to those that have it; one that none of them has is an error.
    pub(super) fn load_all(
        &self,
        names: &[String],
        data: &Path,
    ) -> Result<Vec<Scenario>, ScenarioError> {
        let dir = data.join("guest-tests/scenarios");
        let mut used = BTreeSet::new();
        let mut scenarios = Vec::new();
        for name in names {
            let mut given = self.given();
            scenarios.push(loop {
                match scenario::load(name, &dir, &given) {
                    Err(ScenarioError::NoParameter { name, .. }) => {
                        given.retain(|(given, _)| *given != name);
                    }
                    loaded => break loaded?,
                }
            });
            used.extend(given.into_iter().map(|(name, _)| name));
        }
        if self.given().iter().any(|(name, _)| !used.contains(name)) {
            // Any of them says it.
            for name in names {
                scenario::load(name, &dir, &self.given())?;
            }
        }
        Ok(scenarios)
    }
}

/// What all guests of a command share.
pub(super) struct Bench {
    pub(super) data: PathBuf,
    pub(super) stop: Stop,
    pub(super) events: EventSink,
    display: JoinHandle<()>,
    cache: PathBuf,
    kernels: Kernels,
}

/// A bench with everything in place for guests.
pub(super) struct Ready<'a> {
    bench: &'a Bench,
    kernels: Vec<BuiltKernel>,
    qemu: QemuBinary,
    busybox: PathBuf,
    init: PathBuf,
    accel: Accel,
    known: KnownIssues,
    expected: Expectations,
    dir: PathBuf,
    skip_sleep: bool,
    repair: bool,
    few_probes: bool,
}

impl Bench {
    /// Finds the directories, and begins to show progress and to listen to signals: the first SIGINT or SIGTERM stops
    /// what is under way in good order, a second one ends the process.
    pub(super) fn new() -> Result<Self, Failure> {
        let stop: Stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let code = i32::from(crate::exit::ExitCode::Interrupted.code());
            signal_hook::flag::register_conditional_shutdown(signal, code, stop.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
                .map_err(Failure::Signals)?;
        }
        let (data, cache) = (paths::data_dir()?, paths::cache_dir()?);
        let (events, received) = EventSink::new();
        let display = std::thread::spawn(move || {
            let mut terminal = Terminal::stderr();
            for event in received {
                terminal.event(&event);
            }
        });
        let kernels = Kernels::new(cache.clone(), data.clone(), events.clone());
        Ok(Self {
            kernels: kernels.with_stop(stop.clone()),
            data,
            stop,
            cache,
            events,
            display,
        })
    }

    /// The same with kernels that are built as the options say.
    pub(super) fn build_from(mut self, options: &KernelOptions) -> Result<Self, Failure> {
        self.kernels = options.apply(self.kernels)?;
        Ok(self)
    }

    /// Provides QEMU, builds the kernels and chooses the accelerator.
    pub(super) fn ready(
        &self,
        names: &[KernelName],
        options: &Options,
    ) -> Result<Ready<'_>, Failure> {
        // A name that does not exist is told before anything is fetched.
        let kernels = self.kernels();
        let manifest = kernels.manifest()?;
        for name in names {
            manifest.find(name.variant())?;
        }
        let expect = self.data.join("guest-tests/expect");
        let known = KnownIssues::load(&expect.join("known.toml"))?;
        let expected = Expectations::load(&expect.join("expect.toml"))?;
        let qemu = provide(&self.cache, &self.data, &self.events, &self.stop)?;
        let busybox = provide_busybox(&self.cache, &self.data, &self.events, &self.stop)?;
        let kernels = names
            .iter()
            .map(|name| kernels.build(name))
            .collect::<Result<Vec<BuiltKernel>, _>>()?;
        let image = kernels
            .first()
            .map_or(Path::new(""), |kernel| &kernel.image);
        let accel = choose_accel(
            &self.cache,
            &qemu,
            image,
            options.accel,
            &self.events,
            &self.stop,
        )?;
        let dir = results_dir(options.out.as_deref())?;
        let init = self.data.join("guest-tests/init/init");
        Ok(Ready {
            bench: self,
            kernels,
            qemu,
            busybox,
            init,
            accel,
            known,
            expected,
            dir,
            skip_sleep: options.skip_sleep,
            repair: options.repair,
            few_probes: options.few_probes,
        })
    }

    /// The kernel variants that there are.
    pub(super) fn manifest(&self) -> Result<Manifest, Failure> {
        Ok(self.kernels().manifest()?)
    }

    /// The kernel that a name stands for where there can be only one: that of the variant with its code for an alias.
    pub(super) fn one_kernel(&self, name: &KernelName) -> Result<KernelName, Failure> {
        only(
            self.kernels.names(std::slice::from_ref(name))?,
            &name.to_string(),
        )
    }

    /// Where kernels come from.
    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    fn quiet_and_print(self, said: &[u8]) {
        self.quiet();
        // A reader that went away is nobody's fault.
        let _ = std::io::stdout().write_all(said);
    }

    /// Ends the display of progress; what is printed afterwards stays below it.
    pub(super) fn quiet(self) {
        drop((self.events, self.kernels));
        // It ends with the last sink. Should it have panicked, the results are still worth printing.
        let _ = self.display.join();
    }
}

impl Ready<'_> {
    /// What is expected of a scenario on a kernel.
    pub(super) fn expected(&self, scenario: &Scenario, kernel: &KernelName) -> Option<Expected> {
        self.expected
            .expectation(&scenario.name, &kernel.to_string())
    }

    /// The kernels, in the order of their names on the command line.
    pub(super) fn kernels(&self) -> &[BuiltKernel] {
        &self.kernels
    }

    /// What one run needs, with its results in `dir`.
    pub(super) fn one_run<'b>(
        &'b self,
        scenario: &'b Scenario,
        kernel: &'b BuiltKernel,
        dir: PathBuf,
    ) -> RunConfig<'b> {
        RunConfig {
            scenario,
            kernel,
            qemu: &self.qemu,
            accel: self.accel,
            busybox: &self.busybox,
            init: &self.init,
            known: &self.known,
            dir,
            skip_sleep: self.skip_sleep,
            repair: self.repair,
            few_probes: self.few_probes,
            stop: self.bench.stop.clone(),
        }
    }

    /// Where the results are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs scenarios on kernels.
    pub(super) fn play(
        &self,
        cells: &[Cell<'_>],
        boots: u32,
        jobs: usize,
    ) -> Result<Vec<Outcome>, Failure> {
        for cell in cells {
            check_points(cell.scenario, cell.kernel)?;
        }
        let alone = jobs == 1;
        let listen = |dir: &Path| self.listener(dir, alone);
        Ok(play(&Campaign {
            cells,
            boots,
            jobs,
            qemu: &self.qemu,
            accel: self.accel,
            busybox: &self.busybox,
            init: &self.init,
            known: &self.known,
            expected: &self.expected,
            dir: self.dir.clone(),
            skip_sleep: self.skip_sleep,
            repair: self.repair,
            few_probes: self.few_probes,
            stop: self.bench.stop.clone(),
            listen: &listen,
        })?)
    }

    /// Writes a run's events and passes its progress on.
    fn listener(&self, dir: &Path, alone: bool) -> Listener {
        let boot = dir.file_name().unwrap_or_default().to_string_lossy();
        let boot = boot.trim_start_matches("boot-").parse().unwrap_or(1);
        let path = dir.join("events.jsonl");
        let told = |error| log::error!("the recording {} is incomplete: {error}", path.display());
        let mut file = Recorder::create(&path).map_err(told).ok();
        let display = self.bench.events.clone();
        let name = path.display().to_string();
        let mut step = None;
        Box::new(move |event| {
            if alone {
                if !matches!(event.kind, EventKind::Wire(_) | EventKind::Guest(_)) {
                    display.emit(event.kind.clone());
                }
            } else {
                summarise(&mut step, &display, &event.kind, boot);
            }
            let last = matches!(event.kind, EventKind::Judged { .. });
            let written = file.as_mut().map_or(Ok(()), |file| {
                file.write(event)?;
                if last { file.flush() } else { Ok(()) }
            });
            if let Err(error) = written {
                // Said once: the run goes on, its verdict does not depend on the file.
                log::error!("the recording {name} is incomplete: {error}");
                file = None;
            }
        })
    }
}

/// The kernel of a list that has to be one. `asked` is for the message.
pub(super) fn only(mut kernels: Vec<KernelName>, asked: &str) -> Result<KernelName, Failure> {
    match (kernels.pop(), kernels.is_empty()) {
        (Some(kernel), true) => Ok(kernel),
        (last, _) => {
            kernels.extend(last);
            let asked = asked.to_owned();
            Err(Failure::SeveralKernels { asked, kernels })
        }
    }
}

/// Refuses a schedule with a call point that the kernel does not have.
fn check_points(scenario: &Scenario, kernel: &BuiltKernel) -> Result<(), Failure> {
    let mut calls = scenario
        .schedule
        .points()
        .filter_map(|point| match &point.what {
            What::Call { call, .. } => Some((point, call)),
            What::Wire { .. } => None,
        });
    let Some(first) = calls.next() else {
        return Ok(());
    };
    let functions = Functions::load(kernel)?;
    for (point, call) in std::iter::once(first).chain(calls) {
        let presence = functions.has(call);
        if presence != Presence::Ftraceable {
            return Err(Failure::Point {
                point: point.to_string(),
                kernel: kernel.name.to_string(),
                why: presence.to_string(),
            });
        }
    }
    Ok(())
}

/// Several guests at a time: of each only where it is and what came out.
fn summarise(step: &mut Option<String>, display: &EventSink, kind: &EventKind, boot: u32) {
    match (kind, step.as_deref()) {
        (
            EventKind::RunStarted {
                scenario, kernel, ..
            },
            _,
        ) => {
            let again = if boot > 1 {
                format!(", boot {boot}")
            } else {
                String::new()
            };
            *step = Some(format!("{scenario} on {kernel}{again}"));
        }
        (EventKind::Phase { phase, round, .. }, Some(step)) => {
            let detail = terminal::where_it_is(*phase, *round);
            display.progress(step, detail, None);
        }
        (
            EventKind::Judged {
                verdict,
                hits,
                rounds,
                seconds,
                ..
            },
            Some(step),
        ) => {
            display.finished(
                step,
                format!("{verdict}  {hits}/{rounds} rounds  {seconds:.1} s"),
            );
        }
        _ => {}
    }
}

/// The results directory: a new one under results/ unless one is named.
fn results_dir(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let dir = match named {
        Some(dir) => dir.to_path_buf(),
        None => {
            let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
            Path::new("results").join(now.trim_end_matches('Z').replace(':', "-"))
        }
    };
    std::fs::create_dir_all(&dir).map_err(|source| Failure::Results {
        path: dir.clone(),
        source,
    })?;
    Ok(dir)
}

/// `vfrace kernel`, with progress and signals as everywhere.
pub(super) fn kernel(args: &KernelArgs) -> Result<ExitCode, Failure> {
    let mut bench = Bench::new()?;
    if let Some(from) = args.from() {
        bench = bench.build_from(from)?;
    }
    let expected = Expectations::load(&bench.data.join("guest-tests/expect/expect.toml"))?;
    let mut said = Vec::new();
    let exit = super::kernel::run(args, bench.kernels(), &expected, &mut said);
    bench.quiet_and_print(&said);
    Ok(exit?)
}

/// `vfrace points`, likewise.
pub(super) fn points(args: &PointsArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::new()?;
    let mut said = Vec::new();
    let exit = super::points::run(args, bench.kernels(), &mut said);
    bench.quiet_and_print(&said);
    Ok(exit?)
}

/// `vfrace doctor`, likewise.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::new()?;
    let mut said = Vec::new();
    let exit = super::doctor::run(
        args,
        &bench.cache,
        &bench.data,
        &bench.events,
        &bench.stop,
        &mut said,
    );
    bench.quiet_and_print(&said);
    Ok(exit)
}
