// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The course of a run, from boot to power-off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{EventKind, EventSink, GuestRecord, Invariants, Observation, Phase, Role};
use crate::guest::control::{ControlError, Sent};
use crate::guest::observations::Missed;
use crate::guest::plan::{Arming, Plan, arming};
use crate::guest::proto::CommandKind;
use crate::host::chain;
use crate::qemu::machine::{Places, places};
use crate::scenario::{At, Schedule};

use super::RunConfig;
use super::machine::{Cut, Machine};
use super::steps;

/// A boot that takes longer has failed. An idle machine needs 5 s under TCG, a loaded one was seen to need 12. The time that
/// the guest has waited for a CPU of the host comes on top.
const BOOT: Duration = Duration::from_secs(90);
/// And with that it takes no longer than this.
const BOOT_AT_MOST: Duration = Duration::from_secs(600);
/// The boot time that the other limits are made for; a machine that boots slower gets more of everything.
const USUAL_BOOT: Duration = Duration::from_secs(5);
/// For a command that should take a fraction of a second.
const COMMAND: Duration = Duration::from_secs(20);
/// For a task of the race to come back: the kernel itself sleeps one second (ssleep(1) in sriov_disable()).
const TASK: Duration = Duration::from_secs(15);
/// What a VF adds to the two above: bringing one up or down takes 0.1 s to 0.4 s under TCG.
const PER_VF: Duration = Duration::from_millis(800);
/// For the stacks of blocked tasks to get over the serial line.
const DUMP: Duration = Duration::from_secs(5);
/// For the stacks of all tasks: some 80 of them.
const DUMP_ALL: Duration = Duration::from_secs(20);
/// Between two looks at tasks that did not come back: what goes on somewhere shows within it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// For a guest that was told to power off.
const POWER_OFF: Duration = Duration::from_secs(8);

/// Why a wait for both sides ended early.
enum Halt {
    Cut(Cut),
    /// They wait for each other, or one for itself.
    Circle,
}

fn late(who: &str, limit: Duration) -> String {
    format!("{who} did not come back in {:.0} s", limit.as_secs_f64())
}

fn failed(what: &str, status: i32, output: &str) -> Cut {
    Cut::guest(format!(
        "{what} failed with status {status}: {}",
        output.trim()
    ))
}

/// A booted guest and what is done with it.
pub(super) struct Course<'a> {
    config: Arc<RunConfig<'a>>,
    machine: Machine<'a>,
    /// Where things are in the guest.
    at: Places,
    /// How much slower than usual this machine is, at least 1.
    slowness: f64,
    /// The last round left the PF as a round begins, and nothing was done to it since it was measured.
    untouched: bool,
    /// The PF was plugged in, and has no driver yet.
    unbound: bool,
}

impl<'a> Course<'a> {
    /// Starts the machine and waits for the guest's init.
    pub(super) fn boot(config: Arc<RunConfig<'a>>, events: &EventSink) -> Result<Self, Cut> {
        let mut course = Course {
            machine: Machine::start(Arc::clone(&config), events)?,
            at: places(config.kernel.arch),
            config,
            slowness: 1.0,
            untouched: false,
            unbound: false,
        };
        course.wait_for_init()?;
        Ok(course)
    }

    /// Removes the PF and powers off.
    pub(super) fn end(&mut self) -> Result<(), Cut> {
        self.final_remove()?;
        self.machine.phase(Phase::PowerOff, 0);
        // It does not answer: the answer is that QEMU ends.
        self.send(CommandKind::Exec, "poweroff -f")?;
        if !self.machine.wait_for_the_end(self.scaled(POWER_OFF)) {
            log::warn!("the guest did not power off and was killed");
        }
        Ok(())
    }

