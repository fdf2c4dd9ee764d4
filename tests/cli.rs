// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line where it needs no guest: mistakes are told with their place, and with the documented exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output};

fn vfrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    command.args(arguments).env("NO_COLOR", "1");
    command
}

fn told(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}

/// Runs it with an empty cache: none of these may get as far as needing one.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let cache = tempfile::tempdir().unwrap();
    let output = vfrace(arguments)
        .env("VFRACE_CACHE", cache.path())
        .output()
        .unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    for word in words {
        assert!(
            told.contains(word),
            "{arguments:?}: `{word}` is not in: {told}"
        );
    }
    let left = std::fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(left, 0, "{arguments:?} began to fill the cache");
}

#[test]
fn numbers_out_of_range() {
    refused(
        &["run", "unbind-vs-vf-unplug", "--vfs", "0"],
        129,
        &["vfs", "1", "255"],
    );
    refused(
        &["run", "unbind-vs-vf-unplug", "--vfs", "300"],
        129,
        &["vfs", "300", "255"],
    );
    refused(
        &["run", "unbind-vs-vf-unplug", "--vfs", "-1"],
        129,
        &["vfs", "255"],
    );
    refused(
        &["run", "unbind-vs-vf-unplug", "--vfs", "2", "--vf", "3"],
        129,
        &["vf"],
    );
    refused(
        &["run", "unbind-vs-vf-unplug", "--vfs", "two"],
        129,
        &["two"],
    );
    refused(&["matrix", "--boots", "0"], 129, &["--boots"]);
    refused(&["matrix", "--vfs", "2", "--vf", "3"], 129, &["vf"]);
    // a parameter is handed to the scenarios that have it; one that none has is a mistake
    refused(
        &["matrix", "--scenarios", "unbind-alone", "--vf", "1"],
        129,
        &["`vf`"],
    );
}

#[test]
fn names_that_do_not_exist() {
    refused(
        &["run", "unbind-vs-vf-unplgu"],
        129,
        &["unbind-vs-vf-unplgu", "unbind-vs-vf-unplug"],
    );
    refused(
        &["run", "unbind-alone", "--kernel", "v99"],
        129,
        &["v99", "v7"],
    );
    refused(&["matrix", "--kernels", "base,,v7"], 129, &[]);
    // only a mutant says which scenarios reach it, and `mutants` is a name in a list only
    refused(
        &["matrix", "--kernels", "mutants,v7", "--scenarios", "reach"],
        129,
        &["`v7` names no scenarios", "--scenarios reach"],
    );
    refused(
        &["matrix", "--kernels", "m-none", "--scenarios", "reach"],
        129,
        &["m-none", "vfrace kernel list"],
    );
    refused(
        &["run", "unbind-alone", "--kernel", "mutants"],
        129,
        &["`mutants`", "vfrace kernel list"],
    );
    refused(&["walk"], 129, &["walk"]);
    refused(
        &["run", "unbind-alone", "--accel", "hvf"],
        129,
        &["hvf", "tcg"],
    );
}

#[test]
fn the_list_of_kernels_has_the_mutants_apart() {
    let cache = tempfile::tempdir().unwrap();
    let output = vfrace(&["kernel", "list"])
        .env("VFRACE_CACHE", cache.path())
        .output()
        .unwrap();
    let told = told(&output);
    let (ordinary, mutants) = told.split_once("mutants, broken on purpose").unwrap();
    assert!(ordinary.contains("  v14 ") && !ordinary.contains("m-plain-lock"));
    assert!(mutants.contains("m-plain-lock") && !mutants.contains("  v14 "));
}

#[test]
fn a_typo_in_a_scenario_has_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    let good = std::fs::read_to_string("guest-tests/scenarios/unbind-vs-vf-unplug.toml").unwrap();
    for (from, to, words) in [
        (
            "GET_VRING_BASE",
            "GET_VRING_BAES",
            ["line", "GET_VRING_BASE"],
        ),
        ("actuator = ", "actutor = ", ["line", "actutor"]),
        (
            "teardown = \"unbind\"",
            "teardown = \"unbnd\"",
            ["line", "unbnd"],
        ),
    ] {
        assert!(good.contains(from));
        std::fs::write(&file, good.replace(from, to)).unwrap();
        refused(&["run", file.to_str().unwrap()], 129, &words);
    }
}

