// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device: a physical function, its virtual functions and the mailbox, each a vhost-user back end behind a
//! [`Tap`], with a learning switch between the network functions.
//!
//! A connected function costs four threads and about 25 file descriptors; [`Backend::start`] raises the soft limit on
//! open files. Guest memory is mapped once per function. QEMU is trusted as far as it can end this process: a memory
//! file that it cuts short while it is mapped here gives SIGBUS.

mod mailbox;
mod net;
mod ring;
mod session;
mod switch;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::event::{EventSink, FunctionId};
use crate::wire::{Daemon, Tap, TapError, WireHook};
use mailbox::MailboxDevice;
pub use mailbox::{MAX_MAILBOX_FRAME, Mailbox, MailboxError, OnReport};
use net::NetDevice;
use session::Connector;
use switch::Switch;
pub use switch::{PortCounters, SwitchCounters};

/// Most VFs: with ARI a device has 256 functions, and one is the PF.
pub const MAX_VFS: u16 = 255;
/// Most queue pairs of a function. 32 queues are what one worker thread of the crate can have for sure.
pub const MAX_QUEUE_PAIRS: u16 = 16;

/// How long [`Backend::stop`] waits for hooks that were told to let go.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What to start.
pub struct BackendConfig {
    /// Where the sockets are made: an existing directory that only this user can enter (mode 0700), since whoever can
    /// connect is the guest's hypervisor to this program. One per backend.
    pub socket_dir: PathBuf,
    /// Number of VFs, 0..=255.
    pub vfs: u16,
    /// Queue pairs of each network function, 1..=16; more than one offers VIRTIO_NET_F_MQ. QEMU's `queues=` and
    /// `mq=on` must agree.
    pub queue_pairs: u16,
    /// Called for each vhost-user message of each function.
    pub hook: Arc<dyn WireHook>,
    /// Takes messages and connections.
    pub events: EventSink,
    /// Takes the guest's reports, on a thread of its own. Must return soon after [`WireHook::on_stop`].
    pub on_report: OnReport,
}

