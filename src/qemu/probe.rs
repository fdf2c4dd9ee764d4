// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which accelerator to use. That /dev/kvm opens and answers is no proof: on some (nested) machines a kernel hangs
//! under it without a word. So a kernel is booted, once a machine, and has to get as far as missing its root.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::provide::QemuBinary;
use crate::arch::Arch;
use crate::event::EventSink;
use crate::exit::ExitCode;
use crate::host::{HostError, command, files};

/// How long the kernel may take to say that it has no root. Our kernel, with KASAN, takes about 2 s under a KVM that
/// works and 5 s without any.
const LIMIT: Duration = Duration::from_secs(10);
/// What a kernel without an initramfs says last (init/do_mounts.c); with it everything before has worked.
const REACHED: &str = "Kernel panic - not syncing";
/// Console that is kept.
const CONSOLE: usize = 1 << 20;
/// Name of the record in the cache.
const RECORD: &str = "kvm.json";

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// KVM if it works, else TCG.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// TCG.
    Tcg,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Wish::Auto),
            "kvm" => Ok(Wish::Kvm),
            "tcg" => Ok(Wish::Tcg),
            _ => Err(format!(
                "`{text}` is not an accelerator: use auto, kvm or tcg"
            )),
        }
    }
}

/// The accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// Translation, one thread a virtual CPU.
    Tcg,
}

impl Accel {
    /// The value of QEMU's `-accel`.
    pub fn option(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg,thread=multi",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        })
    }
}

/// KVM was demanded and does not work, or the attempt itself failed.
#[derive(Debug, thiserror::Error)]
pub enum AccelError {
    /// KVM does not work here.
    #[error("KVM does not work on this machine: {why}")]
    Kvm {
        /// What was seen.
        why: String,
    },
    /// KVM was demanded for guests of another architecture.
    #[error("guests of {arch} are not run under KVM")]
    Foreign {
        /// The guest's.
        arch: Arch,
    },
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl AccelError {
    /// How the process ends with this error.
    pub fn exit(&self) -> ExitCode {
        match self {
            AccelError::Kvm { .. } => ExitCode::Infrastructure,
            AccelError::Foreign { .. } => ExitCode::Usage,
            AccelError::Host(e) => e.exit(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            AccelError::Kvm { .. } => {
                Some("use --accel auto or tcg; vfrace doctor says more".to_owned())
            }
            AccelError::Foreign { .. } => Some("use --accel auto or tcg".to_owned()),
            AccelError::Host(e) => e.hint(),
        }
    }
}

/// What is known about KVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kvm {
    /// A kernel boots under it.
    pub works: bool,
    /// What was seen, in words.
    pub why: String,
    /// The machine and the QEMU that this holds for.
    machine: Machine,
}

/// What a result depends on. A restart of the host may bring another hypervisor below, hence the boot id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    boot_id: String,
    cpu: String,
    kernel: String,
    qemu: String,
}

impl Machine {
    fn this(qemu: &QemuBinary) -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo
            .lines()
            .find(|l| l.starts_with("model name"))
            .and_then(|l| l.split_once(':'));
        Self {
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            cpu: cpu
                .map(|(_, name)| name.trim().to_owned())
                .unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease"),
            qemu: qemu.version.clone(),
        }
    }
}

/// The accelerator for `wish` and guests of `arch`. With `auto` and `kvm`, `image` (a bzImage) is booted under KVM unless
/// the cache knows the result for this machine; that takes ten seconds at most. Guests of s390x are always translated:
/// KVM on a mainframe has not been tried.
pub fn choose_accel(
    arch: Arch,
    cache: &Path,
    qemu: &QemuBinary,
    image: &Path,
    wish: Wish,
    events: &EventSink,
    stop: &AtomicBool,
) -> Result<Accel, AccelError> {
    if !arch.is_default() && wish == Wish::Kvm {
        return Err(AccelError::Foreign { arch });
    }
    if !arch.is_default() || wish == Wish::Tcg {
        return Ok(Accel::Tcg);
    }
    let kvm = match known(cache, qemu) {
        Some(kvm) => kvm,
        None => examine(cache, qemu, image, events, stop)?,
    };
    match (kvm.works, wish) {
        (true, _) => Ok(Accel::Kvm),
        (false, Wish::Kvm) => Err(AccelError::Kvm { why: kvm.why }),
        (false, _) => Ok(Accel::Tcg),
    }
}

/// What is known without booting anything: an earlier result for this machine, or that there is no /dev/kvm to try.
pub fn known(cache: &Path, qemu: &QemuBinary) -> Option<Kvm> {
    let machine = Machine::this(qemu);
    if let Err(e) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(Kvm {
            works: false,
            why: format!("/dev/kvm cannot be opened: {e}"),
            machine,
        });
    }
    let record: Kvm = serde_json::from_slice(&std::fs::read(cache.join(RECORD)).ok()?).ok()?;
    (record.machine == machine).then_some(record)
}

/// Boots `image` under KVM and remembers what came of it.
pub fn examine(
    cache: &Path,
    qemu: &QemuBinary,
    image: &Path,
    events: &EventSink,
    stop: &AtomicBool,
) -> Result<Kvm, HostError> {
    let step = "is KVM real";
    events.progress(step, "booting a kernel under it", None);
    let (works, why) = boot(qemu, image, "kvm", LIMIT, stop)?;
    events.finished(step, why.clone());
    let kvm = Kvm {
        works,
        why,
        machine: Machine::this(qemu),
    };
    let json =
        serde_json::to_vec_pretty(&kvm).map_err(|e| files::failed("write", cache)(e.into()))?;
    files::write_whole(&cache.join(RECORD), &json)?;
    Ok(kvm)
}

