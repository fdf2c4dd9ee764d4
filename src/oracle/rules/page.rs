// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page docs/rules.md.

use std::fmt::Write;

use super::{Flag, Rule, Rules};

const HEAD: &str = "\
<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->
<!-- Made from src/oracle/rules.toml: UPDATE=1 cargo test --lib oracle:: -->

# What is found in a console

The rules, in the order in which they are tried: the first one that a line fits decides. Lines of tasks and CPUs are
told apart first (CONFIG_PRINTK_CALLER); a report goes from its headline to the end of its trace. A panic that only
follows from what the same caller reported within five seconds is a part of that report, which is then fatal. Every rule
has a console in [tests/fixtures/consoles](../tests/fixtures/consoles) whose name begins with the rule's.

";

const TAIL: &str = "\
## Notes

- fatal: the task or the machine is dead. halts: the machine.
- once a boot: the kernel prints it only once, later rounds of the same guest are blind to it.
- lockdep off: from this line on lockdep checks nothing, and its silence means nothing.
- no finding: remembered, and the verdict or its evidence mentions it.
- ends with a mark: without the mark (`---[ end trace`, a line of `=`) the report was cut.
";

/// The page docs/rules.md, made from the rule table.
pub fn rules_page() -> String {
    let mut page = HEAD.to_owned();
    for rule in Rules::built_in().all() {
        // Writing to a String cannot fail.
        let _ = section(&mut page, rule);
    }
    page.push_str(TAIL);
    page
}

fn section(page: &mut String, rule: &Rule) -> std::fmt::Result {
    let class = serde_json::to_value(rule.class).unwrap_or_default();
    let class = match [Flag::Blind, Flag::Gap, Flag::Sees]
        .iter()
        .any(|f| rule.is(*f))
    {
        true => "no finding",
        false => class.as_str().unwrap_or_default(),
    };
    writeln!(page, "## {}\n\n{class}. {}\n", rule.id, rule.what)?;
    writeln!(page, "- line: `{}`", rule.line)?;
    if let Some(inside) = &rule.inside {
        writeln!(page, "- innermost function: `{inside}`")?;
    }
    writeln!(page, "- example: `{}`", rule.example)?;
    writeln!(page, "- source: {}", rule.source)?;
    let notes: Vec<&str> = rule.flags.iter().filter_map(|flag| note(*flag)).collect();
    if !notes.is_empty() {
        writeln!(page, "- {}", notes.join(", "))?;
    }
    writeln!(page)
}

fn note(flag: Flag) -> Option<&'static str> {
    match flag {
        Flag::Fatal => Some("fatal"),
        Flag::Halts => Some("halts"),
        Flag::Once => Some("once a boot"),
        Flag::Splat | Flag::Stops | Flag::Blind => Some("lockdep off"),
        Flag::Single => Some("one line"),
        Flag::Marked => Some("ends with a mark"),
        Flag::Message => Some("a WARNING, BUG or Oops goes with it"),
        Flag::Joins => Some("goes with a message"),
        Flag::Follows => Some("part of the report of that caller just before it, if there is one"),
        Flag::Already | Flag::Sees | Flag::Gap | Flag::Boot | Flag::Orphan => None,
    }
}
