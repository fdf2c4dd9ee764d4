// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mutants: kernels that are broken on purpose, which the oracle has to convict. Their manifest is
//! `guest-tests/variants/mutants/mutants.toml`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ManifestError;
use super::variant::{Place, Variant, toml};

/// What is known of a mutant beside its patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// The variant that it would be without the mistake.
    pub on: String,
    /// Scenarios that reach the mistake, at least one. What each has to find is in guest-tests/expect/expect.toml.
    pub reach: Vec<String>,
    /// What runs have shown.
    pub seen: Vec<Seen>,
}

/// What a scenario showed on a mutant, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The scenario.
    pub scenario: String,
    /// Verdict, class and title as they were printed.
    pub said: String,
    /// Day, ISO 8601.
    pub date: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "mutant")]
    mutants: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: ::toml::Spanned<String>,
    on: String,
    wrong: String,
    applies_to: Vec<String>,
    touches: Vec<PathBuf>,
    reach: Vec<String>,
    #[serde(default)]
    seen: Vec<Seen>,
}

/// The mutants of a manifest. The patch of each is in the file of its name beside it; `ordinary` are the variants that
/// they can be built on.
pub(super) fn parse(
    text: &str,
    path: &Path,
    ordinary: &[Variant],
) -> Result<Vec<Variant>, ManifestError> {
    let file: File = toml(text, path)?;
    let mut names: BTreeSet<String> = ordinary.iter().map(|v| v.name.clone()).collect();
    let mut mutants = Vec::new();
    for entry in file.mutants {
        let place = Place::of(path, text, entry.name, &mut names)?;
        if !ordinary.iter().any(|v| v.name == entry.on) {
            return Err(place.wrong(format!("there is no variant `{}` to build on", entry.on)));
        }
        if entry.reach.is_empty() {
            return Err(place.wrong("no scenario reaches it"));
        }
        if let Some(seen) = entry
            .seen
            .iter()
            .find(|s| !entry.reach.contains(&s.scenario))
        {
            let name = &seen.scenario;
            return Err(place.wrong(format!("seen in `{name}`, which is not in `reach`")));
        }
        let mut touches = entry.touches;
        let patch = place.patch(Some(&format!("{}.patch", place.name)), &mut touches)?;
        mutants.push(Variant {
            name: place.name,
            mechanism: entry.wrong,
            applies_to: entry.applies_to,
            touches,
            patch,
            mutant: Some(Mutant {
                on: entry.on,
                reach: entry.reach,
                seen: entry.seen,
            }),
            ..Variant::default()
        });
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::super::Manifest;
    use super::*;

    const ENTRY: &str = "[[mutant]]\nname = \"m-a\"\non = \"base\"\nwrong = \"w\"\napplies_to = []\ntouches = [\"x.c\"]\nreach = [\"s\"]\n";

    fn read(text: &str) -> Result<Vec<Variant>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("m-a.patch"),
            "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n",
        )
        .unwrap();
        let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let ordinary: Vec<Variant> = manifest.ordinary().cloned().collect();
        parse(text, &dir.path().join("mutants.toml"), &ordinary).map_err(|e| e.to_string())
    }

    #[test]
    fn an_entry_is_a_variant_with_the_patch_of_its_name() {
        let seen = "[[mutant.seen]]\nscenario = \"s\"\nsaid = \"FINDING\"\ndate = \"2026-01-01\"\n";
        let mutants = read(&format!("{ENTRY}{seen}")).unwrap();
        let [one] = mutants.as_slice() else {
            panic!("{mutants:?}")
        };
        assert_eq!(one.patch.as_ref().unwrap().files, [PathBuf::from("x.c")]);
        let mutant = one.mutant.as_ref().unwrap();
        assert_eq!(
            (mutant.on.as_str(), mutant.seen[0].said.as_str()),
            ("base", "FINDING")
        );
    }

    #[test]
    fn errors_name_the_entry() {
        for (text, what) in [
            (ENTRY.replace("base", "v99"), "no variant `v99`"),
            (ENTRY.replace("[\"s\"]", "[]"), "no scenario reaches it"),
            (ENTRY.replace("m-a", "base"), "there twice"),
            (ENTRY.replace("x.c", "y.c"), "`touches` differs"),
            (
                format!(
                    "{ENTRY}[[mutant.seen]]\nscenario = \"t\"\nsaid = \"PASS\"\ndate = \"d\"\n"
                ),
                "seen in `t`",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains("mutants.toml:2: variant"), "{error}");
            assert!(error.contains(what), "{error}");
        }
        assert!(
            read(&ENTRY.replace("m-a", "m-b"))
                .unwrap_err()
                .starts_with("cannot read")
        );
    }

    #[test]
    fn every_patch_in_the_tree_is_a_mutant_and_says_what_it_breaks() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = Manifest::load(dir).unwrap();
        let mut patches = 0;
        for entry in std::fs::read_dir(dir.join("guest-tests/variants/mutants")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "patch") {
                continue;
            }
            patches += 1;
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(manifest.find(name).is_ok(), "{name} is not in mutants.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let head = "SPDX-License-Identifier: GPL-2.0-only\n\nBroken on purpose. ";
            assert!(text.starts_with(head), "{name}");
        }
        assert_eq!(patches, manifest.mutants().count());
    }
}
