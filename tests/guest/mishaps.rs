// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes wrong outside of the kernel under test: each has its exit code, and nothing is left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vfrace::event::Verdict;
use vfrace::oracle::KnownIssues;
use vfrace::qemu::Accel;
use vfrace::run::{RunConfig, run};

use crate::bench::bench;

/// A `vfrace run` of a scenario on base, with a directory of its own for temporary files.
struct Running {
    child: Child,
    dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        bench();
        let dir = tempfile::tempdir().unwrap();
        let temporary = dir.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vfrace"))
            .args([
                "run",
                "unbind-alone",
                "--kernel",
                "base",
                "--accel",
                "tcg",
                "--out",
            ])
            .arg(dir.path().join("out"))
            .env("TMPDIR", &temporary)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Waits until the guest has printed something, and gives QEMU's pid.
    fn qemu(&self) -> Pid {
        let console = self
            .dir
            .path()
            .join("out/unbind-alone/base/boot-1/console.log");
        let end = Instant::now() + Duration::from_secs(120);
        while std::fs::metadata(&console).map_or(0, |file| file.len()) == 0 {
            assert!(Instant::now() < end, "no guest came up");
            std::thread::sleep(Duration::from_millis(50));
        }
        children(self.child.id())
            .first()
            .copied()
            .expect("QEMU is a child of vfrace")
    }

    fn end(self) -> (Option<i32>, String) {
        let temporary = self.dir.path().join("tmp");
        let output = self.child.wait_with_output().unwrap();
        let left: Vec<PathBuf> = std::fs::read_dir(temporary)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let told = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&told).into_owned(),
        )
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let is_child = |status: &str| {
        status
            .lines()
            .any(|line| line == format!("PPid:\t{parent}"))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|status| is_child(&status))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

fn is_alive(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_qemu_that_is_killed_is_no_verdict_on_the_kernel() {
    let running = Running::start();
    kill_process(running.qemu(), Signal::KILL).unwrap();
    let (code, told) = running.end();
    assert_eq!(code, Some(128), "{told}");
    assert!(
        told.contains("INFRA") && told.contains("killed by signal 9"),
        "{told}"
    );
}

#[test]
#[ignore = "boots a guest: make test"]
fn an_interrupt_ends_the_run_and_qemu_with_it() {
    let running = Running::start();
    let qemu = running.qemu();
    kill_process(
        Pid::from_raw(running.child.id() as i32).unwrap(),
        Signal::INT,
    )
    .unwrap();
    let (code, told) = running.end();
    assert_eq!(code, Some(130), "{told}");
    assert!(!is_alive(qemu));
}

#[test]
#[ignore = "boots a guest: make test"]
fn qemu_does_not_outlive_a_vfrace_that_is_killed() {
    let mut running = Running::start();
    let qemu = running.qemu();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while is_alive(qemu) {
        assert!(Instant::now() < end, "QEMU is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_guest_that_does_not_come_up_is_a_boot_failure() {
    let bench = bench();
    let dir = tempfile::tempdir().unwrap();
    let data = vfrace::paths::data_dir().unwrap();
    let scenario =
        vfrace::scenario::load("unbind-alone", &data.join("guest-tests/scenarios"), &[]).unwrap();
    // a module that cannot be loaded: init says so and powers off
    let module = dir.path().join("vfrace.ko");
    for file in [&module, &module.with_file_name(vfrace::kernel::PF_FILE)] {
        std::fs::write(file, b"not a module").unwrap();
    }
    let mut kernel = bench.base.clone();
    kernel.module = module;
    let known = KnownIssues::load(&data.join("guest-tests/expect/known.toml")).unwrap();
    let config = RunConfig {
        skip_sleep: false,
        repair: false,
        few_probes: false,
        no_shim: false,
        scenario: &scenario,
        kernel: &kernel,
        qemu: &bench.qemu,
        accel: Accel::Tcg,
        busybox: &bench.busybox,
        init: &data.join("guest-tests/init/init"),
        known: &known,
        dir: dir.path().join("out"),
        stop: Default::default(),
    };
    let result = run(&config, Box::new(|_| {})).unwrap();
    assert_eq!(
        result.judgement.verdict,
        Verdict::BootFail,
        "{:?}",
        result.judgement
    );
    // something that is no kernel at all: QEMU refuses it
    let mut no_kernel = kernel.clone();
    no_kernel.image = dir.path().join("bzImage");
    std::fs::write(&no_kernel.image, vec![0; 65536]).unwrap();
    let result = run(
        &RunConfig {
            kernel: &no_kernel,
            dir: dir.path().join("out2"),
            ..config
        },
        Box::new(|_| {}),
    )
    .unwrap();
    assert_eq!(
        result.judgement.verdict,
        Verdict::Infra,
        "{:?}",
        result.judgement
    );
}
