// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines of source for the stacks of findings.

use std::collections::HashMap;
use std::path::Path;

use super::{At, NoPlace, SymbolFile, Symbols, SymbolsError};
use crate::event::{Finding, Place, Standing};

/// Findings that get lines, those that count first: a campaign has hundreds that say the same.
const MOST_FINDINGS: usize = 20;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Filled {
    /// Frames that were looked at, those of modules not counted.
    pub frames: usize,
    /// Of these, those that have lines now.
    pub placed: usize,
    /// Of these, those whose function is not in the symbols, or has another size there: symbols of another kernel.
    pub foreign: usize,
}

impl Filled {
    /// Hardly anything fits: the symbols are another kernel's.
    pub fn is_another_kernel(&self) -> bool {
        self.foreign * 2 > self.frames
    }
}

/// As [`fill`], from the file at `path`, which is read only if a finding has a stack.
pub fn fill_from(
    findings: &mut [Finding],
    console: &[u8],
    path: &Path,
) -> Result<Filled, SymbolsError> {
    if findings.iter().all(|finding| finding.stack.is_empty()) {
        return Ok(Filled::default());
    }
    let file = SymbolFile::load(path)?;
    Ok(fill(findings, console, &file.symbols()?))
}

/// Gives the frames of the findings their places in the source. `console` is what the findings' spans are about. Frames
/// of modules, and what the symbols do not have, stay as they are.
pub fn fill(findings: &mut [Finding], console: &[u8], symbols: &Symbols<'_>) -> Filled {
    let mut filled = Filled::default();
    let mut seen: HashMap<(String, At), Result<Vec<Place>, NoPlace>> = HashMap::new();
    let mut order: Vec<&mut Finding> = findings
        .iter_mut()
        .filter(|finding| !finding.stack.is_empty())
        .collect();
    order.sort_by_key(|finding| finding.standing == Standing::Known);
    for finding in order.into_iter().take(MOST_FINDINGS) {
        let report = report(finding, console);
        for (level, frame) in finding.stack.iter_mut().enumerate() {
            let at = match level == 0 && is_instruction(&report, &frame.text) {
                true => At::Instruction,
                false => At::Return,
            };
            let places = seen
                .entry((frame.text.clone(), at))
                .or_insert_with(|| symbols.places(&frame.text, at));
            match places {
                Ok(places) => frame.places.clone_from(places),
                Err(NoPlace::Module(_)) => continue,
                Err(NoPlace::Unknown(_) | NoPlace::OtherSize { .. }) => filled.foreign += 1,
                Err(_) => {}
            }
            filled.frames += 1;
            filled.placed += usize::from(!frame.places.is_empty());
        }
    }
    filled
}

fn report<'a>(finding: &Finding, console: &'a [u8]) -> std::borrow::Cow<'a, str> {
    let part = finding.console.and_then(|(start, end)| {
        console.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    });
    String::from_utf8_lossy(part.unwrap_or_default())
}

/// Whether the report names the frame as the place where it happened, by the registers, or in the line of a WARNING
/// (whose trap is what the registers point to). KASAN's headline names the return address of a call into KASAN instead.
fn is_instruction(report: &str, frame: &str) -> bool {
    report.lines().any(|line| {
        let place = line.contains("RIP: 0010:")
            || line.contains("Krnl PSW :")
            || line.contains("WARNING: ");
        place && line.contains(frame)
    })
}
