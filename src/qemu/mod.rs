// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: which one, its command line, its process.

pub mod machine;
pub mod process;
