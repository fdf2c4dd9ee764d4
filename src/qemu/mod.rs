// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU: which one, its command line, its process, and its control connections.

mod link;
pub mod machine;
pub mod probe;
pub mod process;
pub mod provide;
pub mod qmp;
pub mod qtest;
pub mod slot;
pub mod zpci;

pub use link::{Endpoint, LinkError};
pub use probe::{Accel, AccelError, Wish, choose_accel};
pub use provide::{ProvideError, QemuBinary};
