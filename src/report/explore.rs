// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person reads after a search, and the same as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::campaign::explore::{Covered, EXTRA_ROUNDS, End, Exploration, Floor, Minimised, Seen};
use crate::event::Standing;

/// What is to be told about a search. As JSON it is the contents of `explore.json`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExploreReport<'a> {
    /// Scenario name.
    pub scenario: &'a str,
    /// Kernel name.
    pub kernel: &'a str,
    /// Kernel identity.
    pub kernel_id: &'a str,
    /// Options beside kernel and schedule that a replay needs, e.g. `--vf 3`; empty if none.
    pub options: &'a str,
    /// What was found out.
    #[serde(flatten)]
    pub exploration: &'a Exploration,
    /// Where its files are.
    pub files: &'a Path,
}

/// Coverage, outcomes, the wanted finding with its smallest schedule, and what the random schedules guarantee.
pub fn explore(report: &ExploreReport<'_>, color: bool) -> String {
    let e = report.exploration;
    let mut text = format!(
        "{} on {}: {}, {}, {}, {:.1} s{}\n",
        report.scenario,
        report.kernel,
        number(e.tried.len(), "schedule"),
        number(e.effort.rounds as usize, "round"),
        number(e.effort.boots as usize, "boot"),
        e.seconds,
        ended(&e.end),
    );
    let _ = writeln!(
        text,
        "  searched  budget {}, seed {}, depth {}",
        e.settings.budget, e.settings.seed, e.settings.depth,
    );
    let missed = e.tried.iter().filter(|tried| !tried.kept).count();
    if missed > 0 {
        let _ = writeln!(
            text,
            "            {missed} of {} did not go as they say: a point was not reached, or a hold ran into its bound",
            number(e.tried.len(), "schedule"),
        );
    }
    let _ = writeln!(
        text,
        "  coverage  {} of the teardown, {} of the unplug",
        covered(&e.teardown),
        covered(&e.unplug)
    );
    text += "  outcomes\n";
    if e.outcomes.is_empty() {
        text += "    none\n";
    }
    let mut told = Vec::new();
    for seen in &e.outcomes {
        let is_new = !told.contains(&seen.first);
        told.push(seen.first);
        outcome(&mut text, seen, is_new, color);
    }
    match e.found {
        Some(first) => {
            let _ = writeln!(text, "  wanted    found by schedule {first}");
        }
        None => text += "  wanted    not found\n",
    }
    if let Some(minimised) = &e.minimised {
        smallest(&mut text, report, minimised);
    }
    if let Some(floor) = &e.floor {
        guarantee(&mut text, floor);
    }
    let _ = writeln!(text, "  files     {}", report.files.display());
    text
}

