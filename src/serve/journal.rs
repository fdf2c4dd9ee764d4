// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What has happened: the last events, those who want to hear of the next, and counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{Event, EventKind, FunctionId, Side};

/// Events that are kept.
const KEPT: usize = 10_000;
/// Events that a follower may be behind; what comes then is lost to it, and it is told how many.
const BEHIND: usize = 1024;

/// Where every event is written to, as a JSON line.
pub type Trace = Box<dyn Write + Send>;

/// An event as a JSON line without its end, with its number.
pub(super) type Line = (u64, Arc<str>);

/// Shared by the thread that reads the events and the clients. Cheap to clone.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    lines: VecDeque<Line>,
    next: u64,
    followers: Vec<Follower>,
    up: BTreeSet<FunctionId>,
    messages: BTreeMap<String, BTreeMap<String, u64>>,
}

struct Follower {
    to: SyncSender<Told>,
    lost: u64,
}

/// What a follower hears.
#[derive(Debug)]
pub(super) enum Told {
    Event(Arc<str>),
    /// So many events did not fit.
    Lost(u64),
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all events until the last sink is gone. One that cannot be written to `trace` ends the trace with a line in
    /// the log.
    pub fn follow(&self, events: &Receiver<Event>, mut trace: Option<Trace>) {
        for event in events {
            let line = match serde_json::to_string(&event) {
                Ok(line) => line,
                Err(error) => {
                    log::error!("event {} cannot be written down: {error}", event.number);
                    continue;
                }
            };
            if let Some(to) = &mut trace {
                let written = writeln!(to, "{line}").and_then(|()| to.flush());
                if let Err(error) = written {
                    log::error!("the trace ends at event {}: {error}", event.number);
                    trace = None;
                }
            }
            self.add(&event, line.into());
        }
    }

    fn add(&self, event: &Event, line: Arc<str>) {
        let mut inner = self.lock();
        match &event.kind {
            EventKind::Connection { function, up, .. } => {
                if *up {
                    inner.up.insert(*function);
                } else {
                    inner.up.remove(function);
                }
            }
            EventKind::Wire(message) => {
                let from = match message.from {
                    Side::Qemu => "",
                    Side::Backend => "@reply",
                };
                let name = format!("{}{from}", message.message);
                let of = inner.messages.entry(message.function.to_string());
                *of.or_default().entry(name).or_default() += 1;
            }
            _ => {}
        }
        inner.next = event.number.saturating_add(1);
        inner.followers.retain_mut(|follower| follower.tell(&line));
        inner.lines.push_back((event.number, line));
        if inner.lines.len() > KEPT {
            inner.lines.pop_front();
        }
    }

    /// Up to `most` of the kept events from number `from` on, and the number to ask from next.
    pub(super) fn read(&self, from: u64, most: usize) -> (Vec<Line>, u64) {
        let inner = self.lock();
        let lines = inner.lines.iter().filter(|(number, _)| *number >= from);
        let lines: Vec<Line> = lines.take(most).cloned().collect();
        let next = match lines.last() {
            Some((number, _)) => number.saturating_add(1),
            None => inner.next.max(from),
        };
        (lines, next)
    }

    /// The kept events from `from` on and, without a gap, those to come.
    pub(super) fn subscribe(&self, from: u64) -> (Vec<Line>, Receiver<Told>) {
        let (to, receiver) = sync_channel(BEHIND);
        let mut inner = self.lock();
        let lines = inner.lines.iter().filter(|(number, _)| *number >= from);
        let lines = lines.cloned().collect();
        inner.followers.push(Follower { to, lost: 0 });
        (lines, receiver)
    }

    /// Functions that are connected.
    pub(super) fn connected(&self) -> Vec<FunctionId> {
        self.lock().up.iter().copied().collect()
    }

    /// Messages by function and name.
    pub(super) fn messages(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.lock().messages.clone()
    }

    /// The number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.lock().next
    }
}

impl Follower {
    /// `false`: it has gone.
    fn tell(&mut self, line: &Arc<str>) -> bool {
        if self.lost > 0 {
            match self.to.try_send(Told::Lost(self.lost)) {
                Ok(()) => self.lost = 0,
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.to.try_send(Told::Event(Arc::clone(line))) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}
