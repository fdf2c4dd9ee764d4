// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a campaign: boots dealt out like cards, so that several machines can each take their share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Shard `at` of `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    at: u32,
    of: u32,
}

impl Shard {
    /// Part `at`, from 1, of `of`; `None` if there is no such part.
    pub fn new(at: u32, of: u32) -> Option<Self> {
        (at >= 1 && at <= of).then_some(Self { at, of })
    }

    /// Whether the card with this number, from 0, is dealt to it.
    pub fn has(self, number: u64) -> bool {
        number % u64::from(self.of) == u64::from(self.at - 1)
    }

    /// How many of the cards below `end` are dealt to it.
    pub fn below(self, end: u64) -> u64 {
        let (at, of) = (u64::from(self.at), u64::from(self.of));
        (end.saturating_add(of) - at) / of
    }
}

/// The part that is meant by `--shard`: stated, or as the engine of a cluster says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardWish {
    /// This one.
    Stated(Shard),
    /// As the environment says, of so many if that is stated.
    Auto(Option<u32>),
}

impl FromStr for ShardWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("auto") else {
            return text.parse().map(Self::Stated);
        };
        let of = match rest.strip_prefix('/').map(str::parse::<u32>) {
            None if rest.is_empty() => None,
            Some(Ok(of)) if of > 0 => Some(of),
            _ => return Err(format!("`{text}` is no part: write auto or auto/N")),
        };
        Ok(Self::Auto(of))
    }
}

const SLURM: &str = "SLURM_ARRAY_TASK_ID";
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";

impl ShardWish {
    /// The part. `variable` looks into the environment: the variables of a Slurm job array (sbatch(1), OUTPUT ENVIRONMENT
    /// VARIABLES) or of an Indexed Job of Kubernetes (batch/v1 Job, .spec.completionMode). The error says what is wrong.
    pub fn part(self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Shard, String> {
        let of = match self {
            ShardWish::Stated(shard) => return Ok(shard),
            ShardWish::Auto(of) => of,
        };
        let number = |name: &str| -> Result<u32, String> {
            let text = variable(name).ok_or_else(|| format!("{name} is not set"))?;
            let number = text.trim().parse();
            number.map_err(|_| format!("{name} is `{text}`, which is no number"))
        };
        let shard = match (variable(SLURM), variable(KUBERNETES), of) {
            (Some(_), Some(_), _) => {
                return Err(format!(
                    "both {SLURM} and {KUBERNETES} are set: write --shard I/N"
                ));
            }
            (None, None, _) => {
                return Err(format!(
                    "neither {SLURM} nor {KUBERNETES} is set: write --shard I/N"
                ));
            }
            (None, Some(_), None) => {
                return Err("Kubernetes does not say how many there are: write --shard auto/N with the number of completions".to_owned());
            }
            (None, Some(_), Some(of)) => (number(KUBERNETES)?.saturating_add(1), of),
            // A part that is run again alone keeps its number.
            (Some(_), None, Some(of)) => (number(SLURM)?, of),
            (Some(_), None, None) => {
                let [min, max, count] =
                    ["MIN", "MAX", "COUNT"].map(|what| number(&format!("SLURM_ARRAY_TASK_{what}")));
                let (min, max, count) = (min?, max?, count?);
                let step = number("SLURM_ARRAY_TASK_STEP").unwrap_or(1).max(1);
                let id = number(SLURM)?;
                let place = |id: u32| {
                    id.checked_sub(min)
                        .filter(|d| d % step == 0)
                        .map(|d| d / step + 1)
                };
                if place(max) != Some(count) {
                    return Err(format!(
                        "the array's {count} tasks from {min} to {max} do not go on in steps of {step}: write --shard auto/N"
                    ));
                }
                (place(id).unwrap_or_default(), count)
            }
        };
        let (at, of) = shard;
        Shard::new(at, of)
            .ok_or_else(|| format!("there is no part {at} of {of}: parts go from 1 to {of}"))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shard = text
            .split_once('/')
            .and_then(|(at, of)| Self::new(at.parse().ok()?, of.parse().ok()?));
        shard.ok_or_else(|| format!("`{text}` is no part: I/N has I from 1 to N, as in 2/8"))
    }
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
