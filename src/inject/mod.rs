// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's half of a schedule: it fires the unplug where a step says so, holds vhost-user messages, and lets go of the
//! guest's tasks that wait for a message. Call points are held by the guest's module itself
//! ([`guest::plan`](crate::guest::plan)).

mod wait;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::arch::Arch;
use crate::device::{Mailbox, MailboxError, OnReport};
use crate::event::{
    EventKind, EventSink, FunctionId, GuestRecord, HoldEnd, Observation, Role, Side, Target,
    WireMessage,
};
use crate::guest::observations::{Missed, Observations};
use crate::guest::plan::Plan;
use crate::guest::proto::{UnplugAction, decode_report, encode_unplug};
use crate::host::chain;
use crate::qemu::slot::Slot;
use crate::qemu::zpci::Zpci;
use crate::scenario::{Actuator, At, Hold, Point, Schedule, Step, Unplug, Until, What, WirePhase};
use crate::wire::WireHook;

use wait::OtherSide;

/// What makes a hotplug slot lose its card.
pub trait SlotActuator: Send + Sync {
    /// Without warning. Blocks for some milliseconds.
    fn surprise_remove(&self) -> Result<(), String>;
    /// By its attention button.
    fn press_button(&self) -> Result<(), String>;
}

impl SlotActuator for Arc<Slot> {
    fn surprise_remove(&self) -> Result<(), String> {
        Slot::surprise_remove(self, SLOT).map_err(|error| chain(&error))
    }

    fn press_button(&self) -> Result<(), String> {
        Slot::press_button(self, SLOT).map_err(|error| chain(&error))
    }
}

/// What unplugs a single function.
pub trait PlatformActuator: Send + Sync {
    /// Asks the guest for it. Blocks for some milliseconds.
    fn unplug(&self, function: FunctionId) -> Result<(), String>;
    /// Asks for all VFs, the first one first, without waiting for the guest in between.
    fn unplug_vfs(&self) -> Result<(), String>;
}

impl PlatformActuator for Arc<Zpci> {
    fn unplug(&self, function: FunctionId) -> Result<(), String> {
        match Zpci::unplug(self, function, SLOT) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{function} is not plugged in")),
            Err(error) => Err(chain(&error)),
        }
    }

    fn unplug_vfs(&self) -> Result<(), String> {
        Zpci::unplug_vfs(self, SLOT).map_err(|error| chain(&error))
    }
}

/// For QEMU to answer; it does so in milliseconds unless a message is held, which has a bound of its own.
const SLOT: Duration = Duration::from_secs(15);

