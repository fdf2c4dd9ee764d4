// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line of the x86_64 machine: q35 with one root port, the composed SR-IOV device behind it and the mailbox
//! on the root bus.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::event::FunctionId;

use super::probe::Accel;

/// The PF's address in the guest: the root port is the only bridge, so firmware gives its bus number 1.
pub const PF_ADDRESS: &str = "0000:01:00.0";

/// The root port's address in the guest, which is where it is put on the command line.
pub const BRIDGE_ADDRESS: &str = "0000:00:02.0";

/// The device number of [`BRIDGE_ADDRESS`].
pub(super) const BRIDGE_DEVICE: u8 = 2;

/// The root port's slot in the guest's sysfs: it is named after the slot number on the command line (Linux
/// drivers/pci/hotplug/pciehp_core.c, init_slot()).
pub const SLOT_DIRECTORY: &str = "/sys/bus/pci/slots/1";

/// What the machine is made of. Paths must not contain a comma: QEMU's option syntax would split them.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// Accelerator.
    pub accel: Accel,
    /// bzImage.
    pub kernel: &'a Path,
    /// cpio archive.
    pub initramfs: &'a Path,
    /// File that the serial console is written to.
    pub console: &'a Path,
    /// Number of VFs, 1..=255.
    pub vfs: u16,
    /// Queue pairs a function, at least 1.
    pub queue_pairs: u16,
    /// Exit instead of rebooting when the guest resets.
    pub no_reboot: bool,
    /// Where somebody listens for QMP: an [`Endpoint`](super::Endpoint) made before QEMU is started.
    pub qmp: Option<&'a Path>,
    /// The same for qtest.
    pub qtest: Option<&'a Path>,
}

/// Kernel command line. Level 5 prints warnings and worse: every report, none of the chatter that costs an exit a
/// byte. An oops is a panic and a panic ends QEMU at once (`panic=-1` with `-no-reboot`). `tsc=reliable` keeps the
/// clocksource watchdog from dropping to HPET, where each clock read is MMIO. `pcie_ports=native` gives the slot to
/// pciehp: a kernel without CONFIG_PCIEASPM does not ask ACPI for it (Linux drivers/acpi/pci_root.c,
/// ACPI_PCIE_REQ_SUPPORT). With expedited grace periods a teardown takes half the time: each network device waits for
/// several, which at 100 ticks a second take 30 ms and more while the handler's CPU polls.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 oops=panic panic=-1 tsc=reliable pcie_ports=native rcupdate.rcu_expedited=1";

impl Machine<'_> {
    /// The arguments after QEMU's name. `socket` says where the back end of a function listens.
    pub fn arguments(&self, socket: impl Fn(FunctionId) -> PathBuf) -> Vec<OsString> {
        let mut args = Arguments(Vec::new());
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
        // The back ends map the guest's memory: it has to be shareable.
        // Measured: a KASAN kernel with three functions runs in 256 MiB, and a VF's receive buffers take under 4.
        let memory = format!("{}M", 256 + 4 * u32::from(self.vfs));
        args.two(
            "-object",
            format!("memory-backend-memfd,id=ram,size={memory},share=on"),
        );
        args.two("-m", memory);
        args.two("-accel", self.accel.option());
        // Without hardware a plain CPU: the extensions of `max` (five-level page tables, SMAP) cost a tenth of the boot.
        let cpu = match self.accel {
            Accel::Kvm => "host",
            Accel::Tcg => "core2duo",
        };
        args.two("-cpu", cpu);
        // The teardown runs on CPU 0, the unplug handler polls on CPU 1.
        args.two("-smp", "2");
        args.one("-nodefaults");
        args.one("-no-user-config");
        args.two("-display", "none");
        if self.no_reboot {
            args.one("-no-reboot");
        }
        args.two("-chardev", with_path("file,id=console,path=", self.console));
        args.two("-serial", "chardev:console");
        // QEMU connects while it starts, and ends if nobody listens.
        if let Some(path) = self.qmp {
            args.two("-chardev", with_path("socket,id=qmp,path=", path));
            args.two("-mon", "chardev=qmp,mode=control");
        }
        // Does not change the accelerator: that needs `-accel qtest`. Without the log option each command is logged to
        // standard error.
        if let Some(path) = self.qtest {
            args.two("-qtest", with_path("unix:", path));
            args.two("-qtest-log", "none");
        }
        args.two("-kernel", self.kernel);
        args.two("-initrd", self.initramfs);
        args.two("-append", COMMAND_LINE);
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
        for number in (1..=self.vfs).rev() {
            self.function(&mut args, FunctionId::Vf(number), &socket);
        }
        self.function(&mut args, FunctionId::Pf, &socket);
        args.two(
            "-chardev",
            with_path("socket,id=c-mailbox,path=", &socket(FunctionId::Mailbox)),
        );
        args.two(
            "-device",
            "vhost-user-test-device-pci,bus=pcie.0,addr=0x3,chardev=c-mailbox,virtio-id=38,num_vqs=3,vq_size=256",
        );
        args.0
    }

    fn function(
        &self,
        args: &mut Arguments,
        function: FunctionId,
        socket: &impl Fn(FunctionId) -> PathBuf,
    ) {
        args.two(
            "-chardev",
            with_path(&format!("socket,id=c-{function},path="), &socket(function)),
        );
        args.two(
            "-netdev",
            format!(
                "vhost-user,id=n-{function},chardev=c-{function},queues={}",
                self.queue_pairs
            ),
        );
        let properties: Vec<String> = properties(function, self.queue_pairs)
            .into_iter()
            .map(|(name, value)| match value {
                // The driver comes first, by its name alone.
                Value::String(text) if name == "driver" => text,
                Value::String(text) => format!("{name}={text}"),
                Value::Bool(true) => format!("{name}=on"),
                Value::Bool(false) => format!("{name}=off"),
                other => format!("{name}={other}"),
            })
            .collect();
        args.two("-device", properties.join(","));
    }
}

/// The id of a function's device in QEMU.
pub fn device_id(function: FunctionId) -> String {
    function.to_string()
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
    let mac = format!("52:54:00:76:{:02x}:{:02x}", number >> 8, number & 0xff);
    let mut properties = vec![
        ("driver", "virtio-net-pci".into()),
        ("bus", "root-port".into()),
        ("addr", format!("{device:#x}.{place:#x}").into()),
        ("netdev", format!("n-{function}").into()),
    ];
    if queue_pairs > 1 {
        properties.push(("mq", true.into()));
    }
    properties.push(("mac", mac.into()));
    if number > 0 {
        properties.push(("sriov-pf", device_id(FunctionId::Pf).into()));
    }
    properties.push(("id", device_id(function).into()));
    properties
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn one(&mut self, argument: impl Into<OsString>) {
        self.0.push(argument.into());
    }

    fn two(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

fn with_path(prefix: &str, path: &Path) -> OsString {
    let mut value = OsString::from(prefix);
    value.push(path);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vfs_come_before_their_pf_and_every_function_has_its_socket() {
        let machine = Machine {
            accel: Accel::Tcg,
            kernel: Path::new("bzImage"),
            initramfs: Path::new("initramfs"),
            console: Path::new("console"),
            vfs: 9,
            queue_pairs: 2,
            no_reboot: true,
            qmp: Some(Path::new("s/qmp")),
            qtest: None,
        };
        let args: Vec<String> = machine
            .arguments(|function| PathBuf::from(format!("s/{function}.sock")))
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
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
