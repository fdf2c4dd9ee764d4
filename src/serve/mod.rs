// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The back end without a run: somebody else starts QEMU, and says over a control socket what is done when.
//!
//! [`Desk`] does what is asked for, [`Server`] is the socket, [`Client`] its other end, [`protocol`] the language between
//! them, [`Journal`] what has happened. This room is above [`run`](crate::run), whose shell commands it uses, and below
//! the command line; the judge is not asked here.

mod client;
mod desk;
mod handed;
mod journal;
pub mod protocol;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use desk::{BackEnd, Desk, DeskConfig, Foreign};
pub use handed::{Handed, HandedError, notify};
pub use journal::{Journal, Trace};
pub use server::{MAX_CLIENTS, Server};
