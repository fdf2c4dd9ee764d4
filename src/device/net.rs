// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The data path of one network function, PF or VF: virtqueues on one side, a switch port on the other.
//!
//! QEMU's virtio-net does everything else: MAC address (`mac=`), link state, control queue. One of these exists per
//! connection; all its queues are served by one thread. Virtual I/O Device specification 1.3, 5.1.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::virtio_config::{VIRTIO_F_SR_IOV, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MQ, VIRTIO_NET_F_MTU};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

use super::ring::{ChainError, Mapped, Memory, Ring, read_chain};
use super::session::{Device, ExitEvent};
use super::switch::{Drop, MAX_FRAME, Port, Switch};

/// struct virtio_net_hdr_v1 (5.1.6): always 12 bytes with VIRTIO_F_VERSION_1.
const HEADER: usize = 12;
/// The header of a frame that was received: no offload, `num_buffers` (the last two bytes) is 1.
const RX_HEADER: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// Frames handled in one go before the other queues get their turn.
const BATCH: usize = 256;

/// Largest queue, entries. QEMU's virtio-net has 256 by default and 1024 at most.
const QUEUE_SIZE: usize = 1024;

/// A network function during one connection.
pub(super) struct NetDevice {
    switch: Arc<Switch>,
    port: usize,
    queue_pairs: u16,
    features: u64,
    memory: Mutex<Option<Memory>>,
    exit: ExitEvent,
}

impl NetDevice {
    /// `port` is its place at the switch. The SR-IOV feature bit is the PF's only (2.4, 6: VIRTIO_F_SR_IOV).
    pub(super) fn new(switch: Arc<Switch>, port: usize, queue_pairs: u16, is_pf: bool) -> Self {
        let mut features =
            VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | 1 << VIRTIO_F_VERSION_1;
        // QEMU shows the guest an MTU only if it was told one (host_mtu=, hw/net/virtio-net.c) and the back end agrees.
        features |= 1 << VIRTIO_NET_F_MTU;
        if is_pf {
            features |= 1 << VIRTIO_F_SR_IOV;
        }
        if queue_pairs > 1 {
            features |= 1 << VIRTIO_NET_F_MQ;
        }
        Self {
            switch,
            port,
            queue_pairs,
            features,
            memory: Mutex::new(None),
            exit: ExitEvent::default(),
        }
    }

    /// What [`Device::wake`] is registered as: ids up to the number of queues are the crate's.
    fn wake_event(&self) -> u16 {
        self.queue_pairs * 2 + 1
    }

    fn mapped(&self) -> Option<Mapped> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(GuestAddressSpace::memory)
    }

    /// Moves what the guest has sent to the switch.
    fn transmit(&self, port: &Port, ring: &Ring, memory: &Mapped) {
        let mut frames = Vec::new();
        let taken = ring.drain(memory, BATCH, |chain| {
            match read_chain(chain, memory, HEADER + MAX_FRAME) {
                Ok(bytes) => frames.push(bytes),
                Err(ChainError::Length) => port.drop_frame(Drop::BadLength),
                Err(_) => port.drop_frame(Drop::BadChain),
            }
            0
        });
        let now = Instant::now();
        for bytes in frames {
            // An offload would have to be negotiated, and none is offered: the header says nothing.
            match bytes.get(HEADER..) {
                Some(frame) => self.switch.forward(self.port, &frame.into(), now),
                None => port.drop_frame(Drop::BadLength),
            }
        }
        if taken > 0 {
            ring.signal(memory);
        }
        if taken == BATCH {
            port.wake();
        }
    }

    /// Moves what waits at the port into the guest's receive rings.
    fn receive(&self, port: &Port, rings: &[Ring], memory: &Mapped) {
        let running: Vec<&Ring> = rings
            .iter()
            .step_by(2)
            .filter(|ring| ring.is_running())
            .collect();
        let Some(first) = running.first() else {
            return self.switch.down(self.port);
        };
        first.if_running(|| port.set_up());
        let mut filled = vec![false; running.len()];
        for turn in 0.. {
            if turn == BATCH {
                port.wake();
                break;
            }
            let Some(frame) = port.pop() else { break };
            let choice = flow(&frame) % running.len();
            let (Some(ring), Some(filled)) = (running.get(choice), filled.get_mut(choice)) else {
                break;
            };
            match ring.put(memory, &[&RX_HEADER, &frame], false) {
                Some(Ok(())) => {
                    port.received(frame.len());
                    *filled = true;
                }
                Some(Err(error)) => {
                    port.drop_frame(if error == ChainError::Length {
                        Drop::NoRoom
                    } else {
                        Drop::BadChain
                    });
                    *filled = true;
                }
                None => {
                    // The guest kicks when it has added buffers.
                    port.put_back(frame);
                    break;
                }
            }
        }
        for (ring, _) in running.iter().zip(filled).filter(|(_, filled)| *filled) {
            ring.signal(memory);
        }
    }
}

/// A number that is the same for all frames of a conversation, so that they stay in order in one queue: FNV-1a over the
/// MAC addresses and where IPv4 and IPv6 have theirs.
fn flow(frame: &[u8]) -> usize {
    let addresses = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..34),
        Some([0x86, 0xdd]) => frame.get(22..54),
        _ => None,
    };
    let bytes = frame.iter().take(12).chain(addresses.unwrap_or(&[]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    usize::try_from(hash >> 33).unwrap_or(0)
}

impl Device for NetDevice {
    fn wake(&self) -> Option<(RawFd, u64)> {
        use std::os::fd::AsRawFd;
        let port = self.switch.port(self.port)?;
        Some((port.wake_fd().as_raw_fd(), u64::from(self.wake_event())))
    }

    fn exit(&self) -> &ExitEvent {
        &self.exit
    }

    fn disconnected(&self) {
        self.switch.down(self.port);
    }
}

impl VhostUserBackend for NetDevice {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        usize::from(self.queue_pairs) * 2
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// Not STATUS, RARP and MTU: the `vhost` crate 0.18 does not dispatch their messages and would close the connection.
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        vec![u64::MAX]
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn reset_device(&self) {
        self.switch.down(self.port);
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        // The receive queue of the first pair runs whenever the device does.
        if queue == 0 {
            self.switch.down(self.port);
        }
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.exit.create()
    }

    /// Never fails: an error would end the function's only thread.
    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        rings: &[Ring],
        _thread: usize,
    ) -> io::Result<()> {
        let (Some(port), Some(memory)) = (self.switch.port(self.port), self.mapped()) else {
            return Ok(());
        };
        if event == self.wake_event() {
            port.woken();
            rings
                .iter()
                .skip(1)
                .step_by(2)
                .for_each(|ring| self.transmit(port, ring, &memory));
            self.receive(port, rings, &memory);
        } else if event % 2 == 0 {
            self.receive(port, rings, &memory);
        } else if let Some(ring) = rings.get(usize::from(event)) {
            self.transmit(port, ring, &memory);
        }
        Ok(())
    }
}
