// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace ctl`: the other end of the control socket.

use std::path::PathBuf;

use crate::event::Target;
use crate::exit::ExitCode;
use crate::scenario::Actuator;
use crate::serve::protocol::{Request, Unplugging};
use crate::serve::{Client, ClientError};

use super::failure::Failure;
use super::say;
use super::serve::ServeError;

/// Arguments of `vfrace ctl`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The control socket that the server has printed
    #[arg(long, value_name = "PATH", env = "VFRACE_CONTROL")]
    control: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say how things are
    Status,
    /// Bind the PF's driver anew and enable the VFs; needs the guest's module
    Up,
    /// Arm a schedule: its points act, each once
    Arm {
        /// The schedule, as in docs/schedules.md
        schedule: String,
        /// What its `fire` unplugs [default: what the scenario does]
        #[arg(long, value_name = "TARGET")]
        unplug: Option<Target>,
        #[command(flatten)]
        by: By,
    },
    /// Let nothing act any more
    Disarm,
    /// Unplug, now or at a point; needs the guest's module
    Unplug {
        /// vf1, vf2, ..., pf, bridge or slot
        target: Target,
        /// At this point, e.g. vf2:wire:GET_VRING_BASE; answered as soon as it is armed
        #[arg(long, value_name = "POINT")]
        at: Option<String>,
        /// With --at: what is held there goes on then
        #[arg(
            long,
            value_name = "CONDITION",
            default_value = "other-committed",
            requires = "at"
        )]
        until: String,
        #[command(flatten)]
        by: By,
    },
    /// Tear down as the scenario does, or unbind the PF; answered when all is done
    Teardown,
    /// Run a command in the guest's shell
    Exec {
        /// The command
        command: String,
    },
    /// Print events
    Events {
        /// From this number on
        #[arg(long, value_name = "N", default_value_t = 0)]
        from: u64,
        /// And those to come, until the server ends
        #[arg(long)]
        follow: bool,
    },
    /// Print how many messages and frames there were
    Counters,
    /// End the server
    Stop,
}

#[derive(Debug, clap::Args)]
struct By {
    /// Who unplugs, as in scenarios: platform, sysfs-remove, ... [default: platform for a VF, platform-device for others]
    #[arg(long, value_name = "NAME", value_parser = actuator)]
    actuator: Option<Actuator>,
}

fn actuator(name: &str) -> Result<Actuator, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

pub(super) fn run(args: &Args) -> ExitCode {
    ask(args).unwrap_or_else(|error| Failure::from(ServeError::from(error)).tell())
}

fn ask(args: &Args) -> Result<ExitCode, ClientError> {
    let mut client = Client::connect(&args.control)?;
    let request = match &args.what {
        What::Status => Request::Status {},
        What::Up => Request::Up {},
        What::Arm {
            schedule,
            unplug,
            by,
        } => Request::Arm {
            schedule: schedule.clone(),
            unplug: unplug.map(|target| Unplugging {
                target,
                actuator: by.actuator,
            }),
        },
        What::Disarm => Request::Disarm {},
        What::Unplug {
            target,
            at: Some(at),
            until,
            by,
        } => Request::Arm {
            schedule: format!("{at} fire until {until}"),
            unplug: Some(Unplugging {
                target: *target,
                actuator: by.actuator,
            }),
        },
        What::Unplug { target, by, .. } => Request::Unplug {
            target: *target,
            actuator: by.actuator,
        },
        What::Teardown => Request::Teardown {},
        What::Exec { command } => Request::Exec {
            command: command.clone(),
        },
        What::Events { from, follow } => return events(&mut client, *from, *follow),
        What::Counters => Request::Counters {},
        What::Stop => Request::Stop {},
    };
    let answer = client.ask(&request)?;
    say::out(format_args!("{answer}\n"));
    Ok(ExitCode::Good)
}

fn events(client: &mut Client, mut from: u64, follow: bool) -> Result<ExitCode, ClientError> {
    if follow {
        client.ask(&Request::Events { from, follow })?;
        loop {
            match client.line() {
                Ok(line) if say::out_if_read(format_args!("{line}\n")) => {}
                // Nobody reads any more, as behind `| head -1`.
                Ok(_) => return Ok(ExitCode::Good),
                Err(ClientError::Closed) => return Ok(ExitCode::Good),
                Err(error) => return Err(error),
            }
        }
    }
    loop {
        let answer = client.ask(&Request::Events { from, follow })?;
        let events = answer.get("events").and_then(|events| events.as_array());
        let events = events.map(Vec::as_slice).unwrap_or_default();
        for event in events {
            say::out(format_args!("{event}\n"));
        }
        let next = answer.get("next").and_then(serde_json::Value::as_u64);
        match next {
            // Those that come meanwhile are left to the next call.
            Some(next) if events.len() == crate::serve::protocol::MAX_EVENTS && next > from => {
                from = next;
            }
            _ => return Ok(ExitCode::Good),
        }
    }
}
