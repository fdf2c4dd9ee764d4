// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtqueue as the devices use it, and safe access to the buffers that a guest puts in it.
//!
//! Everything in a ring is the guest's and can be wrong or change at any time: lengths, addresses and links are checked
//! here, so that a device sees either whole bytes or a [`ChainError`].

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost_user_backend::{VringRwLock, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{DescriptorChain, Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};

/// Guest memory, which QEMU may change at any time.
pub(super) type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// Guest memory as it is now; stays mapped while this is held.
pub(super) type Mapped = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// Why a buffer could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainError {
    /// It does not end, or points out of the descriptor table.
    Broken,
    /// A descriptor has the wrong direction.
    Direction,
    /// It points out of guest memory.
    Memory,
    /// It holds more bytes than allowed, or less than needed.
    Length,
}

/// What a ring has next.
pub(super) enum Next {
    /// Nothing.
    Empty,
    /// The ring is off, or its indices make no sense.
    Unusable,
    /// A buffer.
    Chain(DescriptorChain<Mapped>),
}

/// The crate's vring with a kick that cannot end the worker thread.
///
/// vhost-user-backend 0.24 reads the kick eventfd after epoll_wait() said that it is readable. If GET_VRING_BASE and
/// SET_VRING_KICK come in between, it reads from the new one, gets EAGAIN (QEMU's are non-blocking), and takes that as
/// a fatal error: the function is dead until QEMU reconnects. A test that does nothing but tear devices down finds
/// such a window, so here reading a kick that is not there is no error.
#[derive(Clone)]
pub(super) struct Ring(VringRwLock<Memory>);

impl Ring {
    /// Started by SET_VRING_KICK and enabled by SET_VRING_ENABLE?
    pub(super) fn is_running(&self) -> bool {
        let state = self.0.get_ref();
        state.is_enabled() && state.get_queue().ready()
    }

    /// Calls `then` if the ring is running, and keeps it from being stopped meanwhile.
    pub(super) fn if_running(&self, then: impl FnOnce()) {
        let state = self.0.get_ref();
        if state.is_enabled() && state.get_queue().ready() {
            then();
        }
    }

    /// Takes up to `limit` buffers; `use_buffer` says how many bytes of each were written. Returns how many there were.
    /// The ring's lock is held throughout, so `use_buffer` must take no other lock.
    pub(super) fn drain(
        &self,
        memory: &Mapped,
        limit: usize,
        mut use_buffer: impl FnMut(DescriptorChain<Mapped>) -> u32,
    ) -> usize {
        let mut taken = 0;
        while taken < limit && self.take(memory, &mut use_buffer) {
            taken += 1;
        }
        taken
    }

    /// Interrupts the guest, unless its driver has said that it is looking anyway (VRING_AVAIL_F_NO_INTERRUPT, Virtual
    /// I/O Device specification 1.3, 2.7.7; the virtio-queue crate 0.18 does not look at it).
    pub(super) fn signal(&self, memory: &Mapped) {
        let state = self.0.get_ref();
        // The used index must be visible before the flag is read, else both sides could miss each other.
        fence(Ordering::SeqCst);
        let flags = GuestAddress(state.get_queue().avail_ring());
        if memory
            .read_obj::<u16>(flags)
            .is_ok_and(|flags| u16::from_le(flags) & 1 != 0)
        {
            return;
        }
        if let Err(error) = state.signal_used_queue() {
            log::debug!("cannot interrupt the guest: {error}");
        }
    }

    /// Takes one buffer, if there is one.
    fn take(
        &self,
        memory: &Mapped,
        use_buffer: &mut impl FnMut(DescriptorChain<Mapped>) -> u32,
    ) -> bool {
        let mut state = self.0.get_mut();
        let usable = state.is_enabled();
        let queue = state.get_queue_mut();
        let Next::Chain(chain) = next(usable, queue, memory) else {
            return false;
        };
        let head = chain.head_index();
        let written = use_buffer(chain);
        // Fails if the guest named a descriptor or a used ring that does not exist: nothing can be given back then.
        let _ = queue.add_used(&**memory, head, written);
        true
    }

