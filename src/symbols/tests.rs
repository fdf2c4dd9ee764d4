// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::table::Frame;
use super::*;
use crate::event::{Class, Finding, Standing};

/// A program with functions in functions, one in a header, two of one name, and one that jumps away at its end.
const MAIN: &str = r#"
#include "inner.h"
extern int other(int);
static int twin(int n) { values[n & 7] += 3 * n; return values[(n + 1) & 7]; }
__attribute__((noinline)) int outer(int n)
{
	int sum = middle(n);

	sum += innermost(sum) + twin(n);
	return sum;
}
__attribute__((noinline)) static int same(int n)
{
	return middle(n) * 3;
}
int main(int argc, char **argv)
{
	return outer(argc) + same(argc) + other(argc);
}
"#;
const OTHER: &str = r#"
#include "inner.h"
__attribute__((noinline)) static int same(int n)
{
	values[1] = n;
	values[2] = middle(n) + 1;
	values[3] = middle(n + 1) + 2;
	return values[n & 7];
}
int other(int n)
{
	return same(n) + same(n + 7) + innermost(n);
}
"#;
const HEADER: &str = r#"
extern volatile int values[8];
static inline __attribute__((always_inline)) int innermost(int n)
{
	values[n & 7] += n;
	return values[(n + 3) & 7];
}
static inline __attribute__((always_inline)) int middle(int n)
{
	int sum = innermost(n);

	if (sum > 7)
		sum += innermost(sum + 1);
	return sum;
}
"#;

fn do_it(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The program, built below `dir` from paths with `..` in them, without its code, with compressed sections.
fn program(dir: &Path, flags: &[&str], compress: &str) -> PathBuf {
    std::fs::create_dir_all(dir.join("obj")).unwrap();
    for (file, text) in [
        ("main.c", MAIN),
        ("other.c", OTHER),
        ("inner.h", HEADER),
        ("values.c", "volatile int values[8];\n"),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let built = dir.join("obj/program");
    let mut gcc = Command::new("gcc");
    gcc.current_dir(dir.join("obj"))
        .args(["-O2", "-fno-ipa-icf"]);
    gcc.args(flags)
        .args(["../main.c", "../other.c", "../values.c", "-o", "program"]);
    do_it(&mut gcc);
    let debug = dir.join("obj/program.debug");
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--only-keep-debug", compress]);
    do_it(objcopy.arg(&built).arg(&debug));
    debug
}

/// Name, address and room of the functions whose name is there once.
fn functions(file: &Path) -> Vec<(String, u64, u64)> {
    let nm = do_it(Command::new("nm").args(["-n", "--defined-only"]).arg(file));
    let all: Vec<(u64, &str, &str)> = nm
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, words.next()?, words.next()?))
        })
        .filter(|(_, kind, _)| matches!(*kind, "t" | "T" | "W"))
        .collect();
    let once = |name: &str| all.iter().filter(|(_, _, n)| *n == name).count() == 1;
    all.iter()
        .filter(|(_, _, name)| once(name))
        .filter_map(|(address, _, name)| {
            let next = all.iter().find(|(next, _, _)| next > address)?;
            Some(((*name).to_owned(), *address, next.0 - address))
        })
        .collect()
}

/// What binutils says: function, file and line, inlined ones first; nothing where it knows no file.
fn binutils(file: &Path, addresses: &[u64]) -> Vec<Vec<(String, String, u32)>> {
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["-a", "-i", "-f", "-e"]).arg(file);
    let said = do_it(addr2line.args(addresses.iter().map(|a| format!("{a:x}"))));
    let mut all: Vec<Vec<(String, String, u32)>> = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        let place = (
            line.to_owned(),
            file.to_owned(),
            number.parse().unwrap_or(0),
        );
        all.last_mut().unwrap().push(place);
    }
    assert_eq!(all.len(), addresses.len());
    all
}

/// Compares with binutils at `count` places. Their paths end as ours do; ours have no `..`.
fn compare(file: &Path, count: usize) -> (usize, usize, Vec<String>) {
    let read = SymbolFile::load(file).unwrap();
    let symbols = read.symbols().unwrap();
    let functions = functions(file);
    // The numbers of Knuth's MMIX, so that a failure can be repeated.
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below.max(1)
    };
    let mut asked = Vec::new();
    for _ in 0..count {
        let (name, address, room) = &functions[next(functions.len() as u64) as usize];
        let offset = next(*room);
        asked.push((format!("{name}+{offset:#x}/{room:#x}"), address + offset));
    }
    let addresses: Vec<u64> = asked.iter().map(|(_, address)| *address).collect();
    let (mut compared, mut inlined, mut differ) = (0, 0, Vec::new());
    for ((frame, address), theirs) in asked.iter().zip(binutils(file, &addresses)) {
        let ours = symbols.places(frame, At::Instruction);
        // Without a line it takes the file from the symbol table, where the wrong one can stand.
        let known = theirs.iter().any(|(_, _, line)| *line > 0);
        if !known {
            assert_eq!(ours, Err(NoPlace::NoLine), "{frame} at {address:x}");
            continue;
        }
        let ours = ours.unwrap_or_else(|e| panic!("{frame} at {address:x}: {e}"));
        let same = ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(ours, (name, file, line))| {
                (&ours.function, ours.line) == (name, *line)
                    && places::normal(file).ends_with(&ours.file)
            });
        if !same {
            differ.push(format!(
                "{frame} at {address:x}: {ours:?}, binutils: {theirs:?}"
            ));
        }
        compared += 1;
        inlined += usize::from(ours.len() > 1);
    }
    (compared, inlined, differ)
}

#[test]
fn the_same_as_binutils() {
    for (flags, compress) in [
        (["-g", "-gdwarf-5"], "--compress-debug-sections=zlib"),
        (["-g", "-gdwarf-4"], "--compress-debug-sections=none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = program(dir.path(), &flags, compress);
        let (compared, inlined, differ) = compare(&file, 400);
        assert!(differ.is_empty(), "{differ:#?}");
        assert!(compared > 90 && inlined > 50, "{compared} {inlined}");
    }
}

/// A kernel's symbols: `VFRACE_VMLINUX=.../vmlinux.debug cargo test --release symbols -- --ignored --nocapture`.
#[test]
#[ignore = "needs a kernel's symbols in VFRACE_VMLINUX"]
fn the_same_as_binutils_for_a_kernel() {
    let file = PathBuf::from(std::env::var_os("VFRACE_VMLINUX").expect("VFRACE_VMLINUX"));
    let start = Instant::now();
    let read = SymbolFile::load(&file).unwrap();
    let symbols = read.symbols().unwrap();
    let loaded = start.elapsed();
    for (name, _, room) in functions(&file).iter().step_by(97).take(50) {
        let _ = symbols.places(&format!("{name}+0x1/{room:#x}"), At::Return);
    }
    println!("loaded in {loaded:?}, with 50 frames {:?}", start.elapsed());
    let (compared, inlined, differ) = compare(&file, 2000);
    println!("{differ:#?}");
    println!("{compared} compared, {inlined} of them with inlined functions");
    assert!(compared > 1000);
}
