// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QMP, QEMU's control protocol (QEMU docs/interop/qmp-spec.rst): commands, and the events that come in between.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::link::{Endpoint, Link, LinkError, Protocol};

/// Events that are kept; of more, the oldest are forgotten. A removal of 256 functions makes two events each.
const EVENTS: usize = 2048;

/// A QMP command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection does not work, or QEMU did not answer in time.
    #[error("QMP does not work")]
    Link(#[from] LinkError),
    /// QEMU says no.
    #[error("QEMU refuses `{command}`: {reason}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// An answer of another shape than the specification's.
    #[error("QEMU's answer to `{command}` cannot be understood: {answer}")]
    Answer {
        /// The command.
        command: String,
        /// What it was, cut short.
        answer: String,
    },
}

impl QmpError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Link(error) => error.hint(),
            Self::Refused { .. } => None,
            Self::Answer { .. } => Some("use the QEMU that `vfrace doctor` names".to_owned()),
        }
    }
}

/// A place in the stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventMark(u64);

/// QEMU's state as `query-status` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The vCPUs run.
    pub running: bool,
    /// In QEMU's words (`RunState` in qapi/run-state.json), e.g. `running`, `guest-panicked`.
    pub state: String,
}

/// A QMP connection. Usable from any thread; a thread that waits keeps no other from sending.
pub struct Qmp {
    link: Link<State>,
}

impl Qmp {
    /// Takes QEMU's connection and negotiates. To be called after QEMU was started with the endpoint's path.
    ///
    /// # Errors
    /// [`QmpError::Link`] if QEMU does not connect or greet within `limit`.
    pub fn accept(endpoint: Endpoint, limit: Duration) -> Result<Self, QmpError> {
        let deadline = Instant::now() + limit;
        let stream = endpoint.accept(limit)?;
        let qmp = Self {
            link: Link::start("qmp", stream, State::default())?,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        qmp.link.wait(
            || "greet".to_owned(),
            left,
            |state| state.greeted.then_some(()),
        )?;
        let left = deadline.saturating_duration_since(Instant::now());
        qmp.execute("qmp_capabilities", json!({}), left)?;
        Ok(qmp)
    }

    /// Executes a command: its `return` value. `arguments` must be an object.
    ///
    /// # Errors
    /// [`QmpError`]. After [`LinkError::Late`] QEMU may still execute it: its answer is dropped when it comes.
    pub fn execute(
        &self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        let mut id = 0;
        self.link.send::<LinkError>(|state| {
            id = state.expect();
            let mut line =
                json!({"execute": command, "arguments": arguments, "id": id}).to_string();
            line.push('\n');
            Ok(line.into_bytes())
        })?;
        let what = || format!("answer `{command}`");
        let answer = self.link.wait(what, limit, |state| state.answer(id));
        let answer = answer.inspect_err(|_| self.link.with(|state| state.give_up(id)))?;
        result(command, answer)
    }

    /// Plugs a device in. `properties` as after `-device`, with `driver`; see qapi/qdev.json.
    ///
    /// # Errors
    /// [`QmpError`]; the words of [`QmpError::Refused`] name the property at fault.
    pub fn device_add(&self, properties: Value, limit: Duration) -> Result<(), QmpError> {
        self.execute("device_add", properties, limit).map(drop)
    }

    /// Asks for a device to be unplugged. It goes when the guest lets go of it: see [`Qmp::wait_deleted`].
    ///
    /// # Errors
    /// [`QmpError`], e.g. if there is no device with this id or if it is being unplugged already.
    pub fn device_del(&self, id: &str, limit: Duration) -> Result<(), QmpError> {
        self.execute("device_del", json!({"id": id}), limit)
            .map(drop)
    }

    /// Whether the machine runs.
    ///
    /// # Errors
    /// [`QmpError`].
    pub fn status(&self, limit: Duration) -> Result<Status, QmpError> {
        let answer = self.execute("query-status", json!({}), limit)?;
        let fields = (
            answer.get("running").and_then(Value::as_bool),
            answer.get("status").and_then(Value::as_str),
        );
        match fields {
            (Some(running), Some(state)) => Ok(Status {
                running,
                state: state.to_owned(),
            }),
            _ => Err(misshapen("query-status", &answer)),
        }
    }

    /// A place to wait from: events before it do not count.
    pub fn mark(&self) -> EventMark {
        EventMark(self.link.with(|state| state.seen))
    }

    /// Waits for DEVICE_DELETED (qapi/qdev.json) of a device after `since`: the device is gone for the guest, and its
    /// id is free. `device` is an id, or the QOM path of a device that has none.
    ///
    /// # Errors
    /// [`QmpError::Link`] if it does not come within `limit`.
    pub fn wait_deleted(
        &self,
        device: &str,
        since: EventMark,
        limit: Duration,
    ) -> Result<(), QmpError> {
        let what = || format!("say that the device {device} is gone");
        Ok(self
            .link
            .wait(what, limit, |state| state.deleted(device, since))?)
    }
}

fn result(command: &str, mut answer: Value) -> Result<Value, QmpError> {
    if let Some(value) = answer.get_mut("return") {
        return Ok(value.take());
    }
    let reason = answer
        .get("error")
        .and_then(|error| error.get("desc"))
        .and_then(Value::as_str);
    match reason {
        Some(reason) => Err(QmpError::Refused {
            command: command.to_owned(),
            reason: reason.to_owned(),
        }),
        None => Err(misshapen(command, &answer)),
    }
}

fn misshapen(command: &str, answer: &Value) -> QmpError {
    QmpError::Answer {
        command: command.to_owned(),
        answer: cut(&answer.to_string()),
    }
}

/// The beginning of a text that may be long.
fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[derive(Default)]
struct State {
    greeted: bool,
    last_id: u64,
    /// Commands whose answer is waited for, with it once it is there.
    answers: BTreeMap<u64, Option<Value>>,
    events: VecDeque<Map<String, Value>>,
    /// Events seen so far, including those no longer kept.
    seen: u64,
}

impl State {
    fn expect(&mut self) -> u64 {
        self.last_id += 1;
        self.answers.insert(self.last_id, None);
        self.last_id
    }

