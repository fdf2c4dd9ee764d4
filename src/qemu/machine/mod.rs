// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine and its command line: one of x86_64, one of s390x.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arch::Arch;
use crate::event::FunctionId;

use super::probe::Accel;

pub mod ccw;
mod q35;

pub(super) use q35::BRIDGE_DEVICE;
pub use q35::{BRIDGE_ADDRESS, PF_ADDRESS, SLOT_DIRECTORY, function_device};

/// Where things are in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// The architecture whose machine they are in.
    pub arch: Arch,
    /// Address of the PF.
    pub pf: &'static str,
    /// Address of the bridge above it; empty: there is none.
    pub bridge: &'static str,
    /// Directory in sysfs of the slot that all functions are in; empty: there is none.
    pub slot: &'static str,
}

/// The places of the machine of an architecture. What a machine does not have no scenario may ask for, see
/// [`Scenario::fits`](crate::scenario::Scenario::fits).
pub fn places(arch: Arch) -> Places {
    match arch {
        Arch::X86_64 => Places {
            arch,
            pf: PF_ADDRESS,
            bridge: BRIDGE_ADDRESS,
            slot: SLOT_DIRECTORY,
        },
        Arch::S390x => Places {
            arch,
            pf: ccw::PF_ADDRESS,
            bridge: "",
            slot: "",
        },
    }
}

/// What the machine is made of. Paths must not contain a comma: QEMU's option syntax would split them.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// Architecture of the guest.
    pub arch: Arch,
    /// Accelerator.
    pub accel: Accel,
    /// What is booted; `None`: the arguments say nothing about it.
    pub boot: Option<Boot<'a>>,
    /// File that the serial console is written to; `None`: it is QEMU's standard input and output.
    pub console: Option<&'a Path>,
    /// Number of VFs, 1..=255; on s390x as many as [`MOST_VFS_S390X`](crate::scenario::MOST_VFS_S390X).
    pub vfs: u16,
    /// Queue pairs a function, at least 1.
    pub queue_pairs: u16,
    /// Hardware address of the PF, the VFs' follow it; `None`: 52:54:00:76:00:00.
    pub first_mac: Option<[u8; 6]>,
    /// The MTU that the guest is told of.
    pub mtu: Option<u16>,
    /// Exit instead of rebooting when the guest resets.
    pub no_reboot: bool,
    /// Where somebody listens for QMP: an [`Endpoint`](super::Endpoint) made before QEMU is started.
    pub qmp: Option<&'a Path>,
    /// The same for qtest.
    pub qtest: Option<&'a Path>,
}

/// A kernel and its root.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// bzImage.
    pub kernel: &'a Path,
    /// cpio archive.
    pub initramfs: &'a Path,
}

/// Initcalls that no scenario needs and that take a third of a boot under TCG: what there is in sysfs about slab caches and
/// about parameters of what is built in (Linux mm/slub.c, kernel/params.c; Documentation/admin-guide/kernel-parameters.txt,
/// initcall_blacklist). The first has had two names.
const LEFT_OUT: &str = "initcall_blacklist=slab_late_init,slab_sysfs_init,param_sysfs_builtin_init";

