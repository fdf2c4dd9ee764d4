// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The proof that teardown and unplug met in a round. Without it a quiet round says nothing about the kernel.

use crate::event::{FunctionId, GuestRecord, Observation, Role};
use crate::scenario::{Actuator, Scenario, Teardown};

use super::invariants::{Round, symbol};
use super::removals::Removal;

/// The function within which a teardown removes its VFs (drivers/pci/iov.c).
pub const TEARDOWN: &str = "sriov_disable";
/// The function within which VFs are brought up, and removed again on an error (drivers/pci/iov.c).
pub const BRING_UP: &str = "sriov_enable";

/// How the two met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// One found pci_rescan_remove_lock taken by the other and waited until it was released.
    Waited {
        /// Who waited.
        waiter: Role,
        /// The function that the teardown was in, or about to be.
        within: &'static str,
        /// Nanoseconds from the teardown's entry into it to the handler's entry; negative: the handler was first.
        entered: i64,
        /// Nanoseconds that the waiter waited for the lock.
        waited: u64,
        /// Nanoseconds from the other's release to the waiter's acquisition.
        handed_over: u64,
    },
    /// Both ran the removal of the target at the same time, for this many nanoseconds.
    Collided {
        /// The function that the teardown was in, or about to be.
        within: &'static str,
        /// Nanoseconds from the teardown's entry into it to the handler's entry; negative: the handler was first.
        entered: i64,
        /// Nanoseconds for which both removals ran.
        together: u64,
    },
    /// Both tasks were under way at the same time, and every hold led where it should.
    Together {
        /// Nanoseconds for which both were; `None`: to the end, neither came back.
        together: Option<u64>,
        /// What each hold waited for and got, in words.
        holds: Vec<String>,
    },
}

/// Shows that the teardown and the handler of the one unplug of this round overlapped, or says why that is not shown.
///
/// For the removal of a VF by the platform, either one side waited for the lock that the other held and got it after a
/// release, the owner having removed the target; or the removals of the target by both overlap in time. For all other
/// unplugs, the times of both tasks overlap and every hold that waits for something got it.
pub fn overlap(scenario: &Scenario, round: &Round<'_>) -> Result<Overlap, String> {
    let fired = round.fired();
    let [(number, target)] = fired.as_slice() else {
        return Err(match fired.len() {
            0 => "the point was not reached: no unplug was fired".to_owned(),
            n => format!("{n} unplugs were fired instead of one"),
        });
    };
    let teardown = round
        .teardown()
        .ok_or("it is not known which task tore down")?;
    let handler = round
        .seen(*number)
        .ok_or("the handler did not notice the unplug")?;
    if handler.pid == teardown.pid {
        return Err("the teardown's own task handled the unplug".to_owned());
    }
    let done = round.unplugged(*number);
    if let Some(Observation::UnplugDone { status, .. }) = done.map(|r| &r.what) {
        if *status != 0 {
            return Err(format!(
                "the unplug was refused with error {}",
                status.unsigned_abs()
            ));
        }
    }
    let platform = scenario.unplug.is_some_and(|u| {
        matches!(
            u.actuator,
            Actuator::Platform | Actuator::PlatformDevice | Actuator::PlatformSurprise
        )
    });
    let by_itself = !matches!(scenario.teardown, Teardown::SlotPowerOff | Teardown::Reset);
    match target.function() {
        Some(vf @ FunctionId::Vf(_)) if platform && by_itself => {
            let forced = round.plan(scenario);
            let forced: Vec<_> = forced.into_iter().filter(|step| step.returns).collect();
            round.kept(&forced)?;
            Meeting::new(scenario, round, teardown, handler, vf)?.shown()
        }
        _ => together(scenario, round, teardown, handler, done),
    }
}

fn together(
    scenario: &Scenario,
    round: &Round<'_>,
    teardown: &GuestRecord,
    handler: &GuestRecord,
    done: Option<&GuestRecord>,
) -> Result<Overlap, String> {
    let began = teardown.guest_ns.max(handler.guest_ns);
    let torn_down = round.teardown_done().map(|(r, _)| r.guest_ns);
    let end = |a: Option<u64>| a.unwrap_or(u64::MAX);
    let ended = end(torn_down).min(end(done.map(|r| r.guest_ns)));
    let together = match ended.checked_sub(began) {
        None | Some(0) => {
            return Err(match teardown.guest_ns < handler.guest_ns {
                true => "the teardown was done before the handler began".to_owned(),
                false => "the handler was done before the teardown began".to_owned(),
            });
        }
        Some(_) if ended == u64::MAX => None,
        Some(ns) => Some(ns),
    };
    let holds = round.kept(&round.plan(scenario))?;
    Ok(Overlap::Together { together, holds })
}

/// The two sides of the removal of a VF by the platform.
struct Meeting<'a> {
    round: &'a Round<'a>,
    teardown: &'a GuestRecord,
    handler: &'a GuestRecord,
    vf: FunctionId,
    within: &'static str,
    /// From the teardown's entry into `within` to the handler's.
    entered: i64,
    /// The teardown's return from `within`.
    ended: u64,
    /// The teardown is there to remove the VF.
    removes: bool,
    removals: Vec<Removal>,
}

