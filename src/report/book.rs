// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a report is about, whatever its format: combinations of scenario and kernel, the boots of each, and with what
//! they were run. Made from a campaign, from recordings of single runs, or from a report as JSON lines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::matrix;
use crate::arch::Arch;
use crate::campaign::store::Kept;
use crate::campaign::{Amount, Asked, BootResult, Table, verdict_exit};
use crate::event::{Event, EventKind, Finding, Standing, Verdict};
use crate::exit::ExitCode;
use crate::oracle::{Expectations, Judgement};

/// A combination with its boots.
pub type Entry = (Cell, Vec<Boot>);

/// Everything that a report tells, apart from timelines.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    /// With what it was run.
    pub head: Head,
    /// Combinations in the order in which they were asked for, each with its boots by number.
    pub cells: Vec<Entry>,
}

/// With what it was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// A line that says what it is.
    pub title: String,
    /// A command that asks for the same.
    pub command: String,
    /// When it was begun, as in RFC 3339, if that is recorded.
    pub started: Option<String>,
    /// When its last boot was judged, if that is recorded.
    pub finished: Option<String>,
    /// The machines that worked on it, a line each.
    pub machines: Vec<String>,
    /// Version of the vfrace that ran it, if that is recorded.
    pub vfrace: Option<String>,
    /// QEMU's version.
    pub qemu: String,
    /// Accelerator.
    pub accel: String,
    /// What was done to the guests beside the schedule.
    pub options: Vec<String>,
    /// Boots, or combinations, that should be there and are not; and what else the reader has to know.
    pub remarks: Vec<String>,
}

/// What a combination comes down to, for consumers that know only tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// As it should be.
    Good,
    /// A finding, or not what was expected.
    Bad,
    /// Nothing can be told about the kernel.
    CannotTell,
    /// The machine failed.
    Machine,
}

impl Result {
    fn of(exit: ExitCode) -> Self {
        match exit {
            ExitCode::Good => Result::Good,
            ExitCode::Bad => Result::Bad,
            ExitCode::CannotTell => Result::CannotTell,
            _ => Result::Machine,
        }
    }
}

/// A combination of scenario and kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// Kernel identity; `None` for one that does not build.
    pub kernel_id: Option<String>,
    /// Version of the kernel's source, if that is recorded.
    pub source: Option<String>,
    /// Number of VFs.
    pub vfs: u16,
    /// Over all boots: the one that ranks first.
    pub verdict: Verdict,
    /// What that comes down to.
    pub result: Result,
    /// What was expected, in words; `None` if nothing is stated.
    pub expected: Option<String>,
    /// Whether it is as expected; `None` if nothing is stated.
    pub as_expected: Option<bool>,
    /// Rounds with the verdict, of how many, and how sure that is, in words.
    pub rate: String,
    /// Rounds that showed the verdict; 0 if it is not a finding.
    pub hits: u32,
    /// Rounds run.
    pub rounds: u32,
    /// Boots.
    pub boots: u32,
    /// Boots by verdict.
    pub verdicts: Vec<(Verdict, u32)>,
    /// Seconds of all boots together.
    pub seconds: f64,
    /// The finding that the verdict rests on.
    pub seen: Option<Finding>,
    /// The line of evidence that tells most.
    pub evidence: Option<String>,
}

/// A boot of a combination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// Its number, from 1.
    pub boot: u32,
    /// The judgement on it.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// Seconds it took.
    pub seconds: f64,
    /// Where its recording is.
    pub dir: PathBuf,
}

impl Cell {
    /// `SCENARIO on KERNEL`.
    pub fn name(&self) -> String {
        format!("{} on {}", self.scenario, self.kernel)
    }
}

/// A recording of a single run.
#[derive(Clone, Debug)]
pub struct Recorded {
    dir: PathBuf,
    scenario: String,
    kernel: String,
    kernel_id: String,
    arch: Arch,
    vfs: u16,
    accel: String,
    qemu: String,
    options: Vec<String>,
    schedule: Option<String>,
    judgement: Judgement,
    seconds: f64,
}

impl Recorded {
    /// What the events of a run say by themselves; the missing part in words if they do not say enough. `dir` is where
    /// they are.
    pub fn new(dir: &Path, events: &[Event]) -> std::result::Result<Self, &'static str> {
        let mut judged = None;
        let (mut schedule, mut findings) = (None, Vec::new());
        let mut begun = None;
        for event in events {
            match &event.kind {
                EventKind::RunStarted { .. } => begun = begun.or(Some(&event.kind)),
                EventKind::Schedule { text } => schedule = schedule.or_else(|| Some(text.clone())),
                EventKind::Finding(finding) => findings.push(finding.clone()),
                EventKind::Judged { .. } => judged = Some(&event.kind),
                _ => {}
            }
        }
        let Some(EventKind::RunStarted {
            scenario,
            kernel,
            kernel_id,
            arch,
            vfs,
            accel,
            qemu,
            options,
        }) = begun
        else {
            return Err("it does not say which scenario was run");
        };
        let Some(EventKind::Judged {
            verdict,
            evidence,
            hits,
            rounds,
            seconds,
        }) = judged
        else {
            return Err("the run was not judged: it was stopped, or is still going on");
        };
        Ok(Recorded {
            dir: dir.to_path_buf(),
            scenario: scenario.clone(),
            kernel: kernel.clone(),
            kernel_id: kernel_id.clone(),
            arch: *arch,
            vfs: *vfs,
            accel: accel.clone(),
            qemu: qemu.clone(),
            options: options.clone(),
            schedule,
            judgement: Judgement {
                verdict: *verdict,
                findings,
                evidence: evidence.clone(),
                hits: *hits,
                rounds: *rounds,
            },
            seconds: *seconds,
        })
    }
}

