// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the boots of one kernel to what a bisection is told about it: good, bad, cannot tell, or the machine's fault.
//!
//! Only the wanted finding makes a kernel bad. Whatever else is wrong with it, the commits that brought it are not those
//! that are looked for, and so it cannot be told whether this one is good or bad.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::bound;
use super::stats::Rate;
use crate::event::{Class, Finding, Standing, Verdict};
use crate::exit::ExitCode;
use crate::oracle::Judgement;

/// So many boots may fail for the machine's sake.
const MOST_INFRA: usize = 3;
/// So many boots may fail before the kernel is to blame: on a busy machine an emulated clock can run away.
const MOST_BOOT_FAIL: usize = 2;
/// So many boots more than clean ones may pass without teardown and unplug having met.
const MOST_APART: usize = 3;

/// The finding that makes a kernel bad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever the scenario looks for ([`Standing::Wanted`]).
    #[default]
    Scenario,
    /// A finding of a class, known issue or not: it was asked for by name.
    Named {
        /// Its class.
        class: Class,
        /// Text that its title has to contain.
        title: Option<String>,
    },
}

impl Wanted {
    /// Whether a finding is the wanted one.
    pub fn is(&self, finding: &Finding) -> bool {
        match self {
            Wanted::Scenario => finding.standing == Standing::Wanted,
            Wanted::Named { class, title } => {
                finding.class == *class
                    && title
                        .as_ref()
                        .is_none_or(|text| finding.title.contains(text))
            }
        }
    }

    /// How many rounds of a boot showed it. One that belongs to no round, such as what is measured at the end, counts as
    /// one round.
    pub fn hits(&self, boot: &Judgement) -> u32 {
        let mut rounds: Vec<u32> = Vec::new();
        let mut anywhere = false;
        for finding in boot.findings.iter().filter(|finding| self.is(finding)) {
            anywhere = true;
            rounds.extend(finding.round);
        }
        rounds.sort_unstable();
        rounds.dedup();
        let hits = u32::try_from(rounds.len()).unwrap_or(u32::MAX);
        hits.max(u32::from(anywhere)).min(boot.rounds.max(1))
    }
}

impl fmt::Display for Wanted {
    /// What [`FromStr`] reads, or in words what the scenario wants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Scenario => f.write_str("what the scenario looks for"),
            Wanted::Named { class, title: None } => class.fmt(f),
            Wanted::Named {
                class,
                title: Some(title),
            } => write!(f, "{class}: {title}"),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    /// `REFCOUNT`, or `REFCOUNT: PF reference count`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (word, title) = match text.split_once(':') {
            Some((word, title)) => (word.trim(), Some(title.trim())),
            None => (text.trim(), None),
        };
        let class = serde_json::from_value(word.to_ascii_uppercase().into()).map_err(|_| {
            format!("`{word}` is no class of findings; docs/rules.md has them, e.g. DOUBLE-REMOVAL, REFCOUNT, LEAK")
        })?;
        let title = title.filter(|title| !title.is_empty()).map(str::to_owned);
        Ok(Wanted::Named { class, title })
    }
}

/// What a bisection is told about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It does not have the wanted finding, nor any other.
    Good,
    /// It has the wanted finding.
    Bad,
    /// Neither can be said of it: does not build, does not boot, the two sides never met, something else is wrong.
    CannotTell,
    /// The machine failed, nothing is known about the kernel.
    Infrastructure,
}

impl Decision {
    /// The exit code, as git-bisect(1) reads it.
    pub fn exit(self) -> ExitCode {
        match self {
            Decision::Good => ExitCode::Good,
            Decision::Bad => ExitCode::Bad,
            Decision::CannotTell => ExitCode::CannotTell,
            Decision::Infrastructure => ExitCode::Infrastructure,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Decision::Good => "good",
            Decision::Bad => "bad",
            Decision::CannotTell => "cannot tell",
            Decision::Infrastructure => "infrastructure",
        })
    }
}

