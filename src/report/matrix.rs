// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of a campaign, for a terminal and as a page in Markdown.

use std::fmt::Write as _;

use super::text::{in_a_line, paint, verdict};
use crate::campaign::bound::at_most;
use crate::campaign::plan::End;
use crate::campaign::{Amount, Outcome, Table};
use crate::event::Verdict;

/// Characters of a finding's title in a table.
const TITLE: usize = 70;

/// Combinations with missing boots that are named.
const NAMED: usize = 10;

/// The table, what was not expected first, with a line at its end that says how many came as expected.
pub fn matrix(table: &Table, color: bool) -> String {
    let rows: Vec<Row<'_>> = table.outcomes.iter().map(Row::new).collect();
    let head = ["scenario", "kernel", "verdict", "rounds", "seconds"];
    let cell =
        |row: &Row<'_>, column: usize| row.cells.get(column).map_or(0, |c| c.chars().count());
    let width = |(column, name): (usize, &str)| {
        let cells = rows.iter().map(|row| cell(row, column));
        cells.chain([name.len()]).max().unwrap_or_default()
    };
    let mut widths = [0; 5];
    for (at, (to, name)) in widths.iter_mut().zip(head).enumerate() {
        *to = width((at, name));
    }
    let [a, b, c, d, e] = widths;
    let [scenario, kernel, word, rounds, time] = head;
    let mut text =
        format!("{scenario:<a$}  {kernel:<b$}  {word:<c$}  {rounds:<d$}  {time:>e$}  expected\n");
    let line = "-".repeat(a + b + c + d + e + 18);
    let _ = writeln!(text, "{line}");
    let (differ, same): (Vec<&Row<'_>>, Vec<&Row<'_>>) = rows.iter().partition(|row| row.differs());
    let mut tell = |rows: &[&Row<'_>]| {
        for row in rows {
            let [scenario, kernel, _, rounds, time] = &row.cells;
            let word = verdict(row.outcome.verdict, c, color);
            let expected = compared(row.outcome, color);
            let _ = writeln!(
                text,
                "{scenario:<a$}  {kernel:<b$}  {word}  {rounds:<d$}  {time:>e$}  {expected}"
            );
        }
        if !rows.is_empty() {
            let _ = writeln!(text, "{line}");
        }
    };
    tell(&differ);
    tell(&same);
    text += &totals(table);
    for line in remarks(table) {
        let _ = writeln!(text, "{line}");
    }
    text
}

/// A line of the table.
struct Row<'a> {
    outcome: &'a Outcome,
    cells: [String; 5],
}

impl<'a> Row<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        Self {
            outcome,
            cells: [
                outcome.scenario.clone(),
                outcome.kernel.clone(),
                outcome.verdict.to_string(),
                rounds(outcome),
                format!("{:.1}", outcome.seconds),
            ],
        }
    }

    fn differs(&self) -> bool {
        self.outcome.expected.is_some() && !self.outcome.as_expected
    }
}

/// Rounds that showed the verdict, of all, and how sure that is: `200/200 (base 20/20; false-pass < 1e-9)`.
pub(super) fn rounds(outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    if tally.boots == 0 {
        return "-".to_owned();
    }
    let mut text = match outcome.verdict {
        Verdict::Pass => format!("{}/{}", tally.clean, tally.rounds),
        Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => {
            format!("{}/{}", outcome.shown, tally.rounds)
        }
        _ => format!("{}/{} clean", tally.clean, tally.rounds),
    };
    let mut said = Vec::new();
    match (&outcome.bound, outcome.interval) {
        (Some(bound), _) if outcome.verdict == Verdict::Pass => said.push(format!(
            "{} {}/{}; false-pass {}",
            bound.reference,
            bound.rate.hits,
            bound.rate.of,
            at_most(bound.false_pass)
        )),
        (None, None) if outcome.verdict == Verdict::Pass => {
            said.push("no kernel here showed it: no bound".to_owned());
        }
        (_, Some(interval)) => {
            if tally.hits != outcome.shown || tally.tries != tally.rounds {
                said.push(format!("wanted {}/{}", tally.hits, tally.tries));
            }
            let percent = |share: f64| (share * 100.0).round();
            said.push(format!(
                "{}-{} %",
                percent(interval.low),
                percent(interval.high)
            ));
        }
        _ => {}
    }
    if outcome.verdicts.len() > 1 {
        let boots = outcome.verdicts.iter();
        let boots: Vec<String> = boots.map(|(verdict, n)| format!("{n} {verdict}")).collect();
        said.push(format!("boots: {}", boots.join(", ")));
    }
    match outcome.ended {
        Some(End::MostBoots) => said.push(format!("ended at {} boots", tally.boots)),
        Some(End::Hopeless) => said.push("given up".to_owned()),
        _ => {}
    }
    if let Some(needed) = outcome.bound.as_ref().and_then(|bound| bound.needed) {
        if needed > 0 {
            said.push(format!("{needed} more clean rounds needed"));
        }
    }
    if !said.is_empty() {
        let _ = write!(text, " ({})", said.join("; "));
    }
    text
}

