// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Payloads of vhost-user messages: bytes to values and back (QEMU docs/interop/vhost-user.rst, "Payload types").

use super::message::MAX_FDS;

/// What a payload looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Empty,
    U64,
    VringFd,
    State,
    Addr,
    Memory,
    Region,
    Config,
    Inflight,
    Log,
    Iotlb,
    Uuid,
    Transfer,
    Shmem,
    Opaque,
}

/// A piece of guest memory ("Memory region description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest physical address.
    pub guest_address: u64,
    /// Bytes.
    pub size: u64,
    /// Address in QEMU.
    pub user_address: u64,
    /// Offset in the file that comes with it.
    pub mmap_offset: u64,
}

/// A decoded payload. Field names follow the specification; numbers are little endian on the hosts that QEMU's
/// vhost-user runs on, and the specification's "native" order is taken as that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// None.
    Empty,
    /// A 64-bit number: features, acknowledgement (0 is success), queue number.
    U64(u64),
    /// SET_VRING_KICK, _CALL, _ERR: ring in bits 0-7, bit 8 says that there is no file descriptor.
    VringFd(u64),
    /// A vring's state ("A vring state description").
    State {
        /// The vring.
        index: u32,
        /// Size, index, or on/off, depending on the message.
        num: u32,
    },
    /// Where a vring is ("A vring address description"); addresses are QEMU's.
    Addr {
        /// The vring.
        index: u32,
        /// Bit 0: log writes.
        flags: u32,
        /// Descriptor table.
        descriptor: u64,
        /// Used ring.
        used: u64,
        /// Available ring.
        available: u64,
        /// Where to log.
        log: u64,
    },
    /// SET_MEM_TABLE: all of guest memory.
    Memory(Vec<Region>),
    /// ADD_MEM_REG, REM_MEM_REG: a piece of it.
    Region(Region),
    /// GET_CONFIG, SET_CONFIG.
    Config {
        /// Offset in the device's configuration space.
        offset: u32,
        /// Bytes there.
        size: u32,
        /// Bit 0: writable, bit 1: live migration.
        flags: u32,
        /// The bytes.
        data: Vec<u8>,
    },
    /// GET_INFLIGHT_FD, SET_INFLIGHT_FD.
    Inflight {
        /// Bytes to map.
        mmap_size: u64,
        /// From where.
        mmap_offset: u64,
        /// Vrings.
        queues: u16,
        /// Entries of each.
        queue_size: u16,
    },
    /// SET_LOG_BASE.
    Log {
        /// Bytes.
        size: u64,
        /// Offset in the file.
        offset: u64,
    },
    /// IOTLB_MSG.
    Iotlb {
        /// I/O virtual address.
        iova: u64,
        /// Bytes.
        size: u64,
        /// Address in QEMU.
        user_address: u64,
        /// 1 read, 2 write, 3 both.
        permission: u8,
        /// 1 miss, 2 update, 3 invalidate, 4 access fail.
        kind: u8,
    },
    /// GET_SHARED_OBJECT.
    Uuid([u8; 16]),
    /// SET_DEVICE_STATE_FD.
    Transfer {
        /// 0 save, 1 load.
        direction: u32,
        /// 0 is "stopped", the only one there is.
        phase: u32,
    },
    /// The answer to GET_SHMEM_CONFIG.
    Shmem {
        /// Regions in use.
        regions: u32,
        /// Bytes of each of the 256 possible ones.
        sizes: Vec<u64>,
    },
    /// Not decoded: a message that is not known, or one without a fixed layout.
    Opaque(Vec<u8>),
}

/// Bit 8 of [`Payload::VringFd`]: no file descriptor comes along.
pub(super) const NO_FD: u64 = 1 << 8;

impl Payload {
    /// The vring that it is about.
    pub fn vring(&self) -> Option<u32> {
        match *self {
            Payload::State { index, .. } | Payload::Addr { index, .. } => Some(index),
            Payload::VringFd(value) => Some(u32::from(value.to_le_bytes()[0])),
            _ => None,
        }
    }

    /// The number in it, where there is one that says something: a u64, or a vring state's `num`.
    pub fn value(&self) -> Option<u64> {
        match *self {
            Payload::U64(value) | Payload::VringFd(value) => Some(value),
            Payload::State { num, .. } => Some(u64::from(num)),
            _ => None,
        }
    }

