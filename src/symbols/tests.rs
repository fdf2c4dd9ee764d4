// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::table::Frame;
use super::*;
use crate::event::{Class, Finding, Frame as Level, Standing};

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

/// A function of a file.
struct Known {
    name: String,
    address: u64,
    size: u64,
    room: u64,
}

/// The functions whose name is there once, with code.
fn functions(file: &Path) -> Vec<Known> {
    let mut nm = Command::new("nm");
    let nm = do_it(nm.args(["-n", "-S", "--defined-only"]).arg(file));
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let symbols = nm.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [at, size, "t" | "T" | "W", name] => Some((hex(at)?, hex(size)?, *name)),
            [at, "t" | "T" | "W", name] => Some((hex(at)?, 0, *name)),
            _ => None,
        }
    });
    let all: Vec<(u64, u64, &str)> = symbols.collect();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (_, _, name) in &all {
        *names.entry(name).or_default() += 1;
    }
    let next = |n: usize| all[n..].iter().map(|f| f.0).find(|next| *next > all[n].0);
    let known = |n: usize| {
        let (address, size, name) = all[n];
        let room = next(n)? - address;
        (names[name] == 1 && (1..=room).contains(&size)).then(|| Known {
            name: name.to_owned(),
            address,
            size,
            room,
        })
    };
    (0..all.len()).filter_map(known).collect()
}

/// What binutils says: function, file and line, inlined ones first; nothing where it knows no file.
fn binutils(file: &Path, addresses: &[u64]) -> Vec<Vec<Place>> {
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["-a", "-i", "-f", "-e"]).arg(file);
    let said = do_it(addr2line.args(addresses.iter().map(|a| format!("{a:x}"))));
    let mut all: Vec<Vec<Place>> = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        let place = Place {
            function: line.to_owned(),
            file: file.to_owned(),
            line: number.parse().unwrap_or_default(),
        };
        all.last_mut().unwrap().push(place);
    }
    assert_eq!(all.len(), addresses.len());
    all
}

/// Compares functions and lines with binutils at `count` places: how many there were, how many of them with inlined
/// functions, and those where the file is another one. Their paths end as ours do; ours have no `..`.
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
        let function = &functions[next(functions.len() as u64) as usize];
        let offset = next(function.size);
        let frame = format!("{}+{offset:#x}/{:#x}", function.name, function.room);
        asked.push((frame, function.address + offset));
    }
    let addresses: Vec<u64> = asked.iter().map(|(_, address)| *address).collect();
    let (mut compared, mut inlined, mut files) = (0, 0, Vec::new());
    for ((frame, address), theirs) in asked.iter().zip(binutils(file, &addresses)) {
        let ours = symbols.places(frame, At::Instruction);
        // Without a line it takes the file from the symbol table, where the wrong one can stand.
        let known = theirs.iter().any(|place| place.line > 0);
        if !known {
            assert_eq!(ours, Err(NoPlace::NoLine), "{frame} at {address:x}");
            continue;
        }
        let ours = ours.unwrap_or_else(|e| panic!("{frame} at {address:x}: {e}"));
        let names = |places: &[Place]| -> Vec<(String, u32)> {
            let name = |place: &Place| (place.function.clone(), place.line);
            places.iter().map(name).collect()
        };
        let said = || format!("{frame} at {address:x}: {ours:?}, binutils: {theirs:?}");
        assert_eq!(names(&ours), names(&theirs), "{}", said());
        let same =
            |(ours, theirs): (&Place, &Place)| places::normal(&theirs.file).ends_with(&ours.file);
        if !ours.iter().zip(&theirs).all(same) {
            files.push(said());
        }
        compared += 1;
        inlined += usize::from(ours.len() > 1);
    }
    (compared, inlined, files)
}

