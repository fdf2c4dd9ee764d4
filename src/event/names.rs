// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is torn down and unplugged, and by whom: functions, targets, sides.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One function of the device, as the backend numbers it. VF numbers start at 1, as in the SR-IOV chapter of the PCI
/// Express specification; Linux' `virtfn0` is [`FunctionId::Vf`]`(1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FunctionId {
    /// The physical function.
    Pf,
    /// Virtual function 1..=255.
    Vf(u16),
    /// The port that the device sits behind: not ours, but removing it removes the device.
    Bridge,
    /// The control function that carries commands and observations.
    Mailbox,
}

impl FunctionId {
    /// Linux' index of a VF (`virtfn0` is the first), if this is a VF.
    pub fn vf_index(self) -> Option<u16> {
        match self {
            FunctionId::Vf(n) => n.checked_sub(1),
            _ => None,
        }
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FunctionId::Pf => f.write_str("pf"),
            FunctionId::Vf(n) => write!(f, "vf{n}"),
            FunctionId::Bridge => f.write_str("bridge"),
            FunctionId::Mailbox => f.write_str("mailbox"),
        }
    }
}

impl std::str::FromStr for FunctionId {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "pf" => Ok(FunctionId::Pf),
            "bridge" => Ok(FunctionId::Bridge),
            "mailbox" => Ok(FunctionId::Mailbox),
            _ => match s.strip_prefix("vf").map(str::parse::<u16>) {
                Some(Ok(n @ 1..=255)) => Ok(FunctionId::Vf(n)),
                _ => Err(format!(
                    "`{s}` is not a function: use pf, vf1 to vf255, or bridge"
                )),
            },
        }
    }
}

impl Serialize for FunctionId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FunctionId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What an unplug takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A function: a VF, the PF, or the bridge above them with all that is below it.
    Function(FunctionId),
    /// All VFs one after the other, without waiting in between.
    Vfs,
    /// The card in the bridge's hotplug slot: the PF with its VFs.
    Slot,
}

impl Target {
    /// The function, if it is one.
    pub fn function(self) -> Option<FunctionId> {
        match self {
            Target::Function(function) => Some(function),
            Target::Vfs | Target::Slot => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Function(function) => function.fmt(f),
            Target::Vfs => f.write_str("vfs"),
            Target::Slot => f.write_str("slot"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.parse() {
            _ if s == "slot" => Ok(Target::Slot),
            _ if s == "vfs" => Ok(Target::Vfs),
            Ok(FunctionId::Mailbox) | Err(_) => Err(format!(
                "`{s}` cannot be unplugged: use pf, vf1 to vf255, vfs, slot, or bridge"
            )),
            Ok(function) => Ok(Target::Function(function)),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The two sides of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The task that tears down (or, for some scenarios, brings up): it comes from the driver's side.
    Teardown,
    /// The task that handles the unplug: it comes from the platform's side.
    Unplug,
}

impl Role {
    /// The other side.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Role::Teardown => Role::Unplug,
            Role::Unplug => Role::Teardown,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Teardown => "teardown",
            Role::Unplug => "unplug",
        })
    }
}

/// A task's part in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// It tears down.
    Teardown,
    /// It handles the unplug.
    Unplug,
    /// It is neither, and one of them cannot go on because of it.
    Other,
}

impl From<Role> for Part {
    fn from(role: Role) -> Self {
        match role {
            Role::Teardown => Part::Teardown,
            Role::Unplug => Part::Unplug,
        }
    }
}
