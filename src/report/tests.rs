// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use indicatif::ProgressDrawTarget;

use super::*;
use crate::event::*;
use crate::oracle::Expected;
use crate::oracle::builder::{Kernel, Tape, fixture, race, scenario};

/// A place to write to that can be read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// The recording and judgement of a run of the unfixed kernel that dies at the end.
fn damaged() -> Tape {
    let mut tape = Tape::booted("base");
    tape.raced(1, Kernel::Base);
    tape.console.extend(fixture("x86-unbind-baseline"));
    tape.phase(Phase::FinalRemove, 0);
    tape.console.extend(fixture("x86-double-put-s_h2_op3_vf3"));
    tape.cut(false);
    tape
}

#[test]
fn a_run_ends_with_a_verdict_and_why() {
    let tape = damaged();
    let judgement = tape.judge(&scenario("unbind-vs-vf-unplug", 3));
    let (double, pass) = (
        Expected::verdict(Verdict::DoubleRemoval),
        Expected::verdict(Verdict::Pass),
    );
    let mut report = RunReport {
        scenario: "unbind-vs-vf-unplug",
        kernel: "base",
        judgement: &judgement,
        expected: Some(&double),
        seconds: 21.44,
        files: Path::new("results/unbind-vs-vf-unplug/base"),
    };
    insta::assert_snapshot!(run(&report, false));
    report.expected = Some(&pass);
    assert!(run(&report, false).contains("NOT as expected: PASS"));

    let judgement = race("v7", Kernel::Locked, 1).judge(&scenario("unbind-vs-vf-unplug", 1));
    report = RunReport {
        kernel: "v7",
        judgement: &judgement,
        expected: None,
        ..report
    };
    insta::assert_snapshot!("a_run_that_passes", run(&report, false));
}

fn progress(step: &str, detail: &str, part: Option<(u64, u64)>, finished: bool) -> EventKind {
    EventKind::Progress {
        step: step.into(),
        detail: detail.into(),
        part,
        finished,
    }
}

fn long_run() -> Vec<Event> {
    let mut kinds = vec![progress(
        "kernel source: download",
        "linux-source-7.2",
        Some((0, 400)),
        false,
    )];
    kinds.extend((1..=400).map(|n| progress("kernel source: download", "", Some((n, 400)), false)));
    kinds.push(progress("kernel source: download", "165 MB", None, true));
    kinds.push(progress("kernel base: configure", "", None, false));
    kinds.push(progress("kernel base: configure", "x86_64", None, false));
    kinds.push(progress("kernel base: configure", "", None, true));
    kinds.extend(damaged().events.into_iter().map(|e| e.kind));
    kinds.push(EventKind::Finding(Finding {
        round: Some(1),
        ..Finding::new(Class::DoubleRemoval, "vf2 removed TWICE", Standing::Wanted)
    }));
    kinds.push(EventKind::Judged {
        verdict: Verdict::DoubleRemoval,
        evidence: vec!["x".into()],
        hits: 1,
        rounds: 1,
        seconds: 12.34,
    });
    let event = |(n, kind)| Event {
        number: n as u64,
        ns: n as u64 * 10_000_000,
        kind,
    };
    kinds.into_iter().enumerate().map(event).collect()
}

#[test]
fn plain_lines_are_few() {
    let paper = Paper::default();
    let mut terminal = Terminal::plain(Box::new(paper.clone()));
    long_run().iter().for_each(|e| terminal.event(e));
    insta::assert_snapshot!(paper.text());
}

#[test]
fn bars_leave_the_lines_that_matter() {
    let paper = Paper::default();
    let style = Style {
        bars: true,
        color: true,
    };
    let mut terminal = Terminal::new(style, Box::new(paper.clone()), ProgressDrawTarget::hidden());
    long_run().iter().for_each(|e| terminal.event(e));
    insta::assert_snapshot!(paper.text().replace('\u{1b}', "ESC"));
    for template in [
        "{spinner} {prefix} [{bar:24}] {percent:>3} % {msg}",
        "{spinner} {prefix} {msg} {elapsed}",
    ] {
        indicatif::ProgressStyle::with_template(template).unwrap();
    }
}

