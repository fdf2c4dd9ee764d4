// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace serve`: the back end for a QEMU that somebody else starts.

pub(super) mod place;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::arch::Arch;
use crate::device::{Backend, BackendConfig, DeviceError};
use crate::event::{Event, EventSink, FunctionId};
use crate::exit::ExitCode;
use crate::guest::control::Control;
use crate::guest::initramfs::{self, InitramfsError, Parts};
use crate::guest::observations::Observations;
use crate::inject::Injector;
use crate::kernel::KernelName;
use crate::paths;
use crate::qemu::machine::{Boot, Machine, ccw, places};
use crate::qemu::process::shell_line;
use crate::qemu::provide::{provide, provide_busybox};
use crate::qemu::{Accel, Wish, choose_accel};
use crate::run::Stop;
use crate::scenario::{self, MOST_VFS_S390X, Scenario};
use crate::serve::{
    BackEnd, ClientError, Desk, DeskConfig, Handed, HandedError, Journal, Server, Trace, notify,
};
use crate::wire::TapError;

use super::bench::{Bench, on_signals};
use super::failure::Failure;
use super::guest::GuestOption;
use super::say;
use place::Place;

/// Reports of the guest that are kept. A round with 3 VFs has some hundreds.
const REPORTS: usize = 100_000;