    /// Writes `parts` one after the other into the next buffer and gives it back, without signalling. `Ok(None)`: there
    /// is no buffer. On [`ChainError::Length`] the buffer stays in the ring if `keep`, else it is given back empty.
    pub(super) fn put(
        &self,
        memory: &Mapped,
        parts: &[&[u8]],
        keep: bool,
    ) -> Option<Result<(), ChainError>> {
        let mut state = self.0.get_mut();
        let usable = state.is_enabled();
        let queue = state.get_queue_mut();
        let Next::Chain(chain) = next(usable, queue, memory) else {
            return None;
        };
        let head = chain.head_index();
        let result = write_chain(chain, memory, parts);
        if result == Err(ChainError::Length) && keep {
            queue.go_to_previous_position();
        } else {
            let _ = queue.add_used(&**memory, head, result.unwrap_or(0));
        }
        Some(result.map(|_| ()))
    }
}

fn next(usable: bool, queue: &mut virtio_queue::Queue, memory: &Mapped) -> Next {
    if !usable {
        return Next::Unusable;
    }
    match queue.iter(memory.clone()) {
        Ok(mut chains) => chains.next().map_or(Next::Empty, Next::Chain),
        Err(_) => Next::Unusable,
    }
}

/// Descriptors of a chain in one direction, as (address, length).
fn descriptors(
    chain: DescriptorChain<Mapped>,
    writable: bool,
) -> Result<Vec<(GuestAddress, usize)>, ChainError> {
    let mut parts = Vec::new();
    let mut ended = false;
    for descriptor in chain {
        if descriptor.is_write_only() != writable {
            return Err(ChainError::Direction);
        }
        ended = !descriptor.has_next();
        parts.push((
            descriptor.addr(),
            usize::try_from(descriptor.len()).map_err(|_| ChainError::Length)?,
        ));
    }
    // The iterator ends quietly at a loop, a link out of the table and an unreadable descriptor.
    if ended {
        Ok(parts)
    } else {
        Err(ChainError::Broken)
    }
}

/// Copies a buffer that the guest filled, `limit` bytes at most.
pub(super) fn read_chain(
    chain: DescriptorChain<Mapped>,
    memory: &Mapped,
    limit: usize,
) -> Result<Vec<u8>, ChainError> {
    let parts = descriptors(chain, false)?;
    // No overflow: 32-bit lengths of at most 65536 descriptors, and the crate stops at 2^32 bytes.
    let length: usize = parts.iter().map(|part| part.1).sum();
    if length > limit {
        return Err(ChainError::Length);
    }
    let mut bytes = vec![0; length];
    let mut rest = bytes.as_mut_slice();
    for (address, length) in parts {
        let (now, later) = rest
            .split_at_mut_checked(length)
            .ok_or(ChainError::Length)?;
        memory
            .read_slice(now, address)
            .map_err(|_| ChainError::Memory)?;
        rest = later;
    }
    Ok(bytes)
}

/// Fills a buffer that the guest left for the device; returns the number of bytes.
fn write_chain(
    chain: DescriptorChain<Mapped>,
    memory: &Mapped,
    parts: &[&[u8]],
) -> Result<u32, ChainError> {
    let room = descriptors(chain, true)?;
    let bytes = parts.concat();
    if bytes.len() > room.iter().map(|part| part.1).sum() {
        return Err(ChainError::Length);
    }
    let mut rest = bytes.as_slice();
    for (address, length) in room {
        let (now, later) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        memory
            .write_slice(now, address)
            .map_err(|_| ChainError::Memory)?;
        rest = later;
    }
    u32::try_from(bytes.len()).map_err(|_| ChainError::Length)
}

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = <VringRwLock<Memory> as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = <VringRwLock<Memory> as VringStateMutGuard<'a, Memory>>::G;
}

impl VringT<Memory> for Ring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        VringRwLock::new(mem, max_queue_size).map(Self)
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.0.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.0.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.0.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.0.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(
        &self,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    ) -> Result<(), QueueError> {
        self.0.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.0.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.0.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.0.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.0.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        let state = self.0.get_ref();
        if let Some(kick) = state.get_kick() {
            // SAFETY: the consumer owns the descriptor and is borrowed, through `state`, for longer than `fd` lives.
            let fd = unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) };
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
                // It may be gone again, see the type's documentation.
                let _ = kick.consume();
            }
        }
        Ok(state.is_enabled() && state.get_queue().ready())
    }

    fn set_call(&self, file: Option<File>) {
        self.0.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
    }
}
