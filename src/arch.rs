// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The architecture of the guest. That of the host is another matter: guests of another one are emulated.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kernels are built for and guests run on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Arch {
    /// A PC with PCI Express (QEMU's q35): the device is composed, its slot has a hotplug controller.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// IBM Z with zPCI (QEMU's s390-ccw-virtio): each function is plugged by itself, and the platform takes it away.
    #[serde(rename = "s390x")]
    S390x,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::S390x];

    /// Name, as `uname -m` in the guest prints it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::S390x => "s390x",
        }
    }

    /// Debian's name of it (dpkg-architecture(1), DEB_HOST_ARCH).
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::S390x => "s390x",
        }
    }

    /// Whether it is the architecture of the machine that this program runs on.
    pub fn is_host(self) -> bool {
        self.name() == std::env::consts::ARCH
    }

    /// Whether it is the one that is meant when nothing is said. For serde: what was written before there were others
    /// says nothing, and what is written about it still does not.
    pub fn is_default(&self) -> bool {
        *self == Arch::default()
    }

    /// `NAME` for the default, `NAME-s390x` for another: what has no name of its own in the cache.
    pub fn room(self, name: &str) -> String {
        match self {
            Arch::X86_64 => name.to_owned(),
            other => format!("{name}-{other}"),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Arch::ALL
            .into_iter()
            .find(|arch| arch.name() == text)
            .ok_or_else(|| {
                let names = Arch::ALL.map(Arch::name).join(" and ");
                format!("there are no guests of `{text}`: known are {names}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for arch in Arch::ALL {
            assert_eq!(arch.name().parse(), Ok(arch));
            assert_eq!(serde_json::to_string(&arch).unwrap(), format!("\"{arch}\""));
        }
        let refused = "s390".parse::<Arch>().unwrap_err();
        assert!(refused.contains("x86_64 and s390x"), "{refused}");
    }

    #[test]
    fn what_was_in_the_cache_before_stays_where_it_is() {
        assert_eq!(Arch::X86_64.room("busybox"), "busybox");
        assert_eq!(Arch::S390x.room("busybox"), "busybox-s390x");
    }
}
