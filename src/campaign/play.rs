// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Boots of a campaign, several at a time, each kept as soon as it is judged.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::asked::CellAsked;
use super::error::CampaignError;
use super::plan::{self, Next, Running};
use super::store::{BootResult, Kept, RESULT_SCHEMA, Results, Store, VERSION, now};
use crate::event::Verdict;
use crate::host::files;
use crate::run::{RunError, RunResult};

/// How often a boot is tried again in which the machine failed.
const RETRIES: u32 = 3;
/// Room that the evidence of a boot may need, in MiB: a console that is full of reports is the most of it.
const BOOT_MIB: u64 = 64;
/// How often a worker that waits for others looks whether it should stop.
const POLL: Duration = Duration::from_millis(200);

/// A boot to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// Place of the combination in [`super::Asked::cells`] of the store.
    pub cell: usize,
    /// Number of the boot, from 1.
    pub boot: u32,
    /// An empty directory for its evidence.
    pub dir: PathBuf,
}

/// Runs a boot.
pub type Boot<'a> = &'a (dyn Fn(&Job) -> Result<RunResult, RunError> + Sync);

struct State {
    results: Results,
    running: Running,
    failed: Option<CampaignError>,
    /// A worker panicked.
    broken: bool,
}

/// Lets the others end when a worker panics, so that the panic gets on.
struct Guard<'a, 's>(&'a Shared<'s>);

impl Drop for Guard<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().broken = true;
            self.0.changed.notify_all();
        }
    }
}

struct Shared<'a> {
    store: &'a Store,
    state: Mutex<State>,
    changed: Condvar,
    stop: &'a AtomicBool,
    boot: Boot<'a>,
}

/// Runs what is missing, `jobs` boots at the same time, until nothing is left or `stop` becomes true. `results` are those
/// that are there; boots in which the machine failed are run again. All results are given back, and are in the store.
pub fn play(
    store: &Store,
    mut results: Results,
    jobs: usize,
    stop: &AtomicBool,
    boot: Boot<'_>,
) -> Result<Results, CampaignError> {
    results.retain(|_, result| Kept::is_result(result));
    let shared = Shared {
        store,
        state: Mutex::new(State {
            results,
            running: Running::new(),
            failed: None,
            broken: false,
        }),
        changed: Condvar::new(),
        stop,
        boot,
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| shared.work());
        }
    });
    let state = shared
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match state.failed {
        Some(error) => Err(error),
        None => Ok(state.results),
    }
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn work(&self) {
        let _guard = Guard(self);
        while let Some((at, boot)) = self.take() {
            let result = self.one(at, boot);
            let mut state = self.lock();
            state.running.remove(&(at, boot));
            match result {
                Ok(Some(result)) => {
                    state.results.insert((at, boot), result);
                }
                Ok(None) => {}
                Err(error) => state.failed = state.failed.take().or(Some(error)),
            }
            drop(state);
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// The next boot, when there is one; `None` at the end.
    fn take(&self) -> Option<(usize, u32)> {
        let mut state = self.lock();
        loop {
            if self.stopped() || state.failed.is_some() || state.broken {
                return None;
            }
            match plan::next(self.store.asked(), &state.results, &state.running) {
                Next::Boot(at, boot) => {
                    state.running.insert((at, boot));
                    return Some((at, boot));
                }
                Next::Wait => {
                    let waited = self.changed.wait_timeout(state, POLL);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Done => return None,
            }
        }
    }

    /// Runs a boot and keeps its result; `None` if it was stopped.
    fn one(&self, at: usize, boot: u32) -> Result<Option<BootResult>, CampaignError> {
        let Some(cell) = self.store.asked().cells.get(at) else {
            return Ok(None);
        };
        let mut tries = 0;
        loop {
            tries += 1;
            self.need_space()?;
            let dir = self.store.fresh(&cell.scenario, &cell.kernel, boot)?;
            let job = Job {
                cell: at,
                boot,
                dir,
            };
            let run = (self.boot)(&job)?;
            if run.interrupted || self.stopped() {
                return Ok(None);
            }
            // What was written while the disk ran full is not complete.
            self.need_space()?;
            if run.judgement.verdict == Verdict::Infra && tries <= RETRIES {
                log::warn!(
                    "{}, boot {boot}: the machine failed, tried again: {}",
                    cell.title(),
                    run.judgement.evidence.join("; ")
                );
                continue;
            }
            let result = self.result(cell, boot, tries, run);
            self.store.put(&result)?;
            return Ok(Some(result));
        }
    }

    fn need_space(&self) -> Result<(), CampaignError> {
        let free = files::free_mib(self.store.dir())?;
        if free < BOOT_MIB {
            return Err(CampaignError::Full {
                dir: self.store.dir().to_path_buf(),
                free,
            });
        }
        Ok(())
    }

    fn result(&self, cell: &CellAsked, boot: u32, tries: u32, run: RunResult) -> BootResult {
        let asked = self.store.asked();
        BootResult {
            schema: RESULT_SCHEMA.to_owned(),
            version: VERSION,
            scenario: cell.scenario.clone(),
            kernel: cell.kernel.clone(),
            kernel_id: cell.kernel_id.clone().unwrap_or_default(),
            boot,
            tries,
            judgement: run.judgement,
            seconds: run.seconds,
            finished: now(),
            vfrace: asked.vfrace.clone(),
            qemu: asked.qemu.clone(),
        }
    }
}
