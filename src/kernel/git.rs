// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running git so that it does the same for everybody: no configuration of the user or the machine, no hooks, no
//! helpers, no network, no prompts.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::host::command::{self, Ended};
use crate::host::{HostError, tools};

/// The program.
const GIT: tools::Tool = tools::Tool {
    name: "git",
    package: "git",
    used_for: "patches and kernel trees",
};
/// What replaces the configuration (git-config(1)). A tree may belong to somebody else: nothing of its configuration is
/// run, so that is safe. No fsmonitor: it would be started, and write beside the tree.
const SETTINGS: [&str; 12] = [
    "safe.directory=*",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "core.autocrlf=false",
    "core.quotePath=false",
    "core.compression=1",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.addEmbeddedRepo=false",
];
/// How often a git that takes long is looked after.
const POLL: Duration = Duration::from_millis(50);
/// Bytes of an answer that are kept.
const ANSWER: u64 = 64 << 20;

/// Where a git works.
#[derive(Clone, Debug, Default)]
pub(super) struct Git {
    /// The repository; `None` lets git look for it from the working directory on.
    pub dir: Option<PathBuf>,
    /// The work tree.
    pub work: Option<PathBuf>,
    /// The index.
    pub index: Option<PathBuf>,
    /// Working directory.
    pub at: PathBuf,
    /// Objects of another repository that it may read, as git(1) has it in GIT_ALTERNATE_OBJECT_DIRECTORIES. A git that
    /// writes objects must not have it: git gives an object of the other one, instead of writing it a second time, the
    /// time of now.
    pub borrowed: Option<String>,
    /// A repository is looked for below this directory only.
    pub ceiling: Option<PathBuf>,
    /// More settings, `name=value`.
    pub settings: Vec<String>,
}

/// What a git that has ended has said.
#[derive(Debug)]
pub(super) struct Said {
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
    /// It ended well.
    pub ok: bool,
    /// How it ended.
    pub status: String,
}

impl Said {
    /// Standard output without the line's end.
    pub fn line(&self) -> String {
        String::from_utf8_lossy(&self.out).trim_end().to_owned()
    }

    /// An error, unless it ended well.
    pub fn ok(self, what: &str) -> Result<Self, HostError> {
        if self.ok {
            return Ok(self);
        }
        Err(HostError::Failed {
            what: what.to_owned(),
            status: self.status,
            tail: self.err.trim_end().to_owned(),
        })
    }
}

/// Fails if git is not installed.
pub(super) fn require() -> Result<(), HostError> {
    tools::require(&[GIT])
}

/// Takes out of a command's environment what a hook, or `git rebase --exec`, has set for its own repository.
pub(super) fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
}

impl Git {
    /// A git in a directory, without a repository.
    pub fn at(dir: &Path) -> Self {
        Self {
            at: dir.to_path_buf(),
            ..Self::default()
        }
    }

    /// The command, to be given its arguments.
    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut git = Command::new("git");
        clean(&mut git);
        for (name, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("LC_ALL", "C"),
        ] {
            git.env(name, value);
        }
        for (name, path) in [
            ("GIT_DIR", &self.dir),
            ("GIT_WORK_TREE", &self.work),
            ("GIT_INDEX_FILE", &self.index),
            ("GIT_CEILING_DIRECTORIES", &self.ceiling),
        ] {
            if let Some(path) = path {
                git.env(name, path);
            }
        }
        if let Some(borrowed) = &self.borrowed {
            git.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", borrowed);
        }
        git.arg("--no-pager");
        let more = self.settings.iter().map(String::as_str);
        for setting in SETTINGS.into_iter().chain(more) {
            git.args(["-c", setting]);
        }
        git.args(args).current_dir(&self.at);
        git
    }

    /// Runs it with `input` on standard input. An error only if it cannot be run; see [`Said::ok`].
    pub fn say<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Result<Said, HostError> {
        self.say_until(args, input, &AtomicBool::new(false))
    }

    /// The same for one that takes long: it ends when `stop` becomes true.
    pub fn say_until<S: AsRef<OsStr>>(
        &self,
        args: &[S],
        input: &[u8],
        stop: &AtomicBool,
    ) -> Result<Said, HostError> {
        let failed = |source| HostError::Start {
            tool: GIT.name.to_owned(),
            source,
        };
        let mut git = self.command(args);
        git.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command::tie(&mut git).spawn().map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A git that does not want it all says so by its status.
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(input);
                }
            });
            scope.spawn(|| {
                if let Some(stderr) = stderr {
                    let _ = stderr.take(ANSWER).read_to_end(&mut err);
                }
            });
            scope.spawn(|| {
                if let Some(stdout) = stdout {
                    let _ = stdout.take(ANSWER).read_to_end(&mut out);
                }
            });
            // A short one is not to wait for the next look.
            let mut pause = Duration::from_millis(1);
            while let Ok(None) = child.try_wait() {
                if stop.load(Ordering::Relaxed) {
                    // Its streams end with it, and with them the threads.
                    command::end(&mut child);
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(POLL);
            }
        });
        if stop.load(Ordering::Relaxed) {
            return Err(HostError::Interrupted);
        }
        let status = child.wait().map_err(failed)?;
        Ok(Said {
            out,
            err: String::from_utf8_lossy(&err).into_owned(),
            ok: status.success(),
            status: status.to_string(),
        })
    }

    /// Runs it, and gives what it printed.
    pub fn ask<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String, HostError> {
        let what = args.first().map_or_else(String::new, |first| {
            format!("git {}", first.as_ref().to_string_lossy())
        });
        Ok(self.say(args, &[])?.ok(&what)?.line())
    }

    /// Runs one that takes long: it ends when `stop` becomes true. `line` gets every line.
    pub fn long(
        &self,
        args: &[&str],
        stop: &AtomicBool,
        line: impl FnMut(&str),
    ) -> Result<Ended, HostError> {
        command::run(&mut self.command(args), GIT.name, None, stop, line, || {})
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn one_that_takes_long_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(false);
        let git = Git::at(dir.path());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                stop.store(true, Ordering::Relaxed);
            });
            let args = ["-c", "alias.wait=!sleep 60", "wait"];
            let said = git.say_until(&args, &[], &stop);
            assert!(matches!(said, Err(HostError::Interrupted)), "{said:?}");
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn nothing_of_the_callers_repository_or_configuration_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let git = Git {
            ceiling: dir.path().parent().map(Path::to_path_buf),
            ..Git::at(dir.path())
        };
        assert!(!git.say(&["rev-parse", "--git-dir"], &[]).unwrap().ok);
        let name = git.say(&["config", "user.name"], &[]).unwrap();
        assert!(!name.ok && name.out.is_empty(), "{name:?}");
        // As `git rebase --exec` and hooks set it.
        let mut command = Command::new("true");
        command.env("HOME", "/");
        clean(&mut command);
        let names: Vec<_> = command.get_envs().collect();
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"GIT_") {
                assert!(names.contains(&(variable.as_os_str(), None)));
            }
        }
    }

    #[test]
    fn more_than_a_pipe_holds_goes_in_and_out() {
        let git = Git::at(Path::new("/"));
        let many = "deadbeef\n".repeat(100_000);
        let said = git.say(&["stripspace"], many.as_bytes()).unwrap();
        assert_eq!(said.out.len(), many.len());
    }
}
