// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a scenario needs of the guest's architecture. A guest of s390x has no bridge and no slot that several functions
//! share: zPCI (Linux arch/s390/pci) shows each function to the guest by itself.

use crate::arch::Arch;
use crate::event::{FunctionId, Target};

use super::{
    Actuator, At, LockName, Point, Scenario, ScenarioError, Schedule, Teardown, Unplug, Until,
};

/// Most VFs on s390x: QEMU's pci.0 has 32 slots there, each function needs one of its own (QEMU's IOMMU is one a slot,
/// hw/s390x/s390-pci-bus.c), and slot 0, the mailbox and the PF take one each.
pub const MOST_VFS_S390X: u16 = 29;

impl Scenario {
    /// The same on guests of `arch`: with the schedule that the file has for it, if it has one.
    ///
    /// # Errors
    /// As [`Scenario::fits`].
    pub fn on(mut self, arch: Arch) -> Result<Self, ScenarioError> {
        if let Some(schedule) = self.schedule_on.remove(&arch) {
            self.schedule = schedule;
        }
        self.schedule_on.clear();
        self.fits(arch)?;
        Ok(self)
    }

    /// An error that says what guests of `arch` lack for it, if there is something.
    pub fn fits(&self, arch: Arch) -> Result<(), ScenarioError> {
        let lacks = match arch {
            _ if !self.only_on.is_empty() && !self.only_on.contains(&arch) => {
                let others: Vec<&str> = self.only_on.iter().map(|arch| arch.name()).collect();
                Some(format!("it is about {}", others.join(" and ")))
            }
            Arch::X86_64 => lacks_on_x86_64(self),
            Arch::S390x => lacks_on_s390x(self),
        };
        match lacks {
            None => Ok(()),
            Some(what) => Err(ScenarioError::Lacks {
                scenario: self.name.clone(),
                arch,
                what,
                hint: "another --arch, or another scenario: `vfrace run` lists them".to_owned(),
            }),
        }
    }
}

impl Unplug {
    /// Whether the platform itself does it on guests of `arch`: on s390x functions are unplugged by the machine, where the
    /// guest's module plays that on x86_64.
    pub fn by_zpci(&self, arch: Arch) -> bool {
        let own = match self.actuator {
            Actuator::Platform | Actuator::PlatformSurprise => true,
            // What s390's handler does for a PF; a VF it never removes in this way.
            Actuator::PlatformDevice => self.target == Target::Function(FunctionId::Pf),
            _ => false,
        };
        arch == Arch::S390x && own
    }
}

fn lacks_on_x86_64(scenario: &Scenario) -> Option<String> {
    if scenario.teardown == Teardown::Recover {
        return Some("a function has no file `recover`, which is zPCI's".to_owned());
    }
    let unplug = scenario.unplug?;
    if unplug.actuator == Actuator::PlatformSurprise {
        return Some("no platform takes a single function away without asking".to_owned());
    }
    if unplug.actuator == Actuator::SysfsRemove
        && matches!(unplug.target, Target::Function(FunctionId::Vf(_)))
    {
        return Some("a VF has no file `remove`".to_owned());
    }
    // The guest's module plays the platform, one event a round.
    (unplug.target == Target::Vfs)
        .then(|| "no platform unplugs several VFs in one burst".to_owned())
}

fn lacks_on_s390x(scenario: &Scenario) -> Option<String> {
    let actuator = scenario.unplug.map(|unplug| unplug.actuator);
    let target = scenario.unplug.map(|unplug| unplug.target);
    if scenario.teardown == Teardown::SlotPowerOff {
        return Some("there is no slot of pciehp's that could be powered off".to_owned());
    }
    if scenario.teardown.ends_with_vfs() && !scenario.teardown.keeps_vfs() {
        let why =
            "VFs come by events of the platform, which are not played while the other side runs";
        return Some(why.to_owned());
    }
    if let Some(
        actuator @ (Actuator::PciehpSurprise | Actuator::PciehpButton | Actuator::SysfsPower),
    ) = actuator
    {
        let name = actuator.name();
        return Some(format!("there is no slot with all functions for `{name}`"));
    }
    if target == Some(Target::Slot) {
        return Some("there is no slot with all functions".to_owned());
    }
    if target == Some(Target::Function(FunctionId::Bridge)) || names_bridge(&scenario.schedule) {
        return Some("there is no bridge above the PF".to_owned());
    }
    if scenario.vfs > MOST_VFS_S390X {
        let vfs = scenario.vfs;
        return Some(format!(
            "there is room for {MOST_VFS_S390X} VFs, and it has {vfs}"
        ));
    }
    None
}

/// Whether a schedule is about the bridge.
fn names_bridge(schedule: &Schedule) -> bool {
    let is = |point: &Point| point.function == Some(FunctionId::Bridge);
    schedule.steps.iter().any(|step| {
        let waits = step.hold.as_ref().map(|hold| &hold.until);
        matches!(&step.at, At::Point(point) if is(point))
            || matches!(waits, Some(Until::OtherAt(point)) if is(point))
            || matches!(
                waits,
                Some(Until::OtherBlocked(Some(LockName::Device(
                    FunctionId::Bridge
                ))))
            )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exit::ExitCode;
    use crate::scenario::load;

    #[test]
    fn what_an_architecture_lacks_is_refused_by_name() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
        let scenario = |name: &str| load(name, &dir, &[]).unwrap();
        for name in [
            "unbind-vs-vf-unplug",
            "unbind-alone",
            "pf-remove-with-vfs",
            "reset-alone",
        ] {
            scenario(name).fits(Arch::S390x).unwrap();
        }
        for (name, word) in [
            ("unbind-vs-surprise", "pciehp-surprise"),
            ("unbind-vs-button", "pciehp-button"),
            ("slot-power-alone", "slot"),
            ("numvfs-cycle-alone", "not played"),
            ("unbind-vs-bridge-remove", "bridge"),
            ("numvfs-on-vs-rescan", "not played"),
        ] {
            scenario(name).fits(Arch::X86_64).unwrap();
            let error = scenario(name).fits(Arch::S390x).unwrap_err();
            assert_eq!(error.exit(), ExitCode::Usage);
            let text = error.to_string();
            assert!(
                text.contains(word) && text.contains("s390x") && text.contains(name),
                "{text}"
            );
        }
        for (name, word) in [
            ("unbind-vs-pf-unplug", "about s390x"),
            ("unbind-vs-vf-loss", "without asking"),
            ("unbind-vs-pf-loss", "without asking"),
            ("unbind-vs-vfs-burst", "one burst"),
            ("unbind-vs-vf-remove", "no file `remove`"),
        ] {
            scenario(name).fits(Arch::S390x).unwrap();
            let error = scenario(name).fits(Arch::X86_64).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let own = |arch| {
            let scenario = scenario("unbind-vs-vf-unplug").on(arch).unwrap();
            scenario.schedule.to_string()
        };
        assert!(own(Arch::X86_64).contains("vf2:wire:GET_VRING_BASE#0@request"));
        assert!(own(Arch::S390x).contains("teardown/vf2:call:pci_destroy_dev#0@enter"));
        let many = load("unbind-vs-vf-unplug", &dir, &[("vfs", 30)]).unwrap();
        let error = many.fits(Arch::S390x).unwrap_err().to_string();
        assert!(error.contains("29 VFs, and it has 30"), "{error}");
    }
}