#[test]
fn the_same_as_binutils() {
    for (flags, compress) in [
        (["-g", "-gdwarf-5"], "--compress-debug-sections=zlib"),
        (["-g", "-gdwarf-4"], "--compress-debug-sections=none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = program(dir.path(), &flags, compress);
        let (compared, inlined, files) = compare(&file, 400);
        assert!(files.is_empty(), "{files:#?}");
        assert!(compared > 90 && inlined > 50, "{compared} {inlined}");
    }
}

/// A kernel's symbols: `VFRACE_VMLINUX=.../vmlinux.debug cargo test --release symbols -- --ignored --nocapture`.
#[test]
#[ignore = "needs a kernel's symbols in VFRACE_VMLINUX"]
fn the_same_as_binutils_for_a_kernel() {
    let file = PathBuf::from(std::env::var_os("VFRACE_VMLINUX").expect("VFRACE_VMLINUX"));
    let functions = functions(&file);
    let start = Instant::now();
    let read = SymbolFile::load(&file).unwrap();
    let symbols = read.symbols().unwrap();
    let loaded = start.elapsed();
    for f in functions.iter().step_by(functions.len() / 50) {
        let frame = format!("{}+0x1/{:#x}", f.name, f.room);
        symbols.places(&frame, At::Return).ok();
    }
    println!("loaded in {loaded:?}, with 50 frames {:?}", start.elapsed());
    let (compared, inlined, files) = compare(&file, 2000);
    println!("{compared} compared, {inlined} of them with inlined functions");
    // For what TRACE_EVENT() makes, binutils names the file that includes the header, with a line of the header.
    println!("in other files: {files:#?}");
    assert!(compared > 1000 && files.len() * 20 < compared);
}

#[test]
fn what_a_frame_is() {
    let frame = |text| Frame::read(text).map(|f| (f.function, f.offset, f.size));
    assert_eq!(
        frame("device_del+0x835/0x8c0"),
        Ok(("device_del", 0x835, 0x8c0))
    );
    assert_eq!(frame(" a.isra.0+0x0/0x10 "), Ok(("a.isra.0", 0, 16)));
    for module in ["f+0x1/0x2 [vfrace]", "f+0x1/0x2 [vfrace 0123abcd]"] {
        assert_eq!(frame(module), Err(NoPlace::Module("vfrace".into())));
    }
    for none in [
        "",
        "f",
        "+0x1/0x2",
        "f+0x3/0x2",
        "f+0x/0x2",
        "f+0x+1/0x2",
        "f+0x1/0x11111111111111111",
        "0x123",
        "f+1/2",
    ] {
        assert_eq!(frame(none), Err(NoPlace::NoFrame(none.into())), "{none}");
    }
}

#[test]
fn which_of_two_and_which_instruction() {
    let dir = tempfile::tempdir().unwrap();
    let file = program(dir.path(), &["-g"], "--compress-debug-sections=zlib");
    let read = SymbolFile::load(&file).unwrap();
    let symbols = read.symbols().unwrap();
    let nm = do_it(Command::new("nm").arg("-n").arg(&file));
    let starts: Vec<u64> = nm
        .lines()
        .map(|line| u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap_or_default())
        .collect();
    let same: Vec<u64> = nm
        .lines()
        .zip(&starts)
        .filter(|(line, _)| line.ends_with(" same"))
        .map(|(_, start)| {
            let next = starts.iter().find(|next| *next > start).unwrap();
            next - start
        })
        .collect();
    let [one, two] = same.as_slice() else {
        panic!("{nm}");
    };
    assert_ne!(one, two, "the size tells them apart");
    let file_of = |size: u64| {
        let places = symbols
            .places(&format!("same+0x0/{size:#x}"), At::Instruction)
            .unwrap();
        places.last().unwrap().file.clone()
    };
    let mut files = [file_of(*one), file_of(*two)];
    files.sort();
    let [main, other] = &files;
    assert!(main.ends_with("/main.c") && !main.contains(".."), "{main}");
    assert!(other.ends_with("/other.c"), "{other}");
    assert!(matches!(
        symbols.places("same+0x1/0xfff", At::Return),
        Err(NoPlace::OtherSize { said: 0xfff, .. })
    ));
    assert_eq!(
        symbols.places("nothing+0x1/0x2", At::Return),
        Err(NoPlace::Unknown("nothing".into()))
    );

    // A return address is one too far: the byte before it is what is meant.
    let outer = functions(&file);
    let outer = outer.iter().find(|f| f.name == "outer").unwrap();
    for offset in 1..outer.size {
        let at = |offset: u64, at| {
            let frame = format!("outer+{offset:#x}/{:#x}", outer.room);
            symbols.places(&frame, at).unwrap()
        };
        assert_eq!(at(offset, At::Return), at(offset - 1, At::Instruction));
    }
}

#[test]
fn findings_are_filled() {
    let dir = tempfile::tempdir().unwrap();
    let file = program(dir.path(), &["-g"], "--compress-debug-sections=zlib");
    let outer = functions(&file);
    let outer = outer.iter().find(|f| f.name == "outer").unwrap();
    let text = format!("outer+0x4/{:#x}", outer.room);
    let console = format!("RIP: 0010:{text}\n {text}\n");
    let frame = |text: &str| Level {
        text: text.to_owned(),
        places: Vec::new(),
    };
    let finding = |standing| Finding {
        console: Some((0, console.len() as u64)),
        stack: vec![
            frame(&text),
            frame(&text),
            frame("hold+0x1/0x2 [vfrace]"),
            frame("gone+0x1/0x2"),
        ],
        ..Finding::new(Class::Oops, "x", standing)
    };
    let mut findings = vec![finding(Standing::Known); 30];
    findings.push(Finding::new(Class::Leak, "no stack", Standing::Other));
    findings.push(finding(Standing::Other));
    let filled = fill_from(&mut findings, console.as_bytes(), &file).unwrap();
    assert_eq!(
        filled,
        Filled {
            frames: 60,
            placed: 40,
            foreign: 20
        }
    );
    assert!(!filled.is_another_kernel());
    let last = findings.last().unwrap();
    assert!(!last.stack[0].places.is_empty(), "what counts comes first");
    assert!(!findings[18].stack[0].places.is_empty());
    assert!(findings[19].stack[0].places.is_empty(), "there is an end");
    let read = SymbolFile::load(&file).unwrap();
    let symbols = read.symbols().unwrap();
    let places = |at| symbols.places(&text, at).unwrap();
    assert_eq!(last.stack[0].places, places(At::Instruction));
    assert_eq!(last.stack[1].places, places(At::Return));

    // Nothing to look up: the file is not even looked for.
    let mut none = vec![Finding::new(Class::Leak, "x", Standing::Other)];
    fill_from(&mut none, b"", Path::new("/nowhere")).unwrap();
}

#[test]
fn what_is_no_symbols() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        SymbolFile::load(&path).map(|_| ()).unwrap_err()
    };
    assert!(matches!(load("a", b""), SymbolsError::NotElf { .. }));
    assert!(matches!(
        load("b", b"MZ, a bzImage"),
        SymbolsError::NotElf { .. }
    ));
    assert!(matches!(
        load("c", b"\x7fELF and no more"),
        SymbolsError::Broken { .. }
    ));
    assert!(matches!(
        SymbolFile::load(dir.path()).map(|_| ()),
        Err(SymbolsError::NotElf { .. })
    ));
    assert!(matches!(
        SymbolFile::load(Path::new("/nowhere/vmlinux")).map(|_| ()),
        Err(SymbolsError::Read { .. })
    ));
    assert!(matches!(
        SymbolFile::load(Path::new("/dev/zero")).map(|_| ()),
        Err(SymbolsError::NotElf { .. })
    ));
    let file = program(dir.path(), &["-g0"], "--compress-debug-sections=none");
    assert!(matches!(
        SymbolFile::load(&file).map(|_| ()),
        Err(SymbolsError::NoLines { .. })
    ));
    let stripped = dir.path().join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped);
    do_it(strip.arg(dir.path().join("obj/program")));
    assert!(matches!(
        SymbolFile::load(&stripped).map(|_| ()),
        Err(SymbolsError::NoTable { .. })
    ));
}