/// Boots without a root and watches the console. (It worked, what was seen.)
fn boot(
    qemu: &QemuBinary,
    image: &Path,
    accel: &str,
    limit: Duration,
    stop: &AtomicBool,
) -> Result<(bool, String), HostError> {
    let mut command = qemu.start();
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "q35",
        "-m",
        "512",
        "-smp",
        "2",
    ]);
    command
        .args([
            "-cpu",
            "max",
            "-accel",
            accel,
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
        ])
        .arg(image);
    command.args([
        "-append",
        "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1",
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command::tie(&mut command)
        .spawn()
        .map_err(|source| HostError::Start {
            tool: "QEMU".to_owned(),
            source,
        })?;
    let (sender, receiver) = channel::<Vec<u8>>();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|s| Box::new(s) as _),
        child.stderr.take().map(|s| Box::new(s) as _),
    ];
    for mut stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if sender
                    .send(buffer.get(..n).unwrap_or_default().to_vec())
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut console = Vec::new();
    let reached = loop {
        let left = limit.saturating_sub(begun.elapsed());
        if stop.load(Ordering::Relaxed) {
            command::end(&mut child);
            return Err(HostError::Interrupted);
        }
        if left.is_zero() {
            break false;
        }
        match receiver.recv_timeout(left.min(Duration::from_millis(200))) {
            Ok(bytes) if console.len() < CONSOLE => console.extend(bytes),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break String::from_utf8_lossy(&console).contains(REACHED);
            }
        }
        if String::from_utf8_lossy(&console).contains(REACHED) {
            break true;
        }
    };
    let ended = child.try_wait().ok().flatten();
    command::end(&mut child);
    let seconds = begun.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&console);
    let last = text
        .lines()
        .map(str::trim)
        .rfind(|l| !l.is_empty())
        .unwrap_or_default();
    Ok(match (reached, ended) {
        (true, _) => (true, format!("a kernel boots in {seconds:.1} s")),
        (false, Some(status)) => (false, format!("QEMU ended with {status}: {last}")),
        (false, None) if last.is_empty() => (
            false,
            format!("it opens, but a kernel says nothing for {seconds:.0} s"),
        ),
        (false, None) => (
            false,
            format!(
                "a kernel does not get to its root in {seconds:.0} s, its last line is `{last}`"
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::provide::Origin;
    use super::*;

    /// A program in QEMU's place.
    fn fake(dir: &Path, script: &str) -> QemuBinary {
        let path = dir.join("qemu");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        QemuBinary {
            version: "11.1.3".to_owned(),
            command: vec![path.clone().into()],
            env: vec![],
            origin: Origin::Override(path),
        }
    }

    fn boots(script: &str) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        let qemu = fake(dir.path(), script);
        boot(
            &qemu,
            Path::new("/image"),
            "kvm",
            Duration::from_secs(1),
            &AtomicBool::new(false),
        )
        .unwrap()
    }

    #[test]
    fn a_kernel_that_gets_to_its_root_proves_kvm() {
        let (works, why) = boots(
            "echo 'Linux version 7.2'; echo 'Kernel panic - not syncing: VFS: no root'; sleep 60",
        );
        assert!(works, "{why}");
    }

    #[test]
    fn silence_an_early_end_and_half_a_boot_do_not() {
        let begun = Instant::now();
        let (works, why) = boots("sleep 60");
        assert!(!works && why.contains("says nothing"), "{why}");
        let (works, why) = boots("echo 'Linux version 7.2'; sleep 60");
        assert!(
            !works && why.contains("last line is `Linux version 7.2`"),
            "{why}"
        );
        let (works, why) = boots("echo 'failed to initialize kvm' >&2; exit 1");
        assert!(!works && why.contains("failed to initialize kvm"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(8));
    }

    #[test]
    fn a_result_is_remembered_for_this_machine_only() {
        let cache = tempfile::tempdir().unwrap();
        let qemu = fake(cache.path(), "exit 1");
        let machine = Machine::this(&qemu);
        assert!(!machine.boot_id.is_empty());
        let write = |kvm: &Kvm| {
            files::write_whole(
                &cache.path().join(RECORD),
                &serde_json::to_vec(kvm).unwrap(),
            )
            .unwrap();
        };
        let mut kvm = Kvm {
            works: false,
            why: "as tried".to_owned(),
            machine,
        };
        write(&kvm);
        let found = known(cache.path(), &qemu).unwrap();
        let there = Path::new("/dev/kvm").exists()
            && File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok();
        assert_eq!(found.why.as_str() == "as tried", there);
        kvm.machine.boot_id = "another".to_owned();
        write(&kvm);
        assert_eq!(known(cache.path(), &qemu).is_none(), there);
    }

    #[test]
    fn wishes() {
        assert_eq!("kvm".parse(), Ok(Wish::Kvm));
        assert!("kvm,x".parse::<Wish>().is_err());
        let cache = tempfile::tempdir().unwrap();
        let qemu = fake(cache.path(), "exit 1");
        let chosen = |arch, wish| {
            choose_accel(
                arch,
                cache.path(),
                &qemu,
                Path::new("/image"),
                wish,
                &EventSink::discard(),
                &AtomicBool::new(false),
            )
        };
        assert_eq!(chosen(Arch::X86_64, Wish::Tcg).unwrap(), Accel::Tcg);
        assert_eq!(chosen(Arch::S390x, Wish::Auto).unwrap(), Accel::Tcg);
        let refused = chosen(Arch::S390x, Wish::Kvm).unwrap_err();
        assert_eq!(refused.exit(), ExitCode::Usage);
    }
}
