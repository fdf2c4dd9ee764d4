// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is different about building for one architecture or the other, as data.

use crate::arch::Arch;

/// What a build for an architecture takes. The host is x86_64 (see [`super::Kernels::build`]): for another guest the
/// compiler is a cross compiler.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// kbuild's name of it (Documentation/kbuild/kbuild.rst, ARCH).
    pub kbuild: &'static str,
    /// What stands before the names of compiler and binutils (kbuild.rst, CROSS_COMPILE); empty: the host's own.
    pub prefix: &'static str,
    /// The image that QEMU boots, in the object tree.
    pub image: &'static str,
    /// The fragments of the configuration, in order; a later one wins.
    pub fragments: &'static [&'static str],
    /// The fragment with what vfrace cannot do without.
    pub needed: &'static str,
    /// Object files that are kept out of line beside those of every architecture, see src/kernel/outline.rs.
    pub outline: &'static [&'static str],
}

const X86_64: Target = Target {
    kbuild: "x86_64",
    prefix: "",
    image: "arch/x86/boot/bzImage",
    fragments: &["common", "x86_64", "kasan", "lockdep"],
    needed: "needed",
    outline: &[],
};

const S390X: Target = Target {
    kbuild: "s390",
    prefix: "s390x-linux-gnu-",
    image: "arch/s390/boot/bzImage",
    // Its own comes last: what the others ask for may be had in another form only.
    fragments: &["common", "kasan", "lockdep", "s390x"],
    needed: "needed-s390x",
    outline: &[
        "arch/s390/pci/pci",
        "arch/s390/pci/pci_bus",
        "arch/s390/pci/pci_clp",
        "arch/s390/pci/pci_event",
        "arch/s390/pci/pci_iov",
        "drivers/pci/hotplug/s390_pci_hpc",
    ],
};

/// What it is for `arch`.
pub(super) fn target(arch: Arch) -> &'static Target {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::S390x => &S390X,
    }
}

impl Target {
    /// A program of the compiler or of binutils.
    pub fn tool(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
