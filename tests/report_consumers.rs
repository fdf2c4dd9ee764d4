// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What others make of the reports: the kernel's own KTAP parser and a JUnit parser. `make test-report` installs
//! them and runs these tests; a consumer that is missing is a failure here, never a silent pass.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "report/made.rs"]
mod made;

use std::path::{Path, PathBuf};
use std::process::Command;

use made::{RUN, campaign, hostile_run, said};

/// Debian's, which its packages are for; another may come first in PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Runs a script of Python with `arguments`, and gives what it prints.
fn python(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new(PYTHON)
        .arg("-c")
        .arg(script)
        .args(arguments)
        .output()
        .expect("python3 is missing: `make test-report` installs it");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// tools/testing/kunit of a kernel's source: `$VFRACE_KUNIT`, else from the cache.
fn kunit() -> PathBuf {
    if let Some(dir) = std::env::var_os("VFRACE_KUNIT") {
        return dir.into();
    }
    let cache = vfrace::paths::cache_dir().unwrap();
    let sources = std::fs::read_dir(cache.join("sources"))
        .into_iter()
        .flatten()
        .flatten();
    let mut dirs = sources.map(|entry| entry.path().join("tree/tools/testing/kunit"));
    dirs.find(|dir| dir.join("kunit_parser.py").is_file()).expect(
        "no kernel source in the cache: `vfrace kernel build base` brings one, or set VFRACE_KUNIT to a tree's \
         tools/testing/kunit",
    )
}

/// Counts of kunit.py's parser: passed, failed, crashed, skipped, errors.
fn counts(ktap: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.ktap");
    std::fs::write(&file, ktap).unwrap();
    let script = "import sys, io
sys.path.insert(0, sys.argv[1])
import kunit_parser, kunit_printer
import inspect
printer = kunit_printer.Printer(io.StringIO())
lines = open(sys.argv[2])
asks = 'printer' in inspect.signature(kunit_parser.parse_run_tests).parameters
test = kunit_parser.parse_run_tests(lines, printer) if asks else kunit_parser.parse_run_tests(lines)
c = test.counts
print('counts', c.passed, c.failed, c.crashed, c.skipped, c.errors)";
    let text = python(script, &[&kunit(), &file]);
    text.lines().last().unwrap().to_owned()
}

#[test]
#[ignore = "needs python3 and a kernel's source: make test-report"]
fn the_kernel_reads_the_ktap() {
    assert_eq!(
        counts(&said(&[RUN, "--format", "ktap"])),
        "counts 0 1 0 0 0"
    );
    let dir = tempfile::tempdir().unwrap();
    campaign(&dir.path().join("c"), 6, 2, Path::new(RUN));
    let from = dir.path().join("c");
    // Other scenarios than the first have no expectation: a double removal is bad there.
    let text = said(&[from.to_str().unwrap(), "--format", "ktap"]);
    assert_eq!(counts(&text), "counts 4 2 0 0 0", "{text}");
    let hostile = dir.path().join("h");
    std::fs::create_dir(&hostile).unwrap();
    hostile_run(&hostile);
    let text = said(&[hostile.to_str().unwrap(), "--format", "ktap"]);
    assert_eq!(counts(&text), "counts 0 1 0 0 0", "{text}");
    // It does object to what is no KTAP.
    assert_ne!(counts("ok 1 nothing\n"), "counts 1 0 0 0 0");
}

#[test]
#[ignore = "needs python3-junitparser: make test-report"]
fn a_junit_parser_reads_the_junit() {
    let dir = tempfile::tempdir().unwrap();
    campaign(&dir.path().join("c"), 6, 2, Path::new(RUN));
    let script = "import sys, junitparser
xml = junitparser.JUnitXml.fromfile(sys.argv[1])
print(xml.tests, xml.failures, xml.errors, len(list(xml)), sum(len(list(s)) for s in xml))
for suite in xml:
    for case in suite:
        assert case.classname and case.name, case
        for result in case.result:
            assert result.message and result.type, result";
    let read = |from: &Path| {
        let file = dir.path().join("report.xml");
        let out = file.to_str().unwrap();
        said(&[from.to_str().unwrap(), "--format", "junit", "-o", out]);
        python(script, &[&file])
    };
    assert_eq!(read(&dir.path().join("c")), "6 2 0 3 6\n");
    let hostile = dir.path().join("h");
    std::fs::create_dir(&hostile).unwrap();
    hostile_run(&hostile);
    assert_eq!(read(&hostile), "1 1 0 1 1\n");
}
