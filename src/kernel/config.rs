// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's configuration: fragments on top of allnoconfig, and the check that nothing got lost.
//!
//! Kconfig silently drops an option with an unmet dependency (Documentation/kbuild/kconfig.rst, KCONFIG_ALLCONFIG), and
//! a kernel without KASAN would pass every test. Hence the check.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::KernelError;
use super::target::target;
use crate::arch::Arch;
use crate::host::{HostError, files};

/// A configuration of the user's is not longer than this, in bytes (that of a distribution has 300 KiB).
const OWN_BYTES: u64 = 4 << 20;
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `CONFIG_X` with its value; `n` for off.
    wanted: BTreeMap<String, String>,
    /// The part of it that must come out. `None`: all of it.
    needed: Option<BTreeMap<String, String>>,
    /// A whole configuration of the user's, in the place of `wanted`.
    own: Option<String>,
}

impl Config {
    /// Reads the usual fragments of the architecture below the data directory, then the one named after the source version (`7.3`), if there
    /// is one: options come and go. Then those in `more`; one that does not exist is an error.
    pub fn load(data: &Path, arch: Arch, source: &str, more: &[String]) -> Result<Self, HostError> {
        let mut wanted = BTreeMap::new();
        for fragment in target(arch).fragments {
            wanted.extend(options(&read(data, fragment)?));
        }
        let own = path(data, source);
        if let Some(bytes) = files::read_if_there(&own)? {
            wanted.extend(options(&String::from_utf8_lossy(&bytes)));
        }
        for fragment in more {
            wanted.extend(options(&read(data, fragment)?));
        }
        Ok(Self {
            wanted,
            ..Self::default()
        })
    }

    /// The same for a source that may be any: only what vfrace cannot do without must come out, the rest as far as the
    /// source has it.
    pub fn lenient(self, data: &Path, arch: Arch) -> Result<Self, HostError> {
        Ok(Self {
            needed: Some(options(&read(data, target(arch).needed)?)),
            ..self
        })
    }

    /// A configuration of the user's, with the fragments in `more` on top.
    pub fn own(data: &Path, arch: Arch, file: &Path, more: &[String]) -> Result<Self, KernelError> {
        let wrong = |why: &str| KernelError::OwnConfig {
            path: file.to_path_buf(),
            why: why.to_owned(),
        };
        let mut bytes = Vec::new();
        std::fs::File::open(file)
            .and_then(|f| f.take(OWN_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|e| wrong(&format!("it cannot be read: {e}")))?;
        if bytes.len() as u64 > OWN_BYTES {
            return Err(wrong("it is too long to be one"));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| wrong("it is not text"))?;
        if options(&text).is_empty() {
            return Err(wrong("it has no line like `CONFIG_X=y`"));
        }
        for fragment in more {
            text.push('\n');
            text.push_str(&read(data, fragment)?);
        }
        Ok(Self {
            own: Some(text),
            ..Self::default().lenient(data, arch)?
        })
    }

    /// These options, wherever they are from.
    #[cfg(test)]
    pub(super) fn fixed(text: &str) -> Self {
        Self {
            wanted: options(text),
            ..Self::default()
        }
    }

    /// Whether it is the user's, a whole `.config`.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// One fragment for KCONFIG_ALLCONFIG, or the user's `.config`.
    pub fn text(&self) -> String {
        if let Some(own) = &self.own {
            return own.clone();
        }
        self.wanted
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect()
    }

    /// Hash of the options, whatever their order and comments.
    pub fn id(&self) -> String {
        files::hex(&Sha256::digest(self.text()))
    }

    /// The options that a `.config` must have and does not, as `CONFIG_X=y`.
    pub fn missing(&self, dot_config: &str) -> Vec<String> {
        differing(self.needed.as_ref().unwrap_or(&self.wanted), dot_config)
    }

    /// What it would be better to have, and a `.config` does not: checks, by name; options that this source does not
    /// have. For a note.
    pub fn lost(&self, dot_config: &str) -> Vec<String> {
        if self.own.is_some() {
            let got = options(dot_config);
            let off = |key: &str| got.get(key).is_none_or(|v| v != "y");
            let off = NAMED.iter().filter(|(key, _)| off(key));
            return off.map(|(_, name)| (*name).to_owned()).collect();
        }
        let missing = self.missing(dot_config);
        let mut lost = differing(&self.wanted, dot_config);
        lost.retain(|option| !missing.contains(option));
        lost
    }

    /// A line for people of what is on in a `.config`: "KASAN, lockdep, ...".
    pub fn summary(dot_config: &str) -> String {
        let got = options(dot_config);
        let on = |key: &str| got.get(key).is_some_and(|v| v == "y");
        let names: Vec<&str> = NAMED
            .iter()
            .filter(|(key, _)| on(key))
            .map(|(_, name)| *name)
            .collect();
        names.join(", ")
    }
}

/// A fragment's file.
fn path(data: &Path, fragment: &str) -> PathBuf {
    data.join("guest-tests/kconfig")
        .join(format!("{fragment}.config"))
}

fn read(data: &Path, fragment: &str) -> Result<String, HostError> {
    let path = path(data, fragment);
    std::fs::read_to_string(&path).map_err(files::failed("read", &path))
}

fn differing(wanted: &BTreeMap<String, String>, dot_config: &str) -> Vec<String> {
    let got = options(dot_config);
    let off = "n".to_owned();
    wanted
        .iter()
        .filter(|(key, value)| got.get(*key).unwrap_or(&off) != *value)
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// `CONFIG_X=value` and `# CONFIG_X is not set` lines; everything else is comment.
pub(super) fn options(text: &str) -> BTreeMap<String, String> {
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
            wanted: options(
                "# why\nCONFIG_A=y\nCONFIG_B=20\nCONFIG_C=n\nCONFIG_D=\"s\"\n# CONFIG_E is not set\n",
            ),
            ..Config::default()
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
                wanted: options(text),
                ..Config::default()
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
        let config = Config::load(
            Path::new(env!("CARGO_MANIFEST_DIR")),
            Arch::X86_64,
            "7.2",
            &[],
        )
        .unwrap();
        assert_eq!(
            Config::summary(&config.text()),
            "KASAN, lockdep, DEBUG_LIST, hung-task, caller ids, PREEMPT"
        );
        let newer = Config::load(
            Path::new(env!("CARGO_MANIFEST_DIR")),
            Arch::X86_64,
            "7.3",
            &[],
        )
        .unwrap();
        assert_ne!(config.id(), newer.id());
    }

    fn own(text: impl AsRef<[u8]>) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        Config::own(data, Arch::X86_64, file.path(), &[]).map_err(|e| e.to_string())
    }

