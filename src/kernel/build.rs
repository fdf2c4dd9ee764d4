// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a name to a kernel that can be booted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ground::Ground;
use super::layer::Layer;
use super::module::ModuleSource;
use super::name::{ALL, ALL_MUTANTS, BASE, TREE};
use super::ready::{IMAGE, Ready, ReadyRequest};
use super::series::{PatchRequest, Series};
use super::snapshot::{Revision, Snapshot, TreeRequest};
use super::source;
use super::target::{Target, target};
use super::variant::{Manifest, Variant};
use super::work::Work;
use super::{Config, KernelError, KernelName, functions};
use crate::arch::Arch;
use crate::event::EventSink;
use crate::host::files::{self, Lock};
use crate::host::{HostError, command, tools};

/// Raised when the way of building changes the result, so that kernels built before are not taken for new ones.
const RECIPE: u32 = 3;
/// What has the symbols and lines of a kernel.
pub(super) const SYMBOLS: &str = "vmlinux.debug";
/// Digits of the identity that name the directory.
const ID_DIGITS: usize = 20;

/// A kernel in the cache, ready to boot, with the guest module for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuiltKernel {
    /// As asked for.
    pub name: KernelName,
    /// What it is built for.
    pub arch: Arch,
    /// Hash of what went into it, 20 hexadecimal digits.
    pub id: String,
    /// Version of Debian's source package.
    pub source_version: String,
    /// The kernel's own release string.
    pub release: String,
    /// bzImage.
    pub image: PathBuf,
    /// vfrace.ko for it.
    pub module: PathBuf,
    /// Modules that the guest loads before it, in order; of a kernel that came with them.
    pub boot_modules: Vec<PathBuf>,
    /// System.map.
    pub system_map: PathBuf,
    /// Table of the functions that ftrace can redirect, for [`super::Functions::load`].
    pub functions: PathBuf,
    /// vmlinux without its code: symbols and lines, for addr2line and the kernel's decode_stacktrace.sh.
    pub symbols: PathBuf,
    /// The directory of all these.
    pub dir: PathBuf,
    /// Checks that are compiled in, a line.
    pub config_summary: String,
}

/// Patches of the user's on a variant.
#[derive(Debug)]
struct Patched {
    series: Series,
    on: String,
    each: bool,
}

impl Patched {
    /// The names of its kernels, with the number of patches that each has.
    fn kernels(&self) -> Vec<(String, usize)> {
        let name = &self.series.name;
        let all = self.series.patches.len();
        if self.each {
            return (1..=all).map(|n| (format!("{name}.{n}"), n)).collect();
        }
        vec![(name.clone(), all)]
    }

    fn variant(&self, name: String, count: usize) -> Variant {
        let patches = self.series.patches.iter().take(count);
        let mut touches: Vec<PathBuf> = patches.flat_map(|p| p.files.clone()).collect();
        touches.sort();
        touches.dedup();
        Variant {
            mechanism: format!(
                "{count} of {} patches of {} on {}",
                self.series.patches.len(),
                self.series.from,
                self.on
            ),
            name,
            touches,
            ..Variant::default()
        }
    }
}

/// A kernel in the cache, as [`Kernels::list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name that it was built under.
    pub name: KernelName,
    /// What it is built for.
    #[serde(default, skip_serializing_if = "Arch::is_default")]
    pub arch: Arch,
    /// Its identity.
    pub id: String,
    /// Version of Debian's source package.
    pub source_version: String,
    /// The kernel's own release string.
    pub release: String,
    /// Compiler and linker.
    pub compiler: String,
    /// Checks that are compiled in.
    pub config_summary: String,
    /// Flags of the compiler that keep functions out of line, and the object files that have them.
    #[serde(default)]
    pub out_of_line: OutOfLine,
    /// sha256 of bzImage.
    pub image_sha256: String,
    /// Seconds that the build took.
    pub seconds: u64,
    /// Steps that make did.
    pub steps: u64,
    /// It was the first in its object tree, nothing could be taken over.
    pub full: bool,
    /// When, seconds since 1970.
    pub built: u64,
}

/// What differs from a plain build of the same configuration, see src/kernel/outline.rs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfLine {
    /// The compiler's flags.
    pub flags: Vec<String>,
    /// The object files, without `.o`, from the kernel's top directory.
    pub objects: Vec<String>,
}

