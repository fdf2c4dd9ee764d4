// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A report as one HTML file that needs nothing else, no network and no server: the table of verdicts, and of each
//! combination a run with its timeline, evidence and findings. Readable without its script, which zooms and names marks.
//!
//! Everything that comes from a recording passes the template engine's escaping; nothing is pasted into the page.

mod drawing;

use std::fmt::Write as _;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::book::{Book, Boot, Cell, Result as Outcome};
use super::timeline::timeline;
use crate::event::{Event, Finding, Standing, Verdict};
use crate::host::files;
use crate::oracle::invariants::rounds;

use drawing::Drawing;

/// Bytes that all timelines of a page may have together. What does not fit is named instead.
const ROOM: usize = 3_500_000;
/// Rounds of a single run that are drawn.
const MOST_ROUNDS: usize = 10;
/// Lines of evidence of a run.
const MOST_LINES: usize = 30;
/// Findings of a run.
const MOST_FINDINGS: usize = 12;
/// Frames of a finding.
const MOST_FRAMES: usize = 16;

/// A page that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the page cannot be made")]
pub struct PageError(#[from] minijinja::Error);

/// Gives the events of a run, or says why there are none.
pub type Recordings<'a> = &'a mut dyn FnMut(&Path) -> Result<Vec<Event>, String>;

/// The page. Recordings are asked for one at a time, and only for what is drawn.
pub fn html(book: &Book, recordings: Recordings<'_>) -> Result<String, PageError> {
    let mut environment = Environment::new();
    environment.add_template("timeline.html", include_str!("html/timeline.html.j2"))?;
    environment.add_template("report.html", include_str!("html/report.html.j2"))?;
    let mut page = Page {
        timeline: environment.get_template("timeline.html")?,
        recordings,
        room: ROOM,
        drawn: 0,
        left_out: 0,
    };
    // What somebody has to look at gets its timelines first.
    let mut order: Vec<usize> = (0..book.cells.len()).collect();
    let rank = |at: &usize| match book.cells.get(*at) {
        Some((cell, _)) if cell.as_expected == Some(false) => 0,
        Some((cell, _)) if cell.result == Outcome::Bad => 1,
        Some((cell, _)) if cell.verdict != Verdict::Pass => 2,
        _ => 3,
    };
    order.sort_by_key(rank);
    let single = book.single().is_some();
    let mut sections: Vec<Option<Section<'_>>> = Vec::new();
    sections.resize_with(book.cells.len(), || None);
    for at in order {
        if let (Some((cell, boots)), Some(place)) = (book.cells.get(at), sections.get_mut(at)) {
            *place = Some(page.section(at, cell, boots, single)?);
        }
    }
    let (drawn, left_out) = (page.drawn, page.left_out);
    let script = include_str!("html/script.js");
    let nonce: String = files::hex(&Sha256::digest(script))
        .chars()
        .take(32)
        .collect();
    let report = environment.get_template("report.html")?;
    Ok(report.render(context! {
        head => Value::from(Serde(&book.head)),
        versions => book.versions(),
        single,
        matrix => matrix(book),
        sections => Value::from(Serde(&sections)),
        drawn,
        left_out,
        style => Value::from_safe_string(include_str!("html/style.css").to_owned()),
        script => Value::from_safe_string(script.to_owned()),
        nonce,
    })?)
}

struct Page<'e, 'r> {
    timeline: minijinja::Template<'e, 'e>,
    recordings: Recordings<'r>,
    room: usize,
    drawn: usize,
    left_out: usize,
}

#[derive(Serialize)]
struct Section<'a> {
    id: String,
    cell: &'a Cell,
    tone: &'static str,
    is_open: bool,
    verdicts: Vec<String>,
    runs: Vec<Run>,
    /// How to see what is not here.
    others: Vec<String>,
}

#[derive(Serialize)]
struct Run {
    title: String,
    verdict: Verdict,
    tone: &'static str,
    timelines: Vec<Value>,
    evidence: Vec<String>,
    findings: Vec<Told>,
    left_out: Vec<String>,
    files: String,
}

#[derive(Serialize)]
struct Told {
    standing: Standing,
    class: String,
    title: String,
    place: String,
    reason: Option<String>,
    frames: Vec<ToldFrame>,
    more: usize,
}

#[derive(Serialize)]
struct ToldFrame {
    text: String,
    places: Vec<String>,
}

