// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A line-based control connection of QEMU: QMP and qtest are two of them.
//!
//! We listen and QEMU connects while it starts: no moment at which the socket is not there yet, and the path is gone as
//! soon as the connection is up. A thread reads, so that whoever waits, waits for no longer than it wants to, and
//! several may wait at once. All commands of QEMU's control connections run in its main loop, which needs the global
//! lock: while a vCPU waits for a vhost-user answer, none of them is answered.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a command may take to get into the socket's buffer, which is empty unless QEMU has stopped reading.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// A control connection that does not work.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket cannot be made or used.
    #[error("cannot {action} the socket {path}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU did not connect, or did not answer, in time.
    #[error("QEMU did not {what} within {limit:?}")]
    Late {
        /// What it was to do: "connect to PATH", "answer `device_add`".
        what: String,
        /// The time it had.
        limit: Duration,
    },
    /// The connection has ended: QEMU closed it, or sent what cannot be understood.
    #[error("the connection to QEMU has ended: {reason}")]
    Ended {
        /// In which way.
        reason: String,
    },
    /// A command could not be written.
    #[error("cannot send to QEMU")]
    Send(#[source] io::Error),
    /// No thread to read with.
    #[error("no thread to read QEMU's answers with")]
    Thread(#[source] io::Error),
}

impl LinkError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Late { .. } => {
                "QEMU answers nothing while a vhost-user answer is held back (its global lock is taken): \
                 order without waiting, or wait until the hold is over"
            }
            Self::Thread(_) => "raise the limit on processes (ulimit -u)",
            Self::Socket { .. } => {
                "use a directory that can be written to, and a path under 108 bytes"
            }
            Self::Ended { .. } | Self::Send(_) => "see the log of QEMU for why it ended",
        };
        Some(text.to_owned())
    }
}

/// A socket that QEMU is going to connect to. Made before QEMU is started; its path is removed on drop.
#[derive(Debug)]
pub struct Endpoint {
    listener: UnixListener,
    path: PathBuf,
}

impl Endpoint {
    /// Listens on `path`, which must not exist, in a directory that only this user can enter: whoever connects is
    /// taken for QEMU.
    ///
    /// # Errors
    /// [`LinkError::Socket`].
    pub fn bind(path: &Path) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Socket {
            action: "listen on",
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let endpoint = Self {
            listener,
            path: path.to_owned(),
        };
        endpoint.listener.set_nonblocking(true).map_err(failed)?;
        Ok(endpoint)
    }

    /// The path, for [`Machine`](super::machine::Machine).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// QEMU's connection. `limit` covers its start up to its command line's sockets, well under a second.
    pub(super) fn accept(self, limit: Duration) -> Result<UnixStream, LinkError> {
        let failed = |source| LinkError::Socket {
            action: "accept a connection on",
            path: self.path.clone(),
            source,
        };
        let deadline = Instant::now() + limit;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(failed)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!("connect to {}", self.path.display());
                return Err(LinkError::Late { what, limit });
            }
            let timeout = Timespec::try_from(left).ok();
            match poll(
                &mut [PollFd::new(&self.listener, PollFlags::IN)],
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Absent if somebody cleaned the directory up, which is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a protocol makes of the lines.
pub(super) trait Protocol: Send + 'static {
    /// Longest line that it takes, in bytes.
    const LONGEST: usize;

    /// Takes a line in, without its end. An error ends the connection.
    fn line(&mut self, line: &[u8]) -> Result<(), String>;
}

/// A connection that a thread reads from. Usable from any thread.
pub(super) struct Link<P> {
    stream: UnixStream,
    sending: Mutex<()>,
    shared: Arc<Shared<P>>,
    reader: Option<JoinHandle<()>>,
}

struct Shared<P> {
    state: Mutex<State<P>>,
    changed: Condvar,
}

struct State<P> {
    protocol: P,
    ended: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Protocol> Link<P> {
    /// Reads from `stream` into `protocol` from now on.
    pub(super) fn start(name: &str, stream: UnixStream, protocol: P) -> Result<Self, LinkError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                protocol,
                ended: None,
            }),
            changed: Condvar::new(),
        });
        let input = stream.try_clone().map_err(LinkError::Thread)?;
        stream
            .set_write_timeout(Some(SEND_LIMIT))
            .map_err(LinkError::Send)?;
        let read_into = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 * 1024)
            .spawn(move || read_into.read(input))
            .map_err(LinkError::Thread)?;
        Ok(Self {
            stream,
            sending: Mutex::default(),
            shared,
            reader: Some(reader),
        })
    }

    /// Sends what `prepare` gives, in one write: its effect on the protocol and the place in the stream agree. When it
    /// gives an error, nothing is sent.
    pub(super) fn send<E: From<LinkError>>(
        &self,
        prepare: impl FnOnce(&mut P) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let _sending = lock(&self.sending);
        let bytes = {
            let mut state = lock(&self.shared.state);
            if let Some(reason) = &state.ended {
                let reason = reason.clone();
                return Err(LinkError::Ended { reason }.into());
            }
            prepare(&mut state.protocol)?
        };
        (&self.stream).write_all(&bytes).map_err(|error| {
            // Half a line may be out: nothing that follows would be understood.
            let _ = self.stream.shutdown(Shutdown::Both);
            LinkError::Send(error).into()
        })
    }

    /// Waits until `pick` finds what it wants. `what` is for the error.
    pub(super) fn wait<T>(
        &self,
        what: impl FnOnce() -> String,
        limit: Duration,
        mut pick: impl FnMut(&mut P) -> Option<T>,
    ) -> Result<T, LinkError> {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(found) = pick(&mut state.protocol) {
                return Ok(found);
            }
            if let Some(reason) = &state.ended {
                let reason = reason.clone();
                return Err(LinkError::Ended { reason });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::Late {
                    what: what(),
                    limit,
                });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks at the protocol's state, or changes it.
    pub(super) fn with<T>(&self, see: impl FnOnce(&mut P) -> T) -> T {
        see(&mut lock(&self.shared.state).protocol)
    }
}

impl<P> Drop for Link<P> {
    fn drop(&mut self) {
        // Fails if it is closed already, which is what is wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            // A panic has been printed by the panic hook.
            let _ = reader.join();
        }
    }
}

impl<P: Protocol> Shared<P> {
    fn read(&self, mut input: UnixStream) {
        let mut pending = Vec::new();
        let mut buffer = [0; 4096];
        let reason = loop {
            let bytes = match input.read(&mut buffer) {
                Ok(0) => break "QEMU closed it".to_owned(),
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break format!("socket failed: {error}"),
            };
            if let Err(reason) = self.take(&mut pending, bytes) {
                break reason;
            }
        };
        // The other end must see it, too.
        let _ = input.shutdown(Shutdown::Both);
        lock(&self.state).ended = Some(reason);
        self.changed.notify_all();
    }

    fn take(&self, pending: &mut Vec<u8>, mut bytes: &[u8]) -> Result<(), String> {
        let mut state = lock(&self.state);
        loop {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if pending.len() + part.len() > P::LONGEST {
                return Err(format!("a line has more than {} bytes", P::LONGEST));
            }
            pending.extend_from_slice(part);
            let Some((_, rest)) = rest.split_first() else {
                break;
            };
            let line = pending.strip_suffix(b"\r").unwrap_or(pending);
            if !line.is_empty() {
                state.protocol.line(line)?;
            }
            pending.clear();
            bytes = rest;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}
