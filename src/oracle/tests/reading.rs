// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who wrote a line, what lockdep was, what a finding says beside its title.

use proptest::prelude::*;
use proptest::sample::Index;

use super::corpus;
use crate::event::{Class, Observation, Phase};
use crate::oracle::builder::{Tape, control, scenario};
use crate::oracle::console::{Console, Scan, Writer, lines};
use crate::oracle::report::Report;

fn first(text: &str) -> (Writer, String, Option<u64>) {
    let line = lines(text.as_bytes()).last().unwrap();
    (line.writer, text[line.text].to_owned(), line.time)
}

#[test]
fn what_stands_in_front_of_a_line_says_who_wrote_it() {
    let told = [
        ("[    5.625410][   T93] x\n", Writer::Task(93)),
        ("[    5.625410][    C1] x\r\n", Writer::Cpu(1)),
        ("[    5.625410] [   T93] x\n", Writer::Task(93)),
        ("[12345.625410] x\n", Writer::Kernel),
        ("<4>[    5.625410] x\n", Writer::Kernel),
        ("kern  :warn  : [    5.625410] x\n", Writer::Kernel),
        (
            "2026-11-24T22:32:22.123 [    5.625410][   T93] x",
            Writer::Task(93),
        ),
        ("\x1b[32m[    5.625410] \x1b[0mx\n", Writer::Kernel),
        ("[    5.625410] guest kernel: x\n", Writer::Kernel),
        ("Nov 24 22:32:22 guest kernel: x\n", Writer::Kernel),
        ("Nov 24 22:32:22 guest sshd[12]: x\n", Writer::Program),
        ("Nov 24 22:32:22 guest sshd: x\n", Writer::Program),
        ("2026-11-24T22:32:22.123456Z x\n", Writer::Bare),
        ("2026-11-24 22:32:22,123456+01:00 x\n", Writer::Bare),
        ("[Tue Nov 24 22:32:22 2026] x\n", Writer::Bare),
        ("[Tue Nov 24 22:32:22 2026] [   T93] x\n", Writer::Task(93)),
        ("[22:32:22.123] x\n", Writer::Bare),
        ("<4>x\n", Writer::Bare),
        ("x\n", Writer::Bare),
        ("[5.6] x\n", Writer::Bare),
        ("[    5.62541] x\n", Writer::Bare),
        ("[   T93] x\n", Writer::Task(93)),
    ];
    for (text, writer) in told {
        let (found, rest, _) = first(text);
        assert_eq!(found, writer, "{text:?}");
        match text.contains("[5.6]") || text.contains("62541]") {
            true => assert_eq!(rest, text.trim_end()),
            false => assert_eq!(rest.replace("\x1b[0m", ""), "x", "{text:?}"),
        }
    }
    assert_eq!(first("[    5.625410] x\n").2, Some(5_625_410));
    let spans: Vec<_> = lines(b"a\r\r\nb\rc\n\nd")
        .map(|l| (l.span.len(), l.text.len()))
        .collect();
    assert_eq!(spans, [(4, 1), (2, 1), (2, 1), (1, 0), (1, 1)]);
}

#[test]
fn lockdep_is_on_up_to_the_line_that_turns_it_off() {
    let warning = |time: u32, line: u32| {
        format!(
            "[{time:5}.000000][   T93] WARNING: net/core/dev.c:{line} at f+0x1/0x2, CPU#0: sh/93\n[{time:5}.000001][   T93] ---[ end trace 0 ]---\n"
        )
    };
    let splat = "[    3.000000][   T94] WARNING: possible recursive locking detected\n";
    let off = "[    3.000000][   T94] Disabling lock debugging due to kernel taint\n";
    let on = "[    0.000000][    T0] Lock dependency validator: Copyright\n";
    let states = |text: String| -> Vec<Option<bool>> {
        let console = Console::read(text.as_bytes(), Some(0));
        console.armed.iter().map(|r| r.lockdep).collect()
    };
    let (before, after) = (warning(2, 1), warning(9, 2));
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(states(format!("{before}{after}")), [None, None]);
    assert_eq!(states(format!("{on}{before}{after}")), [yes, yes]);
    assert_eq!(states(format!("{before}{off}{after}")), [yes, no]);
    assert_eq!(states(format!("{before}{splat}{after}")), [yes, yes, no]);
    // An Oops turns it off without a word, and says nothing about a kernel that may have none.
    let oops = "[    3.000000][   T94] Oops: divide error: 0000 [#1] SMP\n";
    assert_eq!(states(format!("{before}{oops}{after}")), [None, None, no]);
    let boot = "[    0.000000][    T0] Linux version 7.2.12 (x)\n";
    assert_eq!(
        states(format!("{before}{splat}{boot}{after}")),
        [yes, yes, None, None]
    );
    let is_off = "[    2.500000][   T93] INFO: lockdep is turned off.\n";
    let within = before.replace("[    2.000001]", &format!("{is_off}[    2.600000]"));
    assert_eq!(states(format!("{within}{after}")), [no, no]);
    let console = Console::read(format!("{before}{splat}{after}").as_bytes(), Some(0));
    assert_eq!(console.blind_at, Some(before.len()));
}

