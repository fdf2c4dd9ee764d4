// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! qemu.

pub mod probe;
pub mod provide;
