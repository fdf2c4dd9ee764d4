// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command lines that pages show are command lines of this program.

use std::path::{Path, PathBuf};

use super::command;

/// The lines of a page that are a command line of vfrace's: those of its code blocks that begin with it, with a prompt or
/// without. Patterns, which stand for several, are left out: those with brackets or `...`.
fn command_lines(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fenced = false;
    let mut begun: Option<String> = None;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let code = match (fenced, line.strip_prefix("    ")) {
            (true, _) => line,
            (false, Some(code)) => code,
            (false, None) => continue,
        };
        let code = code.trim();
        let text = match begun.take() {
            Some(begin) => format!("{begin} {code}"),
            None => code.strip_prefix("$ ").unwrap_or(code).to_owned(),
        };
        if let Some(more) = text.strip_suffix('\\') {
            begun = Some(more.trim_end().to_owned());
            continue;
        }
        let is_pattern = text.contains("...") || text.contains(" [") || text.contains("--- ");
        if text.starts_with("vfrace ") && !is_pattern {
            lines.push(text);
        }
    }
    lines
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

/// Why `line` is no command line; `None` if it is one.
fn mistake(line: &str) -> Option<String> {
    // What a shell would take: up to a pipe, a redirection, the next command; a sum is a number.
    let sum = regex::Regex::new(r"\$\(\(.*?\)\)").unwrap();
    let line = sum.replace_all(line, "1").replace("; ", " ; ");
    let words = shlex::split(&line)?;
    let ends = |word: &String| {
        ["|", "||", "&&", ";", "&"].contains(&word.as_str())
            || word.starts_with('>')
            || word.starts_with("2>")
    };
    let mut mine: Vec<String> = words.into_iter().take_while(|word| !ends(word)).collect();
    // Which socket is meant may stand in the environment.
    if mine.get(1).is_some_and(|name| name == "ctl") && !mine.iter().any(|w| w == "--control") {
        mine.insert(2, "--control=socket".to_owned());
    }
    let error = command().try_get_matches_from(mine).err()?;
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => None,
        _ => Some(error.to_string()),
    }
}

/// The first scenario that `line` names and that is not there.
fn unknown_scenario(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let run = ["run", "explore"].contains(words.get(1)?);
    let named = match words.get(2) {
        Some(name) if run && !name.starts_with('-') => Some(*name),
        _ => None,
    };
    let listed = words
        .iter()
        .position(|word| word.trim_end_matches('s') == "--scenario")
        .and_then(|at| words.get(at + 1));
    let all = named.into_iter().chain(listed.into_iter().copied());
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
    all.flat_map(|names| names.split(','))
        .filter(|name| !["SCENARIO", "all", "reach"].contains(name) && !name.contains('/'))
        .find(|name| !dir.join(format!("{name}.toml")).exists())
        .map(str::to_owned)
}

#[test]
fn command_lines_of_the_pages_are_understood() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in command_lines(&text) {
            tried += 1;
            if let Some(name) = unknown_scenario(&line) {
                wrong.push(format!("{}: {line}: no scenario {name}", page.display()));
            }
            if let Some(why) = mistake(&line) {
                wrong.push(format!("{}: {line}: {why}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 50, "only {tried} were found");
}

#[test]
fn a_command_line_that_is_none_is_found() {
    let page = "text vfrace run\n\n    $ vfrace run unbind-alone \\\n        --rounds 2 # twice\n    vfrace run [SCENARIO]\n\
                ```\nvfrace kernel list | less\n```\n    other\n";
    assert_eq!(
        command_lines(page),
        [
            "vfrace run unbind-alone --rounds 2 # twice",
            "vfrace kernel list | less"
        ]
    );
    for line in command_lines(page) {
        assert_eq!(mistake(&line), None);
    }
    assert!(mistake("vfrace run unbind-alone --round 2").is_some());
    assert!(mistake("vfrace rnu").is_some());
    assert_eq!(unknown_scenario("vfrace run unbind-alone --vfs 2"), None);
    let line = "vfrace matrix --scenarios unbind-alone,unbind-alnoe";
    assert_eq!(unknown_scenario(line).as_deref(), Some("unbind-alnoe"));
    assert!(unknown_scenario("vfrace run unbind").is_some());
}
