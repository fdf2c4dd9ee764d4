// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `git bisect run vfrace bisect` over a history of kernels, some of which do not build or boot.
//!
//! The history is made of Debian's 7.2 in vfrace's cache, without the parts that the guests' configuration never
//! compiles, and is the same each time: kernels of an earlier run are found in the cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What the kernel is like from a commit on.
#[derive(Clone, Copy, Debug)]
struct State {
    /// The patch below guest-tests/variants; `None`: as it is.
    patch: Option<&'static str>,
    subject: &'static str,
    commits: usize,
}

const fn state(patch: Option<&'static str>, subject: &'static str, commits: usize) -> State {
    State {
        patch,
        subject,
        commits,
    }
}

/// The real course of things (docs: history of the SR-IOV locking series), and a mutant at its end.
const STATES: [State; 7] = [
    state(Some("b0.patch"), "b0", 6),
    state(Some("b1.patch"), "b1", 6),
    state(Some("b2.patch"), "b2", 5),
    state(None, "base", 6),
    state(Some("v7.patch"), "v7", 6),
    state(Some("v9.patch"), "v9", 4),
    state(
        Some("mutants/m-pf-put-missing.patch"),
        "m-pf-put-missing",
        5,
    ),
];

/// How a commit is broken, as a line at the end of drivers/pci/iov.c.
#[derive(Clone, Copy, Debug)]
enum Broken {
    Build,
    Panic,
    Hang,
}

impl Broken {
    fn code(self) -> &'static str {
        match self {
            Broken::Build => "\n#error \"half a commit\"\n",
            Broken::Panic => {
                "\nstatic int __init half_a_commit(void)\n{\n\tpanic(\"half a commit\");\n}\nlate_initcall(half_a_commit);\n"
            }
            Broken::Hang => {
                "\nstatic int __init half_a_commit(void)\n{\n\tfor (;;)\n\t\tcpu_relax();\n\treturn 0;\n}\nlate_initcall(half_a_commit);\n"
            }
        }
    }
}

/// Commits by number (from 1) that are broken. Each bisection below comes upon some of them; upon the one that hangs, which
/// takes a minute and a half, only a test of its own.
const BROKEN: [(usize, Broken); 5] = [
    (9, Broken::Hang),
    (15, Broken::Build),
    (20, Broken::Panic),
    (26, Broken::Panic),
    (28, Broken::Build),
];

/// Number of the first commit of a state.
fn first_of(subject: &str) -> usize {
    let at = STATES.iter().position(|s| s.subject == subject).unwrap();
    STATES[..at].iter().map(|s| s.commits).sum::<usize>() + 1
}

fn last_of(subject: &str) -> usize {
    let state = STATES.iter().find(|s| s.subject == subject).unwrap();
    first_of(subject) + state.commits - 1
}

fn data() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The source package in the cache. A kernel of it has been built before (`bench`).
fn debian() -> PathBuf {
    let sources = vfrace::paths::cache_dir().unwrap().join("sources");
    let mut found: Vec<PathBuf> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|dir| {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("linux-source-7.2_") && dir.join("source.json").exists()
        })
        .collect();
    found.sort();
    found.pop().expect("the 7.2 source is in the cache")
}

/// Whether a file is needed: the Kconfig files and makefiles of everything, and the code of what is configured.
fn is_needed(path: &str) -> bool {
    const DRIVERS: &str = "acpi base char clocksource cpuidle firmware idle iommu irqchip pci platform pnp ptp tty virtio \
        virt vhost input dma cpufreq";
    const FLAT_DRIVERS: &str = "misc video edac ras power powercap thermal rtc watchdog nvmem gpio of bus mailbox block net";
    const FS: &str = "proc sysfs ramfs devpts debugfs kernfs notify iomap tracefs exportfs configfs unicode quota crypto \
        verity nls hugetlbfs pstore";
    const NET: &str = "core ipv4 ipv6 sched ethtool packet unix 802 ethernet netlink netfilter bpf devlink handshake";
    const TOOLS: &str = "include lib objtool scripts build arch bpf";
    let is_in = |list: &str, dir: &str| list.split_whitespace().any(|word| word == dir);
    let parts: Vec<&str> = path.split('/').collect();
    let name = parts[parts.len() - 1];
    if ["Kconfig", "Makefile", "Kbuild"]
        .iter()
        .any(|start| name.starts_with(start))
        || name.ends_with(".include")
    {
        return true;
    }
    let (depth, below) = (parts.len(), parts.get(1).copied().unwrap_or_default());
    match parts[0] {
        "Documentation" | "samples" | "sound" => false,
        "arch" => depth == 2 || below == "x86",
        "tools" => is_in(TOOLS, below),
        "drivers" if is_in(DRIVERS, below) => true,
        "drivers" => depth < 4 && (name.ends_with(".h") || is_in(FLAT_DRIVERS, below)),
        "fs" => depth == 2 || is_in(FS, below),
        "net" => depth < 3 || name.ends_with(".h") || is_in(NET, below),
        _ => true,
    }
}

