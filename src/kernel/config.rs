// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's configuration: fragments on top of allnoconfig, and the check that nothing got lost.
//!
//! Kconfig silently drops an option with an unmet dependency (Documentation/kbuild/kconfig.rst, KCONFIG_ALLCONFIG), and
//! a kernel without KASAN would pass every test. Hence the check.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::host::{HostError, files};

/// The fragments of a kernel under test, in order; a later one wins.
const FRAGMENTS: [&str; 4] = ["common", "x86_64", "kasan", "lockdep"];
/// What of it a reader of a result wants to know.
const NAMED: [(&str, &str); 6] = [
    ("CONFIG_KASAN", "KASAN"),
    ("CONFIG_PROVE_LOCKING", "lockdep"),
    ("CONFIG_DEBUG_LIST", "DEBUG_LIST"),
    ("CONFIG_DETECT_HUNG_TASK", "hung-task"),
    ("CONFIG_PRINTK_CALLER", "caller ids"),
    ("CONFIG_PREEMPT", "PREEMPT"),
];

/// The options that a kernel under test must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `CONFIG_X` with its value; `n` for off.
    wanted: BTreeMap<String, String>,
}

impl Config {
    /// Reads the usual fragments below the data directory, then the one named after the source version (`7.3`), if there
    /// is one: options come and go. Then those in `more`; one that does not exist is an error.
    pub fn load(data: &Path, source: &str, more: &[String]) -> Result<Self, HostError> {
        let mut wanted = BTreeMap::new();
        let path = |fragment: &str| {
            data.join("guest-tests/kconfig")
                .join(format!("{fragment}.config"))
        };
        for path in FRAGMENTS.map(path) {
            let text = std::fs::read_to_string(&path).map_err(files::failed("read", &path))?;
            wanted.extend(parse(&text));
        }
        let own = path(source);
        if let Some(bytes) = files::read_if_there(&own)? {
            wanted.extend(parse(&String::from_utf8_lossy(&bytes)));
        }
        for path in more.iter().map(|fragment| path(fragment)) {
            let text = std::fs::read_to_string(&path).map_err(files::failed("read", &path))?;
            wanted.extend(parse(&text));
        }
        Ok(Self { wanted })
    }

    /// One fragment for KCONFIG_ALLCONFIG.
    pub fn text(&self) -> String {
        self.wanted
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect()
    }

    /// Hash of the options, whatever their order and comments.
    pub fn id(&self) -> String {
        files::hex(&Sha256::digest(self.text()))
    }

    /// The wanted options that a `.config` does not have, as `CONFIG_X=y`.
    pub fn missing(&self, dot_config: &str) -> Vec<String> {
        let got = parse(dot_config);
        let off = "n".to_owned();
        self.wanted
            .iter()
            .filter(|(key, value)| got.get(*key).unwrap_or(&off) != *value)
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    /// A line for people: "KASAN, lockdep, ...".
    pub fn summary(&self) -> String {
        let on = |key: &str| self.wanted.get(key).is_some_and(|v| v == "y");
        let names: Vec<&str> = NAMED
            .iter()
            .filter(|(key, _)| on(key))
            .map(|(_, name)| *name)
            .collect();
        names.join(", ")
    }
}

/// `CONFIG_X=value` and `# CONFIG_X is not set` lines; everything else is comment.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        let off = line
            .strip_prefix("# ")
            .and_then(|l| l.strip_suffix(" is not set"));
        let (key, value) = match (off, line.split_once('=')) {
            (Some(key), _) => (key, "n"),
            (None, Some((key, value))) => (key, value),
            (None, None) => continue,
        };
        if key.starts_with("CONFIG_") {
            options.insert(key.to_owned(), value.to_owned());
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_options_are_named() {
        let config = Config {
            wanted: parse(
                "# why\nCONFIG_A=y\nCONFIG_B=20\nCONFIG_C=n\nCONFIG_D=\"s\"\n# CONFIG_E is not set\n",
            ),
        };
        assert!(
            config
                .missing("CONFIG_A=y\nCONFIG_B=20\n# CONFIG_C is not set\nCONFIG_D=\"s\"\n")
                .is_empty()
        );
        assert_eq!(
            config.missing("# CONFIG_A is not set\nCONFIG_B=17\nCONFIG_C=y\nCONFIG_E=y\n"),
            [
                "CONFIG_A=y",
                "CONFIG_B=20",
                "CONFIG_C=n",
                "CONFIG_D=\"s\"",
                "CONFIG_E=n"
            ]
        );
    }

    #[test]
    fn comments_do_not_change_the_identity_and_options_do() {
        let id = |text| {
            Config {
                wanted: parse(text),
            }
            .id()
        };
        assert_eq!(
            id("# a\nCONFIG_A=y\nCONFIG_B=y\n"),
            id("CONFIG_B=y\n\nCONFIG_A=y\n")
        );
        assert_ne!(id("CONFIG_A=y\n"), id("CONFIG_A=n\n"));
    }

    #[test]
    fn the_fragments_in_the_tree() {
        let config = Config::load(Path::new(env!("CARGO_MANIFEST_DIR")), "7.2", &[]).unwrap();
        assert_eq!(
            config.summary(),
            "KASAN, lockdep, DEBUG_LIST, hung-task, caller ids, PREEMPT"
        );
        let newer = Config::load(Path::new(env!("CARGO_MANIFEST_DIR")), "7.3", &[]).unwrap();
        assert_ne!(config.id(), newer.id());
    }
}
