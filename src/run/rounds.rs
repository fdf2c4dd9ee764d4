// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The course of a run, from boot to power-off.

use std::time::{Duration, Instant};

use crate::event::{EventKind, EventSink, Observation, Phase};
use crate::guest::control::{ControlError, Sent};
use crate::guest::observations::Missed;
use crate::guest::proto::CommandKind;
use crate::oracle::shows_double_removal;
use crate::qemu::machine::PF_ADDRESS;
use crate::scenario::Teardown;

use super::machine::{Cut, Machine, chain};
use super::{Recording, RunConfig};

/// A boot that takes longer has failed. An idle machine needs 5 s under TCG, a loaded one was seen to need 12.
const BOOT: Duration = Duration::from_secs(90);
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
/// For a guest that was told to power off.
const POWER_OFF: Duration = Duration::from_secs(8);

/// Plays the scenario. What happens goes to `events`, the reason for an early end as well.
pub(super) fn play(config: &RunConfig<'_>, events: &EventSink, recording: &Recording) {
    let end = Machine::start(config, events).and_then(|machine| {
        let mut course = Course {
            config,
            recording,
            machine,
            slowness: 1.0,
        };
        course.all()
    });
    if let Err(cut) = end {
        events.emit(EventKind::Cut {
            reason: cut.reason,
            infrastructure: cut.infrastructure,
        });
    }
}

struct Course<'a> {
    config: &'a RunConfig<'a>,
    recording: &'a Recording,
    machine: Machine<'a>,
    /// How much slower than usual this machine is, at least 1.
    slowness: f64,
}

