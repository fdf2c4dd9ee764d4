// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control protocol: a JSON object a line, in both directions (docs/serve.md).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::event::Target;
use crate::scenario::Actuator;

/// The version. It is raised when something that was valid stops being so, or means something else.
pub const VERSION: u64 = 1;
/// Longest line of a request, bytes, without its end.
pub const MAX_LINE: usize = 64 * 1024;
/// Most events in one answer.
pub const MAX_EVENTS: usize = 1000;
/// Longest command for the guest's shell, bytes: a frame of the mailbox takes 1000.
pub const MAX_COMMAND: usize = 900;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How things are.
    Status {},
    /// The PF's driver is bound anew and the VFs enabled, by the guest's shell.
    Up {},
    /// The points of a schedule act from now on, each once; messages are counted from 0.
    Arm {
        /// A schedule (docs/schedules.md).
        schedule: String,
        /// What its `fire` unplugs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unplug: Option<Unplugging>,
    },
    /// Nothing acts any more. A message that is held goes on when its time is up.
    Disarm {},
    /// Unplugs now: what is armed, or else this.
    Unplug {
        /// What.
        target: Target,
        /// By whom, see [`Unplugging`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actuator: Option<Actuator>,
    },
    /// The teardown of the scenario, by the guest's shell. Answered when it and an unplug that it fired are done.
    Teardown {},
    /// A command for the guest's shell. Answered when it has ended.
    Exec {
        /// The command, in one line.
        command: String,
    },
    /// Events from a number on.
    Events {
        /// The first one wanted.
        #[serde(default)]
        from: u64,
        /// Those to come as well: the connection is for nothing else then.
        #[serde(default)]
        follow: bool,
    },
    /// Messages by function and name, and frames by function.
    Counters {},
    /// Ends the server.
    Stop {},
}

/// An unplug as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unplugging {
    /// What.
    pub target: Target,
    /// By whom; `platform` for a VF unless said, `platform-device` for the PF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actuator: Option<Actuator>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Which kind it is, for programs.
    pub kind: Kind,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Not a line of this protocol. The connection goes on unless the line was too long.
    Malformed,
    /// Another version.
    Version,
    /// It makes no sense here.
    Usage,
    /// The guest's module is not there.
    NoGuest,
    /// The guest did not do it.
    Guest,
    /// Somebody else's request is being done, or there are too many clients.
    Busy,
}

impl Refusal {
    /// A refusal with what to do.
    pub fn new(kind: Kind, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            hint: hint.into(),
        }
    }
}

/// The first line of the server.
pub fn greeting() -> Value {
    json!({ "vfrace": "control", "version": VERSION })
}

/// A line of the client.
pub fn request(id: u64, request: &Request) -> Value {
    let mut line = json!(request);
    if let Value::Object(line) = &mut line {
        line.insert("version".to_owned(), VERSION.into());
        line.insert("id".to_owned(), id.into());
    }
    line
}

/// The answer to a request. `id` is null if none could be read.
pub fn answer(id: Option<u64>, answer: &Result<Value, Refusal>) -> Value {
    match answer {
        Ok(value) => json!({ "id": id, "ok": value }),
        Err(refusal) => json!({ "id": id, "error": refusal }),
    }
}

/// Reads a line of a client: the number of the request, if it has a usable one, and the request.
///
/// # Errors
/// [`Kind::Malformed`] or [`Kind::Version`]; never panics, whatever the bytes are.
pub fn read(line: &[u8]) -> (Option<u64>, Result<Request, Refusal>) {
    const HINT: &str =
        "a request is an object on one line, e.g. {\"version\":1,\"id\":1,\"do\":\"status\"}";
    let malformed = |why: String| Refusal::new(Kind::Malformed, why, HINT);
    let mut fields: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(fields) => fields,
        Err(error) => return (None, Err(malformed(format!("not a request: {error}")))),
    };
    let id = match fields.remove("id") {
        None => return (None, Err(malformed("a request has a number, `id`".into()))),
        Some(id) => match id.as_u64() {
            Some(id) => id,
            None => {
                let why = "`id` is a whole number from 0";
                return (None, Err(malformed(why.into())));
            }
        },
    };
    let request = match fields.remove("version").map(|version| version.as_u64()) {
        Some(Some(VERSION)) => serde_json::from_value(Value::Object(fields))
            .map_err(|error| malformed(format!("not a request: {error}"))),
        other => {
            let other = match other {
                Some(Some(version)) => format!("version {version}"),
                _ => "no version".to_owned(),
            };
            Err(Refusal::new(
                Kind::Version,
                format!("this is version {VERSION} of the protocol, and the request is of {other}"),
                "use `vfrace ctl` of the same build",
            ))
        }
    };
    (Some(id), request)
}
