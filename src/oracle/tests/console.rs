// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use proptest::prelude::*;

use crate::event::Class;
use crate::oracle::builder::{fixture, known};
use crate::oracle::console::{Console, lines};
use crate::oracle::rules::{Flag, Rules};

/// Rule, class, frame and completeness of what counts in a console that was armed at its beginning.
fn found(name: &str) -> Vec<String> {
    let console = Console::read(&fixture(name), Some(0));
    let frame = |f: &Option<String>| f.clone().unwrap_or_else(|| "-".into());
    console
        .armed
        .iter()
        .map(|r| {
            format!(
                "{} {:?} {}{}",
                r.rule,
                r.class,
                frame(&r.frame),
                if r.complete { "" } else { " ..." }
            )
        })
        .collect()
}

#[test]
fn every_rule_takes_its_example() {
    let rules = Rules::built_in();
    let mut ids = Vec::new();
    for rule in rules.all() {
        let inside = rule
            .inside
            .as_ref()
            .map(|_| "__list_del_entry_valid_or_report");
        let taken = rules.headline(rule.example.as_bytes(), inside);
        let taken = taken.map(|found| found.rule.id.as_str());
        assert_eq!(taken, Some(rule.id.as_str()), "{}", rule.example);
        assert!(!ids.contains(&rule.id), "{} twice", rule.id);
        ids.push(rule.id.clone());

        // the same through the splitter, behind other output, as a caller's line
        let text = format!(
            "[    1.000000][   T93] vfrace: x\r\nsh: [    5.625410][   T93] {}\r\n",
            rule.example
        );
        let console = Console::read(text.as_bytes(), Some(0));
        let ids: Vec<&str> = console.armed.iter().map(|r| r.rule.as_str()).collect();
        match (rule.is(Flag::Blind), rule.is(Flag::Gap)) {
            (true, _) => assert!(console.blind.is_some() && ids.is_empty()),
            (_, true) => assert!(console.gap.is_some() && ids.is_empty()),
            _ if rule.is(Flag::Sees) => assert!(ids.is_empty()),
            _ if rule.inside.is_some() => {
                assert_eq!(ids, ["gpf"], "no stack, no innermost function")
            }
            _ => assert_eq!(ids, [rule.id.as_str()]),
        }
        assert!(
            Console::read(text.as_bytes(), Some(text.len() as u64))
                .armed
                .is_empty()
        );
    }
}

#[test]
fn ordinary_lines_are_nothing() {
    for line in [
        "... MAX_LOCKDEP_SUBCLASSES:  8",
        "virtio-pci 0000:01:00.1: enabling device (0000 -> 0002)",
        "kobject: 'debug' (ff11000004c7a0a8): kobject_add_internal: parent: 'x', set: '<NULL>'",
        "rcu: \tRCU lockdep checking is enabled.",
        "KASAN: maybe wild-memory-access in range [0x07e4007e00000058-0x07e4007e0000005f]",
        "page: refcount:0 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x5658",
        "Call Trace:",
        "sysrq: Show Blocked State",
        "qemu-system-s390x: warning: netdev n0 has no peer",
        "Debug: the WARNING level is 4",
        "Module WARNING: CPU: fan 3 of 4",
        "WARNING: stack recursion on stack type 1",
        "WARNING: apt does not have a stable CLI interface.",
        "systemd[1]: /lib/x.service:12: WARNING: unit is old",
        "foo: driver for the BUG: a small robot",
        "[Firmware Bug]: TSC ADJUST: CPU0: -1 force to 0",
        "DEBUG: BUGS fixed: 12",
        "traps: sh[93] general protection fault ip:47b7a0 sp:7fff67c5cb88 error:0 in busybox[401000+1a0000]",
        "sh[93]: segfault at 0 ip 000000000047b7a0 sp 00007fff67c5cb88 error 4 in busybox[401000+1a0000]",
        "User process fault: interruption code 0010 ilc:3 in busybox[1000000+1a0000]",
        "sysrq: Show Locks Held",
        "task:sh              state:D stack:25000 pid:93    tgid:93    ppid:1",
        "INFO: task sh:93 is blocked on a mutex likely owned by task vfrace:40.",
        "---[ end Kernel panic - not syncing: Fatal exception ]---",
        "list_delay: 3",
        "refcount_t is 4 bytes",
        "Kernel command line: panic=-1 oops=panic hung_task_panic=1",
        "watchdog: Delayed init of the lockup detector failed: -19",
        "rcu: \tTasks RCU enabled.",
        "reboot: Power down",
        "This is Linux version 7.2.12",
        "Lockdep: lock held for 3 ms",
        "kmemleak: Kernel memory leak detector initialized (mem pool available: 15679)",
        "Oops, something went wrong",
        "git: Oops: no branch",
    ] {
        let found = Rules::built_in().headline(line.as_bytes(), None);
        assert!(found.is_none(), "{line}");
    }
}

