// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Options that say what kernels are built from: a tree, a configuration, patches.

use std::path::{Path, PathBuf};

use crate::kernel::{KernelError, KernelName, Kernels, PatchRequest, ReadyRequest, TreeRequest};

/// What kernels are built from. Flattened into every command that builds some.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What kernels are built from")]
pub struct KernelOptions {
    /// Build from this git tree, with its uncommitted changes, or unpacked source; nothing is written into it
    #[arg(long, value_name = "DIR")]
    linux: Option<PathBuf>,
    /// Build from this commit of --linux instead of its work tree; may be given several times
    #[arg(long, value_name = "REV", requires = "linux")]
    commit: Vec<String>,
    /// Run this bzImage, which is built already, as the kernel `image`
    #[arg(
        long,
        value_name = "FILE",
        requires = "modules",
        conflicts_with_all = ["linux", "patch"]
    )]
    image: Option<PathBuf>,
    /// The modules of --image: /lib/modules/RELEASE, with `build` pointing to its headers or object tree
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// A kernel more, with a patch: a diff, mail or mailbox, `-` for standard input, a directory (quilt's, a Maildir, or
    /// *.patch in order), or commits A..B of --linux or the working directory; may be given several times
    #[arg(long, value_name = "FILE|-|DIR|A..B", allow_hyphen_values = true)]
    patch: Vec<String>,
    /// A kernel for every patch of a series, with those before it, instead of one with all
    #[arg(long, requires = "patch")]
    each_patch: bool,
    /// Put the patches on this variant instead of the source as it is
    #[arg(long, value_name = "VARIANT", requires = "patch")]
    patch_on: Option<String>,
    /// Configure the kernels with this .config; what vfrace needs must be in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl KernelOptions {
    /// The tree that is named.
    pub(super) fn linux(&self) -> Option<&Path> {
        self.linux.as_deref()
    }

    /// The same from the tree at `top`, unless another one is named.
    pub(super) fn on(&self, top: &Path) -> Self {
        Self {
            linux: Some(self.linux.clone().unwrap_or_else(|| top.to_path_buf())),
            ..self.clone()
        }
    }

    /// The same at one commit of that tree.
    pub(super) fn at(&self, top: &Path, commit: &str) -> Self {
        Self {
            commit: vec![commit.to_owned()],
            ..self.on(top)
        }
    }

    /// The same with a kernel for every prefix of a series, beside those that are named.
    pub(super) fn each_of(&self, series: &str) -> Self {
        let mut patch = self.patch.clone();
        patch.push(series.to_owned());
        Self {
            patch,
            each_patch: true,
            ..self.clone()
        }
    }

    /// Everything but the tree, in no particular form: two that differ are different.
    pub(super) fn shown(&self) -> String {
        let all = Self {
            linux: None,
            commit: Vec::new(),
            ..self.clone()
        };
        format!("{all:?}")
    }

    /// The kernels with these options. Reads the tree: seconds.
    pub fn apply(&self, mut kernels: Kernels) -> Result<Kernels, KernelError> {
        if let (Some(image), Some(modules)) = (&self.image, &self.modules) {
            let request = ReadyRequest {
                image: image.clone(),
                modules: modules.clone(),
            };
            return kernels.with_ready(&request, self.config.as_deref());
        }
        if let Some(file) = &self.config {
            kernels = kernels.with_config(file)?;
        }
        if let Some(dir) = &self.linux {
            kernels = kernels.with_tree(&TreeRequest {
                dir: dir.clone(),
                commits: self.commit.clone(),
            })?;
        }
        let request = |from: &String| PatchRequest {
            from: from.clone(),
            each: self.each_patch,
            on: self.patch_on.clone(),
        };
        let requests: Vec<PatchRequest> = self.patch.iter().map(request).collect();
        kernels.with_patches(&requests)
    }

    /// What was asked for, with the kernels that were listed, for messages.
    pub fn asked(&self, listed: &str) -> String {
        let mut words = vec![listed.to_owned()];
        for (option, values) in [("--commit", &self.commit), ("--patch", &self.patch)] {
            words.extend(values.iter().map(|value| format!("{option} {value}")));
        }
        words.join(" ")
    }

    /// The kernels that are meant: those listed and those with patches, on the tree if there is one. Nothing is listed:
    /// `usual`; with a tree or a patch, for a command that takes several, the source as it is and the patches, for one
    /// that takes one, the patch, else the tree as it is.
    pub fn names(
        &self,
        kernels: &Kernels,
        listed: &[KernelName],
        usual: &[&str],
    ) -> Result<Vec<KernelName>, KernelError> {
        let usual = match &self.image {
            Some(_) => &["image"],
            None => usual,
        };
        let several = usual.len() > 1;
        let mut names: Vec<KernelName> = listed.to_vec();
        if names.is_empty() && self.linux.is_none() && self.patch.is_empty() {
            for name in usual {
                names.push(name.parse()?);
            }
        } else if names.is_empty() && (several || self.patch.is_empty()) {
            names.push(KernelName::base());
        }
        names.extend(kernels.patched());
        kernels.names(&names)
    }
}
