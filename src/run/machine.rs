// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine of a run: private directory, back end, QEMU, and the guest's records.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::arch::Arch;
use crate::device::{Backend, BackendConfig};
use crate::event::{EventKind, EventSink, FunctionId, Phase};
use crate::guest::control::Control;
use crate::guest::initramfs::{self, Parts};
use crate::guest::observations::Observations;
use crate::host::chain;
use crate::inject::Injector;
use crate::qemu::Endpoint;
use crate::qemu::machine::{Boot, Machine as Hardware};
use crate::qemu::process::{Process, describe, shell_line};
use crate::qemu::qmp::Qmp;
use crate::qemu::qtest::Qtest;
use crate::qemu::slot::{Slot, SlotError};
use crate::qemu::zpci::{Zpci, ZpciError};

use super::{RunConfig, steps};

/// Queue pairs of each function.
const QUEUE_PAIRS: u16 = 1;
/// For QEMU to come up as far as its sockets: well under a second on an idle machine.
const START: Duration = Duration::from_secs(30);
/// For the slot's registers to be read; they need QEMU's global lock for microseconds each.
const SLOT: Duration = Duration::from_secs(10);

/// Why a run could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// In words for the evidence.
    pub(super) reason: String,
    /// The host's fault or the user's wish, not the guest's doing.
    pub(super) infrastructure: bool,
}

impl Cut {
    /// Says it in the recording.
    pub(super) fn tell(self, events: &EventSink) {
        events.emit(EventKind::Cut {
            reason: self.reason,
            infrastructure: self.infrastructure,
        });
    }

    pub(super) fn host(reason: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            infrastructure: true,
        }
    }

    pub(super) fn guest(reason: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            infrastructure: false,
        }
    }
}

pub(super) struct Machine<'a> {
    config: Arc<RunConfig<'a>>,
    events: EventSink,
    pub(super) seen: Observations,
    pub(super) injector: Arc<Injector>,
    pub(super) control: Control,
    console: PathBuf,
    // Dropped in this order: QEMU first, then the back end that it is connected to, then the directory.
    slot: Option<Arc<Slot>>,
    zpci: Option<Arc<Zpci>>,
    qmp: Option<Arc<Qmp>>,
    qtest: Option<Arc<Qtest>>,
    qemu: Process,
    backend: Option<Backend>,
    _private: tempfile::TempDir,
}

