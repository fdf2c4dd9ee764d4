// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs on the bench: one, or those of a campaign.

use std::path::Path;

use super::{Failure, Ready};
use crate::campaign::{self, Amount, Asked, Cell, CellAsked, Job, Shard, Store, Table, store};
use crate::event::{EventKind, EventSink};
use crate::host::machine;
use crate::kernel::{BuiltKernel, Functions, Presence};
use crate::oracle::FEW_PROBES;
use crate::report::{Recorder, terminal};
use crate::run::{Listener, NO_SHIM, RunError, RunResult, run};
use crate::scenario::{Scenario, What};

/// How much a campaign runs.
pub(in crate::cli) struct Order {
    /// Boots of a combination.
    pub(in crate::cli) amount: Amount,
    /// The kernel that the others are compared with, if one is named.
    pub(in crate::cli) reference: Option<String>,
    /// The part that is run here.
    pub(in crate::cli) shard: Option<Shard>,
    /// Boots at the same time.
    pub(in crate::cli) jobs: usize,
}

impl Ready<'_> {
    /// Runs one scenario on one kernel, in place of an earlier run in the same directory.
    pub(in crate::cli) fn run(
        &self,
        scenario: &Scenario,
        kernel: &BuiltKernel,
    ) -> Result<RunResult, Failure> {
        check_points(scenario, kernel)?;
        if store::is_campaign(&self.dir) {
            return Err(Failure::IsCampaign(self.dir.clone()));
        }
        let dir = store::boot_dir(&self.dir, &scenario.name, &kernel.name.to_string(), 1);
        std::fs::create_dir_all(&dir).map_err(|source| RunError::Write {
            path: dir.clone(),
            source,
        })?;
        let listener = self.listener(&dir, true);
        Ok(run(&self.one_run(scenario, kernel, dir), listener)?)
    }

    /// Runs scenarios on kernels, as far as there are no results in the directory yet.
    pub(in crate::cli) fn play(&self, cells: &[Cell<'_>], order: &Order) -> Result<Table, Failure> {
        for cell in cells {
            if let Ok(kernel) = cell.kernel {
                check_points(cell.scenario, kernel)?;
            }
        }
        let options = [
            (self.skip_sleep, "skip-sleep"),
            (self.repair, "repair"),
            (self.few_probes, FEW_PROBES),
            (self.no_shim, NO_SHIM),
        ];
        let asked = Asked {
            cells: cells.iter().map(CellAsked::of).collect(),
            amount: order.amount,
            reference: order.reference.clone(),
            options: options
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, name)| (*name).to_owned())
                .collect(),
            arch: self.bench.arch,
            accel: self.accel.to_string(),
            qemu: self.qemu.version.clone(),
            vfrace: env!("CARGO_PKG_VERSION").to_owned(),
            shard: order.shard,
        };
        let (store, there) = Store::open(&self.dir, &asked, &machine::line())?;
        let alone = order.jobs == 1;
        let boot = |job: &Job| {
            let asked = store.asked().cells.get(job.cell);
            // The store was opened with these: it is the same combination if the names are.
            let named = |cell: &&Cell<'_>| {
                let this = CellAsked::of(cell);
                asked.is_some_and(|a| (&a.scenario, &a.kernel) == (&this.scenario, &this.kernel))
            };
            let cell = cells.iter().find(named);
            let Some((scenario, kernel)) = cell.and_then(|c| Some((c.scenario, c.kernel.ok()?)))
            else {
                // The store was opened with these, and only kernels that are built are run.
                return Err(RunError::Write {
                    path: job.dir.clone(),
                    source: std::io::ErrorKind::NotFound.into(),
                });
            };
            let listener = self.listener(&job.dir, alone);
            run(&self.one_run(scenario, kernel, job.dir.clone()), listener)
        };
        let results = campaign::play(&store, there, order.jobs, &self.bench.stop, &boot)?;
        let file = store.file();
        Ok(Table::new(file, &results, &self.expected, None, &self.dir))
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

/// Refuses a schedule with a call point that the kernel does not have.
pub(super) fn check_points(scenario: &Scenario, kernel: &BuiltKernel) -> Result<(), Failure> {
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
