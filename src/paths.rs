// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are: the cache outside the tree, and the data that comes with the program.

use std::path::{Path, PathBuf};

/// A place that could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither the environment nor the passwd entry names a home.
    #[error(
        "no place for the cache: set VFRACE_CACHE (or XDG_CACHE_HOME, or HOME) to a directory with 10 GiB free"
    )]
    NoCache,
    /// The directory cannot be made.
    #[error("cannot create {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// guest-tests/ is neither beside the program nor where it was built.
    #[error(
        "the guest-tests directory was not found (looked in {looked}); set VFRACE_DATA to the checkout"
    )]
    NoData {
        /// The places that were tried, for the message.
        looked: String,
    },
}

/// The cache directory: `$VFRACE_CACHE`, else `$XDG_CACHE_HOME/vfrace`, else `$HOME/.cache/vfrace`. Created if absent.
pub fn cache_dir() -> Result<PathBuf, PathError> {
    let env = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let dir = env("VFRACE_CACHE")
        .or_else(|| env("XDG_CACHE_HOME").map(|d| d.join("vfrace")))
        .or_else(|| env("HOME").map(|d| d.join(".cache/vfrace")))
        .ok_or(PathError::NoCache)?;
    std::fs::create_dir_all(&dir).map_err(|source| PathError::Create {
        path: dir.clone(),
        source,
    })?;
    std::path::absolute(&dir).map_err(|source| PathError::Create { path: dir, source })
}

/// Below a prefix that the program was installed to, the directory with what came with it (Filesystem Hierarchy Standard
/// 3.0, 4.11: /usr/share).
const SHARED: &str = "share/vfrace";

/// The directory that holds `guest-tests/` and `images/`: `$VFRACE_DATA`, else the nearest directory above the program
/// or the working directory that has them, itself or below share/vfrace, else the checkout that the program was built from.
pub fn data_dir() -> Result<PathBuf, PathError> {
    let mut looked = Vec::new();
    let mut tried = |dir: &Path| {
        looked.push(dir.display().to_string());
        dir.join("guest-tests/variants").is_dir()
    };
    if let Some(dir) = std::env::var_os("VFRACE_DATA").map(PathBuf::from) {
        if tried(&dir) {
            return Ok(dir);
        }
    } else {
        let starts = [std::env::current_exe().ok(), std::env::current_dir().ok()];
        for start in starts.into_iter().flatten() {
            let mut places = start
                .ancestors()
                .flat_map(|dir| [dir.to_path_buf(), dir.join(SHARED)]);
            if let Some(dir) = places.find(|dir| dir.join("guest-tests/variants").is_dir()) {
                return Ok(dir);
            }
        }
        let built = Path::new(env!("CARGO_MANIFEST_DIR"));
        if tried(built) {
            return Ok(built.to_path_buf());
        }
    }
    Err(PathError::NoData {
        looked: looked.join(", "),
    })
}
