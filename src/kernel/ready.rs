// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel that is built already: a bzImage and the directory of its modules. Only the guest's module is built for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::build::{BuiltKernel, Kernels, Listed, OutOfLine, SYMBOLS, identity_of};
use super::config::options;
use super::make::Make;
use super::module::ModuleSource;
use super::work::symbols;
use super::{Config, KernelError, KernelName, functions, image};
use crate::arch::Arch;
use crate::host::files::{self, Lock};
use crate::host::{HostError, tools};

/// Name of the one variant that there is then.
pub(super) const IMAGE: &str = "image";
/// Where a kernel's directory has the modules that its guest loads before vfrace's own.
const BOOT_MODULES: &str = "boot-modules";
/// Options that may be modules, with the module's name: the guest loads it.
const MODULAR: [(&str, &str); 2] = [
    ("CONFIG_VIRTIO_PCI", "virtio_pci"),
    ("CONFIG_VIRTIO_NET", "virtio_net"),
];

/// What the user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyRequest {
    /// The bzImage.
    pub image: PathBuf,
    /// The directory of its modules, as /lib/modules/RELEASE: modules.dep, the modules, and `build`, a link to the headers or
    /// the object tree, for the guest's module.
    pub modules: PathBuf,
}

/// A kernel that was looked at.
#[derive(Debug)]
pub(super) struct Ready {
    request: ReadyRequest,
    config: Vec<u8>,
    release: String,
    /// Names of the modules that the guest needs.
    boot: Vec<&'static str>,
}

impl Ready {
    /// Looks at the image and its modules: they must belong together, and have what vfrace needs. `config`: the user's, if
    /// the directory of modules has none.
    pub fn look(
        data: &Path,
        request: &ReadyRequest,
        config: Option<&Path>,
    ) -> Result<Self, KernelError> {
        let build = request.modules.join("build");
        let dot_config = config.map_or_else(|| build.join(".config"), Path::to_path_buf);
        let config = std::fs::read(&dot_config).map_err(|e| {
            wrong(
                &dot_config,
                format!("the kernel's configuration cannot be read: {e}"),
            )
        })?;
        let bytes = std::fs::read(&request.image)
            .map_err(|e| wrong(&request.image, format!("it cannot be read: {e}")))?;
        let said = release_of(&bytes)
            .ok_or_else(|| wrong(&request.image, "it is no bzImage for x86_64".to_owned()))?;
        let file = build.join("include/config/kernel.release");
        let release = std::fs::read_to_string(&file)
            .map_err(|e| {
                let why = "the headers of the kernel are not there, which its guest module needs";
                wrong(&file, format!("{why}: {e}"))
            })?
            .trim()
            .to_owned();
        if said != release {
            let why = format!("it is Linux {said}, and the modules are for {release}");
            return Err(wrong(&request.image, why));
        }
        let text = String::from_utf8_lossy(&config);
        let is = options(&text);
        let mut missing = Config::default()
            .lenient(data, Arch::X86_64)?
            .missing(&text);
        let mut boot = Vec::new();
        for (option, module) in MODULAR {
            if is.get(option).is_some_and(|value| value == "m") {
                missing.retain(|line| !line.starts_with(&format!("{option}=")));
                boot.push(module);
            }
        }
        if !missing.is_empty() {
            return Err(KernelError::Config {
                missing,
                own: Some(dot_config),
            });
        }
        Ok(Self {
            request: request.clone(),
            config,
            release,
            boot,
        })
    }

    /// Where it is from, for people.
    pub fn place(&self) -> &Path {
        &self.request.image
    }

