// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The x86_64 machine: q35 with one root port, the composed SR-IOV device behind it and the mailbox on the root bus.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::event::FunctionId;
use crate::qemu::probe::Accel;

use super::{Arguments, Machine, device_id, mac, option, with_path};

/// The PF's address in the guest: the root port is the only bridge, so firmware gives its bus number 1.
pub const PF_ADDRESS: &str = "0000:01:00.0";

/// The root port's address in the guest, which is where it is put on the command line.
pub const BRIDGE_ADDRESS: &str = "0000:00:02.0";

/// The device number of [`BRIDGE_ADDRESS`].
pub(in crate::qemu) const BRIDGE_DEVICE: u8 = 2;

/// The root port's slot in the guest's sysfs: it is named after the slot number on the command line (Linux
/// drivers/pci/hotplug/pciehp_core.c, init_slot()).
pub const SLOT_DIRECTORY: &str = "/sys/bus/pci/slots/1";

/// Kernel command line. Level 5 prints warnings and worse: every report, none of the chatter that costs an exit a
/// byte. An oops is a panic and a panic ends QEMU at once (`panic=-1` with `-no-reboot`). `tsc=reliable` keeps the
/// clocksource watchdog from dropping to HPET, where each clock read is MMIO. `pcie_ports=native` gives the slot to
/// pciehp: a kernel without CONFIG_PCIEASPM does not ask ACPI for it (Linux drivers/acpi/pci_root.c,
/// ACPI_PCIE_REQ_SUPPORT). With expedited grace periods a teardown takes half the time: each network device waits for
/// several, which at 100 ticks a second take 30 ms and more while the handler's CPU polls.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 oops=panic panic=-1 tsc=reliable pcie_ports=native rcupdate.rcu_expedited=1";

/// The arguments after QEMU's name.
pub(super) fn arguments(
    machine: &Machine<'_>,
    socket: &impl Fn(FunctionId) -> PathBuf,
) -> Arguments {
    let mut args = Arguments::default();
    // What is not used is off: each controller costs the guest's boot under TCG.
    args.two(
        "-machine",
        "q35,memory-backend=ram,usb=off,smbus=off,sata=off,vmport=off",
    );
    // Native PCI Express hotplug. With ACPI's, the firmware's tables describe every slot and the guest interprets
    // them for seconds.
    args.two(
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    );
    // Measured: a KASAN kernel with three functions runs in 256 MiB, and a VF's receive buffers take under 4.
    machine.memory(&mut args, 256 + 4 * u32::from(machine.vfs));
    args.two("-accel", machine.accel.option());
    // Without hardware a plain CPU: the extensions of `max` (five-level page tables, SMAP) cost a tenth of the boot.
    let cpu = match machine.accel {
        Accel::Kvm => "host",
        Accel::Tcg => "core2duo",
    };
    args.two("-cpu", cpu);
    machine.bare(&mut args);
    args.two("-serial", "chardev:console");
    machine.monitors(&mut args);
    machine.system(&mut args, COMMAND_LINE);
    // Firmware sizes the windows by the BARs that it sees; those of the VFs are in the SR-IOV capability: 255 VFs need
    // 4 MiB of the one and 1 of the other.
    args.two(
        "-device",
        format!(
            "pcie-root-port,id=root-port,bus=pcie.0,addr={BRIDGE_DEVICE:#x},slot=1,chassis=1,\
             mem-reserve=32M,pref64-reserve=64M"
        ),
    );
    // QEMU pairs VFs with their PF by `sriov-pf`; the VFs have to be there first.
    for function in (1..=machine.vfs)
        .rev()
        .map(FunctionId::Vf)
        .chain([FunctionId::Pf])
    {
        machine.network(&mut args, function, socket);
        let mut properties = properties(function, machine.queue_pairs);
        machine.settle(function, &mut properties);
        let properties: Vec<String> = properties.into_iter().map(option).collect();
        args.two("-device", properties.join(","));
    }
    args.two(
        "-chardev",
        with_path("socket,id=c-mailbox,path=", &socket(FunctionId::Mailbox)),
    );
    args.two(
        "-device",
        "vhost-user-test-device-pci,bus=pcie.0,addr=0x3,chardev=c-mailbox,virtio-id=38,num_vqs=3,vq_size=256",
    );
    args
}

/// The PCI device of the PF or of a VF for QMP's `device_add` (qapi/qdev.json), the same as the one on the command line.
/// `queue_pairs` must be the machine's. The network back end is another object: it stays when the device goes. The
/// mailbox is no function of the card: asking for it is a mistake, and QEMU refuses what this gives.
pub fn function_device(function: FunctionId, queue_pairs: u16) -> Value {
    let properties = properties(function, queue_pairs).into_iter();
    let properties: Map<String, Value> = properties
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Value::Object(properties)
}

fn properties(function: FunctionId, queue_pairs: u16) -> Vec<(&'static str, Value)> {
    let number = match function {
        FunctionId::Vf(number) => number,
        FunctionId::Pf | FunctionId::Bridge | FunctionId::Mailbox => 0,
    };
    let (device, place) = (number >> 3, number & 7);
    let mut properties = vec![
        ("driver", "virtio-net-pci".into()),
        ("bus", "root-port".into()),
        ("addr", format!("{device:#x}.{place:#x}").into()),
        ("netdev", format!("n-{function}").into()),
    ];
    if queue_pairs > 1 {
        properties.push(("mq", true.into()));
    }
    properties.push(("mac", mac(number).into()));
    if number > 0 {
        properties.push(("sriov-pf", device_id(FunctionId::Pf).into()));
    }
    properties.push(("id", device_id(function).into()));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    #[test]
    fn vfs_come_before_their_pf_and_every_function_has_its_socket() {
        let args = super::super::sample_arguments(Arch::X86_64, 9, 2);
        let at = |needle: &str| {
            args.iter()
                .position(|arg| arg.contains(needle))
                .expect(needle)
        };
        assert!(
            at("addr=0x1.0x1,netdev=n-vf9,mq=on,mac=52:54:00:76:00:09,sriov-pf=pf") < at("id=pf")
        );
        assert!(at("addr=0x0.0x1,netdev=n-vf1") < at("addr=0x0.0x0,netdev=n-pf"));
        assert!(at("path=s/mailbox.sock") < at("virtio-id=38"));
        assert!(args.contains(&"vhost-user,id=n-pf,chardev=c-pf,queues=2".to_owned()));
        assert!(at("socket,id=qmp,path=s/qmp") < at("chardev=qmp,mode=control"));
        assert!(!args.contains(&"-qtest".to_owned()));
        assert_eq!(
            function_device(FunctionId::Vf(9), 2),
            serde_json::json!({
                "driver": "virtio-net-pci", "bus": "root-port", "addr": "0x1.0x1", "netdev": "n-vf9",
                "mq": true, "mac": "52:54:00:76:00:09", "sriov-pf": "pf", "id": "vf9",
            })
        );
    }
}
