// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running the kernel's make: arguments that make a build repeatable, progress from its output, a log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::target::target;
use super::{KernelError, outline};
use crate::arch::Arch;
use crate::event::EventSink;
use crate::host::command;

/// Steps that make reports for a full build of 7.2 in our configuration, counted; a build in the cache replaces it.
pub const FULL_STEPS: u64 = 1760;

/// What a build is told that would otherwise differ from one build to the next
/// (Documentation/kbuild/reproducible-builds.rst). LOCALVERSION, set and empty, keeps scripts/setlocalversion from
/// asking git about a checkout that the cache happens to be in.
const FIXED: [&str; 5] = [
    "LOCALVERSION=",
    "KBUILD_BUILD_TIMESTAMP=2026-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER=vfrace",
    "KBUILD_BUILD_HOST=vfrace",
    "KBUILD_BUILD_VERSION=1",
];
/// Variables of the caller's environment that kbuild would listen to: a surrounding make's job server above all.
const UNSET: [&str; 14] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "MAKEFILES",
    "CROSS_COMPILE",
    "LLVM",
    "CC",
    "LD",
    "KCFLAGS",
    "KCPPFLAGS",
    "KBUILD_OUTPUT",
    "KCONFIG_CONFIG",
    "INSTALL_MOD_PATH",
];

/// Lines with errors that are shown.
const ERRORS: usize = 8;

/// A line of a compiler, an assembler, a linker, objtool or modpost that says what is wrong.
fn is_error(line: &str) -> bool {
    const SIGNS: [&str; 6] = [
        " error: ",
        "fatal error:",
        "Error: ",
        "ERROR: ",
        "undefined reference",
        "command not found",
    ];
    SIGNS.iter().any(|sign| line.contains(sign)) || Lack::told_by(line).is_some()
}

/// What a machine ran out of, so that the build failed: nothing that the kernel is to blame for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Room on a disk.
    Disk,
    /// Memory: an allocation failed, or the kernel of the machine killed a compiler.
    Memory,
}

impl Lack {
    /// By the words of strerror(3), of gcc's drivers (`gcc.cc`, `collect-utils.cc`: "Killed signal terminated program",
    /// "terminated with signal 9") and of the shell and make about a process that was killed.
    pub fn told_by(output: &str) -> Option<Self> {
        const DISK: [&str; 2] = ["No space left on device", "Disk quota exceeded"];
        const MEMORY: [&str; 6] = [
            "Killed signal terminated program",
            "terminated with signal 9",
            "Cannot allocate memory",
            "memory exhausted",
            "out of memory allocating",
            "Error 137",
        ];
        let says = |words: &[&str]| words.iter().any(|word| output.contains(word));
        if says(&DISK) {
            Some(Lack::Disk)
        } else if says(&MEMORY)
            || output
                .lines()
                .any(|line| line.trim_end().ends_with("Killed"))
        {
            Some(Lack::Memory)
        } else {
            None
        }
    }
}

/// A make in one source and object tree.
#[derive(Debug)]
pub struct Make<'a> {
    /// What it builds for.
    pub arch: Arch,
    /// Kernel's top directory.
    pub source: &'a Path,
    /// Object tree.
    pub objects: &'a Path,
    /// Log, appended to.
    pub log: PathBuf,
    /// Where progress goes.
    pub events: &'a EventSink,
    /// Stops it.
    pub stop: &'a AtomicBool,
}

impl Make<'_> {
    /// Runs make with `args`; `step` is the name of the step, `total` the number of steps expected, if that is known.
    /// Returns the number of steps that make did.
    pub fn run(&self, step: &str, args: &[&str], total: Option<u64>) -> Result<u64, KernelError> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(self.source)
            .arg(format!("O={}", self.objects.display()))
            .arg(format!("-j{jobs}"));
        make.args(fixed(self.arch)).args(args).env("LC_ALL", "C");
        for variable in UNSET {
            make.env_remove(variable);
        }
        let mut count = 0u64;
        let mut errors: Vec<String> = Vec::new();
        let line = |text: &str| {
            if errors.len() < ERRORS && is_error(text) {
                errors.push(text.to_owned());
            }
            if let Some(what) = step_of(text) {
                count += 1;
                // More steps than expected: then the number was wrong, and none is better than a wrong one.
                let part = total
                    .filter(|total| count <= *total)
                    .map(|total| (count, total));
                self.events.progress(step, what, part);
            }
        };
        let ended = command::run(&mut make, "make", Some(&self.log), self.stop, line, || {})?;
        if ended.status.success() {
            return Ok(count);
        }
        // With several jobs the error is far from the end: it goes first, and the end only if there is none.
        let tail = if errors.is_empty() {
            ended.tail.clone()
        } else {
            errors.join("\n")
        };
        let what = step
            .split_once(": ")
            .map_or(step, |(kernel, _)| kernel)
            .to_owned();
        Err(KernelError::Make {
            what,
            status: ended.how(),
            log: self.log.clone(),
            tail,
        })
    }
}