fn number(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn ended(end: &End) -> String {
    match end {
        End::Budget => String::new(),
        End::Exhausted => "; no schedule was left".to_owned(),
        End::Found => "; stopped at the wanted finding".to_owned(),
        End::Interrupted => "; stopped before the end".to_owned(),
        End::NoGuest => "; ended early, round after round had no guest to judge".to_owned(),
        End::Failed { reason } => format!("; ended early: {reason}"),
    }
}

fn covered(covered: &Covered) -> String {
    format!("{} of {} points", covered.reached, covered.known)
}

/// The text of a schedule is told once.
fn outcome(text: &mut String, seen: &Seen, is_new: bool, color: bool) {
    let _ = write!(
        text,
        "    {}",
        super::text::verdict(seen.verdict, 14, color)
    );
    if let Some(finding) = &seen.finding {
        let standing = match finding.standing {
            Standing::Wanted => "wanted",
            Standing::Known => "known",
            Standing::Other => "other",
        };
        let _ = write!(text, "  {standing}  {}: {}", finding.class, finding.title);
        let frame = finding.frame.as_deref();
        if let Some(frame) = frame.filter(|frame| !finding.title.contains(frame)) {
            let _ = write!(text, " (in {frame})");
        }
    }
    text.truncate(text.trim_end_matches(' ').len());
    let _ = write!(
        text,
        "\n      {}, first {}",
        number(seen.count as usize, "schedule"),
        seen.first
    );
    if is_new {
        let _ = write!(text, ": {}", seen.schedule);
    }
    text.push('\n');
}

fn smallest(text: &mut String, report: &ExploreReport<'_>, minimised: &Minimised) {
    let Minimised {
        schedule,
        shown,
        of,
        rounds,
        beyond_budget,
    } = minimised;
    let _ = writeln!(text, "  smallest  {schedule}");
    let reliably = if shown == of {
        ""
    } else {
        "; it does not come reliably, so nothing was left out"
    };
    let _ = writeln!(
        text,
        "            shown by {shown} of {}{reliably}; {} in all to get there, {beyond_budget} of them \
         beyond the budget (at most {EXTRA_ROUNDS} may be)",
        number(*of as usize, "round"),
        number(*rounds as usize, "round"),
    );
    let _ = writeln!(
        text,
        "            vfrace run {} --kernel {}{}{} --schedule '{schedule}'",
        report.scenario,
        report.kernel,
        if report.options.is_empty() { "" } else { " " },
        report.options
    );
}

fn guarantee(text: &mut String, floor: &Floor) {
    let Floor {
        tasks: n,
        steps: k,
        depth: d,
        floor: chance,
        schedules,
    } = floor;
    let power = d.saturating_sub(1);
    let _ = writeln!(
        text,
        "  PCT       1/(n k^(d-1)) = 1/({n} x {k}^{power}) = {chance:.1e} for one random schedule (n = {n} tasks, k = {k} \
         steps, d = {d}), {:.1e} for the {schedules} that were run",
        floor.reached()
    );
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;
    use crate::campaign::explore::{Effort, Outcome, Runner, Settings, Trace};
    use crate::event::{Class, EventSink, Finding, FunctionId, Role, Verdict};
    use crate::scenario::{CallPhase, Point, Schedule, What};

    /// Shows a double removal at one point of the teardown, and at another something else.
    struct Script(u32);

    #[derive(Debug, thiserror::Error)]
    #[error("never")]
    struct Never;

    fn points(role: Role) -> Vec<Point> {
        let calls = [
            "sriov_disable",
            "pci_iov_remove_virtfn",
            "pci_stop_dev",
            "device_del",
        ];
        let point = |call: &&str| Point {
            role: Some(role),
            function: Some(FunctionId::Vf(2)),
            what: What::Call {
                call: (*call).to_owned(),
                phase: CallPhase::Enter,
            },
            nth: 0,
        };
        calls.iter().map(point).collect()
    }

    impl Runner for Script {
        type Error = Never;

        fn trace(&mut self, first: Role) -> Result<Trace, Never> {
            Ok(Trace {
                teardown: points(Role::Teardown),
                unplug: points(Role::Unplug),
                teardown_time: Duration::from_millis(3),
                outcome: self.run(&Schedule {
                    first,
                    steps: Vec::new(),
                })?,
            })
        }

        fn run(&mut self, schedule: &Schedule) -> Result<Outcome, Never> {
            self.0 += 1;
            let text = schedule.to_string();
            let finding = |class, title: &str, frame: Option<&str>, standing| Finding {
                frame: frame.map(str::to_owned),
                round: Some(1),
                ..Finding::new(class, title, standing)
            };
            let (verdict, findings) = if text.contains("teardown/vf2:call:pci_stop_dev") {
                let title = "vf2: its removal ran twice";
                let twice = finding(Class::DoubleRemoval, title, None, Standing::Wanted);
                let title = "PF reference count 4 -> 3, expected 4";
                let count = finding(Class::Refcount, title, None, Standing::Wanted);
                (Verdict::DoubleRemoval, vec![twice, count])
            } else if text.starts_with("unplug first; unplug/vf2:call:device_del") {
                let title = "list_del corruption";
                let list = finding(
                    Class::ListCorruption,
                    title,
                    Some("klist_put"),
                    Standing::Other,
                );
                (Verdict::Finding, vec![list])
            } else {
                (Verdict::Pass, Vec::new())
            };
            Ok(Outcome {
                verdict,
                findings,
                points_reached: [points(Role::Teardown), points(Role::Unplug)].concat(),
                schedule_kept: true,
                seconds: 1.5,
            })
        }

        fn effort(&self) -> Effort {
            Effort {
                boots: 4,
                rounds: self.0,
            }
        }
    }

    fn searched(schedules: &str, stop: bool) -> Exploration {
        let settings = Settings {
            budget: schedules.parse().unwrap(),
            seed: 7,
            depth: 3,
            stop_at_first: false,
            target: FunctionId::Vf(2),
        };
        let stop = AtomicBool::new(stop);
        let (mut script, events) = (Script(0), EventSink::discard());
        crate::campaign::explore::explore(&mut script, &settings, "explore", &stop, &events)
    }

    fn told(exploration: &Exploration) -> ExploreReport<'_> {
        ExploreReport {
            scenario: "unbind-vs-vf-unplug",
            kernel: "base",
            kernel_id: "0123",
            options: "--vf 2",
            exploration,
            files: Path::new("results/x"),
        }
    }

    #[test]
    fn a_search_ends_with_what_it_found() {
        let found = searched("20", false);
        insta::assert_snapshot!(explore(&told(&found), false));
        let colored = explore(&told(&found), true);
        assert!(colored.contains("\u{1b}[31mDOUBLE-REMOVAL\u{1b}[0m"));
    }

    #[test]
    fn a_search_that_was_stopped_at_once_says_so() {
        insta::assert_snapshot!(explore(&told(&searched("10m", true)), false));
    }

    #[test]
    fn as_json_it_can_be_read_by_a_program() {
        let found = searched("20", false);
        let json = serde_json::to_value(told(&found)).unwrap();
        assert_eq!(json["end"], "budget");
        assert_eq!(json["found"], found.found.unwrap());
        assert_eq!(json["settings"]["budget"], "20");
        assert_eq!(json["tried"].as_array().unwrap().len(), 20);
        assert_eq!(json["tried"][0]["schedule"], "teardown first");
        assert_eq!(json["outcomes"][0]["verdict"], "DOUBLE-REMOVAL");
        assert_eq!(json["teardown"]["known"], 4);
    }
}