#[test]
fn boot_noise_counts_only_if_armed_before() {
    assert_eq!(
        found("x86-boot-noise-kasan"),
        ["kasan Other handle_edge_irq"]
    );
    let bytes = fixture("x86-boot-noise-kasan");
    let booted = bytes.windows(6).position(|w| w == b"BOOTED").unwrap();
    let console = Console::read(&bytes, Some(booted as u64));
    assert!(console.armed.is_empty());
    assert_eq!(console.before.len(), 1);
    assert!(!console.before[0].fatal());
    assert!(Console::read(&bytes, None).armed.is_empty());
}

#[test]
fn unbind_of_the_unfixed_kernel_asserts_once_a_vf() {
    let assert = "pci-lock-assert Assert pci_stop_and_remove_bus_device";
    assert_eq!(found("x86-unbind-baseline").len(), 3);
    assert!(
        found("x86-unbind-baseline")
            .iter()
            .all(|f| f.starts_with(assert))
    );
    let console = Console::read(&fixture("x86-unbind-baseline"), Some(0));
    for report in &console.armed {
        assert_eq!(
            known()
                .find(report, Some("base"), Some("7.2.12"))
                .unwrap()
                .id,
            "unbind-without-lock"
        );
        assert!(
            known()
                .find(report, Some("base@7.2"), Some("7.2.12"))
                .is_some()
        );
        assert!(known().find(report, Some("v7"), Some("7.2.12")).is_none());
        assert!(known().find(report, Some("base"), Some("6.12.1")).is_none());
        assert!(known().find(report, None, None).is_none());
    }
    assert!(found("x86-unbind-v7").is_empty());
}

#[test]
fn a_double_put_shows_when_the_pf_is_removed() {
    let vf2 = found("x86-double-put-m_h2_op3_vf2");
    let (asserts, rest): (Vec<_>, Vec<_>) = vf2
        .into_iter()
        .partition(|f| f.starts_with("pci-lock-assert"));
    assert_eq!(
        asserts,
        vec!["pci-lock-assert Assert pci_stop_and_remove_bus_device"; 6]
    );
    let damage = [
        "kasan-free UseAfterFree device_del",
        "gpf-in-list ListCorruption pci_remove_bus_device",
    ];
    assert_eq!(rest, damage);
    assert_eq!(found("x86-double-put-s_h2_op3_vf3"), damage);
    let console = Console::read(&fixture("x86-double-put-m_h2_op3_vf2"), Some(0));
    assert_eq!(
        console.blind.as_deref(),
        Some("Disabling lock debugging due to kernel taint")
    );
    let kasan = console
        .armed
        .iter()
        .find(|r| r.rule == "kasan-free")
        .unwrap();
    assert!(kasan.text.contains("Freed by task 92") && !kasan.text.contains("general protection"));
    assert!(
        !kasan.stack.contains(&"pci_alloc_dev".to_owned()),
        "that is where it was allocated"
    );
}

#[test]
fn pciehp_is_known() {
    assert_eq!(
        found("x86-pciehp-surprise"),
        ["lockdep-circular LockOrder pciehp_unconfigure_device"]
    );
    let console = Console::read(&fixture("x86-pciehp-surprise"), Some(0));
    let known = known();
    let issue = known
        .find(&console.armed[0], Some("v7"), Some("7.2.12"))
        .unwrap();
    assert_eq!(
        (issue.id.as_str(), issue.class),
        ("pciehp-reset-lock", Class::LockOrder)
    );
}

#[test]
fn s390x_consoles() {
    assert_eq!(
        found("s390x-sysfs0"),
        ["lockdep-circular LockOrder zpci_release_device"]
    );
    let console = Console::read(&fixture("s390x-sysfs0"), Some(0));
    assert_eq!(
        known()
            .find(&console.armed[0], None, Some("7.2.12"))
            .unwrap()
            .id,
        "zpci-add-remove-lock"
    );
    assert_eq!(
        console.blind.as_deref(),
        Some("WARNING: possible circular locking dependency detected")
    );
    assert_eq!(
        found("s390x-delpflocked"),
        ["lockdep-recursive LockOrder pf_remove"]
    );
    assert_eq!(
        found("s390x-kasan"),
        [
            "pci-lock-assert Assert pci_stop_and_remove_bus_device",
            "kasan-free UseAfterFree pci_get_slot",
            "refcount Refcount pci_get_slot",
            "refcount Refcount pci_scan_single_device",
        ]
    );
}