impl<'a> Machine<'a> {
    /// Starts the back end and QEMU.
    pub(super) fn start(config: Arc<RunConfig<'a>>, events: &EventSink) -> Result<Self, Cut> {
        let private =
            private_dir().map_err(|error| Cut::host(format!("no private directory: {error}")))?;
        let seen = Observations::default();
        let injector = Injector::new(events.clone(), seen.clone());
        let backend = Backend::start(BackendConfig {
            socket_dir: private.path().to_path_buf(),
            vfs: config.scenario.vfs,
            queue_pairs: QUEUE_PAIRS,
            hook: injector.clone(),
            events: events.clone(),
            on_report: injector.on_report(),
        })
        .map_err(|error| Cut::host(chain(&error)))?;
        injector.connect(backend.mailbox());

        let initramfs = private.path().join("initramfs");
        let parts = Parts {
            busybox: config.busybox,
            init: config.init,
            module: &config.kernel.module,
            boot_modules: match config.no_shim {
                true => &[],
                false => &config.kernel.boot_modules,
            },
            pf_module: &config.kernel.module.with_file_name(crate::kernel::PF_FILE),
        };
        initramfs::write(&initramfs, parts).map_err(|error| Cut::host(chain(&error)))?;
        let console = config.dir.join("console.log");
        let arch = config.kernel.arch;
        let slot = steps::empties_slot(config.scenario, true);
        let endpoint = |wanted: bool, name| {
            wanted
                .then(|| Endpoint::bind(&private.path().join(name)))
                .transpose()
                .map_err(|error| Cut::host(chain(&error)))
        };
        let qmp = endpoint(slot || arch == Arch::S390x, "qmp.sock")?;
        let qtest = endpoint(slot, "qtest.sock")?;
        let hardware = Hardware {
            arch,
            accel: config.accel,
            boot: Some(Boot {
                kernel: &config.kernel.image,
                initramfs: &initramfs,
            }),
            console: Some(&console),
            first_mac: None,
            mtu: None,
            vfs: config.scenario.vfs,
            queue_pairs: QUEUE_PAIRS,
            no_reboot: true,
            qmp: qmp.as_ref().map(Endpoint::path),
            qtest: qtest.as_ref().map(Endpoint::path),
        };
        let arguments = hardware.arguments(|function| backend.socket(function));
        events.emit(EventKind::Phase {
            phase: Phase::Boot,
            round: 0,
            console: 0,
        });
        let line = shell_line(&config.qemu.command, &config.qemu.env, &arguments);
        let script = config.dir.join("command.sh");
        // The sockets in it are gone afterwards: it is a record, and a start for somebody who brings back ends.
        std::fs::write(&script, format!("#!/bin/sh\n{line}\n"))
            .map_err(|error| Cut::host(format!("cannot write {}: {error}", script.display())))?;
        let log = config.dir.join("qemu.log");
        let qemu = Process::start(&config.qemu.command, &config.qemu.env, &arguments, &log)
            .map_err(|error| Cut::host(chain(&error)))?;
        let qmp = qmp
            .map(|qmp| Qmp::accept(qmp, START).map(Arc::new))
            .transpose()
            .map_err(|error| Cut::host(chain(&error)))?;
        let qtest = qtest
            .map(|qtest| Qtest::accept(qtest, START).map(Arc::new))
            .transpose()
            .map_err(|error| Cut::host(chain(&error)))?;
        let zpci = qmp.clone().filter(|_| arch == Arch::S390x).map(|qmp| {
            let zpci = Arc::new(Zpci::new(qmp, config.scenario.vfs, QUEUE_PAIRS));
            injector.connect_platform(Box::new(Arc::clone(&zpci)));
            zpci
        });
        let control = Control::new(backend.mailbox(), seen.clone());
        Ok(Self {
            config,
            events: events.clone(),
            seen,
            injector,
            control,
            console,
            slot: None,
            zpci,
            qmp,
            qtest,
            qemu,
            backend: Some(backend),
            _private: private,
        })
    }

    /// Says that a phase begins, with the length of the console at this moment.
    pub(super) fn phase(&self, phase: Phase, round: u32) {
        // QEMU makes the file before the guest runs; should it be gone, the console is empty.
        let console = std::fs::metadata(&self.console).map_or(0, |file| file.len());
        self.events.emit(EventKind::Phase {
            phase,
            round,
            console,
        });
    }

    /// Looks for the hotplug slot, if the scenario is about one. The guest has booted.
    pub(super) fn find_slot(&mut self) -> Result<(), Cut> {
        let (Some(qmp), Some(qtest)) = (self.qmp.clone(), self.qtest.take()) else {
            return Ok(());
        };
        let vfs = self.config.scenario.vfs;
        let slot =
            Slot::find(qmp, qtest, vfs, QUEUE_PAIRS, SLOT).map_err(|e| Cut::host(chain(&e)))?;
        let slot = Arc::new(slot);
        self.injector.connect_slot(Box::new(Arc::clone(&slot)));
        self.slot = Some(slot);
        Ok(())
    }

    /// Plugs the card in again once the guest is done with the old one.
    pub(super) fn plug_back(&self, limit: Duration) -> Result<(), Cut> {
        let Some(slot) = &self.slot else {
            return Err(Cut::host(
                "this machine has no slot that a card could be plugged into",
            ));
        };
        slot.plug_back(limit).map_err(|error| match error {
            // The guest's doing: its hotplug driver does not finish.
            SlotError::StillOn { .. } => Cut::guest(error),
            other => Cut::host(chain(&other)),
        })
    }

    /// Whether this machine's functions are plugged one by one.
    pub(super) fn plugs_functions(&self) -> bool {
        self.zpci.is_some()
    }

    fn on_card(&self, act: impl FnOnce(&Zpci) -> Result<(), ZpciError>) -> Result<(), Cut> {
        let Some(zpci) = &self.zpci else {
            return Ok(());
        };
        act(zpci).map_err(|error| match error.is_guest() {
            true => Cut::guest(error),
            false => Cut::host(chain(&error)),
        })
    }

