// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recordings made by hand, for tests: as a run would write them (see the room's documentation).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::event::*;
use crate::scenario::{Scenario, load};

use super::{Judgement, KnownIssues, judge, judge_round};

mod bodies;

/// The teardown's task, the handler's, init.
pub(crate) const TEARDOWN: u32 = 88;
pub(crate) const HANDLER: u32 = 40;
/// One that is neither.
pub(crate) const THIRD: u32 = 60;
const INIT: u32 = 1;

/// How the tasks of a round behave.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kernel {
    /// No lock in the teardown.
    Base,
    /// The teardown holds the lock.
    Locked,
}

pub(crate) struct Tape {
    pub events: Vec<Event>,
    pub console: Vec<u8>,
    pub references: i64,
    /// The schedule that is recorded with each round.
    pub schedule: &'static str,
    /// VFs that the next rounds bring up before they are armed.
    pub vfs: u64,
    next: u64,
    clock: u64,
    created: u64,
    released: u64,
    unplugs: u32,
    /// pci_devs of VFs that are there, by VF, and the number of the last one that was made.
    devices: BTreeMap<u16, u64>,
    last_device: u64,
}

pub(crate) fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn scenario(name: &str, rounds: u32) -> Scenario {
    load(
        name,
        &data("guest-tests/scenarios"),
        &[("rounds", rounds.into())],
    )
    .unwrap()
}

pub(crate) fn known() -> KnownIssues {
    KnownIssues::load(&data("guest-tests/expect/known.toml")).unwrap()
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(data("tests/fixtures").join(format!("{name}.log"))).unwrap()
}

impl Tape {
    /// A run of `kernel` that has booted.
    pub fn booted(kernel: &str) -> Tape {
        let mut tape = Tape::begun(kernel);
        tape.guest(
            INIT,
            Observation::Hello {
                release: "7.2.12".into(),
                version: 3,
            },
        );
        tape.guest(INIT, Observation::AgentReady);
        tape
    }

    /// A run of `kernel` of which nothing was heard yet.
    pub fn begun(kernel: &str) -> Tape {
        let mut tape = Tape {
            events: Vec::new(),
            console: b"Linux version 7.2.12\n".to_vec(),
            references: 9,
            schedule: "teardown first",
            vfs: 3,
            next: 0,
            clock: 4_000_000_000,
            created: 0,
            released: 0,
            unplugs: 0,
            devices: BTreeMap::new(),
            last_device: 0,
        };
        tape.push(EventKind::RunStarted {
            scenario: "x".into(),
            kernel: kernel.into(),
            kernel_id: "0".into(),
            arch: Arch::default(),
            vfs: 3,
            accel: "tcg".into(),
            qemu: "11.1.3".into(),
            options: Vec::new(),
        });
        tape.phase(Phase::Boot, 0);
        tape
    }

    pub fn push(&mut self, kind: EventKind) {
        let number = self.events.len() as u64;
        self.events.push(Event {
            number,
            ns: number * 1_000_000,
            kind,
        });
    }

    pub fn phase(&mut self, phase: Phase, round: u32) {
        let console = self.console.len() as u64;
        self.push(EventKind::Phase {
            phase,
            round,
            console,
        });
    }

    pub fn guest(&mut self, pid: u32, what: Observation) {
        self.clock += 1_000_000;
        let (comm, cpu) = match pid {
            TEARDOWN => ("sh", 0),
            HANDLER => ("vfrace", 1),
            _ => ("init", 0),
        };
        let record = GuestRecord {
            number: self.next,
            guest_ns: self.clock,
            pid,
            cpu,
            comm: comm.into(),
            what,
        };
        self.next += 1;
        self.push(EventKind::Guest(record));
    }

    pub fn prints(&mut self, text: &str) {
        self.console.extend_from_slice(text.as_bytes());
    }

