// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The grammar of trigger points: `FUNCTION:FAMILY:WHAT[#N][@PHASE]`.

use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::error::nearest;
use super::{Point, What, WirePhase};
use crate::event::FunctionId;

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

const GRAMMAR: &str =
    "a point is FUNCTION:wire:MESSAGE[#N][@request|@reply], e.g. vf2:wire:GET_VRING_BASE#0@request";

fn wrong<T>(what: String, at: Range<usize>, hint: impl Into<String>) -> Result<T, PointError> {
    Err(PointError {
        what,
        at,
        hint: hint.into(),
    })
}

impl FromStr for Point {
    type Err = PointError;

    /// Reads the text form. `#N` defaults to 0, `@PHASE` to the request.
    fn from_str(text: &str) -> Result<Self, PointError> {
        let end = text.len();
        let Some((function, rest)) = text.split_once(':') else {
            return wrong(format!("`{text}` is not a trigger point"), 0..end, GRAMMAR);
        };
        let function_end = function.len();
        let function = match function.parse::<FunctionId>() {
            Ok(FunctionId::Mailbox) => {
                return wrong(
                    "the mailbox has no trigger points".into(),
                    0..function_end,
                    "use pf, or vf1 to vf255",
                );
            }
            Ok(function) => function,
            Err(what) => return wrong(what, 0..function_end, GRAMMAR),
        };
        let at = function_end + 1;
        let Some((family, rest)) = rest.split_once(':') else {
            return wrong(format!("`{rest}` is not FAMILY:WHAT"), at..end, GRAMMAR);
        };
        match family {
            "wire" => {}
            "call" => {
                return wrong(
                    "points of the family `call` are not there in this version".into(),
                    at..at + family.len(),
                    "use the family `wire`: the vhost-user messages of a function",
                );
            }
            _ => {
                return wrong(
                    format!("there is no family `{family}` of points in this version"),
                    at..at + family.len(),
                    "use the family `wire`: the vhost-user messages of a function",
                );
            }
        }
        let at = at + family.len() + 1;
        let name_len = rest.find(['#', '@']).unwrap_or(rest.len());
        let (message, tail) = rest.split_at(name_len);
        if !MESSAGES.contains(&message) {
            let bare = message.strip_prefix("VHOST_USER_").unwrap_or(message);
            let hint = match nearest(bare, MESSAGES.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => {
                    "use a front-end request of vhost-user without VHOST_USER_, e.g. GET_VRING_BASE"
                        .into()
                }
            };
            return wrong(
                format!("there is no vhost-user message `{message}`"),
                at..at + name_len,
                hint,
            );
        }
        let at = at + name_len;
        let (nth, phase, phase_at) = match tail.split_once('@') {
            Some((nth, phase)) => (nth, Some(phase), at + nth.len() + 1),
            None => (tail, None, end),
        };
        let nth = match nth.strip_prefix('#') {
            None => 0,
            Some(digits) => match digits.parse::<u32>() {
                Ok(n) if digits.bytes().all(|b| b.is_ascii_digit()) => n,
                _ => {
                    let place = at + 1..at + 1 + digits.len();
                    return wrong(
                        format!("`{digits}` is not an occurrence"),
                        place,
                        "write # and a number from 0, e.g. #0 for the first",
                    );
                }
            },
        };
        let phase = match phase {
            None | Some("request") => WirePhase::Request,
            Some("reply") => WirePhase::Reply,
            Some(other) => {
                return wrong(
                    format!("`{other}` is not a phase of a message"),
                    phase_at..end,
                    "use @request or @reply",
                );
            }
        };
        Ok(Point {
            role: None,
            function: Some(function),
            what: What::Wire {
                message: message.to_owned(),
                phase,
            },
            nth,
        })
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
