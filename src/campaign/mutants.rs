// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mutants in a matrix: which scenarios each of them is run in, and the page docs/mutants.md.

use std::fmt::Write;

use crate::event::Verdict;
use crate::kernel::{KernelName, Manifest, Mutant, Variant};
use crate::oracle::Expectations;

/// Where scenarios are listed, stands for those that each mutant names as reaching its mistake.
pub const REACH: &str = "reach";

/// The scenarios that are run if none are listed.
pub const USUAL: [&str; 3] = ["unbind-vs-vf-unplug", "unbind-alone", "pf-remove-with-vfs"];

/// Which scenarios to run on which kernels, as pairs of scenario and place in `kernels`. `scenarios` as listed by the
/// user: every one of them on every kernel, and for [`REACH`] those that each mutant names. An empty list is [`REACH`]
/// if all kernels are mutants, otherwise [`USUAL`]. The error is the first kernel for which [`REACH`] means nothing.
pub fn pairs(
    manifest: &Manifest,
    kernels: &[KernelName],
    scenarios: &[String],
) -> Result<Vec<(String, usize)>, KernelName> {
    let mutant = |kernel: &KernelName| -> Option<&Mutant> {
        manifest.find(kernel.variant()).ok()?.mutant.as_ref()
    };
    let all_mutants = kernels.iter().all(|kernel| mutant(kernel).is_some());
    let usual: Vec<String> = match all_mutants {
        true => vec![REACH.to_owned()],
        false => USUAL.map(str::to_owned).to_vec(),
    };
    let mut pairs = Vec::new();
    for scenario in if scenarios.is_empty() {
        &usual
    } else {
        scenarios
    } {
        for (at, kernel) in kernels.iter().enumerate() {
            let meant = match scenario.as_str() {
                REACH => mutant(kernel).ok_or_else(|| kernel.clone())?.reach.clone(),
                name => vec![name.to_owned()],
            };
            for name in meant {
                if !pairs.contains(&(name.clone(), at)) {
                    pairs.push((name, at));
                }
            }
        }
    }
    Ok(pairs)
}

const HEAD: &str = "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->
<!-- Made by src/campaign/mutants.rs: UPDATE=1 cargo test --lib mutants -->

# Mutants

Kernels that are broken on purpose (guest-tests/variants/mutants), one small mistake each on top of a variant or of the
unfixed kernel. The oracle has to convict every one of them, and for the right reason: the verdict alone does not count,
there has to be a finding of the class and with the words that are given here (guest-tests/expect/expect.toml).

    vfrace matrix --kernels mutants                      # every mutant in the scenarios that reach its mistake
    vfrace matrix --kernels m-plain-lock --scenarios reach,unbind-alone
    vfrace kernel build mutants

`--scenarios reach` stands for the scenarios in this table, and is what is run if all kernels are mutants. All are
for Linux 7.2. \"Seen\" is what runs have printed, shortened; a row without it was not run.

| mutant | built on | scenario | must give | seen |
|---|---|---|---|---|
";

/// The page docs/mutants.md, made of the manifest and of what is expected.
pub fn page(manifest: &Manifest, expected: &Expectations) -> String {
    let mut page = HEAD.to_owned();
    for (variant, mutant) in manifest.mutants() {
        for scenario in &mutant.reach {
            let must = expected
                .expectation(scenario, &variant.name)
                .map_or_else(|| "not stated".to_owned(), |e| cell(&e.to_string()));
            let mut seen: Vec<String> = mutant
                .seen
                .iter()
                .filter(|seen| seen.scenario == *scenario)
                .map(|seen| format!("{}: {}", seen.date, cell(&seen.said)))
                .collect();
            if seen.is_empty() {
                seen.push("-".to_owned());
            }
            // Writing to a String does not fail.
            let _ = writeln!(
                page,
                "| {} | {} | {scenario} | {must} | {} |",
                variant.name,
                mutant.on,
                seen.join("<br>")
            );
        }
    }
    page += "\n## What is wrong, and why it must show\n";
    for (variant, mutant) in manifest.mutants() {
        let _ = write!(
            page,
            "\n**{}** ({}): {}\n\n",
            variant.name, mutant.on, variant.mechanism
        );
        for scenario in &mutant.reach {
            let why = expected.reason(scenario, &variant.name).unwrap_or("-");
            let _ = writeln!(page, "- {scenario}: {why}");
        }
        controls(&mut page, variant, mutant, expected);
    }
    page
}

