// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The grammar of trigger points: `[SIDE/]FUNCTION:FAMILY:WHAT[#N][@PHASE]`.

use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::error::nearest;
use super::{CallPhase, Point, What, WirePhase};
use crate::event::{FunctionId, Role};

/// The front end's requests that a point can name, without VHOST_USER_ (QEMU docs/interop/vhost-user.rst, "Front-end
/// message types").
pub const MESSAGES: &[&str] = &[
    "GET_FEATURES",
    "SET_FEATURES",
    "SET_OWNER",
    "RESET_OWNER",
    "SET_MEM_TABLE",
    "SET_LOG_BASE",
    "SET_LOG_FD",
    "SET_VRING_NUM",
    "SET_VRING_ADDR",
    "SET_VRING_BASE",
    "GET_VRING_BASE",
    "SET_VRING_KICK",
    "SET_VRING_CALL",
    "SET_VRING_ERR",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_VRING_ENABLE",
    "SEND_RARP",
    "NET_SET_MTU",
    "SET_BACKEND_REQ_FD",
    "IOTLB_MSG",
    "SET_VRING_ENDIAN",
    "GET_CONFIG",
    "SET_CONFIG",
    "CREATE_CRYPTO_SESSION",
    "CLOSE_CRYPTO_SESSION",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_END",
    "GET_INFLIGHT_FD",
    "SET_INFLIGHT_FD",
    "GPU_SET_SOCKET",
    "RESET_DEVICE",
    "VRING_KICK",
    "GET_MAX_MEM_SLOTS",
    "ADD_MEM_REG",
    "REM_MEM_REG",
    "SET_STATUS",
    "GET_STATUS",
    "GET_SHARED_OBJECT",
    "SET_DEVICE_STATE_FD",
    "CHECK_DEVICE_STATE",
];

/// A kernel function's name is not longer than this. Names that people write are far shorter; the guest's module is told
/// each twice in a command of 1000 bytes.
const MAX_NAME: usize = 127;

/// A text that is not a trigger point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PointError {
    /// What is wrong.
    pub what: String,
    /// Where in the text, in bytes.
    pub at: Range<usize>,
    /// What to write instead.
    pub hint: String,
}

const GRAMMAR: &str = "a point is FUNCTION:wire:MESSAGE or FUNCTION:call:NAME, e.g. vf2:wire:GET_VRING_BASE or \
                       teardown/pf:call:sriov_disable";
const FAMILIES: &str = "use `wire`, the vhost-user messages of a function, or `call`, the functions of the guest's kernel";

fn wrong<T>(what: String, at: Range<usize>, hint: impl Into<String>) -> Result<T, PointError> {
    Err(PointError {
        what,
        at,
        hint: hint.into(),
    })
}

/// The side that is called `word`.
pub(super) fn side(word: &str) -> Option<Role> {
    [Role::Teardown, Role::Unplug]
        .into_iter()
        .find(|role| role.to_string() == word)
}

/// What to write instead of `word`, which is not a side.
pub(super) fn side_hint(word: &str) -> String {
    match nearest(word, ["teardown", "unplug"]) {
        Some(side) => format!("did you mean `{side}`?"),
        None => "the sides are `teardown` and `unplug`".into(),
    }
}

impl FromStr for Point {
    type Err = PointError;

