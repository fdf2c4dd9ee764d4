// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::process::Command;

use super::super::git;
use super::*;
use crate::exit::ExitCode;

/// A small tree that looks like a kernel's, with one commit.
fn tree(dir: &Path) -> String {
    let write = |file: &str, text: &str| {
        files::write_whole(&dir.join(file), text.as_bytes()).unwrap();
    };
    write("Makefile", "VERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 0\n");
    write("drivers/pci/iov.c", "one\ntwo\nthree\n");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git::clean(&mut git);
        git.args(["-c", "user.name=T", "-c", "user.email=t@example.org"]);
        let out = git.args(args).current_dir(dir).output().unwrap();
        assert!(out.status.success(), "{args:?} {out:?}");
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "x"]);
    git(&["rev-parse", "HEAD"])
}

fn kernels(top: &Path) -> Kernels {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Kernels::new(top.join("cache"), data, EventSink::new().0)
}

fn request(from: &Path) -> PatchRequest {
    PatchRequest {
        from: from.to_str().unwrap().to_owned(),
        each: false,
        on: None,
    }
}

/// What kernels in every cache are found by: it must not change for x86_64, whatever other architectures need.
#[test]
fn an_x86_64_kernel_is_found_under_the_identity_that_it_always_had() {
    let source = r#"{"version":"7.2","package_version":"7.2.12-1~bpo13+1","sha256":"73ca"}"#;
    let ground = Ground::Debian {
        source: serde_json::from_str(source).unwrap(),
        layers: Vec::new(),
    };
    let config = Config::fixed("CONFIG_A=y\nCONFIG_B=n\n");
    let of = |arch| identity(arch, &ground, &config, "gcc 12; ld 2.40");
    assert_eq!(of(Arch::X86_64), "bedc896c90c04407214b");
    assert_ne!(of(Arch::S390x), of(Arch::X86_64));
    assert_eq!(
        target(Arch::X86_64).fragments,
        ["common", "x86_64", "kasan", "lockdep"]
    );
    assert_eq!(target(Arch::X86_64).image, "arch/x86/boot/bzImage");
}

fn names(kernels: &Kernels, listed: &[&str]) -> Vec<String> {
    let listed: Vec<KernelName> = listed.iter().map(|name| name.parse().unwrap()).collect();
    let names = kernels.names(&listed).unwrap();
    names.iter().map(KernelName::to_string).collect()
}

/// Two patches as a mailbox; the second one does not fit.
fn series(dir: &Path) -> PathBuf {
    let mail = |n: u32, from: &str, to: &str| {
        format!(
            "From 0 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nSubject: [PATCH {n}/2] PCI: number {n}\n\n---\n\
             --- a/drivers/pci/iov.c\n+++ b/drivers/pci/iov.c\n@@ -1,3 +1,3 @@\n one\n-{from}\n+{to}\n three\n"
        )
    };
    let path = dir.join("fix.mbox");
    std::fs::write(&path, mail(1, "two", "2") + &mail(2, "zwei", "3")).unwrap();
    path
}

#[test]
fn kernels_go_onto_the_tree() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("linux");
    let head = tree(&dir);
    let commits = |commits: &[&str]| TreeRequest {
        dir: dir.clone(),
        commits: commits.iter().map(|c| (*c).to_owned()).collect(),
    };
    let plain = kernels(top.path());
    assert_eq!(names(&plain, &["base", "v8", "v7"]), ["base", "v7"]);
    let on = plain.with_tree(&commits(&[])).unwrap();
    let tag = format!("g{}", &head[..12]);
    assert_eq!(
        names(&on, &["base", "v7+rt", "v7@7.3", "base", "m-plain-lock"]),
        [
            format!("tree@{tag}"),
            format!("v7+rt@{tag}"),
            "v7@7.3".to_owned(),
            format!("m-plain-lock@{tag}")
        ]
    );
    assert!(on.manifest().unwrap().find("tree").is_ok());
    // Every state that was asked for.
    std::fs::write(dir.join("drivers/pci/iov.c"), "changed\n").unwrap();
    let on = kernels(top.path())
        .with_tree(&commits(&["HEAD", "HEAD"]))
        .unwrap();
    assert_eq!(names(&on, &["base"]), [format!("tree@{tag}")]);
    let dirty = kernels(top.path()).with_tree(&commits(&[])).unwrap();
    assert!(names(&dirty, &["base"])[0].starts_with("tree@t"));
    // One that was not.
    let error = dirty
        .build(&format!("tree@{tag}").parse().unwrap())
        .unwrap_err();
    assert!(matches!(error, KernelError::NoTree { .. }), "{error}");
    let error = kernels(top.path())
        .build(&"v7@g0123456".parse().unwrap())
        .unwrap_err();
    assert_eq!(error.exit(), ExitCode::Usage);
}

