// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps the functions that a call point can name out of line.
//!
//! A static function that the compiler inlines, splits or clones cannot be redirected by name. Some object files are
//! therefore compiled with flags that switch these optimisations off; functions that the source itself marks `inline`
//! stay inline, the kernel relies on that. The source is not touched: kbuild hands CFLAGS_KERNEL to the compiler for
//! built-in code (Documentation/kbuild/kbuild.rst), and expands it anew for every object file, so that it can look at
//! the target's name. `CFLAGS_x.o` would not do: it goes by the file's name without its directory, and there are
//! many `core.o`, some of which have flags of their own under that name.

/// The object files, without `.o`: PCI, SR-IOV and hotplug, the driver core, virtio's PCI driver, sysfs.
pub const OBJECTS: [&str; 25] = [
    "drivers/base/bus",
    "drivers/base/core",
    "drivers/base/dd",
    "drivers/base/driver",
    "drivers/pci/bus",
    "drivers/pci/hotplug/pci_hotplug_core",
    "drivers/pci/hotplug/pciehp_core",
    "drivers/pci/hotplug/pciehp_ctrl",
    "drivers/pci/hotplug/pciehp_hpc",
    "drivers/pci/hotplug/pciehp_pci",
    "drivers/pci/iov",
    "drivers/pci/pci",
    "drivers/pci/pci-driver",
    "drivers/pci/pci-sysfs",
    "drivers/pci/pcie/portdrv",
    "drivers/pci/probe",
    "drivers/pci/remove",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_common",
    "drivers/virtio/virtio_pci_modern",
    "fs/sysfs/dir",
    "fs/sysfs/file",
    "fs/sysfs/group",
    "fs/sysfs/symlink",
    "lib/kobject",
];

/// The compiler's flags for them (gcc(1), "Options That Control Optimization").
pub const FLAGS: [&str; 7] = [
    "-fno-inline-functions",
    "-fno-inline-small-functions",
    "-fno-inline-functions-called-once",
    "-fno-partial-inlining",
    "-fno-ipa-sra",
    "-fno-ipa-cp",
    "-fno-ipa-icf",
];

/// The object files, with `more` of an architecture's own.
pub fn objects(more: &[&'static str]) -> Vec<&'static str> {
    OBJECTS.iter().chain(more).copied().collect()
}

/// The assignment for make's command line; `more` as in [`objects`].
pub fn variable(more: &[&'static str]) -> String {
    format!(
        "CFLAGS_KERNEL=$(if $(filter {},$(basename $@)),{})",
        objects(more).join(" "),
        FLAGS.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_gives_the_flags_to_these_objects_only() {
        let dir = tempfile::tempdir().unwrap();
        let text = "export CFLAGS_KERNEL\n.PHONY: all\nall: drivers/pci/iov.o kernel/sched/core.o arch/s390/pci/pci.o\n%.o:\n\t@echo $@: $(CFLAGS_KERNEL)\n";
        // As in kbuild, the recipe is run by a make below the one with the command line.
        std::fs::write(dir.path().join("inner.mk"), text).unwrap();
        std::fs::write(
            dir.path().join("Makefile"),
            "all:\n\t@$(MAKE) --no-print-directory -f inner.mk\n",
        )
        .unwrap();
        let output = std::process::Command::new("make")
            .arg("-C")
            .arg(dir.path())
            .args(["--no-print-directory", &variable(&["arch/s390/pci/pci"])])
            .env_remove("MAKEFLAGS")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                format!("drivers/pci/iov.o: {}", FLAGS.join(" ")).as_str(),
                "kernel/sched/core.o:",
                format!("arch/s390/pci/pci.o: {}", FLAGS.join(" ")).as_str(),
            ]
        );
    }
}
