// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Functions by name, with the sizes that the kernel prints.

use std::collections::HashMap;

use object::{Object, ObjectSection, ObjectSymbol, ReadRef, SectionFlags, SymbolKind, elf};

use super::NoPlace;

/// A frame in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub function: &'a str,
    pub offset: u64,
    pub size: u64,
}

impl<'a> Frame<'a> {
    /// Reads `function+0x1/0x2` (%pS and %pB of Documentation/core-api/printk-formats.rst). A module behind it, with or
    /// without its build id, is an error of its own.
    pub fn read(text: &'a str) -> Result<Self, NoPlace> {
        let text = text.trim();
        let none = || NoPlace::NoFrame(text.to_owned());
        let (place, rest) = match text.split_once(char::is_whitespace) {
            Some((place, rest)) => (place, rest.trim_start()),
            None => (text, ""),
        };
        let (function, numbers) = place.rsplit_once("+0x").ok_or_else(none)?;
        let (offset, size) = numbers.split_once("/0x").ok_or_else(none)?;
        let hex = |digits: &str| match digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => u64::from_str_radix(digits, 16).map_err(|_| none()),
            false => Err(none()),
        };
        let (offset, size) = (hex(offset)?, hex(size)?);
        if function.is_empty() || offset > size {
            return Err(none());
        }
        if let Some(module) = rest.strip_prefix('[') {
            let name = module.split([']', ' ']).next().unwrap_or_default();
            return Err(NoPlace::Module(name.to_owned()));
        }
        Ok(Frame {
            function,
            offset,
            size,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Function {
    address: u64,
    /// As the ELF symbol says.
    size: u64,
    /// To the next symbol: this is what kallsyms takes for the size (kernel/kallsyms.c, get_symbol_pos).
    room: u64,
}

/// The functions of a kernel.
pub(super) struct Table(HashMap<String, Vec<Function>>);

impl Table {
    /// Reads the symbols of everything that can be executed. In a file that has only symbols and lines, these sections
    /// are there without their contents.
    pub fn read<'a, R: ReadRef<'a>>(file: &object::File<'a, R>) -> object::Result<Self> {
        let code: Vec<usize> = file
            .sections()
            .filter(|section| match section.flags() {
                SectionFlags::Elf { sh_flags, .. } => sh_flags.contains(elf::SHF_EXECINSTR),
                _ => false,
            })
            .map(|section| section.index().0)
            .collect();
        let mut named = Vec::new();
        for symbol in file.symbols() {
            let here = symbol.section_index().is_some_and(|s| code.contains(&s.0));
            let name =
                match here && !matches!(symbol.kind(), SymbolKind::Section | SymbolKind::File) {
                    true => symbol.name()?,
                    false => continue,
                };
            if !name.is_empty() && !is_left_out(name) {
                named.push((symbol.address(), symbol.size(), name));
            }
        }
        named.sort_unstable();
        named.dedup();
        let mut table: HashMap<String, Vec<Function>> = HashMap::with_capacity(named.len());
        let mut next = None;
        let mut at = None;
        for &(address, size, name) in named.iter().rev() {
            if at != Some(address) {
                next = at;
                at = Some(address);
            }
            let room = next.map_or(size, |next: u64| next.saturating_sub(address));
            let same = table.entry(name.to_owned()).or_default();
            if same.iter().all(|f| f.address != address) {
                same.push(Function {
                    address,
                    size,
                    room,
                });
            }
        }
        Ok(Table(table))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address where a function begins, if there is one of that name.
    pub fn start(&self, function: &str) -> Option<u64> {
        match self.0.get(function)?.as_slice() {
            [only] => Some(only.address),
            _ => None,
        }
    }

    /// The addresses that a frame can mean: of functions that have the same name, those with its size.
    pub fn find(&self, frame: &Frame<'_>) -> Result<Vec<u64>, NoPlace> {
        let unknown = || NoPlace::Unknown(frame.function.to_owned());
        let all = self.0.get(frame.function).ok_or_else(unknown)?;
        let with = |fits: &dyn Fn(&Function) -> bool| -> Vec<u64> {
            all.iter()
                .filter(|f| fits(f))
                .map(|f| f.address.wrapping_add(frame.offset))
                .collect()
        };
        let exact = with(&|f| f.room == frame.size);
        let fitting = match exact.is_empty() {
            true => with(&|f| f.size == frame.size),
            false => exact,
        };
        match (all.first(), fitting.is_empty()) {
            (Some(first), true) => Err(NoPlace::OtherSize {
                function: frame.function.to_owned(),
                said: frame.size,
                here: first.room,
            }),
            _ => Ok(fitting),
        }
    }
}

/// Symbols that the kernel's own table does not have, and that therefore end no function (scripts/mksysmap).
fn is_left_out(name: &str) -> bool {
    ["$", ".L", "__kcfi_typeid_", "__efistub_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
