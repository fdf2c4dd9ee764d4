// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's root: a newc cpio archive (kernel Documentation/driver-api/early-userspace/buffer-format.rst) with a
//! static busybox, init and the module. It is written uncompressed: unpacking costs the guest more than reading.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};

/// An initramfs that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A part of it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Links to busybox in /bin: what init and the commands of runs and tests use. `busybox --install` would make them all
/// in the guest, which costs half a second of its boot.
const APPLETS: [&str; 24] = [
    "cat", "dmesg", "echo", "grep", "insmod", "ip", "ln", "ls", "mkdir", "mount", "nsenter",
    "ping", "poweroff", "reboot", "rm", "rmmod", "sed", "sh", "sleep", "taskset", "unshare",
    "usleep", "wc", "[",
];

/// What goes into the archive.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// A static busybox of the guest's architecture.
    pub busybox: &'a Path,
    /// The init script.
    pub init: &'a Path,
    /// Modules that are loaded before it, in order.
    pub boot_modules: &'a [PathBuf],
    /// The kernel module.
    pub module: &'a Path,
    /// The PF driver that can be unloaded; loaded by the scenarios that need it.
    pub pf_module: &'a Path,
}

/// Writes the archive to `path`.
pub fn write(path: &Path, parts: Parts<'_>) -> Result<(), InitramfsError> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|source| InitramfsError::Read {
            path: file.to_path_buf(),
            source,
        })
    };
    let (busybox, init) = (read(parts.busybox)?, read(parts.init)?);
    let mut modules = vec![
        ("vfrace.ko".to_owned(), read(parts.module)?),
        ("vfrace_pf.ko".to_owned(), read(parts.pf_module)?),
    ];
    for path in parts.boot_modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        modules.push((format!("modules/{name}"), read(path)?));
    }
    let failed = |source| InitramfsError::Write {
        path: path.to_path_buf(),
        source,
    };
    let file = std::fs::File::create(path).map_err(failed)?;
    archive(std::io::BufWriter::new(file), &busybox, &init, &modules).map_err(failed)
}

fn archive<W: Write + Seek>(
    mut out: W,
    busybox: &[u8],
    init: &[u8],
    modules: &[(String, Vec<u8>)],
) -> std::io::Result<()> {
    let mut inode = 0;
    let mut entry = |name: &str, kind: ModeFileType, mode: u32| {
        inode += 1;
        Builder::new(name)
            .ino(inode)
            .nlink(1)
            .set_mode_file_type(kind)
            .mode(mode)
    };
    for name in ["bin", "dev", "modules"] {
        out = entry(name, ModeFileType::Directory, 0o40_755)
            .write(out, 0)
            .finish()?;
    }
    // The kernel opens it for init before devtmpfs is mounted (init/main.c, console_on_rootfs).
    let console = entry("dev/console", ModeFileType::Char, 0o20_600)
        .rdev_major(5)
        .rdev_minor(1);
    out = console.write(out, 0).finish()?;
    let programs = [("bin/busybox", busybox), ("init", init)].map(|(n, b)| (n, b, 0o100_755));
    let modules = modules
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice(), 0o100_644));
    for (name, bytes, mode) in programs.into_iter().chain(modules) {
        let length = u32::try_from(bytes.len()).map_err(|_| {
            std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("{name} is over 4 GiB"),
            )
        })?;
        let mut file = entry(name, ModeFileType::Regular, mode).write(out, length);
        file.write_all(bytes)?;
        out = file.finish()?;
    }
    for applet in APPLETS {
        let target = b"busybox";
        let link = entry(&format!("bin/{applet}"), ModeFileType::Symlink, 0o120_777);
        let mut link = link.write(out, target.len() as u32);
        link.write_all(target)?;
        out = link.finish()?;
    }
    trailer(out)?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_what_the_guest_needs() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let modules = [
            ("vfrace.ko".to_owned(), b"\x7fELF".to_vec()),
            ("vfrace_pf.ko".to_owned(), b"\x7f".to_vec()),
            ("modules/00-virtio.ko".to_owned(), b"m".to_vec()),
        ];
        let init = b"#!/bin/busybox sh\n";
        archive(&mut bytes, b"busybox", init, &modules).unwrap();
        let mut rest: &[u8] = bytes.get_ref();
        let mut seen = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            seen.push((
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                reader.entry().file_size(),
            ));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", 0o40_755, 0),
            ("dev", 0o40_755, 0),
            ("modules", 0o40_755, 0),
            ("dev/console", 0o20_600, 0),
            ("bin/busybox", 0o100_755, 7),
            ("init", 0o100_755, 18),
            ("vfrace.ko", 0o100_644, 4),
            ("vfrace_pf.ko", 0o100_644, 1),
            ("modules/00-virtio.ko", 0o100_644, 1),
        ];
        let links = seen.split_off(expected.len());
        assert_eq!(links.len(), APPLETS.len());
        assert!(links.contains(&("bin/insmod".to_owned(), 0o120_777, 7)));
        assert_eq!(
            seen,
            expected.map(|(name, mode, size)| (name.to_owned(), mode, size))
        );
    }
}
