// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole messages over a stream socket, with the file descriptors that travel beside them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::message::{DecodeError, Header, MAX_FDS, name_of};

/// A message as it came: header, payload bytes, and its file descriptors, which are closed when this is dropped.
#[derive(Debug)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// The payload, as long as the header says.
    pub body: Vec<u8>,
    /// What came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Why no whole message could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other end closed the connection between two messages.
    #[error("closed by the other end")]
    Closed,
    /// The other end closed the connection within a message.
    #[error("closed by the other end in the middle of a message")]
    Truncated,
    /// What came is not a message.
    #[error("malformed message")]
    Decode(#[from] DecodeError),
    /// The socket failed.
    #[error("socket failed")]
    Io(#[from] std::io::Error),
}

impl From<Errno> for StreamError {
    fn from(errno: Errno) -> Self {
        StreamError::Io(errno.into())
    }
}

/// Reads one message. Blocks until it is whole, or until the socket is shut down, which gives an error.
///
/// # Errors
/// After any error the stream is out of step and has to be closed.
pub fn read_frame(socket: &UnixStream) -> Result<Frame, StreamError> {
    let mut fds = Vec::new();
    let mut head = [0; Header::SIZE];
    fill(socket, &mut head, &mut fds, true)?;
    let header = Header::parse(&head)?;
    // At most MAX_PAYLOAD, Header::parse sees to that.
    let mut body = vec![0; usize::try_from(header.size).unwrap_or(0)];
    fill(socket, &mut body, &mut fds, false)?;
    if fds.len() > MAX_FDS {
        return Err(too_many(&header, fds.len()).into());
    }
    Ok(Frame { header, body, fds })
}

fn too_many(header: &Header, got: usize) -> DecodeError {
    DecodeError::Fds {
        message: name_of(header.code),
        least: 0,
        most: MAX_FDS,
        got,
    }
}

/// Reads exactly `buffer`. File descriptors are attached to some byte of a message, so each piece may bring some.
fn fill(
    socket: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    first: bool,
) -> Result<(), StreamError> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let result = match recvmsg(
            socket,
            &mut [IoSliceMut::new(rest)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => continue,
            Err(Errno::CONNRESET) if first && done == 0 => return Err(StreamError::Closed),
            other => other?,
        };
        // Take them out before anything else: taken, they are closed on every way out.
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if result.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            // The header is not known yet when this happens in its first byte.
            return Err(too_many(
                &Header {
                    code: 0,
                    flags: 0,
                    size: 0,
                },
                fds.len(),
            )
            .into());
        }
        if result.bytes == 0 {
            return Err(if first && done == 0 {
                StreamError::Closed
            } else {
                StreamError::Truncated
            });
        }
        done += result.bytes;
    }
    Ok(())
}

/// Writes one message with its file descriptors, which stay the caller's. Blocks until it is written, or until the
/// socket is shut down, which gives an error.
pub fn write_frame(
    socket: &UnixStream,
    header: &Header,
    body: &[u8],
    fds: &[OwnedFd],
) -> Result<(), StreamError> {
    let mut bytes = Vec::with_capacity(Header::SIZE + body.len());
    bytes.extend(header.encode());
    bytes.extend(body);
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut rest = bytes.as_slice();
    let mut attach = borrowed.as_slice();
    while !rest.is_empty() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !attach.is_empty() && !control.push(SendAncillaryMessage::ScmRights(attach)) {
            return Err(too_many(header, attach.len()).into());
        }
        match sendmsg(
            socket,
            &[IoSlice::new(rest)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(0) => return Err(StreamError::Closed),
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or(&[]);
                // They went with the first byte.
                attach = &[];
            }
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(StreamError::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
