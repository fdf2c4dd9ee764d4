// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a campaign was asked for: two results belong together only if this is the same.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Cell;
use super::shard::Shard;
use crate::arch::Arch;
use crate::host::files;
use crate::scenario::Scenario;

/// Digits of a scenario's identity.
const ID_DIGITS: usize = 20;
/// Boots that a combination gets at most if its number follows from an error bound.
pub const MOST_BOOTS: u32 = 200;

/// A campaign as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Scenarios on kernels, in the order of the table.
    pub cells: Vec<CellAsked>,
    /// How many boots of each.
    pub amount: Amount,
    /// The kernel whose rate of hits the others are compared with, if one was named.
    pub reference: Option<String>,
    /// What was done to the guests beside the schedule, e.g. `skip-sleep`.
    pub options: Vec<String>,
    /// Architecture of the guests.
    #[serde(default, skip_serializing_if = "Arch::is_default")]
    pub arch: Arch,
    /// Accelerator.
    pub accel: String,
    /// QEMU's version.
    pub qemu: String,
    /// This program's version.
    pub vfrace: String,
    /// The part of it that this directory has; `None` for the whole.
    pub shard: Option<Shard>,
}

/// A combination of scenario and kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellAsked {
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// Hash of the scenario with its parameters filled in, without its prose.
    pub scenario_id: String,
    /// Number of VFs.
    pub vfs: u16,
    /// Rounds in a boot.
    pub rounds: u32,
    /// Whether something is unplugged in it. Without, it is a control: nobody waits long for a first hit.
    #[serde(default)]
    pub unplugs: bool,
    /// Kernel identity; `None` for a kernel that does not build.
    pub kernel_id: Option<String>,
    /// Version of the source package or tree.
    pub source_version: Option<String>,
    /// The kernel's own release string.
    pub release: Option<String>,
    /// Why it does not build.
    pub build_failure: Option<String>,
}

/// How many boots a combination gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So many.
    Boots(u32),
    /// As many as it takes until a false PASS is no more likely than `error`.
    Error {
        /// A probability, above 0 and at most 0.5.
        error: f64,
        /// The end in any case.
        most_boots: u32,
    },
}

impl Amount {
    /// Boots that a combination gets at most.
    pub fn most_boots(self) -> u32 {
        match self {
            Amount::Boots(boots) => boots,
            Amount::Error { most_boots, .. } => most_boots,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Boots(boots) => write!(f, "--boots {boots}"),
            Amount::Error { error, most_boots } => {
                write!(f, "--error {error} --max-boots {most_boots}")
            }
        }
    }
}

/// A probability of a false PASS as a person writes it: `1%`, `0.001`, `1e-9`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBound(pub f64);

impl FromStr for ErrorBound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, scale) = match text.strip_suffix('%') {
            Some(number) => (number, 100.0),
            None => (text, 1.0),
        };
        let value = number.trim().parse::<f64>().map(|value| value / scale);
        match value {
            Ok(value) if value > 0.0 && value <= 0.5 => Ok(Self(value)),
            _ => Err("an error is above 0 and at most 0.5, as in 1%, 0.001 or 1e-9".to_owned()),
        }
    }
}

impl CellAsked {
    /// What there is to say about a cell.
    pub fn of(cell: &Cell<'_>) -> Self {
        let (kernel, built) = match cell.kernel {
            Ok(kernel) => (kernel.name.to_string(), Some(kernel)),
            Err(unbuilt) => (unbuilt.name.clone(), None),
        };
        Self {
            scenario: cell.scenario.name.clone(),
            kernel,
            scenario_id: scenario_id(cell.scenario),
            vfs: cell.scenario.vfs,
            rounds: cell.scenario.rounds,
            unplugs: cell.scenario.unplug.is_some(),
            kernel_id: built.map(|kernel| kernel.id.clone()),
            source_version: built.map(|kernel| kernel.source_version.clone()),
            release: built.map(|kernel| kernel.release.clone()),
            build_failure: cell.kernel.err().map(|unbuilt| unbuilt.why.clone()),
        }
    }

    /// `SCENARIO on KERNEL`.
    pub fn title(&self) -> String {
        format!("{} on {}", self.scenario, self.kernel)
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let title = self.title();
        let mut all = Vec::new();
        let mut differ = |what: &str, mine: String, its: String| {
            if mine != its {
                all.push(format!("{title}: {what} {mine}, now {its}"));
            }
        };
        let id = |id: &Option<String>| id.clone().unwrap_or_else(|| "that does not build".into());
        differ("kernel", id(&self.kernel_id), id(&other.kernel_id));
        differ("VFs", self.vfs.to_string(), other.vfs.to_string());
        differ("rounds", self.rounds.to_string(), other.rounds.to_string());
        if all.is_empty() && self.scenario_id != other.scenario_id {
            all.push(format!("{title}: the scenario was changed since"));
        }
        all
    }
}

/// Hash of everything in a scenario that a run depends on.
fn scenario_id(scenario: &Scenario) -> String {
    let bare = Scenario {
        title: String::new(),
        source: String::new(),
        ..scenario.clone()
    };
    // It has no maps with other keys than strings, the only thing that JSON cannot have.
    let json = serde_json::to_vec(&bare).unwrap_or_default();
    let mut id = files::hex(&Sha256::digest(json));
    id.truncate(ID_DIGITS);
    id
}

impl Asked {
    /// What is another in `now`, a line each; nothing if both ask for the same. The order of the combinations does not
    /// count.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut differ = |what: &str, mine: String, its: String| {
            if mine != its {
                all.push(format!("{what} {mine}, now {its}"));
            }
        };
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "not named".to_owned());
        let shard = |shard: &Option<Shard>| match shard {
            Some(shard) => shard.to_string(),
            None => "the whole".to_owned(),
        };
        differ("boots:", self.amount.to_string(), now.amount.to_string());
        differ("guests of", self.arch.to_string(), now.arch.to_string());
        differ("reference:", or(&self.reference), or(&now.reference));
        let list = |options: &[String]| match options {
            [] => "none".to_owned(),
            some => some.join(" "),
        };
        differ("options:", list(&self.options), list(&now.options));
        differ("accelerator:", self.accel.clone(), now.accel.clone());
        differ("QEMU:", self.qemu.clone(), now.qemu.clone());
        differ("vfrace:", self.vfrace.clone(), now.vfrace.clone());
        differ("shard:", shard(&self.shard), shard(&now.shard));
        let named = |asked: &Self| -> BTreeMap<(String, String), CellAsked> {
            let key = |cell: &CellAsked| (cell.scenario.clone(), cell.kernel.clone());
            let cells = asked.cells.iter();
            cells.map(|cell| (key(cell), cell.clone())).collect()
        };
        let (mine, its) = (named(self), named(now));
        for (key, cell) in &mine {
            match its.get(key) {
                Some(other) => all.extend(cell.differences(other)),
                None => all.push(format!("{}: not asked for now", cell.title())),
            }
        }
        for (key, cell) in &its {
            if !mine.contains_key(key) {
                all.push(format!("{}: not asked for then", cell.title()));
            }
        }
        all
    }

    /// The combination of that name.
    pub fn find(&self, scenario: &str, kernel: &str) -> Option<usize> {
        let of = |cell: &CellAsked| cell.scenario == scenario && cell.kernel == kernel;
        self.cells.iter().position(of)
    }
}
