// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any JSON lines as a recording: what can be read is judged, whatever its order.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vfrace::event::Event;
use vfrace::oracle::{KnownIssues, judge, judge_round};
use vfrace::scenario::{Scenario, load};

static SCENARIO: LazyLock<Scenario> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tests/scenarios");
    load("unbind-vs-vf-unplug", &data, &[("rounds", 2)]).expect("a scenario of ours")
});

fuzz_target!(|data: &[u8]| {
    let events: Vec<Event> = data
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let known = KnownIssues::default();
    judge(&SCENARIO, &events, b"", &known);
    judge_round(&SCENARIO, &events, b"", &known, 1);
});