/// The colour of a verdict; it is always written as well.
fn tone(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "good",
        Verdict::DoubleRemoval | Verdict::Deadlock | Verdict::Finding => "bad",
        Verdict::Silent | Verdict::Inconclusive => "open",
        Verdict::Infra | Verdict::BuildFail | Verdict::BootFail => "none",
    }
}

/// Lines with a column a kernel, if there are several of both; else a line each.
fn matrix(book: &Book) -> Value {
    let mut kernels: Vec<&str> = Vec::new();
    for (cell, _) in &book.cells {
        if !kernels.contains(&cell.kernel.as_str()) {
            kernels.push(&cell.kernel);
        }
    }
    let place = |scenario: &str, kernel: &str| {
        let mut cells = book.cells.iter().enumerate();
        cells.find(|(_, (c, _))| c.scenario == scenario && c.kernel == kernel)
    };
    let rows = book.scenarios().into_iter().map(|(scenario, _)| {
        let cells = kernels.iter().map(|kernel| match place(scenario, kernel) {
            Some((at, (cell, _))) => context! {
                id => id(at),
                verdict => cell.verdict.to_string(),
                tone => tone(cell.verdict),
                count => match cell.verdict {
                    Verdict::Pass => format!("{0}/{0} clean", cell.rounds),
                    _ => format!("{}/{}", cell.hits, cell.rounds),
                },
                unexpected => cell.as_expected == Some(false),
            },
            None => Value::from(()),
        });
        context! { scenario, cells => cells.collect::<Vec<_>>() }
    });
    let rows: Vec<Value> = rows.collect();
    let kernels: Vec<String> = kernels.iter().map(ToString::to_string).collect();
    context! { rows, kernels }
}

fn id(at: usize) -> String {
    format!("c{}", at + 1)
}

/// `1-4, 7` for numbers in order.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match spans.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(n) => *end = n,
            _ => spans.push((n, n)),
        }
    }
    let mut text = String::new();
    for (n, (a, b)) in spans.iter().enumerate().take(20) {
        let comma = if n == 0 { "" } else { ", " };
        let _ = match a == b {
            true => write!(text, "{comma}{a}"),
            false => write!(text, "{comma}{a}-{b}"),
        };
    }
    if spans.len() > 20 {
        text += ", ...";
    }
    text
}