#[test]
fn patches_become_kernels() {
    let top = tempfile::tempdir().unwrap();
    let fix = series(top.path());
    let whole = kernels(top.path()).with_patches(&[request(&fix)]).unwrap();
    let listed: Vec<String> = whole.patched().iter().map(KernelName::to_string).collect();
    assert_eq!(listed, ["fix"]);
    assert_eq!(names(&whole, &["fix@7.3", "base"]), ["fix@7.3", "base"]);
    let each = PatchRequest {
        each: true,
        on: Some("v7".to_owned()),
        ..request(&fix)
    };
    let each = kernels(top.path()).with_patches(&[each]).unwrap();
    let read: Vec<Series> = each.series().cloned().collect();
    let prefixes: Vec<String> = each
        .prefixes(&read[0])
        .iter()
        .map(KernelName::to_string)
        .collect();
    assert_eq!(prefixes, ["v7", "fix.1", "fix.2"]);
    assert_eq!(read[0].patches[1].subject, "PCI: number 2");
    assert!(whole.prefixes(&read[0]).is_empty());
    let manifest = each.manifest().unwrap();
    let first = manifest.find("fix.1").unwrap();
    assert!(
        first.mechanism.starts_with("1 of 2 patches of "),
        "{}",
        first.mechanism
    );
    let layers = each
        .layers(&manifest, manifest.find("fix.2").unwrap())
        .unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[0].label, "v7.patch");
    assert!(
        layers[2]
            .label
            .ends_with("fix.mbox, patch 2/2 (PCI: number 2) on v7")
    );
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";
    let file = |name: &str| {
        let path = top.path().join(name);
        files::write_whole(&path, diff.as_bytes()).unwrap();
        request(&path)
    };
    for names in [
        vec!["v7.patch"],
        vec!["all.diff"],
        vec!["tree.patch"],
        vec!["mutants"],
        vec!["a/f.patch", "b/f.diff"],
    ] {
        let requests: Vec<PatchRequest> = names.iter().map(|name| file(name)).collect();
        let error = kernels(top.path()).with_patches(&requests).unwrap_err();
        assert!(
            matches!(error, KernelError::NameTaken { .. }),
            "{names:?}: {error}"
        );
        assert_eq!(error.exit(), ExitCode::Usage);
    }
    let on = PatchRequest {
        on: Some("v99".to_owned()),
        ..file("g.patch")
    };
    let error = kernels(top.path()).with_patches(&[on]).unwrap_err();
    assert!(
        matches!(error, KernelError::UnknownVariant { .. }),
        "{error}"
    );
}

#[test]
fn a_patch_of_a_series_that_does_not_fit_is_named_with_its_hunk() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("linux");
    tree(&dir);
    let on = kernels(top.path())
        .with_tree(&TreeRequest {
            dir,
            commits: Vec::new(),
        })
        .and_then(|kernels| kernels.with_patches(&[request(&series(top.path()))]))
        .unwrap();
    let name = on.names(&on.patched()).unwrap();
    let error = on.build(&name[0]).unwrap_err();
    assert_eq!(error.exit(), ExitCode::CannotTell);
    let text = error.to_string();
    for words in [
        "fix.mbox, patch 2/2 (PCI: number 2) does not apply to ",
        "linux at g",
        "patch failed: drivers/pci/iov.c:1",
        "-zwei",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
