// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The consoles in tests/fixtures/consoles, whole and damaged. tests/fixtures/README.md says how to add one.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::event::Verdict;
use crate::oracle::builder::{control, data, scenario};
use crate::oracle::console::{Console, lines};
use crate::oracle::report::Report;
use crate::oracle::rules::{Flag, Rules};
use crate::oracle::{KnownIssues, judge, rules_page};

/// A console and what is to be found in it.
pub(super) struct Fixture {
    name: String,
    /// `CLASS RULE FRAME complete|cut TITLE`, in order.
    findings: Vec<String>,
    blind: Option<String>,
    gap: Option<String>,
    armed: u64,
    pub bytes: Vec<u8>,
}

fn parse(name: String, whole: &[u8]) -> Fixture {
    let mark = b"\n# ---\n";
    let at = whole.windows(mark.len()).position(|w| w == mark);
    let at = at.unwrap_or_else(|| panic!("{name}: the header does not end with `# ---`"));
    let head = std::str::from_utf8(&whole[..at]).unwrap();
    let mut fixture = Fixture {
        findings: Vec::new(),
        blind: None,
        gap: None,
        armed: 0,
        bytes: whole[at + mark.len()..].to_vec(),
        name,
    };
    let mut origin = false;
    let mut none = false;
    for line in head.lines() {
        let line = line.strip_prefix("# ").expect(line);
        match line.split_once(": ") {
            Some(("origin", text)) => {
                origin = ["a real run", "constructed from", "made of"]
                    .iter()
                    .any(|o| text.starts_with(o));
            }
            Some(("armed", n)) => fixture.armed = n.parse().unwrap(),
            Some(("finding", text)) => fixture.findings.push(text.trim().to_owned()),
            Some(("blind", text)) => fixture.blind = Some(text.to_owned()),
            Some(("gap", text)) => fixture.gap = Some(text.to_owned()),
            _ if line == "none" => none = true,
            _ => panic!("{}: what is `{line}`?", fixture.name),
        }
    }
    assert!(origin, "{}: says where it is from", fixture.name);
    let nothing = fixture.findings.is_empty() && fixture.blind.is_none() && fixture.gap.is_none();
    assert_eq!(none, nothing, "{}: `none` or what there is", fixture.name);
    fixture
}

fn read(folder: &Path) -> Vec<Fixture> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            parse(name, &std::fs::read(path).unwrap())
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

pub(super) fn corpus() -> &'static [Fixture] {
    static CORPUS: LazyLock<Vec<Fixture>> =
        LazyLock::new(|| read(&data("tests/fixtures/consoles")));
    &CORPUS
}

fn told(report: &Report) -> String {
    let class = serde_json::to_value(report.class).unwrap();
    format!(
        "{} {} {} {} {}",
        class.as_str().unwrap(),
        report.rule,
        report.frame.as_deref().unwrap_or("-"),
        if report.complete { "complete" } else { "cut" },
        report.title
    )
}

/// Whether a run that is otherwise clean passes with this console behind its arming.
fn passes(console: &[u8]) -> bool {
    let mut tape = control(1);
    let scenario = scenario("unbind-alone", 1);

    tape.console.extend_from_slice(console);

    let judgement = judge(
        &scenario,
        &tape.events,
        &tape.console,
        &KnownIssues::default(),
    );
    assert!(judgement.verdict != Verdict::Infra);
    judgement.verdict == Verdict::Pass
}

