// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! qtest, QEMU's test protocol (QEMU system/qtest.c, "QTest Protocol"): reads and writes of guest physical addresses,
//! device registers among them, from outside. It works beside any accelerator.
//!
//! Answers have no number, they come in the order of the commands. What nobody waits for any more is counted off.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::link::{Endpoint, Link, LinkError, Protocol};

/// Most commands that may be unanswered. QEMU reads at most 1024 bytes at a time (qtest_can_read()) and lets the guest
/// run in between; as many of the longest commands fit in.
const UNANSWERED: usize = 16;

/// A qtest command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum QtestError {
    /// The connection does not work, or QEMU did not answer in time.
    #[error("qtest does not work")]
    Link(#[from] LinkError),
    /// Too many commands have no answer yet.
    #[error("QEMU has {UNANSWERED} qtest commands to answer already")]
    Busy,
    /// QEMU says no, or gives no value where one is due.
    #[error("QEMU's qtest answer to `{command}` is `{answer}`")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's words.
        answer: String,
    },
}

impl QtestError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Link(error) => error.hint(),
            Self::Busy => Some("wait until the message that is held is let go".to_owned()),
            Self::Refused { .. } => Some("use the QEMU that `vfrace doctor` names".to_owned()),
        }
    }
}

/// A command. Addresses are guest physical; values are in the guest's byte order, little endian here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads 16 bits.
    Read16(u64),
    /// Reads 32 bits.
    Read32(u64),
    /// Writes 16 bits.
    Write16(u64, u16),
}

impl Access {
    fn line(self) -> String {
        match self {
            Self::Read16(address) => format!("readw {address:#x}"),
            Self::Read32(address) => format!("readl {address:#x}"),
            Self::Write16(address, value) => format!("writew {address:#x} {value:#x}"),
        }
    }
}

/// Commands that were sent.
#[derive(Debug)]
#[must_use = "answers are kept until they are fetched"]
pub struct Sent {
    first: u64,
    commands: Vec<Access>,
}

/// A qtest connection. Usable from any thread; a thread that waits keeps no other from sending.
pub struct Qtest {
    link: Link<State>,
}

impl Qtest {
    /// Takes QEMU's connection. To be called after QEMU was started with the endpoint's path.
    ///
    /// # Errors
    /// [`QtestError::Link`] if QEMU does not connect within `limit`.
    pub fn accept(endpoint: Endpoint, limit: Duration) -> Result<Self, QtestError> {
        let stream = endpoint.accept(limit)?;
        Ok(Self {
            link: Link::start("qtest", stream, State::default())?,
        })
    }

    /// Sends commands in one write and does not wait: QEMU executes them one after the other without letting the guest
    /// in between, as soon as its main loop gets the global lock.
    ///
    /// # Errors
    /// [`QtestError::Busy`], [`QtestError::Link`].
    pub fn send(&self, commands: &[Access]) -> Result<Sent, QtestError> {
        let mut first = 0;
        self.link.send(|state| {
            first = state.expect(commands.len()).ok_or(QtestError::Busy)?;
            let mut text = String::new();
            for command in commands {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{}", command.line());
            }
            Ok::<_, QtestError>(text.into_bytes())
        })?;
        Ok(Sent {
            first,
            commands: commands.to_vec(),
        })
    }

    /// Waits for the answers to commands: the values read, 0 for a write.
    ///
    /// # Errors
    /// [`QtestError`]. After [`LinkError::Late`] QEMU may still execute them: their answers are dropped when they come.
    pub fn wait(&self, sent: Sent, limit: Duration) -> Result<Vec<u64>, QtestError> {
        let Sent { first, commands } = sent;
        let text = || {
            let lines: Vec<String> = commands.iter().map(|command| command.line()).collect();
            lines.join("; ")
        };
        let answers = self.link.wait(
            || format!("answer qtest's `{}`", text()),
            limit,
            |state| state.answers(first, commands.len()),
        );
        let answers = answers
            .inspect_err(|_| self.link.with(|state| state.give_up(first, commands.len())))?;
        let values = commands.iter().zip(answers);
        values
            .map(|(command, answer)| {
                value(*command, &answer).ok_or_else(|| QtestError::Refused {
                    command: command.line(),
                    answer,
                })
            })
            .collect()
    }

    /// Sends commands and waits for their answers: see [`Qtest::send`] and [`Qtest::wait`].
    ///
    /// # Errors
    /// Theirs.
    pub fn execute(&self, commands: &[Access], limit: Duration) -> Result<Vec<u64>, QtestError> {
        self.wait(self.send(commands)?, limit)
    }

    /// Reads one value.
    ///
    /// # Errors
    /// As [`Qtest::wait`].
    pub fn read(&self, command: Access, limit: Duration) -> Result<u64, QtestError> {
        // One command has one answer.
        let values = self.execute(&[command], limit)?;
        Ok(values.first().copied().unwrap_or_default())
    }
}

/// The value in an answer, if it is one that fits the command.
fn value(command: Access, answer: &str) -> Option<u64> {
    let rest = answer.strip_prefix("OK")?;
    let most = match command {
        Access::Write16(..) => return rest.is_empty().then_some(0),
        Access::Read16(_) => u64::from(u16::MAX),
        Access::Read32(_) => u64::from(u32::MAX),
    };
    let digits = rest.strip_prefix(" 0x")?;
    let value = u64::from_str_radix(digits, 16).ok()?;
    (value <= most).then_some(value)
}