    fn wait_for_init(&mut self) -> Result<(), Cut> {
        let began = Instant::now();
        let seen = self.machine.seen.clone();
        // A host that gives the guest no CPU is no fault of the kernel's.
        let mut limit = BOOT;
        let ready = loop {
            let left = limit.saturating_sub(began.elapsed());
            let ready = seen.wait(
                0,
                left,
                || self.machine.check(),
                |record| matches!(record.what, Observation::AgentReady).then_some(()),
            );
            let more = (BOOT + self.machine.starved()).min(BOOT_AT_MOST);
            if !matches!(ready, Err(Missed::Late)) || more <= limit {
                break ready;
            }
            limit = more;
        };
        match ready {
            Ok(()) => {}
            Err(Missed::Late) => {
                return Err(Cut::guest(format!(
                    "the guest's init was not heard of in {} s",
                    limit.as_secs()
                )));
            }
            Err(Missed::Stopped(cut)) => return Err(cut),
        }
        self.slowness = (began.elapsed().as_secs_f64() / USUAL_BOOT.as_secs_f64()).max(1.0);
        self.machine.find_slot()?;
        if self.machine.plugs_functions() {
            self.plug_pf(COMMAND)?;
        }
        self.tell(CommandKind::Pf, self.at.pf, "the address of the PF")?;
        self.tell(CommandKind::Cost, "", "measuring what a call costs")
    }

    /// Plugs the PF in. The guest's kernel must see an SR-IOV device, which on s390x it does by the module vfrace_zpci only.
    fn plug_pf(&mut self, limit: Duration) -> Result<(), Cut> {
        let what = "waiting for the PF";
        self.shell(steps::LEAVE_UNBOUND, "keeping the PF from being bound")?;
        self.machine.plug_pf(self.limit(limit))?;
        let sent = self.send(CommandKind::Exec, &steps::find_plugged_pf(self.at))?;
        let limit = self.limit(COMMAND);
        match self.done(sent, limit) {
            Ok((0, _)) => {
                self.unbound = true;
                Ok(())
            }
            Ok((steps::NO_SRIOV, _)) => Err(self.without_shim()?),
            Ok((status, output)) => Err(failed(what, status, &output)),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => Err(self.stuck(&late(what, limit), false, None)),
        }
    }

    /// Shows the guest the VFs all the same, and says what they are to it.
    fn without_shim(&mut self) -> Result<Cut, Cut> {
        let limit = self.limit(COMMAND);
        self.machine.enable_vfs(limit)?;
        let text = steps::isolated_vfs(self.config.scenario.vfs);
        let sent = self.send(CommandKind::Exec, &text)?;
        let isolated = match self.done(sent, limit) {
            Ok((_, output)) => output,
            Err(Missed::Stopped(cut)) => return Err(cut),
            Err(Missed::Late) => String::new(),
        };
        let isolated: Vec<&str> = isolated.lines().map(str::trim).collect();
        let isolated = match isolated.join(", ") {
            none if none.is_empty() => "none of its VFs came".to_owned(),
            some => format!("its VFs are isolated functions ({some}, without physfn)"),
        };
        Ok(Cut::host(format!(
            "the PF has no SR-IOV capability and {isolated}: vfrace_zpci is not at work in the guest, and QEMU does not say whose VF a function is"
        )))
    }