const OOPS: &str = "\
Oops: general protection fault, probably for non-canonical address 0xe0fc7c0fc000000b: 0000 [#1] SMP KASAN
RIP: 0010:__list_del_entry_valid_or_report+0x9a/0x210
Call Trace:
 <TASK>
 pci_remove_bus_device+0x14a/0x350
 remove_store+0xb9/0xd0
 </TASK>
---[ end trace 0000000000000000 ]---
";

const HUNG: &str = "\
INFO: task sh:93 blocked for more than 30 seconds.
      Not tainted 7.2.12 #1
task:sh              state:D stack:25000 pid:93
Call Trace:
 <TASK>
 __schedule+0x1/0x2
 schedule_preempt_disabled+0x1/0x2
 __mutex_lock+0x1/0x2
 mutex_lock_nested+0x1/0x2
 pci_lock_rescan_remove+0x1b/0x20
 sriov_disable+0x48/0x128
 </TASK>
Showing all locks held in the system:
3 locks held by sh/93:
 #0: ff11000005ce52d8 (pci_rescan_remove_lock){.+.+}-{4:4}, at: pci_lock_rescan_remove+0x1b/0x20
";

#[test]
fn a_hung_task_is_found_at_who_asked_for_the_lock() {
    let console = Console::read(HUNG.as_bytes(), Some(0));
    assert_eq!(console.armed.len(), 1);
    assert_eq!(console.armed[0].class, Class::Deadlock);
    assert_eq!(
        console.armed[0].frame.as_deref(),
        Some("pci_lock_rescan_remove")
    );
    assert!(console.armed[0].text.contains("#0: ff11000005ce52d8"));
}

#[test]
fn a_bug_and_its_oops_are_one_report() {
    let text = "list_del corruption, ff11->next is LIST_POISON1 (dead000000000100)\n\
                ------------[ cut here ]------------\nkernel BUG at lib/list_debug.c:58!\n\
                Oops: invalid opcode: 0000 [#1] SMP KASAN\nRIP: 0010:__list_del_entry_valid_or_report+0x1/0x2\n\
                Call Trace:\n <TASK>\n pci_remove_bus_device+0x1/0x2\n </TASK>\n---[ end trace 0000000000000000 ]---\n\
                Kernel panic - not syncing: Fatal exception\n";
    let console = Console::read(text.as_bytes(), Some(0));
    let found: Vec<_> = console
        .armed
        .iter()
        .map(|r| (r.rule.as_str(), r.complete))
        .collect();
    assert_eq!(found, [("list-del", true)]);
    assert!(console.armed[0].fatal() && console.armed[0].halted());
    assert_eq!(
        console.armed[0].frame.as_deref(),
        Some("pci_remove_bus_device")
    );
}

#[test]
fn a_warning_and_its_message_are_one_report_in_either_order() {
    let warning = "WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x60/0xc8, CPU#0: init/1\n";
    let message = "refcount_t: underflow; use-after-free.\n";
    let stack = "Call Trace:\n <TASK>\n refcount_warn_saturate+0x60/0xc8\n pci_release_dev+0x1/0x2\n </TASK>\n";
    let end = "---[ end trace 0000000000000000 ]---\n";
    for order in [[message, warning], [warning, message]] {
        // twice, since a report must not swallow the next one
        let text = format!(
            "{}{stack}{end}{}{stack}{end}",
            order.concat(),
            order.concat()
        );
        let console = Console::read(text.as_bytes(), Some(0));
        let found: Vec<_> = console
            .armed
            .iter()
            .map(|r| (r.rule.as_str(), r.title.as_str()))
            .collect();
        assert_eq!(found, [("refcount", message.trim()); 2]);
        assert_eq!(console.armed[0].frame.as_deref(), Some("pci_release_dev"));
    }
    let other = "WARNING: at device_del+0x1/0x2, CPU#0: sh/93\n";
    assert_eq!(
        Console::read(other.as_bytes(), Some(0)).armed[0].rule,
        "warning"
    );
}

