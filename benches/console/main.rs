// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast a console is judged: `cargo bench --bench console`. Megabytes a second, of consoles made from the fixtures.

#![allow(missing_docs)]

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vfrace::oracle::Console;

/// Bytes of each console.
const SIZE: usize = 16 << 20;

const LINES: [&str; 6] = [
    "virtio-pci 0000:01:00.1: enabling device (0000 -> 0002)",
    "pci 0000:01:00.2: [1af4:1041] type 00 class 0x020000 PCIe Endpoint",
    "EXT4-fs (vda1): mounted filesystem with ordered data mode. Quota mode: none.",
    "rcu: Hierarchical SRCU implementation.",
    "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
    "systemd[1]: Started Journal Service.",
];

const CALLERS: [&str; 5] = ["T93", "C0", "T1", "T21", "C1"];

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Six kernel lines of five callers to one of a program, and a report of 180 lines for every `every` lines.
fn ordinary(every: usize, report: &[u8]) -> Vec<u8> {
    let mut console = Vec::with_capacity(SIZE + (1 << 16));
    for n in 0.. {
        if console.len() >= SIZE {
            break;
        }
        let time = 5.0 + n as f64 * 0.0005;
        if n % every == every - 1 {
            for line in report.split(|b| *b == b'\n') {
                console.extend_from_slice(format!("[{time:12.6}][   T93] ").as_bytes());
                console.extend_from_slice(line);
                console.push(b'\n');
            }
        }
        if n % 7 == 0 {
            console.extend_from_slice(b"output of a program that runs in the guest\r\n");
        } else {
            let caller = CALLERS.get(n % CALLERS.len()).unwrap_or(&"T1");
            let line = LINES.get(n % LINES.len()).unwrap_or(&"");
            console.extend_from_slice(format!("[{time:12.6}][{caller:>6}] {line}\r\n").as_bytes());
        }
    }
    console
}

fn repeated(unit: &[u8]) -> Vec<u8> {
    unit.repeat(SIZE / unit.len())
}

fn callers() -> Vec<u8> {
    let mut console = Vec::with_capacity(SIZE + 128);
    for n in 0.. {
        if console.len() >= SIZE {
            break;
        }
        let line = format!(
            "[    5.000000][{:>6}] BUG: KASAN: x in f+0x1/0x2\n",
            format!("T{n}")
        );
        console.extend_from_slice(line.as_bytes());
    }
    console
}

fn judge(c: &mut Criterion) {
    let report = fixture("x86-double-put-s_h2_op3_vf3.log");
    let consoles = [
        ("ordinary", ordinary(20_000, &report)),
        ("dense", ordinary(200, &report)),
        ("reports only", repeated(&report)),
        (
            "headlines only",
            repeated(b"BUG: KASAN: slab-use-after-free in device_del+0x835/0x8c0\n"),
        ),
        (
            "frames only",
            repeated(b"[    5.625410][   T93]  device_del+0x835/0x8c0\n"),
        ),
        ("one line", repeated(b"x[ BUG WARNING: INFO: ")),
        ("brackets", repeated(b"[")),
        ("prefixes", repeated(b"[    5.625410][   T93] ")),
        ("a caller a line", callers()),
    ];
    let mut group = c.benchmark_group("console");
    group.sample_size(10);
    for (name, console) in &consoles {
        group.throughput(Throughput::Bytes(console.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), console, |b, console| {
            b.iter(|| Console::read(black_box(console), Some(0)))
        });
    }
    group.finish();
}

criterion_group!(benches, judge);
criterion_main!(benches);
