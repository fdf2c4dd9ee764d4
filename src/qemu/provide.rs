// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A QEMU that has the guest's machine: the system's, else a private copy from Debian; and a busybox for the guest.
//!
//! `virtio-net-pci` has `sriov-pf=` since QEMU 10.1 (docs/system/sriov.rst of QEMU). Debian 12 and 13 have older ones,
//! trixie-backports has 11. On s390x the functions are plugged one by one; `vhost-user-test-device-pci`, which carries the
//! mailbox, is what tells a QEMU that is new enough. A copy from there needs its own C library on Debian 12: it is started through the ld.so
//! that comes with it, and is told where its modules are, lest it load the host's.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::arch::Arch;
use crate::event::EventSink;
use crate::exit::ExitCode;
use crate::host::apt::{self, Apt, Deb};
use crate::host::files::{self, Lock};
use crate::host::{HostError, command, tools};

/// The QEMU of an architecture.
#[derive(Debug, PartialEq, Eq)]
struct Emulator {
    /// The system's program.
    program: &'static str,
    /// Debian's package of it.
    package: &'static str,
    /// A device of it.
    device: &'static str,
    /// What is looked for in `-device DEVICE,help`.
    property: &'static str,
    /// What the property is called in messages.
    called: &'static str,
    /// Names another QEMU, which is then taken or refused, never replaced.
    variable: &'static str,
    /// Directories below usr/share where it looks for firmware.
    firmware: &'static [&'static str],
}

const X86_64: Emulator = Emulator {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    device: "virtio-net-pci",
    property: "sriov-pf",
    called: "sriov-pf",
    variable: "VFRACE_QEMU",
    firmware: &["qemu", "seabios"],
};

const S390X: Emulator = Emulator {
    program: "qemu-system-s390x",
    package: "qemu-system-s390x",
    device: "vhost-user-test-device-pci",
    property: "virtio-id",
    called: "vhost-user-test-device-pci",
    variable: "VFRACE_QEMU_S390X",
    firmware: &["qemu"],
};

fn emulator(arch: Arch) -> &'static Emulator {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::S390x => &S390X,
    }
}

/// Where private copies are in the cache.
fn room(cache: &Path, arch: Arch) -> PathBuf {
    cache.join(arch.room("qemu"))
}

/// Room for the packages and what is in them, MiB (measured: 45 and 180).
const NEEDED_MIB: u64 = 400;
/// Prefix of half-unpacked copies.
const TEMP: &str = ".unpack-";

/// No QEMU, or no busybox.
#[derive(Debug, thiserror::Error)]
pub enum ProvideError {
    /// The one that was named will not do.
    #[error("{path} cannot be used: {reason}", path = path.display())]
    Unfit {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// The variable that names it.
        variable: &'static str,
    },
    /// The private copy does not work here.
    #[error("the private QEMU in {path} does not work: {reason}", path = path.display())]
    Broken {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// This machine has no private copy to offer.
    #[error("there is no {program} with `{wanted}`, and none can be fetched for {host}")]
    Architecture {
        /// The program.
        program: &'static str,
        /// What it should have.
        wanted: &'static str,
        /// The variable that can name one.
        variable: &'static str,
        /// This machine's architecture.
        host: &'static str,
    },
    /// The package is not built as expected.
    #[error("{package} {version} has no static program at {looked}")]
    Layout {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// Where it was looked for.
        looked: String,
    },
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl ProvideError {
    /// How the process ends with this error.
    pub fn exit(&self) -> ExitCode {
        match self {
            ProvideError::Host(e) => e.exit(),
            _ => ExitCode::Infrastructure,
        }
    }

    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            ProvideError::Unfit { variable, .. } => Some(format!(
                "name a QEMU of version 10.1 or newer in {variable}, or unset it to get a private copy"
            )),
            ProvideError::Broken { path, .. } => Some(format!(
                "remove {} to have it fetched again",
                path.display()
            )),
            ProvideError::Architecture { variable, .. } => Some(format!(
                "install QEMU 10.1 or newer, or name it in {variable}"
            )),
            ProvideError::Layout { .. } => None,
            ProvideError::Host(e) => e.hint(),
        }
    }
}

