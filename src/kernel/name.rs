// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Names of kernels: `base`, `v7`, `v7@7.3`, `v7+rt`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::KernelError;

/// The source that is meant when a name does not say.
pub const DEFAULT_SOURCE: &str = "7.2";

/// The source as it is.
pub(super) const BASE: &str = "base";
/// A tree of the user's as it is.
pub(super) const TREE: &str = "tree";

/// Stands for all mutants where kernels are listed, see [`super::Manifest::expand`].
pub(super) const ALL_MUTANTS: &str = "mutants";
/// Stands for all other variants there, each code once.
pub(super) const ALL: &str = "all";
/// Between the first and the last of a range of them.
pub(super) const RANGE: &str = "..";

/// `VARIANT[+FRAGMENT...][@SOURCE]`, as the user writes it: a variant, the fragments that its configuration has beside the
/// usual ones (guest-tests/kconfig/FRAGMENT.config), and the source that it is put on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelName {
    variant: String,
    fragments: Vec<String>,
    source: Option<String>,
}

impl KernelName {
    /// Debian's 7.2 as it is.
    pub fn base() -> Self {
        Self {
            variant: BASE.to_owned(),
            fragments: Vec::new(),
            source: None,
        }
    }

    /// Name of the variant, as in guest-tests/variants/variants.toml.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Another variant, configured likewise, on the same source.
    pub(super) fn with(&self, variant: &str) -> Self {
        Self {
            variant: variant.to_owned(),
            ..self.clone()
        }
    }

    /// The same on a state of the user's tree, where the source as it is has the name [`TREE`].
    pub(super) fn on_tree(&self, tag: &str) -> Self {
        let plain = self.variant == BASE;
        Self {
            variant: if plain { TREE } else { &self.variant }.to_owned(),
            source: Some(tag.to_owned()),
            ..self.clone()
        }
    }

    /// Whether it names a source.
    pub(super) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Whether it is put on a state of a user's tree.
    pub(super) fn is_on_tree(&self) -> bool {
        self.source.as_deref().is_some_and(is_tree)
    }

    /// Fragments of the configuration beside the usual ones, in order.
    pub fn fragments(&self) -> &[String] {
        &self.fragments
    }

    /// Source, `7.2` unless the name says otherwise.
    pub fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(DEFAULT_SOURCE)
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.variant.clone();
        for fragment in &self.fragments {
            text.push('+');
            text.push_str(fragment);
        }
        if let Some(source) = &self.source {
            text.push('@');
            text.push_str(source);
        }
        f.pad(&text)
    }
}

impl FromStr for KernelName {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let wrong = || KernelError::Name {
            name: text.to_owned(),
        };
        let (kernel, source) = match text.split_once('@') {
            Some((kernel, source)) => (kernel, Some(source)),
            None => (text, None),
        };
        let mut words = kernel.split('+');
        let variant = words.next().unwrap_or_default();
        let fragments: Vec<String> = words.map(str::to_owned).collect();
        if !is_variant(variant)
            || !fragments.iter().all(|word| is_fragment(word))
            || !source.is_none_or(|source| is_source(source) || is_tree(source))
        {
            return Err(wrong());
        }
        Ok(Self {
            variant: variant.to_owned(),
            fragments,
            source: source.map(str::to_owned),
        })
    }
}

/// Letters, digits, `-`, `_`, and `.` inside: the name becomes a part of file names.
pub(super) fn is_variant(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 40
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A fragment's file name without `.config`. None begins with a digit: `7.3` is what one source needs.
fn is_fragment(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 20
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// `g` and digits of a commit, `t` and digits of the content of a tree that is no commit.
pub(super) fn is_tree(text: &str) -> bool {
    text.strip_prefix(['g', 't']).is_some_and(|hex| {
        (7..=40).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// `7.2`: as in the name of Debian's package, without a patch level.
pub(super) fn is_source(text: &str) -> bool {
    let number = |s: &str| (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(major, minor)| number(major) && number(minor))
}

impl Serialize for KernelName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KernelName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn names() {
        for (text, variant, source) in [
            ("base", "base", "7.2"),
            ("v7", "v7", "7.2"),
            ("v7@6.12", "v7", "6.12"),
            ("v5..v14+rt+lean@7.3", "v5..v14", "7.3"),
            ("tree@g0123abc", "tree", "g0123abc"),
        ] {
            let name: KernelName = text.parse().unwrap();
            assert_eq!(
                (name.variant(), name.source(), name.to_string().as_str()),
                (variant, source, text)
            );
        }
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            "@",
            "v7@",
            "@7.2",
            "../x",
            "v7@7",
            "v7@7.2.1",
            "v7@7.x",
            "a/b",
            ".a",
            "v 7",
            "v7@7.2@7.3",
            "v7+",
            "v7+../x",
            "v7+7.3",
            "tree@gxyz",
            "tree@g12",
        ] {
            let error = text.parse::<KernelName>().unwrap_err();
            assert_eq!(error.exit(), ExitCode::Usage, "{text}");
            assert!(error.hint().is_some());
        }
    }

    proptest! {
        #[test]
        fn parse_and_display_agree(text in "[a-z0-9@+._/-]{0,12}") {
            if let Ok(name) = text.parse::<KernelName>() {
                prop_assert_eq!(name.to_string(), text.clone());
                prop_assert!(!text.contains('/'));
            }
        }
    }
}
