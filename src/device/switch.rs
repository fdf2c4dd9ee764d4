// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A learning switch between the functions, as IEEE 802.1D describes one, without VLANs and spanning tree.
//!
//! Locks: the address table and each port's backlog, never two at a time, and nothing is called while one is held. So
//! any function's thread may forward to any port. A frame waits in its port's backlog until the port's own thread puts
//! it into the guest's receive ring; a backlog is bounded, what does not fit is dropped and counted.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

use crate::event::FunctionId;

/// Shortest frame that has addresses and a type, bytes.
pub(super) const MIN_FRAME: usize = 14;
/// Longest frame, bytes: the largest MTU that Linux' virtio-net takes (ETH_MAX_MTU, 65535), and the header.
pub(super) const MAX_FRAME: usize = 65_535 + MIN_FRAME;

/// Frames that may wait for a port.
const BACKLOG_FRAMES: usize = 256;
/// Bytes that may wait for a port: 256 ports full of the longest frames still fit in memory.
const BACKLOG_BYTES: usize = 1 << 20;
/// Addresses that are learned in all. A guest that makes addresses up floods itself, not this program's memory.
const TABLE_LIMIT: usize = 4096;
/// An address that has not been seen as a source for so long is forgotten (IEEE 802.1D, table 7-5: 300 s).
const AGE: Duration = Duration::from_secs(300);

type Mac = [u8; 6];

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drop {
    /// The guest's buffer chain makes no sense.
    BadChain,
    /// Shorter than an Ethernet header, or longer than [`MAX_FRAME`].
    BadLength,
    /// The source is a group address.
    BadSource,
    /// The port that it is for is down.
    PortDown,
    /// The port's backlog is full: its guest does not take frames fast enough.
    BacklogFull,
    /// The guest's receive buffer is too small for it.
    NoRoom,
    /// It is for the port that it came from.
    SamePort,
}

/// Number of [`Drop`] reasons.
const REASONS: usize = 7;

/// What a function sent and received, as its guest sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortCounters {
    /// Frames sent by the guest and accepted.
    pub tx_packets: u64,
    /// Their bytes, without the virtio header.
    pub tx_bytes: u64,
    /// Frames put into the guest's receive ring.
    pub rx_packets: u64,
    /// Their bytes, without the virtio header.
    pub rx_bytes: u64,
    /// Dropped from the guest: its buffer chain makes no sense. Counted for a receive buffer, too.
    pub bad_chain: u64,
    /// Dropped from the guest: shorter than an Ethernet header or longer than the largest MTU.
    pub bad_length: u64,
    /// Dropped from the guest: a group address as the source.
    pub bad_source: u64,
    /// Dropped for the guest: its port is down.
    pub port_down: u64,
    /// Dropped for the guest: too many wait already.
    pub backlog_full: u64,
    /// Dropped for the guest: its receive buffer is too small.
    pub no_room: u64,
    /// Dropped from the guest: addressed to a station on its own port.
    pub same_port: u64,
}

/// What the switch did in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SwitchCounters {
    /// Frames that went to the one port of a known address.
    pub unicast: u64,
    /// Frames that went to every other port: group addresses, and addresses that are not known.
    pub flooded: u64,
    /// Times that an address was not learned because the table was full.
    pub not_learned: u64,
    /// Times that a known address turned up at another port.
    pub moved: u64,
    /// Addresses known now.
    pub known: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One function's place at the switch. Outlives connections.
pub(super) struct Port {
    id: FunctionId,
    up: AtomicBool,
    backlog: Mutex<Backlog>,
    /// Readable when something was put into an empty backlog.
    wake: OwnedFd,
    traffic: [AtomicU64; 4],
    drops: [AtomicU64; REASONS],
}

#[derive(Default)]
struct Backlog {
    frames: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(u64::try_from(n).unwrap_or(0), Ordering::Relaxed);
}

impl Port {
    fn new(id: FunctionId) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            id,
            up: AtomicBool::new(false),
            backlog: Mutex::default(),
            wake,
            traffic: Default::default(),
            drops: Default::default(),
        })
    }

    /// Becomes readable when there is something to receive.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the port's thread look again.
    pub(super) fn wake(&self) {
        // EAGAIN would mean that it is readable as it is.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The port's thread has woken up.
    pub(super) fn woken(&self) {
        // EAGAIN: woken for nothing.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// The receive ring runs: frames may be queued.
    pub(super) fn set_up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// The oldest frame that waits.
    pub(super) fn pop(&self) -> Option<Arc<[u8]>> {
        let mut backlog = lock(&self.backlog);
        let frame = backlog.frames.pop_front()?;
        backlog.bytes = backlog.bytes.saturating_sub(frame.len());
        Some(frame)
    }

    /// Puts a frame back that could not be delivered yet.
    pub(super) fn put_back(&self, frame: Arc<[u8]>) {
        let mut backlog = lock(&self.backlog);
        backlog.bytes += frame.len();
        backlog.frames.push_front(frame);
    }

    fn push(&self, frame: &Arc<[u8]>) {
        if !self.up.load(Ordering::Acquire) {
            return self.drop_frame(Drop::PortDown);
        }
        let first = {
            let mut backlog = lock(&self.backlog);
            if backlog.frames.len() >= BACKLOG_FRAMES || backlog.bytes + frame.len() > BACKLOG_BYTES
            {
                None
            } else {
                backlog.bytes += frame.len();
                backlog.frames.push_back(Arc::clone(frame));
                Some(backlog.frames.len() == 1)
            }
        };
        match first {
            None => self.drop_frame(Drop::BacklogFull),
            Some(true) => self.wake(),
            Some(false) => {}
        }
    }

    /// Counts a dropped frame.
    pub(super) fn drop_frame(&self, reason: Drop) {
        if let Some(counter) = self.drops.get(reason as usize) {
            add(counter, 1);
        }
    }

    /// Counts a frame that the guest sent.
    pub(super) fn sent(&self, bytes: usize) {
        let [packets, total, ..] = &self.traffic;
        add(packets, 1);
        add(total, bytes);
    }

    /// Counts a frame that the guest received.
    pub(super) fn received(&self, bytes: usize) {
        let [.., packets, total] = &self.traffic;
        add(packets, 1);
        add(total, bytes);
    }

    fn counters(&self) -> PortCounters {
        let [tx_packets, tx_bytes, rx_packets, rx_bytes] = self
            .traffic
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed));
        // In the order of `Drop`.
        let [
            bad_chain,
            bad_length,
            bad_source,
            port_down,
            backlog_full,
            no_room,
            same_port,
        ] = self
            .drops
            .each_ref()
            .map(|counter| counter.load(Ordering::Relaxed));
        PortCounters {
            tx_packets,
            tx_bytes,
            rx_packets,
            rx_bytes,
            bad_chain,
            bad_length,
            bad_source,
            port_down,
            backlog_full,
            no_room,
            same_port,
        }
    }
}