    fn answer(&mut self, id: u64) -> Option<Value> {
        let answer = self.answers.get_mut(&id)?.take()?;
        self.answers.remove(&id);
        Some(answer)
    }

    fn give_up(&mut self, id: u64) {
        self.answers.remove(&id);
    }

    fn deleted(&self, device: &str, since: EventMark) -> Option<()> {
        let kept = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        let forgotten = self.seen.saturating_sub(kept);
        let skip = usize::try_from(since.0.saturating_sub(forgotten)).unwrap_or(usize::MAX);
        self.events
            .iter()
            .skip(skip)
            .any(|event| is_deleted(event, device))
            .then_some(())
    }
}

fn is_deleted(event: &Map<String, Value>, device: &str) -> bool {
    let data = |key| event.get("data")?.get(key)?.as_str();
    let name = event.get("event").and_then(Value::as_str);
    name == Some("DEVICE_DELETED")
        && (data("device") == Some(device) || data("path") == Some(device))
}

impl Protocol for State {
    /// The longest lines are answers to queries that are not used here; the greeting has under 1 KiB.
    const LONGEST: usize = 64 * 1024;

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let odd = || format!("this is not QMP: {}", cut(&String::from_utf8_lossy(line)));
        let Ok(Value::Object(object)) = serde_json::from_slice(line) else {
            return Err(odd());
        };
        if object.contains_key("QMP") {
            self.greeted = true;
        } else if object.contains_key("event") {
            if self.events.len() == EVENTS {
                self.events.pop_front();
            }
            self.events.push_back(object);
            self.seen += 1;
        } else if object.contains_key("return") || object.contains_key("error") {
            // An error without an id is about a line that QEMU could not read, which is not what was sent.
            let id = object.get("id").and_then(Value::as_u64).ok_or_else(odd)?;
            // No entry: the one that asked has given up.
            if let Some(slot) = self.answers.get_mut(&id) {
                *slot = Some(Value::Object(object));
            }
        } else {
            return Err(odd());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
