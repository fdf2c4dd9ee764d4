// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests share: QEMU, a kernel, and a guest that takes commands.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use vfrace::arch::Arch;
use vfrace::device::{Backend, BackendConfig};
use vfrace::event::{EventSink, GuestRecord, Observation};
use vfrace::guest::control::{Control, Waiting};
use vfrace::guest::initramfs::{self, Parts};
use vfrace::guest::observations::Observations;
use vfrace::guest::proto::{CommandKind, decode_report};
use vfrace::inject::Injector;
use vfrace::kernel::{BuiltKernel, Kernels};
use vfrace::qemu::machine::{Boot, Machine, PF_ADDRESS};
use vfrace::qemu::process::Process;
use vfrace::qemu::provide::{provide, provide_busybox};
use vfrace::qemu::qmp::Qmp;
use vfrace::qemu::qtest::Qtest;
use vfrace::qemu::slot::Slot;
use vfrace::qemu::zpci::Zpci;
use vfrace::qemu::{Accel, Endpoint, QemuBinary};
use vfrace::wire::WireHook;

pub const PF: &str = PF_ADDRESS;

/// What is built or fetched once for all tests.
pub struct Bench {
    pub qemu: QemuBinary,
    pub busybox: PathBuf,
    pub base: BuiltKernel,
}

pub fn bench() -> &'static Bench {
    bench_of(Arch::X86_64)
}

/// The same for guests of `arch`.
pub fn bench_of(arch: Arch) -> &'static Bench {
    static BENCHES: [OnceLock<Bench>; Arch::ALL.len()] = [const { OnceLock::new() }; 2];
    let at = Arch::ALL.iter().position(|a| *a == arch).unwrap();
    BENCHES[at].get_or_init(|| {
        let (cache, data) = (
            vfrace::paths::cache_dir().unwrap(),
            vfrace::paths::data_dir().unwrap(),
        );
        let (events, stop) = (EventSink::discard(), Arc::new(AtomicBool::new(false)));
        let qemu = provide(&cache, &data, arch, &events, &stop).unwrap();
        let busybox = provide_busybox(&cache, &data, arch, &events, &stop).unwrap();
        let kernels = Kernels::new(cache, data, events).with_arch(arch);
        Bench {
            qemu,
            busybox,
            base: kernels.build(&"base".parse().unwrap()).unwrap(),
        }
    })
}

/// A guest that runs what it is told.
pub struct Guest {
    bench: &'static Bench,
    seen: Observations,
    control: Control,
    arguments: Vec<std::ffi::OsString>,
    log: PathBuf,
    pub qemu: Option<Process>,
    pub backend: Backend,
    vfs: u16,
    queue_pairs: u16,
    qmp: Option<Arc<Qmp>>,
    qtest: Option<Arc<Qtest>>,
    _dir: tempfile::TempDir,
}

const LIMIT: Duration = Duration::from_secs(90);

impl Guest {
    /// Boots the base kernel with `vfs` VFs of `queue_pairs` queue pairs.
    pub fn boot(vfs: u16, queue_pairs: u16) -> Self {
        let hook = |seen| -> Arc<dyn WireHook> { Injector::new(EventSink::discard(), seen) };
        Self::boot_with(vfs, queue_pairs, hook)
    }

    /// Boots the base kernel of s390x, with nothing plugged in; `shim`: with the module that says what QEMU does not.
    pub fn boot_s390x(vfs: u16, shim: bool) -> Self {
        let hook = |seen| -> Arc<dyn WireHook> { Injector::new(EventSink::discard(), seen) };
        let bench = bench_of(Arch::S390x);
        let modules: &[PathBuf] = match shim {
            true => &bench.base.boot_modules,
            false => &[],
        };
        Self::boot_on(bench, modules, vfs, 1, hook)
    }

    /// Boots it with a hook of the test's own.
    pub fn boot_with(
        vfs: u16,
        queue_pairs: u16,
        hook: impl FnOnce(Observations) -> Arc<dyn WireHook>,
    ) -> Self {
        Self::boot_on(bench(), &[], vfs, queue_pairs, hook)
    }

