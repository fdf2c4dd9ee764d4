// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results of a campaign on the disk, so that one that was killed goes on where it was.
//!
//! `DIR/campaign.json` says what was asked for. `DIR/SCENARIO/KERNEL/boot-N/` has the evidence of a boot and, written
//! last and at once, `result.json`: a boot without that file did not happen. One process at a time has a directory.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::error::CampaignError;
use crate::event::{Standing, Verdict};
use crate::host::files::{self, Lock};
use crate::oracle::Judgement;

/// What campaign.json calls itself.
pub const CAMPAIGN_SCHEMA: &str = "vfrace-campaign";
/// What result.json calls itself.
pub const RESULT_SCHEMA: &str = "vfrace-result";
/// Version of both. Raised when a field changes its meaning or goes away; fields may be added.
pub const VERSION: u32 = 1;

/// Name of the file that says what was asked for.
pub const CAMPAIGN: &str = "campaign.json";
/// Name of the file with the result of a boot.
pub const RESULT: &str = "result.json";
const LOCK: &str = "campaign.lock";

/// The file campaign.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CampaignFile {
    /// [`CAMPAIGN_SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// When it was begun, as in RFC 3339.
    pub started: String,
    /// The machines that worked on it, a line each.
    pub machines: Vec<String>,
    /// What was asked for.
    pub asked: Asked,
}

/// The file result.json: one boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BootResult {
    /// [`RESULT_SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// Scenario name.
    pub scenario: String,
    /// Kernel name.
    pub kernel: String,
    /// Kernel identity.
    pub kernel_id: String,
    /// Number of the boot, from 1.
    pub boot: u32,
    /// How often it was tried: more than once if the machine failed.
    pub tries: u32,
    /// Verdict, findings, evidence.
    pub judgement: Judgement,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// When it was judged, as in RFC 3339.
    pub finished: String,
    /// This program's version.
    pub vfrace: String,
    /// QEMU's version.
    pub qemu: String,
}

impl BootResult {
    /// Rounds in which a finding was seen that the scenario looks for. One that belongs to no round is not counted.
    pub fn wanted_rounds(&self) -> u32 {
        let wanted = |finding: &&crate::event::Finding| finding.standing == Standing::Wanted;
        let findings = self.judgement.findings.iter().filter(wanted);
        let begun = 1..=self.judgement.rounds;
        let mut rounds: Vec<u32> = findings
            .filter_map(|finding| finding.round)
            .filter(|round| begun.contains(round))
            .collect();
        rounds.sort_unstable();
        rounds.dedup();
        u32::try_from(rounds.len()).unwrap_or(u32::MAX)
    }
}

/// Results by combination (its place in [`Asked::cells`]) and number of the boot.
pub type Results = BTreeMap<(usize, u32), BootResult>;

/// A campaign that was read.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where it was read from.
    pub dir: PathBuf,
    /// What campaign.json says.
    pub file: CampaignFile,
    /// What has been found so far.
    pub results: Results,
}

/// A directory that this process has for itself.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    file: CampaignFile,
    _lock: Lock,
}

/// Now, as in RFC 3339.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// Directory of a boot below that of its campaign.
pub fn boot_dir(dir: &Path, scenario: &str, kernel: &str, boot: u32) -> PathBuf {
    dir.join(scenario).join(kernel).join(format!("boot-{boot}"))
}

/// Whether `dir` has a campaign.
pub fn is_campaign(dir: &Path) -> bool {
    dir.join(CAMPAIGN).exists()
}

/// A file that says what it is.
trait Schema: DeserializeOwned {
    /// What it calls itself.
    const SCHEMA: &str;
    /// What this one calls itself, and its version.
    fn head(&self) -> (&str, u32);
}

impl Schema for CampaignFile {
    const SCHEMA: &str = CAMPAIGN_SCHEMA;
    fn head(&self) -> (&str, u32) {
        (&self.schema, self.version)
    }
}

impl Schema for BootResult {
    const SCHEMA: &str = RESULT_SCHEMA;
    fn head(&self) -> (&str, u32) {
        (&self.schema, self.version)
    }
}

fn parse<T: Schema>(path: &Path) -> Result<Option<T>, CampaignError> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
        version: u32,
    }
    let Some(bytes) = files::read_if_there(path)? else {
        return Ok(None);
    };
    let malformed = |source| CampaignError::Malformed {
        path: path.to_path_buf(),
        source,
    };
    let is_ours = |(schema, version)| match (schema, version) == (T::SCHEMA, VERSION) {
        true => Ok(()),
        false => Err(CampaignError::Version {
            path: path.to_path_buf(),
            found: format!("{schema} {version}"),
            wanted: format!("{} {VERSION}", T::SCHEMA),
        }),
    };
    match serde_json::from_slice::<T>(&bytes) {
        Ok(value) => {
            is_ours(value.head())?;
            Ok(Some(value))
        }
        // One of another version may have other fields: that is the better explanation.
        Err(error) => {
            let head: Head = serde_json::from_slice(&bytes).map_err(malformed)?;
            is_ours((&head.schema, head.version))?;
            Err(malformed(error))
        }
    }
}

fn json<T: Serialize>(path: &Path, value: &T) -> Result<(), CampaignError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|source| CampaignError::Malformed {
            path: path.to_path_buf(),
            source,
        })?;
    bytes.push(b'\n');
    Ok(files::write_durable(path, &bytes)?)
}

