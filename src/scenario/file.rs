// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scenario files: TOML with spans, parameters filled in, every mistake with its place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::nearest;
use super::filled::{Filled, RawParameter, parameters};
use super::{Actuator, Malformed, PfDriver, Scenario, ScenarioError, Schedule, Teardown, Unplug};
use crate::arch::Arch;
use crate::event::{Class, FunctionId, Target};

/// Linux and the SR-IOV capability would allow more VFs; one bus with ARI has room for 255 beside the PF.
const MAX_VFS: i64 = 255;
/// A .remove() that sleeps longer would look like one that does not come back.
const MAX_REMOVE_MS: i64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    title: String,
    source: String,
    teardown: Spanned<Teardown>,
    #[serde(default)]
    wants: Vec<Class>,
    #[serde(default)]
    only_on: Vec<Arch>,
    schedule: Option<Spanned<String>>,
    #[serde(default)]
    schedule_on: BTreeMap<Arch, Spanned<String>>,
    pf: Option<RawPf>,
    #[serde(default)]
    parameters: BTreeMap<Spanned<String>, RawParameter>,
    unplug: Option<RawUnplug>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPf {
    driver: RawDriver,
    remove_ms: Option<Spanned<RawNumber>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawDriver {
    Virtio,
    Module,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number, or a text with a {parameter}")]
enum RawNumber {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUnplug {
    actuator: Actuator,
    target: Spanned<String>,
}

/// A scenario that can be named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, the file's stem.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The scenario files in `dir`, by name. They are not parsed.
pub fn list(dir: &Path) -> Result<Vec<Entry>, ScenarioError> {
    let read = |source| ScenarioError::Read {
        path: dir.to_path_buf(),
        source,
    };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            if let Some(name) = path.file_stem().and_then(|s| s.to_str()) {
                entries.push(Entry {
                    name: name.to_owned(),
                    path,
                });
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Reads a scenario: a name (`dir/NAME.toml`), or a path if it has a slash or ends in `.toml`. `overrides` are
/// parameters from the command line; they obey the same ranges as the file's own defaults.
pub fn load(
    path_or_name: &str,
    dir: &Path,
    overrides: &[(&str, i64)],
) -> Result<Scenario, ScenarioError> {
    let is_path = path_or_name.contains('/') || path_or_name.ends_with(".toml");
    let path = if is_path {
        PathBuf::from(path_or_name)
    } else {
        dir.join(format!("{path_or_name}.toml"))
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let entries = list(dir)?;
            let names: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
            let hint = match nearest(path_or_name, names.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("there are: {}", names.join(", ")),
            };
            return Err(ScenarioError::NotFound {
                name: path_or_name.to_owned(),
                hint,
            });
        }
        Err(source) => return Err(ScenarioError::Read { path, source }),
    };
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or(path_or_name)
        .to_owned();
    parse(&name, &path.display().to_string(), &text, overrides)
}

/// Reads a scenario called `name` from the contents `text` of the file `file` (for messages only).
pub(super) fn parse(
    name: &str,
    file: &str,
    text: &str,
    overrides: &[(&str, i64)],
) -> Result<Scenario, ScenarioError> {
    let source = Source { file, text };
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let hint = unknown_key_hint(e.message());
        source.error(e.span().unwrap_or(0..0), e.message().to_owned(), hint)
    })?;
    let values = parameters(&source, &raw.parameters, overrides)?;
    let need = |parameter: &str, top: i64| {
        match values.get(parameter) {
        Some(value) if (1..=top).contains(value) => Ok(*value),
        Some(value) => {
            let place = raw.parameters.iter().find(|(k, _)| k.get_ref() == parameter);
            Err(source.error(
                place.map_or(0..0, |(_, p)| p.max.span()),
                format!("`{parameter}` is {value} but may be 1 to {top}"),
                Some(format!("set min to 1 and max to {top}")),
            ))
        }
        None => Err(source.error(
            0..0,
            format!("the parameter `{parameter}` is missing"),
            Some(format!("add a [parameters] table with {parameter} = {{ default = 3, min = 1, max = {top} }}")),
        )),
    }
    };
    let vfs = need("vfs", MAX_VFS)?;
    let rounds = need("rounds", 1_000_000)?;
    let driver = driver(&source, &raw, &values)?;
    let unplug = match &raw.unplug {
        Some(raw) => Some(unplug(&source, raw, &values, vfs)?),
        None => None,
    };
    let mut scenario = Scenario {
        name: name.to_owned(),
        title: raw.title.trim().to_owned(),
        source: raw.source.trim().to_owned(),
        vfs: u16::try_from(vfs).unwrap_or(u16::MAX),
        rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
        teardown: *raw.teardown.get_ref(),
        driver,
        unplug,
        schedule: Schedule::undirected(unplug.is_some()),
        schedule_on: BTreeMap::new(),
        only_on: raw.only_on.clone(),
        wants: raw.wants.clone(),
    };
    let read = |raw: &Spanned<String>, scenario: &Scenario| {
        let text = Filled::new(&source, raw, &values)?;
        Schedule::read(&text.text, scenario)
            .map_err(|e| source.error(text.place(&e.at), e.what, Some(e.hint)))
    };
    if let Some(raw) = &raw.schedule {
        scenario.schedule = read(raw, &scenario)?;
    }
    for (arch, raw) in &raw.schedule_on {
        let schedule = read(raw, &scenario)?;
        scenario.schedule_on.insert(*arch, schedule);
    }
    Ok(scenario)
}

/// A file, to point into.
pub(super) struct Source<'a> {
    file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn error(
        &self,
        place: Range<usize>,
        what: String,
        hint: Option<String>,
    ) -> ScenarioError {
        ScenarioError::Malformed(Box::new(Malformed::new(
            self.file, self.text, place, what, hint,
        )))
    }
}

/// serde names the unknown key and the known ones in back quotes; the nearest of them is the hint.
fn unknown_key_hint(message: &str) -> Option<String> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    nearest(unknown, words).map(|name| format!("did you mean `{name}`?"))
}