/// Where a QEMU comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "path")]
pub enum Origin {
    /// Found in PATH.
    System(PathBuf),
    /// Named by the user in the environment.
    Override(PathBuf),
    /// A copy in the cache.
    Private(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::System(path) => write!(f, "{}", path.display()),
            Origin::Override(path) => write!(f, "{} (named in the environment)", path.display()),
            Origin::Private(path) => write!(f, "private copy in {}", path.display()),
        }
    }
}

/// How to start QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuBinary {
    /// Version, `11.1.3`.
    pub version: String,
    /// The beginning of the command line; the machine's options follow.
    pub command: Vec<OsString>,
    /// Added to the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it comes from.
    pub origin: Origin,
}

impl QemuBinary {
    /// A command with the beginning filled in.
    pub fn start(&self) -> Command {
        let mut words = self.command.iter();
        // An empty command line cannot be made here; if it is made elsewhere, starting it fails.
        let mut command = Command::new(words.next().cloned().unwrap_or_default());
        command
            .args(words)
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// Asks it for version and property. `Err` is the reason why it will not do.
    fn examine(
        emulator: &Emulator,
        command: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
        origin: Origin,
    ) -> Result<Self, String> {
        let mut qemu = Self {
            version: String::new(),
            command,
            env,
            origin,
        };
        let ask = |args: &[&str]| {
            command::output(qemu.start().args(args).env("LC_ALL", "C"), emulator.program).map_err(
                |e| match e {
                    HostError::Start { ref source, .. } => format!("{e}: {source}"),
                    _ => e.to_string(),
                },
            )
        };
        let version = ask(&["--version"])?;
        let version = version_of(&version)
            .ok_or("it does not say its version")?
            .to_owned();
        let wanted = format!("{},help", emulator.device);
        // A device that it does not know at all is an error of its own.
        let help = ask(&["-device", &wanted]).unwrap_or_default();
        if !has_property(&help, emulator.property) {
            return Err(format!(
                "QEMU {version} has no `{}` (10.1 and newer have)",
                emulator.called
            ));
        }
        qemu.version = version;
        Ok(qemu)
    }
}

/// The version in "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)".
fn version_of(text: &str) -> Option<&str> {
    let rest = text
        .lines()
        .next()?
        .strip_prefix("QEMU emulator version ")?;
    let version = rest
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .next()?;
    version
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some(version)
}

/// Does the list of properties, a line each ("  sriov-pf=<str>  - ..."), have this one?
fn has_property(help: &str, property: &str) -> bool {
    help.lines()
        .filter_map(|line| line.trim().split('=').next())
        .any(|name| name == property)
}

/// The QEMU to use for guests of `arch`: the one that `$VFRACE_QEMU` names (for s390x `$VFRACE_QEMU_S390X`), else the
/// system's if it is new enough, else the private copy, which is fetched if it is not there.
pub fn provide(
    cache: &Path,
    data: &Path,
    arch: Arch,
    events: &EventSink,
    stop: &Arc<AtomicBool>,
) -> Result<QemuBinary, ProvideError> {
    match local(cache, arch)? {
        Some(qemu) => Ok(qemu),
        None => fetch(cache, data, arch, events, stop),
    }
}

/// What a QEMU for guests of `arch` must have, as messages call it.
pub fn wanted(arch: Arch) -> &'static str {
    emulator(arch).called
}