#[test]
fn every_console_shows_what_its_header_says() {
    let mut wrong = Vec::new();
    for fixture in corpus() {
        let console = Console::read(&fixture.bytes, Some(fixture.armed));
        let found: Vec<String> = console.armed.iter().map(told).collect();
        if found != fixture.findings {
            wrong.push(format!(
                "{}:\n  found    {}\n  expected {}",
                fixture.name,
                found.join("\n           "),
                fixture.findings.join("\n           ")
            ));
        }
        // Oopses and KASAN turn lockdep off without a word; the header need not say so.
        let implied = console
            .armed
            .iter()
            .any(|r| r.is(Flag::Stops) && Some(&r.title) == console.blind.as_ref());
        if console.blind != fixture.blind && !(implied && fixture.blind.is_none()) {
            wrong.push(format!("{}: blind {:?}", fixture.name, console.blind));
        }
        if console.gap != fixture.gap {
            wrong.push(format!("{}: gap {:?}", fixture.name, console.gap));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_console_of_its_name() {
    for rule in Rules::built_in().all() {
        let mine = |f: &&Fixture| {
            f.name == rule.id
                || f.name
                    .strip_prefix(&rule.id)
                    .is_some_and(|r| r.starts_with('-'))
        };
        let shows = |f: &Fixture| {
            let named = |text: &String| text.split(' ').nth(1) == Some(rule.id.as_str());
            match rule.is(Flag::Blind) || rule.is(Flag::Gap) || rule.is(Flag::Sees) {
                // What is no finding is found under its title, if at all.
                true => lines(&f.bytes).any(|line| {
                    Rules::built_in()
                        .headline(&f.bytes[line.text], None)
                        .is_some_and(|found| found.rule.id == rule.id)
                }),
                false => f.findings.iter().any(named),
            }
        };
        assert!(
            corpus().iter().filter(mine).any(shows),
            "no console for {}",
            rule.id
        );
    }
}

#[test]
fn the_page_is_that_of_the_table() {
    let path = data("docs/rules.md");
    let page = rules_page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/rules.md is old: UPDATE=1 cargo test --lib oracle::"
    );
}

#[test]
fn a_console_with_a_finding_never_passes() {
    assert!(passes(b"[    5.625410][   T93] nothing\n"));
    for fixture in corpus() {
        let clean = fixture.findings.is_empty() && fixture.gap.is_none();
        assert_eq!(passes(&fixture.bytes), clean, "{}", fixture.name);
    }
}

/// Where the headline of a report ends, with its line's end.
fn headline_end(bytes: &[u8], report: &Report) -> usize {
    let from = report.span.start;
    let end = bytes[from..].iter().position(|b| *b == b'\n');
    end.map_or(bytes.len(), |n| from + n + 1)
}

#[test]
fn a_cut_console_keeps_its_findings_and_says_that_it_is_cut() {
    for fixture in corpus().iter().filter(|f| !f.name.contains("torn")) {
        let whole = Console::read(&fixture.bytes, Some(0));
        let step = fixture.bytes.len() / 20 + 1;
        for cut in (0..fixture.bytes.len()).step_by(step) {
            let part = Console::read(&fixture.bytes[..cut], Some(0));
            for report in &whole.armed {
                if headline_end(&fixture.bytes, report) > cut {
                    continue;
                }
                let found = part
                    .armed
                    .iter()
                    .find(|r| r.span.start == report.span.start);
                let found =
                    found.unwrap_or_else(|| panic!("{} at {cut}: {}", fixture.name, report.title));
                // Cut in the middle of the report.
                if report.complete && cut < report.span.end && !report.is(Flag::Single) {
                    assert!(
                        !found.complete,
                        "{} at {cut}: {}",
                        fixture.name, found.title
                    );
                }
            }
        }
    }
}

/// A console as lines, without their ends.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split(|b| *b == b'\n').collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_console_never_passes_with_its_headline(
        which in any::<Index>(),
        drop in proptest::collection::vec(any::<Index>(), 0..12),
        cut in any::<Index>(),
        noise in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..20),
    ) {
        let fixture = which.get(corpus());
        let mut bytes = fixture.bytes[..cut.index(fixture.bytes.len() + 1)].to_vec();
        let mut rows = split(&bytes);
        for at in drop {
            rows.remove(at.index(rows.len()));
            if rows.is_empty() {
                rows.push(b"");
            }
        }
        bytes = rows.join(&b'\n');
        // What is damaged further is only not to panic.
        let mut damaged = bytes.clone();
        for (at, byte) in noise {
            if !damaged.is_empty() {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
        }
        passes(&damaged);
        let whole = Console::read(&fixture.bytes, Some(0));
        let there = |report: &Report| {
            let headline = &fixture.bytes[report.span.start..headline_end(&fixture.bytes, report)];
            headline.ends_with(b"\n") && bytes.windows(headline.len()).any(|w| w == headline)
        };
        if !fixture.name.contains("torn") && whole.armed.iter().any(there) {
            prop_assert!(!passes(&bytes), "{}", fixture.name);
        }
    }

    #[test]
    fn two_consoles_of_two_cpus_are_told_apart(
        a in any::<Index>(),
        b in any::<Index>(),
        order in proptest::collection::vec(any::<bool>(), 1..400),
    ) {
        let usable: Vec<&Fixture> = corpus().iter().filter(|f| one_caller(f)).collect();
        let (a, b) = (a.get(&usable), b.get(&usable));
        let relabelled = [relabel(a, "T901"), relabel(b, "T902")];
        let mut left = relabelled.iter().map(|rows| rows.iter()).collect::<Vec<_>>();
        let mut both = Vec::new();
        let mut turn = order.iter().cycle();
        loop {
            let first = usize::from(*turn.next().unwrap());
            let Some(row) = left[first].next().or_else(|| left[1 - first].next()) else { break };
            both.extend_from_slice(row);
            both.push(b'\n');
        }
        let console = Console::read(&both, Some(0));
        let mut found: Vec<String> = console.armed.iter().map(told).collect();
        let mut expected = [&a.findings[..], &b.findings[..]].concat();
        // What lies behind the last line of one console is the other's, so that its last report may have an end.
        let loose = |text: &String| text.replace(" cut ", " complete ");
        found = found.iter().map(loose).collect();
        expected = expected.iter().map(loose).collect();
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected, "{} and {}", &a.name, &b.name);
    }
}

