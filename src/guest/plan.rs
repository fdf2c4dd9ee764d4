// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest's module is told about a schedule: its call points, with what is done there, and the unplug.

use crate::arch::Arch;
use crate::event::{FunctionId, Role, Target};
use crate::guest::proto::CommandKind;
use crate::qemu::machine::{Places, ccw};
use crate::scenario::{
    Actuator, At, CallPhase, LockName, Point, Schedule, Step, Unplug, Until, What,
};

/// Linux' index of a function in the protocol: VFs from 0, -1 the PF, -3 the bridge.
fn index(function: FunctionId) -> i32 {
    match function {
        FunctionId::Vf(n) => i32::from(n) - 1,
        FunctionId::Pf => -1,
        FunctionId::Bridge => -3,
        FunctionId::Mailbox => -2,
    }
}

/// VFRACE_IS_ANY: the point is not scoped to a function.
const ANY: i32 = -4;

/// The guest's part of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    points: Vec<String>,
    wire_waits: Vec<(u32, Point)>,
}

impl Plan {
    /// Makes the plan of a schedule. Points are numbered by their place in it.
    pub fn new(schedule: &Schedule) -> Self {
        let mut plan = Plan::default();
        let mut watched: Vec<&Point> = Vec::new();
        // The points that others wait for first, so that a hold can name them.
        for step in &schedule.steps {
            if let Some(Until::OtherAt(point)) = step.hold.as_ref().map(|hold| &hold.until) {
                let is_step = |s: &Step| matches!(&s.at, At::Point(p) if p == point);
                if !point.is_wire()
                    && !schedule.steps.iter().any(is_step)
                    && !watched.contains(&point)
                {
                    watched.push(point);
                }
            }
        }
        let mut numbers: Vec<&Point> = watched.clone();
        numbers.extend(schedule.steps.iter().filter_map(|step| match &step.at {
            At::Point(point) if !point.is_wire() => Some(point),
            _ => None,
        }));
        let number = |point: &Point| {
            let at = numbers.iter().position(|p| *p == point);
            at.and_then(|at| u32::try_from(at).ok())
        };
        for point in watched {
            if let Some(id) = number(point) {
                plan.points.extend(line(id, point, "none", "-", 0, None));
            }
        }
        for step in &schedule.steps {
            let At::Point(point) = &step.at else { continue };
            let Some(id) = number(point) else { continue };
            let (until, what, bound) = match &step.hold {
                None => ("none", "-".to_owned(), 0),
                Some(hold) => {
                    let (until, what) = match &hold.until {
                        Until::Time => ("time", "-".to_owned()),
                        Until::OtherStarted => ("started", "-".to_owned()),
                        Until::OtherCommitted => ("committed", "-".to_owned()),
                        Until::OtherDone => ("done", "-".to_owned()),
                        Until::OtherRests => ("rests", "-".to_owned()),
                        Until::OtherBlocked(None) => ("blocked", "any".to_owned()),
                        Until::OtherBlocked(Some(LockName::RescanRemove)) => {
                            ("blocked", "rescan".to_owned())
                        }
                        Until::OtherBlocked(Some(LockName::Device(function))) => {
                            ("blocked", index(*function).to_string())
                        }
                        Until::OtherAt(other) => match number(other) {
                            Some(other) => ("at", other.to_string()),
                            None => {
                                plan.wire_waits.push((id, other.clone()));
                                ("released", "-".to_owned())
                            }
                        },
                    };
                    (until, what, hold.at_most.as_micros())
                }
            };
            plan.points
                .extend(line(id, point, until, &what, bound, step.returns));
        }
        plan
    }

    /// The texts of the commands that tell it, one a call point.
    pub fn commands(&self) -> &[String] {
        &self.points
    }

    /// Holds in the guest, by the number of their point, that end when a message comes.
    pub fn waits_for_wire(&self) -> impl Iterator<Item = (u32, &Point)> {
        self.wire_waits.iter().map(|(id, point)| (*id, point))
    }
}

/// What is done to a guest beside its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arming {
    /// The guest reports every call that it knows of both tasks.
    pub trace: bool,
    /// The kernel's sleep of one second in sriov_disable() returns at once.
    pub skip_sleep: bool,
    /// Only the functions that the judge cannot do without are wrapped.
    pub few_probes: bool,
}

