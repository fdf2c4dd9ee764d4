// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person sees of a kernel that lacks some functions.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: PointsArgs,
}

fn args(line: &str) -> PointsArgs {
    Line::try_parse_from(std::iter::once("points").chain(line.split_whitespace()))
        .unwrap()
        .args
}

/// A kernel with these tables, and what is printed of it.
fn shown(line: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let at = |file: &str| dir.path().join(file);
    std::fs::write(
        at("functions"),
        "device_del\nsriov_disable\ntype_show *7\nsriov_enable *2\n",
    )
    .unwrap();
    std::fs::write(
        at("functions.others"),
        "device_add\tnotrace\t\nsriov_add_vfs\tcloned\tsriov_add_vfs.isra.0\nsriov_del_vfs\tcompiled\tdrivers/pci/iov.c\n\
         sriov_disable\tcopy\tsriov_disable.part.0\nvirtio_pci_sriov_configure\tunbuilt\tdrivers/virtio/virtio_pci_common.c\n",
    )
    .unwrap();
    let kernel = BuiltKernel {
        name: "v7@7.3".parse().unwrap(),
        arch: crate::arch::Arch::X86_64,
        id: "0123".to_owned(),
        source_version: "7.3.4-1".to_owned(),
        release: "7.3.4".to_owned(),
        image: at("bzImage"),
        module: at("vfrace.ko"),
        boot_modules: Vec::new(),
        system_map: at("System.map"),
        functions: at("functions"),
        symbols: at("vmlinux.debug"),
        dir: dir.path().to_path_buf(),
        config_summary: String::new(),
    };
    let functions = Functions::load(&kernel).unwrap();
    let args = args(line);
    let listing = list(&args, Some(&kernel), Some(&functions));
    match args.format {
        Format::Text => text(&listing, args.text.as_deref()),
        Format::Json => serde_json::to_string_pretty(&listing).unwrap(),
    }
}

#[test]
fn functions_that_are_not_there_say_why() {
    insta::assert_snapshot!(shown("--kernel v7@7.3 --match SRIOV_"));
}

#[test]
fn a_name_outside_of_the_table() {
    insta::assert_snapshot!(shown("--kernel v7@7.3 --match type_show"));
    insta::assert_snapshot!(shown("--kernel v7@7.3 --match no_such"));
}

#[test]
fn all_functions() {
    insta::assert_snapshot!(shown("--kernel v7@7.3 --match _show --all"));
}

#[test]
fn json() {
    insta::assert_snapshot!(shown("--kernel v7@7.3 --match sriov_dis --format json"));
}

#[test]
fn without_a_kernel_it_is_the_table() {
    let some = args("--match vring_base");
    insta::assert_snapshot!(text(&list(&some, None, None), some.text.as_deref()));
    let all = list(&args(""), None, None);
    assert_eq!(
        (all.functions.len(), all.messages.len()),
        (POINTS.len(), MESSAGES.len())
    );
}