/// As [`provide`], but without the network: `None` if there is none yet.
pub fn local(cache: &Path, arch: Arch) -> Result<Option<QemuBinary>, ProvideError> {
    let emulator = emulator(arch);
    let variable = emulator.variable;
    if let Some(path) = std::env::var_os(variable)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
    {
        return QemuBinary::examine(
            emulator,
            vec![path.clone().into()],
            vec![],
            Origin::Override(path.clone()),
        )
        .map(Some)
        .map_err(|reason| ProvideError::Unfit {
            path,
            reason,
            variable,
        });
    }
    if let Some(path) = tools::find(emulator.program) {
        let command = vec![path.clone().into()];
        if let Ok(qemu) = QemuBinary::examine(emulator, command, vec![], Origin::System(path)) {
            return Ok(Some(qemu));
        }
    }
    match newest(&room(cache, arch)) {
        Some(dir) => private(&dir, emulator).map(Some),
        None => Ok(None),
    }
}

/// The copy that was unpacked last. A directory under its final name is complete.
fn newest(dir: &Path) -> Option<PathBuf> {
    files::dirs_in(dir)
        .into_iter()
        .max_by_key(|d| d.metadata().and_then(|m| m.modified()).ok())
}

/// The name of Debian's directory of libraries and of the program loader, for the architectures that we know.
fn loader(emulator: &Emulator) -> Result<(&'static str, &'static str), ProvideError> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("x86_64-linux-gnu", "ld-linux-x86-64.so.2")),
        "aarch64" => Ok(("aarch64-linux-gnu", "ld-linux-aarch64.so.1")),
        host => Err(ProvideError::Architecture {
            program: emulator.program,
            wanted: emulator.called,
            variable: emulator.variable,
            host,
        }),
    }
}

fn private(dir: &Path, emulator: &Emulator) -> Result<QemuBinary, ProvideError> {
    let (triplet, loader) = loader(emulator)?;
    let usr = dir.join("usr");
    let libraries = usr.join("lib").join(triplet);
    let mut command: Vec<OsString> = vec![
        libraries.join(loader).into(),
        "--library-path".into(),
        libraries.clone().into(),
        usr.join("bin").join(emulator.program).into(),
    ];
    for firmware in emulator.firmware {
        command.push("-L".into());
        command.push(usr.join("share").join(firmware).into());
    }
    let env = vec![("QEMU_MODULE_DIR".into(), libraries.join("qemu").into())];
    let origin = Origin::Private(dir.to_path_buf());
    QemuBinary::examine(emulator, command, env, origin).map_err(|reason| ProvideError::Broken {
        path: dir.to_path_buf(),
        reason,
    })
}

fn fetch(
    cache: &Path,
    data: &Path,
    arch: Arch,
    events: &EventSink,
    stop: &Arc<AtomicBool>,
) -> Result<QemuBinary, ProvideError> {
    let emulator = emulator(arch);
    let package = emulator.package;
    loader(emulator)?;
    let room = room(cache, arch);
    let _lock = Lock::take(&room.join("lock"), stop, || {
        events.progress(
            "qemu",
            "waiting for another vfrace that is fetching it",
            None,
        );
    })?;
    if let Some(dir) = newest(&room) {
        return private(&dir, emulator);
    }
    files::sweep(&room, TEMP)?;
    files::need_space(&room, NEEDED_MIB)?;
    // The program is the host's, whatever it emulates.
    let debs = Apt::open(cache, data, None, events, stop)?.fetch_closure(package)?;
    let version = debs
        .iter()
        .find(|d| d.name == package)
        .map(|d| d.version.clone())
        .ok_or_else(|| HostError::NoPackage {
            package: package.to_owned(),
            tail: "it is not among what apt offers".to_owned(),
        })?;
    let temp = room.join(format!("{TEMP}{package}"));
    unpack(&debs, &temp, "unpack qemu", events, stop)?;
    let dir = room.join(version.replace(':', "%3a"));
    files::remove(&dir)?;
    std::fs::rename(&temp, &dir).map_err(files::failed("create", &dir))?;
    debs.iter().try_for_each(|deb| files::remove(&deb.path))?;
    private(&dir, emulator)
}