#[test]
fn a_schedule_is_checked_before_anything_else() {
    for (text, words) in [
        (
            "vf2:wire:GET_VRING_BAES fire",
            ["column 10", "GET_VRING_BASE"],
        ),
        ("vf9:wire:GET_VRING_BASE fire", ["column 1", "vf1 to vf3"]),
        (
            "teardown first",
            ["no step starts the unplug", "teardown+0ms fire"],
        ),
        ("", ["the schedule is empty", "POINT"]),
        (
            "teardown/pf:call:x fire until other-rests <=60000ms",
            ["column 45", "30000 ms"],
        ),
    ] {
        refused(
            &["run", "unbind-vs-vf-unplug", "--schedule", text],
            129,
            &words,
        );
    }
    refused(
        &["run", "unbind-alone", "--schedule", "teardown+0ms fire"],
        129,
        &["nothing is unplugged", "leave `fire` away"],
    );
}

#[test]
fn run_without_a_scenario_lists_them() {
    refused(
        &["run"],
        129,
        &[
            "unbind-vs-vf-unplug",
            "the PF is unbound while the platform unplugs one of its VFs",
        ],
    );
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let cache = tempfile::tempdir().unwrap();
    let output = vfrace(&["run", "unbind-alone"])
        .env("VFRACE_CACHE", cache.path())
        .env("PATH", Path::new("/nonexistent"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(128), "{}", told(&output));
    assert!(told(&output).contains("missing"), "{}", told(&output));
}

#[test]
fn help_names_every_exit_code() {
    let output = vfrace(&["--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    for (code, meaning) in vfrace::exit::ExitCode::ALL {
        assert!(
            told(&output).contains(&format!("{:>3}  {meaning}", code.code())),
            "{}",
            told(&output)
        );
    }
}

#[test]
fn points_of_a_kernel_that_does_not_exist() {
    refused(&["points", "--kernel", "v99"], 129, &["v99", "v7"]);
    refused(&["points", "--kernel", "../v7"], 129, &["../v7"]);
    refused(&["points", "--all"], 129, &["--kernel"]);
    refused(&["points", "--format", "yaml"], 129, &["yaml", "json"]);
}

#[test]
fn points_without_a_kernel() {
    let cache = tempfile::tempdir().unwrap();
    let points = |more: &[&str]| {
        let output = vfrace(&[&["points"], more].concat())
            .env("VFRACE_CACHE", cache.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let all = points(&[]);
    for words in [
        "pci_iov_remove_virtfn                  pf+index",
        "drivers/pci/iov.c",
        "GET_VRING_BASE",
    ] {
        assert!(all.contains(words), "{words} is not in: {all}");
    }
    let some = points(&["--match", "PCIEHP_ist"]);
    assert!(
        some.contains("pciehp_ist") && !some.contains("device_del"),
        "{some}"
    );
    assert!(points(&["--match", "nothing_like_it"]).contains("nothing has that in its name"));
    let json: serde_json::Value =
        serde_json::from_str(&points(&["--match", "msleep", "--format", "json"])).unwrap();
    assert_eq!(json["functions"][0]["name"], "msleep");
    assert_eq!(json["functions"][0]["here"], serde_json::Value::Null);
    assert_eq!(json["functions"].as_array().unwrap().len(), 1);
}

#[test]
fn trees_and_patches_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |more: &[&str], code, words: &[&str]| {
        refused(
            &[&["run", "unbind-vs-vf-unplug"], more].concat(),
            code,
            words,
        );
    };
    run(
        &["--linux", "/nowhere"],
        129,
        &["/nowhere", "does not exist"],
    );
    run(
        &["--linux", &path("")],
        129,
        &["no Makefile", "top directory"],
    );
    run(&["--commit", "HEAD"], 129, &["--linux"]);
    run(
        &["--config", "/nowhere"],
        129,
        &["/nowhere", "cannot be read"],
    );
    run(&["--patch", "/nowhere"], 129, &["/nowhere", "no such file"]);
    run(&["--patch-on", "v7"], 129, &["--patch"]);
    std::fs::write(path("fix.patch"), "no diff\n").unwrap();
    run(&["--patch", &path("fix.patch")], 129, &["no diff in it"]);
    std::fs::write(
        path("a.patch"),
        "--- a/x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
    )
    .unwrap();
    run(
        &["--patch", &path("a.patch")],
        129,
        &["leaves the source tree"],
    );
    std::fs::write(path("v7.patch"), "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n").unwrap();
    run(&["--patch", &path("v7.patch")], 129, &["`v7`", "another"]);
    std::fs::rename(path("v7.patch"), path("x.patch")).unwrap();
    let twice = ["--kernel", "v7", "--patch", &path("x.patch")];
    run(&twice, 129, &["one kernel", "2: v7, x", "matrix"]);
    run(
        &["--patch", &path("x.patch"), "--patch-on", "v99"],
        129,
        &["v99"],
    );
}

#[test]
fn a_patch_from_standard_input() {
    use std::io::Write;
    let cache = tempfile::tempdir().unwrap();
    let mut child = vfrace(&["run", "unbind-vs-vf-unplug", "--patch", "-"])
        .env("VFRACE_CACHE", cache.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"nothing\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(129), "{told}");
    assert!(told.contains("the patch - cannot be used"), "{told}");
}

#[test]
fn without_git() {
    let (cache, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let patch = bin.path().join("x.patch");
    std::fs::write(&patch, "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n").unwrap();
    for more in [["--linux", "."], ["--patch", patch.to_str().unwrap()]] {
        let output = vfrace(&["run", "unbind-vs-vf-unplug"])
            .args(more)
            .env("VFRACE_CACHE", cache.path())
            .env("PATH", bin.path())
            .output()
            .unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(128), "{told}");
        assert!(
            told.contains("`git` is missing") && told.contains("apt-get install git"),
            "{told}"
        );
    }
}

/// Results that nobody reads any more are no fault of the kernel's, and no reason to lose the rest.
#[test]
fn a_reader_that_went_away() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let output = vfrace(&["kernel", "list"])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(told(&output), "");
}

#[test]
fn a_full_disk_for_what_is_printed() {
    let full = || {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).open("/dev/full").unwrap()
    };
    let output = vfrace(&["run"]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(129), "{output:?}");
    let output = vfrace(&["kernel", "list"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = told(&output);
    assert!(
        told.starts_with("error: cannot write to standard output: "),
        "{told}"
    );
}

#[test]
fn there_is_a_man_page_for_every_command_and_completions_know_them() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let output = vfrace(&["man", "--out", pages.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let bash = vfrace(&["completions", "bash"]).output().unwrap();
    let bash = told(&bash);
    let help = told(&vfrace(&["--help"]).output().unwrap());
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(
        commands.contains(&"run") && commands.len() > 15,
        "{commands:?}"
    );
    for name in commands {
        let page = std::fs::read_to_string(pages.join(format!("vfrace-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
        assert!(bash.contains(&format!("vfrace,{name})")), "{name}: {bash}");
    }
    let page = std::fs::read_to_string(pages.join("vfrace.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    let output = vfrace(&["man", "--out", "/dev/null/man"]).output().unwrap();
    let said = told(&output);
    assert_eq!(output.status.code(), Some(128), "{said}");
    assert!(said.contains("/dev/null/man"), "{said}");
}

/// As `make install` puts it: bin/vfrace, and share/vfrace with what it needs.
#[test]
fn an_installed_program_finds_its_data() {
    let prefix = tempfile::tempdir().unwrap();
    let (bin, share) = (
        prefix.path().join("bin/vfrace"),
        prefix.path().join("share/vfrace/guest-tests"),
    );
    for dir in [
        bin.parent().unwrap(),
        &share.join("variants"),
        &share.join("scenarios"),
    ] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_vfrace"), &bin).unwrap();
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios");
    std::fs::copy(
        scenarios.join("unbind-alone.toml"),
        share.join("scenarios/the-only-one.toml"),
    )
    .unwrap();
    let output = Command::new(bin)
        .arg("run")
        .current_dir("/")
        .output()
        .unwrap();
    let said = told(&output);
    assert!(said.contains("the-only-one"), "{said}");
    assert!(!said.contains("unbind-vs-vf-unplug"), "{said}");
}
