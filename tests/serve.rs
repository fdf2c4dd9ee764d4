// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace serve`, `ctl` and `tap` as processes, with real sockets and without a guest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

fn vfrace() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vfrace"))
}

/// A server that has said `ready`.
struct Server {
    child: Child,
    said: Vec<String>,
    control: PathBuf,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            assert!(
                stdout.read_line(&mut line).unwrap() > 0,
                "it ended: {said:?}"
            );
            said.push(line.trim_end().to_owned());
            if line == "ready\n" {
                break;
            }
        }
        let control = said.iter().find_map(|line| line.strip_prefix("control: "));
        let control = PathBuf::from(control.unwrap_or_default());
        Self {
            child,
            said,
            control,
            _stdout: stdout,
        }
    }

    fn serve(dir: &Path, more: &[&str]) -> Self {
        let mut command = vfrace();
        command.arg("serve").arg("--socket-dir").arg(dir).args(more);
        Self::start(&mut command)
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let mut command = vfrace();
        command.arg("ctl").arg("--control").arg(&self.control);
        command.args(words).output().unwrap()
    }

    fn ask(&self, words: &[&str]) -> Value {
        let output = self.ctl(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Sends SIGTERM and waits.
    fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn raw(control: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(control).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut stream = BufReader::new(stream);
    assert_eq!(
        line(&mut stream),
        json!({"vfrace": "control", "version": 1})
    );
    stream
}

fn line(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn it_serves_until_it_is_told_to_end_and_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().join("s");
    let server = Server::serve(
        &dir,
        &["--vfs", "2", "--mtu", "1400", "--mac", "52:54:00:00:00:ff"],
    );
    let qemu = &server.said[0];
    for part in [
        "vhost-user,id=n-vf2,chardev=c-vf2,queues=1",
        "mac=52:54:00:00:01:01",
        "host_mtu=1400",
        "/s/mailbox.sock",
    ] {
        assert!(qemu.contains(part), "{part} in {qemu}");
    }
    assert!(!qemu.contains("-kernel"), "{qemu}");
    let status = server.ask(&["status"]);
    assert_eq!(
        (&status["vfs"], &status["guest"]),
        (&json!(2), &json!(false))
    );
    let armed = server.ask(&["arm", "vf2:wire:GET_VRING_BASE until time <=5ms"]);
    assert_eq!(armed["unplug"], Value::Null);
    assert_eq!(server.ask(&["status"])["armed"], json!(true));
    server.ask(&["disarm"]);
    for (words, says) in [
        (vec!["arm", "vf3:wire:GET_VRING_BASE until time"], "vf3"),
        (vec!["arm", "nonsense"], "nonsense"),
        (vec!["unplug", "vf2"], "module"),
        (vec!["unplug", "vf9"], "there is no vf9"),
        (vec!["exec", "true"], "module"),
        (vec!["unplug", "pf", "--actuator", "platform"], "platform"),
        (
            vec!["unplug", "slot", "--actuator", "pciehp-surprise"],
            "QEMU",
        ),
    ] {
        let output = server.ctl(&words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(129), "{words:?}: {error}");
        assert!(error.contains(says), "{words:?}: {error}");
    }
    let second = vfrace()
        .args(["serve", "--socket-dir"])
        .arg(&dir)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(129));
    assert_eq!(server.terminate(), 0);
    assert!(!dir.exists());
}

#[test]
fn hostile_clients_are_refused_and_the_others_served() {
    let room = tempfile::tempdir().unwrap();
    let server = Server::serve(&room.path().join("s"), &[]);
    // Bad lines are answered, and the connection goes on.
    let mut client = raw(&server.control);
    client
        .get_mut()
        .write_all(b"\n{\xff\n{\"id\":3,\"version\":2,\"do\":\"status\"}\n")
        .unwrap();
    let kinds: Vec<Value> = (0..3)
        .map(|_| line(&mut client)["error"]["kind"].clone())
        .collect();
    assert_eq!(kinds, ["malformed", "malformed", "version"]);
    client
        .get_mut()
        .write_all(b"{\"id\":4,\"version\":1,\"do\":\"status\"}\n")
        .unwrap();
    assert_eq!(line(&mut client)["id"], 4);
    // A line without an end.
    let mut endless = raw(&server.control);
    let sent = endless.get_mut().write_all(&vec![b'x'; 70_000]);
    if sent.is_ok() {
        let answer = line(&mut endless);
        assert!(
            answer["error"]["text"].as_str().unwrap().contains("65536"),
            "{answer}"
        );
    }
    let mut rest = Vec::new();
    // The end, or a reset for what it had not read.
    let _ = endless.read_to_end(&mut rest);
    assert!(rest.is_empty());
    // One that asks for ever and reads nothing is cut off.
    let mut deaf = raw(&server.control);
    let begun = Instant::now();
    let ask = b"{\"id\":1,\"version\":1,\"do\":\"counters\"}\n".repeat(1000);
    deaf.get_mut()
        .set_write_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    while deaf.get_mut().write_all(&ask).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    // The server counts it out right after it has closed the connection.
    std::thread::sleep(Duration::from_millis(300));
    // One too many.
    let mut others: Vec<_> = (0..15).map(|_| raw(&server.control)).collect();
    let mut full = BufReader::new(UnixStream::connect(&server.control).unwrap());
    assert_eq!(line(&mut full)["error"]["kind"], "busy");
    others.pop();
    std::thread::sleep(Duration::from_millis(500));
    server.ask(&["stop"]);
    let mut server = server;
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn sockets_are_taken_from_the_service_manager_and_it_is_told() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let (pf, control) = (
        UnixListener::bind(at("given-pf.sock")).unwrap(),
        UnixListener::bind(at("c.sock")).unwrap(),
    );
    let manager = UnixDatagram::bind(at("notify")).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (ready, readys) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut ready = std::fs::File::from(ready);
    let fds = [pf.as_raw_fd(), control.as_raw_fd(), readys.as_raw_fd()];
    let mut command = Command::new("sh");
    // LISTEN_PID has to be that of the program: the shell becomes it.
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_vfrace"))
        .args(["serve", "--vfs", "1", "--ready-fd", "5", "--socket-dir"])
        .arg(at("s"))
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "pf:control")
        .env("NOTIFY_SOCKET", at("notify"));
    // SAFETY: dup2 is async-signal-safe, and nothing of the parent is touched. The numbers are moved out of the way first.
    unsafe {
        command.pre_exec(move || {
            let high = fds.map(|fd| {
                let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                rustix::io::fcntl_dupfd_cloexec(fd, 100)
            });
            for (to, from) in (3..).zip(high) {
                let mut to = std::mem::ManuallyDrop::new(
                    <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(to),
                );
                rustix::io::dup2(from?, &mut to)?;
            }
            Ok(())
        });
    }
    let mut server = Server::start(&mut command);
    drop(readys);
    server.control = at("c.sock");
    let mut word = String::new();
    ready.read_to_string(&mut word).unwrap();
    assert_eq!(word, "ready\n");
    let mut said = [0; 64];
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    assert!(
        server.said[0].contains("given-pf.sock"),
        "{:?}",
        server.said
    );
    assert_eq!(server.ask(&["status"])["vfs"], 1);
    assert_eq!(server.terminate(), 0);
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1");
    // They are the manager's.
    assert!(at("given-pf.sock").exists() && at("c.sock").exists());
    assert!(!at("s").exists());
}