impl Book {
    /// A campaign as it is on the disk. Consumes the results: there may be many.
    pub fn of_campaign(kept: Kept, expected: &Expectations) -> Self {
        let table = Table::new(&kept.file, &kept.results, expected, None, &kept.dir);
        drop(kept.results);
        let remarks = matrix::remarks(&table);
        let asked = &kept.file.asked;
        let head = Head {
            title: matrix::totals(&table).trim_end().to_owned(),
            command: campaign_command(asked),
            started: Some(table.started.clone()),
            finished: table.finished.clone(),
            machines: table.machines.clone(),
            vfrace: Some(table.vfrace.clone()),
            qemu: table.qemu.clone(),
            accel: table.accel.clone(),
            options: table.options.clone(),
            remarks,
        };
        let cells = table.outcomes.into_iter().map(|mut outcome| {
            let at = asked.find(&outcome.scenario, &outcome.kernel);
            let vfs = at.and_then(|at| asked.cells.get(at)).map_or(0, |c| c.vfs);
            let boots = std::mem::take(&mut outcome.boots);
            let dir = outcome.dir.clone();
            let cell = Cell {
                vfs,
                result: Result::of(outcome.exit()),
                expected: outcome.expected.as_ref().map(ToString::to_string),
                as_expected: outcome.expected.is_some().then_some(outcome.as_expected),
                rate: matrix::rounds(&outcome),
                hits: outcome.shown,
                rounds: outcome.tally.rounds,
                boots: outcome.tally.boots,
                scenario: outcome.scenario,
                kernel: outcome.kernel,
                kernel_id: outcome.kernel_id,
                source: outcome.source_version,
                verdict: outcome.verdict,
                verdicts: outcome.verdicts,
                seconds: outcome.seconds,
                seen: outcome.seen,
                evidence: outcome.evidence,
            };
            let boot = |result: BootResult| Boot {
                boot: result.boot,
                dir: dir.join(format!("boot-{}", result.boot)),
                judgement: result.judgement,
                seconds: result.seconds,
            };
            (cell, boots.into_iter().map(boot).collect())
        });
        Book {
            head,
            cells: cells.collect(),
        }
    }

    /// Single runs; those of the same scenario and kernel become one combination. `unread` says of others why they are
    /// not in it.
    pub fn of_runs(runs: Vec<Recorded>, unread: Vec<String>) -> Self {
        let first = runs.first().cloned();
        let mut groups: Vec<Vec<Recorded>> = Vec::new();
        for run in runs {
            let same = |group: &&mut Vec<Recorded>| {
                group.first().is_some_and(|first| {
                    (&first.scenario, &first.kernel, &first.kernel_id)
                        == (&run.scenario, &run.kernel, &run.kernel_id)
                })
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(run),
                None => groups.push(vec![run]),
            }
        }
        let mut remarks = unread;
        let cells: Vec<(Cell, Vec<Boot>)> = groups.into_iter().filter_map(grouped).collect();
        let runs: usize = cells.iter().map(|(_, boots)| boots.len()).sum();
        if runs > 1 {
            remarks.push("these runs are no campaign: there is no bound for a PASS".to_owned());
        }
        let (qemu, accel, options, command) = match &first {
            Some(run) => (
                run.qemu.clone(),
                run.accel.clone(),
                run.options.clone(),
                run_command(run),
            ),
            None => Default::default(),
        };
        Book {
            head: Head {
                title: match cells.as_slice() {
                    [(cell, boots)] if boots.len() == 1 => cell.name(),
                    _ => format!("{runs} runs"),
                },
                command,
                started: None,
                finished: None,
                machines: Vec::new(),
                vfrace: None,
                qemu,
                accel,
                options,
                remarks,
            },
            cells,
        }
    }

    /// The only boot, if there is one alone.
    pub fn single(&self) -> Option<(&Cell, &Boot)> {
        match self.cells.as_slice() {
            [(cell, boots)] if self.head.started.is_none() => match boots.as_slice() {
                [boot] => Some((cell, boot)),
                _ => None,
            },
            _ => None,
        }
    }

