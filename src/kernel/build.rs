// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a name to a kernel that can be booted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::make::{FULL_STEPS, Make};
use super::module::ModuleSource;
use super::source::{self, Source};
use super::tree::Tree;
use super::variant::{Manifest, Variant};
use super::{Config, KernelError, KernelName, functions, outline};
use crate::event::EventSink;
use crate::host::files::{self, Lock};
use crate::host::{HostError, command, tools};

/// Raised when the way of building changes the result, so that kernels built before are not taken for new ones.
const RECIPE: u32 = 3;
/// Room that a full build needs, in MiB.
const BUILD_MIB: u64 = 2500;
/// What has the symbols and lines of a kernel.
const SYMBOLS: &str = "vmlinux.debug";
/// Digits of the identity that name the directory.
const ID_DIGITS: usize = 20;

/// A kernel in the cache, ready to boot, with the guest module for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuiltKernel {
    /// As asked for.
    pub name: KernelName,
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

/// A kernel in the cache, as [`Kernels::list`] finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name that it was built under.
    pub name: KernelName,
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
    cache: PathBuf,
    data: PathBuf,
    events: EventSink,
    stop: Arc<AtomicBool>,
}

impl Kernels {
    /// `cache` is the cache directory, `data` the one with guest-tests/ and images/ (see [`crate::paths`]).
    pub fn new(cache: PathBuf, data: PathBuf, events: EventSink) -> Self {
        Self {
            cache,
            data,
            events,
            stop: Arc::default(),
        }
    }

    /// Downloads and builds end soon after `stop` has become true, with an error that says so.
    #[must_use]
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// The variants that there are.
    pub fn manifest(&self) -> Result<Manifest, KernelError> {
        Ok(Manifest::load(&self.data)?)
    }

