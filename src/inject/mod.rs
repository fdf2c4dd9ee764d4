// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! At a trigger point: fire the unplug, hold the message until the other side is where the scenario wants it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::device::{Mailbox, MailboxError};
use crate::event::{
    EventKind, EventSink, FunctionId, GuestRecord, HoldEnd, Observation, Side, WireMessage,
};
use crate::guest::observations::{Missed, Observations};
use crate::guest::proto::{UnplugAction, encode_unplug};
use crate::scenario::{Actuator, HoldUntil, Point, Unplug, WirePhase};
use crate::wire::WireHook;

/// The hook that the taps call for every message. It does nothing until it is armed.
pub struct Injector {
    events: EventSink,
    seen: Observations,
    mailbox: OnceLock<Mailbox>,
    armed: Mutex<Option<Unplug>>,
    /// A message that comes while nothing is armed must not take a lock.
    is_armed: AtomicBool,
    stopped: AtomicBool,
    fired: AtomicU32,
    failed: Mutex<Option<MailboxError>>,
}

impl Injector {
    /// An injector that reports to `events` and watches what the guest observes.
    pub fn new(events: EventSink, seen: Observations) -> Arc<Self> {
        Arc::new(Self {
            events,
            seen,
            mailbox: OnceLock::new(),
            armed: Mutex::default(),
            is_armed: AtomicBool::default(),
            stopped: AtomicBool::default(),
            fired: AtomicU32::default(),
            failed: Mutex::default(),
        })
    }

    /// Says over which mailbox unplugs are ordered. The first call counts.
    pub fn connect(&self, mailbox: Mailbox) {
        // A second call would be the same mailbox: one back end has one.
        let _ = self.mailbox.set(mailbox);
    }

    /// From now on the next message at the unplug's point fires it, once.
    pub fn arm(&self, unplug: Unplug) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(unplug);
        self.is_armed.store(true, Ordering::Release);
    }

    /// No message fires anything any more.
    pub fn disarm(&self) {
        self.is_armed.store(false, Ordering::Release);
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends every hold and lets no new one begin: the run is over.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.disarm();
        self.seen.nudge();
    }

    /// Number of the last unplug that was ordered, 0 if none was.
    pub fn fired(&self) -> u32 {
        self.fired.load(Ordering::Acquire)
    }

    /// An order that did not get through.
    pub fn failure(&self) -> Option<MailboxError> {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn take_if_at(&self, message: &WireMessage) -> Option<Unplug> {
        if !self.is_armed.load(Ordering::Acquire) {
            return None;
        }
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if armed
            .as_ref()
            .is_some_and(|unplug| is_at(&unplug.at, message))
        {
            armed.take()
        } else {
            None
        }
    }

    fn fire(&self, unplug: &Unplug) -> Result<u32, MailboxError> {
        let number = self.fired.fetch_add(1, Ordering::AcqRel) + 1;
        let (actuator, action) = match unplug.actuator {
            Actuator::Platform => ("platform", UnplugAction::Platform),
        };
        let index = unplug.target.vf_index().unwrap_or_default();
        let mailbox = self.mailbox.get().ok_or(MailboxError::NotConnected)?;
        mailbox.send_unplug(&encode_unplug(number, action, index.into()))?;
        self.events.emit(EventKind::UnplugFired {
            actuator: actuator.to_owned(),
            target: unplug.target,
            number,
        });
        Ok(number)
    }

    fn hold(&self, unplug: &Unplug, number: u32, from: usize) {
        let (until, at_most) = (unplug.hold.until, unplug.hold.at_most);
        if until == HoldUntil::None {
            return;
        }
        let point = unplug.at.to_string();
        self.events.emit(EventKind::HoldBegan {
            point: point.clone(),
            until: describe(until).to_owned(),
        });
        let began = Instant::now();
        let mut committed = Committed {
            number,
            target: unplug.target,
            handler: None,
        };
        let stopped = || {
            if self.stopped.load(Ordering::Acquire) {
                Err(())
            } else {
                Ok(())
            }
        };
        let waited = self
            .seen
            .wait(from, at_most, stopped, |record| match until {
                HoldUntil::None | HoldUntil::Time => None,
                HoldUntil::UnplugSeen => committed.note(record).map(|_| ()),
                HoldUntil::UnplugCommitted => committed.reached(record).then_some(()),
            });
        let end = match waited {
            Ok(()) => HoldEnd::Reached,
            Err(Missed::Late) if until == HoldUntil::Time => HoldEnd::Reached,
            Err(Missed::Late) => HoldEnd::Bound,
            Err(Missed::Stopped(())) => HoldEnd::Stopped,
        };
        self.events.emit(EventKind::HoldEnded {
            point,
            held_ns: nanoseconds(began.elapsed()),
            end,
        });
    }
}

impl WireHook for Injector {
    fn on_message(&self, message: &WireMessage) {
        let Some(unplug) = self.take_if_at(message) else {
            return;
        };
        self.events.emit(EventKind::PointReached {
            point: unplug.at.to_string(),
        });
        let from = self.seen.mark();
        match self.fire(&unplug) {
            Ok(number) => self.hold(&unplug, number, from),
            Err(error) => *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
        }
    }

    fn on_stop(&self) {
        self.stop();
    }
}

fn is_at(point: &Point, message: &WireMessage) -> bool {
    let from = match point.phase {
        WirePhase::Request => Side::Qemu,
        WirePhase::Reply => Side::Backend,
    };
    message.function == point.function
        && message.from == from
        && message.nth == point.nth
        && message.message == point.message
}

fn describe(until: HoldUntil) -> &'static str {
    match until {
        HoldUntil::None => "nothing",
        HoldUntil::Time => "the time is over",
        HoldUntil::UnplugSeen => "the handler has seen the event",
        HoldUntil::UnplugCommitted => "the handler is past its lookup or waits for the lock",
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Follows the handler's records until it is committed: in its removal body, or waiting for a lock that somebody else
/// holds.
struct Committed {
    number: u32,
    target: FunctionId,
    handler: Option<u32>,
}

impl Committed {
    /// Takes a record in; `Some` once the handler has seen the event.
    fn note(&mut self, record: &GuestRecord) -> Option<u32> {
        if matches!(&record.what, Observation::UnplugSeen { event, .. } if *event == self.number) {
            self.handler = Some(record.pid);
        }
        self.handler
    }

    fn reached(&mut self, record: &GuestRecord) -> bool {
        let Some(handler) = self.note(record) else {
            return false;
        };
        record.pid == handler
            && match &record.what {
                // Past the lookup in pci_iov_remove_virtfn(): this is the body.
                Observation::Enter { call, function, .. } => {
                    call == "pci_stop_and_remove_bus_device" && *function == Some(self.target)
                }
                Observation::LockWait { owner } => *owner != 0 && *owner != handler,
                // There was nothing to remove: no use in waiting on.
                Observation::UnplugDone { event } => *event == self.number,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests;