    pub fn enter(&mut self, pid: u32, call: &str, function: FunctionId, stack: &[&str]) {
        let stack = stack.iter().map(|s| (*s).to_owned()).collect();
        self.guest(
            pid,
            Observation::Enter {
                call: call.into(),
                function: Some(function),
                instance: None,
                stack,
            },
        );
    }

    pub fn leave(&mut self, pid: u32, call: &str, function: FunctionId) {
        self.guest(
            pid,
            Observation::Return {
                call: call.into(),
                function: Some(function),
            },
        );
    }

    pub fn measure(&mut self, label: &str, pf_references: i64) {
        let values = Invariants {
            pf_references,
            bus_references: 5 + (self.created - self.released) as i64,
            vfs_created: self.created,
            vfs_released: self.released,
            lock_owner: 0,
            lock_depth: 0,
            vfs: Some(self.rows()),
            lists: Some(Lists {
                walked: 9,
                entries: 40,
                ..Lists::default()
            }),
            ..Invariants::default()
        };
        self.guest(
            INIT,
            Observation::Measured {
                label: label.into(),
                values,
            },
        );
    }

    /// The VFs that are there.
    fn rows(&self) -> Vec<VfReferences> {
        let row = |vf: &u16| VfReferences {
            first: FunctionId::Vf(*vf),
            last: FunctionId::Vf(*vf),
            references: 7,
        };
        self.devices.keys().map(row).collect()
    }

    pub fn done(&mut self) {
        self.guest(
            INIT,
            Observation::Done {
                command: 7,
                status: 0,
            },
        );
    }

