// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rule table: what the kernel prints when something is wrong. The data is rules.toml beside this file.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use serde::Deserialize;

use crate::event::Class;

/// One kind of headline.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Unique name.
    pub id: String,
    /// Class of what is found.
    pub class: Class,
    /// Expression for the headline.
    pub line: String,
    /// Expression for the innermost function of the complete report.
    pub inside: Option<String>,
    /// Peculiarities.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// A line that it matches, for the test.
    #[cfg_attr(not(test), allow(dead_code))]
    pub example: String,
}

/// Peculiarity of a rule; rules.toml says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Flag {
    Fatal,
    Once,
    Blind,
    Gap,
    Single,
    Joins,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    plumbing: String,
    wrapper: String,
    rule: Vec<Rule>,
}

/// The table, compiled.
pub(super) struct Rules {
    rules: Vec<Rule>,
    lines: RegexSet,
    inside: Vec<Option<Regex>>,
    plumbing: Regex,
    wrapper: Regex,
}

impl Rule {
    pub(super) fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

impl Rules {
    /// The table that comes with the program.
    pub(super) fn built_in() -> &'static Rules {
        static RULES: LazyLock<Rules> =
            LazyLock::new(|| match Rules::compile(include_str!("rules.toml")) {
                Ok(rules) => rules,
                // The table is part of the program and a unit test compiles it.
                Err(e) => unreachable!("rules.toml: {e}"),
            });
        &RULES
    }

    fn compile(text: &str) -> Result<Rules, Box<dyn std::error::Error>> {
        let file: File = toml::from_str(text)?;
        let inside = file
            .rule
            .iter()
            .map(|r| r.inside.as_deref().map(Regex::new).transpose());
        Ok(Rules {
            lines: RegexSet::new(file.rule.iter().map(|r| &r.line))?,
            inside: inside.collect::<Result<_, _>>()?,
            plumbing: Regex::new(&file.plumbing)?,
            wrapper: Regex::new(&file.wrapper)?,
            rules: file.rule,
        })
    }

    /// The first rule that a line is the headline of; rules with `inside` only if `innermost` is known.
    pub(super) fn headline(&self, line: &str, innermost: Option<&str>) -> Option<&Rule> {
        self.lines.matches(line).into_iter().find_map(|n| {
            let rule = self.rules.get(n)?;
            let fits = match self.inside.get(n)? {
                None => true,
                Some(inside) => innermost.is_some_and(|f| inside.is_match(f)),
            };
            fits.then_some(rule)
        })
    }

    /// A function that every report of its kind goes through, which tells nothing.
    pub(super) fn is_plumbing(&self, function: &str) -> bool {
        self.plumbing.is_match(function) || self.is_wrapper(function)
    }

    /// A function that the guest's module puts around a call point: it was not called by anybody's will but ours.
    pub(super) fn is_wrapper(&self, function: &str) -> bool {
        self.wrapper.is_match(function)
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> &[Rule] {
        &self.rules
    }
}