/// What every make for `arch` is told.
fn fixed(arch: Arch) -> Vec<String> {
    let target = target(arch);
    let mut all = vec![format!("ARCH={}", target.kbuild)];
    all.extend(FIXED.map(str::to_owned));
    if !target.prefix.is_empty() {
        all.push(format!("CROSS_COMPILE={}", target.prefix));
    }
    all.push(outline::variable(target.outline));
    all
}

/// `  CC      drivers/pci/iov.o`: kbuild's short form, as "CC drivers/pci/iov.o".
fn step_of(line: &str) -> Option<String> {
    let rest = line.strip_prefix("  ")?;
    let mut words = rest.split_whitespace();
    let verb = words
        .next()
        .filter(|v| !rest.starts_with(' ') && v.len() >= 2)?;
    if !verb
        .chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    {
        return None;
    }
    let rest: Vec<&str> = words.collect();
    (!rest.is_empty()).then(|| format!("{verb} {}", rest.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_makes_output() {
        for line in [
            "drivers/pci/probe.c:9:2: error: 'x' undeclared",
            "ld: drivers/pci/probe.o: undefined reference to `mutex_get_owner'",
            "ERROR: modpost: \"x\" [vfrace.ko] undefined!",
            "/bin/sh: 1: bc: command not found",
        ] {
            assert!(is_error(line), "{line}");
        }
        assert!(!is_error("  CC      lib/error.o") && !is_error("make[1]: *** [x] Error 2"));
    }

    /// What kernels in every cache were built with.
    #[test]
    fn the_build_of_an_x86_64_kernel_is_what_it_was() {
        let words = fixed(Arch::X86_64);
        let [fixed @ .., outline] = words.as_slice() else {
            panic!("{words:?}")
        };
        assert_eq!(
            fixed,
            [
                "ARCH=x86_64",
                "LOCALVERSION=",
                "KBUILD_BUILD_TIMESTAMP=2026-01-01 00:00:00 UTC",
                "KBUILD_BUILD_USER=vfrace",
                "KBUILD_BUILD_HOST=vfrace",
                "KBUILD_BUILD_VERSION=1",
            ]
        );
        assert!(
            outline.starts_with("CFLAGS_KERNEL=$(if $(filter drivers/base/bus drivers/base/core ")
        );
        assert!(outline.ends_with(
            " fs/sysfs/symlink lib/kobject,$(basename $@)),-fno-inline-functions -fno-inline-small-functions \
             -fno-inline-functions-called-once -fno-partial-inlining -fno-ipa-sra -fno-ipa-cp -fno-ipa-icf)"
        ));
    }

    #[test]
    fn another_architecture_has_a_cross_compiler() {
        let words = fixed(Arch::S390x);
        assert_eq!(words[0], "ARCH=s390");
        assert!(words.contains(&"CROSS_COMPILE=s390x-linux-gnu-".to_owned()));
        assert!(
            words
                .iter()
                .any(|word| word.contains("arch/s390/pci/pci_event"))
        );
    }

    #[test]
    fn a_machine_that_runs_out_of_something() {
        for (line, lack) in [
            (
                "fs/a.c:9:1: fatal error: error writing to /tmp/cc1.s: No space left on device",
                Lack::Disk,
            ),
            (
                "gcc: fatal error: Killed signal terminated program cc1",
                Lack::Memory,
            ),
            (
                "collect2: fatal error: ld terminated with signal 9 [Killed]",
                Lack::Memory,
            ),
            ("cc1: out of memory allocating 65536 bytes", Lack::Memory),
            ("sh: 1: Cannot fork: Cannot allocate memory", Lack::Memory),
            (
                "scripts/link-vmlinux.sh: line 106: 4711 Killed",
                Lack::Memory,
            ),
            (
                "make[3]: *** [Makefile:9: vmlinux.o] Error 137",
                Lack::Memory,
            ),
        ] {
            assert_eq!(Lack::told_by(line), Some(lack), "{line}");
            assert!(is_error(line), "{line}");
        }
        for line in [
            "make[2]: *** [scripts/Makefile.build:289: drivers/pci/iov.o] Error 1",
            "drivers/pci/iov.c:9:2: error: 'Killed' undeclared",
        ] {
            assert_eq!(Lack::told_by(line), None, "{line}");
        }
    }

    #[test]
    fn steps_in_makes_output() {
        assert_eq!(
            step_of("  CC      drivers/pci/iov.o").as_deref(),
            Some("CC drivers/pci/iov.o")
        );
        assert_eq!(
            step_of("  CC [M]  vfrace.o").as_deref(),
            Some("CC [M] vfrace.o")
        );
        for other in [
            "make[1]: Entering directory",
            "    note: x",
            "  ^~~~",
            "",
            "  error: CC",
            "drivers/pci/iov.c:1: x",
        ] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}
