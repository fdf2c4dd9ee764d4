// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! File operations that survive being killed: write beside and rename, locks that the kernel drops with the process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::HostError;

/// How often a waiting process looks whether a lock has become free, or whether it should stop waiting.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Turns an I/O error into one that says what was attempted on which path.
pub fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> HostError + use<> {
    let path = path.to_path_buf();
    move |source| HostError::Io { what, path, source }
}

/// Creates a directory with its parents.
pub fn make_dir(path: &Path) -> Result<(), HostError> {
    fs::create_dir_all(path).map_err(failed("create", path))
}

/// Reads a whole file; a file that does not exist is `None`.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, HostError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Begins the names of files that are being written; a killed process leaves them behind.
pub const TEMPORARY: &str = ".vfrace-";

/// Puts `bytes` into `path` so that a reader sees the old or the new content, never a part.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    write(path, bytes, false)
}

/// As [`write_whole`], and both file and name are on the disk when it returns (fsync(2)).
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    write(path, bytes, true)
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> Result<(), HostError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    make_dir(dir)?;
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(dir)
        .map_err(failed("write into", dir))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    if durable {
        file.as_file().sync_all().map_err(failed("write", path))?;
    }
    let temp = file.into_temp_path();
    set_mode(&temp, 0o644)?;
    temp.persist(path)
        .map_err(|e| failed("write", path)(e.error))?;
    if durable {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(failed("write", dir))?;
    }
    Ok(())
}

/// Writes only if the content differs, so that make sees no change where there is none. Returns whether it wrote.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool, HostError> {
    if read_if_there(path)?.as_deref() == Some(bytes) {
        return Ok(false);
    }
    write_whole(path, bytes)?;
    Ok(true)
}

/// Sets permission bits.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), HostError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(failed("change the mode of", path))
}

/// Removes a directory tree or file, if it is there.
pub fn remove(path: &Path) -> Result<(), HostError> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => Err(e),
    };
    result.map_err(failed("remove", path))
}

/// sha256 of a file, as hexadecimal digits.
pub fn sha256_file(path: &Path) -> Result<String, HostError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(failed("read", path))?;
        match buffer.get(..n) {
            None | Some([]) => break,
            Some(part) => hash.update(part),
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An exclusive lock on a file, held until dropped. The lock goes with the process, however that ends (flock(2)).
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

impl Lock {
    /// Takes the lock if nobody has it. The file then has the number of this process, for whoever does not get it.
    pub fn try_take(path: &Path) -> Result<Option<Self>, HostError> {
        use rustix::fs::FlockOperation;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed("open", path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(failed("lock", path)(e.into())),
            }
        }
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .map_err(failed("write", path))?;
        Ok(Some(Self(file)))
    }

    /// Takes the lock; `waiting` is called once if somebody else has it. Gives up when `stop` becomes true.
    pub fn take(path: &Path, stop: &AtomicBool, waiting: impl FnOnce()) -> Result<Self, HostError> {
        use rustix::fs::FlockOperation;
        if let Some(dir) = path.parent() {
            make_dir(dir)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed("open", path))?;
        let mut waiting = Some(waiting);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(failed("lock", path)(e.into())),
            }
            if stop.load(Ordering::Relaxed) {
                return Err(HostError::Interrupted);
            }
            if let Some(tell) = waiting.take() {
                tell();
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

/// Free room of the file system of `path` for this user, in MiB.
pub fn free_mib(path: &Path) -> Result<u64, HostError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|e| failed("ask for the free space of", path)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

/// Fails if there is less than `needed` MiB.
pub fn need_space(path: &Path, needed: u64) -> Result<(), HostError> {
    let free = free_mib(path)?;
    if free < needed {
        return Err(HostError::NoSpace {
            path: path.to_path_buf(),
            free,
            needed,
        });
    }
    Ok(())
}

/// Removes what killed attempts left in `dir`: entries whose name begins with `prefix`. The caller holds the lock that
/// everybody takes who creates such entries.
pub fn sweep(dir: &Path, prefix: &str) -> Result<(), HostError> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Names of the directories in `dir`, sorted; nothing if there is no such directory.
pub fn dirs_in(dir: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.is_dir()
                && p.file_name()
                    .is_some_and(|n| !n.to_string_lossy().starts_with('.'))
        })
        .collect();
    dirs.sort();
    dirs
}