    /// Plugs the PF in.
    pub(super) fn plug_pf(&self, limit: Duration) -> Result<(), Cut> {
        self.on_card(|zpci| zpci.plug(FunctionId::Pf, limit))
    }

    /// Whether the PF was unplugged by the platform, and has to be plugged in again.
    pub(super) fn is_pf_unplugged(&self) -> bool {
        self.zpci
            .as_ref()
            .is_some_and(|zpci| !zpci.is_in(FunctionId::Pf))
    }

    /// The platform's part in VF Enable: the VFs come.
    pub(super) fn enable_vfs(&self, limit: Duration) -> Result<(), Cut> {
        self.on_card(|zpci| zpci.enable_vfs(limit))
    }

    /// The platform's part when VF Enable is cleared: the VFs go. What was unplugged in the round is gone as well then.
    pub(super) fn settle(&self, limit: Duration) -> Result<(), Cut> {
        self.on_card(|zpci| {
            zpci.wait_gone(FunctionId::Pf, limit)?;
            zpci.disable_vfs(limit)
        })
    }

    /// Says something in the recording.
    pub(super) fn emit(&self, kind: EventKind) {
        self.events.emit(kind);
    }

    /// Messages are counted from here on.
    pub(super) fn count_messages_from_here(&self) {
        if let Some(backend) = &self.backend {
            backend.reset_wire_counters();
        }
    }

    /// The check of every wait: is QEMU there, has the user had enough, did an order get lost?
    pub(super) fn check(&mut self) -> Result<(), Cut> {
        if self.config.stop.load(Ordering::Acquire) {
            return Err(Cut::host("stopped by the user"));
        }
        if let Some(error) = self.injector.failure() {
            return Err(Cut::host(format!(
                "the unplug could not be ordered: {}",
                chain(&error)
            )));
        }
        match self.qemu.ended() {
            Ok(None) => Ok(()),
            // A guest that panics reboots, which ends QEMU without an error.
            Ok(Some(status)) if status.success() => Err(Cut::guest("the guest went down")),
            Ok(Some(status)) => {
                let words = self.qemu.last_words();
                let words = if words.is_empty() {
                    String::new()
                } else {
                    format!(": {words}")
                };
                Err(Cut::host(format!(
                    "QEMU ended with {}{words}",
                    describe(status)
                )))
            }
            Err(error) => Err(Cut::host(chain(&error))),
        }
    }

    /// How long the guest has waited for a CPU of the host so far.
    pub(super) fn starved(&self) -> Duration {
        self.qemu.starved()
    }

    /// Waits for QEMU to end by itself. `false`: it did not.
    pub(super) fn wait_for_the_end(&mut self, limit: Duration) -> bool {
        matches!(self.qemu.wait(limit), Ok(Some(_)))
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.injector.stop();
        self.qemu.kill();
        if let Some(backend) = self.backend.take() {
            backend.stop();
        }
    }
}

/// A directory that only this user may enter, for sockets and the initramfs. Short: a socket's path has 108 bytes. It
/// goes with the run; one that a killed vfrace left is removed by the next.
fn private_dir() -> std::io::Result<tempfile::TempDir> {
    let room = std::env::temp_dir();
    sweep(&room);
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(room)
}

const PREFIX: &str = "vfrace-";

/// Removes the private directories of processes that are no more. Those of other users cannot be removed, and need not.
fn sweep(room: &Path) {
    let Ok(entries) = std::fs::read_dir(room) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
        let Some(pid) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            // A failure leaves a few files in the temporary directory, which is what it is for.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_left_is_swept() {
        let room = tempfile::tempdir().unwrap();
        // pids are at most 2^22 (PID_MAX_LIMIT): this one cannot be alive
        let dead = room.path().join("vfrace-99999999-ab12");
        let mine = room
            .path()
            .join(format!("vfrace-{}-ab12", std::process::id()));
        let other = room.path().join("vfrace-notes");
        for dir in [&dead, &mine, &other] {
            std::fs::create_dir(dir).unwrap();
        }
        sweep(room.path());
        assert!(!dead.exists() && mine.exists() && other.exists());
    }
}
