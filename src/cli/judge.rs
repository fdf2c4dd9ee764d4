// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace judge`: the oracle on a console from anywhere, and on recordings of runs.

mod error;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::campaign::verdict_exit;
use crate::event::{Event, EventKind, FunctionId, Phase, Target};
use crate::kernel::built_symbols;
use crate::oracle::foreign::{self, Origin, Remarks, judge_console};
use crate::oracle::{Console, Judgement, KnownIssues, judge};
use crate::paths;
use crate::report::{JudgeReport, Style, SymbolsUsed, jsonl};
use crate::scenario::{self, Scenario, ScenarioError};
use crate::symbols;

use super::failure::Failure;
use super::say;
use crate::exit::ExitCode;

pub(super) use error::JudgeError;

/// A console that is longer is not read: it would not fit into memory.
const MOST_BYTES: u64 = 4 << 30;
/// The recording in a run's directory.
const RECORDING: &str = "events.jsonl";

/// Arguments of `vfrace judge`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The console's bytes as they came; `-` for standard input
    console: PathBuf,
    /// The recording of the run that the console is of (events.jsonl, or the run's directory): judges as `run` did
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The scenario of the recording, a name or a file [default: as recorded]
    #[arg(long, value_name = "S", requires = "events")]
    scenario: Option<String>,
    /// Rounds that the recorded run was to have [default: those that it has, if it came to its end]
    #[arg(long, value_name = "N", requires = "events")]
    rounds: Option<u32>,
    /// The kernel's vmlinux, for lines of source [default: the recorded kernel's, if it is in the cache]
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// The kernel's release, for the list of known issues [default: as `Linux version` says]
    #[arg(long, value_name = "R", conflicts_with = "events")]
    release: Option<String>,
    /// The kernel's name in the list of known issues, e.g. base
    #[arg(long, value_name = "K", conflicts_with = "events")]
    kernel: Option<String>,
    /// Findings count from this byte on [default: 0]
    #[arg(long, value_name = "OFFSET", conflicts_with_all = ["events", "after"])]
    armed: Option<u64>,
    /// Findings count behind the first line that has this text
    #[arg(long, value_name = "TEXT", conflicts_with = "events")]
    after: Option<String>,
    /// How the judgement is printed
    #[arg(long, value_name = "HOW", default_value = "text")]
    format: Format,
    /// Print the findings' lines as they were in the console instead, e.g. for decode_stacktrace.sh
    #[arg(long, conflicts_with = "format")]
    raw: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a person
    Text,
    /// One document, docs/judge.md has its fields
    Json,
}

pub(super) fn run(args: &Args) -> ExitCode {
    apply(args).unwrap_or_else(Failure::tell)
}

/// A recording with what it needs to be judged.
struct Recorded {
    path: PathBuf,
    events: Vec<Event>,
    scenario: Scenario,
    kernel: Option<String>,
    /// The kernel's symbols, if they are in the cache.
    symbols: Option<PathBuf>,
}

fn apply(args: &Args) -> Result<ExitCode, Failure> {
    let data = paths::data_dir()?;
    let known = KnownIssues::load(&data.join("guest-tests/expect/known.toml"))?;
    let recorded = match &args.events {
        Some(path) => Some(recorded(path, args, &data)?),
        None => None,
    };
    let bytes = read(&args.console, recorded.is_some())?;
    let counts_from = match &recorded {
        Some(recorded) => foreign::armed_at(&recorded.events),
        None => Some(begin(args, &bytes)?),
    };
    let console = Console::read(&bytes, counts_from);
    let remarks = Remarks::of(&console, &bytes);
    let mut judgement = match &recorded {
        Some(r) => judge(&r.scenario, &r.events, &bytes, &known),
        None => {
            let counted = args.armed.is_some() || args.after.is_some();
            let origin = Origin {
                kernel: args.kernel.as_deref(),
                release: args.release.as_deref(),
            };
            let mut judgement = judge_console(&console, &bytes, counted, &origin, &known);
            let words = foreign::in_words(&remarks, &bytes);
            judgement.evidence.extend(words);
            judgement
        }
    };
    let exit = verdict_exit(judgement.verdict);
    if args.raw {
        let told = |report: &&crate::oracle::Report| {
            let span = (report.span.start as u64, report.span.end as u64);
            judgement.findings.iter().any(|f| f.console == Some(span))
        };
        let lines = console.armed.iter().filter(told);
        say::bytes(lines.flat_map(|report| foreign::raw(&bytes, report)));
        return Ok(exit);
    }
    let file = args
        .vmlinux
        .clone()
        .or_else(|| recorded.as_ref()?.symbols.clone());
    let symbols = match &file {
        Some(path) => lines(&mut judgement, &bytes, path, args.vmlinux.is_some())?,
        None => None,
    };
    let report = JudgeReport {
        console: &args.console.display().to_string(),
        bytes: bytes.len() as u64,
        counts_from,
        events: recorded.as_ref().map(|r| r.path.as_path()),
        scenario: recorded.as_ref().map(|r| r.scenario.name.as_str()),
        kernel: match &recorded {
            Some(recorded) => recorded.kernel.as_deref(),
            None => args.kernel.as_deref(),
        },
        judgement: &judgement,
        exit,
        remarks: &remarks,
        symbols,
    };
    let text = match args.format {
        Format::Text => report.text(Style::stdout().color),
        Format::Json => report.json().map_err(JudgeError::Json)?,
    };
    say::out(text);
    Ok(exit)
}

