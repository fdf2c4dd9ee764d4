// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `images/versions.toml`: the packages that vfrace was tested with.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{HostError, files};

/// What is to be thought of a package that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Version and checksum are the recorded ones.
    Tested,
    /// Another version, or not recorded: the archive's signature is what vouches for it.
    Untested,
}

/// The recorded packages.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    packages: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    version: String,
    #[serde(default = "all")]
    architecture: String,
    sha256: String,
}

fn all() -> String {
    "all".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    package: Vec<Entry>,
}

impl Versions {
    /// Reads `images/versions.toml` below the data directory.
    pub fn load(data: &Path) -> Result<Self, HostError> {
        let path = data.join("images/versions.toml");
        let text = std::fs::read_to_string(&path).map_err(files::failed("read", &path))?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: PathBuf) -> Result<Self, HostError> {
        match toml::from_str::<File>(text) {
            Ok(file) => Ok(Self {
                packages: file.package,
            }),
            Err(e) => Err(HostError::Versions {
                path,
                text: e.to_string(),
            }),
        }
    }

    /// Compares a package with the record. The same version with another checksum is an error.
    pub fn check(
        &self,
        name: &str,
        version: &str,
        arch: &str,
        sha256: &str,
    ) -> Result<Standing, HostError> {
        let same = |e: &&Entry| e.name == name && e.version == version && e.architecture == arch;
        match self.packages.iter().find(same) {
            None => Ok(Standing::Untested),
            Some(entry) if entry.sha256.eq_ignore_ascii_case(sha256) => Ok(Standing::Tested),
            Some(entry) => Err(HostError::Checksum {
                package: name.to_owned(),
                version: version.to_owned(),
                expected: entry.sha256.clone(),
                found: sha256.to_owned(),
            }),
        }
    }

    /// The version that was tested.
    pub fn tested(&self, name: &str) -> Option<&str> {
        self.packages
            .iter()
            .find(|e| e.name == name)
            .map(|e| e.version.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[package]]\nname = \"p\"\nversion = \"1-2\"\nsha256 = \"ab\"\n";

    #[test]
    fn same_version_must_have_the_same_checksum() {
        let versions = Versions::parse(TEXT, PathBuf::from("v.toml")).unwrap();
        assert_eq!(
            versions.check("p", "1-2", "all", "AB").unwrap(),
            Standing::Tested
        );
        assert_eq!(
            versions.check("p", "1-3", "all", "cd").unwrap(),
            Standing::Untested
        );
        assert_eq!(
            versions.check("q", "1-2", "all", "cd").unwrap(),
            Standing::Untested
        );
        assert!(matches!(
            versions.check("p", "1-2", "all", "cd"),
            Err(HostError::Checksum { .. })
        ));
        assert_eq!(versions.tested("p"), Some("1-2"));
    }

    #[test]
    fn a_malformed_file_is_named_with_its_line() {
        let error = Versions::parse("[[package]]\nnaem = 1\n", PathBuf::from("v.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("v.toml") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn the_file_in_the_tree_is_readable() {
        let versions = Versions::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        for name in [
            "linux-source-7.2",
            "qemu-system-x86",
            "qemu-system-s390x",
            "busybox-static",
        ] {
            assert!(versions.tested(name).is_some(), "{name}");
        }
    }
}
