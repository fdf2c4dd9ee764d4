// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The proof that teardown and unplug met in a round. Without it a quiet round says nothing about the kernel.

use crate::event::{FunctionId, GuestRecord, Observation};

use super::invariants::{Removal, Round, symbol};

/// The function within which the teardown removes its VFs (drivers/pci/iov.c).
pub const TEARDOWN: &str = "sriov_disable";

/// How the two met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The handler found pci_rescan_remove_lock taken by the teardown, waited, and found the VF gone.
    Waited {
        /// Nanoseconds from the teardown's entry into [`TEARDOWN`] to the handler's entry.
        entered: u64,
        /// Nanoseconds that the handler waited for the lock.
        waited: u64,
        /// Nanoseconds from the teardown's release to the handler's acquisition.
        handed_over: u64,
    },
    /// Both ran the removal of the target at the same time, for this many nanoseconds.
    Collided {
        /// Nanoseconds from the teardown's entry into [`TEARDOWN`] to the handler's entry.
        entered: u64,
        /// Nanoseconds for which both removals ran.
        together: u64,
    },
}

/// Shows that the teardown and the handler of the one unplug of this round overlapped, or says why that is not shown.
///
/// The handler must have noticed the event while the teardown was in [`TEARDOWN`]. Then either it waited for the lock
/// that the teardown held, got it after the teardown's release, and only the teardown removed the target; or the
/// removals of the target by both overlap in time.
pub fn overlap(round: &Round<'_>) -> Result<Overlap, String> {
    let fired = round.fired();
    let [(number, target)] = fired.as_slice() else {
        return Err(match fired.len() {
            0 => "the point was not reached: no unplug was fired".to_owned(),
            n => format!("{n} unplugs were fired instead of one"),
        });
    };
    let target = target
        .function()
        .ok_or_else(|| format!("{target} is not a function"))?;
    let teardown = round
        .teardown()
        .ok_or("it is not known which task tore down")?;
    let handler = round
        .seen(*number)
        .ok_or("the handler did not notice the unplug")?;
    if handler.pid == teardown.pid {
        return Err("the teardown's own task handled the unplug".to_owned());
    }
    let window = |begins: bool| {
        round.records().find(|r| {
            r.pid == teardown.pid
                && match &r.what {
                    Observation::Enter { call, .. } => begins && symbol(call) == TEARDOWN,
                    Observation::Return { call, .. } => !begins && symbol(call) == TEARDOWN,
                    _ => false,
                }
        })
    };
    let began = window(true)
        .ok_or_else(|| format!("the teardown never entered {TEARDOWN}"))?
        .guest_ns;
    let ended = match window(false) {
        Some(r) => r.guest_ns,
        None if round.teardown_status().is_some() => {
            return Err(format!(
                "the teardown's return from {TEARDOWN} was not observed"
            ));
        }
        // It is still inside.
        None => u64::MAX,
    };
    let entered = handler.guest_ns.checked_sub(began);
    let Some(entered) = entered.filter(|_| handler.guest_ns <= ended) else {
        return Err(format!(
            "the handler entered outside of the teardown's {TEARDOWN}"
        ));
    };
    let removals: Vec<Removal> = round
        .removals()
        .into_iter()
        .filter(|r| r.vf == target)
        .collect();
    let by = |pid: u32| removals.iter().find(|r| r.pid == pid);
    match (by(teardown.pid), by(handler.pid)) {
        (Some(a), Some(b)) => {
            let end = a.ended.unwrap_or(u64::MAX).min(b.ended.unwrap_or(u64::MAX));
            match end.checked_sub(a.began.max(b.began)) {
                Some(_) if end == u64::MAX => Ok(Overlap::Collided {
                    entered,
                    together: 0,
                }),
                Some(together) => Ok(Overlap::Collided { entered, together }),
                None => Err(format!("both removed {target}, one after the other")),
            }
        }
        (None, Some(_)) => Err(format!(
            "the handler alone removed {target}, before the teardown came to it"
        )),
        (None, None) => Err(format!("neither task removed {target}")),
        (Some(_), None) if removals.len() > 1 => {
            Err(format!("{target} was removed {} times", removals.len()))
        }
        (Some(_), None) => waited(round, teardown, handler, ended, entered, target),
    }
}

fn waited(
    round: &Round<'_>,
    teardown: &GuestRecord,
    handler: &GuestRecord,
    ended: u64,
    entered: u64,
    target: FunctionId,
) -> Result<Overlap, String> {
    let wait = round
        .records()
        .filter(|r| r.pid == handler.pid && r.guest_ns >= handler.guest_ns && r.guest_ns <= ended)
        .find(|r| matches!(r.what, Observation::LockWait { owner } if owner == teardown.pid));
    let Some(wait) = wait else {
        return Err(
            "the handler did not have to wait for a lock that the teardown held".to_owned(),
        );
    };
    let taken = round.records().find(|r| {
        r.pid == handler.pid
            && r.number > wait.number
            && matches!(r.what, Observation::LockTaken { .. })
    });
    let Some(taken) = taken else {
        return Err("the handler never got the lock that it waited for".to_owned());
    };
    let release = round
        .records()
        .filter(|r| r.pid == teardown.pid && r.what == Observation::LockRelease)
        .filter(|r| (wait.guest_ns..=taken.guest_ns).contains(&r.guest_ns))
        .max_by_key(|r| r.guest_ns);
    let Some(release) = release else {
        return Err("the handler got the lock without a release by the teardown".to_owned());
    };
    let removal = round
        .removals()
        .into_iter()
        .find(|r| r.vf == target && r.pid == teardown.pid);
    if removal.is_none_or(|r| r.began > taken.guest_ns) {
        return Err(format!(
            "the handler had the lock before the teardown removed {target}"
        ));
    }
    Ok(Overlap::Waited {
        entered,
        waited: taken.guest_ns.saturating_sub(wait.guest_ns),
        handed_over: taken.guest_ns.saturating_sub(release.guest_ns),
    })
}
