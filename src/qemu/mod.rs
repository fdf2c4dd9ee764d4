// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: which one, its command line, its process.

pub mod machine;
pub mod process;

/// x
pub struct QemuBinary { /// x
 pub version: String, /// x
 pub command: Vec<std::ffi::OsString>, /// x
 pub env: Vec<(std::ffi::OsString,std::ffi::OsString)> }
