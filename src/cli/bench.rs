// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test bench that `run` and `matrix` share: QEMU, kernels, the guest's parts, signals, progress, results.

mod play;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crate::arch::Arch;
use crate::campaign::Unbuilt;
use crate::event::EventSink;
use crate::exit::ExitCode;
use crate::kernel::{BuiltKernel, KernelError, KernelName, Kernels, Manifest};
use crate::oracle::{Expectations, Expected, KnownIssues};
use crate::paths;

use crate::qemu::provide::{provide, provide_busybox};
use crate::qemu::{Accel, QemuBinary, Wish, choose_accel};
use crate::report::Terminal;
use crate::run::{RunConfig, Stop};
use crate::scenario::{self, Scenario, ScenarioError};

use super::doctor::DoctorArgs;
use super::failure::Failure;
use super::kernel::KernelArgs;
use super::kernels::KernelOptions;
use super::points::PointsArgs;
use super::say;

pub(super) use play::Order;

/// Options that every command that runs guests has.
#[derive(Clone, Debug, clap::Args)]
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
    /// s390x: do not load the module that tells the guest's kernel which function is a VF of which PF, for a QEMU that
    /// says so by itself
    #[arg(long)]
    pub(super) no_shim: bool,
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

    /// Where results go, if that is said.
    pub(super) fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// The same with results going to `out`.
    pub(super) fn with_out(&self, out: PathBuf) -> Self {
        Self {
            out: Some(out),
            ..self.clone()
        }
    }

    /// Everything that changes what a guest does, in no particular form: two that differ are different.
    pub(super) fn shown(&self) -> String {
        let all = Self {
            out: None,
            ..self.clone()
        };
        format!("{all:?}")
    }

    /// Rounds that one boot may serve where nothing but damage ends it: as many as it likes unless told otherwise.
    pub(super) fn most_rounds_in_a_boot(&self) -> u32 {
        let given = self.rounds.and_then(|rounds| u32::try_from(rounds).ok());
        given.unwrap_or(u32::MAX)
    }

    /// Reads a scenario with these parameters.
    fn load(&self, name: &str, data: &Path) -> Result<Scenario, ScenarioError> {
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
    pub(super) arch: Arch,
    pub(super) data: PathBuf,
    pub(super) stop: Stop,
    pub(super) events: EventSink,
    display: JoinHandle<()>,
    pub(super) cache: PathBuf,
    kernels: Kernels,
}

/// A bench with everything in place for guests.
pub(super) struct Ready<'a> {
    bench: &'a Bench,
    kernels: Vec<Result<BuiltKernel, Unbuilt>>,
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
    no_shim: bool,
}

impl Bench {
    /// A bench for guests of `arch`. Finds the directories, and begins to show progress and to listen to signals: the first
    /// SIGINT or SIGTERM stops what is under way in good order, a second one ends the process.
    pub(super) fn new(arch: Arch) -> Result<Self, Failure> {
        let stop = on_signals()?;
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
            arch,
            kernels: kernels.with_arch(arch).with_stop(stop.clone()),
            data,
            stop,
            cache,
            events,
            display,
        })
    }

    /// Reads a scenario with the parameters of `options`. One that needs what this bench's guests do not have is refused.
    pub(super) fn load(&self, options: &Options, name: &str) -> Result<Scenario, ScenarioError> {
        options.load(name, &self.data)?.on(self.arch)
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
        self.ready_with(names, options, |_| None)
    }

    /// The same, and a kernel that does not build is told with its combinations and keeps no other from being run.
    pub(super) fn ready_as_far_as_they_build(
        &self,
        names: &[KernelName],
        options: &Options,
    ) -> Result<Ready<'_>, Failure> {
        self.ready_with(names, options, |error| {
            (error.exit() == ExitCode::CannotTell).then(|| telling_line(error))
        })
    }

    /// `unbuilt` says why there is no kernel, for an error that is no reason to end.
    fn ready_with(
        &self,
        names: &[KernelName],
        options: &Options,
        unbuilt: impl Fn(&KernelError) -> Option<String>,
    ) -> Result<Ready<'_>, Failure> {
        if options.no_shim && self.arch != Arch::S390x {
            return Err(Failure::NoShim(self.arch));
        }
        // A name that does not exist is told before anything is fetched.
        let kernels = self.kernels();
        let manifest = kernels.manifest()?;
        for name in names {
            manifest.find(name.variant())?;
        }
        let expect = self.data.join("guest-tests/expect");
        let known = KnownIssues::load(&expect.join("known.toml"))?;
        let expected = Expectations::load(&expect.join("expect.toml"))?.on(self.arch);
        let qemu = provide(&self.cache, &self.data, self.arch, &self.events, &self.stop)?;
        let busybox =
            provide_busybox(&self.cache, &self.data, self.arch, &self.events, &self.stop)?;
        let build = |name: &KernelName| match kernels.build(name) {
            Ok(kernel) => Ok(Ok(kernel)),
            Err(error) => match unbuilt(&error) {
                Some(why) => Ok(Err(Unbuilt {
                    name: name.to_string(),
                    why,
                })),
                None => Err(error),
            },
        };
        let kernels = names.iter().map(build).collect::<Result<Vec<_>, _>>()?;
        let accel = match kernels.iter().flatten().next() {
            Some(kernel) => choose_accel(
                self.arch,
                &self.cache,
                &qemu,
                &kernel.image,
                options.accel,
                &self.events,
                &self.stop,
            )?,
            // Nothing will be run.
            None => Accel::Tcg,
        };
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
            no_shim: options.no_shim,
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

    /// Other kernels of the same cache, built as the options say.
    pub(super) fn kernels_from(&self, options: &KernelOptions) -> Result<Kernels, Failure> {
        let kernels = Kernels::new(self.cache.clone(), self.data.clone(), self.events.clone());
        let kernels = kernels.with_arch(self.arch).with_stop(self.stop.clone());
        Ok(options.apply(kernels)?)
    }

    /// Where kernels come from.
    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    fn quiet_and_print(self, said: &[u8]) {
        self.quiet();
        say::bytes([said]);
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
    pub(super) fn kernels(&self) -> &[Result<BuiltKernel, Unbuilt>] {
        &self.kernels
    }

    /// The only kernel, where one was asked for and [`Bench::ready`] has built it.
    pub(super) fn kernel(&self) -> Result<&BuiltKernel, Failure> {
        match self.kernels.first() {
            Some(Ok(kernel)) => Ok(kernel),
            _ => Err(Failure::NoKernel),
        }
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
            no_shim: self.no_shim,
            stop: self.bench.stop.clone(),
        }
    }

    /// Refuses a scenario with a call point that the kernel does not have.
    pub(super) fn check(&self, scenario: &Scenario, kernel: &BuiltKernel) -> Result<(), Failure> {
        play::check_points(scenario, kernel)
    }

    /// Where the results are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process.