    /// The kernel of that name with its module: from the cache, else built, for which the source is fetched if need
    /// be. Blocks for minutes then; processes that want the same tree wait for each other.
    pub fn build(&self, name: &KernelName) -> Result<BuiltKernel, KernelError> {
        let manifest = self.manifest()?;
        let variant = manifest.find(name.variant())?;
        let config = Config::load(&self.data, name.source(), name.fragments())?;
        let module = ModuleSource::load(&self.data)?;
        if std::env::consts::ARCH != "x86_64" {
            return Err(KernelError::Architecture {
                arch: std::env::consts::ARCH,
            });
        }
        tools::require(&tools::BUILD)?;
        tools::require_headers()?;
        let compiler = compiler()?;
        let source = source::provide(
            &self.cache,
            &self.data,
            name.source(),
            &self.events,
            &self.stop,
        )?;
        let id = identity(&source, variant, &config, &compiler);
        let dir = self.cache.join("kernels").join(&id);
        let built = |listed: Listed| BuiltKernel {
            name: name.clone(),
            id: id.clone(),
            source_version: listed.source_version,
            release: listed.release,
            image: dir.join("bzImage"),
            module: module.built(&dir),
            system_map: dir.join("System.map"),
            functions: functions::path(&dir),
            symbols: dir.join(SYMBOLS),
            dir: dir.clone(),
            config_summary: listed.config_summary,
        };
        if let (Some(listed), true) = (read_listed(&dir), module.built(&dir).exists()) {
            return Ok(built(listed));
        }
        let _lock = Lock::take(&source.lock(), &self.stop, || {
            self.events.progress(
                &format!("kernel {name}"),
                "waiting for another vfrace that is building",
                None,
            );
        })?;
        let work = Work {
            kernels: self,
            name,
            source: &source,
            variant,
            config: &config,
            compiler: &compiler,
        };
        let listed = match read_listed(&dir) {
            Some(listed) => listed,
            None => work.kernel(&id, &dir)?,
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

/// One build, under the source's lock.
struct Work<'a> {
    kernels: &'a Kernels,
    name: &'a KernelName,
    source: &'a Source,
    variant: &'a Variant,
    config: &'a Config,
    compiler: &'a str,
}

impl Work<'_> {
    /// Room of the object tree: one a source package and configuration.
    fn room(&self) -> PathBuf {
        let config: String = self.config.id().chars().take(8).collect();
        let package = self.source.package_version.replace(':', "%3a");
        self.kernels
            .cache
            .join("build")
            .join(format!("{package}-{config}"))
    }

    fn switch(&self) -> Result<(), KernelError> {
        let (tree, originals) = (self.source.tree(), self.source.originals());
        let tree = Tree {
            source: &tree,
            originals: &originals,
            version: &self.source.version,
        };
        if !self.variant.applies_to.contains(&self.source.version) {
            let note = format!("not tried on {} before", self.source.version);
            self.kernels
                .events
                .progress(&format!("kernel {}: patch", self.name), note, None);
        }
        tree.switch(self.variant.patch.as_ref())?;
        Ok(())
    }

    fn log(&self, what: &str, id: &str) -> Result<PathBuf, HostError> {
        let dir = self.kernels.cache.join("logs");
        files::make_dir(&dir)?;
        let log = dir.join(format!("{what}-{}-{id}.log", self.name));
        files::remove(&log)?;
        Ok(log)
    }

    fn make<'m>(&'m self, tree: &'m Path, objects: &'m Path, log: PathBuf) -> Make<'m> {
        Make {
            source: tree,
            objects,
            log,
            events: &self.kernels.events,
            stop: &self.kernels.stop,
        }
    }

    /// Builds the kernel and puts it into the cache.
    fn kernel(&self, id: &str, dir: &Path) -> Result<Listed, KernelError> {
        let begun = Instant::now();
        let room = self.room();
        let (tree, objects) = (self.source.tree(), room.join("obj"));
        files::make_dir(&objects)?;
        let full = !objects.join("vmlinux").exists();
        if full {
            files::need_space(&objects, BUILD_MIB)?;
        }
        let fresh = !objects.join(".config").exists();
        self.switch()?;
        let make = self.make(&tree, &objects, self.log("kernel", id)?);
        self.configure(&make, &room)?;
        let step = format!("kernel {}: compile", self.name);
        let known = self
            .kernels
            .list()
            .into_iter()
            .find(|k| k.full)
            .map_or(FULL_STEPS, |k| k.steps);
        let steps = make.run(&step, &["bzImage", "modules"], fresh.then_some(known))?;
        let seconds = begun.elapsed().as_secs();
        let release =
            std::fs::read_to_string(objects.join("include/config/kernel.release")).map_err(
                files::failed("read", &objects.join("include/config/kernel.release")),
            )?;
        let kernels = self.kernels.cache.join("kernels");
        files::make_dir(&kernels)?;
        let temp = tempfile::Builder::new()
            .prefix(".build-")
            .tempdir_in(&kernels)
            .map_err(files::failed("write into", &kernels))?;
        for (from, to) in [
            ("arch/x86/boot/bzImage", "bzImage"),
            ("System.map", "System.map"),
            (".config", "config"),
        ] {
            std::fs::copy(objects.join(from), temp.path().join(to))
                .map_err(files::failed("copy", &objects.join(from)))?;
        }
        functions::write(&tree, &objects, temp.path())?;
        symbols(&objects.join("vmlinux"), &temp.path().join(SYMBOLS))?;
        let listed = Listed {
            name: self.name.clone(),
            id: id.to_owned(),
            source_version: self.source.package_version.clone(),
            release: release.trim().to_owned(),
            compiler: self.compiler.to_owned(),
            config_summary: self.config.summary(),
            out_of_line: OutOfLine {
                flags: outline::FLAGS.map(str::to_owned).to_vec(),
                objects: outline::OBJECTS.map(str::to_owned).to_vec(),
            },
            image_sha256: files::sha256_file(&temp.path().join("bzImage"))?,
            seconds,
            steps,
            full: fresh,
            built: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
        };
        let json = serde_json::to_vec_pretty(&listed)
            .map_err(|e| files::failed("write", dir)(e.into()))?;
        files::write_whole(&temp.path().join("build.json"), &json)?;
        files::set_mode(temp.path(), 0o755)?;
        // A directory without build.json is what a removal that was killed has left.
        files::remove(dir)?;
        std::fs::rename(temp.path(), dir).map_err(files::failed("create", dir))?;
        self.kernels
            .events
            .finished(&step, format!("{steps} steps, {seconds} s"));
        Ok(listed)
    }

    /// Configures the object tree, unless that was done with the same options and came out right.
    fn configure(&self, make: &Make<'_>, room: &Path) -> Result<(), KernelError> {
        let dot_config = make.objects.join(".config");
        let wanted = room.join("wanted.config");
        let stamp = room.join("configured");
        let fingerprint = format!("{}\n{}\n", self.config.id(), self.compiler);
        let same = files::read_if_there(&stamp)?.as_deref() == Some(fingerprint.as_bytes());
        if !same || !dot_config.exists() {
            files::write_whole(&wanted, self.config.text().as_bytes())?;
            let step = format!("kernel {}: configure", self.name);
            make.run(
                &step,
                &[
                    &format!("KCONFIG_ALLCONFIG={}", wanted.display()),
                    "allnoconfig",
                ],
                None,
            )?;
            self.kernels.events.finished(&step, String::new());
        }
        let text =
            std::fs::read_to_string(&dot_config).map_err(files::failed("read", &dot_config))?;
        let missing = self.config.missing(&text);
        if !missing.is_empty() {
            return Err(KernelError::Config { missing });
        }
        files::write_whole(&stamp, fingerprint.as_bytes())?;
        Ok(())
    }

    /// Builds the module for a kernel that is in the cache.
    fn module(&self, module: &ModuleSource, id: &str, dir: &Path) -> Result<(), KernelError> {
        let room = self.room();
        let (tree, objects) = (self.source.tree(), room.join("obj"));
        if objects.join("Module.symvers").exists() {
            self.switch()?;
        } else {
            // The object tree was removed to save space, or a build in it was killed.
            self.kernel(id, dir)?;
        }
        let step = format!("kernel {}: guest module", self.name);
        let make = self.make(&tree, &objects, self.log("module", id)?);
        module.build(&make, &step, &room.join("module"), dir)?;
        self.kernels.events.finished(&step, module.id());
        Ok(())
    }
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

