// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vfrace puts breakpoints into the teardown of an SR-IOV device, pulls a VF out at exactly that point and says what
//! the kernel did: removed it once, twice, or never came back.
//!
//! Data flows one way: a [`scenario`] is [`run`], which emits typed [`event`]s; the [`oracle`] turns them into a
//! verdict; [`report`] renders both. Imports go only downwards in this list:
//! `cli`, `report`, `campaign`, `serve`, `run`, `inject`, `oracle`, `guest`, `kernel`, `qemu`, `device`, `wire`, `scenario`,
//! `symbols`, `host`, `event`. Below all of them are `arch`, `exit` and `paths`.

// They panic when nobody reads; `cli::say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod arch;
pub mod campaign;
pub mod cli;
pub mod device;
pub mod event;
pub mod exit;
pub mod guest;
pub mod host;
pub mod inject;
pub mod kernel;
pub mod oracle;
pub mod paths;
pub mod qemu;
pub mod report;
pub mod run;
pub mod scenario;
pub mod serve;
pub mod symbols;
pub mod wire;
