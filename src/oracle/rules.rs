// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rule table: what the kernel prints when something is wrong. The data is rules.toml beside this file and
//! the files in rules/, and docs/rules.md is made from them.

mod page;

use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use regex::Regex;
use regex::bytes::{Regex as ByteRegex, RegexBuilder};
use serde::Deserialize;

use crate::event::Class;

pub use page::rules_page;

/// rules.toml and the files of rules, in the order in which they are tried.
const TABLE: &str = concat!(
    include_str!("rules.toml"),
    include_str!("rules/removal.toml"),
    include_str!("rules/memory.toml"),
    include_str!("rules/locks.toml"),
    include_str!("rules/hangs.toml"),
    include_str!("rules/death.toml"),
    include_str!("rules/other.toml"),
);
/// Longer lines are not searched as a whole, only around the first word of a rule. The kernel's have at most 2048 bytes
/// (kernel/printk/internal.h, PRINTK_MESSAGE_MAX).
pub(super) const LONG_LINE: usize = 4096;
/// So much in front of that word.
const AROUND: usize = 256;

/// One kind of headline.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// Unique name.
    pub id: String,
    /// Class of what is found.
    pub class: Class,
    /// One of these is in every line that `line` matches.
    pub words: Vec<String>,
    /// Expression for the headline.
    pub line: String,
    /// Expression for the innermost function of the complete report.
    pub inside: Option<String>,
    /// Peculiarities.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// What the kernel says and when.
    pub what: String,
    /// Where in the kernel that is printed.
    pub source: String,
    /// A line that it matches, for the test and the page.
    pub example: String,
}

/// Peculiarity of a rule; rules.toml says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Flag {
    Fatal,
    Halts,
    Once,
    Splat,
    Stops,
    Blind,
    Already,
    Sees,
    Gap,
    Boot,
    Single,
    Marked,
    Message,
    Joins,
    Follows,
    Orphan,
}

type LazyLine = OnceLock<Option<ByteRegex>>;

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
    /// Every word of every rule, and which rule each is of.
    words: AhoCorasick,
    of: Vec<usize>,
    /// Compiled when first needed, since most consoles need few.
    lines: Vec<LazyLine>,
    inside: Vec<Option<Regex>>,
    plumbing: Regex,
    wrapper: Regex,
}

/// A rule that a line is the headline of.
#[derive(Clone, Copy)]
pub(super) struct Headline<'a> {
    /// Its place in the table.
    pub number: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// In a line that is too long to be the kernel's: where the part begins that it was found in. Otherwise 0.
    pub from: usize,
}

impl Rule {
    pub(super) fn is(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

impl Rules {
    /// The table that comes with the program.
    pub(super) fn built_in() -> &'static Rules {
        static RULES: LazyLock<Rules> = LazyLock::new(|| match Rules::compile(TABLE) {
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
        let words = file.rule.iter().enumerate();
        let words = words.flat_map(|(n, rule)| rule.words.iter().map(move |word| (n, word)));
        let (of, words): (Vec<usize>, Vec<&String>) = words.unzip();
        Ok(Rules {
            words: AhoCorasick::builder()
                .kind(Some(AhoCorasickKind::DFA))
                .build(words)?,
            of,
            lines: file.rule.iter().map(|_| LazyLine::new()).collect(),
            inside: inside.collect::<Result<_, _>>()?,
            plumbing: Regex::new(&file.plumbing)?,
            wrapper: Regex::new(&file.wrapper)?,
            rules: file.rule,
        })
    }

    /// The first rule that a line is the headline of; rules with `inside` only if `innermost` is known.
    pub(super) fn headline(&self, line: &[u8], innermost: Option<&str>) -> Option<Headline<'_>> {
        // Nearly every line has none of the words.
        let first = self.words.find(line)?;
        let from = match line.len() > LONG_LINE {
            true => first.start().saturating_sub(AROUND),
            false => 0,
        };
        let line = line.get(from..line.len().min(from + LONG_LINE))?;
        let mut rules: Vec<usize> = self
            .words
            .find_overlapping_iter(line)
            .filter_map(|found| self.of.get(found.pattern().as_usize()).copied())
            .collect();
        rules.sort_unstable();
        rules.dedup();
        rules.into_iter().find_map(|number| {
            let fits = match self.inside.get(number)? {
                None => true,
                Some(inside) => innermost.is_some_and(|f| inside.is_match(f)),
            };
            let rule = self.rules.get(number)?;
            (fits && self.line(number)?.is_match(line)).then_some(Headline { number, rule, from })
        })
    }

    /// The expression of a rule. A unit test compiles all of them.
    pub(super) fn line(&self, number: usize) -> Option<&ByteRegex> {
        let rule = self.rules.get(number)?;
        let line = self.lines.get(number)?.get_or_init(|| {
            let line = RegexBuilder::new(&rule.line).unicode(false).build();
            line.map_err(|e| log::error!("rule {}: {e}", rule.id)).ok()
        });
        line.as_ref()
    }

    /// The rule with this number.
    pub(super) fn get(&self, number: usize) -> Option<&Rule> {
        self.rules.get(number)
    }

    /// A function that every report of its kind goes through, which tells nothing.
    pub(super) fn is_plumbing(&self, function: &str) -> bool {
        self.plumbing.is_match(function) || self.is_wrapper(function)
    }

    /// A function that the guest's module puts around a call point: it was not called by anybody's will but ours.
    pub(super) fn is_wrapper(&self, function: &str) -> bool {
        self.wrapper.is_match(function)
    }

    /// All rules, in the order in which they are tried.
    pub(super) fn all(&self) -> &[Rule] {
        &self.rules
    }
}
