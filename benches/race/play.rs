// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One loop of rounds on one kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use vfrace::campaign::stats::Rate;
use vfrace::campaign::stats::random_times::RandomTimes;
use vfrace::campaign::stats::round_times::{Line, RoundTimes, table, teardown_time};
use vfrace::event::{Class, Role, Standing, Verdict};
use vfrace::kernel::BuiltKernel;
use vfrace::oracle::Judgement;
use vfrace::oracle::invariants::rounds;
use vfrace::oracle::overlap::overlap;
use vfrace::report::Recorder;
use vfrace::run::{Listener, Session};
use vfrace::scenario::{Scenario, Schedule};

use crate::Error;
use crate::setup::{Setup, load};

/// Boots one after the other that may give no round to judge.
const PATIENCE: u32 = 3;
/// Rounds in which the length of the teardown is measured, nothing fired into it.
const MEASURED: u32 = 5;

/// How the moment of the unplug is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aim {
    /// By the scenario's own schedule.
    Directed,
    /// At random, uniformly over the length of the teardown.
    Undirected,
}

/// How the rounds of a loop are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loop {
    pub aim: Aim,
    pub skip_sleep: bool,
    /// Only what the judge cannot do without is wrapped in the guest.
    pub few_probes: bool,
}

impl Loop {
    /// In words, for headings and progress.
    pub fn name(self) -> String {
        let aim = match self.aim {
            Aim::Directed => "directed",
            Aim::Undirected => "undirected",
        };
        let sleep = if self.skip_sleep { "skipped" } else { "slept" };
        let probes = if self.few_probes { ", few probes" } else { "" };
        format!("{aim}, 1 s {sleep}{probes}")
    }
}

/// What a loop gave.
#[derive(Debug, Serialize)]
pub struct Section {
    pub kernel: String,
    pub kernel_id: String,
    #[serde(flatten)]
    pub way: Loop,
    /// The schedule, or what the random ones are made from.
    pub schedule: String,
    /// The overlap of both sides was proven.
    pub overlap: Rate,
    /// The verdict on the round was DOUBLE-REMOVAL.
    pub double_removal: Rate,
    pub verdicts: BTreeMap<String, u32>,
    pub boots: u32,
    /// Boots that ended before their time, with what was seen.
    pub damaged: Vec<String>,
    /// Of everything: boots, rounds, judging, ending.
    pub seconds: f64,
    /// Of the rounds alone.
    pub seconds_in_rounds: f64,
    /// Where the time of a round goes, over the rounds that went through.
    pub times: Vec<Line>,
    /// Load average at the beginning and at the end.
    pub load: [Option<f64>; 2],
}

impl Section {
    pub fn per_minute(&self) -> f64 {
        f64::from(self.double_removal.of) * 60.0 / self.seconds
    }

    pub fn per_minute_without_boots(&self) -> f64 {
        f64::from(self.double_removal.of) * 60.0 / self.seconds_in_rounds
    }

    pub fn hits_per_hour(&self) -> f64 {
        f64::from(self.double_removal.hits) * 3600.0 / self.seconds
    }
}

/// A round that was played.
struct Played {
    judgement: Judgement,
    overlaps: bool,
    took: Duration,
    times: Option<RoundTimes>,
    teardown: Option<Duration>,
    /// Nothing more can be done with the guest.
    ended: bool,
}

impl Played {
    fn is_without_guest(&self) -> bool {
        matches!(self.judgement.verdict, Verdict::Infra | Verdict::BootFail)
    }

    /// What was seen beyond the double removal and its reference, which is given back.
    fn damage(&self) -> Option<String> {
        let expected = |class| matches!(class, Class::DoubleRemoval | Class::Refcount);
        let mut findings = self.judgement.findings.iter();
        let worse = findings.find(|f| f.standing != Standing::Known && !expected(f.class));
        match worse {
            Some(finding) => Some(finding.title.clone()),
            None if self.ended => Some(format!(
                "{}: the guest did not go on",
                self.judgement.verdict
            )),
            None => None,
        }
    }
}

/// Boots one after the other, each serving as many rounds as it may and can.
struct Boots<'a> {
    setup: &'a Setup,
    kernel: &'a BuiltKernel,
    way: Loop,
    room: PathBuf,
    session: Option<Session<'a>>,
    boots: u32,
    failed: u32,
    damaged: Vec<String>,
}

impl<'a> Boots<'a> {
    fn new(setup: &'a Setup, kernel: &'a BuiltKernel, way: Loop, room: PathBuf) -> Self {
        Self {
            setup,
            kernel,
            way,
            room,
            session: None,
            boots: 0,
            failed: 0,
            damaged: Vec::new(),
        }
    }

    fn boot(&mut self) -> Result<Session<'a>, Error> {
        self.boots += 1;
        let name = self.room.join(format!("boot-{}", self.boots));
        let config = self.setup.boot(self.kernel, self.way, &name);
        let listener = listener(&config.dir)?;
        Ok(Session::start(config, listener)?)
    }

    /// One round that can be judged. `None`: the user has had enough.
    fn round(&mut self, schedule: &Schedule) -> Result<Option<Played>, Error> {
        loop {
            if self.setup.is_stopped() {
                return Ok(None);
            }
            let mut session = match self.session.take() {
                Some(session) => session,
                None => self.boot()?,
            };
            let played = play(&mut session, &self.setup.scenario, schedule)?;
            let damage = played.damage();
            if played.is_without_guest() {
                session.abandon();
                self.failed += 1;
                if self.failed == PATIENCE && !self.setup.is_stopped() {
                    let why = played.judgement.evidence.join("; ");
                    return Err(format!("{PATIENCE} boots had no round to judge: {why}").into());
                }
                continue;
            }
            self.failed = 0;
            if let Some(damage) = damage {
                eprintln!("  boot {}: {damage}", self.boots);
                self.damaged.push(format!("boot {}: {damage}", self.boots));
                session.abandon();
            } else if session.rounds() >= self.setup.choice.rounds_in_boot {
                session.abandon();
            } else {
                self.session = Some(session);
            }
            return Ok(Some(played));
        }
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.abandon();
        }
    }
}

