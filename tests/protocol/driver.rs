// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front end and a guest driver in one: guest memory in a memfd, split virtqueues in it, the `vhost` crate's front
//! end to tell the back end about them.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use vfrace::device::{Backend, BackendConfig};
use vfrace::event::{Event, EventKind, EventSink, FunctionId, Side, WireMessage};
use vfrace::wire::{Header, Payload, WireHook, decode, read_frame, write_frame};
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How long anything may take that should happen at once. The machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);
/// How long nothing must happen for it to count as "does not happen".
pub const QUIET: Duration = Duration::from_millis(150);

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const QUEUE_SIZE: u16 = 16;
const MEMORY: u64 = 1 << 20;

/// Calls a closure for each message; notes that it was told to stop.
pub struct Hook<F>(pub F, pub Mutex<Option<Sender<()>>>);

impl<F: Fn(&WireMessage) + Send + Sync> WireHook for Hook<F> {
    fn on_message(&self, message: &WireMessage) {
        self.0(message);
    }

    fn on_stop(&self) {
        // Whoever waits at the other end is let go.
        self.1.lock().unwrap().take();
    }
}

/// A backend in a directory of its own.
pub struct Bench {
    pub backend: Option<Backend>,
    pub events: Receiver<Event>,
    pub reports: Receiver<Vec<u8>>,
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new(vfs: u16) -> Self {
        Self::with(
            vfs,
            1,
            Arc::new(Hook(|_: &WireMessage| {}, Mutex::new(None))),
        )
    }

    pub fn with(vfs: u16, queue_pairs: u16, hook: Arc<dyn WireHook>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sink, events) = EventSink::new();
        let (report, reports) = channel();
        let backend = Backend::start(BackendConfig {
            socket_dir: dir.path().into(),
            vfs,
            queue_pairs,
            hook,
            events: sink,
            on_report: Box::new(move |frame| drop(report.send(frame.to_vec()))),
        });
        Self {
            backend: Some(backend.unwrap()),
            events,
            reports,
            dir,
        }
    }

    pub fn backend(&self) -> &Backend {
        self.backend.as_ref().unwrap()
    }

    /// Waits for the event that `wanted` picks.
    pub fn event<T>(&self, wanted: impl Fn(&EventKind) -> Option<T>) -> T {
        let end = Instant::now() + SOON;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self
                .events
                .recv_timeout(left)
                .expect("the event did not come");
            if let Some(found) = wanted(&event.kind) {
                return found;
            }
        }
    }

    /// Waits for a function's connection to end; says why.
    pub fn down(&self, wanted: FunctionId) -> String {
        self.event(|kind| match kind {
            EventKind::Connection {
                function,
                up: false,
                reason,
            } if *function == wanted => Some(reason.clone()),
            _ => None,
        })
    }
}

/// Waits until `done` gives something.
pub fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A function as QEMU and a guest driver see it together.
pub struct Guest {
    pub front: Frontend,
    pub memory: GuestMemoryMmap,
    file: File,
    pub queues: Vec<Queue>,
}

/// One split virtqueue: descriptors, available ring, used ring and buffers at `base`.
pub struct Queue {
    base: u64,
    added: u16,
    seen: u16,
    pub kick: EventFd,
    pub call: EventFd,
}