    /// The payload as it goes over the socket; padding is zero.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut region = |r: &Region| {
            let mut bytes = Vec::with_capacity(32);
            for part in [r.guest_address, r.size, r.user_address, r.mmap_offset] {
                bytes.extend(part.to_le_bytes());
            }
            bytes
        };
        match self {
            Payload::Empty => {}
            Payload::U64(value) | Payload::VringFd(value) => out.extend(value.to_le_bytes()),
            Payload::State { index: a, num: b }
            | Payload::Transfer {
                direction: a,
                phase: b,
            } => {
                out.extend(a.to_le_bytes());
                out.extend(b.to_le_bytes());
            }
            Payload::Addr {
                index,
                flags,
                descriptor,
                used,
                available,
                log,
            } => {
                out.extend(index.to_le_bytes());
                out.extend(flags.to_le_bytes());
                for part in [descriptor, used, available, log] {
                    out.extend(part.to_le_bytes());
                }
            }
            Payload::Memory(regions) => {
                out.extend(
                    u64::try_from(regions.len())
                        .unwrap_or(u64::MAX)
                        .to_le_bytes(),
                );
                out.extend(regions.iter().flat_map(&mut region));
            }
            Payload::Region(r) => {
                out.extend(0u64.to_le_bytes());
                out.extend(region(r));
            }
            Payload::Config {
                offset,
                size,
                flags,
                data,
            } => {
                for part in [offset, size, flags] {
                    out.extend(part.to_le_bytes());
                }
                out.extend(data);
            }
            Payload::Inflight {
                mmap_size,
                mmap_offset,
                queues,
                queue_size,
            } => {
                out.extend(mmap_size.to_le_bytes());
                out.extend(mmap_offset.to_le_bytes());
                out.extend(queues.to_le_bytes());
                out.extend(queue_size.to_le_bytes());
            }
            Payload::Log { size, offset } => {
                out.extend(size.to_le_bytes());
                out.extend(offset.to_le_bytes());
            }
            Payload::Iotlb {
                iova,
                size,
                user_address,
                permission,
                kind,
            } => {
                for part in [iova, size, user_address] {
                    out.extend(part.to_le_bytes());
                }
                out.extend([*permission, *kind, 0, 0, 0, 0, 0, 0]);
            }
            Payload::Uuid(bytes) => out.extend(bytes),
            Payload::Shmem { regions, sizes } => {
                out.extend(u64::from(*regions).to_le_bytes());
                out.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
            }
            Payload::Opaque(bytes) => out.extend(bytes),
        }
        out
    }
}

impl Shape {
    /// Reads a payload of this shape; `None` if the length does not fit.
    pub(super) fn read(self, body: &[u8]) -> Option<Payload> {
        let mut c = Cursor(body);
        let payload = match self {
            Shape::Empty => Payload::Empty,
            Shape::U64 => Payload::U64(c.u64()?),
            Shape::VringFd => Payload::VringFd(c.u64()?),
            Shape::State => Payload::State {
                index: c.u32()?,
                num: c.u32()?,
            },
            Shape::Transfer => Payload::Transfer {
                direction: c.u32()?,
                phase: c.u32()?,
            },
            Shape::Addr => Payload::Addr {
                index: c.u32()?,
                flags: c.u32()?,
                descriptor: c.u64()?,
                used: c.u64()?,
                available: c.u64()?,
                log: c.u64()?,
            },
            Shape::Memory => {
                let (count, _padding) = (c.u32()?, c.u32()?);
                if usize::try_from(count).ok()? > MAX_FDS {
                    return None;
                }
                Payload::Memory((0..count).map(|_| c.region()).collect::<Option<_>>()?)
            }
            Shape::Region => {
                let _padding = c.u64()?;
                Payload::Region(c.region()?)
            }
            Shape::Config => {
                let (offset, size, flags) = (c.u32()?, c.u32()?, c.u32()?);
                let data = std::mem::take(&mut c.0).to_vec();
                Payload::Config {
                    offset,
                    size,
                    flags,
                    data,
                }
            }
            Shape::Inflight => {
                let (mmap_size, mmap_offset) = (c.u64()?, c.u64()?);
                let (queues, queue_size) = (c.u16()?, c.u16()?);
                // A C compiler pads the structure to 24 bytes; both lengths are seen.
                c.skip_padding(4);
                Payload::Inflight {
                    mmap_size,
                    mmap_offset,
                    queues,
                    queue_size,
                }
            }
            Shape::Log => Payload::Log {
                size: c.u64()?,
                offset: c.u64()?,
            },
            Shape::Iotlb => {
                let (iova, size, user_address) = (c.u64()?, c.u64()?, c.u64()?);
                let [permission, kind] = c.take()?;
                c.skip_padding(6);
                Payload::Iotlb {
                    iova,
                    size,
                    user_address,
                    permission,
                    kind,
                }
            }
            Shape::Uuid => Payload::Uuid(c.take()?),
            Shape::Shmem => {
                let (regions, _padding) = (c.u32()?, c.u32()?);
                let sizes = std::iter::from_fn(|| c.u64()).collect();
                Payload::Shmem { regions, sizes }
            }
            Shape::Opaque => Payload::Opaque(std::mem::take(&mut c.0).to_vec()),
        };
        c.0.is_empty().then_some(payload)
    }
}

/// What is left to read.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn region(&mut self) -> Option<Region> {
        Some(Region {
            guest_address: self.u64()?,
            size: self.u64()?,
            user_address: self.u64()?,
            mmap_offset: self.u64()?,
        })
    }

    /// Drops exactly `n` bytes if that is what is left.
    fn skip_padding(&mut self, n: usize) {
        if self.0.len() == n {
            self.0 = &[];
        }
    }
}