impl<'a> Meeting<'a> {
    fn new(
        scenario: &Scenario,
        round: &'a Round<'a>,
        teardown: &'a GuestRecord,
        handler: &'a GuestRecord,
        vf: FunctionId,
    ) -> Result<Self, String> {
        let begins_with_vfs = scenario.teardown.begins_with_vfs();
        let within = if begins_with_vfs { TEARDOWN } else { BRING_UP };
        let window = |begins: bool| {
            round.records().find(|r| {
                r.pid == teardown.pid
                    && match &r.what {
                        Observation::Enter { call, .. } => begins && symbol(call) == within,
                        Observation::Return { call, .. } => !begins && symbol(call) == within,
                        _ => false,
                    }
            })
        };
        let began = window(true)
            .ok_or_else(|| format!("the teardown never entered {within}"))?
            .guest_ns;
        let ended = match window(false) {
            Some(r) => r.guest_ns,
            None if round.teardown_status().is_some() => {
                return Err(format!(
                    "the teardown's return from {within} was not observed"
                ));
            }
            // It is still inside.
            None => u64::MAX,
        };
        if handler.guest_ns > ended {
            return Err(format!(
                "the handler entered outside of the teardown's {within}"
            ));
        }
        let distance =
            |from: u64, to: u64| i64::try_from(to.saturating_sub(from)).unwrap_or(i64::MAX);
        let entered = match handler.guest_ns >= began {
            true => distance(began, handler.guest_ns),
            false => -distance(handler.guest_ns, began),
        };
        let mut removals = round.removals();
        removals.retain(|r| r.vf == vf);
        Ok(Self {
            round,
            teardown,
            handler,
            vf,
            within,
            entered,
            ended,
            removes: begins_with_vfs || round.fails_by_design(scenario),
            removals,
        })
    }

    fn by(&self, who: &GuestRecord) -> Option<&Removal> {
        self.removals.iter().find(|r| r.pid == who.pid)
    }

    fn shown(&self) -> Result<Overlap, String> {
        let vf = self.vf;
        match (self.by(self.teardown), self.by(self.handler)) {
            (Some(a), Some(b)) if a.incarnation == b.incarnation => {
                let end = a.ended.unwrap_or(u64::MAX).min(b.ended.unwrap_or(u64::MAX));
                let (within, entered) = (self.within, self.entered);
                let collided = |together| Overlap::Collided {
                    within,
                    entered,
                    together,
                };
                match end.checked_sub(a.began.max(b.began)) {
                    Some(_) if end == u64::MAX => Ok(collided(0)),
                    Some(together) => Ok(collided(together)),
                    // The second may have found everything done, behind a lock.
                    None => self
                        .waited(Role::Unplug)
                        .map_err(|_| format!("both removed {vf}, one after the other")),
                }
            }
            // It was there again, or still: the handler's removal follows the teardown's work on the VFs.
            (Some(_), Some(_)) => self.waited(Role::Unplug),
            // Only a wait can show that the handler was early, or late, and not simply alone.
            (None, Some(_)) => match (self.waited(Role::Teardown), self.removes) {
                (Ok(shown), _) => Ok(shown),
                (Err(_), true) => Err(format!(
                    "the handler alone removed {vf}, before the teardown came to it"
                )),
                (Err(_), false) => self.waited(Role::Unplug),
            },
            (None, None) if self.removes => Err(format!("neither task removed {vf}")),
            (Some(_), None)
                if self.removals.len() > 1 && self.removals.iter().all(|r| r.incarnation == 0) =>
            {
                Err(format!("{vf} was removed {} times", self.removals.len()))
            }
            (_, None) => self.waited(Role::Unplug),
        }
    }

    /// That `waiter` waited for the lock that the other held, and got it when the other had removed the VF.
    fn waited(&self, waiter: Role) -> Result<Overlap, String> {
        let (me, other, name, owner) = match waiter {
            Role::Unplug => (self.handler, self.teardown, "handler", "teardown"),
            Role::Teardown => (self.teardown, self.handler, "teardown", "handler"),
        };
        let begin = self.handler.guest_ns;
        let wait = self
            .round
            .records()
            .filter(|r| r.pid == me.pid && r.guest_ns >= begin && r.guest_ns <= self.ended)
            .find(|r| matches!(r.what, Observation::LockWait { owner } if owner == other.pid));
        let Some(wait) = wait else {
            return Err(format!(
                "the {name} did not have to wait for a lock that the {owner} held"
            ));
        };
        let taken = self.round.records().find(|r| {
            r.pid == me.pid
                && r.number > wait.number
                && matches!(r.what, Observation::LockTaken { .. })
        });
        let Some(taken) = taken else {
            return Err(format!("the {name} never got the lock that it waited for"));
        };
        let release = self
            .round
            .records()
            .filter(|r| r.pid == other.pid && r.what == Observation::LockRelease)
            .filter(|r| (wait.guest_ns..=taken.guest_ns).contains(&r.guest_ns))
            .max_by_key(|r| r.guest_ns);
        let Some(release) = release else {
            return Err(format!(
                "the {name} got the lock without a release by the {owner}"
            ));
        };
        let must_remove = waiter == Role::Teardown || self.removes;
        let removal = self.by(other);
        if must_remove && removal.is_none_or(|r| r.began > taken.guest_ns) {
            return Err(format!(
                "the {name} had the lock before the {owner} removed {}",
                self.vf
            ));
        }
        Ok(Overlap::Waited {
            waiter,
            within: self.within,
            entered: self.entered,
            waited: taken.guest_ns.saturating_sub(wait.guest_ns),
            handed_over: taken.guest_ns.saturating_sub(release.guest_ns),
        })
    }
}