/// Takes symbols and lines out of a vmlinux (objcopy(1), --only-keep-debug).
fn symbols(vmlinux: &Path, to: &Path) -> Result<(), HostError> {
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--only-keep-debug", "--compress-debug-sections=zlib"]);
    command::output(objcopy.arg(vmlinux).arg(to), "objcopy").map(|_| ())
}

/// Compiler and linker, a line.
fn compiler() -> Result<String, HostError> {
    let first = |tool: &str| {
        let text = command::output(Command::new(tool).arg("--version").env("LC_ALL", "C"), tool)?;
        Ok::<_, HostError>(text.lines().next().unwrap_or_default().to_owned())
    };
    Ok(format!("{}; {}", first("gcc")?, first("ld")?))
}

/// Hash of everything that decides what comes out.
fn identity(source: &Source, variant: &Variant, config: &Config, compiler: &str) -> String {
    let patch = variant
        .patch
        .as_ref()
        .map(|p| p.bytes.as_slice())
        .unwrap_or_default();
    let mut hash = Sha256::new();
    let (recipe, config_id) = (RECIPE.to_string(), config.id());
    let parts: [&[u8]; 6] = [
        recipe.as_bytes(),
        source.package_version.as_bytes(),
        source.sha256.as_bytes(),
        patch,
        config_id.as_bytes(),
        compiler.as_bytes(),
    ];
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    files::hex(&hash.finalize())
        .chars()
        .take(ID_DIGITS)
        .collect()
}
