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
//!    - the guest's `Measured{label: "before"}`: PF unbound, no VFs;
//!    - PF bound, VFs on; `Phase{Armed, r}` with the console's length. Guest records before it do not count;
//!    - `Phase{Teardown, r}`; the teardown's command is the only one under way until the next phase, so that the first
//!      `Done` after it is the teardown's. The tearing task says `Task{role: "teardown"}` before it begins;
//!    - `PointReached`, `HoldBegan`, `UnplugFired{number}`, `HoldEnded` as they come, and the guest's `UnplugSeen{event}`
//!      and `UnplugDone{event}` with the same number. Fired exactly once in a round;
//!    - the guest's `Enter` and `Return` of `sriov_disable` by the teardown, of `pci_stop_and_remove_bus_device` by
//!      whoever removes a VF, and the lock records of both tasks, all with the guest's clock;
//!    - `Phase{Settle, r}` when both are back or a limit has passed; `Measured{label: "after"}`. With
//!      [`Teardown::PfRemove`](crate::scenario::Teardown::PfRemove) the PF is brought back only after that.
//! 3. `Phase{FinalRemove, 0}`, the command that removes the PF and its `Done`, `Phase{PowerOff, 0}`.
//!
//! A run that stops early says `Cut` at the place where it stopped. `infrastructure: false` means that the guest did not
//! answer in time. A boot may end after the first round that shows something wanted.
//!
//! # How the verdict is found
//!
//! INFRA > BOOT-FAIL > findings > SILENT > INCONCLUSIVE > PASS ([`judge`]). Three sources of findings: the console
//! ([`console`]), the guest's invariants ([`invariants`]), tasks that did not come back. A PASS needs the proof that
//! both sides met ([`overlap`]). Known issues are listed and never change a verdict.

pub mod console;
pub mod deadlock;
pub mod expect;
pub mod holds;
pub mod invariants;
pub mod known;
pub mod overlap;
pub mod removals;
mod report;
mod rules;
mod verdict;

#[cfg(test)]
pub(crate) mod builder;
#[cfg(test)]
mod tests;

pub use console::Console;
pub use expect::{ExpectError, Expectations};
pub use invariants::shows_double_removal;
pub use known::{KnownError, KnownIssues};
pub use report::Report;
pub use verdict::{Judgement, judge, judge_round};