/// Where an address was seen last.
struct Station {
    port: usize,
    seen: Instant,
}

/// The switch.
pub(super) struct Switch {
    ports: Vec<Port>,
    table: Mutex<HashMap<Mac, Station>>,
    unicast: AtomicU64,
    flooded: AtomicU64,
    not_learned: AtomicU64,
    moved: AtomicU64,
}

impl Switch {
    /// A switch with a port for each function, all down.
    pub(super) fn new(functions: impl IntoIterator<Item = FunctionId>) -> io::Result<Self> {
        Ok(Self {
            ports: functions
                .into_iter()
                .map(Port::new)
                .collect::<io::Result<_>>()?,
            table: Mutex::default(),
            unicast: AtomicU64::new(0),
            flooded: AtomicU64::new(0),
            not_learned: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        })
    }

    /// A port, by its place in the list given to [`Switch::new`].
    pub(super) fn port(&self, index: usize) -> Option<&Port> {
        self.ports.get(index)
    }

    /// A frame came from the guest of port `from`. Never blocks for longer than it takes to copy a pointer.
    pub(super) fn forward(&self, from: usize, frame: &Arc<[u8]>, now: Instant) {
        let Some(sender) = self.ports.get(from) else {
            return;
        };
        let Some((to, rest)) = frame.split_first_chunk::<6>() else {
            return sender.drop_frame(Drop::BadLength);
        };
        let Some(source) = rest
            .first_chunk::<6>()
            .filter(|_| (MIN_FRAME..=MAX_FRAME).contains(&frame.len()))
        else {
            return sender.drop_frame(Drop::BadLength);
        };
        if is_group(source) {
            return sender.drop_frame(Drop::BadSource);
        }
        sender.sent(frame.len());
        match self.look_up(from, *source, *to, now) {
            Some(port) if port == from => sender.drop_frame(Drop::SamePort),
            Some(port) => {
                add(&self.unicast, 1);
                if let Some(port) = self.ports.get(port) {
                    port.push(frame);
                }
            }
            None => {
                add(&self.flooded, 1);
                for (index, port) in self.ports.iter().enumerate() {
                    // A port that is down has no share in a flood, so that does not count as a loss.
                    if index != from && port.up.load(Ordering::Acquire) {
                        port.push(frame);
                    }
                }
            }
        }
    }

    /// Learns the source and finds the destination.
    fn look_up(&self, from: usize, source: Mac, to: Mac, now: Instant) -> Option<usize> {
        let mut table = lock(&self.table);
        let fresh = |station: &Station| now.saturating_duration_since(station.seen) < AGE;
        if !table.contains_key(&source) && table.len() >= TABLE_LIMIT {
            table.retain(|_, station| fresh(station));
        }
        if let Some(station) = table.get_mut(&source) {
            if station.port != from {
                add(&self.moved, 1);
            }
            *station = Station {
                port: from,
                seen: now,
            };
        } else if table.len() < TABLE_LIMIT {
            table.insert(
                source,
                Station {
                    port: from,
                    seen: now,
                },
            );
        } else {
            add(&self.not_learned, 1);
        }
        if is_group(&to) {
            return None;
        }
        match table.get(&to) {
            Some(station) if fresh(station) => Some(station.port),
            Some(_) => {
                table.remove(&to);
                None
            }
            None => None,
        }
    }

    /// The function was reset or disconnected: its port goes down, what waits for it is dropped, and the addresses that
    /// were learned there are forgotten.
    pub(super) fn down(&self, index: usize) {
        let Some(port) = self.ports.get(index) else {
            return;
        };
        port.up.store(false, Ordering::Release);
        let waiting = std::mem::take(&mut *lock(&port.backlog));
        for _ in waiting.frames {
            port.drop_frame(Drop::PortDown);
        }
        lock(&self.table).retain(|_, station| station.port != index);
    }

    /// Counters of every port.
    pub(super) fn port_counters(&self) -> Vec<(FunctionId, PortCounters)> {
        self.ports
            .iter()
            .map(|port| (port.id, port.counters()))
            .collect()
    }

    /// Counters of the switch.
    pub(super) fn counters(&self) -> SwitchCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SwitchCounters {
            unicast: read(&self.unicast),
            flooded: read(&self.flooded),
            not_learned: read(&self.not_learned),
            moved: read(&self.moved),
            known: u64::try_from(lock(&self.table).len()).unwrap_or(u64::MAX),
        }
    }
}

/// Multicast or broadcast: the lowest bit of the first byte (IEEE 802, "Individual/Group").
fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

#[cfg(test)]
mod tests;
