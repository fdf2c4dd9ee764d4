// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run: boot, then per round arm, tear down, fire, settle; at the end remove the PF; judge.
//!
//! A run is one boot of one kernel with one scenario. Whatever goes wrong in it ends up in its verdict; an error is
//! returned only where not even its directory could be written.

mod machine;
mod rounds;
pub(crate) mod steps;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::event::{Event, EventKind, EventSink};
use crate::kernel::BuiltKernel;
use crate::oracle::{FEW_PROBES, Judgement, KnownIssues, judge, judge_round, shows_double_removal};
use crate::qemu::{Accel, QemuBinary};
use crate::scenario::{Scenario, Schedule};
use crate::symbols;

use rounds::Course;

/// Set by a signal handler, looked at by every wait.
pub type Stop = Arc<AtomicBool>;

/// Called for every event of a run, in order, from one thread.
pub type Listener = Box<dyn FnMut(&Event) + Send>;

/// What a run needs.
#[derive(Clone)]
pub struct RunConfig<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The kernel under test.
    pub kernel: &'a BuiltKernel,
    /// QEMU.
    pub qemu: &'a QemuBinary,
    /// Accelerator.
    pub accel: Accel,
    /// A static busybox for the guest.
    pub busybox: &'a Path,
    /// The guest's init.
    pub init: &'a Path,
    /// Known issues of the kernels.
    pub known: &'a KnownIssues,
    /// Where the console, QEMU's log and the command go; created if absent.
    pub dir: PathBuf,
    /// The kernel's sleep of one second in sriov_disable() returns at once.
    pub skip_sleep: bool,
    /// The PF is given back the references that a double removal took, so that more rounds fit into a boot.
    pub repair: bool,
    /// The guest's module wraps only the functions that the judge cannot do without and those of the schedule.
    pub few_probes: bool,
    /// s390x: the module vfrace_zpci is not loaded.
    pub no_shim: bool,
    /// Ends the run early.
    pub stop: Stop,
}

/// The name of that, in what a recording says was done to the guest.
pub const NO_SHIM: &str = "no-shim";

impl RunConfig<'_> {
    fn console_file(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What was done to the guest beside the schedule, for the evidence.
    fn options(&self) -> Vec<String> {
        let all = [
            (self.skip_sleep, "skip-sleep"),
            (self.repair, "repair"),
            (self.few_probes, FEW_PROBES),
            (self.no_shim, NO_SHIM),
        ];
        all.iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }
}

/// What came out of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RunResult {
    /// The judgement.
    pub judgement: Judgement,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Its directory.
    pub dir: PathBuf,
    /// It was stopped from outside: the verdict is not about the kernel.
    pub interrupted: bool,
}

/// The run's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or directory of it.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs it. Blocks until QEMU is gone and everything is written.
pub fn run(config: &RunConfig<'_>, listener: Listener) -> Result<RunResult, RunError> {
    let mut session = Session::start(config.clone(), listener)?;
    for round in 1..=config.scenario.rounds {
        if session.round(&config.scenario.schedule, false).is_err() {
            break;
        }
        // A lost reference stays lost: whatever came after it in this boot would not be a clean round.
        if !config.repair && session.look(|events| shows_double_removal(events, round)) {
            break;
        }
    }
    session.finish()
}

/// The run has ended early; the reason is in its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

/// A run under way: one boot, in which rounds are played one after the other.
pub struct Session<'a> {
    config: Arc<RunConfig<'a>>,
    course: Option<Course<'a>>,
    events: EventSink,
    recording: Arc<Recording>,
    listener: Arc<Mutex<Listener>>,
    follower: JoinHandle<()>,
    rounds: u32,
    start: Instant,
}

impl<'a> Session<'a> {
    /// Boots the guest. Should that fail, the session has no rounds and its verdict says why.
    pub fn start(config: RunConfig<'a>, listener: Listener) -> Result<Self, RunError> {
        let config = Arc::new(config);
        std::fs::create_dir_all(&config.dir).map_err(|source| RunError::Write {
            path: config.dir.clone(),
            source,
        })?;
        let console = config.console_file();
        // QEMU makes it too, but a run that does not get that far is judged as well.
        std::fs::write(&console, b"").map_err(|source| RunError::Write {
            path: console.clone(),
            source,
        })?;
        let start = Instant::now();
        let (events, receiver) = EventSink::new();
        events.emit(EventKind::RunStarted {
            scenario: config.scenario.name.clone(),
            kernel: config.kernel.name.to_string(),
            kernel_id: config.kernel.id.clone(),
            arch: config.kernel.arch,
            vfs: config.scenario.vfs,
            accel: config.accel.to_string(),
            qemu: config.qemu.version.clone(),
            options: config.options(),
        });
        let recording: Arc<Recording> = Arc::default();
        let listener = Arc::new(Mutex::new(listener));
        let follower = {
            let (recording, listener) = (Arc::clone(&recording), Arc::clone(&listener));
            std::thread::spawn(move || recording.follow(&receiver, &listener))
        };
        let course = match Course::boot(Arc::clone(&config), &events) {
            Ok(course) => Some(course),
            Err(cut) => {
                cut.tell(&events);
                None
            }
        };
        Ok(Self {
            config,
            course,
            events,
            recording,
            listener,
            follower,
            rounds: 0,
            start,
        })
    }