    /// One round. Its schedule may be another one than the scenario's.
    pub(super) fn round(
        &mut self,
        round: u32,
        schedule: &Schedule,
        trace: bool,
    ) -> Result<(), Cut> {
        let scenario = self.config.scenario;
        let before = if std::mem::take(&mut self.untouched) {
            // A sample that was taken then counts: see the module.
            self.measure("before", "=before")?
        } else {
            if !std::mem::take(&mut self.unbound) {
                self.shell(&steps::unbind(self.at, scenario), "unbinding the PF")?;
                // Those that the round before has left.
                self.machine.settle(self.limit(COMMAND))?;
            }
            if let Some(text) = steps::as_afterwards(self.at, scenario, schedule) {
                self.shell(&text, "binding the PF")?;
            }
            self.measure("before", "before")?
        };
        self.shell(
            &steps::bring_up(self.at, scenario, schedule),
            "binding the PF and enabling its VFs",
        )?;
        if self.machine.plugs_functions() && scenario.teardown.begins_with_vfs() {
            self.machine.enable_vfs(self.limit(COMMAND))?;
            let text = steps::wait_for_vfs(self.at, scenario);
            self.shell(&text, "waiting for the VFs")?;
        }
        self.measure("armed", "~armed")?;
        let plan = Plan::new(schedule);
        self.plan(schedule, &plan, trace)?;
        self.machine.count_messages_from_here();
        let fired_before = self.machine.injector.fired();
        self.machine.phase(Phase::Armed, round);
        self.machine.emit(EventKind::Schedule {
            text: schedule.to_string(),
        });
        let mark = self.machine.seen.mark();
        let injector = self.machine.injector.clone();
        injector.arm(schedule.clone(), plan, scenario.unplug);

        if schedule.first == Role::Unplug && scenario.unplug.is_some() {
            self.unplug_first(schedule, mark)?;
        }
        self.machine.phase(Phase::Teardown, round);
        let teardown = self.send(CommandKind::Exec, &steps::teardown(self.at, scenario))?;
        let back = self.back(schedule, teardown, fired_before, mark, round);
        injector.disarm();
        back?;

        self.tell(CommandKind::Disarm, "", "disarming")?;
        self.machine.phase(Phase::Settle, round);
        if !scenario.teardown.keeps_vfs() {
            self.machine.settle(self.limit(COMMAND))?;
        }
        let after = self.measure("after", "after")?;
        self.bring_back(self.machine.injector.fired() != fired_before)?;
        if self.config.repair {
            self.repair(&before, &after)?;
        }
        let as_planned = schedule.steps.iter().all(|step| step.returns.is_none());
        self.untouched = as_planned && steps::ends_as_it_begins(scenario);
        Ok(())
    }

    /// Tells the guest its part of the schedule and arms it.
    fn plan(&mut self, schedule: &Schedule, plan: &Plan, trace: bool) -> Result<(), Cut> {
        let how = Arming {
            trace,
            skip_sleep: self.config.skip_sleep,
            few_probes: self.config.few_probes,
        };
        let (unplug, vfs) = (
            self.config.scenario.unplug.as_ref(),
            self.config.scenario.vfs,
        );
        if let Some(text) = steps::surprise(self.config.scenario) {
            self.shell(&text, "announcing what the platform takes away")?;
        }
        let number = self.machine.injector.fired() + 1;
        for (kind, text, what) in arming(schedule, plan, unplug, vfs, self.at, number, how) {
            self.tell(kind, &text, what)?;
        }
        Ok(())
    }

    /// Fires the unplug and waits until it is where the teardown is to be started, or done.
    fn unplug_first(&mut self, schedule: &Schedule, mark: usize) -> Result<(), Cut> {
        let fires = schedule.steps.iter().find(|step| step.fire);
        let at = match fires.map(|step| &step.at) {
            Some(At::Point(point)) => Some(point.to_string()),
            Some(At::Time { after, .. }) => {
                self.machine.injector.fire_now();
                std::thread::sleep(*after);
                return Ok(());
            }
            None => None,
        };
        self.machine.injector.fire_now();
        let seen = self.machine.seen.clone();
        let limit = self.limit(TASK);
        let there = seen.wait(
            mark,
            limit,
            || self.machine.check(),
            |record| match &record.what {
                Observation::Point { point } => (Some(point) == at.as_ref()).then_some(()),
                Observation::UnplugDone { .. } => Some(()),
                _ => None,
            },
        );
        match there {
            // One that is late is found out when both are waited for.
            Ok(()) | Err(Missed::Late) => Ok(()),
            Err(Missed::Stopped(cut)) => Err(cut),
        }
    }

    /// The PF is there again for the next round. A slot whose unplug was not fired still has its card.
    fn bring_back(&mut self, fired: bool) -> Result<(), Cut> {
        let scenario = self.config.scenario;
        if !scenario.removes_pf() {
            return Ok(());
        }
        if steps::empties_slot(scenario, fired) {
            self.machine.plug_back(self.limit(TASK))?;
        } else if self.machine.is_pf_unplugged() {
            return self.plug_pf(TASK);
        } else {
            self.shell(steps::FIND_PF, "finding the PF again")?;
        }
        self.shell(&steps::wait_for_pf(self.at), "waiting for the PF")
    }