/// The files below `dir`, links as they are, by their path from there.
fn files(dir: &Path, prefix: &str, into: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), &format!("{path}/"), into);
        } else {
            into.insert(path, entry.path());
        }
    }
}

/// Debian's source as it was unpacked, whatever variant its tree is at now.
fn originals() -> BTreeMap<String, PathBuf> {
    let source = debian();
    let mut all = BTreeMap::new();
    files(&source.join("tree"), "", &mut all);
    files(&source.join("originals/file"), "", &mut all);
    all.retain(|path, _| is_needed(path));
    all
}

/// The files of each state that differ from the source, patched by git itself.
fn patched(all: &BTreeMap<String, PathBuf>) -> Vec<BTreeMap<String, Vec<u8>>> {
    const TOUCHED: [&str; 6] = [
        "drivers/pci/iov.c",
        "drivers/pci/pci-sysfs.c",
        "drivers/pci/pci.h",
        "drivers/pci/probe.c",
        "drivers/pci/remove.c",
        "include/linux/pci.h",
    ];
    let of = |state: &State| {
        let dir = tempfile::tempdir().unwrap();
        for path in TOUCHED {
            let to = dir.path().join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&all[path], to).unwrap();
        }
        if let Some(patch) = state.patch {
            let patch = data().join("guest-tests/variants").join(patch);
            let applied = git(dir.path())
                .args(["apply", "--whitespace=nowarn"])
                .arg(&patch)
                .output()
                .unwrap();
            assert!(applied.status.success(), "{patch:?}: {applied:?}");
        }
        let read = |path: &&str| (path.to_string(), fs::read(dir.path().join(path)).unwrap());
        TOUCHED.iter().map(read).collect()
    };
    STATES.iter().map(of).collect()
}

/// git as it is without anybody's configuration.
fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("LC_ALL", "C");
    git
}