#[derive(Default)]
struct State {
    /// Commands sent so far, and answers that came.
    sent: u64,
    answered: u64,
    /// Commands whose answer is waited for, with it once it is there.
    answers: BTreeMap<u64, Option<String>>,
}

impl State {
    fn expect(&mut self, count: usize) -> Option<u64> {
        let first = self.sent;
        let count = u64::try_from(count).ok()?;
        let unanswered = self.sent - self.answered;
        if unanswered + count > u64::try_from(UNANSWERED).ok()? {
            return None;
        }
        self.sent += count;
        self.answers
            .extend((first..self.sent).map(|number| (number, None)));
        Some(first)
    }

    fn answers(&mut self, first: u64, count: usize) -> Option<Vec<String>> {
        let numbers = || (first..).take(count);
        let is_there = |number| matches!(self.answers.get(&number), Some(Some(_)));
        if !numbers().all(is_there) {
            return None;
        }
        let taken = numbers().filter_map(|number| self.answers.remove(&number).flatten());
        Some(taken.collect())
    }

    fn give_up(&mut self, first: u64, count: usize) {
        for number in (first..).take(count) {
            self.answers.remove(&number);
        }
    }
}

impl Protocol for State {
    const LONGEST: usize = 1024;

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line);
        let odd = |what| {
            Err(format!(
                "{what}: {}",
                text.chars().take(200).collect::<String>()
            ))
        };
        match text.split(' ').next() {
            Some("OK" | "FAIL" | "ERR") => {}
            _ => return odd("this is not qtest"),
        }
        if self.answered == self.sent {
            return odd("a qtest answer to nothing");
        }
        // No entry: the one that asked has given up.
        if let Some(slot) = self.answers.get_mut(&self.answered) {
            *slot = Some(text.into_owned());
        }
        self.answered += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const SHORT: Duration = Duration::from_millis(50);

    /// A client, and QEMU's end.
    fn pair() -> (Qtest, BufReader<UnixStream>) {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::bind(&dir.path().join("qtest")).unwrap();
        let qemu = UnixStream::connect(endpoint.path()).unwrap();
        let qtest = Qtest::accept(endpoint, LIMIT).unwrap();
        assert!(!dir.path().join("qtest").exists());
        (qtest, BufReader::new(qemu))
    }

    fn line(qemu: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        qemu.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn commands_go_out_together_and_answers_come_back_in_order() {
        let (qtest, mut qemu) = pair();
        let sent = qtest
            .send(&[Access::Write16(0xb001_0070, 0x7e8), Access::Read16(0x10)])
            .unwrap();
        assert_eq!(line(&mut qemu), "writew 0xb0010070 0x7e8\n");
        assert_eq!(line(&mut qemu), "readw 0x10\n");
        qemu.get_mut()
            .write_all(b"OK\nOK 0x000000000000abcd\n")
            .unwrap();
        assert_eq!(qtest.wait(sent, LIMIT).unwrap(), [0, 0xabcd]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_is_counted_off() {
        let (qtest, mut qemu) = pair();
        let late = qtest.read(Access::Read32(1), SHORT).unwrap_err();
        assert!(
            matches!(late, QtestError::Link(LinkError::Late { .. })),
            "{late:?}"
        );
        let sent = qtest.send(&[Access::Read32(2)]).unwrap();
        qemu.get_mut().write_all(b"OK 0x1\nOK 0x2\n").unwrap();
        assert_eq!(qtest.wait(sent, LIMIT).unwrap(), [2]);
    }

    #[test]
    fn no_more_than_qemu_reads_at_once_is_ever_under_way() {
        let (qtest, mut qemu) = pair();
        let most = [Access::Write16(u64::MAX, u16::MAX); UNANSWERED];
        let sent = qtest.send(&most).unwrap();
        assert!(matches!(
            qtest.send(&[Access::Read16(0)]),
            Err(QtestError::Busy)
        ));
        let bytes: usize = (0..UNANSWERED).map(|_| line(&mut qemu).len()).sum();
        assert!(bytes < 1024, "{bytes}");
        qemu.get_mut()
            .write_all("OK\n".repeat(UNANSWERED).as_bytes())
            .unwrap();
        assert_eq!(qtest.wait(sent, LIMIT).unwrap(), [0; UNANSWERED]);
    }

    #[test]
    fn answers_of_the_wrong_kind_are_errors() {
        let (qtest, mut qemu) = pair();
        for answer in [
            "OK",
            "OK 0x10000",
            "OK 1",
            "OK 0xfghi",
            "FAIL Unknown command",
        ] {
            let sent = qtest.send(&[Access::Read16(0)]).unwrap();
            qemu.get_mut()
                .write_all(format!("{answer}\n").as_bytes())
                .unwrap();
            let error = qtest.wait(sent, LIMIT).unwrap_err();
            assert!(matches!(error, QtestError::Refused { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_stream_that_is_not_qtest_is_closed() {
        // an answer that was not asked for, and what is none at all
        for garbage in [&b"OK\n"[..], b"\xff\xfe\n", &[b'x'; 4096]] {
            let (qtest, mut qemu) = pair();
            qemu.get_mut().write_all(garbage).unwrap();
            assert_eq!(line(&mut qemu), "");
            // The end may be seen by us a moment later than by QEMU, but not later than the wait.
            let error = qtest.read(Access::Read16(0), LIMIT).unwrap_err();
            assert!(
                matches!(
                    error,
                    QtestError::Link(LinkError::Ended { .. } | LinkError::Send(_))
                ),
                "{error:?}"
            );
        }
    }
}