#[test]
fn the_environment_decides_the_style() {
    let style = |terminal, set: &[(&str, &str)]| {
        Style::of(terminal, |name| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).into())
        })
    };
    let both = Style {
        bars: true,
        color: true,
    };
    let neither = Style {
        bars: false,
        color: false,
    };
    assert_eq!(style(true, &[("TERM", "xterm"), ("CI", "")]), both);
    assert_eq!(style(false, &[]), neither);
    assert_eq!(
        style(true, &[("CI", "true")]),
        Style {
            bars: false,
            color: true
        }
    );
    assert_eq!(
        style(true, &[("NO_COLOR", "1")]),
        Style {
            bars: true,
            color: false
        }
    );
    assert_eq!(style(true, &[("TERM", "dumb")]), neither);
}

/// One of every kind of event and observation.
fn all_kinds() -> Vec<Event> {
    let mut tape = race("base", Kernel::Base, 1);
    tape.events.extend(race("v7", Kernel::Locked, 1).events);
    tape.events.extend(long_run());
    for what in [
        Observation::Output {
            command: 3,
            text: "a\nb\"\u{0}é".into(),
        },
        Observation::Failed { text: "x".into() },
        Observation::LockTaken { nested: true },
        Observation::Enter {
            call: "f".into(),
            function: None,
            instance: None,
            stack: Vec::new(),
        },
    ] {
        tape.guest(1, what);
    }
    tape.push(EventKind::Wire(WireMessage {
        function: FunctionId::Mailbox,
        from: Side::Backend,
        message: "REQUEST_99".into(),
        vring: Some(1),
        value: Some(u64::MAX),
        need_reply: true,
        size: 8,
        fds: 1,
        nth: 2,
        answered_by_tap: true,
    }));
    tape.push(EventKind::Connection {
        function: FunctionId::Pf,
        up: false,
        reason: "closed".into(),
    });
    tape.push(EventKind::HoldBegan {
        point: "p".into(),
        until: "unplug-seen".into(),
    });
    tape.events
}

#[test]
fn a_recording_reads_back_as_it_was_written() {
    let events = all_kinds();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut recorder = Recorder::create(&path).unwrap();
    events.iter().for_each(|e| recorder.write(e).unwrap());
    recorder.flush().unwrap();
    let back = jsonl::read_file(&path).unwrap();
    assert_eq!(back, events);
    // every kind was there
    let text = std::fs::read_to_string(&path).unwrap();
    for kind in [
        "progress",
        "run-started",
        "phase",
        "wire",
        "connection",
        "point-reached",
        "unplug-fired",
        "hold-began",
        "hold-ended",
        "guest",
        "cut",
        "finding",
        "judged",
    ] {
        assert!(text.contains(&format!("\"event\":\"{kind}\"")), "{kind}");
    }
    for kind in [
        "hello",
        "agent-ready",
        "output",
        "done",
        "task",
        "unplug-seen",
        "unplug-done",
        "enter",
        "return",
        "lock-wait",
        "lock-taken",
        "lock-release",
        "measured",
        "failed",
    ] {
        assert!(
            text.contains(&format!("\"observation\":\"{kind}\"")),
            "{kind}"
        );
    }
}

#[test]
fn a_recording_that_was_cut_or_changed() {
    let mut bytes = Vec::new();
    let mut recorder = Recorder::new(&mut bytes);
    let events = damaged().events;
    events.iter().for_each(|e| recorder.write(e).unwrap());
    // the judgement on the recording is that on the run
    let again = jsonl::read(bytes.as_slice()).unwrap();
    assert_eq!(again, events);
    // killed in the middle of the last line
    let cut = jsonl::read(&bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(cut, events[..events.len() - 1]);
    let error = jsonl::read(&b"{\"seq\":0,\"ns\":0,\"event\":\"phase\"}\n"[..]).unwrap_err();
    assert!(
        matches!(error, RecordingError::Line { line: 1, .. }),
        "{error}"
    );
    assert!(matches!(
        jsonl::read_file(Path::new("/nowhere/x")),
        Err(RecordingError::File(_))
    ));
}
