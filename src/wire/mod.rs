// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tap between QEMU's vhost-user sockets and the daemons of this program.
//!
//! [`Tap`] owns one public socket, the one that QEMU's chardev of one function connects to. For each connection it asks
//! a [`Daemon`] for a stream to the back end proper, relays both ways with file descriptors passed on, decodes every
//! message ([`Payload`]), emits it as an event and calls a [`WireHook`] before it goes on. A hook that blocks holds
//! the message, and with it whoever waits for it.
//!
//! This room knows nothing about devices. What a message means is the specification's: QEMU docs/interop/vhost-user.rst.

mod message;
mod payload;
mod stream;
mod tap;
#[cfg(test)]
mod tests;

pub use message::{
    DecodeError, Header, MAX_FDS, MAX_PAYLOAD, code, code_of, decode, name_of, names,
};
pub use payload::{Payload, Region};
pub use stream::{Frame, StreamError, read_frame, write_frame};
pub use tap::{Daemon, Session, Tap, TapError, WireHook};
