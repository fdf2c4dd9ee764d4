// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions of a vmlinux, and which of them ftrace can redirect.
//!
//! The table between the symbols `__start_mcount_loc` and `__stop_mcount_loc` has the address of every function's call
//! of `__fentry__` (kernel/trace/ftrace.c, ftrace_init). An address belongs to the function that begins there, or an
//! `endbr64` (4 bytes, arch/x86/include/asm/ibt.h) before it. Entries for code that is freed after boot are there too;
//! ftrace drops them (ftrace_free_init_mem).

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// Bytes of an instruction that may come before the call.
const ENDBR: u64 = 4;
/// Symbols at the two ends of the table.
const TABLE: [&str; 2] = ["__start_mcount_loc", "__stop_mcount_loc"];

/// A function of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Functions with this name.
    pub count: u32,
    /// Of these, those that ftrace can redirect.
    pub ftraceable: u32,
    /// Of these, those in a section that is freed after boot.
    pub init: u32,
}

/// The functions of an image by name. Names with a dot (`x.isra.0`) are the compiler's.
pub type Image = BTreeMap<String, Function>;

/// Why a vmlinux cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an ELF file, or a broken one.
    #[error("not an ELF file that can be read")]
    Elf(#[from] object::Error),
    /// There is no table of call sites.
    #[error("no ftrace table: {0}")]
    Table(&'static str),
}

/// Whether a file has a kernel's code. The vmlinux among a distribution's headers is there for its BTF and has none.
pub fn has_code(bytes: &[u8]) -> bool {
    object::File::parse(bytes)
        .is_ok_and(|file| file.sections().any(|s| s.kind() == SectionKind::Text))
}

/// Reads a 64-bit vmlinux.
pub fn read(bytes: &[u8]) -> Result<Image, ImageError> {
    let file = object::File::parse(bytes)?;
    if !file.is_64() {
        return Err(ImageError::Table("the file is not for 64 bits"));
    }
    let sites = sites(&file)?;
    let sections: BTreeMap<usize, bool> = file
        .sections()
        .filter(|s| s.kind() == SectionKind::Text)
        .map(|s| {
            let freed = s.name().is_ok_and(|n| {
                n.starts_with(".init") || n.starts_with(".exit") || n.starts_with(".meminit")
            });
            (s.index().0, freed)
        })
        .collect();
    let mut image = Image::new();
    let mut seen = BTreeSet::new();
    for symbol in file.symbols() {
        let Some(freed) = symbol.section_index().and_then(|s| sections.get(&s.0)) else {
            continue;
        };
        let name = symbol.name()?;
        if symbol.kind() != SymbolKind::Text || name.is_empty() {
            continue;
        }
        let at = symbol.address();
        // A weak and a strong symbol of one function are one function.
        if !seen.insert((name, at)) {
            continue;
        }
        let traced = sites.contains(&at) || sites.contains(&at.wrapping_add(ENDBR));
        let function = image.entry(name.to_owned()).or_default();
        function.count = function.count.saturating_add(1);
        if *freed {
            function.init = function.init.saturating_add(1);
        } else if traced {
            function.ftraceable = function.ftraceable.saturating_add(1);
        }
    }
    if image.values().all(|f| f.ftraceable == 0) {
        return Err(ImageError::Table("none of its entries is a function"));
    }
    Ok(image)
}

/// The addresses in the table.
fn sites(file: &object::File<'_>) -> Result<BTreeSet<u64>, ImageError> {
    let mut ends = TABLE.map(|_| None);
    for symbol in file.symbols() {
        for (end, name) in ends.iter_mut().zip(TABLE) {
            if symbol.name() == Ok(name) {
                *end = Some(symbol.address());
            }
        }
    }
    let [Some(start), Some(stop)] = ends else {
        return Err(ImageError::Table(
            "__start_mcount_loc or __stop_mcount_loc is not there",
        ));
    };
    let size = stop
        .checked_sub(start)
        .filter(|size| size % 8 == 0)
        .ok_or(ImageError::Table("its ends do not fit together"))?;
    let little = file.is_little_endian();
    for section in file.sections() {
        if let Some(data) = section.data_range(start, size)? {
            return Ok(data
                .chunks_exact(8)
                .filter_map(|b| b.try_into().ok())
                .map(if little {
                    u64::from_le_bytes
                } else {
                    u64::from_be_bytes
                })
                .filter(|at| *at != 0)
                .collect());
        }
    }
    Err(ImageError::Table("no section has it"))
}

#[cfg(test)]
mod tests;
