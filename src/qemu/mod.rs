// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: which one, its command line, its process.

pub mod machine;
pub mod probe;
pub mod process;
pub mod provide;

pub use probe::{Accel, AccelError, Wish, choose_accel};
pub use provide::{ProvideError, QemuBinary};