    /// What a double removal took from the PF is given back.
    fn repair(&mut self, before: &Invariants, after: &Invariants) -> Result<(), Cut> {
        let lost = before.pf_references - after.pf_references;
        let Ok(references @ 1..) = u32::try_from(lost) else {
            return Ok(());
        };
        if after.pf_references <= 0 {
            return Ok(());
        }
        self.tell(
            CommandKind::Repair,
            &references.to_string(),
            "repairing the PF",
        )?;
        self.machine.emit(EventKind::Repaired { references });
        Ok(())
    }

    /// Waits for both sides of the race. One that does not come back leaves its stack on the console.
    fn back(
        &mut self,
        schedule: &Schedule,
        teardown: Sent,
        fired_before: u32,
        mark: usize,
        round: u32,
    ) -> Result<(), Cut> {
        let limit = self.limit(TASK);
        let waiting = self.machine.control.waiting(teardown);
        match waiting.done(limit, || self.under_way(mark)) {
            Ok((0, _)) => {}
            // An error that the schedule brought about.
            Ok(_) if schedule.steps.iter().any(|step| step.returns.is_some()) => {}
            Ok((status, output)) => return Err(failed("the teardown", status, &output)),
            Err(Missed::Stopped(Halt::Cut(cut))) => return Err(cut),
            Err(Missed::Stopped(Halt::Circle)) => return Err(self.circle(round)),
            Err(Missed::Late) => {
                return Err(self.stuck(
                    &late("the teardown", limit),
                    false,
                    Some((Phase::Settle, round)),
                ));
            }
        }
        // Nothing says when the unplug is due: one side after the other.
        if !schedule.steps.iter().any(|step| step.fire) && schedule.first == Role::Teardown {
            self.machine.injector.fire_now();
        }
        let fired = self.machine.injector.fired();
        if fired == fired_before {
            return Ok(());
        }
        let seen = self.machine.seen.clone();
        let done = seen.wait(
            mark,
            limit,
            || self.under_way(mark),
            |record| {
                matches!(&record.what, Observation::UnplugDone { event, .. } if *event == fired)
                    .then_some(())
            },
        );
        match done {
            Ok(()) => Ok(()),
            Err(Missed::Stopped(Halt::Cut(cut))) => Err(cut),
            Err(Missed::Stopped(Halt::Circle)) => Err(self.circle(round)),
            Err(Missed::Late) => Err(self.stuck(
                &late("the unplug handler", limit),
                false,
                Some((Phase::Settle, round)),
            )),
        }
    }

    /// The check while both sides are under way since `mark`. The guest says by itself when they wait for each other.
    fn under_way(&mut self, mark: usize) -> Result<(), Halt> {
        self.machine.check().map_err(Halt::Cut)?;
        let circle = |record: &GuestRecord| matches!(record.what, Observation::TaskState { .. });
        if self.machine.seen.any(mark, circle) {
            return Err(Halt::Circle);
        }
        Ok(())
    }

    fn circle(&mut self, round: u32) -> Cut {
        self.stuck(
            "a task waits for a mutex that is given back only after it",
            true,
            Some((Phase::Settle, round)),
        )
    }