#[test]
fn a_program_cannot_print_a_report() {
    let text = "[    1.000000][    T1] hello\nBUG: KASAN: slab-use-after-free in x\n** 3 printk messages dropped **\n";
    let console = Console::read(text.as_bytes(), Some(0));
    assert!(console.armed.is_empty());
    assert!(console.gap.is_some());
}

/// The lines of both, in an order that `first` decides, as two callers would print them.
fn interleaved(first: &[bool], newline: &str) -> String {
    let mut callers = [OOPS.lines().peekable(), HUNG.lines().peekable()];
    let mut order = first.iter();
    let mut text = String::new();
    let mut time = 5.0;
    while callers.iter_mut().any(|c| c.peek().is_some()) {
        let pick = usize::from(*order.next().unwrap_or(&false));
        let pick = if callers[pick].peek().is_some() {
            pick
        } else {
            1 - pick
        };
        let line = callers[pick].next().unwrap();
        time += 0.001;
        text += &format!("[{time:12.6}][{:>6}] {line}{newline}", ["T93", "T21"][pick]);
    }
    text
}

proptest! {
    #[test]
    fn interleaved_reports_are_both_found(first in proptest::collection::vec(any::<bool>(), 30), crlf: bool) {
        let text = interleaved(&first, if crlf { "\r\n" } else { "\n" });
        let console = Console::read(text.as_bytes(), Some(0));
        let mut found: Vec<_> = console.armed.iter().map(|r| (r.rule.as_str(), r.frame.as_deref().unwrap())).collect();
        found.sort_unstable();
        prop_assert_eq!(found, [("gpf-in-list", "pci_remove_bus_device"), ("hung-task", "pci_lock_rescan_remove")]);
    }

    #[test]
    fn any_bytes_split_without_gap_or_overlap(
        bytes in proptest::collection::vec(prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..20),
            2 => Just(b"[    5.625410][   T93] BUG: KASAN: x\r\n".to_vec()),
            1 => Just(b" device_del+0x1/0x2\n".to_vec()),
            1 => Just(b"Call Trace:\n".to_vec()),
            1 => Just(b"\xff\xfe[ 1.000000] WARNING: a.c:1 at f+0x1/0x2\n".to_vec()),
        ], 0..20),
        armed in any::<u64>(),
    ) {
        let bytes = bytes.concat();
        let mut at = 0;
        for line in lines(&bytes) {
            prop_assert_eq!(line.span.start, at);
            prop_assert!(line.span.end > at);
            at = line.span.end;
        }
        prop_assert_eq!(at, bytes.len());
        for armed in [0, armed % 200, armed] {
            let console = Console::read(&bytes, Some(armed));
            for report in console.armed.iter().chain(&console.before) {
                prop_assert!(report.span.start < report.span.end && report.span.end <= bytes.len());
            }
            prop_assert!(console.armed.iter().all(|r| r.span.start as u64 >= armed));
        }
    }

    #[test]
    fn a_console_may_be_cut_anywhere(cut in 0usize..30_000) {
        let bytes = fixture("x86-double-put-m_h2_op3_vf2");
        let part = &bytes[..cut.min(bytes.len())];
        let all = Console::read(&bytes, Some(0));
        let some = Console::read(part, Some(0));
        // what was found in the part is found in the whole, at the same place
        for report in &some.armed {
            prop_assert!(all.armed.iter().any(|r| r.span.start == report.span.start));
        }
    }
}

#[test]
fn wrappers_of_the_module_tell_nothing() {
    let text = "[    1.000000][   T93] BUG: KASAN: slab-use-after-free in device_del+0x835/0x8c0\n\
                [    1.000001][   T93] Call Trace:\n\
                [    1.000002][   T93]  <TASK>\n\
                [    1.000003][   T93]  vfrace_wrapped+0x83/0xc0 [vfrace]\n\
                [    1.000004][   T93]  wrap_12+0x10/0x20 [vfrace]\n\
                [    1.000005][   T93]  device_del+0x835/0x8c0\n\
                [    1.000006][   T93]  remove_store+0x5/0x50\n\
                [    1.000007][   T93]  </TASK>\n";
    let console = Console::read(text.as_bytes(), Some(0));
    assert_eq!(console.armed[0].stack, ["device_del", "remove_store"]);
    let text = text.replace(
        "slab-use-after-free in device_del",
        "invalid-free in wrap_12",
    );
    let console = Console::read(text.as_bytes(), Some(0));
    assert_eq!(console.armed[0].frame.as_deref(), Some("device_del"));
}