/// An unplug that could not be ordered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OrderError {
    /// Over the mailbox.
    #[error("the guest's mailbox does not take it")]
    Mailbox(#[from] MailboxError),
    /// At the slot.
    #[error("the slot does not do it: {0}")]
    Slot(String),
    /// By the platform.
    #[error("the platform does not do it: {0}")]
    Platform(String),
    /// This machine cannot do it.
    #[error("this machine has no actuator `{0}`")]
    NoActuator(&'static str),
}

/// What is armed in a round.
struct Armed {
    schedule: Schedule,
    plan: Plan,
    unplug: Option<Unplug>,
    /// Steps whose place was reached.
    reached: Vec<bool>,
    /// Records of the guest before the round.
    from: usize,
}

/// The hook that the taps call for every message, and that is told every record of the guest. It does nothing until it
/// is armed.
pub struct Injector {
    events: EventSink,
    seen: Observations,
    me: Weak<Self>,
    mailbox: OnceLock<Mailbox>,
    slot: OnceLock<Box<dyn SlotActuator>>,
    platform: OnceLock<Box<dyn PlatformActuator>>,
    armed: Mutex<Option<Armed>>,
    /// A message that comes while nothing is armed must not take a lock.
    is_armed: AtomicBool,
    stopped: AtomicBool,
    fired: AtomicU32,
    failed: Mutex<Option<OrderError>>,
}

impl Injector {
    /// An injector that reports to `events` and watches what the guest observes.
    pub fn new(events: EventSink, seen: Observations) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            events,
            seen,
            me: me.clone(),
            mailbox: OnceLock::new(),
            slot: OnceLock::new(),
            platform: OnceLock::new(),
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

    /// Says which slot the unplugs of a slot are about. The first call counts.
    pub fn connect_slot(&self, slot: Box<dyn SlotActuator>) {
        let _ = self.slot.set(slot);
    }

    /// Says who unplugs single functions: a guest of s390x has such a platform. The first call counts.
    pub fn connect_platform(&self, platform: Box<dyn PlatformActuator>) {
        let _ = self.platform.set(platform);
    }

    /// From now on the places of `schedule` act, each once. The guest has to know `plan`, which was made from the same
    /// schedule.
    pub fn arm(&self, schedule: Schedule, plan: Plan, unplug: Option<Unplug>) {
        let reached = vec![false; schedule.steps.len()];
        *self.lock() = Some(Armed {
            schedule,
            plan,
            unplug,
            reached,
            from: self.seen.mark(),
        });
        self.is_armed.store(true, Ordering::Release);
    }

    /// Nothing acts any more.
    pub fn disarm(&self) {
        self.is_armed.store(false, Ordering::Release);
        *self.lock() = None;
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
    pub fn failure(&self) -> Option<OrderError> {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Orders the unplug of the round now. For a schedule in which it goes first.
    pub fn fire_now(&self) {
        let unplug = self.lock().as_ref().and_then(|armed| armed.unplug);
        if let Some(unplug) = unplug {
            self.fire(&unplug);
        }
    }

    /// What takes the guest's reports for a back end: each becomes an event, an observation, and is looked at here.
    pub fn on_report(self: &Arc<Self>) -> OnReport {
        let me = Arc::clone(self);
        Box::new(move |bytes| match decode_report(bytes) {
            Ok(record) => {
                me.events.emit(EventKind::Guest(record.clone()));
                me.seen.push(record.clone());
                me.on_record(&record);
            }
            Err(error) => log::warn!("a report of the guest does not decode: {error}"),
        })
    }

    /// Takes a record of the guest, in order, from the thread that reads them.
    pub fn on_record(&self, record: &GuestRecord) {
        if !self.is_armed.load(Ordering::Acquire) {
            return;
        }
        match &record.what {
            Observation::Point { point } => self.call_point(point),
            Observation::Task { .. } => self.side_started(Role::Teardown),
            Observation::UnplugSeen { .. } => self.side_started(Role::Unplug),
            _ => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest is at a call point; if the step there fires, the unplug is ordered. A hold there is the guest's.
    fn call_point(&self, text: &str) {
        let mut armed = self.lock();
        let Some(armed) = armed.as_mut() else { return };
        let at = armed.schedule.steps.iter().position(
            |step| matches!(&step.at, At::Point(point) if !point.is_wire() && point.to_string() == text),
        );
        let step = at.and_then(|at| {
            let reached = armed.reached.get_mut(at)?;
            let first = !std::mem::replace(reached, true);
            armed.schedule.steps.get(at).filter(|_| first)
        });
        let fires = step.is_some_and(|step| step.fire) && armed.schedule.first == Role::Teardown;
        if let Some(unplug) = armed.unplug.filter(|_| fires) {
            self.fire(&unplug);
        }
    }

    /// A side has begun: the clocks of the steps that count from there run.
    fn side_started(&self, side: Role) {
        let mut armed = self.lock();
        let Some(armed) = armed.as_mut() else { return };
        // If the unplug goes first, it is the teardown that is due then, and not started from here.
        if armed.schedule.first == Role::Unplug {
            return;
        }
        for (step, reached) in armed.schedule.steps.iter().zip(&mut armed.reached) {
            let At::Time { role, after } = step.at else {
                continue;
            };
            if role != side || !step.fire || std::mem::replace(reached, true) {
                continue;
            }
            let (Some(unplug), Some(me)) = (armed.unplug, self.me.upgrade()) else {
                continue;
            };
            let (from, text) = (armed.from, step.to_string());
            let due = Instant::now() + after;
            let timer = std::thread::Builder::new()
                .name("schedule".into())
                .spawn(move || me.fire_at(due, from, &unplug, text));
            if let Err(error) = timer {
                self.fail(OrderError::Slot(format!(
                    "no thread for its clock: {error}"
                )));
            }
        }
    }

    fn fire_at(&self, due: Instant, round: usize, unplug: &Unplug, point: String) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // The round that the clock was set for may be over.
        if self
            .lock()
            .as_ref()
            .is_some_and(|armed| armed.from == round)
        {
            self.events.emit(EventKind::PointReached { point });
            self.fire(unplug);
        }
    }

    /// The step at this message, if it is the first time; and the guest's tasks that wait for the message are let go.
    fn take_if_at(&self, message: &WireMessage) -> Option<(Step, Option<Unplug>, usize)> {
        if !self.is_armed.load(Ordering::Acquire) {
            return None;
        }
        let mut armed = self.lock();
        let armed = armed.as_mut()?;
        for (id, point) in armed.plan.waits_for_wire() {
            if is_at(point, message) {
                self.release(id);
            }
        }
        let at = armed
            .schedule
            .steps
            .iter()
            .position(|step| matches!(&step.at, At::Point(point) if is_at(point, message)))?;
        let reached = armed.reached.get_mut(at)?;
        if std::mem::replace(reached, true) {
            return None;
        }
        let fires = armed.schedule.first == Role::Teardown;
        let step = armed.schedule.steps.get(at)?.clone();
        let unplug = armed.unplug.filter(|_| step.fire && fires);
        Some((step, unplug, armed.from))
    }

    fn release(&self, point: u32) {
        let sent = self
            .mailbox
            .get()
            .map(|mailbox| mailbox.send_unplug(&encode_unplug(0, UnplugAction::Release, point)));
        if let Some(Err(error)) = sent {
            // The hold in the guest has its own bound and is marked when it runs into it.
            log::warn!("a held task of the guest could not be let go: {error}");
        }
    }

    fn fail(&self, error: OrderError) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.seen.nudge();
    }

    /// Orders an unplug. Returns its number.
    fn fire(&self, unplug: &Unplug) -> Option<u32> {
        let number = self.fired.fetch_add(1, Ordering::AcqRel) + 1;
        let by_zpci = self.platform.get().is_some() && unplug.by_zpci(Arch::S390x);
        let ordered = match unplug.actuator {
            _ if by_zpci => self.platform(unplug),
            Actuator::PciehpSurprise | Actuator::PciehpButton => self.slot(unplug.actuator),
            _ => self
                .mailbox
                .get()
                .ok_or(MailboxError::NotConnected)
                .and_then(|mailbox| {
                    mailbox.send_unplug(&encode_unplug(number, UnplugAction::Act, 0))
                })
                .map_err(OrderError::Mailbox),
        };
        match ordered {
            Ok(()) => {
                self.events.emit(EventKind::UnplugFired {
                    actuator: unplug.actuator.name().to_owned(),
                    target: unplug.target,
                    number,
                });
                Some(number)
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Orders it over QMP, on a thread of its own: this one may be holding a message, and QEMU does not answer then.
    fn platform(&self, unplug: &Unplug) -> Result<(), OrderError> {
        let missing = || OrderError::NoActuator(unplug.actuator.name());
        let target = unplug.target;
        if target == Target::Slot {
            return Err(missing());
        }
        let me = self.me.upgrade().ok_or_else(missing)?;
        std::thread::Builder::new()
            .name("platform".into())
            .spawn(move || {
                let done = me.platform.get().and_then(|it| match target {
                    Target::Function(function) => Some(it.unplug(function)),
                    Target::Vfs => Some(it.unplug_vfs()),
                    Target::Slot => None,
                });
                if let Some(Err(error)) = done {
                    me.fail(OrderError::Platform(error));
                }
            })
            .map(|_| ())
            .map_err(|error| OrderError::Platform(format!("no thread for it: {error}")))
    }

    /// Orders it at the slot, on a thread of its own: this one may be holding a message, and QEMU does not answer then.
    fn slot(&self, actuator: Actuator) -> Result<(), OrderError> {
        let me = self
            .me
            .upgrade()
            .filter(|me| me.slot.get().is_some())
            .ok_or(OrderError::NoActuator(actuator.name()))?;
        std::thread::Builder::new()
            .name("slot".into())
            .spawn(move || {
                let done = match (me.slot.get(), actuator) {
                    (Some(slot), Actuator::PciehpButton) => slot.press_button(),
                    (Some(slot), _) => slot.surprise_remove(),
                    (None, _) => Ok(()),
                };
                if let Err(error) = done {
                    me.fail(OrderError::Slot(error));
                }
            })
            .map(|_| ())
            .map_err(|error| OrderError::Slot(format!("no thread for it: {error}")))
    }

    /// Holds the message at `point`.
    fn hold(&self, point: &Point, hold: &Hold, other: &mut OtherSide, from: usize) {
        let name = point.to_string();
        self.events.emit(EventKind::HoldBegan {
            point: name.clone(),
            until: hold.until.to_string(),
        });
        let began = Instant::now();
        let stopped = || {
            if self.stopped.load(Ordering::Acquire) {
                Err(())
            } else {
                Ok(())
            }
        };
        let waited = self.seen.wait(from, hold.at_most, stopped, |record| {
            other.take(record, &hold.until)
        });
        let end = match waited {
            Ok(end) => end,
            Err(Missed::Late) if hold.until == Until::Time => HoldEnd::Reached,
            Err(Missed::Late) => HoldEnd::Bound,
            Err(Missed::Stopped(())) => HoldEnd::Stopped,
        };
        self.events.emit(EventKind::HoldEnded {
            point: name,
            held_ns: nanoseconds(began.elapsed()),
            end,
        });
    }
}

impl WireHook for Injector {
    fn on_message(&self, message: &WireMessage) {
        let Some((step, unplug, round)) = self.take_if_at(message) else {
            return;
        };
        let At::Point(point) = &step.at else { return };
        self.events.emit(EventKind::PointReached {
            point: point.to_string(),
        });
        let target = unplug.and_then(|unplug| unplug.target.function());
        let number = unplug.and_then(|unplug| self.fire(&unplug));
        if unplug.is_some() && number.is_none() {
            return;
        }
        if let Some(hold) = &step.hold {
            let mut other = OtherSide::new(target);
            self.hold(point, hold, &mut other, round);
        }
    }

    fn on_stop(&self) {
        self.stop();
    }
}

fn is_at(point: &Point, message: &WireMessage) -> bool {
    let What::Wire {
        message: name,
        phase,
    } = &point.what
    else {
        return false;
    };
    let from = match phase {
        WirePhase::Request => Side::Qemu,
        WirePhase::Reply => Side::Backend,
    };
    point
        .function
        .is_none_or(|function| message.function == function)
        && message.from == from
        && message.nth == point.nth
        && message.message == *name
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
