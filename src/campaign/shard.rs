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

    /// How many parts there are.
    pub fn of(self) -> u32 {
        self.of
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
