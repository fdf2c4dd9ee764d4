// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person reads in the end: the verdict on a run.

use std::fmt::Write as _;
use std::path::Path;

use crate::event::{Finding, Place, Standing, Verdict};
use crate::oracle::{Expected, Judgement};

/// A word in the colour of its meaning; the text itself never depends on colour.
pub(super) fn paint(text: &str, code: &str, color: bool) -> String {
    if color {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// A verdict, padded to `width`, in its colour.
pub(super) fn verdict(verdict: Verdict, width: usize, color: bool) -> String {
    let code = match verdict {
        Verdict::Pass => "32",
        Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => "31",
        Verdict::Silent | Verdict::Inconclusive => "33",
        Verdict::Infra | Verdict::BuildFail | Verdict::BootFail => "35",
    };
    paint(&format!("{verdict:<width$}"), code, color)
}

/// What is to be told about a run.
#[derive(Clone, Copy, Debug)]
pub struct RunReport<'a> {
    /// Scenario name.
    pub scenario: &'a str,
    /// Kernel name.
    pub kernel: &'a str,
    /// The judgement.
    pub judgement: &'a Judgement,
    /// What was expected, if anything was.
    pub expected: Option<&'a Expected>,
    /// Seconds it took.
    pub seconds: f64,
    /// Where its files are.
    pub files: &'a Path,
}

/// The verdict on a run with its evidence and findings.
pub fn run(report: &RunReport<'_>, color: bool) -> String {
    let j = report.judgement;
    let mut text = format!(
        "{} on {}: {}  {}/{} rounds  {:.1} s",
        report.scenario,
        report.kernel,
        verdict(j.verdict, 0, color),
        j.hits,
        j.rounds,
        report.seconds
    );
    text += &match report.expected {
        None => "\n".to_owned(),
        Some(expected) if expected.met_by(j) => "  as expected\n".to_owned(),
        Some(expected) => format!(
            "  {}\n",
            paint(&format!("NOT as expected: {expected}"), "31;1", color)
        ),
    };
    body(&mut text, &j.evidence, &j.findings);
    let _ = writeln!(text, "  files     {}", report.files.display());
    text
}

/// Evidence and findings.
pub(super) fn body(text: &mut String, evidence: &[String], findings: &[Finding]) {
    if !evidence.is_empty() {
        *text += "  evidence\n";
    }
    for line in evidence {
        let _ = writeln!(text, "    {line}");
    }
    if !findings.is_empty() {
        *text += "  findings\n";
    }
    for group in groups(findings) {
        finding(text, &group);
    }
}

/// Findings that differ only in their round and place, wanted ones first.
fn groups(findings: &[Finding]) -> Vec<Vec<&Finding>> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    let alike = |a: &Finding, b: &Finding| {
        let same_place = a.frame.is_some() && a.frame == b.frame;
        (a.standing, a.class, &a.reason) == (b.standing, b.class, &b.reason)
            && (same_place || a.title == b.title)
    };
    for finding in findings {
        match groups
            .iter_mut()
            .find(|g| g.first().is_some_and(|first| alike(first, finding)))
        {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups.sort_by_key(|g| match g.first().map(|f| f.standing) {
        Some(Standing::Wanted) => 0,
        Some(Standing::Other) => 1,
        _ => 2,
    });
    groups
}

fn finding(text: &mut String, group: &[&Finding]) {
    let Some(first) = group.first() else { return };
    let standing = match first.standing {
        Standing::Wanted => "wanted",
        Standing::Known => "known",
        Standing::Other => "other",
    };
    let mut rounds: Vec<u32> = group.iter().filter_map(|f| f.round).collect();
    rounds.dedup();
    let mut place: Vec<String> = Vec::new();
    match rounds.as_slice() {
        [] => {}
        [one] => place.push(format!("round {one}")),
        many => {
            let many: Vec<String> = many.iter().map(u32::to_string).collect();
            place.push(format!("rounds {}", many.join(", ")));
        }
    }
    if group.len() > 1 {
        place.push(format!("{} times", group.len()));
    }
    if let Some(frame) = first
        .frame
        .as_ref()
        .filter(|f| !first.title.contains(f.as_str()))
    {
        place.push(format!("in {frame}"));
    }
    if let Some((start, _)) = first.console {
        place.push(format!("console byte {start}"));
    }
    let place = if place.is_empty() {
        String::new()
    } else {
        format!(" ({})", place.join("; "))
    };
    let _ = writeln!(
        text,
        "    {standing:<6}  {}: {}{place}",
        first.class, first.title
    );
    if let Some(reason) = &first.reason {
        let _ = writeln!(text, "            {reason}");
    }
    for line in frames(first) {
        let _ = writeln!(text, "            {line}");
    }
}

/// Frames that are printed of a finding.
const FRAMES: usize = 3;
/// Inlined functions that are printed of a frame.
const INLINED: usize = 2;

/// The first frames that tell something and have a place in the source: `device_del drivers/base/core.c:3845`.
fn frames(finding: &Finding) -> Vec<String> {
    let telling = finding.frame.as_deref().and_then(|function| {
        finding
            .stack
            .iter()
            .position(|frame| frame.text.split('+').next() == Some(function))
    });
    let at = |place: &Place| format!("{} {}:{}", place.function, place.file, place.line);
    let frames = finding.stack.iter().skip(telling.unwrap_or_default());
    frames
        .take(FRAMES)
        .filter_map(|frame| {
            let (last, inlined) = frame.places.split_last()?;
            if inlined.is_empty() {
                return Some(at(last));
            }
            let mut names: Vec<String> = inlined.iter().take(INLINED).map(at).collect();
            if inlined.len() > INLINED {
                names.push(format!("{} more", inlined.len() - INLINED));
            }
            Some(format!("{} (inlined: {})", at(last), names.join(", ")))
        })
        .collect()
}

/// A finding in a line: `REFCOUNT: PF reference count 4 -> 3, expected 4`.
pub fn in_a_line(finding: &Finding) -> String {
    format!("{}: {}", finding.class, finding.title)
}
