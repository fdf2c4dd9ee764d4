// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the bench is told by the environment, and what its guests need.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use vfrace::arch::Arch;
use vfrace::event::{EventKind, EventSink};
use vfrace::kernel::{BuiltKernel, KernelName, Kernels};
use vfrace::oracle::KnownIssues;
use vfrace::paths;
use vfrace::qemu::provide::{provide, provide_busybox};
use vfrace::qemu::{Accel, QemuBinary, Wish, choose_accel};
use vfrace::run::{RunConfig, Stop};
use vfrace::scenario::{self, Scenario};

use crate::Error;
use crate::play::{Aim, Loop};

/// The race S2: 3 VFs, the second one is unplugged.
const SCENARIO: &str = "unbind-vs-vf-unplug";
const PARAMETERS: [(&str, i64); 2] = [("vfs", 3), ("vf", 2)];

/// What can be chosen. Every name is a variable `VFRACE_BENCH_...`.
pub struct Choice {
    /// `ROUNDS`: rounds of each loop without the sleep.
    rounds: u32,
    /// `SLEEP_ROUNDS`: rounds of each loop with it.
    sleep_rounds: u32,
    /// `ROUNDS_IN_BOOT`: rounds that one boot serves.
    pub rounds_in_boot: u32,
    /// `SEED`: of the random times.
    pub seed: u64,
    /// `PROBES`: what the probes change is measured, instead of what the sleep and aiming are worth.
    probes: bool,
}

pub struct Setup {
    pub choice: Choice,
    pub scenario: Scenario,
    pub kernels: Vec<BuiltKernel>,
    pub qemu: QemuBinary,
    pub accel: Accel,
    known: KnownIssues,
    busybox: PathBuf,
    init: PathBuf,
    room: PathBuf,
    stop: Stop,
}

/// Where it ran, for the results.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub memory_mib: u64,
    pub kernel: String,
}

impl Setup {
    /// Provides QEMU and the kernels. Takes long if they are not in the cache.
    pub fn new() -> Result<Self, Error> {
        let stop: Stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The first one ends the bench in good order, the second one at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
            signal_hook::flag::register(signal, stop.clone())?;
        }
        let rounds = number("ROUNDS", 200)?;
        let choice = Choice {
            rounds,
            sleep_rounds: number("SLEEP_ROUNDS", rounds.div_ceil(4))?,
            rounds_in_boot: number("ROUNDS_IN_BOOT", 25)?,
            seed: number("SEED", std::process::id().into())?,
            probes: number("PROBES", 0u32)? > 0,
        };
        if choice.rounds == 0 || choice.sleep_rounds == 0 || choice.rounds_in_boot == 0 {
            return Err("there is nothing to do with 0 rounds: use 1 or more".into());
        }
        let (data, cache) = (paths::data_dir()?, paths::cache_dir()?);
        let events = progress();
        let scenario = scenario::load(SCENARIO, &data.join("guest-tests/scenarios"), &PARAMETERS)?;
        let names = std::env::var("VFRACE_BENCH_KERNELS").unwrap_or_else(|_| "base".into());
        let names: Vec<KernelName> = names
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let qemu = provide(&cache, &data, Arch::X86_64, &events, &stop)?;
        let busybox = provide_busybox(&cache, &data, Arch::X86_64, &events, &stop)?;
        let builder =
            Kernels::new(cache.clone(), data.clone(), events.clone()).with_stop(stop.clone());
        let kernels: Vec<BuiltKernel> = names
            .iter()
            .map(|name| builder.build(name))
            .collect::<Result<_, _>>()?;
        let first = kernels
            .first()
            .ok_or("VFRACE_BENCH_KERNELS names no kernel: use e.g. `base v7`")?;
        let accel = choose_accel(
            Arch::X86_64,
            &cache,
            &qemu,
            &first.image,
            Wish::Auto,
            &events,
            &stop,
        )?;
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Ok(Self {
            choice,
            scenario,
            qemu,
            accel,
            known: KnownIssues::load(&data.join("guest-tests/expect/known.toml"))?,
            busybox,
            init: data.join("guest-tests/init/init"),
            room: tmp.parent().unwrap_or(tmp).join("bench"),
            stop,
            kernels,
        })
    }

    /// The loops, in their order.
    pub fn loops(&self) -> [Loop; 4] {
        let of = |aim, skip_sleep, few_probes| Loop {
            aim,
            skip_sleep,
            few_probes,
        };
        let (directed, undirected) = (Aim::Directed, Aim::Undirected);
        match self.choice.probes {
            true => [
                of(undirected, true, false),
                of(undirected, true, true),
                of(directed, true, false),
                of(directed, true, true),
            ],
            false => [
                of(directed, true, false),
                of(undirected, true, false),
                of(directed, false, false),
                of(undirected, false, false),
            ],
        }
    }

    /// Rounds of each loop.
    pub fn rounds(&self, skip_sleep: bool) -> u32 {
        match skip_sleep {
            true => self.choice.rounds,
            false => self.choice.sleep_rounds,
        }
    }

    /// What a boot needs. `name` is that of its directory below the bench's.
    pub fn boot<'a>(&'a self, kernel: &'a BuiltKernel, way: Loop, name: &Path) -> RunConfig<'a> {
        RunConfig {
            scenario: &self.scenario,
            kernel,
            qemu: &self.qemu,
            accel: self.accel,
            busybox: &self.busybox,
            init: &self.init,
            known: &self.known,
            dir: self.room.join(name),
            skip_sleep: way.skip_sleep,
            repair: true,
            few_probes: way.few_probes,
            no_shim: false,
            stop: self.stop.clone(),
        }
    }

    /// Where the results go.
    pub fn json(&self) -> PathBuf {
        self.room.join("race.json")
    }

    /// The user has had enough.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        Self {
            cpu: after(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The load average of the last minute: others on the machine make every figure worse. `None`: it cannot be read.
pub fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn number<T: FromStr<Err = std::num::ParseIntError>>(name: &str, default: T) -> Result<T, Error> {
    let name = format!("VFRACE_BENCH_{name}");
    match std::env::var(&name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .map_err(|error| format!("{name}={text}: {error}; use a number").into()),
    }
}

/// Long steps of the preparation, a line each.
fn progress() -> EventSink {
    let (events, received) = EventSink::new();
    // It ends with the last sink.
    std::thread::spawn(move || {
        let mut last = String::new();
        for event in received {
            if let EventKind::Progress { step, .. } = event.kind {
                if step != last {
                    eprintln!("{step}");
                    last = step;
                }
            }
        }
    });
    events
}
