// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace tap`: points and a trace in front of somebody else's vhost-user back end.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::umask;

use crate::event::{EventSink, FunctionId};
use crate::exit::ExitCode;
use crate::guest::observations::Observations;
use crate::inject::Injector;
use crate::scenario::Scenario;
use crate::serve::{BackEnd, Desk, DeskConfig, Foreign, Handed};
use crate::wire::Tap;

use super::bench::on_signals;
use super::failure::Failure;
use super::serve::place::clear;
use super::serve::{ServeError, Served, journal, until_stopped};

/// Arguments of `vfrace tap`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The socket that the back end listens on
    #[arg(long, value_name = "PATH")]
    backend: PathBuf,
    /// The socket that is made for QEMU, which has to run as the same user; a dead one is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The control socket [default: that of --socket with .control behind it]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// What the device is called in points and traces: pf, or vf1 to vf255
    #[arg(long, value_name = "NAME", default_value = "pf", value_parser = function)]
    name: FunctionId,
    #[command(flatten)]
    served: Served,
}

fn function(text: &str) -> Result<FunctionId, String> {
    match text.parse()? {
        function @ (FunctionId::Pf | FunctionId::Vf(_)) => Ok(function),
        _ => Err("use pf, or vf1 to vf255".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> ExitCode {
    tap(args).unwrap_or_else(Failure::tell)
}

fn tap(args: &Args) -> Result<ExitCode, Failure> {
    // First of all: descriptors are known by their numbers.
    let handed = Handed::take(args.served.ready_fd).map_err(ServeError::from)?;
    let stop = on_signals()?;
    let (events, received) = EventSink::new();
    let journal = journal(&args.served, received)?;
    let seen = Observations::default();
    let injector = Injector::new(events.clone(), seen.clone());
    let behind = Arc::new(Foreign {
        path: args.backend.clone(),
    });
    let control = args.control.clone().unwrap_or_else(|| {
        let mut path = args.socket.clone().into_os_string();
        path.push(".control");
        path.into()
    });
    for path in [&args.socket, &control] {
        clear(path).map_err(|why| ServeError::Socket {
            path: path.clone(),
            why,
        })?;
    }
    // Whoever connects is taken for QEMU: nobody but this user may.
    let before = umask(Mode::RWXG | Mode::RWXO);
    let tap = Tap::start(
        args.name,
        &args.socket,
        behind,
        injector.clone(),
        events.clone(),
    );
    umask(before);
    let tap = tap.map_err(ServeError::from)?;
    let vfs = match args.name {
        FunctionId::Vf(number) => number,
        _ => 0,
    };
    let text = if args.served.json {
        let told = serde_json::json!({ "socket": args.socket, "control": control });
        format!("{told}\n")
    } else {
        let (socket, control) = (args.socket.display(), control.display());
        format!("socket: {socket}\ncontrol: {control}\n")
    };
    let desk = Desk::new(DeskConfig {
        backend: BackEnd::Foreign(tap),
        injector,
        seen,
        events,
        journal: journal.journal.clone(),
        scenario: Scenario::of_a_device(vfs),
        stop: stop.clone(),
    });
    until_stopped(desk, handed, &control, &stop, &text)?;
    journal.end();
    Ok(ExitCode::Good)
}