/// The kernels of a cache directory.
#[derive(Debug)]
pub struct Kernels {
    pub(super) arch: Arch,
    pub(super) cache: PathBuf,
    data: PathBuf,
    pub(super) events: EventSink,
    pub(super) stop: Arc<AtomicBool>,
    tree: Option<Snapshot>,
    ready: Option<Ready>,
    patched: Vec<Patched>,
    pub(super) own_config: Option<PathBuf>,
}

impl Kernels {
    /// `cache` is the cache directory, `data` the one with guest-tests/ and images/ (see [`crate::paths`]).
    pub fn new(cache: PathBuf, data: PathBuf, events: EventSink) -> Self {
        Self {
            arch: Arch::default(),
            cache,
            data,
            events,
            stop: Arc::default(),
            tree: None,
            ready: None,
            patched: Vec::new(),
            own_config: None,
        }
    }

    /// Kernels for another architecture. To be called before what follows, for configurations differ.
    #[must_use]
    pub fn with_arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// Downloads and builds end soon after `stop` has become true, with an error that says so.
    #[must_use]
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Puts every kernel whose name has no `@SOURCE` onto a tree of the user's, for [`Kernels::names`]. Reads the tree:
    /// seconds, for a source that is no git tree a minute.
    pub fn with_tree(mut self, request: &TreeRequest) -> Result<Self, KernelError> {
        self.tree = Some(Snapshot::take(
            &self.cache,
            request,
            &self.events,
            &self.stop,
        )?);
        Ok(self)
    }

    /// Adds the kernel `image`, which is built already. `config` is its configuration, if its modules come without.
    pub fn with_ready(
        mut self,
        request: &ReadyRequest,
        config: Option<&Path>,
    ) -> Result<Self, KernelError> {
        if !self.arch.is_default() {
            return Err(KernelError::NotFor {
                what: "--image",
                arch: self.arch,
            });
        }
        self.ready = Some(Ready::look(&self.data, request, config)?);
        Ok(self)
    }

    /// Configures every kernel as `file` says, a `.config` of the user's. What vfrace needs must be in it.
    pub fn with_config(mut self, file: &Path) -> Result<Self, KernelError> {
        Config::own(&self.data, self.arch, file, &[])?;
        self.own_config = Some(file.to_path_buf());
        Ok(self)
    }

    /// Adds kernels with patches of the user's. To be called after [`Kernels::with_tree`], for commits are looked for there.
    pub fn with_patches(mut self, requests: &[PatchRequest]) -> Result<Self, KernelError> {
        for request in requests {
            let manifest = self.manifest()?;
            let on = request.on.as_deref().unwrap_or(BASE);
            manifest.find(on)?;
            let dir = self.tree.as_ref().map(|tree| tree.dir.as_path());
            let patched = Patched {
                series: Series::read(&request.from, dir)?,
                on: on.to_owned(),
                each: request.each,
            };
            for (name, _) in patched.kernels() {
                if is_reserved(&name) || manifest.find(&name).is_ok() {
                    let from = request.from.clone();
                    return Err(KernelError::NameTaken { from, name });
                }
            }
            self.patched.push(patched);
        }
        Ok(self)
    }

