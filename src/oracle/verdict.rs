// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a recording to a verdict, with its evidence.

mod check;
mod counts;
mod words;

use serde::{Deserialize, Serialize};

use super::console::Console;
use super::invariants::{Round, gaps, records, rounds};
use super::known::KnownIssues;
use super::overlap::overlap;
use super::report::Report;
use crate::event::{
    Class, Event, EventKind, Finding, GuestRecord, Observation, Phase, Standing, Verdict,
};
use crate::scenario::Scenario;

/// What a line of evidence begins with that says why a run is INCONCLUSIVE.
const DOUBT: &str = "cannot tell: ";

/// What is to be said about a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Everything that is wrong, known issues included.
    pub findings: Vec<Finding>,
    /// What the verdict rests on, a line each.
    pub evidence: Vec<String>,
    /// Rounds that showed what the verdict says; 0 if it is not a finding.
    pub hits: u32,
    /// Rounds that were begun.
    pub rounds: u32,
}

impl Judgement {
    /// The line of evidence that tells most: why nothing can be told, else how both sides met, else the first that is not
    /// the schedule.
    pub fn telling_evidence(&self) -> Option<&str> {
        let lines = || self.evidence.iter().map(String::as_str);
        lines()
            .find(|line| line.starts_with(DOUBT))
            .or_else(|| lines().find(|line| words::tells_overlap(line)))
            .or_else(|| lines().find(|line| !line.starts_with("schedule:")))
    }
}

/// Judges a recording. Pure: it reads the three sources and the list of known issues, see the room's documentation for
/// what must be recorded. A recording of any length and shape gets a verdict.
pub fn judge(
    scenario: &Scenario,
    events: &[Event],
    console: &[u8],
    known: &KnownIssues,
) -> Judgement {
    Case::new(scenario, events, console, known).judge()
}

/// Judges one round of a recording that is still going on: the findings and the doubts of that round alone. Nothing is
/// expected behind it, neither more rounds nor the removal of the PF as the last step. What the console says counts
/// where it began in the round.
pub fn judge_round(
    scenario: &Scenario,
    events: &[Event],
    console: &[u8],
    known: &KnownIssues,
    round: u32,
) -> Judgement {
    let mut case = Case::new(scenario, events, console, known);
    case.rounds.retain(|r| r.number == round);
    case.console.armed = std::mem::take(&mut case.console.armed)
        .into_iter()
        .filter(|report| case.round_of(report.span.start as u64) == Some(round))
        .collect();
    case.only = Some(round);
    case.judge()
}

struct Case<'a> {
    scenario: &'a Scenario,
    events: &'a [Event],
    known: &'a KnownIssues,
    rounds: Vec<Round<'a>>,
    console: Console,
    kernel: Option<&'a str>,
    release: Option<&'a str>,
    /// The round that alone is judged.
    only: Option<u32>,
    /// Number of the last round in the recording, 0 without rounds.
    last: u32,
}

impl<'a> Case<'a> {
    fn new(
        scenario: &'a Scenario,
        events: &'a [Event],
        console: &[u8],
        known: &'a KnownIssues,
    ) -> Self {
        let armed = events.iter().find_map(|e| match e.kind {
            EventKind::Phase {
                phase: Phase::Armed,
                console,
                ..
            } => Some(console),
            _ => None,
        });
        let rounds = rounds(events);
        Case {
            scenario,
            events,
            known,
            last: rounds.last().map_or(0, |round| round.number),
            rounds,
            console: Console::read(console, armed),
            kernel: events.iter().find_map(|e| match &e.kind {
                EventKind::RunStarted { kernel, .. } => Some(kernel.as_str()),
                _ => None,
            }),
            release: records(events).find_map(|r| match &r.what {
                Observation::Hello { release, .. } => Some(release.as_str()),
                _ => None,
            }),
            only: None,
        }
    }
}