    /// `vfrace 0.1.0, QEMU 11.1.3 (tcg), Linux 7.2.12-1, skip-sleep`, as far as it is recorded.
    pub fn versions(&self) -> String {
        let mut with = Vec::new();
        with.extend(self.head.vfrace.as_ref().map(|v| format!("vfrace {v}")));
        with.push(format!("QEMU {} ({})", self.head.qemu, self.head.accel));
        let mut sources: Vec<&str> = Vec::new();
        for source in self
            .cells
            .iter()
            .filter_map(|(cell, _)| cell.source.as_deref())
        {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        if !sources.is_empty() {
            with.push(format!("Linux {}", sources.join(", ")));
        }
        with.extend(self.head.options.iter().cloned());
        with.join(", ")
    }

    /// Scenarios in order, each with its combinations.
    pub fn scenarios(&self) -> Vec<(&str, Vec<&Entry>)> {
        let mut scenarios: Vec<(&str, Vec<&Entry>)> = Vec::new();
        for entry in &self.cells {
            let name = entry.0.scenario.as_str();
            match scenarios.iter_mut().find(|(known, _)| *known == name) {
                Some((_, cells)) => cells.push(entry),
                None => scenarios.push((name, vec![entry])),
            }
        }
        scenarios
    }
}

/// The combination of runs of one scenario on one kernel.
fn grouped(runs: Vec<Recorded>) -> Option<(Cell, Vec<Boot>)> {
    let first = runs.first()?;
    let verdict = runs.iter().map(|run| run.judgement.verdict).min()?;
    let mut verdicts: Vec<(Verdict, u32)> = Vec::new();
    for run in &runs {
        match verdicts
            .iter_mut()
            .find(|(v, _)| *v == run.judgement.verdict)
        {
            Some((_, n)) => *n = n.saturating_add(1),
            None => verdicts.push((run.judgement.verdict, 1)),
        }
    }
    let decisive = || {
        let judgements = runs.iter().map(|run| &run.judgement);
        judgements.filter(move |j| j.verdict == verdict)
    };
    let sum = |of: &dyn Fn(&Judgement) -> u32| {
        let all = runs.iter().map(|run| of(&run.judgement));
        all.fold(0u32, u32::saturating_add)
    };
    let (hits, rounds) = (sum(&|j| j.hits), sum(&|j| j.rounds));
    let finding = |standing: fn(Standing) -> bool| {
        let mut all = decisive().flat_map(|j| &j.findings);
        all.find(|f| standing(f.standing)).cloned()
    };
    let cell = Cell {
        scenario: first.scenario.clone(),
        kernel: first.kernel.clone(),
        kernel_id: Some(first.kernel_id.clone()),
        source: None,
        vfs: first.vfs,
        verdict,
        result: Result::of(verdict_exit(verdict)),
        expected: None,
        as_expected: None,
        rate: match verdict {
            Verdict::Pass => format!("{rounds}/{rounds} clean"),
            _ => format!("{hits}/{rounds}"),
        },
        hits,
        rounds,
        boots: u32::try_from(runs.len()).unwrap_or(u32::MAX),
        verdicts,
        seconds: runs.iter().map(|run| run.seconds).sum(),
        seen: finding(|s| s == Standing::Wanted).or_else(|| finding(|s| s != Standing::Known)),
        evidence: decisive()
            .find_map(Judgement::telling_evidence)
            .map(str::to_owned),
    };
    let boot = |(boot, run): (u32, Recorded)| Boot {
        boot,
        judgement: run.judgement,
        seconds: run.seconds,
        dir: run.dir,
    };
    Some((cell, (1..).zip(runs).map(boot).collect()))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(",")
}

/// Options of the guest as they are given on the command line. A recording has them without the dashes.
fn guest_options(options: &[String], arch: Arch) -> String {
    let mut text: String = options.iter().map(|o| format!(" --{o}")).collect();
    if !arch.is_default() {
        text += &format!(" --arch {arch}");
    }
    text
}

fn campaign_command(asked: &Asked) -> String {
    let cells = &asked.cells;
    let amount = match asked.amount {
        Amount::Boots(boots) => format!("--boots {boots}"),
        Amount::Error { error, .. } => format!("--error {error}"),
    };
    format!(
        "vfrace matrix --kernels {} --scenarios {} {amount}{}",
        distinct(cells.iter().map(|c| c.kernel.as_str())),
        distinct(cells.iter().map(|c| c.scenario.as_str())),
        guest_options(&asked.options, asked.arch)
    )
}

fn run_command(run: &Recorded) -> String {
    let schedule = match run.schedule.as_deref().filter(|text| text.contains(';')) {
        Some(text) => format!(" --schedule '{text}'"),
        None => String::new(),
    };
    format!(
        "vfrace run {} --kernel {}{}{schedule}",
        run.scenario,
        run.kernel,
        guest_options(&run.options, run.arch)
    )
}
