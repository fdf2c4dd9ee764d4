// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-user messages: names, payloads, limits. Pure: bytes in, values out.
//!
//! Source: QEMU docs/interop/vhost-user.rst, "Message Specification", "Front-end message types" (QEMU 11.1). The 45
//! messages of that table are known; any other code is passed through as [`Payload::Opaque`].

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::payload::{Cursor, NO_FD, Payload, Shape};
use crate::event::Side;

/// Largest payload that is accepted, bytes. The specification sets no limit; this is the one of the `vhost` crate
/// (`MAX_MSG_SIZE`, 0.18), which is behind the tap, so that nothing larger could get through anyway.
pub const MAX_PAYLOAD: u32 = 4096;

/// Most file descriptors with one message: `MAX_ATTACHED_FD_ENTRIES` of the `vhost` crate 0.18. QEMU sends 8 at most.
pub const MAX_FDS: usize = 32;

/// Message codes that the tap or its users single out.
pub mod code {
    /// SET_FEATURES.
    pub const SET_FEATURES: u32 = 2;
    /// RESET_OWNER.
    pub const RESET_OWNER: u32 = 4;
    /// SET_MEM_TABLE.
    pub const SET_MEM_TABLE: u32 = 5;
    /// GET_VRING_BASE.
    pub const GET_VRING_BASE: u32 = 11;
    /// SET_VRING_KICK.
    pub const SET_VRING_KICK: u32 = 12;
    /// SET_VRING_CALL.
    pub const SET_VRING_CALL: u32 = 13;
    /// SET_VRING_ERR.
    pub const SET_VRING_ERR: u32 = 14;
    /// SET_VRING_ENABLE.
    pub const SET_VRING_ENABLE: u32 = 18;
    /// RESET_DEVICE.
    pub const RESET_DEVICE: u32 = 34;
}

use Shape::{
    Addr, Config, Empty, Inflight, Iotlb, Log, Memory, Opaque, Shmem, State, Transfer, U64, Uuid,
    VringFd,
};

/// Name, payload of the request, payloads that an answer may have, file descriptors of request and answer (`None`:
/// depends on the payload). Index = code. Any message sent with NEED_REPLY may be answered with a u64.
type Row = (
    &'static str,
    Shape,
    &'static [Shape],
    Option<(usize, usize)>,
    (usize, usize),
);

const ACK: &[Shape] = &[U64];
const NO: Option<(usize, usize)> = Some((0, 0));
const ONE: Option<(usize, usize)> = Some((1, 1));

