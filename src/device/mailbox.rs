// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control function: three virtqueues that carry frames between this program and the guest module
//! (guest-tests/module/vfrace_proto.h). What is in a frame is not this room's business.
//!
//! While an answer on some function's socket is held, QEMU's global lock is taken: the guest gets no interrupt and
//! cannot kick. So unplug frames are only written into shared memory, where the guest polls, and reports are polled for
//! here.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use super::ring::{ChainError, Memory, Ring, read_chain};
use super::session::{Device, ExitEvent};

/// VFRACE_QUEUE_UNPLUG.
const UNPLUG: usize = 0;
/// VFRACE_QUEUE_COMMAND.
const COMMAND: usize = 1;
/// VFRACE_QUEUE_REPORT.
const REPORT: usize = 2;
/// VFRACE_QUEUES, which is QEMU's `num_vqs=`.
const QUEUES: usize = 3;

/// Longest frame in either direction, bytes. The largest of the protocol has 1016.
pub const MAX_MAILBOX_FRAME: usize = 4096;

/// Largest queue, entries.
const QUEUE_SIZE: usize = 1024;
/// Reports taken in one pass.
const BATCH: usize = 256;
/// How often reports are looked for while there are some.
const POLL_BUSY: Duration = Duration::from_micros(200);
/// How often otherwise.
const POLL_IDLE: Duration = Duration::from_millis(1);
/// How long after the last report it counts as busy.
const BUSY_FOR: Duration = Duration::from_millis(500);

/// Takes each report frame as the guest wrote it, on the polling thread, in order.
pub type OnReport = Box<dyn Fn(&[u8]) + Send + Sync>;

/// A frame that could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// There is no guest driver at the other end: QEMU is not connected, or the module is not loaded.
    #[error("the mailbox is not connected; wait for the guest module's first report")]
    NotConnected,
    /// The guest has no buffer in the queue.
    #[error(
        "the guest has no free buffer in the mailbox's queue {queue}; wait for it to take the earlier frames"
    )]
    NoBuffer {
        /// 0 unplug, 1 command.
        queue: usize,
    },
    /// The frame does not fit the guest's buffer.
    #[error("a frame of {length} bytes does not fit the guest's buffer; make it shorter")]
    TooLong {
        /// Its length, bytes.
        length: usize,
    },
    /// The guest's buffer makes no sense. It has been given back.
    #[error(
        "the guest's buffer in the mailbox's queue {queue} is broken; look at the guest module"
    )]
    BadBuffer {
        /// 0 unplug, 1 command.
        queue: usize,
    },
}

/// A handle to the mailbox, cheap to clone, usable from any thread as long as the backend lives; afterwards everything
/// is [`MailboxError::NotConnected`].
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

struct Shared {
    guest: RwLock<Option<Arc<Guest>>>,
    stop: AtomicBool,
}

