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
use crate::host::{HostError, files};

/// The module's file.
pub const FILE: &str = "vfrace.ko";
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

    /// Builds it. `work` is a directory for it in the object tree's room; the caller holds the source's lock and has
    /// switched the source tree to the kernel's variant.
    pub fn build(
        &self,
        make: &Make<'_>,
        step: &str,
        work: &Path,
        kernel_dir: &Path,
    ) -> Result<PathBuf, KernelError> {
        files::remove(work)?;
        for (path, bytes) in &self.files {
            files::write_whole(&work.join(path), bytes)?;
        }
        make.run(step, &[&format!("M={}", work.display()), "modules"], None)?;
        let built = self.built(kernel_dir);
        // The one that says that the build is there comes last.
        for file in [PF_FILE, FILE] {
            let from = work.join(file);
            let bytes = std::fs::read(&from).map_err(files::failed("read", &from))?;
            files::write_whole(&built.with_file_name(file), &bytes)?;
        }
        Ok(built)
    }
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
}
