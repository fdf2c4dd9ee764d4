// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Does what is asked for over the control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::arch::Arch;
use crate::device::Backend;
use crate::event::{EventKind, EventSink, FunctionId, Observation, Role, Target};
use crate::guest::control::Control;
use crate::guest::observations::{Missed, Observations};
use crate::guest::plan::{Arming, Plan, arming};
use crate::guest::proto::CommandKind;
use crate::host::chain;
use crate::inject::Injector;
use crate::qemu::machine::Places;
use crate::run::steps;
use crate::scenario::{Actuator, Scenario, Schedule, Unplug};
use crate::wire::{Daemon, Session, Tap};

use super::journal::Journal;
use super::protocol::{Kind, MAX_COMMAND, MAX_EVENTS, Refusal, Request, Unplugging};

/// For a command that the guest does at once.
const COMMAND: Duration = Duration::from_secs(30);
/// For one that the user gave, or a teardown, or an unplug.
const TASK: Duration = Duration::from_secs(120);

/// What is behind the sockets.
pub enum BackEnd {
    /// The device of this program.
    Own {
        /// It.
        backend: Backend,
        /// To its guest.
        control: Mutex<Control>,
        /// Where things are in the guest.
        at: Places,
    },
    /// Somebody else's.
    Foreign(Tap),
}

/// What a desk is made of.
pub struct DeskConfig {
    /// The back end.
    pub backend: BackEnd,
    /// Its hook.
    pub injector: Arc<Injector>,
    /// What the guest says.
    pub seen: Observations,
    /// Where events go.
    pub events: EventSink,
    /// Where they end up.
    pub journal: Journal,
    /// What is torn down and brought up; its unplug is what is meant when a request names none.
    pub scenario: Scenario,
    /// Set when the program is to end; a request sets it as well.
    pub stop: Arc<AtomicBool>,
}

/// See the module. Requests come from the threads of the clients.
pub struct Desk {
    config: DeskConfig,
    /// What is armed, with its unplug.
    armed: Mutex<Option<Option<Unplug>>>,
    /// Taken by a request that has the guest do something.
    guest: Mutex<()>,
}

type Answer = Result<Value, Refusal>;

fn usage(text: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Usage, text, hint)
}

fn no_guest() -> Refusal {
    Refusal::new(
        Kind::NoGuest,
        "the guest's module is not connected to the mailbox",
        "boot the kernel and the initramfs that `vfrace serve --kernel` prints, and wait until the guest is up; \
         holds at messages need no module",
    )
}

impl Desk {
    /// A desk at which nothing is armed.
    pub fn new(config: DeskConfig) -> Self {
        Self {
            config,
            armed: Mutex::default(),
            guest: Mutex::default(),
        }
    }

    /// What has happened.
    pub fn journal(&self) -> &Journal {
        &self.config.journal
    }