/// A decision with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// What was decided.
    pub decision: Decision,
    /// Why, on one line.
    pub reason: String,
}

impl Decided {
    fn new(decision: Decision, reason: impl Into<String>) -> Self {
        Self {
            decision,
            reason: reason.into(),
        }
    }

    /// A kernel that does not build: `why` is cut to its first line.
    pub fn does_not_build(why: &str) -> Self {
        let line = why.lines().next().unwrap_or_default();
        Self::new(
            Decision::CannotTell,
            format!("the kernel does not build: {line}"),
        )
    }
}

impl fmt::Display for Decided {
    /// `bad: DOUBLE-REMOVAL: vf2 removed TWICE, by unplug handler and teardown (boot 1, round 1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.decision, self.reason)
    }
}

/// When a kernel without the finding is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// When so many boots have passed.
    Boots(u32),
    /// When so many rounds have passed that it is less likely than `error` to have missed a finding that comes as often as
    /// in the reference.
    Error {
        /// The error allowed, between 0 and 1.
        error: f64,
        /// How often the finding was seen in rounds of a kernel that has it.
        reference: Rate,
        /// No more boots than that.
        most_boots: u32,
    },
}

/// What is to be done next with a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Boot it so many times more; at least once.
    Boot(u32),
    /// It is decided.
    Over(Decided),
}

/// How often the boots so far showed what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Boots.
    pub boots: u32,
    /// Rounds that showed the wanted finding.
    pub hits: u32,
    /// Rounds of boots that showed the wanted finding.
    pub of: u32,
    /// Boots that passed.
    pub clean_boots: u32,
    /// Rounds of these.
    pub clean: u32,
}

impl Tally {
    /// Counts.
    pub fn of(boots: &[Judgement], wanted: &Wanted) -> Self {
        let mut tally = Tally::default();
        for boot in boots {
            tally.boots += 1;
            let hits = wanted.hits(boot);
            if hits > 0 {
                tally.hits += hits;
                tally.of += boot.rounds.max(hits);
            } else if boot.verdict == Verdict::Pass {
                tally.clean_boots += 1;
                tally.clean += boot.rounds;
            }
        }
        tally
    }

    /// The trigger rate: hits in all rounds that could have shown it.
    pub fn rate(&self) -> Rate {
        Rate::new(self.hits, self.of.saturating_add(self.clean))
    }
}

/// Decides about a kernel from its boots so far, or says how many more are needed, given the number of rounds that a boot
/// has. One boot with the wanted finding is enough; so is one that shows something else than the goal asks for.
pub fn next(goal: Goal, wanted: &Wanted, boots: &[Judgement], rounds_a_boot: u32) -> Step {
    if let Some(hit) = first_hit(wanted, boots) {
        return Step::Over(Decided::new(Decision::Bad, hit));
    }
    if let Some(decided) = broken(boots) {
        return Step::Over(decided);
    }
    let tally = Tally::of(boots, wanted);
    if let Some(reason) = apart(boots, tally.clean_boots as usize) {
        return Step::Over(Decided::new(Decision::CannotTell, reason));
    }
    let passed = format!(
        "PASS in {} of {}",
        number(tally.clean, "round"),
        number(tally.clean_boots, "boot")
    );
    match goal {
        Goal::Boots(wanted) if tally.clean_boots >= wanted => {
            Step::Over(Decided::new(Decision::Good, passed))
        }
        Goal::Boots(wanted) => Step::Boot(wanted - tally.clean_boots),
        Goal::Error {
            error,
            reference,
            most_boots,
        } => {
            let Some(needed) = bound::clean_needed(reference, error) else {
                return Step::Over(Decided::new(
                    Decision::CannotTell,
                    "the reference does not show the finding: there is no bound",
                ));
            };
            if tally.clean >= needed {
                let missed = bound::false_pass(reference, tally.clean).unwrap_or(1.0);
                let reason = format!(
                    "{passed}; reference {}/{}, missed with p {}",
                    reference.hits,
                    reference.of,
                    bound::at_most(missed)
                );
                return Step::Over(Decided::new(Decision::Good, reason));
            }
            if tally.boots >= most_boots {
                let reason = format!(
                    "{passed}, and {needed} clean rounds are needed for an error of {error}: no more than {}",
                    number(most_boots, "boot")
                );
                return Step::Over(Decided::new(Decision::CannotTell, reason));
            }
            let more = (needed - tally.clean).div_ceil(rounds_a_boot.max(1));
            Step::Boot(more.min(most_boots - tally.boots))
        }
    }
}

