// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One build: bring the source to it, configure, make, and put what came out into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use super::build::{Kernels, Listed, OutOfLine, SYMBOLS};
use super::ground::Ground;
use super::make::{FULL_STEPS, Make};
use super::module::ModuleSource;
use super::target::{Target, target};
use super::variant::Variant;
use super::{Config, KernelError, KernelName, functions, outline};
use crate::host::files;
use crate::host::{HostError, command};

/// Room that a full build needs, in MiB.
const BUILD_MIB: u64 = 2500;
/// Says in the room of an object tree which kernel it was left at.
const LEFT_AT: &str = "left-at";

/// One build, under the source's lock.
pub(super) struct Work<'a> {
    pub kernels: &'a Kernels,
    pub name: &'a KernelName,
    pub ground: &'a Ground<'a>,
    pub variant: &'a Variant,
    pub config: &'a Config,
    pub compiler: &'a str,
}

impl Work<'_> {
    fn target(&self) -> &'static Target {
        target(self.kernels.arch)
    }

    /// Room of the object tree: one a source package, architecture and configuration.
    fn room(&self) -> PathBuf {
        let config: String = self.config.id().chars().take(8).collect();
        let key = self.kernels.arch.room(&self.ground.key());
        self.kernels
            .cache
            .join("build")
            .join(format!("{key}-{config}"))
    }

    fn switch(&self) -> Result<(), KernelError> {
        let (name, events) = (self.name, &self.kernels.events);
        match self.ground {
            Ground::Debian { source, .. } => {
                let untried = !self.variant.applies_to.contains(&source.version);
                if untried && self.variant.patch.is_some() {
                    let note = format!("not tried on {} before", source.version);
                    events.progress(&format!("kernel {name}: patch"), note, None);
                }
            }
            Ground::Tree { revision, .. } => {
                let step = format!("kernel {name}: check out");
                events.progress(&step, revision.tag.clone(), None);
            }
        }
        self.ground.switch(&self.kernels.stop)
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
            arch: self.kernels.arch,
            source: tree,
            objects,
            log,
            events: &self.kernels.events,
            stop: &self.kernels.stop,
        }
    }

    /// Builds the kernel with its module and puts it into the cache.
    pub fn kernel(
        &self,
        module: &ModuleSource,
        id: &str,
        dir: &Path,
    ) -> Result<Listed, KernelError> {
        let begun = Instant::now();
        let room = self.room();
        let (tree, objects) = (self.ground.tree(), room.join("obj"));
        files::make_dir(&objects)?;
        let left_at = room.join(LEFT_AT);
        files::remove(&left_at)?;
        let full = !objects.join("vmlinux").exists();
        if full {
            files::need_space(&objects, BUILD_MIB)?;
        }
        let fresh = !objects.join(".config").exists();
        self.switch()?;
        let make = self.make(&tree, &objects, self.log("kernel", id)?);
        let config_summary = self.configure(&make, &room)?;
        let step = format!("kernel {}: compile", self.name);
        let known = self
            .kernels
            .list()
            .into_iter()
            .find(|k| k.full && k.arch == self.kernels.arch)
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
            (self.target().image, "bzImage"),
            ("System.map", "System.map"),
            (".config", "config"),
        ] {
            std::fs::copy(objects.join(from), temp.path().join(to))
                .map_err(files::failed("copy", &objects.join(from)))?;
        }
        let module = self.parts(module, id, &objects, temp.path())?;
        let listed = Listed {
            name: self.name.clone(),
            arch: self.kernels.arch,
            id: id.to_owned(),
            source_version: self.ground.version(),
            release: release.trim().to_owned(),
            compiler: self.compiler.to_owned(),
            config_summary,
            out_of_line: OutOfLine {
                flags: outline::FLAGS.map(str::to_owned).to_vec(),
                objects: outline::objects(self.target().outline)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            },
            image_sha256: files::sha256_file(&temp.path().join("bzImage"))?,
            seconds,
            steps,
            full: fresh,
            built: now(),
        };
        let json = serde_json::to_vec_pretty(&listed)
            .map_err(|e| files::failed("write", dir)(e.into()))?;
        files::write_whole(&temp.path().join("build.json"), &json)?;
        files::set_mode(temp.path(), 0o755)?;
        // A directory without build.json is what a removal that was killed has left.
        files::remove(dir)?;
        std::fs::rename(temp.path(), dir).map_err(files::failed("create", dir))?;
        files::write_whole(&left_at, id.as_bytes())?;
        self.kernels
            .events
            .finished(&step, format!("{steps} steps, {seconds} s"));
        // A kernel without its module is kept: the next attempt is about the module only.
        module.map(|()| listed)
    }

    /// Makes of the object tree what belongs to a kernel in the cache, at the same time: tables of its functions, its
    /// symbols, the module. The inner result is that of the module.
    fn parts(
        &self,
        module: &ModuleSource,
        id: &str,
        objects: &Path,
        into: &Path,
    ) -> Result<Result<(), KernelError>, KernelError> {
        let tree = self.ground.tree();
        std::thread::scope(|scope| {
            let tables = scope.spawn(|| functions::write(&tree, objects, into));
            let objcopy = self.target().tool("objcopy");
            let (vmlinux, to) = (objects.join("vmlinux"), into.join(SYMBOLS));
            let symbols = scope.spawn(move || symbols(&objcopy, &vmlinux, &to));
            let module = self.build_module(module, id, into);
            joined(tables)?;
            joined(symbols)?;
            Ok(module)
        })
    }

    fn build_module(
        &self,
        module: &ModuleSource,
        id: &str,
        into: &Path,
    ) -> Result<(), KernelError> {
        let room = self.room();
        let (tree, objects) = (self.ground.tree(), room.join("obj"));
        let step = format!("kernel {}: guest module", self.name);
        let make = self.make(&tree, &objects, self.log("module", id)?);
        module.build(&make, &step, &room.join("module"), into)?;
        self.kernels.events.finished(&step, module.id());
        Ok(())
    }

    /// Configures the object tree, unless that was done with the same options and came out right. Gives the summary.
    fn configure(&self, make: &Make<'_>, room: &Path) -> Result<String, KernelError> {
        let dot_config = make.objects.join(".config");
        let stamp = room.join("configured");
        let mut fingerprint = format!("{}\n{}\n", self.config.id(), self.compiler);
        fingerprint.push_str(&self.ground.options()?);
        let same = files::read_if_there(&stamp)?.as_deref() == Some(fingerprint.as_bytes());
        let step = format!("kernel {}: configure", self.name);
        if !same || !dot_config.exists() {
            self.make_config(make, &step, room)?;
            self.kernels.events.finished(&step, String::new());
        }
        let text =
            std::fs::read_to_string(&dot_config).map_err(files::failed("read", &dot_config))?;
        let missing = self.config.missing(&text);
        if !missing.is_empty() {
            let own = self.kernels.own_config.clone();
            return Err(KernelError::Config { missing, own });
        }
        let lost = self.config.lost(&text);
        if !same && !lost.is_empty() {
            let note = format!("goes on without {}", lost.join(", "));
            self.kernels.events.finished(&step, note);
        }
        files::write_whole(&stamp, fingerprint.as_bytes())?;
        Ok(Config::summary(&text))
    }

    /// Writes the object tree's `.config`.
    fn make_config(&self, make: &Make<'_>, step: &str, room: &Path) -> Result<(), KernelError> {
        let text = self.config.text();
        if !self.config.is_own() {
            let wanted = room.join("wanted.config");
            files::write_whole(&wanted, text.as_bytes())?;
            let wanted = format!("KCONFIG_ALLCONFIG={}", wanted.display());
            make.run(step, &[&wanted, "allnoconfig"], None)?;
            return Ok(());
        }
        let dot_config = make.objects.join(".config");
        files::write_whole(&dot_config, text.as_bytes())?;
        make.run(step, &["olddefconfig"], None)?;
        let text =
            std::fs::read_to_string(&dot_config).map_err(files::failed("read", &dot_config))?;
        if text.lines().any(|line| line.ends_with("=m")) {
            // No guest loads one: to build those of a distribution would take an hour.
            make.run(step, &["mod2noconfig"], None)?;
        }
        Ok(())
    }

    /// Builds the module for a kernel that is in the cache.
    pub fn module(&self, module: &ModuleSource, id: &str, dir: &Path) -> Result<(), KernelError> {
        let room = self.room();
        let is = files::read_if_there(&room.join(LEFT_AT))?;
        let fits = match self.ground {
            Ground::Debian { .. } => room.join("obj/Module.symvers").exists(),
            // Two states of such a tree can differ in anything.
            Ground::Tree { .. } => is.as_deref() == Some(id.as_bytes()),
        };
        if !fits {
            // The object tree was removed to save space, or a build in it was killed.
            return self.kernel(module, id, dir).map(|_| ());
        }
        self.switch()?;
        self.build_module(module, id, dir)
    }
}

/// What a thread has come to; a panic goes on here.
fn joined<T, E: Into<KernelError>>(
    thread: std::thread::ScopedJoinHandle<'_, Result<T, E>>,
) -> Result<T, KernelError> {
    match thread.join() {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// Takes symbols and lines out of a vmlinux with the program `objcopy` (objcopy(1), --only-keep-debug).
pub(super) fn symbols(objcopy: &str, vmlinux: &Path, to: &Path) -> Result<(), HostError> {
    let tool = objcopy;
    let mut objcopy = Command::new(tool);
    objcopy.args(["--only-keep-debug", "--compress-debug-sections=zlib"]);
    command::output(objcopy.arg(vmlinux).arg(to), tool).map(|_| ())
}