/// Scenarios in which a mutant has to pass: they do not reach the mistake.
fn controls(page: &mut String, variant: &Variant, mutant: &Mutant, expected: &Expectations) {
    let passes = |scenario: &&str| {
        let verdict = expected.expectation(scenario, &variant.name);
        !mutant.reach.iter().any(|reach| reach == scenario)
            && verdict.is_some_and(|e| e.verdict == Verdict::Pass)
    };
    let names: Vec<&str> = expected
        .scenarios(&variant.name)
        .into_iter()
        .filter(passes)
        .collect();
    if !names.is_empty() {
        let _ = writeln!(
            page,
            "- passes, since nothing reaches it: {}",
            names.join(", ")
        );
    }
}

/// Text in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::event::Class;
    use crate::scenario;

    fn tree() -> (Manifest, Expectations) {
        let data = Path::new(env!("CARGO_MANIFEST_DIR"));
        (
            Manifest::load(data).unwrap(),
            Expectations::load(&data.join("guest-tests/expect/expect.toml")).unwrap(),
        )
    }

    fn names(names: &[&str]) -> Vec<KernelName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn chosen(kernels: &[&str], scenarios: &[&str]) -> Result<Vec<(String, usize)>, KernelName> {
        let scenarios: Vec<String> = scenarios.iter().map(|s| (*s).to_owned()).collect();
        pairs(&tree().0, &names(kernels), &scenarios)
    }

    #[test]
    fn a_mutant_is_run_where_it_is_reached() {
        let reach = chosen(&["m-plain-lock"], &[]).unwrap();
        assert_eq!(reach, chosen(&["m-plain-lock"], &["reach"]).unwrap());
        assert!(reach.contains(&("numvfs-zero-alone".to_owned(), 0)));
        // One of them is none: the usual scenarios on both.
        let mixed = chosen(&["m-plain-lock", "base"], &[]).unwrap();
        assert_eq!(mixed.len(), 6);
        assert_eq!(
            chosen(&["m-plain-lock", "base"], &["reach"]),
            Err("base".parse().unwrap())
        );
        let both = chosen(&["m-trylock", "m-plain-lock"], &["unbind-alone", "reach"]).unwrap();
        assert_eq!(both.first(), Some(&("unbind-alone".to_owned(), 0)));
        assert_eq!(both.get(1), Some(&("unbind-alone".to_owned(), 1)));
        assert_eq!(
            both.iter()
                .filter(|(name, _)| name == "unbind-alone")
                .count(),
            2
        );
        assert_eq!(chosen(&[], &[]), Ok(Vec::new()));
    }

    #[test]
    fn every_mutant_must_be_convicted_for_a_certain_reason() {
        let (manifest, expected) = tree();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
        for (variant, mutant) in manifest.mutants() {
            for name in &mutant.reach {
                scenario::load(name, &dir, &[]).unwrap();
                let Some(e) = expected.expectation(name, &variant.name) else {
                    panic!("nothing is expected of {name} on {}", variant.name)
                };
                let at = format!("{name} on {}: {e}", variant.name);
                assert!(e.class.is_some() && e.title.is_some(), "{at}");
                let fits = match e.verdict {
                    Verdict::DoubleRemoval => e.class == Some(Class::DoubleRemoval),
                    Verdict::Deadlock | Verdict::Finding => true,
                    _ => false,
                };
                assert!(fits, "{at}");
            }
        }
    }

    #[test]
    fn the_page_is_what_the_data_say() {
        let (manifest, expected) = tree();
        let page = page(&manifest, &expected);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mutants.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap();
        assert!(
            there == page,
            "make it again: UPDATE=1 cargo test --lib mutants"
        );
    }
}