/// A command for the guest's module, with what it is for in words.
pub type Told = (CommandKind, String, &'static str);

/// The commands that tell a guest with so many VFs its part of a schedule and arm it, in order. `number` is what the unplug
/// will be called.
pub fn arming(
    schedule: &Schedule,
    plan: &Plan,
    unplug: Option<&Unplug>,
    vfs: u16,
    at: Places,
    number: u32,
    how: Arming,
) -> Vec<Told> {
    let mut told = vec![(CommandKind::Point, String::new(), "forgetting the points")];
    let points = plan.commands().iter().cloned();
    told.extend(points.map(|point| (CommandKind::Point, point, "setting a point")));
    let mut words = Vec::new();
    if let Some(unplug) = unplug {
        let text = unplug_command(unplug, at, vfs, number);
        told.push((CommandKind::Unplug, text, "preparing the unplug"));
        if by_module(at.arch, unplug) {
            words.push("unplug");
            // Nothing that sleeps goes on while a message is held.
            if schedule.points().any(Point::is_wire) {
                words.push("spin");
            }
        }
    }
    let more = [
        (how.trace, "trace"),
        (how.skip_sleep, "nosleep"),
        (how.few_probes, "few"),
    ];
    words.extend(more.into_iter().filter_map(|(on, word)| on.then_some(word)));
    told.push((CommandKind::Arm, words.join(" "), "arming"));
    told
}

/// Whether the module's own thread handles the unplug.
pub fn by_module(arch: Arch, unplug: &Unplug) -> bool {
    !unplug.by_zpci(arch)
        && !matches!(
            unplug.actuator,
            Actuator::PciehpSurprise | Actuator::PciehpButton
        )
}

/// `ID ROLE SUBJECT FUNCTION PHASE NTH UNTIL WHAT BOUND_US RETURN TEXT`
fn line(
    id: u32,
    point: &Point,
    until: &str,
    what: &str,
    bound_us: u128,
    returns: Option<i64>,
) -> Option<String> {
    let What::Call { call, phase } = &point.what else {
        return None;
    };
    let role = match point.role {
        Some(Role::Teardown) => "teardown",
        Some(Role::Unplug) => "unplug",
        None => "any",
    };
    let subject = point.function.map_or(ANY, index);
    let phase = match phase {
        CallPhase::Enter => "enter",
        CallPhase::Return => "return",
    };
    let returns = returns.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let nth = point.nth;
    Some(format!(
        "{id} {role} {subject} {call} {phase} {nth} {until} {what} {bound_us} {returns} {point}"
    ))
}

/// The text of the command that says what the unplug does when it is fired. `at` says where things are in the guest,
/// `number` what the unplug will be called if the kernel's own handler does it, and `vfs` how many VFs there are.
pub fn unplug_command(unplug: &Unplug, at: Places, vfs: u16, number: u32) -> String {
    let Places {
        arch,
        pf,
        bridge,
        slot,
    } = at;
    if unplug.by_zpci(arch) {
        // An event for each function.
        let events = unplug.functions(vfs).count();
        return match events {
            1 => format!("watch zpci_event_availability {number}"),
            _ => format!("watch zpci_event_availability {number} {events}"),
        };
    }
    let devices = "/sys/bus/pci/devices";
    let address = match unplug.target {
        Target::Function(FunctionId::Bridge) => bridge.to_owned(),
        // On s390x only: elsewhere no file of a VF's is written to.
        Target::Function(FunctionId::Vf(number)) => ccw::vf_address(number),
        _ => pf.to_owned(),
    };
    let target = unplug.target.function().map_or(ANY, index);
    match unplug.actuator {
        Actuator::Platform => format!("virtfn {target}"),
        // The latter is done by zPCI only, see above.
        Actuator::PlatformDevice | Actuator::PlatformSurprise => format!("device {target}"),
        Actuator::PciehpSurprise => {
            format!("watch pciehp_handle_presence_or_link_change {number}")
        }
        Actuator::PciehpButton => format!("watch pciehp_handle_disable_request {number}"),
        Actuator::SysfsRemove => format!("write {devices}/{address}/remove 1"),
        Actuator::SysfsRescan => "write /sys/bus/pci/rescan 1".to_owned(),
        Actuator::SysfsNumvfs => format!("write {devices}/{pf}/sriov_numvfs 0"),
        Actuator::SysfsPower => format!("write {slot}/power 0"),
        Actuator::SysfsUnbind => format!("write {devices}/{pf}/driver/unbind {pf}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::machine::places;

    fn plan(text: &str) -> Plan {
        Plan::new(&text.parse().unwrap())
    }

    #[test]
    fn a_call_point_is_a_line_for_the_module() {
        let told = plan(
            "teardown/pf:call:sriov_disable fire until other-blocked(device_lock(pf)) <=5000ms; \
             vf2:wire:GET_VRING_BASE until time <=5ms; teardown/vf3:call:pci_iov_add_virtfn#1@return return -12",
        );
        assert_eq!(
            told.commands(),
            [
                "0 teardown -1 sriov_disable enter 0 blocked -1 5000000 - teardown/pf:call:sriov_disable#0@enter",
                "1 teardown 2 pci_iov_add_virtfn return 1 none - 0 -12 \
                 teardown/vf3:call:pci_iov_add_virtfn#1@return",
            ]
        );
        assert_eq!(told.waits_for_wire().count(), 0);
    }

    #[test]
    fn a_point_that_is_waited_for_is_told_as_well() {
        let told = plan(
            "teardown/vf1:call:device_del fire until other-at(unplug/any:call:pci_lock_rescan_remove) <=10ms",
        );
        let [waited_for, held] = told.commands() else {
            panic!("{told:?}")
        };
        assert!(waited_for.starts_with("0 unplug -4 pci_lock_rescan_remove enter 0 none - 0 - "));
        assert!(held.contains(" at 0 10000 - "), "{held}");
        // a step of the schedule is told once
        let told = plan(
            "teardown/vf1:call:device_del fire until other-at(unplug/vf1:call:device_del); \
             unplug/vf1:call:device_del until other-rests",
        );
        let [first, second] = told.commands() else {
            panic!("{told:?}")
        };
        assert!(first.contains(" at 1 "), "{first}");
        assert!(second.starts_with("1 unplug 0 device_del enter 0 rests - "));
    }

    #[test]
    fn a_message_is_waited_for_by_the_host() {
        let told = plan(
            "unplug first; unplug/vf1:call:device_del fire until other-at(vf1:wire:GET_VRING_BASE) <=50ms",
        );
        let waits: Vec<(u32, String)> = told
            .waits_for_wire()
            .map(|(id, point)| (id, point.to_string()))
            .collect();
        assert_eq!(waits, [(0, "vf1:wire:GET_VRING_BASE#0@request".to_owned())]);
        assert!(
            told.commands()
                .iter()
                .all(|line| line.contains(" released - 50000 "))
        );
    }

    #[test]
    fn the_unplug_is_told_with_its_target() {
        let told = |actuator, target| {
            let unplug = Unplug { actuator, target };
            let at = Places {
                arch: Arch::X86_64,
                pf: "PF",
                bridge: "BRIDGE",
                slot: "/slot",
            };
            unplug_command(&unplug, at, 3, 7)
        };
        let (vf, pf) = (FunctionId::Vf(2), FunctionId::Pf);
        let function = Target::Function;
        for (actuator, target, expected) in [
            (Actuator::Platform, function(vf), "virtfn 1"),
            (
                Actuator::PlatformDevice,
                function(FunctionId::Bridge),
                "device -3",
            ),
            (
                Actuator::PciehpSurprise,
                Target::Slot,
                "watch pciehp_handle_presence_or_link_change 7",
            ),
            (
                Actuator::PciehpButton,
                Target::Slot,
                "watch pciehp_handle_disable_request 7",
            ),
            (
                Actuator::SysfsRemove,
                function(FunctionId::Bridge),
                "write /sys/bus/pci/devices/BRIDGE/remove 1",
            ),
            (
                Actuator::SysfsRescan,
                function(pf),
                "write /sys/bus/pci/rescan 1",
            ),
            (
                Actuator::SysfsNumvfs,
                function(pf),
                "write /sys/bus/pci/devices/PF/sriov_numvfs 0",
            ),
            (Actuator::SysfsPower, Target::Slot, "write /slot/power 0"),
            (
                Actuator::SysfsUnbind,
                function(pf),
                "write /sys/bus/pci/devices/PF/driver/unbind PF",
            ),
        ] {
            assert_eq!(told(actuator, target), expected);
        }
    }

    #[test]
    fn on_s390x_the_kernels_own_handler_is_watched() {
        let all = |actuator, target| {
            let unplug = Unplug { actuator, target };
            unplug_command(&unplug, places(Arch::S390x), 4, 3)
        };
        let told = |actuator, function| all(actuator, Target::Function(function));
        let (vf, pf) = (FunctionId::Vf(2), FunctionId::Pf);
        let watched = "watch zpci_event_availability 3";
        assert_eq!(told(Actuator::Platform, vf), watched);
        assert_eq!(told(Actuator::PlatformDevice, pf), watched);
        assert_eq!(told(Actuator::PlatformSurprise, pf), watched);
        assert_eq!(told(Actuator::PlatformSurprise, vf), watched);
        for actuator in [Actuator::Platform, Actuator::PlatformSurprise] {
            let burst = all(actuator, Target::Vfs);
            assert_eq!(burst, "watch zpci_event_availability 3 4");
        }
        assert_eq!(told(Actuator::PlatformDevice, vf), "device 1");
        assert_eq!(
            told(Actuator::SysfsRemove, pf),
            "write /sys/bus/pci/devices/1000:00:00.0/remove 1"
        );
        assert_eq!(
            told(Actuator::SysfsRemove, FunctionId::Vf(9)),
            "write /sys/bus/pci/devices/1000:00:01.1/remove 1"
        );
    }
}
