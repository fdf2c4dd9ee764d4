// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernel sources: Debian's linux-source packages, unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::event::EventSink;
use crate::host::apt::{self, Apt};
use crate::host::files::{self, Lock};
use crate::host::{HostError, command};

/// Room for the package, the tree and an object tree, in MiB (measured: 160 + 1,900 + 700, and some air).
const NEEDED_MIB: u64 = 4096;
/// Files of a tree between two progress events.
const STRIDE: u64 = 1000;
/// Prefix of half-unpacked sources.
const TEMP: &str = ".unpack-";

/// An unpacked kernel source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `7.2`.
    pub version: String,
    /// Version of the Debian package, `7.2.12-1~bpo13+1`.
    pub package_version: String,
    /// sha256 of the package.
    pub sha256: String,
    /// The directory in the cache; not stored, the cache may move.
    #[serde(skip)]
    dir: PathBuf,
}

impl Source {
    /// The kernel's top directory. It is at the variant that was built last.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Where the originals of changed files are.
    pub(super) fn originals(&self) -> PathBuf {
        self.dir.join("originals")
    }

    /// The lock for everything that uses the tree, or an object tree of it.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
}

/// Sources in the cache of one version, the newest package last.
pub fn unpacked(cache: &Path, version: &str) -> Option<Source> {
    let prefix = format!("linux-source-{version}_");
    files::dirs_in(&cache.join("sources"))
        .into_iter()
        .filter(|dir| {
            dir.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .filter_map(|dir| {
            let text = std::fs::read(dir.join("source.json")).ok()?;
            let source: Source = serde_json::from_slice(&text).ok()?;
            let time = dir
                .join("source.json")
                .metadata()
                .and_then(|m| m.modified())
                .ok()?;
            Some((time, Source { dir, ..source }))
        })
        .max_by_key(|(time, _)| *time)
        .map(|(_, source)| source)
}

/// Package versions of all sources in the cache, for a report to people.
pub fn unpacked_sources(cache: &Path) -> Vec<String> {
    files::dirs_in(&cache.join("sources"))
        .iter()
        .filter(|dir| dir.join("source.json").exists())
        .filter_map(|dir| {
            Some(
                dir.file_name()?
                    .to_string_lossy()
                    .replace("linux-source-", "")
                    .replace('_', ": "),
            )
        })
        .collect()
}

/// The source of that version (`7.2`): from the cache, else from Debian's archive.
pub fn provide(
    cache: &Path,
    data: &Path,
    version: &str,
    events: &EventSink,
    stop: &Arc<AtomicBool>,
) -> Result<Source, HostError> {
    if let Some(source) = unpacked(cache, version) {
        return Ok(source);
    }
    let package = format!("linux-source-{version}");
    let sources = cache.join("sources");
    let _lock = Lock::take(&sources.join("lock"), stop, || {
        events.progress(
            &package,
            "waiting for another vfrace that is unpacking",
            None,
        );
    })?;
    if let Some(source) = unpacked(cache, version) {
        return Ok(source);
    }
    files::sweep(&sources, TEMP)?;
    files::need_space(&sources, NEEDED_MIB)?;
    let deb = Apt::open(cache, data, None, events, stop)?.fetch(&package)?;
    let step = format!("unpack {package}");
    events.progress(&step, deb.version.clone(), None);
    let temp = sources.join(format!("{TEMP}{package}"));
    apt::unpack(&deb.path, &temp.join("deb"), stop)?;
    let tree = temp.join("tree");
    files::make_dir(&tree)?;
    let archive = temp.join(format!("deb/usr/src/{package}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--verbose",
        "--xz",
        "--no-same-owner",
        "--strip-components=1",
    ]);
    tar.arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&tree);
    let mut count = 0u64;
    let count_line = |_: &str| {
        count += 1;
        if count % STRIDE == 0 {
            events.progress(&step, format!("{count} files"), None);
        }
    };
    command::run(&mut tar, "tar", None, stop, count_line, || {})?
        .ok(format!("unpacking {package}"))?;
    files::remove(&temp.join("deb"))?;
    let dir = sources.join(format!("{package}_{}", deb.version.replace(':', "%3a")));
    let source = Source {
        version: version.to_owned(),
        package_version: deb.version,
        sha256: deb.sha256,
        dir: dir.clone(),
    };
    let json =
        serde_json::to_vec_pretty(&source).map_err(|e| files::failed("write", &dir)(e.into()))?;
    files::write_whole(&temp.join("source.json"), &json)?;
    std::fs::rename(&temp, &dir).map_err(files::failed("create", &dir))?;
    files::remove(&deb.path)?;
    events.finished(&step, format!("{count} files, {}", source.package_version));
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_unpacked_source_is_not_found() {
        let cache = tempfile::tempdir().unwrap();
        let sources = cache.path().join("sources");
        let write = |dir: &str| {
            let json = r#"{"version":"7.2","package_version":"7.2.12-1","sha256":"ab"}"#;
            files::write_whole(&sources.join(dir).join("source.json"), json.as_bytes()).unwrap();
        };
        write(".unpack-linux-source-7.2");
        std::fs::create_dir_all(sources.join("linux-source-7.2_7.2.13-1")).unwrap();
        assert_eq!(unpacked(cache.path(), "7.2"), None);
        write("linux-source-7.2_7.2.12-1");
        let source = unpacked(cache.path(), "7.2").unwrap();
        assert_eq!(source.package_version, "7.2.12-1");
        assert_eq!(
            source.tree(),
            sources.join("linux-source-7.2_7.2.12-1/tree")
        );
        assert_eq!(unpacked(cache.path(), "7.3"), None);
    }
}
