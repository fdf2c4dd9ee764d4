// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client's end of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::protocol::{Refusal, Request, VERSION, request};

/// Longest line that is taken from the server: an answer with the most events is below.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the control connection does not work")]
    Stream(#[from] io::Error),
    /// It is no server of this version.
    #[error("{0} does not speak version {VERSION} of vfrace's control protocol")]
    Foreign(PathBuf),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a server.
pub struct Client {
    stream: BufReader<UnixStream>,
    next: u64,
}

impl Client {
    /// Connects and looks at the greeting.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal if the server has too many clients.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_path_buf(),
            source,
        })?;
        let mut client = Self {
            stream: BufReader::new(stream),
            next: 1,
        };
        let greeting = client.line()?;
        if let Some(refusal) = refusal(&greeting) {
            return Err(refusal.into());
        }
        let speaks = greeting.get("vfrace").and_then(Value::as_str) == Some("control")
            && greeting.get("version").and_then(Value::as_u64) == Some(VERSION);
        if speaks {
            Ok(client)
        } else {
            Err(ClientError::Foreign(path.to_path_buf()))
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, what: &Request) -> Result<Value, ClientError> {
        let id = self.next;
        self.next += 1;
        let line = format!("{}\n", request(id, what));
        self.stream.get_mut().write_all(line.as_bytes())?;
        let mut answer = self.line()?;
        match (refusal(&answer), answer.get_mut("ok")) {
            (Some(refusal), _) => Err(refusal.into()),
            (None, Some(ok)) => Ok(ok.take()),
            (None, None) => Err(ClientError::Closed),
        }
    }

    /// The next line of the server: an event, for who follows them.
    ///
    /// # Errors
    /// [`ClientError::Closed`] at the end, or that of the connection.
    pub fn line(&mut self) -> Result<Value, ClientError> {
        let mut line = Vec::new();
        let read = self
            .stream
            .by_ref()
            .take(MAX_ANSWER)
            .read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Err(ClientError::Closed);
        }
        serde_json::from_slice(&line).map_err(|error| io::Error::from(error).into())
    }
}

fn refusal(answer: &Value) -> Option<Refusal> {
    serde_json::from_value(answer.get("error")?.clone()).ok()
}