    fn stack(pid: u32) -> &'static [&'static str] {
        match pid {
            TEARDOWN => &[
                "pci_iov_remove_virtfn+0x2ab/0x4d0",
                "sriov_disable",
                "pci_disable_sriov",
                "virtio_pci_remove",
            ],
            _ => &[
                "pci_iov_remove_virtfn+0x2ab/0x4d0",
                "vfrace_unplug_platform",
                "vfrace_poll",
                "kthread",
            ],
        }
    }

    pub fn removal_begins(&mut self, pid: u32, vf: u16) {
        self.enter(
            pid,
            "pci_stop_and_remove_bus_device",
            FunctionId::Vf(vf),
            Self::stack(pid),
        );
        self.stop(pid, vf);
    }

    pub fn removal_ends(&mut self, pid: u32, vf: u16) {
        match self.devices.contains_key(&vf) {
            true => {
                self.deletion_begins(pid, vf);
                self.deletion_ends(pid, vf);
            }
            // It finds everything done.
            false => {
                let device = self.device(vf);
                self.body(pid, "pci_destroy_dev", vf, device);
                self.body_ends(pid, "pci_destroy_dev", vf);
            }
        }
        self.leave(pid, "pci_stop_and_remove_bus_device", FunctionId::Vf(vf));
    }

    pub fn remove(&mut self, pid: u32, vf: u16) {
        self.removal_begins(pid, vf);
        self.removal_ends(pid, vf);
    }

    /// Up to where the schedule begins.
    pub fn ready(&mut self, round: u32) {
        self.measure("before", self.references);
        self.created += self.vfs;
        for vf in 1..=self.vfs {
            self.last_device += 1;
            self.devices.insert(vf as u16, self.last_device);
        }
        self.measure("armed", self.references + 3 + self.vfs as i64);
        self.phase(Phase::Armed, round);
        self.push(EventKind::Schedule {
            text: self.schedule.into(),
        });
    }

    /// The teardown's task begins.
    pub fn tears(&mut self, round: u32) {
        self.phase(Phase::Teardown, round);
        self.guest(
            TEARDOWN,
            Observation::Task {
                role: "teardown".into(),
            },
        );
    }

    /// Up to the beginning of the teardown.
    pub fn arm(&mut self, round: u32) {
        self.ready(round);
        self.tears(round);
        self.enter(
            TEARDOWN,
            "sriov_disable",
            FunctionId::Pf,
            &["pci_disable_sriov"],
        );
    }

    pub fn lock(&mut self, pid: u32) {
        self.guest(pid, Observation::LockWait { owner: 0 });
        self.guest(pid, Observation::LockTaken { nested: false });
    }

    pub fn fire(&mut self) -> u32 {
        self.unplugs += 1;
        let (number, point) = (self.unplugs, "vf2:wire:GET_VRING_BASE#0@request".to_owned());
        self.push(EventKind::PointReached { point });
        self.push(EventKind::UnplugFired {
            actuator: "platform".into(),
            target: Target::Function(FunctionId::Vf(2)),
            number,
        });
        number
    }

    pub fn seen(&mut self, event: u32) {
        self.guest(
            HANDLER,
            Observation::UnplugSeen {
                event,
                function: Some(FunctionId::Vf(2)),
            },
        );
    }

    /// An unplug that is not of a VF by the platform is ordered, and its handler begins.
    pub fn unplug(&mut self, actuator: &str, target: Target) -> u32 {
        self.unplugs += 1;
        let number = self.unplugs;
        self.push(EventKind::UnplugFired {
            actuator: actuator.into(),
            target,
            number,
        });
        self.guest(
            HANDLER,
            Observation::UnplugSeen {
                event: number,
                function: target.function(),
            },
        );
        number
    }

    pub fn unplugged(&mut self, event: u32, status: i32) {
        self.guest(HANDLER, Observation::UnplugDone { event, status });
    }

    /// A task is at a call point, and is held there.
    pub fn at(&mut self, pid: u32, point: &str) {
        let point = point.to_owned();
        self.guest(pid, Observation::Point { point });
    }

    /// The hold there is over.
    pub fn goes_on(&mut self, pid: u32, point: &str, end: HoldEnd) {
        let point = point.to_owned();
        let held_ns = 2_500_000;
        self.guest(
            pid,
            Observation::HoldOver {
                point,
                held_ns,
                end,
            },
        );
    }

    /// The guest says where a side is.
    pub fn state(&mut self, role: impl Into<Part>, lock: &str, owner: u32, stack: &[&str]) {
        self.state_at(role, lock, owner, stack, None, None);
    }

    /// The guest says where a task is, and what it did so far.
    pub fn state_at(
        &mut self,
        role: impl Into<Part>,
        lock: &str,
        owner: u32,
        stack: &[&str],
        switches: Option<u64>,
        sleeps: Option<bool>,
    ) {
        let role = role.into();
        let (task, name) = match role {
            Part::Teardown => (TEARDOWN, "sh"),
            Part::Unplug => (HANDLER, "vfrace-unplug"),
            Part::Other => (THIRD, "irq/24-pciehp"),
        };
        self.guest(
            INIT,
            Observation::TaskState {
                role,
                task,
                name: name.into(),
                lock: lock.into(),
                owner,
                switches,
                sleeps,
                stack: stack.iter().map(|s| (*s).to_owned()).collect(),
            },
        );
    }

    /// A VF is brought up by a task.
    pub fn add(&mut self, pid: u32, vf: u16) {
        self.last_device += 1;
        self.devices.insert(vf, self.last_device);
        let vf = FunctionId::Vf(vf);
        self.enter(pid, "pci_iov_add_virtfn", vf, &["sriov_enable"]);
        self.created += 1;
        self.leave(pid, "pci_iov_add_virtfn", vf);
    }

    /// A round in which the VF 2 is unplugged in the middle of its removal.
    pub fn raced(&mut self, round: u32, kernel: Kernel) {
        let locked = kernel == Kernel::Locked;
        self.schedule =
            "teardown first; vf2:wire:GET_VRING_BASE#0@request fire until other-committed <=100ms";
        self.arm(round);
        if locked {
            self.lock(TEARDOWN);
        }
        self.remove(TEARDOWN, 1);
        self.removal_begins(TEARDOWN, 2);
        let event = self.fire();
        self.seen(event);
        if locked {
            self.guest(HANDLER, Observation::LockWait { owner: TEARDOWN });
        } else {
            self.lock(HANDLER);
            self.removal_begins(HANDLER, 2);
            self.references -= 1;
        }
        self.push(EventKind::HoldEnded {
            point: "vf2:wire:GET_VRING_BASE#0@request".into(),
            held_ns: 8_500_000,
            end: HoldEnd::Reached,
        });
        self.removal_ends(TEARDOWN, 2);
        if !locked {
            self.removal_ends(HANDLER, 2);
            self.guest(HANDLER, Observation::LockRelease);
            self.guest(HANDLER, Observation::UnplugDone { event, status: 0 });
        }
        self.remove(TEARDOWN, 3);
        if locked {
            self.guest(TEARDOWN, Observation::LockRelease);
            self.guest(HANDLER, Observation::LockTaken { nested: false });
            self.guest(HANDLER, Observation::LockRelease);
            self.guest(HANDLER, Observation::UnplugDone { event, status: 0 });
        }
        self.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
        self.settle(round);
    }

    /// A round in which nobody interferes.
    pub fn quiet(&mut self, round: u32) {
        self.arm(round);
        for vf in 1..=3 {
            self.remove(TEARDOWN, vf);
        }
        self.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
        self.settle(round);
    }

    /// A whole run of one round in which `between` acts between two removals and, again, behind the last.
    pub fn quiet_with(&mut self, between: impl Fn(&mut Tape, bool)) {
        self.arm(1);
        self.remove(TEARDOWN, 1);
        self.remove(TEARDOWN, 2);
        between(self, false);
        self.remove(TEARDOWN, 3);
        self.leave(TEARDOWN, "sriov_disable", FunctionId::Pf);
        between(self, true);
        self.settle(1);
        self.finish();
    }

    /// Both are back, and all VFs are gone.
    pub fn settle(&mut self, round: u32) {
        self.done();
        self.settled(round, 0);
    }

    /// Both are back, and so many VFs are there.
    pub fn settled(&mut self, round: u32, left: u64) {
        self.released = self.created - left;
        self.phase(Phase::Settle, round);
        self.measure("after", self.references + left as i64);
    }

    /// The teardown's command ends with an error.
    pub fn fails(&mut self) {
        self.guest(
            INIT,
            Observation::Done {
                command: 7,
                status: 1,
            },
        );
    }

    /// The last step.
    pub fn finish(&mut self) {
        self.phase(Phase::FinalRemove, 0);
        self.done();
        self.released = self.created;
        self.devices.clear();
        self.measure("final", -1);
        self.phase(Phase::PowerOff, 0);
    }

    pub fn cut(&mut self, infrastructure: bool) {
        self.push(EventKind::Cut {
            reason: "no answer within 30 s".into(),
            infrastructure,
        });
    }

    /// Changes the values of the last measurement.
    pub fn after(&mut self, change: impl Fn(&mut Invariants)) {
        let last = self
            .events
            .iter_mut()
            .rev()
            .find_map(|e| match &mut e.kind {
                EventKind::Guest(GuestRecord {
                    what: Observation::Measured { values, .. },
                    ..
                }) => Some(values),
                _ => None,
            });
        change(last.unwrap());
    }

    pub fn judge_round(&self, scenario: &Scenario, round: u32) -> Judgement {
        judge_round(scenario, &self.events, &self.console, &known(), round)
    }

    pub fn judge(&self, scenario: &Scenario) -> Judgement {
        judge(scenario, &self.events, &self.console, &known())
    }
}

/// A whole run of the race.
pub(crate) fn race(name: &str, kernel: Kernel, rounds: u32) -> Tape {
    let mut tape = Tape::booted(name);
    for round in 1..=rounds {
        tape.raced(round, kernel);
    }
    tape.finish();
    tape
}

/// A whole run of the control.
pub(crate) fn control(rounds: u32) -> Tape {
    let mut tape = Tape::booted("base");
    for round in 1..=rounds {
        tape.quiet(round);
    }
    tape.finish();
    tape
}