#[rustfmt::skip]
const TABLE: [Row; 45] = [
    ("REQUEST_0", Opaque, &[Opaque], Some((0, MAX_FDS)), (0, MAX_FDS)),
    ("GET_FEATURES", Empty, ACK, NO, (0, 0)),
    ("SET_FEATURES", U64, ACK, NO, (0, 0)),
    ("SET_OWNER", Empty, ACK, NO, (0, 0)),
    ("RESET_OWNER", Empty, ACK, NO, (0, 0)),
    ("SET_MEM_TABLE", Memory, &[U64, Memory], None, (0, 0)),
    ("SET_LOG_BASE", Log, &[U64, Empty, Log], Some((0, 1)), (0, 0)),
    ("SET_LOG_FD", Empty, ACK, ONE, (0, 0)),
    ("SET_VRING_NUM", State, ACK, NO, (0, 0)),
    ("SET_VRING_ADDR", Addr, ACK, NO, (0, 0)),
    ("SET_VRING_BASE", State, ACK, NO, (0, 0)),
    ("GET_VRING_BASE", State, &[State], NO, (0, 0)),
    ("SET_VRING_KICK", VringFd, ACK, None, (0, 0)),
    ("SET_VRING_CALL", VringFd, ACK, None, (0, 0)),
    ("SET_VRING_ERR", VringFd, ACK, None, (0, 0)),
    ("GET_PROTOCOL_FEATURES", Empty, ACK, NO, (0, 0)),
    ("SET_PROTOCOL_FEATURES", U64, ACK, NO, (0, 0)),
    ("GET_QUEUE_NUM", Empty, ACK, NO, (0, 0)),
    ("SET_VRING_ENABLE", State, ACK, NO, (0, 0)),
    ("SEND_RARP", U64, ACK, NO, (0, 0)),
    ("NET_SET_MTU", U64, ACK, NO, (0, 0)),
    ("SET_BACKEND_REQ_FD", Empty, ACK, ONE, (0, 0)),
    ("IOTLB_MSG", Iotlb, ACK, NO, (0, 0)),
    ("SET_VRING_ENDIAN", State, ACK, NO, (0, 0)),
    ("GET_CONFIG", Config, &[Config, Empty], NO, (0, 0)),
    ("SET_CONFIG", Config, ACK, NO, (0, 0)),
    ("CREATE_CRYPTO_SESSION", Opaque, &[Opaque], NO, (0, 0)),
    ("CLOSE_CRYPTO_SESSION", U64, ACK, NO, (0, 0)),
    ("POSTCOPY_ADVISE", Empty, &[Empty, U64], NO, (0, 1)),
    ("POSTCOPY_LISTEN", Empty, ACK, NO, (0, 0)),
    ("POSTCOPY_END", Empty, ACK, NO, (0, 0)),
    ("GET_INFLIGHT_FD", Inflight, &[Inflight], NO, (0, 1)),
    ("SET_INFLIGHT_FD", Inflight, ACK, ONE, (0, 0)),
    ("GPU_SET_SOCKET", Empty, ACK, ONE, (0, 0)),
    ("RESET_DEVICE", Empty, ACK, NO, (0, 0)),
    ("VRING_KICK", State, ACK, NO, (0, 0)),
    ("GET_MAX_MEM_SLOTS", Empty, ACK, NO, (0, 0)),
    ("ADD_MEM_REG", Shape::Region, &[U64, Shape::Region], ONE, (0, 0)),
    ("REM_MEM_REG", Shape::Region, ACK, Some((0, 1)), (0, 0)),
    ("SET_STATUS", U64, ACK, NO, (0, 0)),
    ("GET_STATUS", Empty, ACK, NO, (0, 0)),
    ("GET_SHARED_OBJECT", Uuid, &[Empty, U64, Uuid], NO, (0, 1)),
    ("SET_DEVICE_STATE_FD", Transfer, ACK, ONE, (0, 1)),
    ("CHECK_DEVICE_STATE", Empty, ACK, NO, (0, 0)),
    ("GET_SHMEM_CONFIG", Empty, &[Shmem, U64], NO, (0, 0)),
];

fn row(code: u32) -> Option<&'static Row> {
    // Code 0 is the specification's "none": it is not a message.
    usize::try_from(code)
        .ok()
        .filter(|&n| n > 0)
        .and_then(|n| TABLE.get(n))
}

/// Name of a message without the VHOST_USER_ prefix, `REQUEST_n` for one that is not in the specification's table.
pub fn name_of(code: u32) -> Cow<'static, str> {
    row(code).map_or_else(
        || Cow::Owned(format!("REQUEST_{code}")),
        |row| Cow::Borrowed(row.0),
    )
}

/// Code of a known message, by the name that [`name_of`] gives.
pub fn code_of(name: &str) -> Option<u32> {
    names()
        .position(|known| known == name)
        .and_then(|n| u32::try_from(n + 1).ok())
}

/// All known names, by code from 1.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().skip(1).map(|row| row.0)
}

/// Bytes that are not a vhost-user message, or not one that makes sense. The connection that they came over is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    #[error("truncated vhost-user header: {got} of 12 bytes")]
    ShortHeader {
        /// Bytes there were.
        got: usize,
    },
    /// Version is not 1, or a reserved flag is set.
    #[error(
        "vhost-user message {code} has flags {flags:#x}: version 1 and no reserved bits are expected"
    )]
    Flags {
        /// Message code.
        code: u32,
        /// The flags.
        flags: u32,
    },
    /// A front end sent an answer, or a back end a request.
    #[error(
        "{message} has the wrong direction: an answer comes from the back end, a request from the front end"
    )]
    Direction {
        /// Name of the message.
        message: Cow<'static, str>,
    },
    /// The payload is larger than [`MAX_PAYLOAD`].
    #[error("{message} announces {size} bytes, more than the {MAX_PAYLOAD} that a back end takes")]
    Oversized {
        /// Name of the message.
        message: Cow<'static, str>,
        /// What its header announces.
        size: u32,
    },
    /// The payload's length does not fit the message.
    #[error("{message} does not have a payload of {got} bytes")]
    Size {
        /// Name of the message.
        message: Cow<'static, str>,
        /// What it came with.
        got: usize,
    },
    /// A field has a value that the specification rules out.
    #[error("{message}: {field} is {value}, which is out of range")]
    Range {
        /// Name of the message.
        message: Cow<'static, str>,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Too few or too many file descriptors.
    #[error("{message} came with {got} file descriptors, expected {least} to {most}")]
    Fds {
        /// Name of the message.
        message: Cow<'static, str>,
        /// Fewest that make sense.
        least: usize,
        /// Most that make sense.
        most: usize,
        /// What it came with.
        got: usize,
    },
}

