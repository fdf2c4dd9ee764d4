// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tables: from an image to files and back.

use proptest::prelude::*;

use super::*;
use crate::kernel::definitions::Kind;
use crate::kernel::image::Function;

fn image(rows: &[(&str, u32, u32, u32)]) -> Image {
    rows.iter()
        .map(|(name, count, ftraceable, init)| {
            let function = Function {
                count: *count,
                ftraceable: *ftraceable,
                init: *init,
            };
            ((*name).to_owned(), function)
        })
        .collect()
}

/// A kernel as the compiler leaves it, and what its source has.
fn both() -> (String, String) {
    let image = image(&[
        ("device_del", 1, 1, 0),
        ("device_del.cold", 1, 0, 0),
        ("type_show", 7, 7, 0),
        ("half_show", 2, 1, 0),
        ("asm_entry", 1, 0, 0),
        ("pci_setup", 1, 0, 1),
        ("pci_stop_dev.isra.0", 1, 1, 0),
        ("acpi_bind", 1, 1, 0),
        ("acpi_bind.part.0", 1, 1, 0),
        ("", 1, 1, 0),
        ("a\nb", 1, 1, 0),
    ]);
    let defined = [
        ("device_del", Kind::Compiled, "drivers/base/core.c"),
        ("pci_stop_dev", Kind::Compiled, "drivers/pci/remove.c"),
        ("sriov_add_vfs", Kind::Compiled, "drivers/pci/iov.c"),
        ("dev_name", Kind::Header, "include/linux/device.h"),
        (
            "xilinx_probe",
            Kind::Unbuilt,
            "drivers/pci/controller/pcie-xilinx.c",
        ),
    ]
    .map(|(name, kind, file)| (name.to_owned(), (kind, file.to_owned())))
    .into();
    tables(&image, &defined)
}

fn load(traceable: &str, others: &str) -> Result<Functions, KernelError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(path(dir.path()), traceable).unwrap();
    std::fs::write(dir.path().join(OTHERS), others).unwrap();
    Functions::read(&path(dir.path()))
}

#[test]
fn the_table_is_a_name_a_line() {
    insta::assert_snapshot!(both().0, @r"
    acpi_bind
    acpi_bind.part.0
    device_del
    half_show *2
    pci_stop_dev.isra.0
    type_show *7
    ");
}

#[test]
fn every_reason_survives_the_file() {
    let (traceable, others) = both();
    let functions = load(&traceable, &others).unwrap();
    let absent = Presence::Absent;
    for (name, presence) in [
        ("device_del", Presence::Ftraceable),
        ("acpi_bind", Presence::Ftraceable),
        ("type_show", Presence::Ambiguous(7)),
        ("half_show", Presence::Ambiguous(2)),
        ("asm_entry", Presence::NotFtraceable(Untraceable::NoTrace)),
        ("pci_setup", Presence::NotFtraceable(Untraceable::Init)),
        (
            "pci_stop_dev",
            absent(Absence::Cloned("pci_stop_dev.isra.0".into())),
        ),
        (
            "sriov_add_vfs",
            absent(Absence::InlinedOrOff("drivers/pci/iov.c".into())),
        ),
        (
            "dev_name",
            absent(Absence::Header("include/linux/device.h".into())),
        ),
        (
            "xilinx_probe",
            absent(Absence::NotBuilt(
                "drivers/pci/controller/pcie-xilinx.c".into(),
            )),
        ),
        ("no_such", absent(Absence::Unknown)),
        ("", absent(Absence::Unknown)),
    ] {
        assert_eq!(functions.has(name), presence, "{name}");
    }
    assert_eq!(
        functions.clones("acpi_bind").collect::<Vec<_>>(),
        ["acpi_bind.part.0"]
    );
    assert_eq!(functions.clones("device_del").count(), 0);
    assert_eq!(functions.all().count(), 6);
}

#[test]
fn reasons_for_people() {
    let (traceable, others) = both();
    let functions = load(&traceable, &others).unwrap();
    let told: Vec<_> = [
        "pci_stop_dev",
        "sriov_add_vfs",
        "xilinx_probe",
        "type_show",
        "pci_setup",
    ]
    .map(|name| functions.has(name).to_string())
    .into();
    insta::assert_snapshot!(told.join("\n"), @r"
    inlined or cloned by the compiler (pci_stop_dev.isra.0 is there)
    drivers/pci/iov.c is built, but the compiler inlined it or the configuration leaves it out
    drivers/pci/controller/pcie-xilinx.c is not built in this configuration
    7 functions have this name
    its memory is given back after boot
    ");
}

#[test]
fn a_broken_table_is_told_with_its_line() {
    for (traceable, others, words) in [
        ("", "", "functions:1: no function at all"),
        ("a\nb c\n", "", "functions:2: not the name"),
        ("a\nb *x\n", "", "functions:2: no number"),
        ("a\nb *1\n", "", "functions:2: no number"),
        (
            "a\n",
            "b\tnotrace\n",
            "functions.others:1: not three fields",
        ),
        (
            "a\n",
            "b\tnotrace\t\nc\twhat\tx\n",
            "functions.others:2: a kind",
        ),
        (
            "a\n",
            "b c\tnotrace\t\n",
            "functions.others:1: not the name",
        ),
    ] {
        let error = load(traceable, others).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(error.exit(), crate::exit::ExitCode::Infrastructure);
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Functions::read(&path(dir.path())),
        Err(KernelError::Host(_))
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_no_panic(a in "[a-z *0-9\t\n]{0,40}", b in "[a-z \t\n]{0,40}", c: Vec<u8>) {
        let _ = load(&a, &b);
        let _ = load(&a, &String::from_utf8_lossy(&c));
        let _ = load(&String::from_utf8_lossy(&c), &b);
    }
}
