// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs that fetching and building need, and the Debian packages that have them.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::HostError;
use crate::arch::Arch;

/// A program and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Name in PATH.
    pub name: &'static str,
    /// Debian package.
    pub package: &'static str,
    /// What it is for, a few words.
    pub used_for: &'static str,
}

const fn tool(name: &'static str, package: &'static str, used_for: &'static str) -> Tool {
    Tool {
        name,
        package,
        used_for,
    }
}

/// Needed to fetch from Debian's archive.
pub const FETCH: [Tool; 4] = [
    tool("apt-get", "apt", "fetching and verifying packages"),
    tool("dpkg-deb", "dpkg", "unpacking packages"),
    tool("tar", "tar", "unpacking sources"),
    tool("xz", "xz-utils", "unpacking sources"),
];

/// Needed to build a kernel (Documentation/process/changes.rst of the kernel, less what our configuration leaves out).
pub const BUILD: [Tool; 9] = [
    tool("make", "make", "kernel build"),
    tool("gcc", "gcc", "kernel build"),
    tool("ld", "binutils", "kernel build"),
    tool("flex", "flex", "kernel build"),
    tool("bison", "bison", "kernel build"),
    tool("bc", "bc", "kernel build"),
    tool("perl", "perl", "kernel build"),
    tool("git", "git", "patches and kernel trees"),
    tool("gzip", "gzip", "kernel build"),
];

/// Needed beside [`BUILD`] for kernels of s390x.
const CROSS_S390X: [Tool; 2] = [
    tool(
        "s390x-linux-gnu-gcc",
        "gcc-s390x-linux-gnu",
        "kernel build for s390x",
    ),
    tool(
        "s390x-linux-gnu-ld",
        "binutils-s390x-linux-gnu",
        "kernel build for s390x",
    ),
];

/// Needed beside [`BUILD`] for kernels of an architecture that is not the host's.
pub fn cross(arch: Arch) -> &'static [Tool] {
    match arch {
        Arch::X86_64 => &[],
        Arch::S390x => &CROSS_S390X,
    }
}

/// A header that the build needs, with its package.
pub const HEADERS: [(&str, &str); 1] = [("/usr/include/libelf.h", "libelf-dev")];

/// Where a program is: PATH, and the two system directories that a user's PATH often lacks.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, &path)
}

fn find_in(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Fails with the first of `tools` that is not there.
pub fn require(tools: &[Tool]) -> Result<(), HostError> {
    match tools.iter().find(|tool| find(tool.name).is_none()) {
        None => Ok(()),
        Some(tool) => Err(HostError::Missing {
            tool: tool.name.to_owned(),
            package: tool.package,
        }),
    }
}

/// Fails with the first of [`HEADERS`] that is not there.
pub fn require_headers() -> Result<(), HostError> {
    match HEADERS.iter().find(|(file, _)| !Path::new(file).exists()) {
        None => Ok(()),
        Some((file, package)) => Err(HostError::Missing {
            tool: (*file).to_owned(),
            package,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_run_is_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tool-of-a-test");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find_in("tool-of-a-test", dir.path().as_os_str()), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(
            find_in("tool-of-a-test", dir.path().as_os_str()),
            Some(file)
        );
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error = require(&[tool("no-such-tool-anywhere", "the-package", "a test")]).unwrap_err();
        assert!(error.hint().unwrap().contains("the-package"), "{error:?}");
    }
}
