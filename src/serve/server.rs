// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control socket. Whoever can connect is trusted with the guest, but not with this process: lines, clients and
//! what waits to be written are bounded.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::desk::Desk;
use super::journal::Told;
use super::protocol::{Kind, MAX_LINE, Refusal, Request, answer, greeting, read};

/// Clients at the same time.
pub const MAX_CLIENTS: usize = 16;
/// How often a thread that waits looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// For a client to take what it is sent, and to end a line that it has begun.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the clients to go at the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A control socket that is being served. Dropping it ends its connections and removes the socket, if it was made here.
pub struct Server {
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    desk: Arc<Desk>,
    stop: AtomicBool,
    clients: AtomicUsize,
}

impl Server {
    /// Listens on `path`, which must not exist. Only this user may connect.
    ///
    /// # Errors
    /// Whatever the system says; nothing is left behind.
    pub fn bind(path: &Path, desk: Arc<Desk>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let undo = |error| {
            // Nobody else knows of it yet.
            let _ = std::fs::remove_file(path);
            error
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(undo)?;
        let mut server = Self::on(listener, desk).map_err(undo)?;
        server.path = Some(path.to_path_buf());
        Ok(server)
    }

    /// The same on a socket that somebody else made, and removes.
    ///
    /// # Errors
    /// No thread, or a descriptor that is no listening socket.
    pub fn on(listener: UnixListener, desk: Arc<Desk>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            desk,
            stop: AtomicBool::new(false),
            clients: AtomicUsize::new(0),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("control".into())
                .spawn(move || accept(&shared, &listener))?
        };
        Ok(Self {
            path: None,
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(path) = &self.path {
            // Absent if somebody cleaned the directory up, which is as good.
            let _ = std::fs::remove_file(path);
        }
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the panic hook.
            let _ = thread.join();
        }
        let end = Instant::now() + STOP_LIMIT;
        while self.shared.clients.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    while !shared.stop.load(Ordering::Acquire) {
        if !is_readable(listener) {
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                log::warn!("control: cannot accept a connection: {error}");
                thread::sleep(LOOK);
                continue;
            }
        };
        let mut stream = match prepared(stream) {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("control: a connection cannot be used: {error}");
                continue;
            }
        };
        if shared.clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
            shared.clients.fetch_sub(1, Ordering::AcqRel);
            let refusal = Refusal::new(
                Kind::Busy,
                format!("{MAX_CLIENTS} clients are connected, and there are no more"),
                "end one of them",
            );
            // One that does not even read this has lost nothing.
            let _ = send(&mut stream, &answer(None, &Err(refusal)));
            continue;
        }
        let served = {
            let shared = Arc::clone(shared);
            thread::Builder::new()
                .name("control client".into())
                .spawn(move || {
                    let _leaves = Leaves(&shared.clients);
                    if let Err(error) = serve(&shared, stream) {
                        log::info!("control: a client is gone: {error}");
                    }
                })
        };
        if let Err(error) = served {
            shared.clients.fetch_sub(1, Ordering::AcqRel);
            log::warn!("control: no thread for a client: {error}");
        }
    }
}

/// Counts a client out, however its thread ends.
struct Leaves<'a>(&'a AtomicUsize);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn prepared(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether there is something to read within a look.
fn is_readable(of: &impl std::os::fd::AsFd) -> bool {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let mut fds = [PollFd::new(of, PollFlags::IN)];
    // An interrupted wait is one that has ended.
    matches!(poll(&mut fds, Some(&look)), Ok(1..))
}

/// Sends a line within [`PATIENCE`], however little of it the other end takes at a time.
fn send(stream: &mut UnixStream, line: &Value) -> io::Result<()> {
    send_text(stream, &line.to_string())
}

fn send_text(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    for mut rest in [line.as_bytes(), b"\n"] {
        while !rest.is_empty() {
            let written = stream.write(rest)?;
            rest = rest.get(written..).unwrap_or_default();
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}

fn serve(shared: &Shared, mut stream: UnixStream) -> io::Result<()> {
    send(&mut stream, &greeting())?;
    let mut lines = Lines::default();
    loop {
        let line = match lines.next(shared, &mut stream)? {
            Next::Line(line) => line,
            Next::End => return Ok(()),
            Next::TooLong => {
                let refusal = Refusal::new(
                    Kind::Malformed,
                    format!("a line of a request has at most {MAX_LINE} bytes"),
                    "",
                );
                return send(&mut stream, &answer(None, &Err(refusal)));
            }
        };
        let (id, request) = read(&line);
        match request {
            Ok(Request::Events { from, follow: true }) => {
                return follow(shared, &mut stream, id, from);
            }
            Ok(request) => {
                let done = shared.desk.answer(request);
                send(&mut stream, &answer(id, &done))?;
            }
            Err(refusal) => send(&mut stream, &answer(id, &Err(refusal)))?,
        }
    }
}

/// Sends events until the client or the server has enough.
fn follow(shared: &Shared, stream: &mut UnixStream, id: Option<u64>, from: u64) -> io::Result<()> {
    let (kept, coming) = shared.desk.journal().subscribe(from);
    send(stream, &answer(id, &Ok(json!({ "following": true }))))?;
    for (_, line) in kept {
        send_text(stream, &line)?;
    }
    while !shared.stop.load(Ordering::Acquire) {
        match coming.recv_timeout(LOOK) {
            Ok(Told::Event(line)) => send_text(stream, &line)?,
            Ok(Told::Lost(lost)) => send(stream, &json!({ "lost": lost }))?,
            Err(RecvTimeoutError::Timeout) => {
                // It has nothing to say any more; that it is gone shows as an end.
                let mut said = [0; 64];
                match stream.read(&mut said) {
                    Ok(0) => return Ok(()),
                    Ok(_) => return Err(io::Error::other("it speaks while it follows events")),
                    Err(error) if is_waiting(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
    Ok(())
}

fn is_waiting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

enum Next {
    Line(Vec<u8>),
    End,
    TooLong,
}

/// The lines of a client.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// When the line that is there in part began.
    since: Option<Instant>,
}

impl Lines {
    fn next(&mut self, shared: &Shared, stream: &mut UnixStream) -> io::Result<Next> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer) {
                let rest = self.buffer.split_off(at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.since = (!self.buffer.is_empty()).then(Instant::now);
                return Ok(match line.len() {
                    0..=MAX_LINE => Next::Line(line),
                    _ => Next::TooLong,
                });
            }
            if self.buffer.len() > MAX_LINE {
                return Ok(Next::TooLong);
            }
            if shared.stop.load(Ordering::Acquire) {
                return Ok(Next::End);
            }
            if self.since.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(io::Error::other("it did not end a line"));
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(Next::End),
                Ok(read) => {
                    self.buffer
                        .extend_from_slice(chunk.get(..read).unwrap_or_default());
                    self.since.get_or_insert_with(Instant::now);
                }
                Err(error) if is_waiting(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