    /// Does it. Blocks as long as it takes: with the guest's part in it up to some minutes.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Status {} => Ok(self.status()),
            Request::Up {} => self.up(),
            Request::Arm { schedule, unplug } => self.arm(&schedule, unplug),
            Request::Disarm {} => self.disarm(),
            Request::Unplug { target, actuator } => self.unplug(Unplugging { target, actuator }),
            Request::Teardown {} => self.teardown(),
            Request::Exec { command } => self.exec(&command),
            Request::Events { from, .. } => Ok(self.events(from)),
            Request::Counters {} => Ok(self.counters()),
            Request::Stop {} => {
                self.config.stop.store(true, Ordering::Release);
                Ok(json!({ "stopping": true }))
            }
        }
    }

    fn armed(&self) -> MutexGuard<'_, Option<Option<Unplug>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Value {
        let (kind, guest) = match &self.config.backend {
            BackEnd::Own { backend, .. } => ("own", backend.mailbox().is_connected()),
            BackEnd::Foreign(_) => ("foreign", false),
        };
        json!({
            "backend": kind,
            "vfs": self.config.scenario.vfs,
            "scenario": self.config.scenario.name,
            "connected": self.config.journal.connected(),
            "guest": guest,
            "armed": self.armed().is_some(),
            "unplugs": self.config.injector.fired(),
            "events": self.config.journal.next(),
        })
    }

    fn events(&self, from: u64) -> Value {
        let (lines, next) = self.config.journal.read(from, MAX_EVENTS);
        let parsed = lines.iter().map(|(_, line)| serde_json::from_str(line));
        let events: Vec<Value> = parsed.filter_map(Result::ok).collect();
        json!({ "events": events, "next": next })
    }

    fn counters(&self) -> Value {
        let messages = self.config.journal.messages();
        match &self.config.backend {
            BackEnd::Own { backend, .. } => {
                let frames: serde_json::Map<String, Value> = backend
                    .counters()
                    .into_iter()
                    .map(|(function, counters)| (function.to_string(), json!(counters)))
                    .collect();
                json!({ "messages": messages, "frames": frames, "switch": backend.switch_counters() })
            }
            BackEnd::Foreign(_) => json!({ "messages": messages }),
        }
    }

    /// The guest, for one request at a time.
    fn guest(&self) -> Result<Guest<'_>, Refusal> {
        let busy = match self.guest.try_lock() {
            Ok(busy) => busy,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Refusal::new(
                    Kind::Busy,
                    "the guest is doing what another client asked for",
                    "wait for that, or `vfrace ctl disarm` from another terminal if it is held",
                ));
            }
        };
        match &self.config.backend {
            BackEnd::Own {
                backend,
                control,
                at,
            } if backend.mailbox().is_connected() => Ok(Guest {
                desk: self,
                control,
                at: *at,
                _busy: busy,
            }),
            _ => Err(no_guest()),
        }
    }

    fn up(&self) -> Answer {
        let (guest, scenario) = (self.guest()?, &self.config.scenario);
        let nothing = Schedule::undirected(false);
        for text in [
            steps::unbind(guest.at, scenario),
            steps::bring_up(guest.at, scenario, &nothing),
        ] {
            guest.must(CommandKind::Exec, &text, "bringing the VFs up", TASK)?;
        }
        Ok(json!({ "vfs": scenario.vfs }))
    }

    /// An unplug with its actuator, which this machine must have.
    fn complete(&self, asked: Unplugging) -> Result<Unplug, Refusal> {
        let vfs = self.config.scenario.vfs;
        let actuator = asked.actuator.unwrap_or(match asked.target {
            Target::Function(FunctionId::Vf(_)) | Target::Vfs => Actuator::Platform,
            Target::Slot => Actuator::SysfsPower,
            Target::Function(_) => Actuator::PlatformDevice,
        });
        let unplug = Unplug {
            actuator,
            target: asked.target,
        };
        if let Target::Function(FunctionId::Vf(number)) = asked.target {
            if number > vfs {
                return Err(usage(
                    format!("there is no vf{number}"),
                    format!("there are {vfs} VFs"),
                ));
            }
        }
        if let Err(takes) = unplug.fits() {
            let text = format!("`{}` does not unplug {}", actuator.name(), asked.target);
            let takes = takes.replace("{vf}", "1");
            return Err(usage(text, format!("it takes {takes}")));
        }
        let at = match &self.config.backend {
            BackEnd::Own { at, .. } => at,
            BackEnd::Foreign(_) => {
                return Err(usage(
                    "a tap in front of somebody else's back end has nothing to unplug with",
                    "arm points without `fire`",
                ));
            }
        };
        if actuator == Actuator::SysfsRemove
            && at.arch == Arch::X86_64
            && matches!(asked.target, Target::Function(FunctionId::Vf(_)))
        {
            return Err(usage(
                "a VF has no file `remove` in a guest of x86_64",
                "it takes the pf or the bridge",
            ));
        }
        if actuator == Actuator::PlatformSurprise || asked.target == Target::Vfs {
            return Err(usage(
                "bursts and functions that are lost are events of zPCI, which QEMU sends",
                "vfrace run plays them: unbind-vs-vf-loss and unbind-vs-vfs-burst on s390x",
            ));
        }
        let by_qemu = matches!(actuator, Actuator::PciehpSurprise | Actuator::PciehpButton)
            || unplug.by_zpci(at.arch);
        if by_qemu {
            return Err(usage(
                format!(
                    "`{}` needs a connection to QEMU, which this server has not",
                    actuator.name()
                ),
                "unplug it over QEMU's own monitor (device_del), or use another actuator",
            ));
        }
        Ok(unplug)
    }

    fn arm(&self, text: &str, unplug: Option<Unplugging>) -> Answer {
        let parsed: Schedule = text.parse().map_err(wrong_schedule)?;
        // Without `fire` nothing is unplugged, and the points act all the same.
        let fires = parsed.steps.iter().any(|step| step.fire);
        let scenarios = self.config.scenario.unplug.map(|unplug| Unplugging {
            target: unplug.target,
            actuator: Some(unplug.actuator),
        });
        let unplug = match unplug.or(scenarios).filter(|_| fires) {
            Some(asked) => Some(self.complete(asked)?),
            None => None,
        };
        let scenario = Scenario {
            unplug,
            ..self.config.scenario.clone()
        };
        let schedule = Schedule::read(text, &scenario).map_err(wrong_schedule)?;
        if schedule.first == Role::Unplug {
            return Err(usage(
                "a schedule in which the unplug goes first is for `vfrace run`",
                "begin with the teardown, or unplug and then tear down",
            ));
        }
        let plan = Plan::new(&schedule);
        if unplug.is_some() || !plan.commands().is_empty() {
            let guest = self.guest()?;
            self.let_go(Some(&guest))?;
            guest.arm(&schedule, &plan, unplug.as_ref())?;
        } else {
            self.let_go(None)?;
        }
        self.config.events.emit(EventKind::Schedule {
            text: schedule.to_string(),
        });
        match &self.config.backend {
            BackEnd::Own { backend, .. } => backend.reset_wire_counters(),
            BackEnd::Foreign(tap) => tap.reset_counters(),
        }
        // One that came to nothing before is not about this.
        let _ = self.config.injector.failure();
        let shown = schedule.to_string();
        self.config.injector.arm(schedule, plan, unplug);
        *self.armed() = Some(unplug);
        Ok(json!({ "schedule": shown, "unplug": unplug }))
    }

    /// Nothing is armed any more, here or in the guest.
    fn let_go(&self, guest: Option<&Guest<'_>>) -> Result<(), Refusal> {
        self.config.injector.disarm();
        self.config.seen.nudge();
        let was = self.armed().take();
        match (was, guest) {
            (Some(_), Some(guest)) => guest.must(CommandKind::Disarm, "", "disarming", COMMAND),
            _ => Ok(()),
        }
    }

    fn disarm(&self) -> Answer {
        // What is held in the guest is let go by its bound if another request has the guest.
        let guest = self.guest().ok();
        let in_guest = guest.is_some();
        self.let_go(guest.as_ref())?;
        Ok(json!({ "guest": in_guest }))
    }

    fn unplug(&self, asked: Unplugging) -> Answer {
        let unplug = self.complete(asked)?;
        let (mark, before) = (self.config.seen.mark(), self.config.injector.fired());
        let armed = *self.armed();
        match armed {
            Some(Some(armed)) if armed == unplug => {
                self.config.injector.fire_now();
                self.fired_is_done(mark, before)
            }
            Some(_) => Err(usage(
                "something else is armed",
                "`vfrace ctl disarm` first, or name what is armed",
            )),
            None => {
                let guest = self.guest()?;
                // One that came to nothing before is not about this.
                let _ = self.config.injector.failure();
                let nothing = Schedule {
                    first: Role::Teardown,
                    steps: Vec::new(),
                };
                let plan = Plan::new(&nothing);
                guest.arm(&nothing, &plan, Some(&unplug))?;
                self.config.injector.arm(nothing, plan, Some(unplug));
                *self.armed() = Some(Some(unplug));
                self.config.injector.fire_now();
                let done = self.fired_is_done(mark, before);
                let let_go = self.let_go(Some(&guest));
                let done = done?;
                let_go.map(|()| done)
            }
        }
    }

    /// Waits for the unplug that was ordered after number `before`; null if none was.
    fn fired_is_done(&self, mark: usize, before: u32) -> Answer {
        if let Some(error) = self.config.injector.failure() {
            return Err(Refusal::new(Kind::Guest, chain(&error), ""));
        }
        let fired = self.config.injector.fired();
        if fired == before {
            return Ok(Value::Null);
        }
        let since = Instant::now();
        let done = self.config.seen.wait(
            mark,
            TASK,
            || self.check(),
            |record| match &record.what {
                Observation::UnplugDone { event, status } if *event == fired => Some(*status),
                _ => None,
            },
        );
        match done {
            Ok(status) => Ok(json!({
                "number": fired,
                "status": status,
                "waited_ms": since.elapsed().as_millis() as u64,
            })),
            Err(missed) => Err(late("the unplug", missed)),
        }
    }

    fn teardown(&self) -> Answer {
        let guest = self.guest()?;
        let (mark, before) = (self.config.seen.mark(), self.config.injector.fired());
        let text = steps::teardown(guest.at, &self.config.scenario);
        let torn_down = guest.tell(CommandKind::Exec, &text, "the teardown", TASK);
        let done = torn_down.and_then(|told| Ok((told, self.fired_is_done(mark, before)?)));
        // A point that was armed is for this teardown, however it went.
        let let_go = self.let_go(Some(&guest));
        let ((status, output), unplug) = done?;
        let_go?;
        Ok(json!({ "status": status, "output": output, "unplug": unplug }))
    }

    fn exec(&self, command: &str) -> Answer {
        if command.len() > MAX_COMMAND || command.contains(['\n', '\0']) {
            return Err(usage(
                format!("a command is one line of at most {MAX_COMMAND} bytes"),
                "join commands by `;`",
            ));
        }
        let guest = self.guest()?;
        let (status, output) = guest.tell(CommandKind::Exec, command, "the command", TASK)?;
        Ok(json!({ "status": status, "output": output }))
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.config.stop.load(Ordering::Acquire) {
            return Err(Refusal::new(Kind::Guest, "the server is ending", ""));
        }
        match &self.config.backend {
            BackEnd::Own { backend, .. } if !backend.mailbox().is_connected() => Err(no_guest()),
            _ => Ok(()),
        }
    }

    /// Ends every hold and the back end. To be called once no client is served any more.
    pub fn end(self) {
        self.config.injector.stop();
        match self.config.backend {
            BackEnd::Own { backend, .. } => backend.stop(),
            BackEnd::Foreign(tap) => drop(tap),
        }
    }

    /// Ends every hold, so that clients that wait for a guest are answered.
    pub fn announce_end(&self) {
        self.config.stop.store(true, Ordering::Release);
        self.config.injector.stop();
    }
}

