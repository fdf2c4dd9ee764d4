// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vfrace puts breakpoints into the teardown of an SR-IOV device, pulls a VF out at exactly that point and says what
//! the kernel did: removed it once, twice, or never came back.
//!
//! Data flows one way: a [`scenario`] is [`run`], which emits typed [`event`]s; the [`oracle`] turns them into a
//! verdict; [`report`] renders both. Imports go only downwards in this list:
//! `cli`, `report`, `campaign`, `run`, `inject`, `oracle`, `guest`, `kernel`, `qemu`, `device`, `wire`, `scenario`,
//! `host`, `event`.

pub mod event;
pub mod exit;
pub mod paths;
pub mod host;
pub mod scenario;
pub mod wire;
pub mod device;
pub mod guest;
pub mod kernel;
pub mod qemu;
pub mod oracle;
pub mod report;
pub mod inject;
pub mod run;
pub mod campaign;
pub mod cli;
