// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a device to a running vhost-user daemon, one per connection.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::ring::Ring;
use crate::wire;

/// What a session needs of a device besides the crate's trait.
pub(super) trait Device: VhostUserBackend<Bitmap = (), Vring = Ring> + 'static {
    /// A descriptor whose becoming readable is handled as the event with this number, which is above the number of
    /// queues. It must stay open as long as the device is there.
    fn wake(&self) -> Option<(RawFd, u64)>;

    /// Its exit event.
    fn exit(&self) -> &ExitEvent;

    /// The connection has ended, no thread uses the device any more.
    fn disconnected(&self);
}

/// The event that ends a device's worker thread.
///
/// vhost-user-backend 0.24 turns the consumer into a raw descriptor (VringEpollHandler::new) and never closes it: one
/// lost with every connection. So its number is remembered here and closed after the thread has ended.
pub(super) struct ExitEvent(AtomicI32);

impl Default for ExitEvent {
    fn default() -> Self {
        Self(AtomicI32::new(-1))
    }
}

impl ExitEvent {
    /// For [`VhostUserBackend::exit_event`], which is called once, by [`VhostUserDaemon::new`].
    pub(super) fn create(&self) -> Option<(EventConsumer, EventNotifier)> {
        let pair =
            new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()?;
        self.0.store(pair.0.as_raw_fd(), Ordering::SeqCst);
        Some(pair)
    }

    /// Closes what the crate left open. To be called after its daemon has been dropped.
    fn close(&self) {
        let fd = self.0.swap(-1, Ordering::SeqCst);
        if fd >= 0 {
            // SAFETY: the crate took the descriptor out of its owner with into_raw_fd() and never closes it, and the
            // swap sees to it that this happens once.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// Makes a device and a daemon for every connection.
pub(super) struct Connector<D> {
    /// Name for threads.
    pub(super) name: String,
    /// Where the daemon's own socket is for the moment that it takes to connect to it.
    pub(super) inner: PathBuf,
    /// Makes the device.
    pub(super) device: Box<dyn Fn() -> D + Send + Sync>,
}

impl<D: Device> wire::Daemon for Connector<D> {
    fn connect(&self) -> io::Result<(UnixStream, Box<dyn wire::Session>)> {
        let device = Arc::new((self.device)());
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let daemon =
            VhostUserDaemon::new(self.name.clone(), Arc::clone(&device), memory).map_err(to_io)?;
        // From here on the session's Drop cleans up.
        let mut session = Running {
            daemon: Some(daemon),
            device: Arc::clone(&device),
        };
        // The crate accepts from a listener only; this one lives for the next two lines and removes its path itself.
        let mut listener =
            Listener::new(&self.inner, true).map_err(|e| io::Error::other(e.to_string()))?;
        let stream = UnixStream::connect(&self.inner)?;
        if let Some(daemon) = session.daemon.as_mut() {
            daemon.start(&mut listener).map_err(to_io)?;
            if let Some((fd, event)) = device.wake() {
                for handler in daemon.get_epoll_handlers() {
                    handler.register_listener(fd, EventSet::IN, event)?;
                }
            }
        }
        Ok((stream, Box::new(session)))
    }
}

fn to_io(error: DaemonError) -> io::Error {
    io::Error::other(error.to_string())
}

struct Running<D: Device> {
    daemon: Option<VhostUserDaemon<Arc<D>>>,
    device: Arc<D>,
}

impl<D: Device> Running<D> {
    fn finish(&mut self) -> Option<String> {
        let mut daemon = self.daemon.take()?;
        let result = daemon.wait();
        // Ends and joins the worker thread.
        drop(daemon);
        self.device.exit().close();
        self.device.disconnected();
        match result {
            Ok(())
            | Err(DaemonError::HandleRequest(
                VhostError::Disconnected | VhostError::PartialMessage,
            )) => None,
            Err(error) => Some(error.to_string()),
        }
    }
}

impl<D: Device> wire::Session for Running<D> {
    fn end(mut self: Box<Self>) -> Option<String> {
        self.finish()
    }
}

impl<D: Device> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon {
            daemon.request_shutdown();
        }
        self.finish();
    }
}