impl Case<'_> {
    /// The events that are judged.
    fn events(&self) -> &[Event] {
        match (self.only, self.rounds.first()) {
            (None, _) => self.events,
            (Some(_), Some(round)) => round.events,
            (Some(_), None) => &[],
        }
    }

    /// Why the run was cut short, by the machine or by a guest that did not answer.
    fn cut(&self, by_infrastructure: bool) -> Option<&str> {
        self.events().iter().find_map(|e| match &e.kind {
            EventKind::Cut {
                reason,
                infrastructure,
            } if *infrastructure == by_infrastructure => Some(reason.as_str()),
            _ => None,
        })
    }

    fn phase_at(&self, wanted: Phase) -> Option<usize> {
        self.events
            .iter()
            .position(|e| matches!(e.kind, EventKind::Phase { phase, .. } if phase == wanted))
    }

    fn judge(&self) -> Judgement {
        let mut evidence = Vec::new();
        if let Some(early) = self.not_judged(&mut evidence) {
            let rounds = self.count();
            return Judgement {
                verdict: early,
                findings: Vec::new(),
                evidence,
                hits: 0,
                rounds,
            };
        }
        let mut findings = Vec::new();
        for round in &self.rounds {
            self.removed_twice(round, &mut findings);
            self.added_twice(round, &mut findings);
            self.counts(round, &mut findings);
            self.locks(round, &mut findings);
            self.lists(round, &mut findings);
        }
        self.last_counts(&mut findings);
        self.console_findings(&mut findings);
        words::schedules(&self.rounds, &mut evidence);
        for round in &self.rounds {
            words::round(self.scenario, round, &mut evidence);
        }
        self.not_back(&mut findings, &mut evidence);
        let doubts = self.doubts();
        let bad = |f: &&Finding| f.standing != Standing::Known;
        let verdict = findings
            .iter()
            .filter(bad)
            .map(verdict_of)
            .min()
            .unwrap_or_else(|| match self.cut(false) {
                Some(cut) => {
                    evidence.push(format!(
                        "the guest stopped answering and printed nothing: {}",
                        cut
                    ));
                    Verdict::Silent
                }
                None if doubts.is_empty() => Verdict::Pass,
                None => Verdict::Inconclusive,
            });
        let hits = match verdict {
            Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => {
                let mut hit: Vec<u32> = findings
                    .iter()
                    .filter(bad)
                    .filter(|f| verdict_of(f) == verdict)
                    .filter_map(|f| f.round)
                    .filter(|n| self.rounds.iter().any(|round| round.number == *n))
                    .collect();
                hit.sort_unstable();
                hit.dedup();
                u32::try_from(hit.len()).unwrap_or(u32::MAX)
            }
            _ => 0,
        };
        if verdict == Verdict::Pass && self.scenario.unplug.is_none() {
            evidence.push("no overlap expected: nothing is unplugged in this scenario".into());
        }
        if verdict == Verdict::Finding {
            let classes: Vec<String> = findings
                .iter()
                .filter(bad)
                .map(|f| f.class.to_string())
                .collect();
            evidence.push(format!("class {}", words::list(&classes)));
        }
        match verdict {
            Verdict::Inconclusive => {
                evidence.extend(doubts.iter().map(|why| format!("{DOUBT}{why}")));
            }
            // Why is said already.
            Verdict::Silent => evidence.extend(doubts),
            _ => {}
        }
        self.remarks(&mut evidence);
        Judgement {
            verdict,
            findings,
            evidence,
            hits,
            rounds: self.count(),
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.rounds.len()).unwrap_or(u32::MAX)
    }

    /// Verdicts that say nothing about what the scenario is for.
    fn not_judged(&self, evidence: &mut Vec<String>) -> Option<Verdict> {
        let boot_noise = |evidence: &mut Vec<String>| {
            for report in &self.console.before {
                evidence.push(format!("before the run was armed: {}", report.title));
            }
        };
        if let Some(cut) = self.cut(true) {
            evidence.push(format!("the machine, not the kernel: {}", cut));
            boot_noise(evidence);
            return Some(Verdict::Infra);
        }
        let reason = self.cut(false).unwrap_or("no reason recorded");
        if let (Some(round), true) = (self.only, self.rounds.is_empty()) {
            evidence.push(format!("round {round} was not begun"));
            return Some(Verdict::Inconclusive);
        }
        let answered = records(self.events).any(|r| r.what == Observation::AgentReady);
        if self.only.is_none() && !answered {
            evidence.push(format!("the guest's init never answered: {reason}"));
            boot_noise(evidence);
            return Some(Verdict::BootFail);
        }
        if self.rounds.is_empty() {
            let failed = records(self.events).filter_map(|r| match &r.what {
                Observation::Failed { text } => Some(text.as_str()),
                _ => None,
            });
            evidence.extend(failed.map(|text| format!("the guest's module: {text}")));
            evidence.push(format!("the run was never armed: {reason}"));
            boot_noise(evidence);
            let died = self.console.before.iter().any(Report::fatal);
            return Some(if died {
                Verdict::BootFail
            } else {
                Verdict::Inconclusive
            });
        }
        None
    }

    /// Why a run without findings is not a PASS.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let gaps = gaps(self.events);
        for round in &self.rounds {
            let mut missing = round.missing(self.scenario);
            for (_, lost) in gaps.iter().filter(|(at, _)| round.range.contains(at)) {
                missing.push(format!("{lost} records of the guest are missing"));
            }
            if self.scenario.unplug.is_some() {
                missing.extend(overlap(self.scenario, round).err());
            }
            doubts.extend(
                missing
                    .iter()
                    .map(|what| format!("round {}: {what}", round.number)),
            );
        }
        doubts.extend(self.failed_between_rounds());
        if let Some(gap) = &self.console.gap {
            doubts.push(format!("part of the console is missing: {gap}"));
        }
        // Lockdep's silence is what such a scenario's PASS rests on.
        let by_lockdep = [Class::Assert, Class::LockOrder];
        if by_lockdep
            .iter()
            .any(|class| self.scenario.wants.contains(class))
        {
            let blind = self.blind_round();
            let unseen = self
                .rounds
                .iter()
                .find(|r| blind.is_some_and(|from| from <= r.number));
            doubts.extend(unseen.map(|round| {
                format!(
                    "round {}: lockdep was off and could not have seen anything",
                    round.number
                )
            }));
        }
        if self.only.is_some() {
            return doubts;
        }
        let last = self.rounds.last().map_or(0, |r| r.range.end);
        for (_, lost) in gaps.iter().filter(|(at, _)| *at >= last) {
            doubts.push(format!(
                "after the rounds: {lost} records of the guest are missing"
            ));
        }
        if self.count() < self.scenario.rounds {
            doubts.push(format!(
                "only {} of {} rounds were run",
                self.count(),
                self.scenario.rounds
            ));
        }
        if self.final_removal() != FinalRemoval::Done || self.phase_at(Phase::PowerOff).is_none() {
            doubts.push("the PF's removal as the last step did not complete".into());
        } else if self.last_measurement().is_none() {
            doubts.push("nothing was measured behind the PF's removal as the last step".into());
        }
        doubts
    }

    /// What limits what the console can say.
    fn remarks(&self, evidence: &mut Vec<String>) {
        if self.rounds.iter().any(|round| round.probes.few) {
            evidence.push(
                "the guest's module wrapped as few functions as possible: of a removal, the lookup and the counts are seen"
                    .into(),
            );
        }
        evidence.extend(words::cost(self.events));
        for event in self.events {
            match &event.kind {
                EventKind::RunStarted { options, .. }
                    if options.iter().any(|option| option == "skip-sleep") =>
                {
                    evidence.push(
                        "the kernel's sleep of one second in sriov_disable() was skipped".into(),
                    );
                }
                EventKind::Repaired { references } => evidence.push(format!(
                    "the PF was given back {references} that a double removal took, so that the next round begins as \
                     the first did",
                )),
                _ => {}
            }
        }
        if let Some(blind) = &self.console.blind {
            let from = match self.blind_round() {
                Some(0) => "before the first round".to_owned(),
                Some(round) => format!("in round {round}"),
                None => "after the rounds".to_owned(),
            };
            evidence.push(format!(
                "lockdep went off {from} and checked no more locks: {blind}"
            ));
        }
        let later = |r: &&Report| {
            r.once()
                && self
                    .round_of(r.span.start as u64)
                    .is_some_and(|n| n < self.last)
        };
        for report in self.console.armed.iter().filter(later) {
            evidence.push(format!(
                "printed once a boot, later rounds are blind to it: {}",
                report.title
            ));
        }
        for report in self
            .console
            .armed
            .iter()
            .filter(|r| !r.complete && r.stack.is_empty())
        {
            if report.fatal() {
                evidence.push(format!("this report is cut off: {}", report.title));
            }
        }
    }

    /// What the guest's module could not do while no round was on: it counts for the one that it was to prepare.
    fn failed_between_rounds(&self) -> Vec<String> {
        let failed = self
            .events
            .iter()
            .enumerate()
            .filter_map(|(at, e)| match &e.kind {
                EventKind::Guest(GuestRecord {
                    what: Observation::Failed { text },
                    ..
                }) => Some((at, text)),
                _ => None,
            });
        let mut all = None;
        failed
            .filter_map(|(at, text)| {
                let all = all.get_or_insert_with(|| rounds(self.events));
                let next = all.iter().find(|round| at < round.range.end);
                match (next, self.only) {
                    (Some(round), _) if round.range.contains(&at) => None,
                    (Some(round), Some(only)) if round.number != only => None,
                    (None, Some(_)) => None,
                    (Some(round), _) => Some(format!(
                        "before round {}: the guest's module failed: {text}",
                        round.number
                    )),
                    (None, None) => Some(format!(
                        "after the rounds: the guest's module failed: {text}"
                    )),
                }
            })
            .collect()
    }

    /// The round in which lockdep went off, 0 if it was off before the first; `None` if it was on in all of them.
    fn blind_round(&self) -> Option<u32> {
        let at = self.console.blind_at? as u64;
        let rounds_over = self
            .events
            .iter()
            .any(|e| matches!(e.kind, EventKind::Phase { phase: Phase::FinalRemove, console, .. } if console <= at));
        (!rounds_over).then(|| self.round_of(at).unwrap_or(0))
    }

    fn final_removal(&self) -> FinalRemoval {
        let Some(at) = self.phase_at(Phase::FinalRemove) else {
            return FinalRemoval::NotBegun;
        };
        let end = self
            .phase_at(Phase::PowerOff)
            .unwrap_or(self.events.len())
            .max(at);
        let mut after = records(self.events.get(at..end).unwrap_or_default());
        match after.any(|r| matches!(r.what, Observation::Done { .. })) {
            true => FinalRemoval::Done,
            false => FinalRemoval::NotBack,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FinalRemoval {
    NotBegun,
    NotBack,
    Done,
}

/// The verdict that a finding alone would lead to.
fn verdict_of(finding: &Finding) -> Verdict {
    match (finding.class, finding.console) {
        (Class::DoubleRemoval, None) => Verdict::DoubleRemoval,
        (Class::Deadlock, None) => Verdict::Deadlock,
        _ => Verdict::Finding,
    }
}
