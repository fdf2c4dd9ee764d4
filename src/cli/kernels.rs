// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Options that say what kernels are built from: a tree, a configuration, patches.

use std::path::PathBuf;

use crate::kernel::{KernelError, KernelName, Kernels, ReadyRequest, TreeRequest};

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
        conflicts_with = "linux"
    )]
    image: Option<PathBuf>,
    /// The modules of --image: /lib/modules/RELEASE, with `build` pointing to its headers or object tree
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// Configure the kernels with this .config; what vfrace needs must be in it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl KernelOptions {
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
        Ok(kernels)
    }

    /// The kernels that are meant: those listed, on the tree if there is one. Nothing is listed: the tree as it is, or
    /// `usual` if no tree is given.
    pub fn names(
        &self,
        kernels: &Kernels,
        listed: &[KernelName],
        usual: &[&str],
    ) -> Result<Vec<KernelName>, KernelError> {
        let usual = match (&self.linux, &self.image) {
            (None, None) => usual,
            (Some(_), _) => &["base"],
            (None, Some(_)) => &["image"],
        };
        if listed.is_empty() {
            let usual: Result<Vec<KernelName>, _> = usual.iter().map(|name| name.parse()).collect();
            return kernels.names(&usual?);
        }
        kernels.names(listed)
    }
}