#[test]
fn dropped_messages_are_a_gap_and_cut_the_report_around_them() {
    let text = "[    2.000000][   T93] WARNING: net/core/dev.c:1 at f+0x1/0x2, CPU#0: sh/93\n\
                ** 3 printk messages dropped **\n[    2.000001][   T93] ---[ end trace 0 ]---\n";
    let console = Console::read(text.as_bytes(), Some(0));
    assert!(!console.armed[0].complete);
    assert_eq!(console.gaps.len(), 1);
    assert!(text[console.gaps[0].clone()].starts_with("** 3"));
}

#[test]
fn so_many_reports_of_a_kind_are_counted_only() {
    let text = "BUG: KASAN: slab-use-after-free in f+0x1/0x2\n".repeat(5000);
    let console = Console::read(text.as_bytes(), Some(0));
    assert!(console.armed.len() < 1000);
    assert_eq!(console.armed.len() as u64 + console.omitted, 5000);
    assert!(
        console.gap.is_some(),
        "a run with such a console cannot pass"
    );
}

#[test]
fn a_headline_in_a_line_that_never_ends_is_found() {
    let text = format!(
        "{}BUG: KASAN: slab-use-after-free in device_del+0x1/0x2{}",
        "x".repeat(100_000),
        "y".repeat(100_000)
    );
    let console = Console::read(text.as_bytes(), Some(0));
    assert_eq!(console.armed[0].rule, "kasan-free");
    assert!(console.armed[0].text.len() < 5000);
    assert!(console.armed[0].text.contains("in device_del+0x1/0x2"));
}

#[test]
fn nothing_takes_for_ever() {
    let size = 400_000;
    for unit in [
        "[",
        "[    5.625410][   T93] ",
        "BUG: ",
        "\r",
        "\n",
        "\x1b[",
        "WARNING: at f+0x1/0x2\n",
        "[    5.625410][   T93]  f+0x1/0x2\n",
        "[    5.625410][   T93] Linux version 7.2.12\n[    0.000000][    T0] Disabling lock debugging due to kernel taint\n",
    ] {
        let text = unit.repeat(size / unit.len());
        let started = std::time::Instant::now();
        Console::read(text.as_bytes(), Some(0));
        let took = started.elapsed();
        // Quadratic would be minutes; a loaded machine and a build without optimisation are slow too.
        assert!(took.as_secs() < 30, "{unit:?}: {took:?}");
    }
    let callers: String = (0..20_000)
        .map(|n| format!("[    5.000000][ T{n}] BUG: KASAN: x in f+0x1/0x2\n"))
        .collect();
    assert!(!Console::read(callers.as_bytes(), Some(0)).armed.is_empty());
}

#[test]
fn a_finding_says_what_was_known_around_it() {
    let scenario = scenario("unbind-vs-vf-unplug", 1);
    let report = "[    5.000000][   T88] BUG: KASAN: slab-use-after-free in device_del+0x1/0x2\n\
                  [    5.000001][   T88] CPU: 0 UID: 0 PID: 88 Comm: sh Tainted: G           O        7.2.12 #1\n\
                  [    5.000002][   T88] Call Trace:\n\
                  [    5.000003][   T88]  device_del+0x1/0x2\n\
                  [    5.000004][   T88]  pci_remove_bus_device+0x3/0x4\n\
                  [    5.000005][   T88] ==================\n";
    let finding = |tape: &Tape| {
        let judgement = tape.judge(&scenario);
        let mut mine = judgement.findings.into_iter();
        mine.rfind(|f| f.class == Class::UseAfterFree).unwrap()
    };
    let mut tape = Tape::booted("base");
    tape.ready(1);
    tape.arm(1);
    tape.phase(Phase::Teardown, 1);
    tape.at(88, "call:pci_stop_dev:teardown");
    tape.prints(report);
    let alone = finding(&tape);
    assert_eq!(alone.point.as_deref(), Some("call:pci_stop_dev:teardown"));
    assert_eq!(alone.alive, None, "nothing came afterwards");
    assert_eq!(alone.taint.as_deref(), Some("G           O"));
    assert_eq!(alone.fingerprint, ["device_del", "pci_remove_bus_device"]);
    let stack: Vec<&str> = alone.stack.iter().map(|f| f.text.as_str()).collect();
    assert_eq!(
        stack,
        ["device_del+0x1/0x2", "pci_remove_bus_device+0x3/0x4"]
    );
    assert_eq!(alone.lockdep, None);

    tape.phase(Phase::Settle, 1);
    let settled = tape.events.len();
    tape.guest(1, Observation::AgentReady);
    assert_eq!(finding(&tape).alive, Some(true));
    tape.events.truncate(settled);
    tape.cut(false);
    assert_eq!(finding(&tape).alive, Some(false));

    // A round before it has points of its own.
    let mut tape = control(1);
    tape.prints(report);
    assert_eq!(finding(&tape).point, None);
}

