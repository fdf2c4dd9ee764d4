// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest: what it boots from, and what host and module say to each other.

pub mod control;
pub mod initramfs;
pub mod observations;
pub mod plan;
pub mod proto;