fn plural(n: impl std::fmt::Display, word: &str) -> String {
    let n = n.to_string();
    match n.as_str() {
        "1" => format!("1 {word}"),
        _ => format!("{n} {word}s"),
    }
}

/// How many came as expected, what it took, and with what.
pub(super) fn totals(table: &Table) -> String {
    let judged = table.outcomes.iter().filter(|o| o.expected.is_some());
    let (judged, good) = (
        judged.clone().count(),
        judged.filter(|o| o.as_expected).count(),
    );
    let expected = match judged {
        0 => "no expectation is stated for any of them".to_owned(),
        _ => format!("{good} of {judged} as expected"),
    };
    format!("{expected}; {}\n", effort(table))
}

/// `3 boots, 9 rounds, 64 s of guests; vfrace 0.1.0, QEMU 11.1.3 (tcg), Linux 7.2.12-1`.
fn effort(table: &Table) -> String {
    let sum = |of: &dyn Fn(&Outcome) -> u64| table.outcomes.iter().map(of).sum::<u64>();
    let seconds: f64 = table
        .outcomes
        .iter()
        .map(|o| o.seconds)
        .fold(0.0, |sum, s| sum + s);
    let mut sources: Vec<&str> = Vec::new();
    for source in table
        .outcomes
        .iter()
        .filter_map(|o| o.source_version.as_deref())
    {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    let mut with = vec![
        format!("vfrace {}", table.vfrace),
        format!("QEMU {} ({})", table.qemu, table.accel),
    ];
    if !sources.is_empty() {
        with.push(format!("Linux {}", sources.join(", ")));
    }
    if !table.options.is_empty() {
        with.push(table.options.join(", "));
    }
    format!(
        "{}, {}, {seconds:.0} s of guests; {}",
        plural(sum(&|o| o.tally.boots.into()), "boot"),
        plural(sum(&|o| o.tally.rounds.into()), "round"),
        with.join(", ")
    )
}

/// What is missing, and what a stated error still takes.
pub(super) fn remarks(table: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(shard) = table.shard {
        lines.push(format!(
            "this is part {shard}: `vfrace merge` puts the parts together"
        ));
    } else if table.missing > 0 {
        let what = match table.amount {
            Amount::Boots(_) => plural(table.missing, "boot"),
            Amount::Error { .. } => plural(table.missing, "combination") + " not at the end",
        };
        let of = table
            .missing_of
            .iter()
            .take(NAMED)
            .map(|(title, n)| match table.amount {
                Amount::Boots(boots) if u64::from(boots) > 1 => format!("{title}: {n}"),
                _ => title.clone(),
            });
        let more = match table.missing_of.len() > NAMED {
            true => ", ...",
            false => "",
        };
        lines.push(format!(
            "missing: {what} ({}{more})",
            of.collect::<Vec<_>>().join(", ")
        ));
    }
    if let (Some(error), Amount::Boots(_)) = (table.error, table.amount) {
        let passes = table.outcomes.iter().filter(|o| o.verdict == Verdict::Pass);
        let (mut met, mut short, mut rounds, mut without) = (0, 0, 0u64, 0);
        for outcome in passes {
            match outcome.bound.as_ref().map(|bound| bound.needed) {
                Some(Some(0)) => met += 1,
                Some(Some(needed)) => {
                    short += 1;
                    rounds += u64::from(needed);
                }
                _ => without += 1,
            }
        }
        lines.push(format!(
            "error {error}: {} it, {} {} more clean rounds, {} no bound",
            match met {
                1 => "1 PASS meets".to_owned(),
                _ => format!("{met} PASS meet"),
            },
            match short {
                1 => "1 needs".to_owned(),
                _ => format!("{short} need"),
            },
            rounds,
            match without {
                1 => "1 has".to_owned(),
                _ => format!("{without} have"),
            },
        ));
    }
    lines
}

/// What a row's verdict is, compared with what was expected. Where a certain finding was, the one that was seen is told;
/// and where it is not what was expected, what was seen instead.
fn compared(outcome: &Outcome, color: bool) -> String {
    let Some(expected) = &outcome.expected else {
        return "-".to_owned();
    };
    let seen = match &outcome.seen {
        Some(seen) if expected.has_reason() || !outcome.as_expected => cut(&in_a_line(seen)),
        None if outcome.tally.boots == 0 => cut(outcome.evidence.as_deref().unwrap_or_default()),
        _ => String::new(),
    };
    match (outcome.as_expected, seen.is_empty()) {
        (true, true) => "yes".to_owned(),
        (true, false) => format!("yes, {seen}"),
        (false, true) => paint(&format!("NO, {expected} was"), "31;1", color),
        (false, false) => {
            paint(&format!("NO, {expected} was"), "31;1", color) + &format!("; seen: {seen}")
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TITLE) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// The table as a page: a section a scenario, a line a kernel, each with its evidence.
pub fn markdown(table: &Table) -> String {
    let mut text = "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n<!-- Made by `vfrace merge --markdown`. -->\n\n# Scenarios on kernels\n\n".to_owned();
    let day = |time: &str| time.get(..10).unwrap_or(time).to_owned();
    let finished = table.finished.as_deref().unwrap_or(&table.started);
    let when = match (day(&table.started), day(finished)) {
        (from, to) if from == to => from,
        (from, to) => format!("{from} to {to}"),
    };
    let _ = writeln!(text, "- run: {when}, {}", table.amount);
    let _ = writeln!(text, "- {}", totals(table).trim_end());
    for machine in &table.machines {
        let _ = writeln!(text, "- machine: {}", escape(machine));
    }
    for line in remarks(table) {
        let _ = writeln!(text, "- {}", escape(&line));
    }
    text += "\nHow rounds are counted and what the bound says: [statistics.md](statistics.md).\n";
    let differ: Vec<&Outcome> = table
        .outcomes
        .iter()
        .filter(|o| o.expected.is_some() && !o.as_expected)
        .collect();
    if !differ.is_empty() {
        text += "\n## Not as expected\n\nWhat is known of the causes: [scenarios.md](scenarios.md).\n\n";
        section(&mut text, &differ, true);
    }
    let scenarios = distinct(table.outcomes.iter().map(|o| o.scenario.as_str()));
    text += &glance(table, &scenarios);
    for scenario in scenarios {
        let _ = write!(text, "\n## {scenario}\n\n");
        let here = table.outcomes.iter().filter(|o| o.scenario == scenario);
        section(&mut text, &here.collect::<Vec<_>>(), false);
    }
    text
}

/// In the order in which they come first.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// A line a scenario, a column a kernel. Nothing for a single line or column.
fn glance(table: &Table, scenarios: &[&str]) -> String {
    let kernels = distinct(table.outcomes.iter().map(|o| o.kernel.as_str()));
    let mut text = String::new();
    if kernels.len() < 2 || scenarios.len() < 2 {
        return text;
    }
    let mut seen: Vec<Verdict> = table.outcomes.iter().map(|o| o.verdict).collect();
    seen.sort();
    seen.dedup();
    let legend = seen
        .iter()
        .map(|verdict| format!("{}: {verdict}", short(*verdict)));
    let legend = legend.collect::<Vec<_>>().join(", ");
    let _ = write!(
        text,
        "\n## At a glance\n\n{legend}; **bold**: not as expected.\n\n| scenario | {} |\n|---|{}\n",
        kernels.join(" | "),
        ":-:|".repeat(kernels.len())
    );
    for scenario in scenarios {
        let _ = write!(text, "| [{scenario}](#{scenario}) |");
        for kernel in &kernels {
            let mut here = table.outcomes.iter();
            let here = here.find(|o| o.scenario == *scenario && o.kernel == *kernel);
            let _ = match here {
                Some(o) if o.expected.is_some() && !o.as_expected => {
                    write!(text, " **{}** |", short(o.verdict))
                }
                Some(o) => write!(text, " {} |", short(o.verdict)),
                None => write!(text, "  |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Few letters, for a narrow column.
fn short(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Infra => "infra",
        Verdict::BuildFail => "build",
        Verdict::BootFail => "boot",
        Verdict::DoubleRemoval => "2x",
        Verdict::Deadlock => "dead",
        Verdict::Finding => "find",
        Verdict::Silent => "silent",
        Verdict::Inconclusive => "?",
        Verdict::Pass => "ok",
    }
}

fn section(text: &mut String, outcomes: &[&Outcome], with_scenario: bool) {
    let (head, line) = match with_scenario {
        true => ("| scenario ", "|---"),
        false => ("", ""),
    };
    let _ = writeln!(
        text,
        "{head}| kernel | verdict | rounds | s | expected | evidence |"
    );
    let _ = writeln!(text, "{line}|---|---|---|--:|---|---|");
    for outcome in outcomes {
        let scenario = match with_scenario {
            true => format!("| {} ", outcome.scenario),
            false => String::new(),
        };
        let expected = match (&outcome.expected, outcome.as_expected) {
            (None, _) => "-".to_owned(),
            (Some(_), true) => "yes".to_owned(),
            (Some(expected), false) => format!("**NO**, {expected}"),
        };
        let evidence = match &outcome.seen {
            Some(seen) => in_a_line(seen),
            None => outcome.evidence.clone().unwrap_or_default(),
        };
        let _ = writeln!(
            text,
            "{scenario}| {} | {} | {} | {:.0} | {} | {} |",
            outcome.kernel,
            outcome.verdict,
            rounds(outcome),
            outcome.seconds,
            escape(&expected),
            escape(&evidence)
        );
    }
}

/// Text in a table of Markdown.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('\n', " ")
}

#[cfg(test)]
mod tests;