#[test]
fn the_machine_goes_on_if_another_caller_speaks_after_an_oops() {
    let scenario = scenario("unbind-alone", 1);
    let oops = "[    5.000000][   T88] Oops: divide error: 0000 [#1] SMP\n\
                [    5.000001][   T88] ---[ end trace 0000000000000000 ]---\n";
    for (after, alive) in [
        ("[    6.000000][   T40] pci 0000:01:00.2: x\n", Some(true)),
        ("[    6.000000][   T88] pci 0000:01:00.2: x\n", None),
        ("", None),
    ] {
        let mut tape = control(1);
        tape.prints(oops);
        tape.prints(after);
        assert_eq!(tape.judge(&scenario).findings[0].alive, alive, "{after}");
    }
    let mut tape = control(1);
    tape.prints("[    5.000000][   T88] Kernel panic - not syncing: Fatal exception\n");
    tape.prints("[    6.000000][   T40] pci 0000:01:00.2: x\n");
    assert_eq!(tape.judge(&scenario).findings[0].alive, Some(false));
}

#[test]
fn a_panic_is_part_of_the_report_that_it_follows_from() {
    let oops = "[    5.000000][   T88] Oops: divide error: 0000 [#1] SMP\n\
                [    5.000001][   T88] Call Trace:\n[    5.000002][   T88]  device_del+0x1/0x2\n\
                [    5.000003][   T88] ---[ end trace 0000000000000000 ]---\n";
    let warning = oops.replace(
        "Oops: divide error: 0000 [#1] SMP",
        "WARNING: a.c:1 at f+0x1/0x2, CPU#0: sh/88",
    );
    let fatal = "Kernel panic - not syncing: Fatal exception\n";
    let warned = "Kernel panic - not syncing: kernel: panic_on_warn set ...\n";
    let read = |report: &str, head: &str, panic: &str, armed: usize| {
        let console = format!("{report}{head} {panic}");
        let console = Console::read(console.as_bytes(), Some(armed as u64));
        let of = |r: &Report| (r.rule.clone(), r.fatal(), r.halted());
        console.armed.iter().map(of).collect::<Vec<_>>()
    };
    let one = |rule: &str| vec![(rule.to_owned(), true, true)];
    let soon = "[    6.000000][   T88]";
    let panic = || ("panic-after".to_owned(), true, true);

    assert_eq!(read(oops, soon, fatal, 0), one("oops"));
    assert_eq!(read(&warning, soon, warned, 0), one("warning"));

    // An Oops that was lost, another task, much later, a reason of its own.
    let both = [("warning".to_owned(), false, false), panic()];
    assert_eq!(read(&warning, soon, fatal, 0), both);
    let both = [("oops".to_owned(), true, false), panic()];
    assert_eq!(read(oops, "[    6.000000][   T89]", fatal, 0), both);
    assert_eq!(read(oops, "[   16.000000][   T88]", fatal, 0), both);
    let other = "Kernel panic - not syncing: panic_on_taint set ...\n";
    assert_eq!(read(oops, soon, other, 0).len(), 2);

    // The Oops was there before the run was armed: the panic still counts.
    assert_eq!(read(oops, soon, fatal, oops.len()), [panic()]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_console_read_piece_by_piece_says_the_same(which in any::<Index>(), cuts in proptest::collection::vec(any::<Index>(), 0..6)) {
        let bytes = &which.get(corpus::corpus()).bytes;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut scan = Scan::default();
        for cut in cuts {
            let part = &bytes[..cut];
            scan.advance(part);
            let now = scan.console(part, Some(0));
            let whole = Console::read(part, Some(0));
            prop_assert_eq!(&now.armed, &whole.armed);
            prop_assert_eq!(&now.blind, &whole.blind);
            prop_assert_eq!(&now.gaps, &whole.gaps);
        }
    }
}
