// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest module, built for a kernel that was built before.
//!
//! The sources are copied into the cache, so that nothing is written into the checkout. The source tree must be at the
//! kernel's variant (the module sees its headers); the object tree may have been left at another variant, which does
//! not matter: what the module takes from there is the generated headers, the build's own programs and
//! Module.symvers, and the variants change neither configuration nor the layout of a structure. They may export
//! further symbols (v5 does), so the module must link against none that only one variant has; it looks those up by
//! name at run time. CONFIG_MODVERSIONS is off, a symbol has no checksum.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::KernelError;
use super::make::Make;
use crate::arch::Arch;
use crate::host::{HostError, files};

/// The module's file.
pub const FILE: &str = "vfrace.ko";
/// The file of what QEMU's s390x machine lacks, beside it; for guests of s390x only. It is loaded before all others.
const ZPCI_FILE: &str = "vfrace_zpci.ko";
/// The file of the PF driver that comes with it, beside it.
pub const PF_FILE: &str = "vfrace_pf.ko";

/// The sources of the module.
#[derive(Debug)]
pub struct ModuleSource {
    files: Vec<(PathBuf, Vec<u8>)>,
    id: String,
}

impl ModuleSource {
    /// Reads guest-tests/module below the data directory.
    pub fn load(data: &Path) -> Result<Self, KernelError> {
        let top = data.join("guest-tests/module");
        let mut found = Vec::new();
        collect(&top, Path::new(""), &mut found)?;
        found.sort();
        if !found.iter().any(|(path, _)| path == Path::new("Kbuild")) {
            return Err(KernelError::NoModule { path: top });
        }
        let mut hash = Sha256::new();
        for (path, bytes) in &found {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([0]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let id = files::hex(&hash.finalize()).chars().take(16).collect();
        Ok(Self { files: found, id })
    }

    /// Hash of the sources, 16 digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the module of a kernel is or will be.
    pub fn built(&self, kernel_dir: &Path) -> PathBuf {
        kernel_dir.join(format!("module-{}", self.id)).join(FILE)
    }

    /// The modules that the guest loads before it.
    pub fn before(&self, kernel_dir: &Path, arch: Arch) -> Vec<PathBuf> {
        match arch {
            Arch::X86_64 => Vec::new(),
            Arch::S390x => vec![self.built(kernel_dir).with_file_name(ZPCI_FILE)],
        }
    }

    /// Brings the sources into `work`. What was built there stays: make compares it with the kernel's headers, and most
    /// variants change none. A directory in which a build has not ended well, or with anything else in it, is begun anew.
    fn lay_out(&self, work: &Path) -> Result<(), HostError> {
        let mut there = Vec::new();
        collect(work, Path::new(""), &mut there)?;
        let ours = |path: &Path| self.files.iter().any(|(file, _)| file == path);
        let whole = whole(work);
        if !whole.exists() || there.iter().any(|(path, _)| !ours(path)) {
            files::remove(work)?;
        }
        files::remove(&whole)?;
        for (path, bytes) in &self.files {
            files::write_if_changed(&work.join(path), bytes)?;
        }
        Ok(())
    }

    /// Builds it. `work` is a directory for it in the object tree's room; the caller holds the source's lock and has
    /// switched the source tree to the kernel's variant.
    pub fn build(
        &self,
        make: &Make<'_>,
        step: &str,
        work: &Path,
        kernel_dir: &Path,
    ) -> Result<PathBuf, KernelError> {
        self.lay_out(work)?;
        make.run(
            step,
            &[&format!("M={}", work.display()), NO_BTF, "modules"],
            None,
        )
        .map_err(not_the_kernel)?;
        files::write_whole(&whole(work), b"")?;
        let built = self.built(kernel_dir);
        let zpci = (make.arch == Arch::S390x).then_some(ZPCI_FILE);
        // The one that says that the build is there comes last.
        for file in zpci.into_iter().chain([PF_FILE, FILE]) {
            let from = work.join(file);
            let bytes = std::fs::read(&from).map_err(files::failed("read", &from))?;
            files::write_whole(&built.with_file_name(file), &bytes)?;
        }
        Ok(built)
    }
}

/// A distribution's kernel wants BTF in its modules, for which it takes pahole; nothing reads ours.
const NO_BTF: &str = "CONFIG_DEBUG_INFO_BTF_MODULES=";

/// The kernel was built before: what make says is about the module.
fn not_the_kernel(error: KernelError) -> KernelError {
    match error {
        KernelError::Make {
            what,
            status,
            log,
            tail,
        } => KernelError::Module {
            failure: Box::new(KernelError::Make {
                what: format!("the guest's module for {what}"),
                status,
                log,
                tail,
            }),
        },
        other => other,
    }
}

/// Says beside the directory of a build that it has ended well.
fn whole(work: &Path) -> PathBuf {
    work.with_extension("whole")
}

/// Sources only: what a build beside them may have left is not read.
fn collect(top: &Path, below: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<(), HostError> {
    let dir = top.join(below);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(files::failed("read", &dir)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(files::failed("read", &dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let relative = below.join(&name);
        let path = entry.path();
        if path.is_dir() {
            if !name.starts_with('.') {
                collect(top, &relative, found)?;
            }
        } else if (name.ends_with(".c") && !name.ends_with(".mod.c"))
            || name.ends_with(".h")
            || name.ends_with(".S")
            || ["Kbuild", "Makefile"].contains(&name.as_str())
        {
            let bytes = std::fs::read(&path).map_err(files::failed("read", &path))?;
            found.push((relative, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_follows_the_sources_only() {
        let data = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            files::write_whole(
                &data.path().join("guest-tests/module").join(file),
                text.as_bytes(),
            )
            .unwrap();
            ModuleSource::load(data.path()).unwrap().id().to_owned()
        };
        assert!(matches!(
            ModuleSource::load(data.path()),
            Err(KernelError::NoModule { .. })
        ));
        let first = write("Kbuild", "obj-m := vfrace.o\n");
        let second = write("vfrace.c", "int x;\n");
        assert_ne!(first, second);
        assert_eq!(write("vfrace.o", "object"), second);
        assert_eq!(write("vfrace.mod.c", "generated"), second);
        assert_ne!(write("s390/shim.c", "int y;\n"), second);
    }

    #[test]
    fn what_was_built_stays_as_long_as_the_sources_are_the_same_files() {
        let module = |files: &[(&str, &str)]| ModuleSource {
            files: files
                .iter()
                .map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()))
                .collect(),
            id: "x".to_owned(),
        };
        let top = tempfile::tempdir().unwrap();
        let work = top.path().join("module");
        let time = |file: &str| work.join(file).metadata().unwrap().modified().unwrap();
        let first = module(&[("Kbuild", "a"), ("a.c", "1"), ("s390/b.h", "2")]);
        first.lay_out(&work).unwrap();
        std::fs::write(work.join("a.o"), "object").unwrap();
        std::fs::write(work.join("a.mod.c"), "generated").unwrap();
        files::write_whole(&whole(&work), b"").unwrap();
        let before = (time("a.c"), time("s390/b.h"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = module(&[("Kbuild", "a"), ("a.c", "1"), ("s390/b.h", "3")]);
        second.lay_out(&work).unwrap();
        assert!(work.join("a.o").exists() && time("a.c") == before.0);
        assert!(time("s390/b.h") > before.1);
        // That build was killed: what is there may be half an object.
        second.lay_out(&work).unwrap();
        assert!(!work.join("a.o").exists() && work.join("a.c").exists());
        // One file less: an object of it must not be linked.
        files::write_whole(&whole(&work), b"").unwrap();
        std::fs::write(work.join("a.o"), "object").unwrap();
        module(&[("Kbuild", "a"), ("a.c", "1")])
            .lay_out(&work)
            .unwrap();
        assert!(!work.join("a.o").exists() && !work.join("s390").exists());
    }
}
