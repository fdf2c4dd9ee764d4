// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The directory that the sockets are in.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::event::FunctionId;

use super::ServeError;

/// A directory that only this user can enter. Dropping it removes what was put into it, and itself if it was made here.
pub(in crate::cli) struct Place {
    dir: PathBuf,
    is_own: bool,
    goes: Vec<PathBuf>,
}

impl Place {
    /// Makes it, or looks whether it may be used.
    pub(in crate::cli) fn take(dir: &Path) -> Result<Self, ServeError> {
        let refused = |why: String, hint| refused(dir, why, hint);
        let other = OTHER;
        let absolute = std::path::absolute(dir).map_err(|e| refused(e.to_string(), other))?;
        if absolute.to_string_lossy().contains([',', '\n']) {
            let why = "its path has a comma or a line's end, which QEMU's options cannot have";
            return Err(refused(why.into(), other));
        }
        let made = std::fs::DirBuilder::new().mode(0o700).create(&absolute);
        let is_own = match made {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(refused(error.to_string(), other)),
        };
        let place = Self {
            dir: absolute,
            is_own,
            goes: Vec::new(),
        };
        let found =
            std::fs::metadata(&place.dir).map_err(|error| refused(error.to_string(), other))?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
            return Err(refused(
                "others could enter it, and whoever connects is taken for QEMU".into(),
                "chmod 700, or name one that does not exist",
            ));
        }
        Ok(place)
    }

    /// Makes room for the sockets of `functions` and the control socket. Those on which nobody listens are removed: a
    /// server that was killed left them.
    pub(in crate::cli) fn clear(
        &self,
        functions: impl Iterator<Item = FunctionId>,
    ) -> Result<(), ServeError> {
        let sockets = functions.map(|function| format!("{function}.sock"));
        for name in sockets.chain(["control.sock".to_owned()]) {
            clear(&self.file(&name)).map_err(|why| {
                let hint = "end the other server, or name another directory";
                refused(&self.dir, format!("{name}: {why}"), hint)
            })?;
        }
        Ok(())
    }

    /// The directory, absolute.
    pub(in crate::cli) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub(in crate::cli) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// This file is removed with it.
    pub(in crate::cli) fn goes_with_it(&mut self, file: PathBuf) {
        self.goes.push(file);
    }

    /// Nothing is removed.
    pub(in crate::cli) fn keep(&mut self) {
        self.goes.clear();
        self.is_own = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for file in &self.goes {
            // Absent if it was never written.
            let _ = std::fs::remove_file(file);
        }
        if self.is_own {
            // It stays if somebody else put something into it.
            let _ = std::fs::remove_dir(&self.dir);
        }
    }
}

const OTHER: &str = "name another directory with --socket-dir";

fn refused(dir: &Path, why: String, hint: &'static str) -> ServeError {
    ServeError::Place {
        path: dir.to_path_buf(),
        why,
        hint,
    }
}

/// Removes a socket on which nobody listens. In words why there is no room for one at this place.
pub(in crate::cli) fn clear(path: &Path) -> Result<(), String> {
    let is_deserted = || matches!(UnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(file) if file.file_type().is_socket() && is_deserted() => {
            std::fs::remove_file(path).map_err(|error| error.to_string())
        }
        Ok(_) => Err("it is there and in use, or is no socket".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn take(dir: &Path) -> Result<Place, ServeError> {
        let place = Place::take(dir)?;
        place.clear([FunctionId::Pf].into_iter())?;
        Ok(place)
    }

    #[test]
    fn what_was_made_goes_and_what_was_there_stays() {
        let room = tempfile::tempdir().unwrap();
        let dir = room.path().join("s");
        let mut place = take(&dir).unwrap();
        std::fs::write(place.file("initramfs"), "").unwrap();
        place.goes_with_it(place.file("initramfs"));
        drop(place);
        assert!(!dir.exists());

        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(take(&dir).is_err());
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        drop(take(&dir).unwrap());
        assert!(dir.exists());
        assert!(take(&room.path().join("a,b")).is_err());
    }

    #[test]
    fn a_dead_servers_socket_goes_and_a_living_ones_does_not() {
        let room = tempfile::tempdir().unwrap();
        std::fs::set_permissions(room.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = room.path().join("pf.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(take(room.path()).is_err());
        // Who makes no sockets may look at it.
        assert!(Place::take(room.path()).is_ok() && path.exists());
        drop(listener);
        take(room.path()).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(take(room.path()).is_err());
        assert!(path.exists());
    }
}