/// Gives the findings their lines of source. A file that was named on the command line has to be of use.
fn lines<'a>(
    judgement: &mut Judgement,
    bytes: &[u8],
    path: &'a Path,
    named: bool,
) -> Result<Option<SymbolsUsed<'a>>, Failure> {
    let filled = match symbols::fill_from(&mut judgement.findings, bytes, path) {
        Ok(filled) => filled,
        Err(error) if named => return Err(error.into()),
        Err(error) => {
            log::warn!("no lines of source for the findings: {error}");
            return Ok(None);
        }
    };
    if filled.is_another_kernel() {
        judgement.evidence.push(format!(
            "{} of {} frames do not fit {}: is it of this kernel?",
            filled.foreign,
            filled.frames,
            path.display()
        ));
    }
    Ok(Some(SymbolsUsed { path, filled }))
}

/// The console. One that is empty says nothing, unless there is a recording that does.
fn read(path: &Path, may_be_empty: bool) -> Result<Vec<u8>, JudgeError> {
    let failed = |source| JudgeError::console(path, source);
    let mut bytes = Vec::new();
    let mut limited = |from: &mut dyn Read| from.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    match path.as_os_str() == "-" {
        true => limited(&mut std::io::stdin().lock()).map_err(failed)?,
        false => {
            let mut file = File::open(path).map_err(failed)?;
            limited(&mut file).map_err(failed)?
        }
    };
    let path = path.to_path_buf();
    match bytes.len() as u64 {
        0 if !may_be_empty => Err(JudgeError::Empty { path }),
        1..=MOST_BYTES | 0 => Ok(bytes),
        _ => Err(JudgeError::TooLong { path }),
    }
}

/// Where a console without a recording begins to count.
fn begin(args: &Args, bytes: &[u8]) -> Result<u64, JudgeError> {
    let length = bytes.len() as u64;
    match (args.armed, &args.after) {
        (Some(offset), _) if offset > length => Err(JudgeError::Beyond { offset, length }),
        (Some(offset), _) => Ok(offset),
        (None, Some(text)) => {
            foreign::after(bytes, text).ok_or_else(|| JudgeError::NoText { text: text.clone() })
        }
        (None, None) => Ok(0),
    }
}

fn recorded(path: &Path, args: &Args, data: &Path) -> Result<Recorded, Failure> {
    let path = match path.is_dir() {
        true => path.join(RECORDING),
        false => path.to_path_buf(),
    };
    let events = jsonl::read_file(&path).map_err(|source| JudgeError::Events {
        path: path.clone(),
        source,
    })?;
    let started = events.iter().find_map(|e| match &e.kind {
        EventKind::RunStarted {
            scenario,
            kernel,
            kernel_id,
            vfs,
            ..
        } => Some((scenario, kernel, kernel_id, *vfs)),
        _ => None,
    });
    let name = match (&args.scenario, started) {
        (Some(name), _) => name.clone(),
        (None, Some((name, ..))) => name.clone(),
        (None, None) => return Err(JudgeError::NoScenario { path }.into()),
    };
    let vfs = started.map(|(.., vfs)| vfs);
    let scenario = scenario_of(&name, vfs, &events, args.rounds, data)?;
    let symbols = match (started, &args.vmlinux) {
        (Some((_, _, id, _)), None) => built_symbols(&paths::cache_dir()?, id),
        _ => None,
    };
    Ok(Recorded {
        kernel: started.map(|(_, kernel, ..)| kernel.clone()),
        path,
        scenario,
        symbols,
        events,
    })
}

/// The scenario as it was when the recording was made: parameters and schedule are those that the recording shows.
fn scenario_of(
    name: &str,
    vfs: Option<u16>,
    events: &[Event],
    rounds: Option<u32>,
    data: &Path,
) -> Result<Scenario, Failure> {
    let vf = events.iter().find_map(|e| match e.kind {
        EventKind::UnplugFired {
            target: Target::Function(FunctionId::Vf(vf)),
            ..
        } => Some(i64::from(vf)),
        _ => None,
    });
    let rounds = rounds.or_else(|| rounds_of(events));
    let all = [
        ("vfs", vfs.map(i64::from)),
        ("vf", vf),
        ("rounds", rounds.map(i64::from)),
    ];
    let mut given: Vec<(&str, i64)> = all
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let dir = data.join("guest-tests/scenarios");
    let mut scenario = loop {
        match scenario::load(name, &dir, &given) {
            // Not every scenario has every parameter.
            Err(ScenarioError::NoParameter { name, .. })
                if given.iter().any(|(given, _)| *given == name) =>
            {
                given.retain(|(given, _)| *given != name);
            }
            loaded => break loaded?,
        }
    };
    let schedule = events.iter().find_map(|e| match &e.kind {
        EventKind::Schedule { text } => Some(text),
        _ => None,
    });
    if let Some(text) = schedule {
        // A control's has no text that the command line would take, and is the scenario's own.
        if scenario.set_schedule(text).is_err() {
            log::info!("the recorded schedule is not read again: {text}");
        }
    }
    Ok(scenario)
}

/// The rounds of a run that came to its end. One that was cut short has fewer than it was to have.
fn rounds_of(events: &[Event]) -> Option<u32> {
    let ended = events.iter().any(|e| {
        matches!(
            e.kind,
            EventKind::Phase {
                phase: Phase::PowerOff,
                ..
            }
        )
    });
    let cut = events
        .iter()
        .any(|e| matches!(e.kind, EventKind::Cut { .. }));
    let last = events.iter().filter_map(|e| match e.kind {
        EventKind::Phase {
            phase: Phase::Armed,
            round,
            ..
        } => Some(round),
        _ => None,
    });
    last.max().filter(|_| ended && !cut)
}