    /// The series of the user's patches, in the order of the request.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.patched.iter().map(|patched| &patched.series)
    }

    /// The kernels of the user's patches, for [`Kernels::names`].
    pub fn patched(&self) -> Vec<KernelName> {
        let all = self.patched.iter().flat_map(Patched::kernels);
        all.map(|(name, _)| KernelName::base().with(&name))
            .collect()
    }

    /// The kernels with the first 0, 1, 2, ... patches of a series that was asked for with [`PatchRequest::each`], for
    /// [`Kernels::names`]: the first one is what the patches are put on.
    pub fn prefixes(&self, series: &Series) -> Vec<KernelName> {
        let named = |name: &str| KernelName::base().with(name);
        let mut all = self.patched.iter();
        all.find(|patched| patched.each && patched.series.name == series.name)
            .map(|patched| {
                let after = patched.kernels().into_iter().map(|(name, _)| named(&name));
                std::iter::once(named(&patched.on)).chain(after).collect()
            })
            .unwrap_or_default()
    }

    /// The states of the user's tree, in the order of the request; none without a tree.
    pub fn revisions(&self) -> &[Revision] {
        self.tree.as_ref().map_or(&[], |tree| &tree.revisions)
    }

    /// The kernels that are meant by a list, see [`Manifest::expand`]. Those without a source go onto the user's tree if
    /// there is one, at each of its states; the one without a patch is called `tree` there.
    pub fn names(&self, listed: &[KernelName]) -> Result<Vec<KernelName>, KernelError> {
        let expanded = self.variants()?.expand(listed)?;
        let revisions = self.revisions();
        if revisions.is_empty() {
            return Ok(expanded);
        }
        let mut names: Vec<KernelName> = Vec::new();
        for name in expanded {
            let on: Vec<KernelName> = match name.has_source() {
                true => vec![name],
                false => revisions.iter().map(|r| name.on_tree(&r.tag)).collect(),
            };
            for name in on {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }

    /// The variants that there are, the kernels of the user's patches, and the one that is built already.
    fn variants(&self) -> Result<Manifest, KernelError> {
        let mut manifest = Manifest::load(&self.data)?;
        for patched in &self.patched {
            for (name, count) in patched.kernels() {
                manifest.add(patched.variant(name, count));
            }
        }
        if let Some(ready) = &self.ready {
            manifest.add(Variant {
                name: IMAGE.to_owned(),
                mechanism: format!("{}, built already", ready.place().display()),
                ..Variant::default()
            });
        }
        Ok(manifest)
    }

    /// The variants that there are, those with the user's patches, and `tree`, if there is one of the user's.
    pub fn manifest(&self) -> Result<Manifest, KernelError> {
        let mut manifest = self.variants()?;
        if let Some(tree) = &self.tree {
            manifest.add(Variant {
                name: TREE.to_owned(),
                mechanism: format!("{} as it is", tree.dir.display()),
                ..Variant::default()
            });
        }
        Ok(manifest)
    }

    /// The state of the user's tree that a name is put on; `None`: it is put on a source of Debian's.
    fn revision(&self, name: &KernelName) -> Result<Option<(&Snapshot, &Revision)>, KernelError> {
        if !name.is_on_tree() {
            return Ok(None);
        }
        let found = self.tree.as_ref().and_then(|tree| {
            let mut all = tree.revisions.iter();
            Some((tree, all.find(|r| r.tag == name.source())?))
        });
        found.map(Some).ok_or_else(|| KernelError::NoTree {
            name: name.to_string(),
        })
    }

    /// The options of a kernel, which is put on that state of the user's tree.
    fn config(
        &self,
        name: &KernelName,
        revision: Option<&Revision>,
    ) -> Result<Config, KernelError> {
        match (&self.own_config, revision) {
            (Some(file), _) => Config::own(&self.data, self.arch, file, name.fragments()),
            (None, Some(on)) => {
                let config = Config::load(&self.data, self.arch, &on.series(), name.fragments())?;
                Ok(config.lenient(&self.data, self.arch)?)
            }
            (None, None) => Ok(Config::load(
                &self.data,
                self.arch,
                name.source(),
                name.fragments(),
            )?),
        }
    }

    /// The patches of a variant, the first one first.
    fn layers(&self, manifest: &Manifest, variant: &Variant) -> Result<Vec<Layer>, KernelError> {
        for patched in &self.patched {
            for (name, count) in patched.kernels() {
                if name == variant.name {
                    let on = &manifest.find(&patched.on)?.patch;
                    let mut layers: Vec<Layer> = on.iter().map(Layer::from).collect();
                    for mut layer in patched.series.layers(count) {
                        if patched.on != BASE {
                            layer.label.push_str(&format!(" on {}", patched.on));
                        }
                        layers.push(layer);
                    }
                    return Ok(layers);
                }
            }
        }
        Ok(variant.patch.iter().map(Layer::from).collect())
    }

    /// The kernel of that name with its module: from the cache, else built, for which the source is fetched if need
    /// be. Blocks for minutes then; processes that want the same tree wait for each other.
    pub fn build(&self, name: &KernelName) -> Result<BuiltKernel, KernelError> {
        if let Some(ready) = self.ready.as_ref().filter(|_| name.variant() == IMAGE) {
            return ready.provide(self, name, &ModuleSource::load(&self.data)?);
        }
        let on = self.revision(name)?;
        let manifest = self.manifest()?;
        let variant = manifest.find(name.variant())?;
        let config = self.config(name, on.map(|(_, revision)| revision))?;
        let module = ModuleSource::load(&self.data)?;
        if std::env::consts::ARCH != "x86_64" {
            return Err(KernelError::Architecture {
                guest: self.arch,
                host: std::env::consts::ARCH,
            });
        }
        tools::require(&tools::BUILD)?;
        tools::require(tools::cross(self.arch))?;
        tools::require_headers()?;
        let compiler = compiler(target(self.arch))?;
        let layers = self.layers(&manifest, variant)?;
        let ground = match on {
            Some((snapshot, revision)) => Ground::on_tree(snapshot, revision, &layers)?,
            None => Ground::Debian {
                source: source::provide(
                    &self.cache,
                    &self.data,
                    name.source(),
                    &self.events,
                    &self.stop,
                )?,
                layers,
            },
        };
        let id = identity(self.arch, &ground, &config, &compiler);
        let dir = self.cache.join("kernels").join(&id);
        let built = |listed: Listed| BuiltKernel {
            name: name.clone(),
            arch: self.arch,
            id: id.clone(),
            source_version: ground.version(),
            release: listed.release,
            image: dir.join("bzImage"),
            module: module.built(&dir),
            boot_modules: module.before(&dir, self.arch),
            system_map: dir.join("System.map"),
            functions: functions::path(&dir),
            symbols: dir.join(SYMBOLS),
            dir: dir.clone(),
            config_summary: listed.config_summary,
        };
        if let (Some(listed), true) = (read_listed(&dir), module.built(&dir).exists()) {
            return Ok(built(listed));
        }
        let _lock = Lock::take(&ground.lock(), &self.stop, || {
            self.events.progress(
                &format!("kernel {name}"),
                "waiting for another vfrace that is building",
                None,
            );
        })?;
        let work = Work {
            kernels: self,
            name,
            ground: &ground,
            variant,
            config: &config,
            compiler: &compiler,
        };
        let listed = match read_listed(&dir) {
            Some(listed) => listed,
            None => work.kernel(&module, &id, &dir)?,
        };
        if !module.built(&dir).exists() {
            work.module(&module, &id, &dir)?;
        }
        Ok(built(listed))
    }

    /// What was built, newest first.
    pub fn list(&self) -> Vec<Listed> {
        let mut all: Vec<Listed> = files::dirs_in(&self.cache.join("kernels"))
            .iter()
            .filter_map(|dir| read_listed(dir))
            .collect();
        all.sort_by_key(|k| std::cmp::Reverse(k.built));
        all
    }
}

/// A name that stands for something else where kernels are listed.
fn is_reserved(name: &str) -> bool {
    [ALL, ALL_MUTANTS, TREE].contains(&name)
}

/// The symbols of a kernel that was built into `cache`, by its identity; `None` if it is not there, or was built before
/// they were kept.
pub fn built_symbols(cache: &Path, id: &str) -> Option<PathBuf> {
    // The identity can be from a recording that came from anywhere.
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
    let path = cache.join("kernels").join(id).join(SYMBOLS);
    (is_id && path.is_file()).then_some(path)
}

fn read_listed(dir: &Path) -> Option<Listed> {
    serde_json::from_slice(&std::fs::read(dir.join("build.json")).ok()?).ok()
}

/// Compiler and linker, a line.
fn compiler(target: &Target) -> Result<String, HostError> {
    let first = |tool: &str| {
        let text = command::output(Command::new(tool).arg("--version").env("LC_ALL", "C"), tool)?;
        Ok::<_, HostError>(text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!(
        "{}; {}",
        first(&target.tool("gcc"))?,
        first(&target.tool("ld"))?
    ))
}

/// Hash of everything that decides what comes out.
fn identity(arch: Arch, ground: &Ground<'_>, config: &Config, compiler: &str) -> String {
    let [version, source, patch] = ground.identity();
    let mut parts = vec![
        RECIPE.to_string().into_bytes(),
        version,
        source,
        patch,
        config.id().into_bytes(),
        compiler.as_bytes().to_vec(),
    ];
    // Nothing for the first architecture that there was: its kernels in every cache are found again.
    if !arch.is_default() {
        parts.push(arch.name().as_bytes().to_vec());
    }
    identity_of(&parts)
}

/// The identity that a kernel has by its parts, in their order.
pub(super) fn identity_of(parts: &[Vec<u8>]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    files::hex(&hash.finalize())
        .chars()
        .take(ID_DIGITS)
        .collect()
}

#[cfg(test)]
mod tests;
