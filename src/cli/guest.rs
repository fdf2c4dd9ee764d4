// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The option that says which architecture the guest has.

use crate::arch::Arch;

/// The guest's architecture. Flattened into every command that builds kernels, boots guests or looks at either.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct GuestOption {
    /// Architecture of the guest and its kernel: x86_64 or s390x (docs/s390x.md)
    #[arg(long, value_name = "ARCH", default_value_t)]
    pub(super) arch: Arch,
}

impl GuestOption {
    /// As words of a command line; `None` for the default.
    pub(super) fn replay(self) -> Option<String> {
        (!self.arch.is_default()).then(|| format!("--arch {}", self.arch))
    }
}
