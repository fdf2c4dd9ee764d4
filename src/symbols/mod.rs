// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the frames of a stack, `device_del+0x835/0x8c0`, to lines of source: the kernel's own symbols and DWARF.
//!
//! Only function, offset and size are used, never an address: where the kernel was loaded (KASLR) does not matter. The
//! file is not trusted; a broken one is an error, and a frame that does not fit it has no places.

mod fill;
mod places;
mod table;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use addr2line::Context;
use gimli::{DwarfSections, EndianSlice, RunTimeEndian, SectionId};
use object::{Object, ObjectSection, ReadCache};

use crate::event::Place;

pub use fill::{Filled, fill, fill_from};

use table::Table;

/// Uncompressed sections that are taken in, all together. A kernel with everything switched on has some 2 GiB.
const MOST_BYTES: u64 = 4 << 30;
/// What is read of the file; the other sections (where variables live, macros) are about half of it.
const SECTIONS: [SectionId; 10] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugAranges,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

type Reader<'a> = EndianSlice<'a, RunTimeEndian>;

/// A file with symbols that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// Not there, or not readable.
    #[error("cannot read the symbols in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else, e.g. a bzImage.
    #[error("{path} is not an ELF file; vmlinux of the kernel's build is needed, not bzImage")]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// An ELF file with an error in it.
    #[error("{path} is a broken ELF file")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is broken.
        source: object::Error,
    },
    /// No functions in it.
    #[error("{path} has no symbol table; it was stripped, or is not the kernel's vmlinux")]
    NoTable {
        /// The file.
        path: PathBuf,
    },
    /// No lines in it.
    #[error("{path} has no lines of source; build the kernel with CONFIG_DEBUG_INFO")]
    NoLines {
        /// The file.
        path: PathBuf,
    },
    /// The debug information is broken, or larger than what is taken.
    #[error("the debug information in {path} cannot be used: {what}")]
    Dwarf {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
}

/// Why a frame has no place in the source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Not `function+0xOFFSET/0xSIZE`.
    #[error("`{0}` is no frame of a stack")]
    NoFrame(String),
    /// It is in a module, whose symbols are elsewhere.
    #[error("it is in the module {0}")]
    Module(String),
    /// There is no such function.
    #[error("the symbols have no function {0}")]
    Unknown(String),
    /// The function has another size: the symbols are those of another kernel.
    #[error("{function} has {here} bytes in the symbols, not {said}")]
    OtherSize {
        /// The function.
        function: String,
        /// As the frame says.
        said: u64,
        /// As the symbols say.
        here: u64,
    },
    /// There are several such functions, in different places.
    #[error("{count} functions {function} could be meant")]
    Ambiguous {
        /// The function.
        function: String,
        /// How many.
        count: usize,
    },
    /// It is known where it is, but not from which line.
    #[error("there is no line for it")]
    NoLine,
    /// The debug information is broken there.
    #[error("broken debug information: {0}")]
    Broken(String),
}

/// What an offset points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// To the instruction meant: the place of a fault or of a warning (`RIP:`).
    Instruction,
    /// Behind the call that is meant: every other frame of a stack.
    Return,
}

/// A file with symbols and lines, in memory.
pub struct SymbolFile {
    path: PathBuf,
    table: Table,
    sections: DwarfSections<Vec<u8>>,
    endian: RunTimeEndian,
}

