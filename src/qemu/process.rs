// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A running QEMU. It never outlives us: it is killed on drop, and by the kernel should this process die.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// QEMU could not be started or looked after.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The log cannot be written.
    #[error("cannot write {path}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not start.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its state cannot be asked for.
    #[error("cannot wait for QEMU")]
    Wait(#[source] std::io::Error),
}

/// A QEMU process in a process group of its own, so that a Ctrl-C at the terminal reaches only vfrace.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (program and leading arguments) with `arguments`. Output goes to `log`. Must be called from a thread that lives as long as the process: the kernel's parent-death signal
    /// (prctl(2), PR_SET_PDEATHSIG) is about the thread.
    pub fn start(
        command: &[OsString],
        env: &[(OsString, OsString)],
        arguments: &[OsString],
        log: &Path,
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Log {
            path: log.to_path_buf(),
            source,
        };
        let file = File::create(log).map_err(failed)?;
        let (program, leading) = command.split_first().ok_or_else(|| ProcessError::Start {
            program: "QEMU".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let error_log = file.try_clone().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(leading)
            .args(arguments)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(error_log)
            .process_group(0);
        // SAFETY: the closure makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(
                    Signal::KILL,
                ))?)
            });
        }
        let child = command.spawn().map_err(|source| ProcessError::Start {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
        Ok(Self {
            child,
            log: log.to_path_buf(),
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(ProcessError::Wait)
    }

    /// Waits until it has ended, at most `limit`. `None` if it still runs.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>, ProcessError> {
        let end = Instant::now() + limit;
        loop {
            let status = self.ended()?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How long the thread of QEMU that has waited longest has waited for a CPU of the host, while it could have run. Zero
    /// where the kernel does not count it (Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat, second number).
    pub fn starved(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let waited = |thread: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse().ok()
        };
        let longest = threads.into_iter().flatten().filter_map(waited).max();
        Duration::from_nanos(longest.unwrap_or_default())
    }

    /// Kills it and waits for it to be gone.
    pub fn kill(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and waiting returns at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of what it said itself for a message.
    pub fn last_words(&self) -> String {
        let text =
            std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(3)..)
            .unwrap_or_default()
            .join("; ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// "killed by signal 9", "exit status 1": how a process ended, for a message.
pub fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => status.to_string(),
    }
}

/// The command as a line that a shell would take.
pub fn shell_line(
    command: &[OsString],
    env: &[(OsString, OsString)],
    arguments: &[OsString],
) -> String {
    let quote = |word: &OsString| {
        let word = word.to_string_lossy();
        // An argument with a NUL byte cannot be passed to a program at all: nothing is lost by showing it as it is.
        shlex::try_quote(&word).map_or_else(|_| word.to_string(), |quoted| quoted.into_owned())
    };
    let settings = env
        .iter()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), quote(value)));
    let words = command.iter().chain(arguments).map(quote);
    settings.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_running() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = ["sleep".into(), "100".into()];
        let process = Process::start(&sleep, &[], &[], &dir.path().join("log")).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    fn last_words_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let command = [
            "sh".into(),
            "-c".into(),
            "echo one; echo two >&2; exit 3".into(),
        ];
        let mut process = Process::start(&command, &[], &[], &dir.path().join("log")).unwrap();
        let status = process.wait(Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(describe(status), "exit status 3");
        assert_eq!(process.last_words(), "one; two");
    }

    #[test]
    fn two_on_one_cpu_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let busy = ["taskset", "-c", "0", "sh", "-c", "while :; do :; done"].map(Into::into);
        let start = |log: &str| Process::start(&busy, &[], &[], &dir.path().join(log)).unwrap();
        let (one, other) = (start("one"), start("other"));
        let end = Instant::now() + Duration::from_secs(20);
        while one.starved() + other.starved() < Duration::from_millis(100) {
            assert!(Instant::now() < end, "{:?}", one.starved());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_line_for_the_shell() {
        let line = shell_line(
            &["qemu".into()],
            &[("A".into(), "b c".into())],
            &["-append".into(), "x='y'".into()],
        );
        assert_eq!(line, r#"A='b c' qemu -append "x='y'""#);
    }
}
