// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The examples of docs/ci.md: they are YAML, and what they call is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;

use yaml_rust2::{Yaml, YamlLoader};

/// The code block below a headline, without its indentation.
fn example(headline: &str) -> Yaml {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n## {headline}\n")).unwrap();
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let code: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    let mut all = YamlLoader::load_from_str(&code.join("\n")).unwrap();
    assert_eq!(all.len(), 1, "{headline}");
    all.remove(0)
}

fn text(value: &Yaml) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?}"))
}

/// Commands of vfrace's in a script, however it is called there.
fn commands(script: &str) -> Vec<&str> {
    script
        .lines()
        .filter_map(|line| line.split_once("vfrace ").map(|(_, words)| words))
        .collect()
}

fn understood(words: &str) {
    let words = words.replace('*', "x");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vfrace"));
    // Options are looked at before --help is obeyed.
    let output = command
        .args(shlex::split(&words).unwrap())
        .arg("--help")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {said}");
}

#[test]
fn the_github_example_keeps_its_cache_and_its_results() {
    let workflow = example("GitHub Actions");
    let job = &workflow["jobs"]["race"];
    let cache = text(&job["env"]["VFRACE_CACHE"]);
    let steps = job["steps"].as_vec().unwrap();
    let cached = steps.iter().find(|step| {
        step["uses"]
            .as_str()
            .is_some_and(|u| u.starts_with("actions/cache@"))
    });
    assert_eq!(text(&cached.unwrap()["with"]["path"]), cache);
    let runs: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["run"].as_str())
        .collect();
    assert!(
        runs.contains(&"make run ARGS='--out results/ci'"),
        "{runs:?}"
    );
    let called: Vec<&str> = runs.iter().flat_map(|run| commands(run)).collect();
    assert_eq!(called.len(), 2, "{called:?}");
    for words in called {
        understood(words);
    }
}

#[test]
fn the_gitlab_example_puts_its_parts_together() {
    let pipeline = example("GitLab");
    let stages: Vec<&str> = pipeline["stages"]
        .as_vec()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    for job in ["race", "report"] {
        assert!(stages.contains(&text(&pipeline[job]["stage"])), "{job}");
        for line in pipeline[job]["script"].as_vec().unwrap() {
            let called = commands(text(line));
            assert_eq!(called.len(), 1, "{line:?}");
            understood(&called[0].replace("$CI_NODE_INDEX/$CI_NODE_TOTAL", "1/4"));
        }
    }
}