/// Runs a loop.
pub fn section(setup: &Setup, kernel: &BuiltKernel, way: Loop) -> Result<Section, Error> {
    let name = way.name();
    let wanted = setup.rounds(way.skip_sleep);
    eprintln!("{}: {name}, {wanted} rounds", kernel.name);
    let room = Path::new(&kernel.name.to_string()).join(name.replace([',', ' '], "-"));
    let load_before = load();
    let mut boots = Boots::new(setup, kernel, way, room);
    let (mut schedules, text): (Box<dyn Iterator<Item = Schedule>>, String) = match way.aim {
        Aim::Directed => {
            let schedule = setup.scenario.schedule.clone();
            let text = schedule.to_string();
            (Box::new(std::iter::repeat(schedule)), text)
        }
        Aim::Undirected => {
            let length = length(&mut boots)?;
            let seed = setup.choice.seed;
            let text = format!(
                "teardown first; teardown+Nms fire; N from 0 to {} by seed {seed}",
                length.as_millis()
            );
            (Box::new(RandomTimes::new(seed, length)), text)
        }
    };
    eprintln!("  {text}");
    // The boots in which the length was measured do not count.
    boots.end();
    (boots.boots, boots.damaged) = (0, Vec::new());

    let began = Instant::now();
    let (mut overlaps, mut double_removal) = (Rate::default(), Rate::default());
    let mut verdicts: BTreeMap<String, u32> = BTreeMap::new();
    let (mut times, mut in_rounds) = (Vec::new(), Duration::ZERO);
    while double_removal.of < wanted {
        let Some(schedule) = schedules.next() else {
            break;
        };
        let Some(played) = boots.round(&schedule)? else {
            break;
        };
        overlaps.count(played.overlaps);
        double_removal.count(played.judgement.verdict == Verdict::DoubleRemoval);
        *verdicts
            .entry(played.judgement.verdict.to_string())
            .or_default() += 1;
        in_rounds += played.took;
        times.extend(played.times);
        if double_removal.of % 10 == 0 || double_removal.of == wanted {
            eprintln!(
                "  {} of {wanted} rounds: overlap in {}, DOUBLE-REMOVAL in {}; boot {}, {:.0} s, load {:.1}",
                double_removal.of,
                overlaps.hits,
                double_removal.hits,
                boots.boots,
                began.elapsed().as_secs_f64(),
                load().unwrap_or(f64::NAN),
            );
        }
    }
    boots.end();
    Ok(Section {
        kernel: kernel.name.to_string(),
        kernel_id: kernel.id.clone(),
        way,
        schedule: text,
        overlap: overlaps,
        double_removal,
        verdicts,
        boots: boots.boots,
        damaged: boots.damaged,
        seconds: began.elapsed().as_secs_f64(),
        seconds_in_rounds: in_rounds.as_secs_f64(),
        times: table(&times),
        load: [load_before, load()],
    })
}

/// How long the teardown takes if nothing is fired into it: the median of some rounds.
fn length(boots: &mut Boots<'_>) -> Result<Duration, Error> {
    let one_after_the_other = Schedule {
        first: Role::Teardown,
        steps: Vec::new(),
    };
    let mut lengths = Vec::new();
    for _ in 0..MEASURED {
        let Some(played) = boots.round(&one_after_the_other)? else {
            break;
        };
        lengths.extend(played.teardown);
    }
    lengths.sort();
    let median = lengths.get(lengths.len() / 2).copied();
    Ok(median.ok_or("the length of the teardown could not be measured")?)
}

fn play(
    session: &mut Session<'_>,
    scenario: &Scenario,
    schedule: &Schedule,
) -> Result<Played, Error> {
    let from = session.look(<[_]>::len);
    let began = Instant::now();
    let ended = session.round(schedule, false).is_err();
    let took = began.elapsed();
    let judgement = session.judge_last_round(schedule)?;
    let scenario = Scenario {
        schedule: schedule.clone(),
        ..scenario.clone()
    };
    let number = session.rounds();
    Ok(session.look(|events| {
        let mine = events.get(from..).unwrap_or_default();
        let rounds = rounds(mine);
        let round = rounds.iter().find(|round| round.number == number);
        Played {
            overlaps: round.is_some_and(|round| overlap(&scenario, round).is_ok()),
            times: RoundTimes::of(mine, took).filter(|_| !ended),
            teardown: round.and_then(|round| teardown_time(round.events)),
            judgement,
            took,
            ended,
        }
    }))
}

/// Writes a boot's events beside its console.
fn listener(dir: &Path) -> Result<Listener, Error> {
    std::fs::create_dir_all(dir)?;
    let mut file = Recorder::create(&dir.join("events.jsonl"))?;
    let mut told = false;
    Ok(Box::new(move |event| {
        if let Err(error) = file.write(event) {
            if !std::mem::replace(&mut told, true) {
                log::error!("a recording is incomplete: {error}");
            }
        }
    }))
}