/// The driver of the PF, which has to be one that the teardown can be done with.
fn driver(
    source: &Source<'_>,
    raw: &Raw,
    values: &BTreeMap<String, i64>,
) -> Result<PfDriver, ScenarioError> {
    let module = raw
        .pf
        .as_ref()
        .is_some_and(|pf| pf.driver == RawDriver::Module);
    if raw.teardown.get_ref().needs_module() && !module {
        return Err(source.error(
            raw.teardown.span(),
            "this teardown needs a driver that can be unloaded and that enables VFs by itself"
                .into(),
            Some("add a table: [pf] and driver = \"module\"".into()),
        ));
    }
    let Some(number) = raw.pf.as_ref().and_then(|pf| pf.remove_ms.as_ref()) else {
        return Ok(if module {
            PfDriver::Module { remove_ms: 0 }
        } else {
            PfDriver::Virtio
        });
    };
    if !module {
        return Err(source.error(
            number.span(),
            "the .remove() of virtio-pci cannot be made slower".into(),
            Some("write driver = \"module\", or leave remove-ms away".into()),
        ));
    }
    let given = match number.get_ref() {
        RawNumber::Number(n) => n.to_string(),
        RawNumber::Text(text) => Filled::fill(source, text, number.span(), values)?.text,
    };
    match given.trim().parse::<u32>() {
        Ok(remove_ms) if i64::from(remove_ms) <= MAX_REMOVE_MS => {
            Ok(PfDriver::Module { remove_ms })
        }
        _ => Err(source.error(
            number.span(),
            format!(".remove() cannot take {given} ms longer"),
            Some(format!("allowed is 0 to {MAX_REMOVE_MS}")),
        )),
    }
}

fn unplug(
    source: &Source<'_>,
    raw: &RawUnplug,
    values: &BTreeMap<String, i64>,
    vfs: i64,
) -> Result<Unplug, ScenarioError> {
    let actuator = raw.actuator;
    let wrong = |what: String, hint: String| source.error(raw.target.span(), what, Some(hint));
    let target = Filled::new(source, &raw.target, values)?.text;
    let target: Target = target.parse().map_err(|what| {
        let (targets, _) = actuator.takes(Target::Slot);
        wrong(
            what,
            format!("the target of `{}` is {targets}", actuator.name()),
        )
    })?;
    let (targets, fits) = actuator.takes(target);
    if !fits {
        return Err(wrong(
            format!(
                "{target} cannot be unplugged by the actuator `{}`",
                actuator.name()
            ),
            format!("its target is {targets}"),
        ));
    }
    match target {
        Target::Function(FunctionId::Vf(n)) if i64::from(n) > vfs => Err(wrong(
            format!("there is no {target} to unplug"),
            format!("there are {vfs} VFs, vf1 to vf{vfs}"),
        )),
        _ => Ok(Unplug { actuator, target }),
    }
}
