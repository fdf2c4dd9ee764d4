// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vmlinux of a few hundred bytes, whole and damaged.

use proptest::prelude::*;

use super::*;

const TEXT: u64 = 0xffff_ffff_8100_0000;
const INIT: u64 = 0xffff_ffff_8200_0000;
const DATA: u64 = 0xffff_ffff_8300_0000;
// Indices of the sections with code and with the table.
const IN_TEXT: u16 = 1;
const IN_INIT: u16 = 2;
const IN_DATA: u16 = 3;

/// A section: name, type, flags, address, content, link, size of an entry.
type Section = (&'static str, u32, u64, u64, Vec<u8>, u32, u64);

/// An ELF64 file for x86_64 with these symbols (name, section, address, STT_FUNC or not) and call sites.
fn elf(symbols: &[(&str, u16, u64, bool)], sites: &[u64]) -> Vec<u8> {
    elf_of(Order::Little, symbols, sites)
}

/// The order of bytes in a file, with the machine that has it.
#[derive(Clone, Copy)]
enum Order {
    /// x86_64.
    Little,
    /// s390x.
    Big,
}

impl Order {
    fn bytes<const N: usize>(self, little: [u8; N]) -> [u8; N] {
        let mut bytes = little;
        if matches!(self, Order::Big) {
            bytes.reverse();
        }
        bytes
    }

    fn u16(self, value: u16) -> [u8; 2] {
        self.bytes(value.to_le_bytes())
    }

    fn u32(self, value: u32) -> [u8; 4] {
        self.bytes(value.to_le_bytes())
    }

    fn u64(self, value: u64) -> [u8; 8] {
        self.bytes(value.to_le_bytes())
    }
}

/// The same in either order.
fn elf_of(order: Order, symbols: &[(&str, u16, u64, bool)], sites: &[u64]) -> Vec<u8> {
    let (mut names, mut table) = (vec![0u8], vec![0u8; 24]);
    for (name, section, address, function) in symbols {
        table.extend(order.u32(names.len() as u32));
        table.extend([if *function { 0x12 } else { 0x10 }, 0]);
        table.extend(order.u16(*section));
        table.extend(order.u64(*address));
        table.extend(order.u64(16));
        names.extend(name.bytes());
        names.push(0);
    }
    let sites: Vec<u8> = sites.iter().flat_map(|s| order.u64(*s)).collect();
    let sections: [Section; 7] = [
        ("", 0, 0, 0, vec![], 0, 0),
        (".text", 1, 6, TEXT, vec![0x90; 64], 0, 0),
        (".init.text", 1, 6, INIT, vec![0x90; 64], 0, 0),
        (".init.data", 1, 3, DATA, sites, 0, 0),
        (".symtab", 2, 0, 0, table, 5, 24),
        (".strtab", 3, 0, 0, names, 0, 0),
        (".shstrtab", 3, 0, 0, vec![0; 1], 0, 0),
    ];
    let mut strings = vec![0u8];
    let (mut body, mut headers) = (vec![0u8; 64], Vec::new());
    let offsets: Vec<u32> = sections
        .iter()
        .map(|(name, ..)| {
            let at = strings.len() as u32;
            strings.extend(name.bytes());
            strings.push(0);
            at
        })
        .collect();
    for ((name, kind, flags, address, content, link, entry), at) in
        sections.into_iter().zip(offsets)
    {
        let content = if name == ".shstrtab" {
            strings.clone()
        } else {
            content
        };
        headers.extend(order.u32(at));
        headers.extend(order.u32(kind));
        for field in [flags, address, body.len() as u64, content.len() as u64] {
            headers.extend(order.u64(field));
        }
        headers.extend(order.u32(link));
        headers.extend(order.u32(1));
        headers.extend(order.u64(1));
        headers.extend(order.u64(entry));
        body.extend(content);
    }
    let header: Vec<u8> = [
        b"\x7fELF\x02".to_vec(),
        // ELFDATA2LSB or ELFDATA2MSB; the version.
        match order {
            Order::Little => vec![1, 1],
            Order::Big => vec![2, 1],
        },
        vec![0; 9],
        order.u16(2).to_vec(),
        // EM_X86_64 or EM_S390.
        match order {
            Order::Little => order.u16(62).to_vec(),
            Order::Big => order.u16(22).to_vec(),
        },
        order.u32(1).to_vec(),
        [TEXT, 0, body.len() as u64]
            .iter()
            .flat_map(|v| order.u64(*v))
            .collect(),
        order.u32(0).to_vec(),
        [64u16, 56, 0, 64, 7, 6]
            .iter()
            .flat_map(|v| order.u16(*v))
            .collect(),
    ]
    .concat();
    body.splice(..64, header);
    body.extend(headers);
    body
}

/// The ends of a table of `n` call sites.
fn ends(n: u64) -> [(&'static str, u16, u64, bool); 2] {
    [
        ("__start_mcount_loc", IN_DATA, DATA, false),
        ("__stop_mcount_loc", IN_DATA, DATA + 8 * n, false),
    ]
}

fn small() -> Vec<u8> {
    let mut symbols = vec![
        ("device_del", IN_TEXT, TEXT, true),
        ("pci_stop_dev", IN_TEXT, TEXT + 16, true),
        ("type_show", IN_TEXT, TEXT + 32, true),
        ("type_show", IN_TEXT, TEXT + 40, true),
        ("asm_entry", IN_TEXT, TEXT + 48, true),
        ("label", IN_TEXT, TEXT + 16, false),
        ("pci_setup", IN_INIT, INIT, true),
    ];
    symbols.extend(ends(6));
    // pci_stop_dev has an endbr64 before the call; a zero is the entry of a weak function that was replaced.
    elf(&symbols, &[TEXT, TEXT + 20, TEXT + 32, TEXT + 40, INIT, 0])
}

/// Headers of a distribution have a vmlinux without code: nothing of it is executable.
#[test]
fn a_vmlinux_for_its_types_only_has_no_code() {
    let mut bytes = small();
    assert!(has_code(&bytes));
    let table = u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap()) as usize;
    for section in bytes[table..].chunks_mut(64) {
        // sh_flags without SHF_EXECINSTR
        section[8] &= !4;
    }
    assert!(!has_code(&bytes));
    assert!(!has_code(b"\x7fELF"));
}

#[test]
fn what_ftrace_can_redirect() {
    let image = read(&small()).unwrap();
    let row = |name: &str| image.get(name).map(|f| (f.count, f.ftraceable, f.init));
    assert_eq!(row("device_del"), Some((1, 1, 0)));
    assert_eq!(row("pci_stop_dev"), Some((1, 1, 0)));
    assert_eq!(row("type_show"), Some((2, 2, 0)));
    assert_eq!(row("asm_entry"), Some((1, 0, 0)));
    assert_eq!(row("pci_setup"), Some((1, 0, 1)));
    assert_eq!(row("label"), None);
    assert_eq!(row("__start_mcount_loc"), None);
}

/// A vmlinux of s390x has its bytes the other way round, and its functions begin with the call.
#[test]
fn what_ftrace_can_redirect_on_s390x() {
    let mut symbols = vec![
        ("zpci_event_availability", IN_TEXT, TEXT, true),
        ("pci_iov_remove_virtfn", IN_TEXT, TEXT + 16, true),
        ("asm_entry", IN_TEXT, TEXT + 48, true),
    ];
    symbols.extend(ends(2));
    let image = read(&elf_of(Order::Big, &symbols, &[TEXT, TEXT + 16])).unwrap();
    let row = |name: &str| image.get(name).map(|f| (f.count, f.ftraceable, f.init));
    assert_eq!(row("zpci_event_availability"), Some((1, 1, 0)));
    assert_eq!(row("pci_iov_remove_virtfn"), Some((1, 1, 0)));
    assert_eq!(row("asm_entry"), Some((1, 0, 0)));
}

#[test]
fn a_table_that_is_not_there_or_makes_no_sense() {
    let function = ("device_del", IN_TEXT, TEXT, true);
    let told = |symbols: &[_], sites: &[u64]| read(&elf(symbols, sites)).unwrap_err().to_string();
    assert!(told(&[function], &[TEXT]).contains("is not there"));
    let [start, stop] = ends(1);
    assert!(told(&[function, start], &[TEXT]).contains("is not there"));
    let (early, odd, far) = (
        (stop.0, IN_DATA, DATA - 8, false),
        (stop.0, IN_DATA, DATA + 7, false),
        (stop.0, IN_DATA, u64::MAX - 7, false),
    );
    assert!(told(&[function, start, early], &[TEXT]).contains("do not fit"));
    assert!(told(&[function, start, odd], &[TEXT]).contains("do not fit"));
    assert!(told(&[function, start, far], &[TEXT]).contains("no section"));
    // As in a file whose table is filled in at run time.
    assert!(told(&[function, start, stop], &[0]).contains("none of its entries"));
    assert!(matches!(read(b"not an ELF file"), Err(ImageError::Elf(_))));
    assert!(matches!(read(b""), Err(ImageError::Elf(_))));
}

#[test]
fn a_file_that_was_cut_is_no_panic() {
    let whole = small();
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "{length} bytes");
    }
}

proptest! {
    #[test]
    fn damage_is_no_panic(at in 0usize..2000, value: u8, wide: u64) {
        let mut bytes = small();
        let at = at % (bytes.len() - 8);
        bytes[at] = value;
        let _ = read(&bytes);
        bytes[at..at + 8].copy_from_slice(&wide.to_le_bytes());
        let _ = read(&bytes);
    }
}