/// What `serve` and `tap` have in common.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Served {
    /// Write every event to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Write `ready` to this open descriptor once QEMU may be started, and close it
    #[arg(long, value_name = "FD")]
    pub(super) ready_fd: Option<RawFd>,
    /// Print a JSON object instead of lines
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `vfrace serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the sockets go: a directory that only this user can enter; made, and removed at the end, if absent
    #[arg(long, value_name = "DIR")]
    socket_dir: PathBuf,
    /// Number of VFs [default: the scenario's, or 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=255))]
    vfs: Option<u16>,
    /// Queue pairs of each function
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,
    /// Hardware address of the PF, the VFs have the next ones [default: 52:54:00:76:00:00]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac: Option<[u8; 6]>,
    /// The MTU that the guest is told of
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(68..))]
    mtu: Option<u16>,
    /// A scenario by name, or a file: what `ctl up` and `ctl teardown` do, and what is unplugged unless said
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Build or find this kernel and a root for it, and print the arguments that boot them as well
    #[arg(long, value_name = "K")]
    kernel: Option<KernelName>,
    /// With --kernel: how guest code is run
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    accel: Wish,
    /// Print QEMU's arguments and end; the root of --kernel stays in the directory
    #[arg(long)]
    print_qemu_args: bool,
    #[command(flatten)]
    guest: GuestOption,
    #[command(flatten)]
    served: Served,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// A socket of QEMU's.
    #[error("the socket cannot be {path}: {why}")]
    Socket {
        /// It.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The directory of the sockets.
    #[error("the sockets cannot be in {path}: {why}")]
    Place {
        /// It.
        path: PathBuf,
        /// Why not.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// More VFs than the machine has room for.
    #[error("{vfs} VFs asked for; on s390x there is room for {MOST_VFS_S390X}")]
    TooManyVfs {
        /// What was asked for.
        vfs: u16,
    },
    /// An option that is not carried out there.
    #[error("--mac and --mtu are for guests of x86_64")]
    OnlyX86,
    /// The back end.
    #[error("the back end cannot be started")]
    Device(#[from] DeviceError),
    /// The tap.
    #[error("the tap cannot be started")]
    Tap(#[from] TapError),
    /// Descriptors.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// The guest's root.
    #[error("the guest's root cannot be made")]
    Root(#[from] InitramfsError),
    /// A file or socket.
    #[error("cannot make {path}")]
    Make {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other end of the control socket.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ServeError {
    /// The exit code.
    pub(super) fn exit(&self) -> ExitCode {
        match self {
            ServeError::Socket { .. }
            | ServeError::Place { .. }
            | ServeError::TooManyVfs { .. }
            | ServeError::OnlyX86
            | ServeError::Handed(_)
            | ServeError::Client(ClientError::Refused(_)) => ExitCode::Usage,
            _ => ExitCode::Infrastructure,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            ServeError::Socket { .. } => Some("end the other one, or name another path".to_owned()),
            ServeError::Place { hint, .. } => Some((*hint).to_owned()),
            ServeError::Client(ClientError::Refused(refusal)) if !refusal.hint.is_empty() => {
                Some(refusal.hint.clone())
            }
            ServeError::Client(ClientError::Connect { .. }) => Some(
                "name the socket that `vfrace serve` or `vfrace tap` has printed with --control, or $VFRACE_CONTROL"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// `aa:bb:cc:dd:ee:ff`, not a group's address.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| match byte.len() {
            2 => u8::from_str_radix(byte, 16).ok(),
            _ => None,
        })
        .collect::<Option<_>>()
        .unwrap_or_default();
    match <[u8; 6]>::try_from(bytes) {
        Ok(mac @ [first, ..]) if first & 1 == 0 => Ok(mac),
        Ok(_) => Err("that is a group's address: its first byte has to be even".to_owned()),
        Err(_) => Err("an address is six bytes, as in 52:54:00:76:00:00".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    serve(args).unwrap_or_else(Failure::tell)
}

/// What boots the guest.
struct Booted {
    accel: Accel,
    image: PathBuf,
    initramfs: PathBuf,
    command: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

fn serve(args: &Args) -> Result<ExitCode, Failure> {
    // First of all: descriptors are known by their numbers.
    let mut handed = Handed::take(args.served.ready_fd).map_err(ServeError::from)?;
    let arch = args.guest.arch;
    let scenario = match &args.scenario {
        Some(name) => {
            let given: Vec<(&'static str, i64)> = args
                .vfs
                .map(|vfs| ("vfs", vfs.into()))
                .into_iter()
                .collect();
            let dir = paths::data_dir()?.join("guest-tests/scenarios");
            scenario::load(name, &dir, &given)?.on(arch)?
        }
        None => Scenario::of_a_device(args.vfs.unwrap_or(3)),
    };
    if arch == Arch::S390x && scenario.vfs > MOST_VFS_S390X {
        return Err(ServeError::TooManyVfs { vfs: scenario.vfs }.into());
    }
    if arch == Arch::S390x && (args.mac.is_some() || args.mtu.is_some()) {
        return Err(ServeError::OnlyX86.into());
    }
    let functions = || {
        let vfs = (1..=scenario.vfs).map(FunctionId::Vf);
        std::iter::once(FunctionId::Pf)
            .chain(vfs)
            .chain([FunctionId::Mailbox])
    };
    let mut place = Place::take(&args.socket_dir)?;
    if !args.print_qemu_args {
        place.clear(functions())?;
    }
    let (booted, stop) = match &args.kernel {
        Some(kernel) => boot(args, kernel, &mut place)?,
        None => (None, on_signals()?),
    };
    let socket = |function| match handed.functions.get(&function) {
        Some((_, path)) => path.clone(),
        None => place.file(&format!("{function}.sock")),
    };
    let control = match &handed.control {
        Some((_, path)) => path.clone(),
        None => place.file("control.sock"),
    };
    let machine = Machine {
        arch,
        accel: booted.as_ref().map_or(Accel::Tcg, |booted| booted.accel),
        boot: booted.as_ref().map(|booted| Boot {
            kernel: &booted.image,
            initramfs: &booted.initramfs,
        }),
        console: None,
        vfs: scenario.vfs,
        queue_pairs: args.queues,
        first_mac: args.mac,
        mtu: args.mtu,
        no_reboot: true,
        qmp: None,
        qtest: None,
    };
    let told = Lines {
        booted: booted.as_ref(),
        arguments: machine.arguments(socket),
        control: &control,
        machine: &machine,
    };
    if args.print_qemu_args {
        if booted.is_some() {
            place.keep();
        }
        say::out(told.text(args.served.json, false));
        return Ok(ExitCode::Good);
    }
    let (events, received) = EventSink::new();
    let journal = journal(&args.served, received)?;
    let seen = Observations::last(REPORTS);
    let injector = Injector::new(events.clone(), seen.clone());
    let backend = Backend::start_on(
        BackendConfig {
            socket_dir: place.dir().to_path_buf(),
            vfs: scenario.vfs,
            queue_pairs: args.queues,
            hook: injector.clone(),
            events: events.clone(),
            on_report: injector.on_report(),
        },
        std::mem::take(&mut handed.functions),
    )
    .map_err(ServeError::from)?;
    injector.connect(backend.mailbox());
    let commands = Control::new(backend.mailbox(), seen.clone());
    let desk = Desk::new(DeskConfig {
        backend: BackEnd::Own {
            backend,
            control: Mutex::new(commands),
            at: places(arch),
        },
        injector,
        seen,
        events,
        journal: journal.journal.clone(),
        scenario,
        stop: stop.clone(),
    });
    let text = told.text(args.served.json, true);
    until_stopped(desk, handed, &control, &stop, &text)?;
    journal.end();
    Ok(ExitCode::Good)
}

fn boot(
    args: &Args,
    kernel: &KernelName,
    place: &mut Place,
) -> Result<(Option<Booted>, Stop), Failure> {
    let arch = args.guest.arch;
    let bench = Bench::new(arch)?;
    let name = bench.one_kernel(kernel)?;
    let (cache, data) = (bench.cache.clone(), bench.data.clone());
    let (events, stop) = (bench.events.clone(), bench.stop.clone());
    let qemu = provide(&cache, &data, arch, &events, &stop)?;
    let busybox = provide_busybox(&cache, &data, arch, &events, &stop)?;
    let built = bench.kernels().build(&name)?;
    let accel = choose_accel(
        arch,
        &cache,
        &qemu,
        &built.image,
        args.accel,
        &events,
        &stop,
    )?;
    drop(events);
    bench.quiet();
    let initramfs = place.file("initramfs");
    let parts = Parts {
        busybox: &busybox,
        init: &data.join("guest-tests/init/init"),
        module: &built.module,
        boot_modules: &built.boot_modules,
        pf_module: &built.module.with_file_name(crate::kernel::PF_FILE),
    };
    place.goes_with_it(initramfs.clone());
    initramfs::write(&initramfs, parts).map_err(ServeError::from)?;
    let booted = Booted {
        accel,
        image: built.image,
        initramfs,
        command: qemu.command,
        env: qemu.env,
    };
    Ok((Some(booted), stop))
}

/// What is printed.
struct Lines<'a> {
    booted: Option<&'a Booted>,
    arguments: Vec<OsString>,
    control: &'a Path,
    machine: &'a Machine<'a>,
}

impl Lines<'_> {
    fn text(&self, as_json: bool, is_served: bool) -> String {
        let plain = vec![OsString::from(format!("qemu-system-{}", self.machine.arch))];
        let (command, env) = match self.booted {
            Some(booted) => (&booted.command, booted.env.as_slice()),
            None => (&plain, [].as_slice()),
        };
        let words = |words: &[OsString]| -> Vec<String> {
            let word = |word: &OsString| word.to_string_lossy().into_owned();
            words.iter().map(word).collect()
        };
        // On s390x each function is plugged in by itself, once the guest's module is there.
        let plugs: Vec<serde_json::Value> = match self.machine.arch {
            Arch::X86_64 => Vec::new(),
            Arch::S390x => std::iter::once(FunctionId::Pf)
                .chain((1..=self.machine.vfs).map(FunctionId::Vf))
                .filter_map(|function| {
                    ccw::plugs(function, self.machine.vfs, self.machine.queue_pairs)
                })
                .flatten()
                .map(|device| json!({ "execute": "device_add", "arguments": device }))
                .collect(),
        };
        let control = self.control.display().to_string();
        if as_json {
            let env: serde_json::Map<String, serde_json::Value> = env
                .iter()
                .map(|(name, value)| {
                    let text = |text: &OsString| text.to_string_lossy().into_owned();
                    (text(name), text(value).into())
                })
                .collect();
            let told = json!({
                "command": words(command),
                "env": env,
                "arguments": words(&self.arguments),
                "qmp": plugs,
                "control": is_served.then_some(control),
            });
            return format!("{told}\n");
        }
        let mut text = format!("{}\n", shell_line(command, env, &self.arguments));
        for plug in plugs {
            text += &format!("{plug}\n");
        }
        if is_served {
            text += &format!("control: {control}\n");
        }
        text
    }
}

/// The thread that takes events.
pub(super) struct Kept {
    pub(super) journal: Journal,
    thread: std::thread::JoinHandle<()>,
}

/// Starts to keep events.
pub(super) fn journal(served: &Served, events: Receiver<Event>) -> Result<Kept, Failure> {
    let trace = served.trace.as_ref().map(|path| {
        File::create(path)
            .map(|file| Box::new(file) as Trace)
            .map_err(|source| ServeError::Make {
                path: path.clone(),
                source,
            })
    });
    let trace = trace.transpose()?;
    let journal = Journal::default();
    let thread = {
        let journal = journal.clone();
        std::thread::spawn(move || journal.follow(&events, trace))
    };
    Ok(Kept { journal, thread })
}

impl Kept {
    /// Waits until the last event is written, unless somebody who was left behind still has a sink.
    pub(super) fn end(self) {
        let end = Instant::now() + Duration::from_secs(2);
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Serves the control socket, says that all is ready, and waits for the end.
pub(super) fn until_stopped(
    desk: Desk,
    mut handed: Handed,
    control: &Path,
    stop: &Stop,
    text: &str,
) -> Result<(), Failure> {
    let desk = Arc::new(desk);
    let server = match handed.control.take() {
        Some((listener, _)) => Server::on(listener, Arc::clone(&desk)),
        None => Server::bind(control, Arc::clone(&desk)),
    };
    let served = server.map_err(|source| ServeError::Make {
        path: control.to_path_buf(),
        source,
    });
    let told = served.and_then(|server| {
        say::out(format_args!("{text}ready\n"));
        handed.tell_ready()?;
        Ok(server)
    });
    let result = match told {
        Ok(server) => {
            tell_manager("READY=1");
            while !stop.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(50));
            }
            tell_manager("STOPPING=1");
            desk.announce_end();
            drop(server);
            Ok(())
        }
        Err(error) => Err(error.into()),
    };
    match Arc::try_unwrap(desk) {
        Ok(desk) => desk.end(),
        Err(_) => log::warn!("a client of the control socket was left behind"),
    }
    result
}

fn tell_manager(state: &str) {
    if let Err(error) = notify(state) {
        log::warn!("the service manager cannot be told {state}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_a_station() {
        assert_eq!(mac("52:54:00:76:00:0a"), Ok([0x52, 0x54, 0, 0x76, 0, 10]));
        for text in [
            "",
            "52:54:00:76:00",
            "53:54:00:76:00:00",
            "+1:2:3:4:5:6",
            "5:4:0:7:0:0",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }
}