/// Unpacks packages into one tree, with a list of what they were.
fn unpack(
    debs: &[Deb],
    dir: &Path,
    step: &str,
    events: &EventSink,
    stop: &AtomicBool,
) -> Result<(), HostError> {
    files::make_dir(dir)?;
    let mut list = String::new();
    for (deb, done) in debs.iter().zip(0u64..) {
        events.progress(step, deb.name.clone(), Some((done, debs.len() as u64)));
        apt::unpack(&deb.path, dir, stop)?;
        list.push_str(&format!(
            "{} {} {} {}\n",
            deb.name, deb.version, deb.arch, deb.sha256
        ));
    }
    files::write_whole(&dir.join("packages.txt"), list.as_bytes())?;
    events.finished(step, format!("{} packages", debs.len()));
    Ok(())
}

/// Where the guest's busybox is in the cache.
pub fn busybox_room(cache: &Path, arch: Arch) -> PathBuf {
    cache.join(arch.room("busybox"))
}

/// A statically linked busybox for guests of `arch`, fetched if it is not in the cache.
pub fn provide_busybox(
    cache: &Path,
    data: &Path,
    arch: Arch,
    events: &EventSink,
    stop: &Arc<AtomicBool>,
) -> Result<PathBuf, ProvideError> {
    const PACKAGE: &str = "busybox-static";
    let room = busybox_room(cache, arch);
    let found = || newest(&room).map(|dir| dir.join("busybox"));
    if let Some(path) = found() {
        return Ok(path);
    }
    let _lock = Lock::take(&room.join("lock"), stop, || {
        events.progress(
            "busybox",
            "waiting for another vfrace that is fetching it",
            None,
        );
    })?;
    if let Some(path) = found() {
        return Ok(path);
    }
    files::sweep(&room, TEMP)?;
    let foreign = (!arch.is_host()).then_some(arch.debian());
    let deb = Apt::open(cache, data, foreign, events, stop)?.fetch(PACKAGE)?;
    let temp = room.join(format!("{TEMP}{PACKAGE}"));
    unpack(
        std::slice::from_ref(&deb),
        &temp.join("deb"),
        "unpack busybox",
        events,
        stop,
    )?;
    let looked = ["usr/bin/busybox", "bin/busybox"];
    let program = looked
        .iter()
        .map(|p| temp.join("deb").join(p))
        .find(|p| p.is_file());
    let program = program.ok_or_else(|| ProvideError::Layout {
        package: PACKAGE.to_owned(),
        version: deb.version.clone(),
        looked: looked.join(" or "),
    })?;
    std::fs::rename(&program, temp.join("busybox")).map_err(files::failed("move", &program))?;
    files::remove(&temp.join("deb"))?;
    let dir = room.join(deb.version.replace(':', "%3a"));
    files::remove(&dir)?;
    std::fs::rename(&temp, &dir).map_err(files::failed("create", &dir))?;
    files::remove(&deb.path)?;
    Ok(dir.join("busybox"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "virtio-net-pci options:\n  speed=<int32>          -  (default: -1)\n  \
                        sriov-pf=<str>\n  status=<bool>          - on/off (default: true)\n";

    #[test]
    fn the_property_is_found_by_its_whole_name() {
        assert!(has_property(HELP, "sriov-pf"));
        assert!(!has_property(
            &HELP.replace("sriov-pf", "x-sriov-pfs"),
            "sriov-pf"
        ));
        assert!(!has_property("  other=<str> - not sriov-pf=\n", "sriov-pf"));
        assert!(!has_property("", "sriov-pf"));
    }

    #[test]
    fn versions() {
        assert_eq!(
            version_of("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright"),
            Some("11.1.3")
        );
        assert_eq!(version_of("QEMU emulator version 10.1.0\n"), Some("10.1.0"));
        assert_eq!(version_of("QEMU emulator version v\n"), None);
        assert_eq!(version_of("something else"), None);
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused() {
        let examine = |path: &str| {
            let origin = Origin::Override(path.into());
            QemuBinary::examine(&X86_64, vec![path.into()], vec![], origin)
        };
        assert!(
            examine("/bin/true")
                .unwrap_err()
                .contains("does not say its version")
        );
        assert!(
            examine("/nonexistent")
                .unwrap_err()
                .contains("cannot start")
        );
    }
}
