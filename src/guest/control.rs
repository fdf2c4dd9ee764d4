// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Telling the guest what to do, and hearing that it is done.

use std::time::Duration;

use crate::device::{Mailbox, MailboxError};
use crate::event::Observation;
use crate::guest::observations::{Missed, Observations};
use crate::guest::proto::{CommandKind, ProtoError, encode_command};

/// A command that did not get through.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It does not fit the protocol.
    #[error("the command cannot be written down")]
    Encode(#[from] ProtoError),
    /// The mailbox does not take it.
    #[error("the guest's mailbox does not take the command")]
    Mailbox(#[from] MailboxError),
}

/// A command that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number, as in [`Observation::Done`].
    pub id: u32,
    /// Observations before it.
    mark: usize,
}

/// The host's end of the command queue. One per run.
pub struct Control {
    mailbox: Mailbox,
    seen: Observations,
    next: u32,
}

impl Control {
    /// Commands go over `mailbox`; what comes back is in `seen`.
    pub fn new(mailbox: Mailbox, seen: Observations) -> Self {
        Self {
            mailbox,
            seen,
            next: 0,
        }
    }

    /// Sends a command and does not wait for it.
    pub fn send(&mut self, kind: CommandKind, text: &str) -> Result<Sent, ControlError> {
        self.next += 1;
        let sent = Sent {
            id: self.next,
            mark: self.seen.mark(),
        };
        self.mailbox
            .send_command(&encode_command(sent.id, kind, text)?)?;
        Ok(sent)
    }

    /// The wait for a command, apart from the control so that the caller can use its machine meanwhile.
    pub fn waiting(&self, sent: Sent) -> Waiting {
        Waiting {
            sent,
            seen: self.seen.clone(),
        }
    }
}

/// A command that may still be running.
#[derive(Clone, Debug)]
pub struct Waiting {
    sent: Sent,
    seen: Observations,
}

impl Waiting {
    /// Waits until the guest says that the command has ended: its exit status and what it printed.
    pub fn done<E>(
        self,
        limit: Duration,
        check: impl FnMut() -> Result<(), E>,
    ) -> Result<(i32, String), Missed<E>> {
        let Sent { id, mark } = self.sent;
        let mut output = String::new();
        let status = self
            .seen
            .wait(mark, limit, check, |record| match &record.what {
                Observation::Output { command, text } if *command == id => {
                    output.push_str(text);
                    output.push('\n');
                    None
                }
                Observation::Done { command, status } if *command == id => Some(*status),
                _ => None,
            })?;
        Ok((status, output))
    }
}
