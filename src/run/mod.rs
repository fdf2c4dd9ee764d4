// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run: boot, then per round arm, tear down, fire, settle; at the end remove the PF; judge.
//!
//! A run is one boot of one kernel with one scenario. Whatever goes wrong in it ends up in its verdict; an error is
//! returned only where not even its directory could be written.

mod machine;
mod rounds;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::event::{Event, EventKind, EventSink};
use crate::kernel::BuiltKernel;
use crate::oracle::{Judgement, KnownIssues, judge};
use crate::qemu::{Accel, QemuBinary};
use crate::scenario::Scenario;

/// Set by a signal handler, looked at by every wait.
pub type Stop = Arc<AtomicBool>;

/// Called for every event of a run, in order, from one thread.
pub type Listener = Box<dyn FnMut(&Event) + Send>;

/// What a run needs.
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
    /// Ends the run early.
    pub stop: Stop,
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
    std::fs::create_dir_all(&config.dir).map_err(|source| RunError::Write {
        path: config.dir.clone(),
        source,
    })?;
    let console = config.dir.join("console.log");
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
        vfs: config.scenario.vfs,
        accel: config.accel.to_string(),
        qemu: config.qemu.version.clone(),
    });
    let recording = Recording::default();
    let listener = Mutex::new(listener);
    std::thread::scope(|scope| {
        let (recording, listener) = (&recording, &listener);
        scope.spawn(move || recording.follow(&receiver, listener));
        rounds::play(config, &events, recording);
        // The follower ends with the last sink.
        drop(events);
    });

    let mut all = recording.take();
    let console_bytes = std::fs::read(&console).map_err(|source| RunError::Write {
        path: console.clone(),
        source,
    })?;
    let judgement = judge(config.scenario, &all, &console_bytes, config.known);
    let seconds = start.elapsed().as_secs_f64();
    conclude(
        &mut all,
        &judgement,
        seconds,
        &mut *listener.lock().unwrap_or_else(PoisonError::into_inner),
    );
    Ok(RunResult {
        judgement,
        seconds,
        dir: config.dir.clone(),
        interrupted: config.stop.load(Ordering::Acquire),
    })
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