fn wrong_schedule(error: crate::scenario::ScheduleError) -> Refusal {
    usage(
        format!("{error} (byte {} of the schedule)", error.at.start),
        error.hint,
    )
}

fn late(what: &str, missed: Missed<Refusal>) -> Refusal {
    match missed {
        Missed::Stopped(refusal) => refusal,
        Missed::Late => Refusal::new(
            Kind::Guest,
            format!("{what} did not come back in {} s", TASK.as_secs()),
            "look at the guest's console",
        ),
    }
}

/// A guest that nobody else has at the moment.
struct Guest<'a> {
    desk: &'a Desk,
    control: &'a Mutex<Control>,
    at: Places,
    _busy: MutexGuard<'a, ()>,
}

impl Guest<'_> {
    fn tell(
        &self,
        kind: CommandKind,
        text: &str,
        what: &str,
        limit: Duration,
    ) -> Result<(i32, String), Refusal> {
        let waiting = {
            let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = control
                .send(kind, text)
                .map_err(|error| Refusal::new(Kind::Guest, chain(&error), ""))?;
            control.waiting(sent)
        };
        let done = waiting.done(limit, || self.desk.check());
        done.map_err(|missed| late(what, missed))
    }

    fn must(
        &self,
        kind: CommandKind,
        text: &str,
        what: &str,
        limit: Duration,
    ) -> Result<(), Refusal> {
        match self.tell(kind, text, what, limit)? {
            (0, _) => Ok(()),
            (status, output) => Err(Refusal::new(
                Kind::Guest,
                format!("{what} failed with status {status}: {}", output.trim()),
                "",
            )),
        }
    }

    fn arm(
        &self,
        schedule: &Schedule,
        plan: &Plan,
        unplug: Option<&Unplug>,
    ) -> Result<(), Refusal> {
        self.must(
            CommandKind::Pf,
            self.at.pf,
            "the address of the PF",
            COMMAND,
        )?;
        let config = &self.desk.config;
        let (number, vfs) = (config.injector.fired() + 1, config.scenario.vfs);
        let how = Arming::default();
        for (kind, text, what) in arming(schedule, plan, unplug, vfs, self.at, number, how) {
            self.must(kind, &text, what, COMMAND)?;
        }
        Ok(())
    }
}

/// Somebody else's back end, which listens on a socket.
pub struct Foreign {
    /// The socket.
    pub path: PathBuf,
}

impl Daemon for Foreign {
    fn connect(&self) -> io::Result<(UnixStream, Box<dyn Session>)> {
        let stream = UnixStream::connect(&self.path)?;
        Ok((stream, Box::new(Elsewhere)))
    }

    /// What reaches it is what QEMU sends.
    fn refuses_early_enables(&self) -> bool {
        false
    }
}

/// Its connection: the tap has shut it down, and there is nothing here that would have to end.
struct Elsewhere;

impl Session for Elsewhere {
    fn end(self: Box<Self>) -> Option<String> {
        None
    }
}
