// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The exit codes of the program, one enum for every subcommand.
//!
//! They are chosen for `git bisect run` (git-bisect(1)): 0 is good, 1 is bad, 125 is "cannot be tested", and anything
//! from 128 on stops the bisection. Nothing but a real finding about the kernel may therefore end in 1..=127 other
//! than 125: a typo in an option or a missing tool is not a bad commit.

/// What the process reports to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything is as it should be: PASS (`run`), as expected (`matrix`), nothing missing (`doctor`).
    Good = 0,
    /// The kernel showed a finding (`run`), or something else than expected (`matrix`).
    Bad = 1,
    /// No verdict on the kernel: it does not build or boot, or teardown and unplug never overlapped.
    CannotTell = 125,
    /// The machine, not the kernel: QEMU, a tool, a package, the disk.
    Infrastructure = 128,
    /// The request itself: an unknown option, a malformed scenario, a value out of range.
    Usage = 129,
    /// Stopped by SIGINT or SIGTERM; the results so far are written.
    Interrupted = 130,
}

impl ExitCode {
    /// All codes with the sentence that `--help` and the documentation print for them.
    pub const ALL: [(ExitCode, &'static str); 6] = [
        (
            ExitCode::Good,
            "as it should be: PASS, or every verdict as expected",
        ),
        (
            ExitCode::Bad,
            "a finding in the kernel, or a verdict that was not expected",
        ),
        (
            ExitCode::CannotTell,
            "cannot tell: does not build or boot, or the two sides never overlapped",
        ),
        (
            ExitCode::Infrastructure,
            "the machine, not the kernel: QEMU, a tool, a package, the disk",
        ),
        (
            ExitCode::Usage,
            "a request that makes no sense: unknown option, malformed scenario, value out of range",
        ),
        (
            ExitCode::Interrupted,
            "stopped by SIGINT or SIGTERM; results so far are kept",
        ),
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What `work` ends with. A panic in it is vfrace's own fault, not the kernel's; it would end the process with 101,
    /// which `git bisect run` takes for a bad commit. Its message has been printed by then.
    pub fn of(work: impl FnOnce() -> Self + std::panic::UnwindSafe) -> Self {
        std::panic::catch_unwind(work).unwrap_or(ExitCode::Infrastructure)
    }

    /// The worse of two outcomes, for a campaign: what stops a bisection outranks "cannot tell", which outranks bad.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        self.max(other)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn a_panic_is_no_bad_commit() {
        assert_eq!(ExitCode::of(|| ExitCode::Bad), ExitCode::Bad);
        let code = ExitCode::of(|| panic!("a mistake in vfrace"));
        assert_eq!(code.code(), 128);
    }
}