/// Bytes of a good file are changed: whatever comes out, it comes out.
#[test]
fn a_broken_file_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let plain = program(dir.path(), &["-g"], "--compress-debug-sections=none");
    let frames: Vec<String> = functions(&plain)
        .iter()
        .map(|f| format!("{}+{:#x}/{:#x}", f.name, f.size / 2, f.room))
        .collect();
    for compress in [
        "--compress-debug-sections=none",
        "--compress-debug-sections=zlib",
    ] {
        let good = std::fs::read(program(dir.path(), &["-g"], compress)).unwrap();
        let path = dir.path().join("broken");
        let mut random = 7u64;
        let mut next = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        let (mut loaded, mut placed) = (0, 0);
        for round in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..=next(8) {
                let at = next(bytes.len());
                bytes[at] = [0, 0xff, 0x7f, 1, next(256) as u8][next(5)];
            }
            if round % 5 == 0 {
                bytes.truncate(next(good.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            let Ok(read) = SymbolFile::load(&path) else {
                continue;
            };
            let Ok(symbols) = read.symbols() else {
                continue;
            };
            loaded += 1;
            for frame in &frames {
                placed += usize::from(symbols.places(frame, At::Return).is_ok());
            }
        }
        assert!(loaded > 50 && placed > 50, "{loaded} {placed}");
    }
}
