// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A recording: one event a line, as JSON, one file a run. It is complete enough to be judged again.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::event::Event;

/// A recording that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file does.
    #[error("the recording cannot be read or written; check the path and the space on the disk")]
    File(#[from] io::Error),
    /// A line is no event.
    #[error(
        "line {line} of the recording is no event; it was written by another version or changed"
    )]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
}

/// Writes events to a file or anything else.
pub struct Recorder<W: Write> {
    out: W,
}

impl Recorder<BufWriter<File>> {
    /// A new file; one that is there is replaced.
    pub fn create(path: &Path) -> Result<Self, RecordingError> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }
}

impl<W: Write> Recorder<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds an event.
    pub fn write(&mut self, event: &Event) -> Result<(), RecordingError> {
        let mut line = serde_json::to_vec(event).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(self.out.write_all(&line)?)
    }

    /// Brings what was added so far to where it belongs. To be called before the file is read by anybody.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        Ok(self.out.flush()?)
    }
}

/// Reads the recording in a file.
pub fn read_file(path: &Path) -> Result<Vec<Event>, RecordingError> {
    read(BufReader::new(File::open(path)?))
}

/// Reads a recording. A last line without an end is what a killed run leaves behind: it is left out.
pub fn read(mut input: impl BufRead) -> Result<Vec<Event>, RecordingError> {
    let mut events = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if input.read_until(b'\n', &mut text)? == 0 || !text.ends_with(b"\n") {
            break;
        }
        if !text.trim_ascii().is_empty() {
            events.push(
                serde_json::from_slice(&text)
                    .map_err(|source| RecordingError::Line { line, source })?,
            );
        }
    }
    Ok(events)
}