impl Course<'_> {
    fn all(&mut self) -> Result<(), Cut> {
        let rounds = self.config.scenario.rounds;
        self.boot()?;
        for round in 1..=rounds {
            self.round(round)?;
            // A lost reference stays lost: whatever came after it in this boot would not be a clean round.
            if self
                .recording
                .look(|events| shows_double_removal(events, round))
            {
                break;
            }
        }
        self.final_remove()?;
        self.machine.phase(Phase::PowerOff, 0);
        // It does not answer: the answer is that QEMU ends.
        self.send(CommandKind::Exec, "poweroff -f")?;
        if !self.machine.wait_for_the_end(self.scaled(POWER_OFF)) {
            log::warn!("the guest did not power off and was killed");
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<(), Cut> {
        let began = Instant::now();
        let seen = self.machine.seen.clone();
        let ready = seen.wait(
            0,
            BOOT,
            || self.machine.check(),
            |record| matches!(record.what, Observation::AgentReady).then_some(()),
        );
        match ready {
            Ok(()) => {}
            Err(Missed::Late) => {
                return Err(Cut::guest(format!(
                    "the guest's init was not heard of in {} s",
                    BOOT.as_secs()
                )));
            }
            Err(Missed::Stopped(cut)) => return Err(cut),
        }
        self.slowness = (began.elapsed().as_secs_f64() / USUAL_BOOT.as_secs_f64()).max(1.0);
        let sent = self.send(CommandKind::Pf, PF_ADDRESS)?;
        self.must_end(sent, COMMAND, "the address of the PF")
    }

    fn round(&mut self, round: u32) -> Result<(), Cut> {
        let vfs = self.config.scenario.vfs;
        let pf = format!("/sys/bus/pci/devices/{PF_ADDRESS}");
        self.shell(
            &format!("[ ! -e {pf}/driver ] || echo {PF_ADDRESS} >{pf}/driver/unbind"),
            "unbinding the PF",
        )?;
        self.measure("before")?;
        self.shell(
            &format!(
                "echo {PF_ADDRESS} >/sys/bus/pci/drivers/virtio-pci/bind && echo {vfs} >{pf}/sriov_numvfs && \
                 [ $(ls -d {pf}/virtfn* | wc -l) = {vfs} ]"
            ),
            "binding the PF and enabling its VFs",
        )?;
        let sent = self.send(
            CommandKind::Arm,
            if self.config.scenario.unplug.is_some() {
                "unplug"
            } else {
                ""
            },
        )?;
        self.must_end(sent, COMMAND, "arming")?;
        self.machine.count_messages_from_here();
        let fired_before = self.machine.injector.fired();
        self.machine.phase(Phase::Armed, round);
        if let Some(unplug) = &self.config.scenario.unplug {
            let schedule = self.config.scenario.schedule.clone();
            let plan = crate::guest::plan::Plan::new(&schedule);
            self.machine.injector.arm(schedule, plan, Some(*unplug));
        }

        self.machine.phase(Phase::Teardown, round);
        let action = match self.config.scenario.teardown {
            Teardown::Unbind => {
                format!("echo {PF_ADDRESS} >/sys/bus/pci/drivers/virtio-pci/unbind")
            }
            Teardown::PfRemove => format!("echo 1 >{pf}/remove"),
            other => return Err(Cut::host(format!("{other:?} is not there yet"))),
        };
        let mark = self.machine.seen.mark();
        // Said by the task that then does it: both are builtins of the guest's shell.
        let teardown = self.send(
            CommandKind::Exec,
            &format!("printf 'task teardown\\n' >&3; {action}"),
        )?;
        self.back(teardown, fired_before, mark, round)?;
        self.machine.injector.disarm();

        let sent = self.send(CommandKind::Disarm, "")?;
        self.must_end(sent, COMMAND, "disarming")?;
        self.machine.phase(Phase::Settle, round);
        self.measure("after")?;
        if self.config.scenario.teardown == Teardown::PfRemove {
            self.shell("echo 1 >/sys/bus/pci/rescan", "bringing the PF back")?;
        }
        Ok(())
    }

    /// Waits for both sides of the race. One that does not come back leaves its stack on the console.
    fn back(
        &mut self,
        teardown: Sent,
        fired_before: u32,
        mark: usize,
        round: u32,
    ) -> Result<(), Cut> {
        let limit = self.limit(TASK);
        match self.done(teardown, limit) {
            Ok((0, _)) => {}
            Ok((status, output)) => {
                return Err(Cut::guest(format!(
                    "the teardown failed with status {status}: {}",
                    output.trim()
                )));
            }
            Err(Missed::Stopped(cut)) => return Err(cut),
            Err(Missed::Late) => {
                return Err(self.stuck("the teardown", limit, Some((Phase::Settle, round))));
            }
        }
        let fired = self.machine.injector.fired();
        if fired == fired_before {
            return Ok(());
        }
        let seen = self.machine.seen.clone();
        let done = seen.wait(
            mark,
            limit,
            || self.machine.check(),
            |record| {
                matches!(&record.what, Observation::UnplugDone { event, .. } if *event == fired)
                    .then_some(())
            },
        );
        match done {
            Ok(()) => Ok(()),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => {
                Err(self.stuck("the unplug handler", limit, Some((Phase::Settle, round))))
            }
        }
    }

    /// Has the guest print who is blocked, who holds which lock and every task, and gives the reason to end here.
    /// `wait_over` is the phase that ends the wait in the recording: what the guest says from then on is not by the
    /// task that was waited for.
    fn stuck(&mut self, who: &str, limit: Duration, wait_over: Option<(Phase, u32)>) -> Cut {
        if let Some((phase, round)) = wait_over {
            self.machine.phase(phase, round);
        }
        let cut = Cut::guest(format!(
            "{who} did not come back in {:.0} s",
            limit.as_secs_f64()
        ));
        // sysrq prints at levels that the console does not show by default (drivers/tty/sysrq.c).
        let dump =
            "echo 8 >/proc/sys/kernel/printk; for c in w d; do echo $c >/proc/sysrq-trigger; done";
        let limit = self.scaled(DUMP);
        match self
            .send(CommandKind::Exec, dump)
            .map(|sent| self.done(sent, limit))
        {
            Ok(Ok(_)) => cut,
            Ok(Err(Missed::Stopped(worse))) => worse,
            Ok(Err(Missed::Late)) | Err(_) => Cut {
                reason: format!("{}; the guest does not answer", cut.reason),
                ..cut
            },
        }
    }

    /// Removes the PF for good. A reference that was put once too often shows here as a use after free.
    fn final_remove(&mut self) -> Result<(), Cut> {
        self.machine.phase(Phase::FinalRemove, 0);
        let sent = self.send(
            CommandKind::Exec,
            &format!("echo 1 >/sys/bus/pci/devices/{PF_ADDRESS}/remove"),
        )?;
        let limit = self.limit(TASK);
        match self.done(sent, limit) {
            Ok(_) => self.measure("final"),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => {
                Err(self.stuck("the removal of the PF", limit, Some((Phase::PowerOff, 0))))
            }
        }
    }

    fn measure(&mut self, label: &str) -> Result<(), Cut> {
        let sent = self.send(CommandKind::Measure, label)?;
        self.must_end(sent, COMMAND, "measuring the invariants")
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
            Ok((status, output)) => Err(Cut::guest(format!(
                "{what} failed with status {status}: {}",
                output.trim()
            ))),
            Err(Missed::Stopped(cut)) => Err(cut),
            Err(Missed::Late) => Err(self.stuck(what, limit, None)),
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