impl SymbolFile {
    /// Reads a vmlinux, or what `objcopy --only-keep-debug` leaves of one; compressed sections as well.
    pub fn load(path: &Path) -> Result<Self, SymbolsError> {
        let path = path.to_path_buf();
        let mut magic = [0; 4];
        let opened = File::open(&path).and_then(|mut file| {
            // A device or a pipe has no sections, and could have no end.
            if !file.metadata()?.is_file() {
                return Ok(None);
            }
            match file.read_exact(&mut magic) {
                Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(e),
                _ => Ok(Some(file)),
            }
        });
        let file = match opened {
            Ok(Some(file)) if magic == object::elf::ELFMAG => file,
            Ok(_) => return Err(SymbolsError::NotElf { path }),
            Err(source) => return Err(SymbolsError::Read { path, source }),
        };
        let cache = ReadCache::new(file);
        let read = object::File::parse(&cache).and_then(|elf| Ok((Table::read(&elf)?, elf)));
        let (table, elf) = match read {
            Ok(read) => read,
            Err(source) => return Err(SymbolsError::Broken { path, source }),
        };
        if table.is_empty() {
            return Err(SymbolsError::NoTable { path });
        }
        let sections = match sections(&elf) {
            Ok((_, false)) => return Err(SymbolsError::NoLines { path }),
            Ok((sections, true)) => sections,
            Err(e) => {
                let what = e.to_string();
                return Err(SymbolsError::Dwarf { path, what });
            }
        };
        let endian = match elf.is_little_endian() {
            true => RunTimeEndian::Little,
            false => RunTimeEndian::Big,
        };
        Ok(SymbolFile {
            path,
            table,
            sections,
            endian,
        })
    }

    /// Makes them ready for questions. What is learnt from the debug information is kept until the result is dropped.
    pub fn symbols(&self) -> Result<Symbols<'_>, SymbolsError> {
        let dwarf = self
            .sections
            .borrow(|section| EndianSlice::new(section, self.endian));
        let context = Context::from_dwarf(dwarf).map_err(|e| SymbolsError::Dwarf {
            path: self.path.clone(),
            what: e.to_string(),
        })?;
        Ok(Symbols {
            table: &self.table,
            context,
            top: OnceCell::new(),
        })
    }
}

/// The debug information that is needed for lines, and whether there is any.
fn sections<'a>(
    elf: &object::File<'a, &'a ReadCache<File>>,
) -> Result<(DwarfSections<Vec<u8>>, bool), Unusable> {
    let (mut left, mut has_lines) = (MOST_BYTES, false);
    let sections = DwarfSections::load(|id| {
        let section = match SECTIONS.contains(&id) {
            true => elf.section_by_name(id.name()),
            false => None,
        };
        let Some(section) = section else {
            return Ok(Vec::new());
        };
        let data = section.compressed_data()?;
        let size = data.uncompressed_size;
        left = left.checked_sub(size).ok_or(Unusable::Size)?;
        has_lines |= id == SectionId::DebugLine && size > 0;
        Ok::<_, Unusable>(data.decompress()?.into_owned())
    })?;
    Ok((sections, has_lines))
}

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("its sections are larger than 4 GiB")]
    Size,
    #[error("{0}")]
    Section(#[from] object::Error),
}

/// The symbols and lines of a kernel.
pub struct Symbols<'a> {
    table: &'a Table,
    context: Context<Reader<'a>>,
    /// What is in front of a path from the kernel's top directory, with the slash at the end.
    top: OnceCell<Option<String>>,
}

impl Symbols<'_> {
    /// The lines of source behind a frame as the kernel prints it, `function+0xOFFSET/0xSIZE`: functions that were inlined
    /// first, the function that is named last. Files are named from the kernel's top directory.
    pub fn places(&self, frame: &str, at: At) -> Result<Vec<Place>, NoPlace> {
        let frame = table::Frame::read(frame)?;
        let mut all: Vec<Vec<Place>> = Vec::new();
        for address in self.table.find(&frame)? {
            // The call itself, unless nothing is before it: as decode_stacktrace.sh does.
            let back = u64::from(at == At::Return && frame.offset > 0);
            let places = self.at(address.wrapping_sub(back), frame.function)?;
            if !all.contains(&places) {
                all.push(places);
            }
        }
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (_, more) => Err(NoPlace::Ambiguous {
                function: frame.function.to_owned(),
                count: more + 1,
            }),
        }
    }
}
