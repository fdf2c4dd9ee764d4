// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The judge. It looks at a finished recording and nothing else: the events, the console's bytes, the list of known
//! issues. It never talks to QEMU or to the guest, so that an old recording can be judged again.
//!
//! # What a run must record
//!
//! The judge relies on this order; whatever is missing makes a PASS impossible.
//!
//! 1. `RunStarted` (its `kernel` is matched against the known issues: `NAME` or `NAME@VERSION`), then
//!    `Phase{Boot, 0}`. The guest's `Hello` (its release is matched as well) and `AgentReady`.
//! 2. For every round r = 1, 2, ...:
//!    - the guest's `Measured{label: "before"}`: no VFs, and the PF as the teardown leaves it behind: unbound for an
//!      unbind or rmmod, bound to its driver for a write to sriov_numvfs, a bind or a reset (a driver has references of
//!      its own), anything if the PF goes;
//!    - PF bound, VFs on, unless the teardown is one that brings them up
//!      ([`Teardown::begins_with_vfs`](crate::scenario::Teardown::begins_with_vfs)); `Measured{label: "armed"}`;
//!      `Phase{Armed, r}` with the console's length. Guest records before it do not count. `Schedule{text}` right behind it;
//!    - `Phase{Teardown, r}`; the teardown's command is the only one under way until the next phase, so that the first
//!      `Done` after it is the teardown's. The tearing task says `Task{role: "teardown"}` before it begins. With the
//!      unplug first, that is ordered before;
//!    - `PointReached`, `HoldBegan`, `UnplugFired{number}`, `HoldEnded` as they come, for call points the guest's `Point`
//!      and `HoldOver`, and the guest's `UnplugSeen{event}` and `UnplugDone{event, status}` with the number of the unplug.
//!      Fired exactly once in a round;
//!    - the guest's `Enter` and `Return` of `sriov_disable` and `sriov_enable`, of `pci_iov_add_virtfn` (it begins a new
//!      life of a VF), of `pci_stop_and_remove_bus_device`, `pci_stop_dev`, `pci_destroy_dev`, `device_del` and
//!      `pci_release_dev` for VFs, with the number of the pci_dev, and the lock records, of any task, all with the guest's
//!      clock. With the option [`FEW_PROBES`] only the first of these five. The owner in a `LockWait` is the one that really is waited for: if a task can be held
//!      at the entry of pci_lock_rescan_remove(), it is read behind the hold;
//!    - `Phase{Settle, r}` when both are back or a limit has passed. If one is not, `TaskState` of both sides and of every
//!      task that keeps them waiting, twice with some time in between unless they wait in a circle, and `Cut`;
//!      else `Measured{label: "after"}`, and only then is a PF that was removed brought back
//!      ([`Scenario::removes_pf`](crate::scenario::Scenario::removes_pf)), or are VFs that were brought up taken away.
//! 3. `Phase{FinalRemove, 0}`, the command that removes the PF and its `Done`, `Measured{label: "final"}`,
//!    `Phase{PowerOff, 0}`.
//!
//! A run that stops early says `Cut` at the place where it stopped. `infrastructure: false` means that the guest did not
//! answer in time. A boot may end after the first round that shows something wanted.
//!
//! # How the verdict is found
//!
//! INFRA > BOOT-FAIL > findings > SILENT > INCONCLUSIVE > PASS ([`judge`]). Three sources of findings: the console
//! ([`console`]), the guest's invariants ([`removals`], [`bodies`], [`locks`], [`invariants`]), tasks that did not come
//! back ([`deadlock`]). A
//! PASS needs the proof that both sides met ([`overlap`], [`holds`]). Known issues are listed and never change a verdict,
//! unless the scenario is looking for just that class. [`judge_round`] does the same for one round of a run that still
//! goes on.

pub mod bodies;
pub mod console;
pub mod deadlock;
pub mod expect;
pub mod foreign;
pub mod holds;
pub mod invariants;
pub mod known;
pub mod locks;
pub mod overlap;
pub mod removals;
mod report;
mod rules;
mod verdict;

#[cfg(test)]
pub(crate) mod builder;
#[cfg(test)]
mod tests;

pub use console::{Console, Scan};
pub use expect::{ExpectError, Expectations, Expected};
pub use invariants::{FEW_PROBES, shows_double_removal};
pub use known::{KnownError, KnownIssues};
pub use report::Report;
pub use rules::rules_page;
pub use verdict::{Judgement, judge, judge_round};