    fn boot_on(
        bench: &'static Bench,
        boot_modules: &[PathBuf],
        vfs: u16,
        queue_pairs: u16,
        hook: impl FnOnce(Observations) -> Arc<dyn WireHook>,
    ) -> Self {
        let has_slot = bench.base.arch == Arch::X86_64;
        let dir = tempfile::Builder::new()
            .prefix("vfrace-")
            .tempdir()
            .unwrap();
        let seen = Observations::default();
        let report = seen.clone();
        let backend = Backend::start(BackendConfig {
            socket_dir: dir.path().to_path_buf(),
            vfs,
            queue_pairs,
            hook: hook(seen.clone()),
            events: EventSink::discard(),
            on_report: Box::new(move |bytes| report.push(decode_report(bytes).unwrap())),
        })
        .unwrap();
        let initramfs = dir.path().join("initramfs");
        let init = vfrace::paths::data_dir()
            .unwrap()
            .join("guest-tests/init/init");
        let parts = Parts {
            busybox: &bench.busybox,
            init: &init,
            module: &bench.base.module,
            boot_modules,
            pf_module: &bench.base.module.with_file_name(vfrace::kernel::PF_FILE),
        };
        initramfs::write(&initramfs, parts).unwrap();
        let arguments = Machine {
            arch: bench.base.arch,
            accel: Accel::Tcg,
            boot: Some(Boot {
                kernel: &bench.base.image,
                initramfs: &initramfs,
            }),
            console: Some(&dir.path().join("console")),
            first_mac: None,
            mtu: None,
            vfs,
            queue_pairs,
            no_reboot: false,
            qmp: Some(&dir.path().join("qmp.sock")),
            qtest: has_slot.then(|| dir.path().join("qtest.sock")).as_deref(),
        }
        .arguments(|function| backend.socket(function));
        let control = Control::new(backend.mailbox(), seen.clone());
        let log = dir.path().join("log");
        let mut guest = Self {
            bench,
            seen,
            control,
            arguments,
            log,
            qemu: None,
            backend,
            vfs,
            queue_pairs,
            qmp: None,
            qtest: None,
            _dir: dir,
        };
        guest.start();
        guest
    }

    /// Starts a QEMU, in place of the one that ran, and waits for its guest.
    pub fn start(&mut self) {
        self.qemu = None;
        let endpoint = |name| Endpoint::bind(&self.log.with_file_name(name)).unwrap();
        let has_slot = self.bench.base.arch == Arch::X86_64;
        let (qmp, qtest) = (
            endpoint("qmp.sock"),
            has_slot.then(|| endpoint("qtest.sock")),
        );
        let mark = self.seen.mark();
        let qemu = &self.bench.qemu;
        self.qemu =
            Some(Process::start(&qemu.command, &qemu.env, &self.arguments, &self.log).unwrap());
        self.qmp = Some(Arc::new(Qmp::accept(qmp, LIMIT).unwrap()));
        self.qtest = qtest.map(|qtest| Arc::new(Qtest::accept(qtest, LIMIT).unwrap()));
        self.wait_until_ready(mark);
    }

    /// QEMU's QMP.
    pub fn qmp(&self) -> &Qmp {
        self.qmp.as_ref().unwrap()
    }

    /// The slot of this guest.
    pub fn slot(&self) -> Slot {
        let (qmp, qtest) = (self.qmp.clone().unwrap(), self.qtest.clone().unwrap());
        Slot::find(qmp, qtest, self.vfs, self.queue_pairs, LIMIT).unwrap()
    }

    /// The card of this guest, with nothing plugged in.
    pub fn zpci(&self) -> Zpci {
        Zpci::new(self.qmp.clone().unwrap(), self.vfs, self.queue_pairs)
    }

    /// What the guest has said since `mark`.
    pub fn any(&self, mark: usize, is: impl Fn(&GuestRecord) -> bool) -> bool {
        self.seen.any(mark, is)
    }

    /// A place to wait from.
    pub fn mark(&self) -> usize {
        self.seen.mark()
    }

    /// Waits until the guest's init reads commands.
    pub fn wait_until_ready(&self, mark: usize) {
        let ready = |record: &GuestRecord| (record.what == Observation::AgentReady).then_some(());
        let up = self.seen.wait(mark, LIMIT, || Ok::<(), ()>(()), ready);
        assert!(up.is_ok(), "the guest did not boot: {}", self.console());
    }

    /// Sends a line of shell and gives the wait for it: see [`Guest::ended`].
    pub fn begin(&mut self, text: &str) -> Waiting {
        let sent = self.control.send(CommandKind::Exec, text).unwrap();
        self.control.waiting(sent)
    }

    /// What a line of shell printed that was begun. Fails the test if it failed.
    pub fn ended(&self, text: &str, waiting: Waiting) -> String {
        let done = waiting.done(LIMIT, || Ok::<(), ()>(()));
        let (status, output) =
            done.unwrap_or_else(|_| panic!("`{text}` did not end: {}", self.console()));
        assert_eq!(status, 0, "`{text}` printed: {output}{}", self.console());
        output
    }

    /// Sends a line of shell and does not wait for it.
    pub fn send(&mut self, text: &str) {
        self.control.send(CommandKind::Exec, text).unwrap();
    }

    /// Runs a line of shell: what it printed. Fails the test if it fails.
    pub fn shell(&mut self, text: &str) -> String {
        let waiting = self.begin(text);
        self.ended(text, waiting)
    }

    /// What the guest has printed so far.
    pub fn console(&self) -> String {
        let path: &Path = &self.log.with_file_name("console");
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }
}