    #[test]
    fn a_configuration_of_the_users_must_have_what_is_needed() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        let all = Config::load(data, Arch::X86_64, "7.2", &[]).unwrap().text();
        assert!(own("CONFIG_PCI=y\n").unwrap().missing(&all).is_empty());
        let config = own("# mine\nCONFIG_X=y\n").unwrap();
        assert!(config.is_own() && config.text() == "# mine\nCONFIG_X=y\n");
        let module = all.replace("CONFIG_VIRTIO_NET=y", "CONFIG_VIRTIO_NET=m")
            + "CONFIG_MODULE_SIG_FORCE=y\n";
        assert_eq!(
            config.missing(&module),
            ["CONFIG_MODULE_SIG_FORCE=n", "CONFIG_VIRTIO_NET=y"]
        );
        let lean = all
            .replace("CONFIG_KASAN=y", "")
            .replace("CONFIG_DEBUG_LIST=y", "");
        assert!(config.missing(&lean).is_empty());
        assert_eq!(config.lost(&lean), ["KASAN", "DEBUG_LIST"]);
        assert_ne!(config.id(), own("CONFIG_X=n\n").unwrap().id());
    }

    #[test]
    fn any_source_may_lack_what_is_only_useful() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        let usual = Config::load(data, Arch::X86_64, "7.2", &[]).unwrap();
        let (id, all) = (usual.id(), usual.text());
        let lenient = usual.clone().lenient(data, Arch::X86_64).unwrap();
        assert_eq!(lenient.id(), id);
        let without = all.replace("CONFIG_KASAN=y", "# CONFIG_KASAN is not set");
        assert_eq!(usual.missing(&without), ["CONFIG_KASAN=y"]);
        assert!(lenient.missing(&without).is_empty());
        assert_eq!(lenient.lost(&without), ["CONFIG_KASAN=y"]);
        let without = all.replace("CONFIG_PCI_IOV=y", "");
        assert_eq!(lenient.missing(&without), ["CONFIG_PCI_IOV=y"]);
        assert!(lenient.lost(&without).is_empty());
    }

    #[test]
    fn what_is_needed_is_a_part_of_what_is_usual() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        for arch in Arch::ALL {
            let usual = Config::load(data, arch, "7.2", &[]).unwrap();
            for (key, value) in options(&read(data, target(arch).needed).unwrap()) {
                if value == "y" {
                    assert_eq!(usual.wanted.get(&key), Some(&value), "{arch} {key}");
                }
            }
        }
    }

    #[test]
    fn a_configuration_that_is_none_is_refused() {
        for (text, words) in [
            (&b""[..], "no line like"),
            (b"hello\n", "no line like"),
            (b"\xff\xfe\x00CONFIG_A=y\n", "not text"),
        ] {
            let error = own(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (file, words) in [
            ("/dev/zero", "too long"),
            ("/nowhere/config", "cannot be read"),
            ("/", "cannot be read"),
        ] {
            let error = Config::own(data, Arch::X86_64, Path::new(file), &[]).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.exit(), crate::exit::ExitCode::Usage);
        }
    }
}
