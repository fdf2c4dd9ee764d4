// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions that a VF's pci_dev goes through once in its life when it is removed, and who went through them: what
//! stays silent in a kernel whose own checks let the second task pass without a word.

use std::collections::BTreeMap;

use super::invariants::{Round, frames, symbol};
use super::removals::{ADD_VF, DELETE};
use crate::event::{FunctionId, Observation};

/// Takes the driver away (drivers/pci/remove.c). Behind its check of the ADDED bit, or flag in older kernels.
pub const STOP: &str = "pci_stop_dev";
/// Deletes the device and takes it off its bus's list (drivers/pci/remove.c), once its check has been passed: of the
/// REMOVED bit, or of the kobject's parent before there was one.
pub const DESTROY: &str = "pci_destroy_dev";
/// Frees the pci_dev when its last reference is put (drivers/pci/probe.c).
pub const RELEASE: &str = "pci_release_dev";

const BODIES: [&str; 4] = [STOP, DESTROY, DELETE, RELEASE];

/// One task's way through one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The function of the kernel.
    pub call: &'static str,
    /// The VF.
    pub vf: FunctionId,
    /// Which of its pci_devs.
    pub instance: Option<u64>,
    /// How often the VF had been created in the round when this began.
    pub incarnation: u32,
    /// Task, name and CPU.
    pub pid: u32,
    /// The task's name.
    pub comm: String,
    /// The CPU.
    pub cpu: u32,
    /// Guest time of the entry, nanoseconds.
    pub began: u64,
    /// Guest time of the return, if it returned.
    pub ended: Option<u64>,
    /// For a [`DESTROY`]: it got past its check, which shows in a [`DELETE`] inside of it.
    pub past: bool,
    /// Callers, innermost first, without offsets and without our own wrappers.
    pub stack: Vec<String>,
}

impl Round<'_> {
    /// All of them in the round, in order of their beginning.
    pub fn bodies(&self) -> Vec<Body> {
        let mut bodies: Vec<Body> = Vec::new();
        let mut created: BTreeMap<FunctionId, u32> = BTreeMap::new();
        for record in self.records() {
            let mine = |b: &&mut Body, call: &str| {
                b.call == call && b.pid == record.pid && b.ended.is_none()
            };
            match &record.what {
                Observation::Enter {
                    call,
                    function: Some(vf @ FunctionId::Vf(_)),
                    instance,
                    stack,
                } => {
                    let call = symbol(call);
                    let lives = created.entry(*vf).or_default();
                    if call == ADD_VF {
                        *lives = lives.saturating_add(1);
                    }
                    let Some(call) = BODIES.into_iter().find(|body| *body == call) else {
                        continue;
                    };
                    if call == DELETE {
                        let mut around = bodies.iter_mut().rev();
                        if let Some(around) = around.find(|b| mine(b, DESTROY) && b.vf == *vf) {
                            around.past = true;
                        }
                    }
                    bodies.push(Body {
                        call,
                        vf: *vf,
                        instance: *instance,
                        incarnation: *lives,
                        pid: record.pid,
                        comm: record.comm.clone(),
                        cpu: record.cpu,
                        began: record.guest_ns,
                        ended: None,
                        past: false,
                        stack: frames(stack),
                    });
                }
                Observation::Return { call, function } => {
                    let call = symbol(call);
                    let returns = bodies
                        .iter_mut()
                        .rev()
                        .find(|b| mine(b, call) && function.is_none_or(|f| f == b.vf));
                    if let Some(body) = returns {
                        body.ended = Some(record.guest_ns);
                    }
                }
                _ => {}
            }
        }
        bodies
    }

    /// pci_devs of VFs that were deleted or released more than once, each with the function that ran too often and its
    /// runs. Goes by the pci_dev, not by the VF: one that is late to be released is another than the one that followed.
    pub fn double_bodies(&self) -> Vec<(FunctionId, &'static str, Vec<Body>)> {
        let mut runs: BTreeMap<(u64, &'static str), Vec<Body>> = BTreeMap::new();
        for body in self.bodies() {
            let once = body.call == DELETE || body.call == RELEASE;
            if let (true, Some(instance)) = (once, body.instance) {
                runs.entry((instance, body.call)).or_default().push(body);
            }
        }
        let doubles = runs.into_iter().filter(|(_, runs)| runs.len() > 1);
        doubles
            .filter_map(|((_, call), runs)| Some((runs.first()?.vf, call, runs)))
            .collect()
    }

    /// What was not observed of the removals of VFs that there were: each life ends with all four, and the deletion is
    /// inside of a [`DESTROY`].
    pub(super) fn unseen_bodies(&self) -> Vec<String> {
        let bodies = self.bodies();
        let removals = self.removals();
        let mut lives: Vec<_> = removals.iter().map(|r| (r.vf, r.incarnation)).collect();
        lives.sort_unstable();
        lives.dedup();
        let mut unseen = Vec::new();
        for (vf, life) in lives {
            // One that is late to be released is told by its number: the VF may have begun its next life.
            let deleted = bodies
                .iter()
                .find(|b| b.call == DELETE && b.vf == vf && b.incarnation == life);
            let instance = deleted.and_then(|b| b.instance);
            for call in BODIES {
                let its = |b: &Body| match instance {
                    Some(_) if call == RELEASE => b.instance == instance,
                    _ => b.vf == vf && b.incarnation == life,
                };
                let done = |b: &&Body| b.call == call && its(b) && (b.past || call != DESTROY);
                if !bodies.iter().any(|b| done(&b)) {
                    unseen.push(format!("{call} of {vf} was not observed in its removal"));
                }
            }
        }
        let open = bodies.iter().filter(|b| b.ended.is_none());
        unseen.extend(open.map(|b| format!("{} of {} was not seen to end", b.call, b.vf)));
        unseen
    }
}
