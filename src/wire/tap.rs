// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The relay of one function.
//!
//! Threads: one for the function, which accepts and then relays QEMU's requests, and while connected one that relays
//! answers. A hook runs on the thread of its direction, so that a held message stops nothing but its own direction of
//! its own function. What the tap answers itself is decided, and its hook called, on the request thread.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::message::{DecodeError, Header, code, decode, name_of, names};
use super::payload::Payload;
use super::stream::{Frame, StreamError, read_frame, write_frame};
use crate::event::{EventKind, EventSink, FunctionId, Side, WireMessage};

/// Feature bit 30, VHOST_USER_F_PROTOCOL_FEATURES (vhost-user.rst, "Protocol features").
const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// Stack of a relay thread, bytes: 256 functions have two each.
const STACK: usize = 256 * 1024;

/// Pause after a failed accept(), so that running out of file descriptors does not make a thread spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Called for every message before it goes on.
pub trait WireHook: Send + Sync {
    /// A message was decoded and will be passed on (or answered by the tap) when this returns. May block: that holds
    /// the message. Called on the relay thread of the message's direction; no lock of this crate is held.
    fn on_message(&self, message: &WireMessage);

    /// The tap is being stopped: whatever [`WireHook::on_message`] holds is to be let go, now and from now on. Called
    /// from another thread, perhaps more than once.
    fn on_stop(&self) {}
}

/// The back end behind a tap.
pub trait Daemon: Send + Sync {
    /// Sets a back end up for one connection: a stream to it, and what ends it.
    fn connect(&self) -> io::Result<(UnixStream, Box<dyn Session>)>;

    /// Whether it refuses SET_VRING_ENABLE before the features are acknowledged, and closes the connection over it. The
    /// tap keeps those back then. That is so of vhost-user-backend 0.24, and of no back end that QEMU itself brings.
    fn refuses_early_enables(&self) -> bool {
        true
    }
}

/// The back end's half of one connection.
pub trait Session: Send {
    /// Called when the stream has been shut down: waits for the back end to be gone. Says why the back end closed the
    /// connection, if it was the back end that did.
    fn end(self: Box<Self>) -> Option<String>;
}

/// A tap that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The public socket cannot be made.
    #[error(
        "cannot listen on {path}; use a new directory of your own with a path of less than 90 bytes"
    )]
    Bind {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread or no event descriptor: the process is at a limit.
    #[error(
        "cannot start the relay of {function}; raise the limits on processes and open files (ulimit -u, -n)"
    )]
    Resources {
        /// The function.
        function: FunctionId,
        /// Why.
        source: io::Error,
    },
}

/// Locks that are only held for plain assignments cannot be left in a bad state by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One function's public socket and relay.
pub struct Tap {
    shared: Arc<Shared>,
    path: PathBuf,
    /// The socket was made here, and goes with the tap.
    is_own: bool,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    function: FunctionId,
    hook: Arc<dyn WireHook>,
    events: EventSink,
    seen: [Vec<AtomicU32>; 2],
    stopping: AtomicBool,
    /// Readable once the tap is being stopped; never read.
    stop: OwnedFd,
    link: Mutex<Option<Arc<Link>>>,
}

/// The two sockets of one connection.
struct Link {
    qemu: UnixStream,
    daemon: UnixStream,
    /// Both threads write to QEMU: one message at a time.
    writing: Mutex<()>,
    /// Why it ended; the first one to notice sets it.
    reason: Mutex<Option<String>>,
    /// Code and vring of QEMU's last request: an acknowledgement does not say which vring it is about.
    asked: Mutex<(u32, Option<u32>)>,
}

impl Link {
    fn cut(&self, reason: String) {
        lock(&self.reason).get_or_insert(reason);
        // Failures mean that the socket is closed already, which is what is wanted.
        let _ = self.qemu.shutdown(Shutdown::Both);
        let _ = self.daemon.shutdown(Shutdown::Both);
    }
}

/// Cuts a link when a relay thread ends by a panic, of a hook or of its own: QEMU must not wait for an answer that
/// nobody will pass on.
struct CutOnPanic<'a>(&'a Link);

