// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From an address to lines, and what a file is called from the kernel's top directory.

use super::{NoPlace, Symbols};
use crate::event::Place;

/// Functions that were inlined into each other; more of them come out of broken debug information only.
const MOST_INLINED: usize = 64;
/// A function of a file that every kernel has: what is in front of it in a path is the top directory.
const TOP: [(&str, &str); 2] = [
    ("start_kernel", "init/main.c"),
    ("kernel_init", "init/main.c"),
];

impl Symbols<'_> {
    /// The lines for an address; `function` is what a frame without a function of its own is in (assembler).
    pub(super) fn at(&self, address: u64, function: &str) -> Result<Vec<Place>, NoPlace> {
        let mut places = self.raw(address, function)?;
        for place in &mut places {
            if let Some(top) = self.top() {
                if let Some(rest) = place.file.strip_prefix(top) {
                    place.file = rest.to_owned();
                }
            }
        }
        Ok(places)
    }

    fn raw(&self, address: u64, function: &str) -> Result<Vec<Place>, NoPlace> {
        let broken = |e: gimli::Error| NoPlace::Broken(e.to_string());
        let mut frames = self
            .context
            .find_frames(address)
            .skip_all_loads()
            .map_err(broken)?;
        let mut places = Vec::new();
        while let Some(frame) = frames.next().map_err(broken)? {
            let name = frame.function.as_ref().and_then(|f| f.raw_name().ok());
            let line = frame.location.as_ref();
            places.push(Place {
                function: name.map_or_else(|| function.to_owned(), |name| name.into_owned()),
                file: line.and_then(|l| l.file).map(normal).unwrap_or_default(),
                line: line.and_then(|l| l.line).unwrap_or_default(),
            });
            if places.len() >= MOST_INLINED {
                break;
            }
        }
        match places.iter().any(|place| !place.file.is_empty()) {
            true => Ok(places),
            false => Err(NoPlace::NoLine),
        }
    }

    fn top(&self) -> Option<&str> {
        let find = || {
            TOP.iter().find_map(|(function, file)| {
                let places = self.raw(self.table.start(function)?, function).ok()?;
                let top = places.last()?.file.strip_suffix(file)?;
                (!top.is_empty()).then(|| top.to_owned())
            })
        };
        self.top.get_or_init(find).as_deref()
    }
}

/// A path without `.` and with `..` resolved.
pub(super) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    if absolute { format!("/{path}") } else { path }
}
