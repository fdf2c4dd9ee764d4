// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person reads after a comparison of two kernels, and the same as JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::campaign::compare::{Compared, End, Gave, Tried};

/// What is to be told about a comparison. As JSON it is the contents of `compare.json`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CompareReport<'a> {
    /// Scenario name.
    pub scenario: &'a str,
    /// Names of the two kernels.
    pub kernels: &'a [String; 2],
    /// Their identities.
    pub kernel_ids: &'a [String; 2],
    /// Options beside kernel and schedule that a replay needs, e.g. `--vf 3`; empty if none.
    pub options: &'a str,
    /// What was found out.
    #[serde(flatten)]
    pub compared: &'a Compared,
    /// Where its files are.
    pub files: &'a Path,
}

/// What separates the two, with the command to see it again; or what was tried in vain.
pub fn compare(report: &CompareReport<'_>, color: bool) -> String {
    let (compared, [a, b]) = (report.compared, report.kernels);
    let tried = compared.tried.len();
    let schedules = format!("{tried} schedule{}", if tried == 1 { "" } else { "s" });
    let last = compared.tried.last();
    let result = match (&compared.end, last) {
        (End::Separated, Some(Tried { schedule: None, .. })) => {
            "separated by the scenario's own schedule".to_owned()
        }
        (End::Separated, _) => format!("separated by schedule {tried}"),
        (End::Budget, _) => format!("not separated by {schedules}"),
        (End::Exhausted, _) => format!("not separated by {schedules}, and there are no others"),
        (End::Interrupted, _) => format!("stopped after {schedules}"),
        (End::NoGuest, _) => format!("ended after {schedules}: no guest to judge, again and again"),
        (End::Failed { reason }, _) => format!("ended after {schedules}: {reason}"),
    };
    let mut text = format!("{a} and {b} in {}: {result}\n", report.scenario);
    let width = a.len().max(b.len());
    if let (End::Separated | End::NoGuest, Some(last)) = (&compared.end, last) {
        for (name, gave) in report.kernels.iter().zip(&last.gave) {
            let verdict = super::text::verdict(gave.verdict, 14, color);
            let title = gave.title.as_deref().unwrap_or_default();
            let _ = writeln!(text, "  {name:width$}  {verdict}  {title}");
        }
        if let Some(schedule) = &last.schedule {
            let _ = writeln!(text, "  schedule  {schedule}");
        }
        if let Some([c, d]) = &last.again {
            let _ = writeln!(text, "  again     {}, {}", c.verdict, d.verdict);
        }
    }
    for tried in compared.tried.iter().filter(|tried| !tried.separates()) {
        odd(&mut text, tried, report.kernels);
    }
    if let (End::Separated, Some(last)) = (&compared.end, last) {
        for name in report.kernels {
            let _ = write!(
                text,
                "  replay    vfrace run {} --kernel {name}",
                report.scenario
            );
            if !report.options.is_empty() {
                let _ = write!(text, " {}", report.options);
            }
            if let Some(schedule) = &last.schedule {
                let _ = write!(text, " --schedule '{schedule}'");
            }
            text.push('\n');
        }
    }
    let _ = writeln!(text, "  files     {}", report.files.display());
    // No spaces where a verdict has no title.
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// A schedule that did not separate them, if there is something to be said about it.
fn odd(text: &mut String, tried: &Tried, names: &[String; 2]) {
    let schedule = tried
        .schedule
        .as_deref()
        .unwrap_or("the scenario's own schedule");
    let both = |gave: &[Gave; 2]| {
        let verdicts = names.iter().zip(gave);
        let verdicts: Vec<String> = verdicts
            .map(|(name, gave)| format!("{name} {}", gave.verdict))
            .collect();
        verdicts.join(", ")
    };
    if let Some(again) = &tried.again {
        let _ = writeln!(
            text,
            "  once only {}, and then {}: {schedule}",
            both(&tried.gave),
            both(again)
        );
    } else if !tried.gave.iter().all(Gave::is_told) {
        let _ = writeln!(text, "  not told  {}: {schedule}", both(&tried.gave));
    }
}