    /// Puts it into the cache with a guest module, unless it is there.
    pub fn provide(
        &self,
        kernels: &Kernels,
        name: &KernelName,
        module: &ModuleSource,
    ) -> Result<BuiltKernel, KernelError> {
        tools::require(&tools::BUILD)?;
        let image_sha256 = files::sha256_file(&self.request.image)?;
        let id = self.identity(&image_sha256);
        let dir = kernels.cache.join("kernels").join(&id);
        let waiting = || {
            let step = format!("kernel {name}");
            let why = "waiting for another vfrace that looks at one";
            kernels.events.progress(&step, why, None);
        };
        let _lock = Lock::take(
            &kernels.cache.join("kernels/ready.lock"),
            &kernels.stop,
            waiting,
        )?;
        let boot_modules = dir.join(BOOT_MODULES);
        if !dir.join("build.json").exists() {
            self.take_over(&dir, name, &id, &image_sha256)?;
        }
        if !module.built(&dir).exists() {
            let build = self.request.modules.join("build");
            let build = std::fs::canonicalize(&build).map_err(files::failed("find", &build))?;
            let logs = kernels.cache.join("logs");
            files::make_dir(&logs)?;
            let log = logs.join(format!("module-{name}-{id}.log"));
            files::remove(&log)?;
            let make = Make {
                arch: Arch::X86_64,
                source: &build,
                objects: &build,
                log,
                events: &kernels.events,
                stop: &kernels.stop,
            };
            let step = format!("kernel {name}: guest module");
            let work = kernels.cache.join("build").join(format!("ready-{id}"));
            module.build(&make, &step, &work, &dir)?;
            kernels.events.finished(&step, module.id());
        }
        Ok(BuiltKernel {
            name: name.clone(),
            arch: Arch::X86_64,
            source_version: self.release.clone(),
            release: self.release.clone(),
            image: dir.join("bzImage"),
            module: module.built(&dir),
            boot_modules: listed(&boot_modules)?,
            system_map: dir.join("System.map"),
            functions: functions::path(&dir),
            symbols: dir.join(SYMBOLS),
            config_summary: Config::summary(&String::from_utf8_lossy(&self.config)),
            dir,
            id,
        })
    }

    fn identity(&self, image_sha256: &str) -> String {
        identity_of(&[
            b"ready".to_vec(),
            image_sha256.as_bytes().to_vec(),
            self.config.clone(),
            self.boot.join(" ").into_bytes(),
        ])
    }