/// The 12 bytes before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message code.
    pub code: u32,
    /// Flags: bits 0-1 version, bit 2 answer, bit 3 NEED_REPLY.
    pub flags: u32,
    /// Bytes of payload.
    pub size: u32,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 12;
    /// The only version there is.
    pub const VERSION: u32 = 1;
    /// This is an answer.
    pub const REPLY: u32 = 1 << 2;
    /// The sender wants an acknowledgement.
    pub const NEED_REPLY: u32 = 1 << 3;

    /// Reads and checks a header; the direction is checked by [`decode`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor(bytes);
        let (Some(code), Some(flags), Some(size)) = (cursor.u32(), cursor.u32(), cursor.u32())
        else {
            return Err(DecodeError::ShortHeader { got: bytes.len() });
        };
        if flags & !(Self::REPLY | Self::NEED_REPLY) != Self::VERSION {
            return Err(DecodeError::Flags { code, flags });
        }
        if size > MAX_PAYLOAD {
            return Err(DecodeError::Oversized {
                message: name_of(code),
                size,
            });
        }
        Ok(Self { code, flags, size })
    }

    /// A header as it goes over the socket.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (to, from) in bytes
            .chunks_exact_mut(4)
            .zip([self.code, self.flags, self.size])
        {
            to.copy_from_slice(&from.to_le_bytes());
        }
        bytes
    }

    /// Is it an answer?
    pub fn is_reply(&self) -> bool {
        self.flags & Self::REPLY != 0
    }

    /// Is an acknowledgement wanted? An answer never wants one.
    pub fn needs_reply(&self) -> bool {
        self.flags & Self::NEED_REPLY != 0 && !self.is_reply()
    }
}

/// Decodes the payload of a message from `from` that came with `fds` file descriptors.
///
/// # Errors
/// Any [`DecodeError`] but `ShortHeader`; never panics, whatever the bytes are.
pub fn decode(
    header: &Header,
    from: Side,
    body: &[u8],
    fds: usize,
) -> Result<Payload, DecodeError> {
    let message = || name_of(header.code);
    if header.is_reply() != (from == Side::Backend) {
        return Err(DecodeError::Direction { message: message() });
    }
    let Some((_, request, answers, request_fds, answer_fds)) = row(header.code) else {
        return Ok(Payload::Opaque(body.to_vec()));
    };
    let single = [*request];
    let shapes: &[Shape] = if header.is_reply() { answers } else { &single };
    let payload = shapes
        .iter()
        .find_map(|shape| shape.read(body))
        .ok_or_else(|| DecodeError::Size {
            message: message(),
            got: body.len(),
        })?;
    if let Payload::VringFd(value) = payload {
        if value & !(NO_FD | 0xff) != 0 {
            return Err(DecodeError::Range {
                message: message(),
                field: "the vring's word",
                value,
            });
        }
    }
    if let (Payload::State { index, .. } | Payload::Addr { index, .. }, 256..) =
        (&payload, payload.vring().unwrap_or(0))
    {
        // SET_VRING_KICK has 8 bits for the index, so there is no 257th vring.
        return Err(DecodeError::Range {
            message: message(),
            field: "the vring",
            value: u64::from(*index),
        });
    }
    let expected = expected_fds(header.is_reply(), &payload, *request_fds, *answer_fds);
    if !expected.contains(&fds) {
        let (least, most) = expected.into_inner();
        return Err(DecodeError::Fds {
            message: message(),
            least,
            most,
            got: fds,
        });
    }
    Ok(payload)
}

fn expected_fds(
    reply: bool,
    payload: &Payload,
    request: Option<(usize, usize)>,
    answer: (usize, usize),
) -> RangeInclusive<usize> {
    let (least, most) = match (reply, request, payload) {
        (true, ..) => answer,
        (false, Some(range), _) => range,
        (false, None, Payload::Memory(regions)) => (regions.len(), regions.len()),
        (false, None, Payload::VringFd(value)) if value & NO_FD != 0 => (0, 0),
        (false, None, _) => (1, 1),
    };
    least..=most
}