/// The rings of the present connection.
struct Guest {
    rings: Vec<Ring>,
    memory: Memory,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            guest: RwLock::new(None),
            stop: AtomicBool::new(false),
        }))
    }

    /// Puts `frame` into the next buffer of the unplug queue, without an interrupt: the guest polls the used ring. Takes
    /// some microseconds and never waits for QEMU or the guest, so it may be called from a
    /// [`WireHook`](crate::wire::WireHook).
    pub fn send_unplug(&self, frame: &[u8]) -> Result<(), MailboxError> {
        self.send(UNPLUG, frame, false)
    }

    /// Puts `frame` into the next buffer of the command queue and interrupts the guest. The interrupt is delivered when
    /// QEMU's main loop runs, which it does not while an answer is held.
    pub fn send_command(&self, frame: &[u8]) -> Result<(), MailboxError> {
        self.send(COMMAND, frame, true)
    }

    /// Is there a driver, with both queues running?
    pub fn is_connected(&self) -> bool {
        self.guest()
            .is_some_and(|guest| guest.rings.iter().all(Ring::is_running))
    }

    fn send(&self, queue: usize, frame: &[u8], signal: bool) -> Result<(), MailboxError> {
        let length = frame.len();
        if length > MAX_MAILBOX_FRAME {
            return Err(MailboxError::TooLong { length });
        }
        let guest = self.guest().ok_or(MailboxError::NotConnected)?;
        let ring = guest
            .rings
            .get(queue)
            .filter(|ring| ring.is_running())
            .ok_or(MailboxError::NotConnected)?;
        match ring.put(&guest.memory.memory(), &[frame], true) {
            None => return Err(MailboxError::NoBuffer { queue }),
            Some(Err(ChainError::Length)) => return Err(MailboxError::TooLong { length }),
            Some(Err(_)) => return Err(MailboxError::BadBuffer { queue }),
            Some(Ok(())) => {}
        }
        if signal {
            if let Err(error) = ring.signal_used_queue() {
                log::warn!("mailbox: cannot interrupt the guest: {error}");
            }
        }
        Ok(())
    }

    fn guest(&self) -> Option<Arc<Guest>> {
        self.0
            .guest
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_guest(&self, guest: Option<Arc<Guest>>) {
        *self.0.guest.write().unwrap_or_else(PoisonError::into_inner) = guest;
    }

    /// Starts the thread that polls for reports.
    pub(super) fn start(&self, on_report: OnReport) -> io::Result<JoinHandle<()>> {
        let mailbox = self.clone();
        thread::Builder::new()
            .name("mailbox reports".into())
            .spawn(move || mailbox.poll(&on_report))
    }

    /// Ends that thread within [`POLL_IDLE`], if the callback returns.
    pub(super) fn announce_stop(&self) {
        self.0.stop.store(true, Ordering::Release);
    }

    fn poll(&self, on_report: &OnReport) {
        let mut last = None;
        while !self.0.stop.load(Ordering::Acquire) {
            if self.take_reports(on_report) {
                last = Some(Instant::now());
            }
            let busy = last.is_some_and(|last| last.elapsed() < BUSY_FOR);
            thread::sleep(if busy { POLL_BUSY } else { POLL_IDLE });
        }
    }

    /// One pass over the report queue. The guest is not signalled: its driver takes used buffers back when it needs one.
    fn take_reports(&self, on_report: &OnReport) -> bool {
        let Some(guest) = self.guest() else {
            return false;
        };
        let Some(ring) = guest.rings.get(REPORT) else {
            return false;
        };
        let memory = guest.memory.memory();
        let mut frames = Vec::new();
        ring.drain(&memory, BATCH, |chain| {
            match read_chain(chain, &memory, MAX_MAILBOX_FRAME) {
                Ok(frame) => frames.push(frame),
                Err(error) => log::warn!("mailbox: a report could not be read ({error:?})"),
            }
            0
        });
        for frame in &frames {
            on_report(frame);
        }
        !frames.is_empty()
    }
}

/// The mailbox's virtio side during one connection.
pub(super) struct MailboxDevice {
    mailbox: Mailbox,
    memory: RwLock<Option<Memory>>,
    exit: ExitEvent,
}

impl MailboxDevice {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            memory: RwLock::new(None),
            exit: ExitEvent::default(),
        }
    }
}

impl Device for MailboxDevice {
    fn wake(&self) -> Option<(RawFd, u64)> {
        None
    }

    fn exit(&self) -> &ExitEvent {
        &self.exit
    }

    fn disconnected(&self) {
        self.mailbox.set_guest(None);
    }
}

impl VhostUserBackend for MailboxDevice {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | 1 << VIRTIO_F_VERSION_1
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exit.create()
    }

    /// Called by the crate when a ring begins to run, and for kicks, which mean nothing here. The rings are the same for
    /// the whole connection.
    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        rings: &[Ring],
        _thread: usize,
    ) -> io::Result<()> {
        if self.mailbox.guest().is_none() {
            let memory = self
                .memory
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            self.mailbox.set_guest(memory.map(|memory| {
                Arc::new(Guest {
                    rings: rings.to_vec(),
                    memory,
                })
            }));
        }
        Ok(())
    }
}
