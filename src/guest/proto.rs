// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What host and guest say to each other: the mirror of guest-tests/module/vfrace_proto.h.
//!
//! The guest is not trusted: a report is decoded field by field from a byte slice, and one that makes no sense is an
//! error with the reason, never a panic.

use crate::event::{
    FunctionId, GuestRecord, HoldEnd, Invariants, Lists, Observation, Part, VfReferences,
};

/// Version of the protocol; the module says its own in HELLO.
pub const VERSION: u32 = 3;
/// virtio device id of the mailbox.
pub const VIRTIO_ID: u32 = 38;
/// Number of virtqueues.
pub const QUEUES: u32 = 3;
/// Longest text of a command, bytes.
pub const COMMAND_TEXT: usize = 1000;
/// Longest text of a report, bytes.
pub const REPORT_TEXT: usize = 432;
/// Number of 64-bit arguments of a report.
pub const REPORT_ARGS: usize = 12;
/// Bytes of a task name.
pub const COMM: usize = 16;
/// Bytes of a whole report.
pub const REPORT_SIZE: usize = 8 + 8 + 4 * 4 + 8 * REPORT_ARGS + COMM + REPORT_TEXT;

const HELLO: u32 = 1;
const AGENT: u32 = 2;
const OUTPUT: u32 = 3;
const DONE: u32 = 4;
const TASK: u32 = 5;
const SEEN: u32 = 6;
const UNPLUGGED: u32 = 7;
const ENTER: u32 = 8;
const RETURN: u32 = 9;
const LOCK_WAIT: u32 = 10;
const LOCK_TAKEN: u32 = 11;
const LOCK_RELEASE: u32 = 12;
const MEASURED: u32 = 13;
const FAILED: u32 = 14;
const POINT: u32 = 15;
const HELD: u32 = 16;
const STATE: u32 = 17;
const LOCK_ODD: u32 = 18;
const COST: u32 = 19;

/// What an unplug event tells the guest to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum UnplugAction {
    /// Say that it was seen, do nothing.
    Nop = 0,
    /// Do what the command [`CommandKind::Unplug`] said.
    Act = 1,
    /// Let go of the task that is held at the point whose number is in the place of the VF's index.
    Release = 2,
}

/// What a command tells the guest to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CommandKind {
    /// A line of shell for the guest's init.
    Exec = 1,
    /// The PF's address, `DDDD:BB:DD.F`.
    Pf = 2,
    /// Report calls from now on; with the text `unplug`, also poll the unplug queue, until one event has come.
    Arm = 3,
    /// Stop both.
    Disarm = 4,
    /// Measure the invariants; the text is their label.
    Measure = 5,
    /// Add a call point, see [`plan`](super::plan); without a text: forget all of them.
    Point = 6,
    /// What the next unplug does, see [`unplug_command`](super::plan::unplug_command).
    Unplug = 7,
    /// Report where both sides stand ([`Observation::TaskState`]).
    States = 8,
    /// Give the PF as many references as the text says: what a double removal took, so that more rounds can follow.
    Repair = 9,
    /// Report what a call through the module costs ([`Observation::Cost`]).
    Cost = 10,
}

/// A report that does not decode.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtoError {
    /// Too few bytes.
    #[error("a report of {0} bytes; {REPORT_SIZE} are expected")]
    Short(usize),
    /// A kind that this version does not know.
    #[error("report {number} is of the unknown kind {kind}")]
    Kind {
        /// Its number.
        number: u64,
        /// Its kind.
        kind: u32,
    },
    /// A field out of range.
    #[error("report {number}: {field} is {value}")]
    Field {
        /// Its number.
        number: u64,
        /// Which field.
        field: &'static str,
        /// What stood there.
        value: u64,
    },
    /// A command that does not fit.
    #[error("a command of {0} bytes; at most {COMMAND_TEXT} fit, without line breaks")]
    Command(usize),
}