/// Whether the rate is known well enough for an error: about as many clean rounds will do as were spent on it.
pub fn is_rate_known(rate: Rate, error: f64) -> bool {
    bound::clean_needed(rate, error).is_some_and(|clean| clean <= rate.of)
}

/// The first wanted finding, in words.
fn first_hit(wanted: &Wanted, boots: &[Judgement]) -> Option<String> {
    boots.iter().zip(1..).find_map(|(boot, number): (_, u32)| {
        let finding = boot.findings.iter().find(|finding| wanted.is(finding))?;
        let place = match finding.round {
            Some(round) => format!("boot {number}, round {round}"),
            None => format!("boot {number}"),
        };
        Some(format!("{}: {} ({place})", finding.class, finding.title))
    })
}

/// A boot that ends it: something else is wrong with the kernel, or with the machine.
fn broken(boots: &[Judgement]) -> Option<Decided> {
    let infra: Vec<&Judgement> = boots
        .iter()
        .filter(|boot| boot.verdict == Verdict::Infra)
        .collect();
    if let (true, Some(last)) = (infra.len() >= MOST_INFRA, infra.last()) {
        let reason = format!("{} boots failed, {}", infra.len(), why(last));
        return Some(Decided::new(Decision::Infrastructure, reason));
    }
    let fails = |boot: &&Judgement| boot.verdict == Verdict::BootFail;
    let boot_fails = boots.iter().filter(fails).count();
    boots.iter().find_map(|boot| {
        let reason = match boot.verdict {
            Verdict::Infra | Verdict::Pass | Verdict::Inconclusive => return None,
            Verdict::BootFail if boot_fails < MOST_BOOT_FAIL => return None,
            Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => {
                let mut new = boot.findings.iter();
                let finding = new.find(|finding| finding.standing != Standing::Known);
                match finding {
                    Some(finding) => {
                        format!(
                            "not the wanted finding but {}: {}",
                            finding.class, finding.title
                        )
                    }
                    None => format!("{}, and not the wanted finding", boot.verdict),
                }
            }
            verdict => format!("{verdict}: {}", why(boot)),
        };
        Some(Decided::new(Decision::CannotTell, reason))
    })
}

/// Why the two sides cannot be made to meet, if so.
fn apart(boots: &[Judgement], clean: usize) -> Option<String> {
    let mut apart = boots
        .iter()
        .filter(|boot| boot.verdict == Verdict::Inconclusive);
    let last = apart.next_back()?;
    let count = apart.count() + 1;
    (count >= MOST_APART + clean).then(|| {
        format!(
            "INCONCLUSIVE in {count} of {} boots, {}",
            boots.len(),
            why(last)
        )
    })
}

/// The line of evidence that says why there was no verdict on the kernel. The judge puts doubts behind what it saw in the
/// rounds, and other reasons first.
fn why(boot: &Judgement) -> &str {
    const DOUBTS: [&str; 5] = [
        "round ",
        "only ",
        "the PF's ",
        "part of ",
        "after the rounds",
    ];
    let mut lines = boot.evidence.iter().map(String::as_str);
    let told = match boot.verdict {
        Verdict::Inconclusive => {
            lines.rfind(|line| DOUBTS.iter().any(|start| line.starts_with(start)))
        }
        Verdict::Silent => lines.find(|line| line.starts_with("the guest stopped")),
        _ => lines.next(),
    };
    told.or_else(|| boot.evidence.first().map(String::as_str))
        .unwrap_or("no evidence")
}

fn number(n: u32, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests;
