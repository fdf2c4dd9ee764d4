// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel's source defines in the directories that the points are about, whether compiled or not.
//!
//! A function that is not in the image can be there in the source: inlined, left out by an `#ifdef`, or in a file that
//! the configuration does not build. This is read from the text, by the kernel's coding style: a definition's first
//! line begins in the first column, does not end in a semicolon, and has the name right before a parenthesis. What is
//! found beside functions (macros) does no harm.

use std::collections::BTreeMap;
use std::path::Path;

/// The directories, from the kernel's top.
pub const DIRECTORIES: [&str; 4] = ["drivers/base", "drivers/pci", "drivers/virtio", "fs/sysfs"];
/// Files outside of them.
const FILES: [&str; 3] = [
    "include/linux/device.h",
    "include/linux/pci.h",
    "lib/kobject.c",
];
/// Directories below a directory.
const DEPTH: usize = 6;

/// Where a name is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In a file that was compiled.
    Compiled,
    /// In a header.
    Header,
    /// In a file that this configuration does not build.
    Unbuilt,
}

/// Every name, with its best place and the file from the kernel's top. Files that cannot be read count as not there.
pub fn scan(source: &Path, objects: &Path) -> BTreeMap<String, (Kind, String)> {
    let mut found = BTreeMap::new();
    for file in FILES {
        add(source, objects, file, &mut found);
    }
    for dir in DIRECTORIES {
        below(source, objects, dir, DEPTH, &mut found);
    }
    found
}

fn below(
    source: &Path,
    objects: &Path,
    dir: &str,
    depth: usize,
    found: &mut BTreeMap<String, (Kind, String)>,
) {
    let Ok(entries) = std::fs::read_dir(source.join(dir)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => {
                below(source, objects, &name, depth - 1, found);
            }
            Ok(kind) if kind.is_file() => add(source, objects, &name, found),
            _ => {}
        }
    }
}

fn add(source: &Path, objects: &Path, file: &str, found: &mut BTreeMap<String, (Kind, String)>) {
    let kind = match file.rsplit_once('.') {
        Some((stem, "c")) if objects.join(format!("{stem}.o")).exists() => Kind::Compiled,
        Some((_, "c")) => Kind::Unbuilt,
        Some((_, "h")) => Kind::Header,
        _ => return,
    };
    let Ok(text) = std::fs::read(source.join(file)) else {
        return;
    };
    for name in names(&String::from_utf8_lossy(&text)) {
        let here = (kind, file.to_owned());
        found
            .entry(name.to_owned())
            .and_modify(|best| {
                if here < *best {
                    best.clone_from(&here);
                }
            })
            .or_insert(here);
    }
}

/// The names that a text defines.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
        .filter(|line| !line.trim_end().ends_with(';'))
        .flat_map(|line| line.split('(').rev().skip(1))
        .filter_map(move |before| before.rsplit(|c| !word(c)).next())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_and_what_looks_like_them() {
        let text = "static ssize_t unbind_store(struct device_driver *drv, const char *buf,\n\t\t\t size_t count)\n{\n\tdevice_lock(dev);\n}\n\
            static void pci_stop_dev(struct pci_dev *dev)\n{\nextern int declared(void);\nout:\n#define MACRO(x) \\\n/* comment(x) */\n int indented(void)\n\
            __printf(1, 2) int both(void)\n";
        let all: Vec<_> = names(text).collect();
        assert_eq!(all, ["unbind_store", "pci_stop_dev", "both", "__printf"]);
    }

    #[test]
    fn a_compiled_file_wins() {
        let top = tempfile::tempdir().unwrap();
        let (source, objects) = (top.path().join("src"), top.path().join("obj"));
        for (dir, file, text) in [
            (&source, "drivers/pci/a.c", "int one(void)\n{\n"),
            (
                &source,
                "drivers/pci/b.c",
                "int one(void)\n{\nint two(void)\n{\n",
            ),
            (
                &source,
                "drivers/pci/c/d.h",
                "static inline int three(void)\n{\n",
            ),
            (&source, "drivers/gpu/e.c", "int four(void)\n{\n"),
            (&objects, "drivers/pci/a.o", ""),
        ] {
            crate::host::files::write_whole(&dir.join(file), text.as_bytes()).unwrap();
        }
        let found = scan(&source, &objects);
        let place = |kind, file: &str| Some((kind, file.to_owned()));
        assert_eq!(
            found.get("one").cloned(),
            place(Kind::Compiled, "drivers/pci/a.c")
        );
        assert_eq!(
            found.get("two").cloned(),
            place(Kind::Unbuilt, "drivers/pci/b.c")
        );
        assert_eq!(
            found.get("three").cloned(),
            place(Kind::Header, "drivers/pci/c/d.h")
        );
        assert_eq!(found.get("four"), None);
    }
}