/// The bytes of an unplug event. `vf` is Linux' index (virtfnN).
pub fn encode_unplug(number: u32, action: UnplugAction, vf: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, word) in bytes
        .chunks_exact_mut(4)
        .zip([number, action as u32, vf, 0])
    {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The bytes of a command.
pub fn encode_command(id: u32, kind: CommandKind, text: &str) -> Result<Vec<u8>, ProtoError> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    if text.len() > COMMAND_TEXT || text.contains(['\n', '\0']) {
        return Err(ProtoError::Command(text.len()));
    }
    let mut bytes = Vec::with_capacity(16 + COMMAND_TEXT);
    for word in [id, kind as u32, length, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(16 + COMMAND_TEXT, 0);
    Ok(bytes)
}

/// Reads little-endian fields off the front of a slice whose length has been checked.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn u32(&mut self) -> u32 {
        self.bytes(4).try_into().map_or(0, u32::from_le_bytes)
    }

    fn u64(&mut self) -> u64 {
        self.bytes(8).try_into().map_or(0, u64::from_le_bytes)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The VF index of a report as a function: -1 is the PF, -2 none of ours.
fn function(number: u64, value: u64) -> Result<Option<FunctionId>, ProtoError> {
    match value as i64 {
        -3 => Ok(Some(FunctionId::Bridge)),
        -2 => Ok(None),
        -1 => Ok(Some(FunctionId::Pf)),
        index @ 0..=254 => Ok(Some(FunctionId::Vf(index as u16 + 1))),
        _ => Err(ProtoError::Field {
            number,
            field: "the VF's index",
            value,
        }),
    }
}

/// A word of the kernel that it may not have.
fn word(value: u64) -> Option<u64> {
    (value as i64 != -1).then_some(value)
}

/// Functions with their references, ` FIRST-LAST:REFERENCES` for VFs and ` pf:REFERENCES`.
fn vfs(number: u64, line: &str) -> Result<Vec<VfReferences>, ProtoError> {
    let refused = || ProtoError::Field {
        number,
        field: "the references of VFs",
        value: line.len() as u64,
    };
    let vf = |index: &str| match index.parse() {
        Ok(index @ 0..=254u16) => Ok(FunctionId::Vf(index + 1)),
        _ => Err(refused()),
    };
    let row = |word: &str| {
        let (row, references) = word.split_once(':').ok_or_else(refused)?;
        let (first, last) = match row.split_once('-') {
            Some((first, last)) => (vf(first)?, vf(last)?),
            None if row == "pf" => (FunctionId::Pf, FunctionId::Pf),
            None => return Err(refused()),
        };
        Ok(VfReferences {
            first,
            last,
            references: references.parse().map_err(|_| refused())?,
        })
    };
    line.split_ascii_whitespace().map(row).collect()
}

/// A measurement: values, and lines of text with the label first.
fn measured(
    number: u64,
    args: &[u64; REPORT_ARGS],
    words: &str,
) -> Result<Observation, ProtoError> {
    let [pf, bus, created, released, owner, depth, dropped, ..] = *args;
    let [.., vf_bus, owner_word, walked, entries, defects] = *args;
    let narrow = |field, value| {
        u32::try_from(value).map_err(|_| ProtoError::Field {
            number,
            field,
            value,
        })
    };
    let line = |kind: char| {
        let mut lines = words.lines().skip(1);
        lines.find_map(|line| line.strip_prefix(kind))
    };
    let values = Invariants {
        pf_references: pf as i64,
        bus_references: bus as i64,
        vfs_created: created,
        vfs_released: released,
        lock_owner: narrow("the owner", owner)?,
        lock_depth: depth as i64,
        lock_owner_word: word(owner_word)
            .map(|pid| narrow("the owner word", pid))
            .transpose()?,
        vf_bus_references: word(vf_bus).map(|references| references as i64),
        vfs: line('r').map(|rows| vfs(number, rows)).transpose()?,
        unreleased: vfs(number, line('g').unwrap_or_default())?,
        lists: Some(Lists {
            walked: narrow("the number of lists", walked)?,
            entries: narrow("the number of entries", entries)?,
            defects: narrow("the number of defects", defects)?,
            defect: line('l').unwrap_or_default().trim_start().to_owned(),
        }),
        dropped,
    };
    Ok(Observation::Measured {
        label: words.lines().next().unwrap_or_default().to_owned(),
        values,
    })
}

/// Decodes one report.
pub fn decode_report(bytes: &[u8]) -> Result<GuestRecord, ProtoError> {
    if bytes.len() < REPORT_SIZE {
        return Err(ProtoError::Short(bytes.len()));
    }
    let mut fields = Fields(bytes);
    let (number, guest_ns) = (fields.u64(), fields.u64());
    let (kind, pid, cpu, length) = (fields.u32(), fields.u32(), fields.u32(), fields.u32());
    let args: [u64; REPORT_ARGS] = std::array::from_fn(|_| fields.u64());
    let [a, b, c, d, e, ..] = args;
    let comm = fields.bytes(COMM);
    let comm = text(comm.split(|&byte| byte == 0).next().unwrap_or_default());
    let words = fields.bytes(REPORT_TEXT.min(length as usize));
    let narrow = |field, value| {
        u32::try_from(value).map_err(|_| ProtoError::Field {
            number,
            field,
            value,
        })
    };
    let what = match kind {
        HELLO => Observation::Hello {
            release: text(words),
            version: narrow("the version", a)?,
        },
        AGENT => Observation::AgentReady,
        OUTPUT => Observation::Output {
            command: narrow("the command", a)?,
            text: text(words),
        },
        DONE => Observation::Done {
            command: narrow("the command", a)?,
            status: b as i32,
        },
        TASK => Observation::Task { role: text(words) },
        SEEN => Observation::UnplugSeen {
            event: narrow("the event", a)?,
            function: function(number, b)?,
        },
        UNPLUGGED => Observation::UnplugDone {
            event: narrow("the event", a)?,
            status: b as i32,
        },
        ENTER => {
            let words = text(words);
            let mut names = words.split_ascii_whitespace().map(str::to_owned);
            Observation::Enter {
                call: names.next().unwrap_or_default(),
                function: function(number, a)?,
                instance: (b != 0).then_some(b),
                stack: names.collect(),
            }
        }
        RETURN => Observation::Return {
            call: text(words),
            function: function(number, a)?,
        },
        LOCK_WAIT => Observation::LockWait {
            owner: narrow("the owner", a)?,
        },
        LOCK_TAKEN => Observation::LockTaken { nested: a != 0 },
        LOCK_RELEASE => Observation::LockRelease,
        MEASURED => measured(number, &args, &text(words))?,
        LOCK_ODD => Observation::LockOdd {
            releases: a != 0,
            holder: narrow("the holder", b)?,
            owner_word: word(c)
                .map(|pid| narrow("the owner word", pid))
                .transpose()?,
            depth: word(d),
            expected: word(e),
        },
        COST => Observation::Cost {
            plain: a,
            passed: b,
            looked_at: c,
            reported: d,
        },
        FAILED => Observation::Failed { text: text(words) },
        POINT => Observation::Point { point: text(words) },
        HELD => Observation::HoldOver {
            point: text(words),
            held_ns: a,
            end: match b {
                0 => HoldEnd::Reached,
                1 => HoldEnd::Bound,
                2 => HoldEnd::Missed,
                3 => HoldEnd::Stopped,
                value => {
                    return Err(ProtoError::Field {
                        number,
                        field: "the end of a hold",
                        value,
                    });
                }
            },
        },
        STATE => {
            let words = text(words);
            let mut words = words.split_ascii_whitespace().map(str::to_owned);
            Observation::TaskState {
                role: match a {
                    0 => Part::Teardown,
                    1 => Part::Unplug,
                    2 => Part::Other,
                    value => {
                        return Err(ProtoError::Field {
                            number,
                            field: "the side",
                            value,
                        });
                    }
                },
                task: narrow("the task", b)?,
                owner: narrow("the owner", c)?,
                switches: Some(d),
                sleeps: Some(e != 0),
                name: words.next().unwrap_or_default(),
                lock: words.next().filter(|lock| lock != "-").unwrap_or_default(),
                stack: words.collect(),
            }
        }
        kind => return Err(ProtoError::Kind { number, kind }),
    };
    Ok(GuestRecord {
        number,
        guest_ns,
        pid,
        cpu,
        comm,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The value of a `#define NAME value` line of the header.
    fn defined(name: &str) -> u64 {
        let header = include_str!("../../guest-tests/module/vfrace_proto.h");
        let line = header
            .lines()
            .find(|line| {
                line.split_whitespace().nth(1) == Some(name) && line.starts_with("#define")
            })
            .unwrap_or_else(|| panic!("{name} is not in the header"));
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    #[test]
    fn header_and_mirror_agree() {
        for (name, value) in [
            ("VFRACE_PROTO_VERSION", VERSION),
            ("VFRACE_VIRTIO_ID", VIRTIO_ID),
            ("VFRACE_QUEUES", QUEUES),
            ("VFRACE_COMMAND_TEXT", COMMAND_TEXT as u32),
            ("VFRACE_REPORT_TEXT", REPORT_TEXT as u32),
            ("VFRACE_REPORT_ARGS", REPORT_ARGS as u32),
            ("VFRACE_COMM", COMM as u32),
            ("VFRACE_UNPLUG_NOP", UnplugAction::Nop as u32),
            ("VFRACE_UNPLUG_ACT", UnplugAction::Act as u32),
            ("VFRACE_UNPLUG_RELEASE", UnplugAction::Release as u32),
            ("VFRACE_COMMAND_POINT", CommandKind::Point as u32),
            ("VFRACE_COMMAND_UNPLUG", CommandKind::Unplug as u32),
            ("VFRACE_COMMAND_STATES", CommandKind::States as u32),
            ("VFRACE_COMMAND_REPAIR", CommandKind::Repair as u32),
            ("VFRACE_REPORT_POINT", POINT),
            ("VFRACE_REPORT_HELD", HELD),
            ("VFRACE_REPORT_STATE", STATE),
            ("VFRACE_REPORT_LOCK_ODD", LOCK_ODD),
            ("VFRACE_REPORT_COST", COST),
            ("VFRACE_COMMAND_COST", CommandKind::Cost as u32),
            ("VFRACE_PID_DEAD", Observation::DEAD),
            ("VFRACE_COMMAND_EXEC", CommandKind::Exec as u32),
            ("VFRACE_COMMAND_PF", CommandKind::Pf as u32),
            ("VFRACE_COMMAND_ARM", CommandKind::Arm as u32),
            ("VFRACE_COMMAND_DISARM", CommandKind::Disarm as u32),
            ("VFRACE_COMMAND_MEASURE", CommandKind::Measure as u32),
            ("VFRACE_REPORT_HELLO", HELLO),
            ("VFRACE_REPORT_AGENT", AGENT),
            ("VFRACE_REPORT_OUTPUT", OUTPUT),
            ("VFRACE_REPORT_DONE", DONE),
            ("VFRACE_REPORT_TASK", TASK),
            ("VFRACE_REPORT_SEEN", SEEN),
            ("VFRACE_REPORT_UNPLUGGED", UNPLUGGED),
            ("VFRACE_REPORT_ENTER", ENTER),
            ("VFRACE_REPORT_RETURN", RETURN),
            ("VFRACE_REPORT_LOCK_WAIT", LOCK_WAIT),
            ("VFRACE_REPORT_LOCK_TAKEN", LOCK_TAKEN),
            ("VFRACE_REPORT_LOCK_RELEASE", LOCK_RELEASE),
            ("VFRACE_REPORT_MEASURED", MEASURED),
            ("VFRACE_REPORT_FAILED", FAILED),
        ] {
            assert_eq!(defined(name), u64::from(value), "{name}");
        }
    }

    fn report(kind: u32, args: &[u64], words: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7u64.to_le_bytes());
        bytes.extend(1_000u64.to_le_bytes());
        for word in [kind, 42, 1, words.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        for i in 0..REPORT_ARGS {
            bytes.extend(args.get(i).copied().unwrap_or(0).to_le_bytes());
        }
        bytes.extend(b"sh\0garbage\0\0\0\0\0\0");
        bytes.extend(words.as_bytes());
        bytes.resize(REPORT_SIZE, 0);
        bytes
    }

    #[test]
    fn an_entry_has_its_callers() {
        let record = decode_report(&report(
            ENTER,
            &[1],
            "device_del pci_remove_bus_device remove_store",
        ))
        .unwrap();
        assert_eq!(
            (record.number, record.pid, record.cpu, record.comm.as_str()),
            (7, 42, 1, "sh")
        );
        let stack = vec![
            "pci_remove_bus_device".to_owned(),
            "remove_store".to_owned(),
        ];
        assert_eq!(
            record.what,
            Observation::Enter {
                call: "device_del".to_owned(),
                function: Some(FunctionId::Vf(2)),
                instance: None,
                stack
            }
        );
    }

    #[test]
    fn a_measurement_has_its_vfs_and_its_lists() {
        let none = u64::MAX;
        let args = [9, 5, 3, 0, 0, none, 0, none, 0, 7, 40, 1];
        let words =
            "after\nl children of 0000:00:02.0: vf2 is on it 2 times\nr 0-0:5 2-62:6\ng pf:2 1-1:1";
        let record = decode_report(&report(MEASURED, &args, words)).unwrap();
        let Observation::Measured { label, values } = record.what else {
            panic!("not a measurement")
        };
        let row = |first, last, references| VfReferences {
            first: FunctionId::Vf(first),
            last: FunctionId::Vf(last),
            references,
        };
        assert_eq!(label, "after");
        assert_eq!(
            (
                values.lock_depth,
                values.lock_owner_word,
                values.vf_bus_references
            ),
            (-1, Some(0), None)
        );
        assert_eq!(values.vfs, Some(vec![row(1, 1, 5), row(3, 63, 6)]));
        let pf = VfReferences {
            first: FunctionId::Pf,
            last: FunctionId::Pf,
            references: 2,
        };
        assert_eq!(values.unreleased, [pf, row(2, 2, 1)]);
        let lists = values.lists.unwrap();
        assert_eq!((lists.walked, lists.entries, lists.defects), (7, 40, 1));
        assert_eq!(
            lists.defect,
            "children of 0000:00:02.0: vf2 is on it 2 times"
        );
        // cut off in the middle of a row
        assert!(decode_report(&report(MEASURED, &args, "after\nr 0-0:5 2-")).is_err());
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert_eq!(decode_report(&[0; 20]), Err(ProtoError::Short(20)));
        assert_eq!(
            decode_report(&report(99, &[], "")),
            Err(ProtoError::Kind {
                number: 7,
                kind: 99
            })
        );
        assert!(matches!(
            decode_report(&report(SEEN, &[1, 300], "")),
            Err(ProtoError::Field { .. })
        ));
        assert!(matches!(
            decode_report(&report(LOCK_WAIT, &[1 << 40], "")),
            Err(ProtoError::Field { .. })
        ));
        assert_eq!(
            encode_command(1, CommandKind::Exec, "a\nb"),
            Err(ProtoError::Command(3))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode_report(&bytes);
        }
    }
}