/// A backend that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// More VFs than a device can have.
    #[error("{vfs} VFs asked for; a device has at most {MAX_VFS}")]
    TooManyVfs {
        /// What was asked for.
        vfs: u16,
    },
    /// No queues, or too many.
    #[error("{pairs} queue pairs asked for; use 1 to {MAX_QUEUE_PAIRS}")]
    QueuePairs {
        /// What was asked for.
        pairs: u16,
    },
    /// The limit on open files is too low and cannot be raised by this user.
    #[error(
        "{needed} open files are needed and {limit} allowed; raise the hard limit (ulimit -Hn) or use fewer VFs"
    )]
    OpenFiles {
        /// What this configuration needs.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// No descriptor or thread for the switch or the mailbox.
    #[error(
        "cannot set up the {what}; raise the limits on processes and open files (ulimit -u, -n)"
    )]
    Resources {
        /// Which part.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A function's tap.
    #[error("cannot set up a function's socket")]
    Tap(#[from] TapError),
}

/// All functions of the device, ready for QEMU to connect.
pub struct Backend {
    dir: PathBuf,
    /// Sockets that were given, with their paths.
    given: BTreeMap<FunctionId, PathBuf>,
    taps: Vec<Tap>,
    switch: Arc<Switch>,
    mailbox: Mailbox,
    reports: Option<JoinHandle<()>>,
    hook: Arc<dyn WireHook>,
}

impl Backend {
    /// Makes the sockets and starts to listen. When this returns, QEMU may be started; it connects, and may go away and
    /// connect again, as often as it likes.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is left behind then.
    pub fn start(config: BackendConfig) -> Result<Self, DeviceError> {
        Self::start_on(config, BTreeMap::new())
    }

    /// The same with sockets that somebody else listens on already, with the path of each, for some of the functions or
    /// all. They are not removed. Those of functions that there are not are closed.
    ///
    /// # Errors
    /// As [`Backend::start`].
    pub fn start_on(
        config: BackendConfig,
        mut listeners: BTreeMap<FunctionId, (UnixListener, PathBuf)>,
    ) -> Result<Self, DeviceError> {
        let BackendConfig {
            socket_dir: dir,
            vfs,
            queue_pairs,
            hook,
            events,
            on_report,
        } = config;
        if vfs > MAX_VFS {
            return Err(DeviceError::TooManyVfs { vfs });
        }
        if !(1..=MAX_QUEUE_PAIRS).contains(&queue_pairs) {
            return Err(DeviceError::QueuePairs { pairs: queue_pairs });
        }
        allow_open_files(vfs, queue_pairs)?;
        let functions = || std::iter::once(FunctionId::Pf).chain((1..=vfs).map(FunctionId::Vf));
        let resources = |what| move |source| DeviceError::Resources { what, source };
        let switch = Arc::new(Switch::new(functions()).map_err(resources("switch"))?);
        let mailbox = Mailbox::new();
        let reports = mailbox.start(on_report).map_err(resources("mailbox"))?;
        // From here on dropping it undoes everything.
        let mut backend = Self {
            dir,
            given: listeners
                .iter()
                .map(|(function, (_, path))| (*function, path.clone()))
                .collect(),
            taps: Vec::new(),
            switch,
            mailbox,
            reports: Some(reports),
            hook,
        };
        for (port, function) in functions().enumerate() {
            let switch = Arc::clone(&backend.switch);
            let is_pf = function == FunctionId::Pf;
            let device =
                Box::new(move || NetDevice::new(Arc::clone(&switch), port, queue_pairs, is_pf));
            backend.add(
                function,
                Connector {
                    name: function.to_string(),
                    inner: backend.inner(function),
                    device,
                },
                listeners.remove(&function),
                &events,
            )?;
        }
        let (function, mailbox) = (FunctionId::Mailbox, backend.mailbox.clone());
        let device = Box::new(move || MailboxDevice::new(mailbox.clone()));
        backend.add(
            function,
            Connector {
                name: function.to_string(),
                inner: backend.inner(function),
                device,
            },
            listeners.remove(&function),
            &events,
        )?;
        Ok(backend)
    }

    fn add(
        &mut self,
        function: FunctionId,
        daemon: impl Daemon + 'static,
        given: Option<(UnixListener, PathBuf)>,
        events: &EventSink,
    ) -> Result<(), DeviceError> {
        let (daemon, hook, events) = (Arc::new(daemon), Arc::clone(&self.hook), events.clone());
        self.taps.push(match given {
            Some((listener, path)) => Tap::on(function, listener, &path, daemon, hook, events),
            None => Tap::start(function, &self.socket(function), daemon, hook, events),
        }?);
        Ok(())
    }

    /// The socket for QEMU's `-chardev socket,path=` of a function, `pf.sock`, `vf1.sock`, ..., `mailbox.sock` in the
    /// directory given. For a VF that was not asked for it does not exist.
    pub fn socket(&self, function: FunctionId) -> PathBuf {
        match self.given.get(&function) {
            Some(path) => path.clone(),
            None => self.dir.join(format!("{function}.sock")),
        }
    }

    /// Where a function's daemon is reached while a connection is set up.
    fn inner(&self, function: FunctionId) -> PathBuf {
        self.dir.join(format!("{function}.in"))
    }

    /// The directory of the sockets.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// A handle to the mailbox.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// What each network function sent, received and lost so far. Counts go on over resets and reconnects.
    pub fn counters(&self) -> Vec<(FunctionId, PortCounters)> {
        self.switch.port_counters()
    }

    /// What the switch did so far.
    pub fn switch_counters(&self) -> SwitchCounters {
        self.switch.counters()
    }

    /// Starts counting [`WireMessage::nth`](crate::event::WireMessage::nth) from 0 again, for every function. A message
    /// that is on its way right now may be counted on either side.
    pub fn reset_wire_counters(&self) {
        self.taps.iter().for_each(Tap::reset_counters);
    }

    /// Ends every connection and thread and removes every socket. [`WireHook::on_stop`] is called first; a hook that does
    /// not let go within 5 s is left behind with its thread, with a warning. Dropping does the same.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.hook.on_stop();
        self.mailbox.announce_stop();
        self.taps.iter().for_each(Tap::announce_stop);
        let deadline = Instant::now() + STOP_LIMIT;
        for tap in &mut self.taps {
            tap.join(deadline);
            // Only there if a connection was being set up.
            let _ = std::fs::remove_file(self.dir.join(format!("{}.in", tap.function())));
        }
        if let Some(reports) = self.reports.take() {
            while !reports.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if reports.is_finished() {
                // A panic in the callback has been printed by the panic hook.
                let _ = reports.join();
            } else {
                log::warn!(
                    "mailbox: the report callback did not return, its thread is left behind"
                );
            }
        }
    }
}

/// Raises the soft limit on open files if this many functions need it.
fn allow_open_files(vfs: u16, queue_pairs: u16) -> Result<(), DeviceError> {
    // Per function: listener, three ends of streams and their clones, epoll, stop, wake and exit events, guest memory
    // regions; three per queue. 256 for everything else in the process.
    let needed = 256 + (u64::from(vfs) + 2) * (22 + 6 * u64::from(queue_pairs));
    let now = getrlimit(Resource::Nofile);
    let below = |limit: Option<u64>| limit.is_some_and(|limit| limit < needed);
    if below(now.maximum) {
        return Err(DeviceError::OpenFiles {
            needed,
            limit: now.maximum.unwrap_or(u64::MAX),
        });
    }
    if below(now.current) {
        let raised = Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        };
        setrlimit(Resource::Nofile, raised).map_err(|errno| DeviceError::Resources {
            what: "limit on open files",
            source: errno.into(),
        })?;
    }
    Ok(())
}
