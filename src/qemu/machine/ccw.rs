// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The s390x machine: s390-ccw-virtio, where every PCI function is plugged by itself, and who belongs to whom is in its
//! identifiers.
//!
//! zPCI tells the guest of each function: a function id (FID) and a user-defined id (UID), which becomes the domain of the
//! bus that the function is the first one of (Linux arch/s390/pci/pci_bus.c). QEMU lets both be set (`-device zpci`), but
//! never says that a function is a VF. The guest's module vfrace_zpci derives that from the FID; the scheme is that of
//! guest-tests/module/zpci.h, of which one adapter (0) with one PF is used here:
//!
//! | function | FID | UID | address in the guest |
//! |---|---|---|---|
//! | PF that can have V VFs | 0xfa00VV00 | 0x1000 | 1000:00:00.0 |
//! | VF n | 0xfa00nnnn | 0x1000 + n | 1000:00, device and function n |
//! | mailbox, none of the scheme | 0x1 | 0x1 | 0001:00:00.0 |

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::event::FunctionId;

use super::{Arguments, Machine, device_id, mac, with_path};

/// The PF's address in the guest.
pub const PF_ADDRESS: &str = "1000:00:00.0";

/// UID of the PF.
const UID: u32 = 0x1000;
/// FID of the functions of adapter 0 with one PF, without number and place.
const FID: u32 = 0xfa00_0000;
/// UID and FID of the mailbox.
const MAILBOX: u32 = 1;
/// The mailbox's slot on QEMU's bus. The PF has the next one, VF n the n-th after that: QEMU's IOMMU is one a slot
/// (hw/s390x/s390-pci-bus.c), so that functions cannot share one.
const SLOT: u16 = 1;

/// Kernel command line, see that of q35. The console is the VT220 of SCLP (Linux drivers/s390/char/sclp_vt220.c).
const COMMAND_LINE: &str =
    "console=ttysclp0 loglevel=5 oops=panic panic=-1 rcupdate.rcu_expedited=1";

/// The arguments after QEMU's name. Of the card only the network back ends are there: PF and VFs are plugged in when the
/// guest's module is there, by [`plugs`].
pub(super) fn arguments(
    machine: &Machine<'_>,
    socket: &impl Fn(FunctionId) -> PathBuf,
) -> Arguments {
    let mut args = Arguments::default();
    args.two("-machine", "s390-ccw-virtio,memory-backend=ram");
    // An eighth is KASAN's.
    machine.memory(&mut args, 512 + 4 * u32::from(machine.vfs));
    args.two("-accel", machine.accel.option());
    args.two("-cpu", "max");
    machine.bare(&mut args);
    args.two("-device", "sclpconsole,chardev=console");
    machine.monitors(&mut args);
    machine.system(&mut args, COMMAND_LINE);
    for function in [FunctionId::Pf]
        .into_iter()
        .chain((1..=machine.vfs).map(FunctionId::Vf))
    {
        machine.network(&mut args, function, socket);
    }
    args.two(
        "-chardev",
        with_path("socket,id=c-mailbox,path=", &socket(FunctionId::Mailbox)),
    );
    args.two(
        "-device",
        format!("zpci,id=z-mailbox,uid={MAILBOX:#x},fid={MAILBOX:#x},target=mailbox"),
    );
    args.two(
        "-device",
        format!(
            "vhost-user-test-device-pci,id=mailbox,bus=pci.0,addr={SLOT:#x},chardev=c-mailbox,virtio-id=38,\
             num_vqs=3,vq_size=256"
        ),
    );
    args
}

/// FID of a function of a card with so many VFs; `None` for what is no function of it.
pub fn fid(function: FunctionId, vfs: u16) -> Option<u32> {
    let (number, place) = match function {
        FunctionId::Pf => (vfs, 0),
        FunctionId::Vf(number) => (number, number),
        FunctionId::Bridge | FunctionId::Mailbox => return None,
    };
    Some(FID | u32::from(number & 0xff) << 8 | u32::from(place & 0xff))
}

/// UID of a function of the card; `None` for what is no function of it.
pub fn uid(function: FunctionId) -> Option<u32> {
    match function {
        FunctionId::Pf => Some(UID),
        FunctionId::Vf(number) => Some(UID + u32::from(number)),
        FunctionId::Bridge | FunctionId::Mailbox => None,
    }
}

/// Address in the guest of a VF that its kernel knows for one of the PF's: device and function number are those of the
/// routing id, which is the VF's number.
pub fn vf_address(number: u16) -> String {
    let domain = PF_ADDRESS.trim_end_matches("00.0");
    format!("{domain}{:02x}.{}", number >> 3, number & 7)
}

