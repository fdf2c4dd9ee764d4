// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes as a console, armed anywhere: what is found lies within it, reading it in two parts finds the same, and what
//! was found is never a PASS.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vfrace::event::{Event, EventKind, GuestRecord, Observation, Phase, Verdict};
use vfrace::oracle::{Console, KnownIssues, Scan, judge};
use vfrace::scenario::{Scenario, load};

static SCENARIO: LazyLock<Scenario> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tests/scenarios");
    load("unbind-alone", &data, &[("rounds", 1)]).expect("a scenario of ours")
});

fn events(armed: u64) -> Vec<Event> {
    let ready = GuestRecord {
        number: 0,
        guest_ns: 1,
        pid: 1,
        cpu: 0,
        comm: "init".into(),
        what: Observation::AgentReady,
    };
    let phase = |phase, round| EventKind::Phase {
        phase,
        round,
        console: armed,
    };
    let kinds = [
        EventKind::Guest(ready),
        phase(Phase::Armed, 1),
        phase(Phase::Teardown, 1),
        phase(Phase::Settle, 1),
        phase(Phase::PowerOff, 0),
    ];
    let numbered = kinds.into_iter().zip(0..);
    numbered
        .map(|(kind, number)| Event {
            number,
            ns: number,
            kind,
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let (Some(head), Some(bytes)) = (data.get(..4), data.get(4..)) else {
        return;
    };
    let number = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    // 0 more often than a place in the middle
    let armed = match number(0) {
        n if n & 1 == 0 => 0,
        n => (n >> 1) % (bytes.len() + 2),
    };
    let console = Console::read(bytes, Some(armed as u64));
    for report in console.armed.iter().chain(&console.before) {
        assert!(report.span.start < report.span.end && report.span.end <= bytes.len());
        assert!(report.fingerprint.len() <= 5);
    }
    assert!(console.armed.iter().all(|r| r.span.start >= armed));
    let mut scan = Scan::default();
    scan.advance(&bytes[..number(2) % (bytes.len() + 1)]);
    scan.advance(bytes);
    let again = scan.console(bytes, Some(armed as u64));
    assert_eq!(again.armed, console.armed);
    assert_eq!(again.gap, console.gap);
    let judgement = judge(
        &SCENARIO,
        &events(armed as u64),
        bytes,
        &KnownIssues::default(),
    );
    if !console.armed.is_empty() || console.gap.is_some() {
        assert_ne!(judgement.verdict, Verdict::Pass);
    }
});