    /// Has the guest print who is blocked, who holds which lock and every task, and gives the reason to end here.
    /// `circle`: the guest has found out by itself. `wait_over` is the phase that ends the wait in the recording: what the
    /// guest says from then on is not by the task that was waited for.
    fn stuck(&mut self, why: &str, circle: bool, wait_over: Option<(Phase, u32)>) -> Cut {
        if let Some((phase, round)) = wait_over {
            self.machine.phase(phase, round);
        }
        let cut = Cut::guest(why);
        // Where both stand, by the module, which needs none of their locks. Should it not answer, the dump says more.
        // The second look shows what went on meanwhile; a circle that was found has none.
        let looks = if circle { 1 } else { 2 };
        for look in 0..looks {
            if look > 0 {
                std::thread::sleep(LOOK_AGAIN);
            }
            if let Ok(sent) = self.send(CommandKind::States, "") {
                let limit = self.scaled(COMMAND);
                if let Err(Missed::Stopped(worse)) = self.done(sent, limit) {
                    return worse;
                }
            }
        }
        // Blocked tasks and locks first: all tasks take long. sysrq prints at levels that the console does not show by
        // default (drivers/tty/sysrq.c).
        let few =
            "echo 8 >/proc/sys/kernel/printk; for c in w d; do echo $c >/proc/sysrq-trigger; done";
        let all = "echo t >/proc/sysrq-trigger";
        for (dump, limit) in [(few, DUMP), (all, DUMP_ALL)] {
            let limit = self.scaled(limit);
            match self
                .send(CommandKind::Exec, dump)
                .map(|sent| self.done(sent, limit))
            {
                Ok(Ok(_)) => {}
                Ok(Err(Missed::Stopped(worse))) => return worse,
                Ok(Err(Missed::Late)) | Err(_) => {
                    return Cut {
                        reason: format!("{}; the guest does not answer", cut.reason),
                        ..cut
                    };
                }
            }
        }
        cut
    }

    /// Removes the PF for good. A reference that was put once too often shows here as a use after free.
    fn final_remove(&mut self) -> Result<(), Cut> {
        self.machine.phase(Phase::FinalRemove, 0);
        let sent = self.send(
            CommandKind::Exec,
            &format!("echo 1 >/sys/bus/pci/devices/{}/remove", self.at.pf),
        )?;
        let limit = self.limit(TASK);
        match self.done(sent, limit) {
            Ok(_) => self.measure("final", "final").map(|_| ()),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => Err(self.stuck(
                &late("the removal of the PF", limit),
                false,
                Some((Phase::PowerOff, 0)),
            )),
        }
    }

    /// Measures by `command`, which is reported as `label`.
    fn measure(&mut self, label: &str, command: &str) -> Result<Invariants, Cut> {
        let mark = self.machine.seen.mark();
        self.tell(CommandKind::Measure, command, "measuring the invariants")?;
        let seen = self.machine.seen.clone();
        let measured = seen.wait(
            mark,
            Duration::ZERO,
            || Ok::<(), ()>(()),
            |record| match &record.what {
                Observation::Measured { label: l, values } if l == label => Some(values.clone()),
                _ => None,
            },
        );
        measured.map_err(|_| Cut::guest("the guest's module did not measure"))
    }

    /// Sends a command to the module and waits for its end.
    fn tell(&mut self, kind: CommandKind, text: &str, what: &str) -> Result<(), Cut> {
        let sent = self.send(kind, text)?;
        self.must_end(sent, COMMAND, what)
    }

    fn shell(&mut self, text: &str, what: &str) -> Result<(), Cut> {
        let sent = self.send(CommandKind::Exec, text)?;
        self.must_end(sent, COMMAND, what)
    }

    fn send(&mut self, kind: CommandKind, text: &str) -> Result<Sent, Cut> {
        let sent = self.machine.control.send(kind, text);
        sent.map_err(|error: ControlError| match self.machine.check() {
            // That QEMU is gone is the better explanation.
            Err(cut) => cut,
            Ok(()) => Cut::host(chain(&error)),
        })
    }

    fn must_end(&mut self, sent: Sent, limit: Duration, what: &str) -> Result<(), Cut> {
        let limit = self.limit(limit);
        match self.done(sent, limit) {
            Ok((0, _)) => Ok(()),
            Ok((status, output)) => Err(failed(what, status, &output)),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => Err(self.stuck(&late(what, limit), false, None)),
        }
    }

    fn done(&mut self, sent: Sent, limit: Duration) -> Result<(i32, String), Missed<Cut>> {
        let waiting = self.machine.control.waiting(sent);
        waiting.done(limit, || self.machine.check())
    }

    fn limit(&self, base: Duration) -> Duration {
        self.scaled(base + PER_VF * u32::from(self.config.scenario.vfs))
    }

    fn scaled(&self, base: Duration) -> Duration {
        base.mul_f64(self.slowness)
    }
}
