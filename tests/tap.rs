// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace tap` in front of back ends of somebody else: one that a test plays, and QEMU's own storage daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[allow(dead_code)]
#[path = "protocol/driver.rs"]
mod driver;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use driver::{Guest, NEXT, SOON, WRITE, wait};
use vfrace::event::{Event, EventKind, HoldEnd, Side};
use vfrace::report::jsonl;
use vfrace::wire::{Header, read_frame, write_frame};
use vhost::VhostBackend;
use vm_memory::{Bytes, GuestAddress};

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        match command.stdin(Stdio::null()).spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("{program:?} cannot be started: {error}"),
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        wait("end of the process", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for one that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A tap and its directory.
struct Bench {
    dir: tempfile::TempDir,
    tap: Running,
}

impl Bench {
    /// Starts it and waits until it is ready.
    fn new(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tap = Self::tap(dir.path(), arguments);
        let mut line = String::new();
        let mut said = BufReader::new(tap.0.stdout.take().unwrap());
        while line != "ready\n" {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
        }
        Self { dir, tap }
    }

    fn tap(dir: &Path, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
        command
            .current_dir(dir)
            .args(["tap", "--backend", "backend.sock", "--socket", "tap.sock"])
            .args(["--trace", "trace.jsonl"])
            .args(arguments)
            .stdout(Stdio::piped());
        Running::start(&mut command)
    }

    fn ask(&self, words: &[&str]) {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_vfrace"));
        ctl.current_dir(self.dir.path());
        ctl.args(["ctl", "--control", "tap.sock.control"]);
        let asked = ctl.args(words).output().unwrap();
        assert!(asked.status.success(), "{asked:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Ends it in good order and gives its trace.
    fn end(mut self, signal: rustix::process::Signal) -> Vec<Event> {
        self.tap.signal(signal);
        assert_eq!(self.tap.end().code(), Some(0));
        assert!(!self.path("tap.sock").exists(), "the socket is left");
        jsonl::read_file(&self.path("trace.jsonl")).unwrap()
    }
}

fn reasons(events: &[Event]) -> Vec<String> {
    let reason = |event: &Event| match &event.kind {
        EventKind::Connection {
            up: false, reason, ..
        } => Some(reason.clone()),
        _ => None,
    };
    events.iter().filter_map(reason).collect()
}

fn ask(front: &UnixStream) {
    let header = Header {
        code: 1, // GET_FEATURES
        flags: Header::VERSION,
        size: 0,
    };
    write_frame(front, &header, &[], &[]).unwrap();
}

fn is_closed(mut front: &UnixStream) -> bool {
    front.set_read_timeout(Some(SOON)).unwrap();
    matches!(front.read(&mut [0]), Ok(0))
}

#[test]
fn back_ends_come_late_answer_nonsense_and_go() {
    let bench = Bench::new(&[]);
    let connect = || UnixStream::connect(bench.path("tap.sock")).unwrap();
    // There is none.
    assert!(is_closed(&connect()));
    let listener = UnixListener::bind(bench.path("backend.sock")).unwrap();
    let answer = |flags: u32, body: &[u8]| {
        let front = connect();
        ask(&front);
        let (back, _) = listener.accept().unwrap();
        let asked = read_frame(&back).unwrap();
        assert_eq!((asked.header.code, asked.body.len()), (1, 0));
        let header = Header {
            code: 1,
            flags: Header::VERSION | flags,
            size: u32::try_from(body.len()).unwrap(),
        };
        write_frame(&back, &header, body, &[]).unwrap();
        (front, back)
    };
    let (front, back) = answer(Header::REPLY, &7u64.to_ne_bytes());
    assert_eq!(read_frame(&front).unwrap().body, 7u64.to_ne_bytes());
    drop(back);
    assert!(is_closed(&front), "the back end has gone");
    // Too short for what was asked, and no answer at all.
    assert!(is_closed(&answer(Header::REPLY, &[1, 2, 3]).0));
    assert!(is_closed(&answer(0, &7u64.to_ne_bytes()).0));
    // It still serves.
    let (front, _back) = answer(Header::REPLY, &9u64.to_ne_bytes());
    assert_eq!(read_frame(&front).unwrap().body, 9u64.to_ne_bytes());
    let events = bench.end(rustix::process::Signal::INT);
    let said = reasons(&events);
    assert!(said[0].starts_with("no back end"), "{said:?}");
    assert_eq!(said[1], "the back end closed it");
    assert!(said[2].starts_with("malformed message"), "{said:?}");
    assert!(said[3].starts_with("malformed message"), "{said:?}");
    assert_eq!((said.len(), said[4].as_str()), (5, "stopped"));
}

/// Reads a sector from a virtio-blk device (Virtio 1.2, section 5.2.6): a header, room for the data, room for a status.
fn read_sector(disk: &mut Guest, sector: u64) -> Vec<u8> {
    let [head, data, status] = [0, 1, 2].map(|i| disk.buffer(0, i));
    let mut header = [0; 16];
    header[8..].copy_from_slice(&sector.to_le_bytes());
    disk.memory
        .write_slice(&header, GuestAddress(head))
        .unwrap();
    disk.memory.write_obj(0xffu8, GuestAddress(status)).unwrap();
    disk.descriptor(0, 0, head, 16, NEXT, 1);
    disk.descriptor(0, 1, data, 512, NEXT | WRITE, 2);
    disk.descriptor(0, 2, status, 1, WRITE, 0);
    disk.offer(0, 0);
    disk.kick(0);
    assert_eq!(disk.wait_used(0).0, 0);
    assert_eq!(disk.bytes(status, 1), [0], "VIRTIO_BLK_S_OK");
    disk.bytes(data, 512)
}

#[test]
fn the_disk_of_qemus_storage_daemon_is_read_through_the_tap() {
    let held = Duration::from_millis(300);
    let bench = Bench::new(&["--name", "vf1"]);
    bench.ask(&["arm", "vf1:wire:GET_VRING_BASE until time <=300ms"]);
    let contents: Vec<u8> = (0..4096u32).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(bench.path("disk"), &contents).unwrap();
    let _daemon = Running::start(
        Command::new("qemu-storage-daemon")
            .current_dir(bench.dir.path())
            .args(["--blockdev", "driver=file,node-name=disk,filename=disk"])
            .args([
                "--export",
                "type=vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path=backend.sock",
            ]),
    );
    wait("the storage daemon's socket", || {
        bench.path("backend.sock").exists().then_some(())
    });
    // The second connection finds the device as the first one did.
    for round in 0..2 {
        let mut disk = Guest::connect(&bench.path("tap.sock"), 1);
        disk.start();
        for sector in [0, 3] {
            let at = usize::try_from(sector).unwrap() * 512;
            assert_eq!(read_sector(&mut disk, sector), contents[at..at + 512]);
        }
        let began = Instant::now();
        disk.front.get_vring_base(0).unwrap();
        // A step acts once.
        assert_eq!(began.elapsed() >= held, round == 0, "{:?}", began.elapsed());
    }
    let events = bench.end(rustix::process::Signal::TERM);
    let count = |wanted: &dyn Fn(&EventKind) -> bool| {
        events.iter().filter(|event| wanted(&event.kind)).count()
    };
    let wire = |from, name: &'static str| {
        count(
            &move |kind| matches!(kind, EventKind::Wire(m) if m.from == from && m.message == name && !m.answered_by_tap),
        )
    };
    assert_eq!(wire(Side::Qemu, "GET_VRING_BASE"), 2);
    assert_eq!(wire(Side::Backend, "GET_VRING_BASE"), 2);
    assert_eq!(wire(Side::Qemu, "SET_VRING_KICK"), 2);
    assert_eq!(
        count(&|kind| matches!(kind, EventKind::PointReached { .. })),
        1
    );
    let reached = |kind: &EventKind| {
        matches!(kind, EventKind::HoldEnded { held_ns, end: HoldEnd::Reached, .. }
            if u128::from(*held_ns) >= held.as_nanos())
    };
    assert_eq!(count(&reached), 1);
    assert_eq!(reasons(&events), ["QEMU closed it"; 2]);
}

#[test]
fn who_follows_events_goes_when_nobody_reads() {
    let bench = Bench::new(&[]);
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    ctl.current_dir(bench.dir.path())
        .args(["ctl", "--control", "tap.sock.control", "events", "--follow"])
        .stdout(Stdio::piped());
    let mut follower = Running::start(&mut ctl);
    let mut reader = BufReader::new(follower.0.stdout.take().unwrap());
    bench.ask(&["arm", "pf:wire:GET_CONFIG until time <=1ms"]);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("GET_CONFIG"), "{line}");
    drop(reader);
    // The next event has nobody to go to.
    bench.ask(&["arm", "pf:wire:GET_CONFIG until time <=2ms"]);
    assert_eq!(follower.end().code(), Some(0));
    bench.end(rustix::process::Signal::TERM);
}

/// A tap that was killed leaves its sockets; the next one takes their place, and nobody else may connect.
#[test]
fn a_dead_taps_sockets_are_replaced_and_a_living_ones_are_not() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let tap = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
        command
            .arg("tap")
            .arg("--backend")
            .arg(path("nobody"))
            .arg("--socket")
            .arg(path("mine"));
        command
    };
    let ready = || {
        let mut child = tap().stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line == "ready"));
        child
    };
    let mut first = ready();
    let refused = tap().output().unwrap();
    assert_eq!(refused.status.code(), Some(129), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("in use"), "{said}");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(path("mine").exists());
    let second = Running(ready());
    for name in ["mine", "mine.control"] {
        let mode = std::fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
    second.signal(rustix::process::Signal::TERM);
    let mut second = second;
    assert!(second.end().success());
    assert!(!path("mine").exists() && !path("mine.control").exists());
}