impl Page<'_, '_> {
    fn section<'a>(
        &mut self,
        at: usize,
        cell: &'a Cell,
        boots: &'a [Boot],
        single: bool,
    ) -> Result<Section<'a>, PageError> {
        let mut verdicts: Vec<Verdict> = boots.iter().map(|b| b.judgement.verdict).collect();
        verdicts.sort();
        verdicts.dedup();
        let with = |verdict: Verdict| boots.iter().filter(move |b| b.judgement.verdict == verdict);
        // The first boot of each verdict stands for the others.
        let chosen: Vec<&Boot> = verdicts.iter().filter_map(|v| with(*v).next()).collect();
        let mut runs = Vec::new();
        for boot in &chosen {
            runs.push(self.run(at, boot, single)?);
        }
        let mut others = Vec::new();
        if boots.len() > chosen.len() {
            self.left_out += boots.len() - chosen.len();
            let rest = boots.iter().map(|b| b.boot);
            let rest = rest.filter(|n| !chosen.iter().any(|c| c.boot == *n));
            others.push(format!(
                "Not shown here: boots {} ({} of {}). To see one:",
                ranges(rest),
                boots.len() - chosen.len(),
                boots.len()
            ));
            if let Some(boot) = boots
                .iter()
                .find(|b| !chosen.iter().any(|c| c.boot == b.boot))
            {
                others.push(command(boot));
            }
        }
        Ok(Section {
            id: id(at),
            tone: tone(cell.verdict),
            is_open: single || cell.verdict != Verdict::Pass || boots.len() < 4,
            verdicts: verdicts
                .iter()
                .map(|v| format!("{v}: boots {}", ranges(with(*v).map(|b| b.boot))))
                .collect(),
            cell,
            runs,
            others,
        })
    }

    fn run(&mut self, at: usize, boot: &Boot, single: bool) -> Result<Run, PageError> {
        let judgement = &boot.judgement;
        let mut left_out = Vec::new();
        let mut timelines = Vec::new();
        let mut shown: Vec<u32> = Vec::new();
        match self.room {
            0 => left_out.push("no timeline: the page is full. To see it:".to_owned()),
            _ => match (self.recordings)(&boot.dir) {
                Err(why) => left_out.push(format!("no timeline: {why}")),
                Ok(events) => {
                    let all = rounds(&events);
                    let mut telling: Vec<u32> = judgement
                        .findings
                        .iter()
                        .filter(|f| f.standing != Standing::Known)
                        .filter_map(|f| f.round)
                        .collect();
                    telling.dedup();
                    let mut order: Vec<_> = all.iter().collect();
                    order.sort_by_key(|r| !telling.contains(&r.number));
                    let most = if single { MOST_ROUNDS } else { 1 };
                    let mut wanted: Vec<_> = order.into_iter().take(most).collect();
                    wanted.sort_by_key(|r| r.number);
                    if all.is_empty() {
                        left_out.push("no timeline: no round was begun".to_owned());
                    }
                    for round in wanted {
                        let line = timeline(round, &judgement.findings);
                        let key = format!("{}-{}-{}", id(at), boot.boot, round.number);
                        let drawing = Drawing::new(&key, &line);
                        let text = self.timeline.render(context! {
                            t => Value::from(Serde(&line)),
                            d => Value::from(Serde(&drawing)),
                        })?;
                        if text.len() > self.room {
                            self.room = 0;
                            left_out.push("no timeline: the page is full. To see it:".to_owned());
                            break;
                        }
                        self.room -= text.len();
                        self.drawn += 1;
                        shown.push(round.number);
                        timelines.push(Value::from_safe_string(text));
                    }
                    if !shown.is_empty() && shown.len() < all.len() {
                        left_out.push(format!(
                            "rounds {} of {} are drawn{}",
                            ranges(shown.iter().copied()),
                            all.len(),
                            match single {
                                true => "; the others are in the recording (events.jsonl)",
                                false => "; the first ones are, with:",
                            }
                        ));
                    }
                }
            },
        }
        if left_out.iter().any(|line| line.ends_with(':')) {
            left_out.push(command(boot));
        }
        let about = |line: &&String| match line.strip_prefix("round ") {
            Some(rest) if !shown.is_empty() => {
                let number = rest.split(':').next().and_then(|n| n.parse().ok());
                number.is_none_or(|n: u32| shown.contains(&n))
            }
            _ => true,
        };
        let lines: Vec<&String> = judgement.evidence.iter().filter(about).collect();
        let evidence: Vec<String> = lines
            .iter()
            .take(MOST_LINES)
            .map(|line| (*line).clone())
            .collect();
        let hidden = judgement.evidence.len() - evidence.len();
        if hidden > 0 {
            left_out.push(format!(
                "{hidden} more lines of evidence, of other rounds: `vfrace report {}`",
                boot.dir.display()
            ));
        }
        let mut findings: Vec<&Finding> = judgement.findings.iter().collect();
        findings.sort_by_key(|f| match f.standing {
            Standing::Wanted => 0,
            Standing::Other => 1,
            Standing::Known => 2,
        });
        if findings.len() > MOST_FINDINGS {
            left_out.push(format!(
                "{} more findings: `vfrace report {}`",
                findings.len() - MOST_FINDINGS,
                boot.dir.display()
            ));
        }
        Ok(Run {
            title: match single {
                true => String::new(),
                false => format!("boot {}", boot.boot),
            },
            verdict: judgement.verdict,
            tone: tone(judgement.verdict),
            timelines,
            evidence,
            findings: findings.into_iter().take(MOST_FINDINGS).map(told).collect(),
            left_out,
            files: boot.dir.display().to_string(),
        })
    }
}

/// A page for this boot alone.
fn command(boot: &Boot) -> String {
    format!(
        "vfrace report {} --format html -o boot.html",
        boot.dir.display()
    )
}

fn told(finding: &Finding) -> Told {
    let mut place = Vec::new();
    place.extend(finding.round.map(|n| format!("round {n}")));
    place.extend(finding.frame.as_ref().map(|f| format!("in {f}")));
    place.extend(
        finding
            .console
            .map(|(from, _)| format!("console byte {from}")),
    );
    place.extend(finding.point.as_ref().map(|p| format!("after {p}")));
    let frames = finding
        .stack
        .iter()
        .take(MOST_FRAMES)
        .map(|frame| ToldFrame {
            text: frame.text.clone(),
            places: frame
                .places
                .iter()
                .rev()
                .map(|p| format!("{} {}:{}", p.function, p.file, p.line))
                .collect(),
        });
    Told {
        standing: finding.standing,
        class: finding.class.to_string(),
        title: finding.title.clone(),
        place: place.join("; "),
        reason: finding.reason.clone(),
        frames: frames.collect(),
        more: finding.stack.len().saturating_sub(MOST_FRAMES),
    }
}
