// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The manifests, and what a list of names stands for.

use super::*;
use crate::exit::ExitCode;

const ENTRY: &str = "[[variant]]\nname = \"a\"\ndate = \"d\"\nmechanism = \"m\"\nmessage_id = \"s\"\nbase = \"b\"\nchange = \"c\"\n";

fn error(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("p.patch"),
        "--- a/x/y.c\n+++ b/x/y.c\n@@ -1 +1 @@\n-a\n+b\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("bad.patch"), "--- a/../y\n+++ b/../y\n").unwrap();
    Manifest::parse(text, &dir.path().join("variants.toml"))
        .unwrap_err()
        .to_string()
}

#[test]
fn the_manifest_in_the_tree() {
    let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let names: Vec<_> = manifest.ordinary().map(|v| v.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "b0", "b1", "b2", "base", "b3", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9",
            "v10", "v11", "v12", "v13", "v14"
        ]
    );
    let v5 = manifest.find("v5").unwrap();
    assert!(v5.touches.contains(&PathBuf::from("include/linux/pci.h")));
    assert!(manifest.find("base").unwrap().patch.is_none());
    let unknown = manifest.find("v99").unwrap_err();
    assert_eq!(unknown.exit(), ExitCode::Usage);
    assert!(unknown.hint().unwrap().contains("b0, b1, b2, base, b3, v1"));
}

#[test]
fn mutants_stand_for_all_of_them() {
    let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let names = |text: &[&str]| -> Vec<KernelName> {
        text.iter().map(|name| name.parse().unwrap()).collect()
    };
    let all = manifest
        .expand(&names(&["v7", "mutants", "base", "v7"]))
        .unwrap();
    assert_eq!(all.len(), manifest.mutants().count() + 2);
    assert!(all.len() > 14);
    assert_eq!(all.first().map(KernelName::variant), Some("v7"));
    assert_eq!(all.last().map(KernelName::variant), Some("base"));
    let on = manifest.expand(&names(&["mutants@7.3"])).unwrap();
    assert!(on.iter().all(|name| name.source() == "7.3"), "{on:?}");
    assert!(manifest.expand(&names(&["m-x"])).is_err());
    assert!(manifest.find("mutants").is_err());
    assert!(manifest.find("m-plain-lock").unwrap().mutant.is_some());
}

#[test]
fn errors_name_file_and_line() {
    let text = error("[[variant]]\nname = \"a\"\ndaet = \"d\"\n");
    assert!(
        text.contains("variants.toml") && text.contains("line 3") && text.contains("daet"),
        "{text}"
    );
    let text = error(&format!("{ENTRY}\n{ENTRY}"));
    assert!(
        text.contains("variants.toml:10: variant `a`: the name is there twice"),
        "{text}"
    );
    let text = error(&format!("{ENTRY}patch = \"p.patch\"\n"));
    assert!(text.contains("touches") && text.contains("x/y.c"), "{text}");
    let text = error(&format!("{ENTRY}patch = \"bad.patch\"\n"));
    assert!(text.contains("leaves the source tree"), "{text}");
    let text = error(&format!("{ENTRY}patch = \"../p.patch\"\n"));
    assert!(text.contains("beside the manifest"), "{text}");
    let text = error(&format!("{ENTRY}patch = \"none.patch\"\n"));
    assert!(text.starts_with("cannot read"), "{text}");
    for name in ["a/b", "mutants", "all", "a..b"] {
        let text = error(&ENTRY.replace("\"a\"", &format!("\"{name}\"")));
        assert!(text.contains(":2:") && text.contains("a name is"), "{text}");
    }
}

#[test]
fn created_and_removed_files_count() {
    let diff = b"--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    assert_eq!(
        files_of(diff).unwrap(),
        [PathBuf::from("new"), PathBuf::from("old")]
    );
}

#[test]
fn a_range_an_alias_and_all() {
    let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let of = |text: &str| -> Result<Vec<String>, KernelError> {
        let names: Vec<KernelName> = text.split(',').map(|name| name.parse().unwrap()).collect();
        let kernels = manifest.expand(&names)?;
        Ok(kernels.iter().map(ToString::to_string).collect())
    };
    assert_eq!(of("v5..v8").unwrap(), ["v5", "v6", "v7"]);
    assert_eq!(
        of("base,b3@7.3,v3,v2,v8..v9+rt@7.3").unwrap(),
        ["base", "base@7.3", "v2", "v7+rt@7.3", "v9+rt@7.3"]
    );
    assert_eq!(of("all").unwrap().len(), 15);
    let error = of("v9..v5").unwrap_err();
    assert_eq!(error.exit(), ExitCode::Usage);
    assert!(error.hint().is_some());
    assert!(of("v9..v99").is_err());
}

#[test]
fn an_alias_is_the_other_variant_with_a_history_of_its_own() {
    let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (v7, v8) = (manifest.find("v7").unwrap(), manifest.find("v8").unwrap());
    assert_eq!((&v8.patch, &v8.unfit), (&v7.patch, &v7.unfit));
    let (old, new) = (v7.history.as_ref().unwrap(), v8.history.as_ref().unwrap());
    assert!(old.date < new.date && old.locks == new.locks);
    let text = error(&format!("{ENTRY}alias_of = \"z\"\n"));
    assert!(text.contains("mechanism of the other one"), "{text}");
    let alias = ENTRY.replace("mechanism = \"m\"", "alias_of = \"z\"");
    assert!(error(&alias).contains("no variant `z` before it"));
    let neither = ENTRY.replace("mechanism = \"m\"\n", "");
    assert!(error(&neither).contains("no `mechanism`"));
}

#[test]
fn every_variant_says_where_it_comes_from_and_what_it_does() {
    let manifest = Manifest::load(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    for variant in manifest.ordinary() {
        let history = variant.history.as_ref().unwrap();
        let date = history.date.as_bytes();
        assert!(date.len() == 10 && date[4] == b'-', "{}", variant.name);
        assert!(history.message_id.contains('@'), "{}", variant.name);
        assert!(
            !history.change.is_empty() && !history.locks.is_empty() && !history.base.is_empty(),
            "{}",
            variant.name
        );
        for source in ["7.2", "7.3", "6.12"] {
            let known = variant.applies_to.iter().any(|s| s == source);
            assert_ne!(
                known,
                variant.unfit.contains_key(source),
                "{} {source}",
                variant.name
            );
        }
    }
}

#[test]
fn variants_md_is_that_of_the_manifest() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = super::page::page(&Manifest::load(dir).unwrap());
    let path = dir.join("docs/variants.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == page,
        "make it again: UPDATE=1 cargo test --lib variants_md"
    );
}