    /// Copies what a run needs into the cache; `build.json` last.
    fn take_over(
        &self,
        dir: &Path,
        name: &KernelName,
        id: &str,
        image_sha256: &str,
    ) -> Result<(), KernelError> {
        files::remove(dir)?;
        files::make_dir(dir)?;
        let build = self.request.modules.join("build");
        let copy = |from: &Path, to: &str| -> Result<(), KernelError> {
            let bytes = std::fs::read(from).map_err(files::failed("read", from))?;
            Ok(files::write_whole(&dir.join(to), &bytes)?)
        };
        copy(&self.request.image, "bzImage")?;
        files::write_whole(&dir.join("config"), &self.config)?;
        let map = self.system_map()?;
        copy(&map, "System.map")?;
        let vmlinux = build.join("vmlinux");
        let is_whole = std::fs::read(&vmlinux).is_ok_and(|bytes| image::has_code(&bytes));
        if is_whole {
            // Object trees have a link to their source; headers alone are looked through themselves.
            let source = build.join("source");
            let source = if source.is_dir() { &source } else { &build };
            functions::write(source, &build, dir)?;
            symbols("objcopy", &vmlinux, &dir.join(SYMBOLS))?;
        } else {
            functions::write_from_map(&map, dir)?;
        }
        for (at, path) in self.closure()?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let plain = name.split(".ko").next().unwrap_or_default();
            let to = dir.join(BOOT_MODULES).join(format!("{at:02}-{plain}.ko"));
            files::write_whole(&to, &unpacked(path)?)?;
        }
        let listed = Listed {
            name: name.clone(),
            arch: Arch::X86_64,
            id: id.to_owned(),
            source_version: self.release.clone(),
            release: self.release.clone(),
            compiler: String::new(),
            config_summary: Config::summary(&String::from_utf8_lossy(&self.config)),
            out_of_line: OutOfLine::default(),
            image_sha256: image_sha256.to_owned(),
            seconds: 0,
            steps: 0,
            full: false,
            built: super::work::now(),
        };
        let json = serde_json::to_vec_pretty(&listed)
            .map_err(|e| files::failed("write", dir)(e.into()))?;
        Ok(files::write_whole(&dir.join("build.json"), &json)?)
    }

    /// System.map of the object tree, or the one beside the image as distributions install it.
    fn system_map(&self) -> Result<PathBuf, KernelError> {
        let beside = self.request.image.parent().unwrap_or(Path::new("."));
        let places = [
            self.request.modules.join("build/System.map"),
            self.request.modules.join("System.map"),
            beside.join(format!("System.map-{}", self.release)),
            beside.join("System.map"),
        ];
        let found = places.iter().find(|path| path.is_file()).cloned();
        found.ok_or_else(|| {
            let why = format!("no System.map for it: not there, and not {}", {
                let rest: Vec<String> = places
                    .iter()
                    .skip(1)
                    .map(|p| p.display().to_string())
                    .collect();
                rest.join(", ")
            });
            let [first, ..] = &places;
            wrong(first, why)
        })
    }

    /// The modules that the guest loads, each after those that it needs.
    fn closure(&self) -> Result<Vec<PathBuf>, KernelError> {
        if self.boot.is_empty() {
            return Ok(Vec::new());
        }
        let file = self.request.modules.join("modules.dep");
        let text = std::fs::read_to_string(&file).map_err(|e| {
            wrong(
                &file,
                format!("the kernel has virtio as modules, and they cannot be found: {e}"),
            )
        })?;
        let mut paths: Vec<&str> = Vec::new();
        let known = dependencies(&text);
        for name in &self.boot {
            let Some((path, needs)) = known.get(*name) else {
                return Err(wrong(&file, format!("it has no module {name}")));
            };
            // modprobe's order: what is needed stands last (modules.dep(5)).
            for path in needs.iter().rev().chain([path]) {
                if !paths.contains(path) {
                    paths.push(path);
                }
            }
        }
        Ok(paths
            .iter()
            .map(|path| self.request.modules.join(path))
            .collect())
    }
}

fn wrong(path: &Path, why: String) -> KernelError {
    KernelError::Ready {
        path: path.to_path_buf(),
        why,
    }
}

/// modules.dep by the modules' names: path, and what it needs.
fn dependencies(text: &str) -> BTreeMap<String, (&str, Vec<&str>)> {
    let entry = |line| {
        let (path, needs): (&str, &str) = str::split_once(line, ':')?;
        let file = path.rsplit('/').next()?;
        let name = file.split(".ko").next()?.replace('-', "_");
        Some((name, (path, needs.split_whitespace().collect())))
    };
    text.lines().filter_map(entry).collect()
}

/// What a bzImage says that it is (Documentation/arch/x86/boot.rst, fields `header` and `kernel_version`): the first word.
fn release_of(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(usize::from(at) + 0x200..)?;
    let end = text.iter().take(200).position(|b| *b == 0 || *b == b' ')?;
    let word = text.get(..end).filter(|word| !word.is_empty())?;
    String::from_utf8(word.to_vec()).ok()
}

/// A module's bytes, unpacked by the program that its name asks for.
fn unpacked(path: &Path) -> Result<Vec<u8>, HostError> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).map_err(files::failed("read", path)),
    };
    tools::require(&[tools::Tool {
        name: program,
        package: if program == "xz" { "xz-utils" } else { program },
        used_for: "a kernel's compressed modules",
    }])?;
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .stderr(Stdio::null())
        .output()
        .map_err(files::failed("unpack", path))?;
    if !output.status.success() {
        let broken = std::io::Error::other(format!("{program} refuses it"));
        return Err(files::failed("unpack", path)(broken));
    }
    Ok(output.stdout)
}

/// The files of a directory in order; none if it is not there.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, HostError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(files::failed("read", dir)(e)),
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