    /// Plays a round with `schedule`. With `trace` the guest reports every call that it knows of both tasks.
    pub fn round(&mut self, schedule: &Schedule, trace: bool) -> Result<(), Ended> {
        self.rounds += 1;
        let played = match &mut self.course {
            Some(course) => course.round(self.rounds, schedule, trace),
            None => return Err(Ended),
        };
        played.map_err(|cut| {
            cut.tell(&self.events);
            // Nothing more can be done with this guest.
            self.course = None;
            Ended
        })
    }

    /// Rounds begun so far.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Looks at what has been recorded so far. Everything that the last round waited for is there.
    pub fn look<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        // What was sent before this call is looked at as well; the follower needs microseconds for it.
        let sent = usize::try_from(self.events.sent()).unwrap_or(usize::MAX);
        let patience = Instant::now() + Duration::from_secs(1);
        while self.recording.look(|events| events.len() < sent) && Instant::now() < patience {
            std::thread::yield_now();
        }
        self.recording.look(look)
    }

    /// What the console has said so far.
    pub fn console(&self) -> Result<Vec<u8>, RunError> {
        let path = self.config.console_file();
        std::fs::read(&path).map_err(|source| RunError::Write { path, source })
    }

    /// The judgement on the last round alone, which was played with `schedule`.
    pub fn judge_last_round(&self, schedule: &Schedule) -> Result<Judgement, RunError> {
        let scenario = Scenario {
            schedule: schedule.clone(),
            ..self.config.scenario.clone()
        };
        let (console, known, round) = (self.console()?, self.config.known, self.rounds);
        Ok(self.look(|events| judge_round(&scenario, events, &console, known, round)))
    }

    /// Ends the guest without a last step and without a verdict on the boot. The recording is complete when it returns.
    pub fn abandon(mut self) {
        self.course = None;
        drop(self.events);
        // Should it have panicked, there is nothing left to be done for the recording.
        let _ = self.follower.join();
    }

    /// Removes the PF as a last step, powers the guest off and judges.
    pub fn finish(mut self) -> Result<RunResult, RunError> {
        if let Some(Err(cut)) = self.course.as_mut().map(Course::end) {
            cut.tell(&self.events);
        }
        self.course = None;
        // The follower ends with the last sink.
        drop(self.events);
        // Should it have panicked, what it recorded until then is judged.
        let _ = self.follower.join();
        let mut all = self.recording.take();
        let console = self.config.console_file();
        let bytes = std::fs::read(&console).map_err(|source| RunError::Write {
            path: console,
            source,
        })?;
        let config = &self.config;
        let mut judgement = judge(config.scenario, &all, &bytes, config.known);
        let symbols = &config.kernel.symbols;
        // A kernel that was built before symbols were kept has none: its frames stay as the kernel printed them.
        if symbols.exists() {
            if let Err(error) = symbols::fill_from(&mut judgement.findings, &bytes, symbols) {
                log::warn!("no lines of source for the findings: {error}");
            }
        }
        let seconds = self.start.elapsed().as_secs_f64();
        conclude(
            &mut all,
            &judgement,
            seconds,
            &mut *self.listener.lock().unwrap_or_else(PoisonError::into_inner),
        );
        Ok(RunResult {
            judgement,
            seconds,
            dir: config.dir.clone(),
            interrupted: config.stop.load(Ordering::Acquire),
        })
    }
}

/// Appends findings and judgement to the recording, so that it is complete by itself.
fn conclude(
    all: &mut Vec<Event>,
    judgement: &Judgement,
    seconds: f64,
    listener: &mut (dyn FnMut(&Event) + Send),
) {
    let ns = all.last().map_or(0, |event| event.ns);
    let findings = judgement.findings.iter().cloned().map(EventKind::Finding);
    let judged = EventKind::Judged {
        verdict: judgement.verdict,
        evidence: judgement.evidence.clone(),
        hits: judgement.hits,
        rounds: judgement.rounds,
        seconds,
    };
    for kind in findings.chain(std::iter::once(judged)) {
        let event = Event {
            number: all.len() as u64,
            ns,
            kind,
        };
        listener(&event);
        all.push(event);
    }
}

/// The events so far: written by the follower, read by the rounds (has this one shown what we look for?).
#[derive(Debug, Default)]
pub(crate) struct Recording(Mutex<Vec<Event>>);

impl Recording {
    fn follow(&self, receiver: &Receiver<Event>, listener: &Mutex<Listener>) {
        for event in receiver {
            (*listener.lock().unwrap_or_else(PoisonError::into_inner))(&event);
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(event);
        }
    }

    /// Looks at what has been recorded so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