fn git_says(dir: &Path, arguments: &[&str]) -> String {
    let output = git(dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A configuration that is quick to build and to boot: the guests' own without the expensive checks, without debugging
/// information, and without the network protocols that no scenario needs.
fn fragment() -> String {
    const LEFT_OUT: [&str; 3] = ["CONFIG_INET=", "CONFIG_PACKET=", "CONFIG_DEBUG_INFO"];
    let mut all = String::new();
    for name in ["common", "x86_64", "lean"] {
        let path = format!("guest-tests/kconfig/{name}.config");
        let text = fs::read_to_string(data().join(path)).unwrap();
        for line in text.lines() {
            if !LEFT_OUT.iter().any(|start| line.starts_with(start)) {
                let _ = writeln!(all, "{line}");
            }
        }
    }
    all
}

/// Makes a `.config` of it, as a user would have one.
fn configure(tree: &Path, to: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let wanted = dir.path().join("wanted");
    fs::write(&wanted, fragment()).unwrap();
    let made = Command::new("make")
        .arg("-C")
        .arg(tree)
        .arg(format!("O={}", dir.path().display()))
        .arg(format!("KCONFIG_ALLCONFIG={}", wanted.display()))
        .arg("allnoconfig")
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::copy(dir.path().join(".config"), to).unwrap();
}

/// Raised when other files are in the history, so that one of before is made anew.
const LAYOUT: u32 = 3;

/// The repository, with its commits in order.
struct History {
    dir: PathBuf,
    config: PathBuf,
    commits: Vec<String>,
}

impl History {
    /// Made once, at the same place each time: vfrace's checkout and objects for it are found again.
    fn new() -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("history");
        let done = dir.join(".git/history-is-complete");
        let config = dir.join(".git/history.config");
        let recipe = format!(
            "{LAYOUT}{STATES:?}{BROKEN:?}{:?}{}{}",
            BROKEN.map(|(_, how)| how.code()),
            debian().display(),
            fragment()
        );
        if fs::read_to_string(&done).ok().as_ref() != Some(&recipe) {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            git_says(&dir, &["init", "-q", "-b", "main"]);
            git_says(&dir, &["config", "core.compression", "0"]);
            git_says(&dir, &["config", "gc.auto", "0"]);
            import(&dir);
            git_says(&dir, &["checkout", "-q", "-f", "main"]);
            configure(&dir, &config);
            fs::write(&done, recipe).unwrap();
        }
        let _ = git(&dir).args(["bisect", "reset"]).output().unwrap();
        git_says(&dir, &["checkout", "-q", "-f", "main"]);
        let commits = git_says(&dir, &["rev-list", "--reverse", "main"]);
        let commits: Vec<String> = commits.lines().map(str::to_owned).collect();
        assert!(commits.len() >= 32, "{}", commits.len());
        Self {
            dir,
            config,
            commits,
        }
    }

    fn commit(&self, number: usize) -> &str {
        &self.commits[number - 1]
    }

    /// `git bisect run vfrace bisect ...`, between two commits by number, with other words for the two ends if need be.
    fn bisect(
        &self,
        old: usize,
        new: usize,
        terms: &[&str],
        arguments: &[&str],
    ) -> (Output, String) {
        let _ = git(&self.dir).args(["bisect", "reset"]).output().unwrap();
        let ends = [self.commit(new), self.commit(old)];
        git_says(&self.dir, &[&["bisect", "start"], terms, &ends].concat());
        let begun = Instant::now();
        let output = git(&self.dir)
            .args([
                "bisect",
                "run",
                env!("CARGO_BIN_EXE_vfrace"),
                "bisect",
                "--rounds",
                "1",
                "--config",
            ])
            .arg(&self.config)
            .args(arguments)
            .env("VFRACE_DATA", data())
            .output()
            .unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        let _ = write!(
            said,
            "--- standard error:\n{}--- {:?}, {:.0} s",
            String::from_utf8_lossy(&output.stderr),
            output.status,
            begun.elapsed().as_secs_f64()
        );
        println!("{arguments:?}\n{said}");
        (output, said)
    }

    /// The same, and it must name this commit.
    fn finds(&self, good: usize, bad: usize, arguments: &[&str], expected: usize) -> String {
        let (output, said) = self.bisect(good, bad, &[], arguments);
        assert!(output.status.success(), "{said}");
        let names = format!("{} is the first bad commit", self.commit(expected));
        assert!(said.contains(&names), "{names} is not in\n{said}");
        said
    }

    /// The same for the commit that cures the finding.
    fn finds_the_cure(&self, broken: usize, fixed: usize, arguments: &[&str], expected: usize) {
        let terms = ["--term-old=broken", "--term-new=fixed"];
        let arguments = [&["--fixed"], arguments].concat();
        let (output, said) = self.bisect(broken, fixed, &terms, &arguments);
        assert!(output.status.success(), "{said}");
        let names = format!("{} is the first fixed commit", self.commit(expected));
        assert!(said.contains(&names), "{names} is not in\n{said}");
    }
}

/// All commits in one stream, see git-fast-import(1). Dates are fixed, so that the commits are always the same ones.
fn import(dir: &Path) {
    let all = originals();
    let patched = patched(&all);
    let mut import = git(dir)
        .args(["fast-import", "--quiet", "--date-format=raw"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = std::io::BufWriter::with_capacity(1 << 20, import.stdin.take().unwrap());
    let mut number = 0;
    for (state, files) in STATES.iter().zip(&patched) {
        for nth in 1..=state.commits {
            number += 1;
            let broken = BROKEN.iter().find(|(at, _)| *at == number);
            let mut subject = format!("{}: commit {nth}", state.subject);
            if let Some((_, broken)) = broken {
                let _ = write!(subject, ", broken: {broken:?}");
            }
            // The first day of September 2025, an hour apart.
            let date = 1_756_684_800 + 3600 * number;
            write!(
                to,
                "commit refs/heads/main\ncommitter nobody <nobody@example.org> {date} +0000\ndata {}\n{subject}\n",
                subject.len()
            )
            .unwrap();
            if number == 1 {
                for (path, from) in &all {
                    let meta = fs::symlink_metadata(from).unwrap();
                    if meta.is_symlink() {
                        let target = fs::read_link(from).unwrap();
                        modify(&mut to, "120000", path, target.to_str().unwrap().as_bytes());
                    } else {
                        use std::os::unix::fs::PermissionsExt;
                        let mode = match meta.permissions().mode() & 0o111 {
                            0 => "100644",
                            _ => "100755",
                        };
                        modify(&mut to, mode, path, &fs::read(from).unwrap());
                    }
                }
            }
            // Each commit has a tree of its own, most with the same code.
            modify(&mut to, "100644", "HISTORY", subject.as_bytes());
            for (path, bytes) in files {
                let mut bytes = bytes.clone();
                if let (Some((_, broken)), "drivers/pci/iov.c") = (broken, path.as_str()) {
                    bytes.extend_from_slice(broken.code().as_bytes());
                }
                modify(&mut to, "100644", path, &bytes);
            }
        }
    }
    to.into_inner().unwrap();
    assert!(import.wait().unwrap().success());
}

fn modify(to: &mut impl std::io::Write, mode: &str, path: &str, bytes: &[u8]) {
    write!(to, "M {mode} inline {path}\ndata {}\n", bytes.len()).unwrap();
    to.write_all(bytes).unwrap();
    to.write_all(b"\n").unwrap();
}

/// The commits of the first bisection as patches on the first of them: the trees are the same, and so are the kernels,
/// which are in the cache, and the answer.
fn as_a_series(history: &History) {
    let (first, last) = (first_of("b1"), last_of("base"));
    let _ = git(&history.dir)
        .args(["bisect", "reset"])
        .output()
        .unwrap();
    git_says(
        &history.dir,
        &["checkout", "-q", "-f", history.commit(first)],
    );
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .arg("bisect-series")
        .arg(format!(
            "{}..{}",
            history.commit(first),
            history.commit(last)
        ))
        .args([
            "--scenario",
            "unbind-vs-vf-unplug",
            "--rounds",
            "1",
            "--error",
            "20%",
            "--linux",
        ])
        .arg(&history.dir)
        .arg("--config")
        .arg(&history.config)
        .arg("--out")
        .arg(out.path())
        .env("VFRACE_DATA", data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    // The whole series has the finding.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!(
        "patch {} of {} brings it",
        first_of("b2") - first,
        last - first
    );
    assert!(said.contains(&expected), "{expected} is not in {said}");
    assert!(said.contains("b2: commit 1"), "{said}");
    assert_rate_was_measured(&said);
}

/// Each passing kernel was played as often as the rate of a failing one asks for, which was played twice or more.
fn assert_rate_was_measured(said: &str) {
    let measured = |line: &str| {
        let (_, after) = line.split_once("; reference ")?;
        let (rate, rest) = after.split_once(", missed with p ")?;
        let (hits, rounds) = rate.split_once('/')?;
        let rounds: u32 = rounds.parse().ok()?;
        let missed: f64 = rest
            .strip_prefix("<= ")?
            .split([' ', ';'])
            .next()?
            .parse()
            .ok()?;
        Some(hits.parse() == Ok(rounds) && rounds >= 2 && missed <= 0.2)
    };
    let good: Vec<&str> = said
        .lines()
        .filter(|l| l.contains("good: PASS in "))
        .collect();
    assert!(!good.is_empty(), "{said}");
    for line in good {
        assert_eq!(measured(line), Some(true), "{line}\n{said}");
    }
}

/// A VF is removed twice since the plain lock was reverted.
#[test]
#[ignore = "builds kernels and boots guests: make test"]
fn git_bisect_run_finds_the_commit() {
    crate::bench::bench();
    let history = History::new();
    let double = history.finds(
        first_of("b1"),
        last_of("base"),
        &[
            "--scenario",
            "unbind-vs-vf-unplug",
            // The rate is measured on the commit that is bad at that time.
            "--error",
            "20%",
        ],
        first_of("b2"),
    );
    assert!(double.contains("bad: DOUBLE-REMOVAL: "), "{double}");
    assert_rate_was_measured(&double);
    assert!(double.contains("cannot tell: "), "{double}");
}

/// Two more findings, a cure, and the same as a series, over commits that do not build or boot. One test: they share a
/// repository.
#[test]
#[ignore = "builds a dozen kernels and boots guests: make test-bisect"]
fn at_length_git_bisect_run_finds_the_commit_for_other_findings() {
    crate::bench::bench();
    let history = History::new();
    // Two tasks wait for each other since the lock is reentrant.
    let deadlock = history.finds(
        first_of("b2"),
        last_of("v9"),
        &["--scenario", "unbind-vs-pf-remove", "--wanted", "DEADLOCK"],
        first_of("v7"),
    );
    assert!(deadlock.contains("bad: DEADLOCK: AB-BA"), "{deadlock}");
    // The same commit cures the double removal.
    history.finds_the_cure(
        first_of("base"),
        last_of("v7"),
        &["--scenario", "unbind-vs-vf-unplug"],
        first_of("v7"),
    );
    // A reference is kept since the last commits.
    let leak = history.finds(
        1,
        history.commits.len(),
        &[
            "--scenario",
            "unbind-alone",
            "--wanted",
            "LEAK: PF reference count",
        ],
        first_of("m-pf-put-missing"),
    );
    assert!(
        leak.contains("bad: LEAK: PF reference count 4 -> 7"),
        "{leak}"
    );
    let all = [deadlock, leak].concat();
    as_a_series(&history);
    for skipped in [
        "cannot tell: the kernel does not build: ",
        "cannot tell: BOOT-FAIL: ",
    ] {
        assert!(all.contains(skipped), "no `{skipped}` in\n{all}");
    }
}

/// One step of a bisection at a commit.
fn step(history: &History, number: usize, arguments: &[&str]) -> Command {
    git_says(
        &history.dir,
        &["checkout", "-q", "-f", history.commit(number)],
    );
    let mut vfrace = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    vfrace
        .current_dir(&history.dir)
        .args(["bisect", "--scenario", "unbind-alone", "--rounds", "1"])
        .arg("--config")
        .arg(&history.config)
        .args(arguments)
        .env("VFRACE_DATA", data())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    vfrace
}

/// The first commit that is broken in such a way.
fn broken(wanted: impl Fn(&Broken) -> bool) -> usize {
    let (number, _) = BROKEN.iter().find(|(_, broken)| wanted(broken)).unwrap();
    *number
}

/// A step at a commit that cannot be tested is 125, and its last line says why.
fn cannot_tell(history: &History, number: usize, told: &str) {
    let output = step(history, number, &["--wanted", "DOUBLE-REMOVAL"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(125), "{number}: {output:?}");
    assert!(last.starts_with(told), "{number}: {said}");
}

/// It takes the minute and a half that a boot has.
#[test]
#[ignore = "builds a kernel and boots a guest: make test-bisect"]
fn at_length_a_commit_that_hangs_is_no_bad_commit() {
    crate::bench::bench();
    let history = History::new();
    let hangs = broken(|b| matches!(b, Broken::Hang));
    cannot_tell(&history, hangs, "cannot tell: BOOT-FAIL: ");
    git_says(&history.dir, &["checkout", "-q", "-f", "main"]);
}

/// Every way in which a commit cannot be tested is 125, and Ctrl-C is 130, which ends a bisection.
#[test]
#[ignore = "builds kernels and boots guests: make test"]
fn what_is_no_bad_commit_does_not_end_as_one() {
    crate::bench::bench();
    let history = History::new();
    for (number, told) in [
        (
            broken(|b| matches!(b, Broken::Build)),
            "cannot tell: the kernel does not build: ",
        ),
        (
            broken(|b| matches!(b, Broken::Panic)),
            "cannot tell: BOOT-FAIL: ",
        ),
        // Another finding than the one that is looked for.
        (
            history.commits.len(),
            "cannot tell: not the wanted finding but LEAK: ",
        ),
    ] {
        cannot_tell(&history, number, told);
    }
    let child = step(&history, 1, &[]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    git_says(&history.dir, &["checkout", "-q", "-f", "main"]);
}
