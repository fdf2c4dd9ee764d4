// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sockets that the service manager hands over, and telling it that we are ready (systemd's sd_listen_fds(3) and
//! sd_notify(3)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;

use rustix::io::FdFlags;
use rustix::net::sockopt::socket_acceptconn;

use crate::event::FunctionId;

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// More than a device with all its VFs has sockets.
const MOST: RawFd = 512;

/// A descriptor that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// LISTEN_FDS is no number.
    #[error("LISTEN_FDS is `{0}`, which is no number of sockets up to {MOST}")]
    Number(String),
    /// One of them is not open, or not a socket that listens.
    #[error("descriptor {fd} is not a listening unix socket with a path")]
    NotListening {
        /// Which.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
    /// One that belongs to nothing here, or twice to the same.
    #[error(
        "the socket {name} is for nothing here; FileDescriptorName= is to be pf, vf1, ..., mailbox or control, each once"
    )]
    Name {
        /// Its name.
        name: String,
    },
    /// The descriptor for the word that we are ready.
    #[error("cannot write to the descriptor {fd} of --ready-fd")]
    Ready {
        /// Which.
        fd: RawFd,
        /// Why.
        source: io::Error,
    },
}

/// What was handed over.
#[derive(Debug, Default)]
pub struct Handed {
    /// For functions, with their paths.
    pub functions: BTreeMap<FunctionId, (UnixListener, PathBuf)>,
    /// For the control protocol.
    pub control: Option<(UnixListener, PathBuf)>,
    /// For the word that we are ready.
    ready: Option<(RawFd, File)>,
}

impl Handed {
    /// Takes what the environment says was handed over, and the descriptor `ready`. To be called once, before anything else
    /// is opened.
    ///
    /// # Errors
    /// [`HandedError`].
    pub fn take(ready: Option<RawFd>) -> Result<Self, HandedError> {
        let var = |name| std::env::var(name).unwrap_or_default();
        let is_for_us = var("LISTEN_PID") == std::process::id().to_string();
        let count = var("LISTEN_FDS");
        let count: RawFd = match count.parse() {
            _ if !is_for_us => 0,
            Ok(count @ 0..=MOST) => count,
            _ => return Err(HandedError::Number(count)),
        };
        let mut handed = Self::default();
        if let Some(fd) = ready {
            let failed = |source| HandedError::Ready { fd, source };
            if (0..FIRST + count).contains(&fd) || fd < 0 {
                let why = "it is a standard stream or one of the sockets of LISTEN_FDS";
                return Err(failed(io::Error::other(why)));
            }
            handed.ready = Some((fd, File::from(owned(fd).map_err(failed)?)));
        }
        let names = var("LISTEN_FDNAMES");
        let mut names = names.split(':');
        for fd in FIRST..FIRST + count {
            let failed = |source| HandedError::NotListening { fd, source };
            let owned = owned(fd).map_err(failed)?;
            let (listener, path) = listening(owned).map_err(failed)?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name = names.next().unwrap_or_default().to_owned();
            handed.add(&name, &stem, listener, &path)?;
        }
        Ok(handed)
    }

    /// Writes `ready` and a line's end to the descriptor that was asked for, and closes it.
    ///
    /// # Errors
    /// [`HandedError::Ready`].
    pub fn tell_ready(&mut self) -> Result<(), HandedError> {
        match self.ready.take() {
            None => Ok(()),
            Some((fd, mut file)) => file
                .write_all(b"ready\n")
                .map_err(|source| HandedError::Ready { fd, source }),
        }
    }

    /// By its name or, where the manager gives none of ours, by that of its file.
    fn add(
        &mut self,
        name: &str,
        stem: &str,
        listener: UnixListener,
        path: &std::path::Path,
    ) -> Result<(), HandedError> {
        let pair = (listener, path.to_path_buf());
        let unknown = || HandedError::Name {
            name: path.display().to_string(),
        };
        let known = |name: &str| {
            let function = name.parse::<FunctionId>();
            (name == "control").then_some(None).or(function
                .ok()
                .filter(|function| *function != FunctionId::Bridge)
                .map(Some))
        };
        let before = match known(name).or_else(|| known(stem)).ok_or_else(unknown)? {
            None => self.control.replace(pair),
            Some(function) => self.functions.insert(function, pair),
        };
        match before {
            None => Ok(()),
            Some(_) => Err(unknown()),
        }
    }
}

/// Takes a descriptor that this process was started with.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    {
        // SAFETY: it is only asked whether it is open, and an answer that it is not is an error.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    }
    // SAFETY: it is open, and whoever started this process left it to us by number; nothing here opened it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn listening(fd: OwnedFd) -> io::Result<(UnixListener, PathBuf)> {
    if !socket_acceptconn(&fd)? {
        return Err(io::Error::other("it does not listen"));
    }
    let listener = UnixListener::from(fd);
    let address = listener.local_addr()?;
    match address.as_pathname() {
        Some(path) => {
            let path = path.to_path_buf();
            Ok((listener, path))
        }
        None => Err(io::Error::other("it has no path")),
    }
}

/// Tells the service manager, if there is one that wants to know.
///
/// # Errors
/// It cannot be told.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    let text = path.to_string_lossy();
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes())?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}