/// Reads a campaign. Whoever has its directory may go on with it meanwhile.
pub fn read(dir: &Path) -> Result<Kept, CampaignError> {
    let path = dir.join(CAMPAIGN);
    let Some(file) = parse::<CampaignFile>(&path)? else {
        return Err(CampaignError::None {
            dir: dir.to_path_buf(),
        });
    };
    check_names(&path, &file)?;
    let results = results(dir, &file.asked)?;
    Ok(Kept {
        dir: dir.to_path_buf(),
        file,
        results,
    })
}

/// Names become parts of paths.
fn check_names(path: &Path, file: &CampaignFile) -> Result<(), CampaignError> {
    let is_plain = |name: &str| {
        let mut parts = Path::new(name).components();
        let first = parts.next();
        matches!(first, Some(Component::Normal(part)) if part == name) && parts.next().is_none()
    };
    let mut cells = file.asked.cells.iter();
    match cells.all(|cell| is_plain(&cell.scenario) && is_plain(&cell.kernel)) {
        true => Ok(()),
        false => Err(CampaignError::Strange {
            path: path.to_path_buf(),
        }),
    }
}

fn results(dir: &Path, asked: &Asked) -> Result<Results, CampaignError> {
    let mut results = Results::new();
    for (at, cell) in asked.cells.iter().enumerate() {
        for boot_dir in files::dirs_in(&dir.join(&cell.scenario).join(&cell.kernel)) {
            let path = boot_dir.join(RESULT);
            let Some(result) = parse::<BootResult>(&path)? else {
                continue;
            };
            let belongs = result.scenario == cell.scenario
                && result.kernel == cell.kernel
                && Some(&result.kernel_id) == cell.kernel_id.as_ref()
                && boot_dir.file_name() == Some(format!("boot-{}", result.boot).as_ref());
            if !belongs {
                return Err(CampaignError::Strange { path });
            }
            results.insert((at, result.boot), result);
        }
    }
    Ok(results)
}

/// The first directory below `dir` that looks like that of a boot.
fn some_boot(dir: &Path) -> Option<PathBuf> {
    let below = |dir: PathBuf| files::dirs_in(&dir);
    let boots = files::dirs_in(dir).into_iter().flat_map(below);
    boots.flat_map(below).find(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("boot-")
    })
}

impl Store {
    /// Takes the directory for itself, and gives the results that are there. A campaign that was asked for something
    /// else, and runs that belong to no campaign, are left alone: an error. `machine` is a line about this machine.
    pub fn open(
        dir: &Path,
        asked: &Asked,
        machine: &str,
    ) -> Result<(Self, Results), CampaignError> {
        files::make_dir(dir)?;
        let path = dir.join(LOCK);
        let Some(lock) = Lock::try_take(&path)? else {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(CampaignError::Busy {
                dir: dir.to_path_buf(),
                process: holder.trim().parse().ok(),
            });
        };
        files::sweep(dir, files::TEMPORARY)?;
        let path = dir.join(CAMPAIGN);
        let file = match parse::<CampaignFile>(&path)? {
            None => {
                if let Some(boot) = some_boot(dir) {
                    return Err(CampaignError::Foreign { boot });
                }
                let file = CampaignFile {
                    schema: CAMPAIGN_SCHEMA.to_owned(),
                    version: VERSION,
                    started: now(),
                    machines: vec![machine.to_owned()],
                    asked: asked.clone(),
                };
                json(&path, &file)?;
                file
            }
            Some(mut file) => {
                check_names(&path, &file)?;
                let differences = file.asked.differences(asked);
                if !differences.is_empty() {
                    return Err(CampaignError::Differs {
                        dir: dir.to_path_buf(),
                        differences,
                    });
                }
                if !file.machines.iter().any(|known| known == machine) {
                    file.machines.push(machine.to_owned());
                    json(&path, &file)?;
                }
                file
            }
        };
        let results = results(dir, &file.asked)?;
        let store = Self {
            dir: dir.to_path_buf(),
            file,
            _lock: lock,
        };
        Ok((store, results))
    }

    /// What was asked for, with the combinations in the order in which they were first asked for.
    pub fn asked(&self) -> &Asked {
        &self.file.asked
    }

    /// What campaign.json says.
    pub fn file(&self) -> &CampaignFile {
        &self.file
    }

    /// Adds the machines of another part of the same campaign, and the earliest start.
    pub fn set_machines(&self, part: &CampaignFile) -> Result<(), CampaignError> {
        let mut file = self.file.clone();
        file.started = file.started.min(part.started.clone());
        for machine in &part.machines {
            if !file.machines.contains(machine) {
                file.machines.push(machine.clone());
            }
        }
        if file != self.file {
            json(&self.dir.join(CAMPAIGN), &file)?;
        }
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty directory for a boot; what an unfinished one left there is removed.
    pub fn fresh(&self, scenario: &str, kernel: &str, boot: u32) -> Result<PathBuf, CampaignError> {
        let dir = boot_dir(&self.dir, scenario, kernel, boot);
        files::remove(&dir)?;
        files::make_dir(&dir)?;
        Ok(dir)
    }

    /// Keeps a result. When it returns, it is on the disk.
    pub fn put(&self, result: &BootResult) -> Result<(), CampaignError> {
        put(&self.dir, result)
    }
}

/// Writes a result into the directory of its boot.
pub fn put(dir: &Path, result: &BootResult) -> Result<(), CampaignError> {
    let dir = boot_dir(dir, &result.scenario, &result.kernel, result.boot);
    json(&dir.join(RESULT), result)
}

impl Kept {
    /// Results that say something, without those in which the machine failed.
    pub fn is_result(result: &BootResult) -> bool {
        result.judgement.verdict != Verdict::Infra
    }
}