#[test]
fn a_rule_has_one_of_its_words_in_every_line_that_it_matches() {
    let mut runner = TestRunner::deterministic();
    let mut tried = 0;
    for (number, rule) in Rules::built_in().all().iter().enumerate() {
        let expression = Rules::built_in().line(number).expect("compiles");
        // The generator knows no anchors; what they exclude is sorted out by matching.
        let loose = rule.line.replace("(?:^|", "(?:|").replace(['^', '$'], "");
        let lines = proptest::string::bytes_regex(&loose.replace(r"\b", "")).expect(&loose);
        for _ in 0..30 {
            let line = lines.new_tree(&mut runner).unwrap().current();
            if !expression.is_match(&line) {
                continue;
            }
            tried += 1;
            let text = String::from_utf8_lossy(&line).into_owned();
            let has = rule.words.iter().any(|word| text.contains(word.as_str()));
            assert!(has, "{}: {text}", rule.id);
        }
    }
    assert!(tried > 1500, "only {tried} lines");
}

/// All its lines are of one caller, so that it can be printed by another one.
fn one_caller(fixture: &Fixture) -> bool {
    let mut writers = lines(&fixture.bytes)
        .filter(|line| line.text.len() > 1)
        .map(|line| line.writer);
    let Some(first) = writers.next() else {
        return false;
    };
    first.is_caller() && writers.all(|writer| writer == first) && fixture.gap.is_none()
}

/// Its lines as this caller prints them.
fn relabel(fixture: &Fixture, caller: &str) -> Vec<Vec<u8>> {
    lines(&fixture.bytes)
        .map(|line| {
            let time = line.time.unwrap_or(0) as f64 / 1e6;
            let mut row = format!("[{time:12.6}][{caller:>6}] ").into_bytes();
            row.extend_from_slice(&fixture.bytes[line.text]);
            row
        })
        .collect()
}