pub(super) fn on_signals() -> Result<Stop, Failure> {
    let stop: Stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let code = i32::from(ExitCode::Interrupted.code());
        signal_hook::flag::register_conditional_shutdown(signal, code, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(Failure::Signals)?;
    }
    Ok(stop)
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

/// What a kernel's failure to build comes down to: the first line that says `error:`, `undefined` or that there is no rule,
/// of the log or, without one, below the headline; else the headline.
pub(super) fn telling_line(error: &KernelError) -> String {
    if let KernelError::Module { failure } = error {
        return format!(
            "the guest's module, not the kernel: {}",
            telling_line(failure)
        );
    }
    let text = error.to_string();
    let tells = |line: &&str| {
        ["error:", "undefined", "No rule to make target"]
            .iter()
            .any(|words| line.contains(words))
    };
    // Other jobs of make go on after the first error, for longer than the last lines reach back.
    let log = match error {
        KernelError::Make { log, .. } => std::fs::read(log).unwrap_or_default(),
        _ => Vec::new(),
    };
    let log = String::from_utf8_lossy(&log);
    let line = log.lines().find(tells);
    let line = line.or_else(|| text.lines().skip(1).find(tells));
    let line = line.or_else(|| text.lines().next()).unwrap_or_default();
    let line = line.trim();
    // The compiler names files by where the cache has its tree, which tells nobody anything.
    let (path, rest) = line.split_once(':').unwrap_or((line, ""));
    match path.rsplit_once("/tree/") {
        Some((cache, file)) if cache.starts_with('/') => format!("{file}:{rest}"),
        _ => line.to_owned(),
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
    let mut bench = Bench::new(args.guest().arch)?;
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
    let bench = Bench::new(args.guest.arch)?;
    let mut said = Vec::new();
    let exit = super::points::run(args, bench.kernels(), &mut said);
    bench.quiet_and_print(&said);
    Ok(exit?)
}

/// `vfrace doctor`, likewise.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let bench = Bench::new(args.guest.arch)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_kernel_does_not_build_is_a_line() {
        let make = |tail: &str| KernelError::Make {
            what: "kernel v7+rt".to_owned(),
            status: "exit status 2".to_owned(),
            log: "/cache/error: log".into(),
            tail: tail.to_owned(),
        };
        let linker = "  LD      vmlinux\nld: drivers/pci/probe.o: in function `a':\nprobe.c:(.text+0x1): undefined reference to `b'\nmake: *** Error 1";
        assert_eq!(
            telling_line(&make(linker)),
            "probe.c:(.text+0x1): undefined reference to `b'"
        );
        let compiler = "drivers/pci/iov.c:5:1: error: expected `;'\nmake: *** Error 1";
        assert_eq!(
            telling_line(&make(compiler)),
            "drivers/pci/iov.c:5:1: error: expected `;'"
        );
        let in_the_cache = format!("/cache/sources/linux-source-7.2_7.2.12/tree/{compiler}");
        assert_eq!(
            telling_line(&make(&in_the_cache)),
            telling_line(&make(compiler))
        );
        assert!(
            telling_line(&make("make: *** Error 1")).starts_with("kernel v7+rt does not build")
        );
        let module = KernelError::Module {
            failure: Box::new(make("locks.c:96:61: error: no member")),
        };
        assert_eq!(
            telling_line(&module),
            "the guest's module, not the kernel: locks.c:96:61: error: no member"
        );
        assert_eq!(module.exit(), ExitCode::CannotTell);
        let patch = KernelError::PatchDoesNotApply {
            patch: "v9.patch".to_owned(),
            onto: "linux-source-6.12".to_owned(),
            output: "Hunk #1 FAILED at 5.".to_owned(),
        };
        assert_eq!(
            telling_line(&patch),
            "v9.patch does not apply to linux-source-6.12"
        );
    }
}