/// What QMP's `device_add` (qapi/qdev.json) is given to plug a function in, in this order. `vfs` and `queue_pairs` must be
/// the machine's. `None` for what is no function of the card. The second one takes the first with it when it is unplugged.
pub fn plugs(function: FunctionId, vfs: u16, queue_pairs: u16) -> Option<[Value; 2]> {
    let number = match function {
        FunctionId::Vf(number) => number,
        FunctionId::Pf | FunctionId::Bridge | FunctionId::Mailbox => 0,
    };
    let zpci = json!({
        "driver": "zpci",
        "id": zpci_id(function),
        "target": device_id(function),
        "uid": uid(function)?,
        "fid": fid(function, vfs)?,
    });
    let mut net = json!({
        "driver": "virtio-net-pci",
        "id": device_id(function),
        "bus": "pci.0",
        "addr": format!("{:#x}", SLOT + 1 + number),
        "netdev": format!("n-{function}"),
        "mac": mac(number),
        // There is no firmware that would boot from it.
        "romfile": "",
    });
    if let (true, Value::Object(properties)) = (queue_pairs > 1, &mut net) {
        properties.insert("mq".to_owned(), true.into());
    }
    Some([zpci, net])
}

/// The id in QEMU of what gives a function its identifiers.
pub fn zpci_id(function: FunctionId) -> String {
    format!("z-{function}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::scenario::MOST_VFS_S390X;

    #[test]
    fn only_the_mailbox_is_there_when_the_guest_boots() {
        let args = super::super::sample_arguments(Arch::S390x, 2, 1);
        assert_eq!(
            args.join(" "),
            "-machine s390-ccw-virtio,memory-backend=ram \
             -object memory-backend-memfd,id=ram,size=520M,share=on -m 520M -accel tcg,thread=multi -cpu max -smp 2 \
             -nodefaults -no-user-config -display none -no-reboot -chardev file,id=console,path=console \
             -device sclpconsole,chardev=console -chardev socket,id=qmp,path=s/qmp -mon chardev=qmp,mode=control \
             -kernel bzImage -initrd initramfs \
             -append console=ttysclp0 loglevel=5 oops=panic panic=-1 rcupdate.rcu_expedited=1 \
             initcall_blacklist=slab_late_init,slab_sysfs_init,param_sysfs_builtin_init \
             -chardev socket,id=c-pf,path=s/pf.sock -netdev vhost-user,id=n-pf,chardev=c-pf,queues=1 \
             -chardev socket,id=c-vf1,path=s/vf1.sock -netdev vhost-user,id=n-vf1,chardev=c-vf1,queues=1 \
             -chardev socket,id=c-vf2,path=s/vf2.sock -netdev vhost-user,id=n-vf2,chardev=c-vf2,queues=1 \
             -chardev socket,id=c-mailbox,path=s/mailbox.sock \
             -device zpci,id=z-mailbox,uid=0x1,fid=0x1,target=mailbox \
             -device vhost-user-test-device-pci,id=mailbox,bus=pci.0,addr=0x1,chardev=c-mailbox,virtio-id=38,\
             num_vqs=3,vq_size=256"
        );
    }

    #[test]
    fn a_function_says_in_its_identifiers_what_it_is() {
        let [zpci, net] = plugs(FunctionId::Pf, 4, 1).unwrap();
        assert_eq!(
            zpci,
            json!({"driver": "zpci", "id": "z-pf", "target": "pf", "uid": 0x1000, "fid": 0xfa00_0400_u32})
        );
        assert_eq!(
            net,
            json!({
                "driver": "virtio-net-pci", "id": "pf", "bus": "pci.0", "addr": "0x2", "netdev": "n-pf",
                "mac": "52:54:00:76:00:00", "romfile": "",
            })
        );
        let [zpci, net] = plugs(FunctionId::Vf(3), 4, 2).unwrap();
        assert_eq!(zpci["uid"], 0x1003);
        assert_eq!(zpci["fid"], 0xfa00_0303_u32);
        assert_eq!((&net["addr"], &net["mq"]), (&"0x5".into(), &true.into()));
        assert!(plugs(FunctionId::Mailbox, 4, 1).is_none());
    }

    #[test]
    fn the_bus_has_room_for_the_last_vf() {
        // A bus has 32 devices (PCI Local Bus Specification 3.0, section 3.2.2.3.2).
        let [_, last] = plugs(FunctionId::Vf(MOST_VFS_S390X), MOST_VFS_S390X, 1).unwrap();
        assert_eq!(last["addr"], "0x1f");
    }
}