impl Machine<'_> {
    /// The arguments after QEMU's name. `socket` says where the back end of a function listens.
    pub fn arguments(&self, socket: impl Fn(FunctionId) -> PathBuf) -> Vec<OsString> {
        let args = match self.arch {
            Arch::X86_64 => q35::arguments(self, &socket),
            Arch::S390x => ccw::arguments(self, &socket),
        };
        args.0
    }

    /// The back ends map the guest's memory: it has to be shareable.
    fn memory(&self, args: &mut Arguments, mib: u32) {
        let memory = format!("{mib}M");
        args.two(
            "-object",
            format!("memory-backend-memfd,id=ram,size={memory},share=on"),
        );
        args.two("-m", memory);
    }

    /// Nothing that was not asked for, and a place for the console's text.
    fn bare(&self, args: &mut Arguments) {
        // The teardown runs on CPU 0, the unplug handler polls on CPU 1.
        args.two("-smp", "2");
        args.one("-nodefaults");
        args.one("-no-user-config");
        args.two("-display", "none");
        if self.no_reboot {
            args.one("-no-reboot");
        }
        args.two(
            "-chardev",
            match self.console {
                Some(path) => with_path("file,id=console,path=", path),
                None => "stdio,id=console".into(),
            },
        );
    }

    /// The control connections. QEMU connects while it starts, and ends if nobody listens.
    fn monitors(&self, args: &mut Arguments) {
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
    }

    /// What is booted.
    fn system(&self, args: &mut Arguments, command_line: &str) {
        let Some(boot) = self.boot else { return };
        args.two("-kernel", boot.kernel);
        args.two("-initrd", boot.initramfs);
        args.two("-append", format!("{command_line} {LEFT_OUT}"));
    }

    /// Puts into the properties of a function's device what is not as always.
    fn settle(&self, function: FunctionId, properties: &mut Vec<(&'static str, Value)>) {
        let number = match function {
            FunctionId::Vf(number) => number,
            FunctionId::Pf | FunctionId::Bridge | FunctionId::Mailbox => 0,
        };
        if let Some(first) = self.first_mac {
            let given = mac_after(first, number).into();
            for (name, value) in properties.iter_mut().filter(|(name, _)| *name == "mac") {
                log::debug!("{function}: {name} {given} instead of {value}");
                *value = Value::clone(&given);
            }
        }
        if let Some(mtu) = self.mtu {
            properties.push(("host_mtu", mtu.into()));
        }
    }

    /// The network back end of a function. It is there as long as the machine, its device may come and go.
    fn network(
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
    }
}

/// The id of a function's device in QEMU.
pub fn device_id(function: FunctionId) -> String {
    function.to_string()
}

/// Hardware address of the PF where nothing else is said.
pub const FIRST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x76, 0x00, 0x00];

/// The hardware address of the function with this number, 0 for the PF.
fn mac(number: u16) -> String {
    mac_after(FIRST_MAC, number)
}

/// The hardware address `number` after the `first`. The last three bytes count, as the first three are the maker's.
fn mac_after(first: [u8; 6], number: u16) -> String {
    let [a, b, c, d, e, f] = first;
    let last = u32::from_be_bytes([0, d, e, f]).wrapping_add(u32::from(number));
    let [_, d, e, f] = last.to_be_bytes();
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// A property of a device as `-device` has it.
fn option((name, value): (&'static str, Value)) -> String {
    match value {
        // The driver comes first, by its name alone.
        Value::String(text) if name == "driver" => text,
        Value::String(text) => format!("{name}={text}"),
        Value::Bool(true) => format!("{name}=on"),
        Value::Bool(false) => format!("{name}=off"),
        other => format!("{name}={other}"),
    }
}

/// A machine for tests of command lines.
#[cfg(test)]
fn sample(arch: Arch, vfs: u16, queue_pairs: u16) -> Machine<'static> {
    Machine {
        arch,
        accel: Accel::Tcg,
        boot: Some(Boot {
            kernel: Path::new("bzImage"),
            initramfs: Path::new("initramfs"),
        }),
        console: Some(Path::new("console")),
        first_mac: None,
        mtu: None,
        vfs,
        queue_pairs,
        no_reboot: true,
        qmp: Some(Path::new("s/qmp")),
        qtest: None,
    }
}

/// Its arguments. A function's socket is named after it.
#[cfg(test)]
fn sample_arguments(arch: Arch, vfs: u16, queue_pairs: u16) -> Vec<String> {
    sample(arch, vfs, queue_pairs)
        .arguments(|function| PathBuf::from(format!("s/{function}.sock")))
        .into_iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect()
}

#[derive(Default)]
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
