// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests on real guests: QEMU, a kernel built from Debian's source, the real virtio and PCI drivers.
//!
//! They are ignored by a plain `cargo test`, since the first one builds kernels for minutes; `make test` runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bench;
mod bisect;
mod campaign;
mod frames;
mod mishaps;
mod oracle;
mod s390x;
mod schedule;
mod serve;
mod slot;