impl Guest {
    pub fn connect(socket: &Path, queues: usize) -> Self {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(MEMORY).unwrap();
        let part = FileOffset::new(file.try_clone().unwrap(), 0);
        let size = usize::try_from(MEMORY).unwrap();
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), size, Some(part))]).unwrap();
        let queues = (0..queues)
            .map(|n| Queue {
                base: 0x2_0000 * u64::try_from(n).unwrap(),
                added: 0,
                seen: 0,
                kick: EventFd::new(EFD_NONBLOCK).unwrap(),
                call: EventFd::new(EFD_NONBLOCK).unwrap(),
            })
            .collect::<Vec<_>>();
        let front = Frontend::connect(socket, u64::try_from(queues.len()).unwrap()).unwrap();
        Self {
            front,
            memory,
            file,
            queues,
        }
    }

    /// Everything up to running rings, every message acknowledged. Returns the features offered.
    pub fn start(&mut self) -> u64 {
        let offered = self.negotiate();
        let base = self.memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY,
            userspace_addr: base,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        };
        self.front.add_mem_region(&region).unwrap();
        for n in 0..self.queues.len() {
            self.set_up_queue(n);
            self.front.set_vring_enable(n, true).unwrap();
        }
        offered
    }

    pub fn negotiate(&mut self) -> u64 {
        self.front.set_owner().unwrap();
        let offered = self.front.get_features().unwrap();
        let protocol = self.front.get_protocol_features().unwrap();
        self.front
            .set_protocol_features(protocol & wanted())
            .unwrap();
        self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let features = 1 << 32 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.front.set_features(features & offered).unwrap();
        offered
    }

    /// All that a ring needs to run but SET_VRING_ENABLE.
    pub fn set_up_queue(&mut self, n: usize) {
        let host = self.memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        let queue = &mut self.queues[n];
        (queue.added, queue.seen) = (0, 0);
        self.memory
            .write_obj(0u16, GuestAddress(queue.base + 0x1002))
            .unwrap();
        self.memory
            .write_obj(0u16, GuestAddress(queue.base + 0x2002))
            .unwrap();
        let queue = &self.queues[n];
        let base = host + queue.base;
        self.front.set_vring_num(n, QUEUE_SIZE).unwrap();
        self.front.set_vring_base(n, 0).unwrap();
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: base,
            used_ring_addr: base + 0x2000,
            avail_ring_addr: base + 0x1000,
            log_addr: None,
        };
        self.front.set_vring_addr(n, &config).unwrap();
        self.front.set_vring_call(n, &queue.call).unwrap();
        self.front.set_vring_kick(n, &queue.kick).unwrap();
    }

    /// Sets the available index to a value of one's own.
    pub fn send_raw_index(&mut self, queue: usize, index: u16) {
        let at = GuestAddress(self.queues[queue].base + 0x1002);
        self.memory.write_obj(index, at).unwrap();
    }

    /// Where the `i`th buffer of a queue is.
    pub fn buffer(&self, queue: usize, i: u16) -> u64 {
        self.queues[queue].base + 0x4000 + u64::from(i) * 0x800
    }

    pub fn descriptor(
        &self,
        queue: usize,
        i: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = self.queues[queue].base + u64::from(i) * 16;
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes the chain that begins at `head` available; no kick.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let slot = q.base + 0x1004 + u64::from(q.added % QUEUE_SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        q.added = q.added.wrapping_add(1);
        self.memory
            .store(
                q.added,
                GuestAddress(q.base + 0x1002),
                std::sync::atomic::Ordering::Release,
            )
            .unwrap();
    }

    pub fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).unwrap();
    }

    /// Offers an empty buffer for the device to write to.
    pub fn offer_empty(&mut self, queue: usize, i: u16, length: u32) {
        self.descriptor(queue, i, self.buffer(queue, i), length, WRITE, 0);
        self.offer(queue, i);
    }

    /// Offers a buffer with these bytes, cut into two descriptors.
    pub fn offer_bytes(&mut self, queue: usize, i: u16, bytes: &[u8]) {
        let at = self.buffer(queue, i);
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        let first = bytes.len().min(13);
        self.descriptor(queue, i, at, u32::try_from(first).unwrap(), NEXT, i + 1);
        let rest = u32::try_from(bytes.len() - first).unwrap();
        self.descriptor(queue, i + 1, at + first as u64, rest, 0, 0);
        self.offer(queue, i);
    }

    /// The next used entry: descriptor and length.
    pub fn used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let q = &mut self.queues[queue];
        let at = GuestAddress(q.base + 0x2002);
        let index: u16 = self
            .memory
            .load(at, std::sync::atomic::Ordering::Acquire)
            .unwrap();
        if index == q.seen {
            return None;
        }
        let slot = q.base + 0x2004 + u64::from(q.seen % QUEUE_SIZE) * 8;
        q.seen = q.seen.wrapping_add(1);
        let read = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
        Some((read(slot), read(slot + 4)))
    }

    pub fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        wait("used buffer", || self.used(queue))
    }

    pub fn bytes(&self, at: u64, length: u32) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    /// Sends a frame with an empty virtio header through queue 1.
    pub fn send(&mut self, frame: &[u8]) {
        let mut bytes = vec![0; 12];
        bytes.extend(frame);
        self.offer_bytes(1, 0, &bytes);
        self.kick(1);
        assert_eq!(self.wait_used(1), (0, 0));
    }

    /// Gives the receive queue `n` buffers.
    pub fn can_receive(&mut self, n: u16) {
        for i in 0..n {
            self.offer_empty(0, i, 0x800);
        }
        self.kick(0);
    }

    /// The next frame in queue 0, without its header, which is checked.
    pub fn receive(&mut self) -> Vec<u8> {
        let (head, length) = self.wait_used(0);
        let bytes = self.bytes(self.buffer(0, u16::try_from(head).unwrap()), length);
        assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        bytes[12..].to_vec()
    }

    pub fn hears_nothing(&mut self) {
        std::thread::sleep(QUIET);
        assert_eq!(self.used(0), None);
    }
}

fn wanted() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// An Ethernet frame with a payload that says what it is.
pub fn frame(to: [u8; 6], from: [u8; 6], text: &str) -> Vec<u8> {
    let mut bytes = to.to_vec();
    bytes.extend(from);
    bytes.extend([0x88, 0xb5]);
    bytes.extend(text.as_bytes());
    bytes
}

/// An eventfd as something that can be sent along.
pub fn some_fd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap()
}

/// A socket without any manners.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn connect(bench: &Bench, function: FunctionId) -> Self {
        let stream = UnixStream::connect(bench.backend().socket(function)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }

    pub fn send(&self, code: u32, need_reply: bool, payload: &Payload, fds: &[OwnedFd]) {
        let body = payload.encode();
        let flags = 1 | if need_reply { Header::NEED_REPLY } else { 0 };
        write_frame(
            &self.0,
            &Header {
                code,
                flags,
                size: body.len() as u32,
            },
            &body,
            fds,
        )
        .unwrap();
    }

    pub fn answer(&self) -> (u32, Payload) {
        let frame = read_frame(&self.0).unwrap();
        let payload = decode(&frame.header, Side::Backend, &frame.body, frame.fds.len()).unwrap();
        (frame.header.code, payload)
    }

    pub fn is_alive(&self) -> bool {
        self.send(1, false, &Payload::Empty, &[]);
        matches!(self.answer(), (1, Payload::U64(_)))
    }

    /// Negotiates protocol features, REPLY_ACK among them.
    pub fn hello(&self) {
        assert!(self.is_alive());
        self.send(15, false, &Payload::Empty, &[]);
        let (_, features) = self.answer();
        self.send(16, false, &features, &[]);
    }
}

/// Bytes and file descriptors in one go, whatever they mean.
pub fn send_bytes(socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    if fds.is_empty() {
        return (&mut &*socket).write_all(bytes).unwrap();
    }
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let sent = sendmsg(
        socket,
        &[std::io::IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    assert_eq!(sent, bytes.len());
}