/// Debian's qemu-utils have it, with a vhost-user back end of libvhost-user.
#[test]
fn a_foreign_back_end_gets_points_and_a_trace() {
    let room = tempfile::tempdir().unwrap();
    let at = |name: &str| room.path().join(name);
    let show = |path: PathBuf| path.display().to_string();
    std::fs::write(at("disk"), vec![0; 1 << 20]).unwrap();
    let mut daemon = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!(
            "driver=file,node-name=disk,filename={}",
            show(at("disk"))
        ))
        .arg("--export")
        .arg(format!(
            "type=vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path={},writable=on",
            show(at("blk.sock"))
        ))
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !at("blk.sock").exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut command = vfrace();
    command
        .arg("tap")
        .arg("--backend")
        .arg(at("blk.sock"))
        .arg("--socket")
        .arg(at("tap.sock"))
        .arg("--trace")
        .arg(at("trace"));
    let server = Server::start(&mut command);
    server.ask(&["arm", "pf:wire:GET_CONFIG@reply until time <=300ms"]);
    for _ in 0..2 {
        // A front end may go and come again.
        let mut front = Frontend::connect(at("tap.sock"), 1).unwrap();
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        // VIRTIO_F_VERSION_1, and the feature without which there is no configuration space.
        assert_ne!(features & (1 << 32), 0);
        assert_ne!(features & (1 << 30), 0);
        front.set_features(1 << 32 | 1 << 30).unwrap();
        let protocol = front.get_protocol_features().unwrap();
        front.set_protocol_features(protocol).unwrap();
        let begun = Instant::now();
        let (_, config) = front
            .get_config(0, 8, VhostUserConfigFlags::WRITABLE, &[0; 8])
            .unwrap();
        // Sectors of 512 bytes: this came from the daemon.
        assert_eq!(config, 2048u64.to_le_bytes());
        let held = begun.elapsed() >= Duration::from_millis(300);
        let first = server.ask(&["counters"])["messages"]["pf"]["GET_CONFIG"] == 1;
        assert_eq!(held, first);
    }
    let counted = server.ask(&["counters"]);
    assert_eq!(
        counted["messages"]["pf"]["GET_CONFIG@reply"], 2,
        "{counted}"
    );
    assert_eq!(server.ctl(&["unplug", "pf"]).status.code(), Some(129));
    assert_eq!(server.terminate(), 0);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let trace = std::fs::read_to_string(at("trace")).unwrap();
    for part in ["hold-began", "\"end\":\"reached\"", "GET_PROTOCOL_FEATURES"] {
        assert!(trace.contains(part), "{part}");
    }
    assert!(!at("tap.sock").exists() && !at("tap.sock.control").exists());
}