    /// Reads the text form. `#N` defaults to 0, `@PHASE` to the request or the entry.
    fn from_str(text: &str) -> Result<Self, PointError> {
        let end = text.len();
        let Some((head, rest)) = text.split_once(':') else {
            return wrong(format!("`{text}` is not a trigger point"), 0..end, GRAMMAR);
        };
        let head_end = head.len();
        let (role, function_at) = match head.split_once('/') {
            None => (None, 0),
            Some((word, _)) => match side(word) {
                Some(role) => (Some(role), word.len() + 1),
                None => {
                    let what = format!("`{word}` is not a side");
                    return wrong(what, 0..word.len(), side_hint(word));
                }
            },
        };
        let function = function(
            head.get(function_at..).unwrap_or_default(),
            function_at..head_end,
        )?;
        let at = head_end + 1;
        let Some((family, rest)) = rest.split_once(':') else {
            return wrong(format!("`{rest}` is not FAMILY:WHAT"), at..end, GRAMMAR);
        };
        let family_at = at..at + family.len();
        let at = family_at.end + 1;
        let name_len = rest.find(['#', '@']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(name_len);
        let name_at = at..at + name_len;
        let tail = Tail::read(tail, name_at.end)?;
        let what = match family {
            "wire" => {
                if let Some(role) = role {
                    return wrong(
                        "a message has no side: it does not say which task is behind it".into(),
                        0..function_at,
                        format!("leave `{role}/` away"),
                    );
                }
                if matches!(function, None | Some(FunctionId::Bridge)) {
                    return wrong(
                        format!("there are no messages of `{head}`"),
                        0..head_end,
                        "use pf, or vf1 to vf255",
                    );
                }
                What::Wire {
                    message: message(name, name_at)?,
                    phase: match tail.phase {
                        None | Some("request") => WirePhase::Request,
                        Some("reply") => WirePhase::Reply,
                        Some(_) => return tail.no_phase("a message", "use @request or @reply"),
                    },
                }
            }
            "call" => What::Call {
                call: call(name, name_at)?,
                phase: match tail.phase {
                    None | Some("enter") => CallPhase::Enter,
                    Some("return") => CallPhase::Return,
                    Some(_) => return tail.no_phase("a call", "use @enter or @return"),
                },
            },
            _ => {
                return wrong(
                    format!("there is no family `{family}` of points"),
                    family_at,
                    match nearest(family, ["wire", "call"]) {
                        Some(name) => format!("did you mean `{name}`?"),
                        None => FAMILIES.into(),
                    },
                );
            }
        };
        Ok(Point {
            role,
            function,
            what,
            nth: tail.nth,
        })
    }
}

/// The function that a point is scoped to; `None` for `any`.
fn function(word: &str, at: Range<usize>) -> Result<Option<FunctionId>, PointError> {
    match word.parse::<FunctionId>() {
        _ if word == "any" => Ok(None),
        Ok(FunctionId::Mailbox) => wrong(
            "the mailbox has no trigger points".into(),
            at,
            "use pf, or vf1 to vf255",
        ),
        Ok(function) => Ok(Some(function)),
        Err(what) => wrong(what, at, GRAMMAR),
    }
}

fn message(name: &str, at: Range<usize>) -> Result<String, PointError> {
    if MESSAGES.contains(&name) {
        return Ok(name.to_owned());
    }
    let bare = name.strip_prefix("VHOST_USER_").unwrap_or(name);
    let hint = match nearest(bare, MESSAGES.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            "use a front-end request of vhost-user without VHOST_USER_, e.g. GET_VRING_BASE".into()
        }
    };
    wrong(format!("there is no vhost-user message `{name}`"), at, hint)
}

/// The name of a kernel function: a C identifier. Whether this kernel has it, and can redirect it, is known only there.
fn call(name: &str, at: Range<usize>) -> Result<String, PointError> {
    let identifier = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    if identifier(name) && name.len() <= MAX_NAME {
        return Ok(name.to_owned());
    }
    let hint = match name.split_once('.') {
        _ if identifier(name) => format!("a name has at most {MAX_NAME} characters"),
        Some((source, _)) if identifier(source) => format!(
            "write `{source}`, the name in the source; what the compiler split off or changed cannot be a point"
        ),
        _ => "write a C function's name, e.g. sriov_disable".into(),
    };
    wrong(
        format!("`{name}` is not a kernel function's name"),
        at,
        hint,
    )
}

/// `[#N][@PHASE]`
struct Tail<'a> {
    nth: u32,
    phase: Option<&'a str>,
    phase_at: Range<usize>,
}

impl<'a> Tail<'a> {
    fn read(text: &'a str, at: usize) -> Result<Self, PointError> {
        let end = at + text.len();
        let (nth, phase, phase_at) = match text.split_once('@') {
            Some((nth, phase)) => (nth, Some(phase), at + nth.len() + 1),
            None => (text, None, end),
        };
        let nth = match nth.strip_prefix('#') {
            None => 0,
            Some(digits) => match digits.parse::<u32>() {
                Ok(n) if digits.bytes().all(|b| b.is_ascii_digit()) => n,
                _ => {
                    return wrong(
                        format!("`{digits}` is not an occurrence"),
                        at + 1..at + 1 + digits.len(),
                        "write # and a number from 0, e.g. #0 for the first",
                    );
                }
            },
        };
        Ok(Self {
            nth,
            phase,
            phase_at: phase_at..end,
        })
    }

    fn no_phase<T>(&self, of: &str, hint: &str) -> Result<T, PointError> {
        let phase = self.phase.unwrap_or_default();
        wrong(
            format!("`{phase}` is not a phase of {of}"),
            self.phase_at.clone(),
            hint,
        )
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
