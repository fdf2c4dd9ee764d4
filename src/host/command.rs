// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running a program to its end: every line goes to a log and to a callback, and the program ends when we do.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{HostError, files};

/// Lines that are kept for an error message.
const TAIL: usize = 15;
/// How often the stop flag is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long a stopped program may take to clean up (make removes half-written targets) before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// A line longer than this is cut: the output is another program's.
const LINE: u64 = 1 << 16;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its last lines, both streams.
    pub tail: String,
}

impl Ended {
    /// The status in words: "exit status 2", "signal 9".
    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit status".to_owned(),
        }
    }

    /// An error, unless it ended well.
    pub fn ok(self, what: impl Into<String>) -> Result<(), HostError> {
        if self.status.success() {
            return Ok(());
        }
        Err(HostError::Failed {
            what: what.into(),
            status: self.how(),
            tail: self.tail,
        })
    }
}

/// Text as an indented block below a message, nothing for nothing.
pub fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n    {line}")).collect()
}

/// Makes `command` a process group of its own (the terminal's Ctrl-C reaches us, and we end it in order), which gets
/// SIGTERM when the calling thread ends, so that it does not outlive a killed vfrace.
pub fn tie(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec; it makes one system call (prctl(2), PR_SET_PDEATHSIG) and neither
    // allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
                .map_err(std::io::Error::from)
        })
    }
}

/// Runs `command` to its end. Both streams, line by line, go to `log` (appended, if given) and to `line`. When `stop`
/// becomes true the whole process group is ended and the result is [`HostError::Interrupted`]. `idle` is called about
/// five times a second. `name` is what messages call the program.
pub fn run(
    command: &mut Command,
    name: &str,
    log: Option<&Path>,
    stop: &AtomicBool,
    mut line: impl FnMut(&str),
    mut idle: impl FnMut(),
) -> Result<Ended, HostError> {
    let mut log = match log {
        Some(path) => {
            let mut file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(files::failed("write", path))?;
            writeln!(file, "+ {}", shown(command)).map_err(files::failed("write", path))?;
            Some((path, file))
        }
        None => None,
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = tie(command).spawn().map_err(|source| HostError::Start {
        tool: name.to_owned(),
        source,
    })?;
    let (sender, receiver) = channel();
    read_lines(child.stdout.take(), sender.clone());
    read_lines(child.stderr.take(), sender);
    let mut tail = VecDeque::new();
    let mut last = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            end(&mut child);
            return Err(HostError::Interrupted);
        }
        if last.elapsed() >= POLL {
            last = Instant::now();
            idle();
        }
        match receiver.recv_timeout(POLL) {
            Ok(text) => {
                if let Some((path, file)) = &mut log {
                    writeln!(file, "{text}").map_err(files::failed("write", path))?;
                }
                line(&text);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(text);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().map_err(|source| HostError::Start {
        tool: name.to_owned(),
        source,
    })?;
    Ok(Ended {
        status,
        tail: Vec::from(tail).join("\n"),
    })
}

/// Runs a program whose output is short and wanted as a whole: standard output, if it ended well.
pub fn output(command: &mut Command, name: &str) -> Result<String, HostError> {
    let out = tie(command)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| HostError::Start {
            tool: name.to_owned(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(stdout);
    }
    let text = format!("{stdout}{}", String::from_utf8_lossy(&out.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(TAIL)..)
        .unwrap_or_default()
        .join("\n");
    Err(HostError::Failed {
        what: name.to_owned(),
        status: out.status.to_string(),
        tail,
    })
}

/// Ends a process group: SIGTERM, and SIGKILL if that does not help.
pub fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(group) = group else { return };
    // An error means that the group is gone, which is what is wanted.
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

/// A command as one could type it, for logs.
pub fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                key.to_string_lossy(),
                value.to_string_lossy()
            ));
        }
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Reads lines in a thread of their own until the stream ends or nobody listens.
fn read_lines(stream: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            match reader.by_ref().take(LINE).read_until(b'\n', &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&buffer).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_log_and_tail() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut seen = Vec::new();
        let stop = AtomicBool::new(false);
        let ended = run(
            &mut sh("for i in $(seq 20); do echo line $i; done; exit 3"),
            "sh",
            Some(&log),
            &stop,
            |l| seen.push(l.to_owned()),
            || {},
        )
        .unwrap();
        assert_eq!(seen.len(), 20);
        assert_eq!(ended.how(), "exit status 3");
        assert_eq!(ended.tail.lines().count(), TAIL);
        assert!(ended.tail.ends_with("line 20"));
        assert!(std::fs::read_to_string(&log).unwrap().contains("line 1\n"));
        let text = ended.ok("the loop").unwrap_err().to_string();
        assert!(
            text.starts_with("the loop failed (exit status 3)\n    line 6"),
            "{text}"
        );
    }

    #[test]
    fn stop_ends_the_whole_group() {
        let stop = AtomicBool::new(false);
        let begun = Instant::now();
        let result = run(
            &mut sh("sleep 60 & echo $!; wait"),
            "sh",
            None,
            &stop,
            |_| stop.store(true, Ordering::Relaxed),
            || {},
        );
        assert!(matches!(result, Err(HostError::Interrupted)));
        assert!(begun.elapsed() < GRACE);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("/nonexistent/program"), "program").unwrap_err();
        assert_eq!(error.to_string(), "cannot start program");
    }
}