impl Drop for CutOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.cut("its relay panicked".into());
        }
    }
}

impl Tap {
    /// Listens on `path`, which must not exist, and relays each connection to a back end from `daemon`, one after the
    /// other: vhost-user has one front end at a time.
    pub fn start(
        function: FunctionId,
        path: &Path,
        daemon: Arc<dyn Daemon>,
        hook: Arc<dyn WireHook>,
        events: EventSink,
    ) -> Result<Self, TapError> {
        let listener = UnixListener::bind(path).map_err(|source| TapError::Bind {
            path: path.into(),
            source,
        })?;
        let tap = Self::on(function, listener, path, daemon, hook, events);
        tap.map(|mut tap| {
            tap.is_own = true;
            tap
        })
        .inspect_err(|_| {
            // Nobody else knows of it yet.
            let _ = std::fs::remove_file(path);
        })
    }

    /// The same on a socket that somebody else listens on already, and removes. `path` is where it is.
    ///
    /// # Errors
    /// [`TapError::Resources`].
    pub fn on(
        function: FunctionId,
        listener: UnixListener,
        path: &Path,
        daemon: Arc<dyn Daemon>,
        hook: Arc<dyn WireHook>,
        events: EventSink,
    ) -> Result<Self, TapError> {
        let resources = |source: io::Error| TapError::Resources { function, source };
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| resources(e.into()))?;
        let counters = || {
            (0..=names().count() + 1)
                .map(|_| AtomicU32::new(0))
                .collect()
        };
        let shared = Arc::new(Shared {
            function,
            hook,
            events,
            seen: [counters(), counters()],
            stopping: AtomicBool::new(false),
            stop,
            link: Mutex::new(None),
        });
        let mut tap = Self {
            shared: Arc::clone(&shared),
            path: path.into(),
            is_own: false,
            thread: None,
        };
        listener.set_nonblocking(true).map_err(resources)?;
        let thread = thread::Builder::new()
            .name(format!("tap {function}"))
            .stack_size(STACK)
            .spawn(move || shared.serve(&listener, daemon.as_ref()))
            .map_err(resources)?;
        tap.thread = Some(thread);
        Ok(tap)
    }

    /// The function it belongs to.
    pub fn function(&self) -> FunctionId {
        self.shared.function
    }

    /// The public socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts counting [`WireMessage::nth`] from 0 again.
    pub fn reset_counters(&self) {
        for counter in self.shared.seen.iter().flatten() {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Cuts the connection and accepts no more. Returns at once; [`Tap::join`] waits.
    pub fn announce_stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Cannot fail: the counter is far from its limit.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        let link = lock(&self.shared.link).clone();
        if let Some(link) = link {
            link.cut("stopped".into());
        }
    }

    fn remove_socket(&self) {
        if self.is_own {
            // Absent if somebody cleaned the directory up, which is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Waits for the relay's threads until `deadline` and removes the socket. False if they are still there, which a
    /// hook that does not return causes: they end when it does.
    pub fn join(&mut self, deadline: Instant) -> bool {
        self.announce_stop();
        self.remove_socket();
        let Some(thread) = self.thread.take() else {
            return true;
        };
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                log::warn!(
                    "{}: a held message was not let go, its relay is left behind",
                    self.shared.function
                );
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A panic has been printed by the panic hook.
        thread.join().is_ok()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shared.hook.on_stop();
            self.join(Instant::now() + Duration::from_secs(5));
        } else {
            self.remove_socket();
        }
    }
}

impl Shared {
    fn serve(&self, listener: &UnixListener, daemon: &dyn Daemon) {
        while let Some(qemu) = self.accept(listener) {
            let (stream, session) = match daemon.connect() {
                Ok(pair) => pair,
                Err(error) => {
                    self.connection(false, format!("no back end could be set up: {error}"));
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            self.connection(true, String::new());
            let link = Arc::new(Link {
                qemu,
                daemon: stream,
                writing: Mutex::new(()),
                reason: Mutex::new(None),
                asked: Mutex::new((0, None)),
            });
            *lock(&self.link) = Some(Arc::clone(&link));
            if self.stopping.load(Ordering::SeqCst) {
                link.cut("stopped".into());
            }
            self.relay(&link, daemon.refuses_early_enables());
            *lock(&self.link) = None;
            let ended = session.end();
            let reason = lock(&link.reason).take().unwrap_or_default();
            // Everything is given back before anybody hears of it.
            drop(link);
            self.connection(
                false,
                ended.map_or(reason, |why| format!("the back end closed it: {why}")),
            );
        }
    }

    fn connection(&self, up: bool, reason: String) {
        self.events.emit(EventKind::Connection {
            function: self.function,
            up,
            reason,
        });
    }

    /// The next connection, or `None` when it is time to stop.
    fn accept(&self, listener: &UnixListener) -> Option<UnixStream> {
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            let polled = poll(&mut fds, None);
            if self.stopping.load(Ordering::SeqCst) {
                return None;
            }
            let accepted = polled.map_err(io::Error::from).and_then(|_| {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(stream)
            });
            match accepted {
                Ok(stream) => return Some(stream),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    log::warn!("{}: cannot accept a connection: {error}", self.function);
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn relay(&self, link: &Link, keeps_early: bool) {
        thread::scope(|scope| {
            let answers = thread::Builder::new()
                .name(format!("tap {} answers", self.function))
                .stack_size(STACK)
                .spawn_scoped(scope, || {
                    let _cut = CutOnPanic(link);
                    let error = self.relay_answers(link);
                    link.cut(describe(error, "the back end closed it"));
                });
            match answers {
                Ok(_) => {
                    let _cut = CutOnPanic(link);
                    let error = self.relay_requests(link, keeps_early);
                    link.cut(describe(error, "QEMU closed it"));
                }
                Err(error) => link.cut(format!("no thread for its answers: {error}")),
            }
        });
    }

    fn relay_requests(&self, link: &Link, keeps_early: bool) -> StreamError {
        let mut early = keeps_early.then(Early::default);
        loop {
            let step =
                read_frame(&link.qemu).and_then(|frame| self.request(link, &mut early, &frame));
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn request(
        &self,
        link: &Link,
        early: &mut Option<Early>,
        frame: &Frame,
    ) -> Result<(), StreamError> {
        let header = frame.header;
        let payload = decode(&header, Side::Qemu, &frame.body, frame.fds.len())?;
        *lock(&link.asked) = (header.code, payload.vring());
        let by_tap = match early {
            Some(early) => early.keep(&header, &payload)?,
            None => false,
        };
        self.announce(link, &header, &payload, frame.fds.len(), Side::Qemu, by_tap);
        if by_tap {
            if header.needs_reply() {
                let answer = Payload::U64(0);
                let flags = Header::VERSION | Header::REPLY;
                let reply = Header {
                    code: header.code,
                    flags,
                    size: 8,
                };
                self.announce(link, &reply, &answer, 0, Side::Backend, true);
                let _writing = lock(&link.writing);
                write_frame(&link.qemu, &reply, &answer.encode(), &[])?;
            }
            return Ok(());
        }
        write_frame(&link.daemon, &header, &frame.body, &frame.fds)?;
        let late = early.as_mut().map(|early| early.passed(&header, &payload));
        for (index, num) in late.unwrap_or_default() {
            let body = Payload::State { index, num }.encode();
            // Without NEED_REPLY: QEMU has had its acknowledgement and would take another one for the answer to its
            // next request.
            let replay = Header {
                code: code::SET_VRING_ENABLE,
                flags: Header::VERSION,
                size: 8,
            };
            write_frame(&link.daemon, &replay, &body, &[])?;
            log::debug!(
                "{}: SET_VRING_ENABLE vring {index} = {num} made up for",
                self.function
            );
        }
        Ok(())
    }

    fn relay_answers(&self, link: &Link) -> StreamError {
        loop {
            let step = read_frame(&link.daemon).and_then(|frame| {
                let payload = decode(&frame.header, Side::Backend, &frame.body, frame.fds.len())?;
                self.announce(
                    link,
                    &frame.header,
                    &payload,
                    frame.fds.len(),
                    Side::Backend,
                    false,
                );
                let _writing = lock(&link.writing);
                write_frame(&link.qemu, &frame.header, &frame.body, &frame.fds)
            });
            if let Err(error) = step {
                return error;
            }
        }
    }

    /// Emits the message and calls the hook.
    fn announce(
        &self,
        link: &Link,
        header: &Header,
        payload: &Payload,
        fds: usize,
        from: Side,
        by_tap: bool,
    ) {
        let vring = payload
            .vring()
            .or_else(|| match (from, *lock(&link.asked)) {
                (Side::Backend, (asked, vring)) if asked == header.code => vring,
                _ => None,
            });
        let message = WireMessage {
            function: self.function,
            from,
            message: name_of(header.code).into_owned(),
            vring,
            value: payload.value(),
            need_reply: header.needs_reply(),
            size: header.size,
            fds: u32::try_from(fds).unwrap_or(u32::MAX),
            nth: self.count(from, header.code),
            answered_by_tap: by_tap,
        };
        self.events.emit(EventKind::Wire(message.clone()));
        self.hook.on_message(&message);
    }

    /// How often this message was seen before. All messages that are not known share one counter.
    fn count(&self, from: Side, code: u32) -> u32 {
        let [qemu, backend] = &self.seen;
        let counters = if from == Side::Qemu { qemu } else { backend };
        let index = usize::try_from(code).unwrap_or(usize::MAX);
        let counter = counters.get(index).or(counters.last());
        counter.map_or(0, |counter| counter.fetch_add(1, Ordering::Relaxed))
    }
}

/// In words, with `closed` for the plain end of a stream.
fn describe(error: StreamError, closed: &str) -> String {
    match error {
        StreamError::Closed => closed.into(),
        StreamError::Decode(error) => format!("malformed message: {error}"),
        StreamError::Io(error) => format!("socket failed: {error}"),
        error @ StreamError::Truncated => error.to_string(),
    }
}

/// SET_VRING_ENABLE that came too early.
///
/// QEMU 11.1's virtio-net sends SET_VRING_ENABLE at every reset of the device, before SET_FEATURES (seen with 11.1.3).
/// vhost-user-backend 0.24 takes it only once VHOST_USER_F_PROTOCOL_FEATURES is acknowledged (check_feature() in its
/// set_vring_enable()), answers `inactive feature: 1073741824` and closes the connection; QEMU then reports "Failed to
/// set msg fds" and the guest has no carrier. Answering alone is not enough: QEMU does not repeat the message, the rings
/// stay off and the guest's transmit queue times out. So: acknowledge them here, remember the last one of each ring,
/// and make up for it right after SET_FEATURES. RESET_OWNER and RESET_DEVICE clear the acknowledged features, after
/// them it is the same again.
#[derive(Default)]
struct Early {
    ready: bool,
    /// Last value of each ring. Bounded: `decode` refuses rings from 256.
    rings: BTreeMap<u32, u32>,
}

impl Early {
    /// Is this one that the back end must not see yet? Then it is remembered.
    fn keep(&mut self, header: &Header, payload: &Payload) -> Result<bool, DecodeError> {
        let (code::SET_VRING_ENABLE, false, &Payload::State { index, num }) =
            (header.code, self.ready, payload)
        else {
            return Ok(false);
        };
        if num > 1 {
            let message = name_of(header.code);
            return Err(DecodeError::Range {
                message,
                field: "num",
                value: u64::from(num),
            });
        }
        self.rings.insert(index, num);
        Ok(true)
    }

    /// This message has reached the back end: what is to follow it?
    fn passed(&mut self, header: &Header, payload: &Payload) -> BTreeMap<u32, u32> {
        match (header.code, payload) {
            (code::SET_FEATURES, Payload::U64(features)) => {
                self.ready = features & F_PROTOCOL_FEATURES != 0;
                let rings = std::mem::take(&mut self.rings);
                // Without that feature the back end enables all rings by itself and refuses the message for good.
                if self.ready { rings } else { BTreeMap::new() }
            }
            (code::RESET_OWNER | code::RESET_DEVICE, _) => {
                self.ready = false;
                BTreeMap::new()
            }
            _ => BTreeMap::new(),
        }
    }
}
