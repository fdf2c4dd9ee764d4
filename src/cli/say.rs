// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person reads. `print!` panics when nobody reads any more (`vfrace matrix | head -1`) or the disk is full, and
//! the exit code and the results that are still to be written would be lost with it.

use std::fmt::Display;
use std::io::{BufWriter, ErrorKind, Result, Write, stderr, stdout};

/// Prints text to standard output, as it is. Should that fail, a line on standard error says so, unless the reader went
/// away, which is nobody's fault.
pub(super) fn out(text: impl Display) {
    told(write!(stdout().lock(), "{text}"));
}

/// The same for what has no end: whether anybody still reads.
pub(super) fn out_if_read(text: impl Display) -> bool {
    told(write!(stdout().lock(), "{text}"))
}

/// Prints what need not be text, in the same way.
pub(super) fn bytes<'a>(parts: impl IntoIterator<Item = &'a [u8]>) {
    let mut to = BufWriter::new(stdout().lock());
    let mut parts = parts.into_iter();
    told(
        parts
            .try_for_each(|part| to.write_all(part))
            .and_then(|()| to.flush()),
    );
}

/// Prints text to standard error, as it is. There is nobody to be told if that fails.
pub(super) fn err(text: impl Display) {
    let _ = write!(stderr().lock(), "{text}");
}

/// Whether it was written.
fn told(written: Result<()>) -> bool {
    let written = written.and_then(|()| stdout().flush());
    if let Err(error) = &written
        && error.kind() != ErrorKind::BrokenPipe
    {
        err(format_args!(
            "error: cannot write to standard output: {error}\n"
        ));
    }
    written.is_ok()
}
