// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a kernel is built from: a source and the patches on it. The source is one of Debian's, or a tree of the user's.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::KernelError;
use super::layer::{Layer, Rejected};
use super::snapshot::{Revision, Snapshot};
use super::source::Source;
use super::tree::Tree;
use crate::host::files;

/// A source with patches.
pub(super) enum Ground<'a> {
    /// A source package of Debian's.
    Debian {
        /// In the cache.
        source: Source,
        /// The patches, the first one first.
        layers: Vec<Layer>,
    },
    /// A tree of the user's.
    Tree {
        /// Where it is from.
        snapshot: &'a Snapshot,
        /// The state.
        revision: &'a Revision,
        /// Object id of the tree with the patches on it.
        tree: String,
    },
}

impl<'a> Ground<'a> {
    /// A state of the user's tree with patches on it. An error if one does not fit.
    pub fn on_tree(
        snapshot: &'a Snapshot,
        revision: &'a Revision,
        layers: &[Layer],
    ) -> Result<Self, KernelError> {
        let onto = format!("{} at {}", snapshot.dir.display(), revision.tag);
        let patched = snapshot.patched(&revision.tree, layers)?;
        Ok(Ground::Tree {
            snapshot,
            revision,
            tree: patched.map_err(|rejected| does_not_apply(rejected, onto))?,
        })
    }

    /// The kernel's top directory. It is at what was built last.
    pub fn tree(&self) -> PathBuf {
        match self {
            Ground::Debian { source, .. } => source.tree(),
            Ground::Tree { snapshot, .. } => snapshot.tree(),
        }
    }

    /// The lock for everything that uses the top directory, or an object tree of it.
    pub fn lock(&self) -> PathBuf {
        match self {
            Ground::Debian { source, .. } => source.lock(),
            Ground::Tree { snapshot, .. } => snapshot.lock(),
        }
    }

    /// The source's version: that of Debian's package, or the kernel's and the state of the tree.
    pub fn version(&self) -> String {
        match self {
            Ground::Debian { source, .. } => source.package_version.clone(),
            Ground::Tree { revision, .. } => format!("{} {}", revision.version, revision.tag),
        }
    }

    /// What object trees of it are called.
    pub fn key(&self) -> String {
        match self {
            Ground::Debian { source, .. } => source.package_version.replace(':', "%3a"),
            Ground::Tree { snapshot, .. } => snapshot.key(),
        }
    }

    /// What the source adds to a configuration with the same options: new ones, other defaults. Nothing for Debian's,
    /// in which no variant changes that.
    pub fn options(&self) -> Result<String, KernelError> {
        match self {
            Ground::Debian { layers, .. } => {
                let files = layers.iter().flat_map(|layer| &layer.files);
                let kconfig = files.filter(|file| is_kconfig(&file.to_string_lossy()));
                // One for every set of patches that touch it: rare, and then as it must be.
                Ok(match kconfig.count() {
                    0 => String::new(),
                    _ => files::hex(&Sha256::digest(self.identity().concat())),
                })
            }
            Ground::Tree { snapshot, tree, .. } => Ok(snapshot.hash_of(tree, is_kconfig)?),
        }
    }

    /// What decides its content, in parts.
    pub fn identity(&self) -> [Vec<u8>; 3] {
        match self {
            Ground::Debian { source, layers } => {
                let patch = match layers.as_slice() {
                    [] => Vec::new(),
                    [one] if one.strip == 1 => one.bytes.clone(),
                    more => more.iter().flat_map(stacked).collect(),
                };
                let (version, hash) = (&source.package_version, &source.sha256);
                [version.clone().into(), hash.clone().into(), patch]
            }
            Ground::Tree { tree, .. } => ["tree".into(), tree.clone().into(), Vec::new()],
        }
    }

    /// Brings the top directory to it. The caller holds the lock.
    pub fn switch(&self, stop: &AtomicBool) -> Result<(), KernelError> {
        match self {
            Ground::Debian { source, layers } => {
                let (top, originals) = (source.tree(), source.originals());
                let tree = Tree {
                    source: &top,
                    originals: &originals,
                };
                let onto = || format!("linux-source-{}", source.version);
                tree.switch(layers)?
                    .map(|_| ())
                    .map_err(|rejected| does_not_apply(rejected, onto()))
            }
            Ground::Tree { snapshot, tree, .. } => snapshot.check_out(tree, stop),
        }
    }
}

/// Whether a file of the kernel has a say in which options there are.
fn is_kconfig(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    name.starts_with("Kconfig") || file.starts_with("scripts/")
}

/// A patch of several, for the identity.
fn stacked(layer: &Layer) -> Vec<u8> {
    let mut part = format!("{} {}\n", layer.strip, layer.bytes.len()).into_bytes();
    part.extend(&layer.bytes);
    part
}

fn does_not_apply(rejected: Rejected, onto: String) -> KernelError {
    KernelError::PatchDoesNotApply {
        patch: rejected.label,
        onto,
        output: rejected.output,
    }
}
