// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a campaign put together again.

use std::path::{Path, PathBuf};

use super::error::CampaignError;
use super::store::{self, CampaignFile, Kept, Results, Store, boot_dir};
use crate::host::files;

/// Parts put together.
#[derive(Clone, Debug)]
pub struct Merged {
    /// What was asked for, as a whole.
    pub file: CampaignFile,
    /// All results.
    pub results: Results,
    /// Where each result is, in the same order.
    dirs: Vec<((usize, u32), PathBuf)>,
}

/// Reads the directories and puts their results together. They have to be parts of one campaign; the same result twice
/// counts once. A boot in which the machine failed gives way to one in which it did not.
pub fn merge(dirs: &[PathBuf]) -> Result<Merged, CampaignError> {
    let mut merged: Option<Merged> = None;
    for dir in dirs {
        let mut kept = store::read(dir)?;
        kept.file.asked.shard = None;
        match &mut merged {
            None => {
                let dirs = kept.results.keys().map(|key| (*key, dir.clone())).collect();
                merged = Some(Merged {
                    file: kept.file,
                    results: kept.results,
                    dirs,
                });
            }
            Some(merged) => merged.add(kept)?,
        }
    }
    merged.ok_or_else(|| CampaignError::None {
        dir: PathBuf::new(),
    })
}

impl Merged {
    fn add(&mut self, kept: Kept) -> Result<(), CampaignError> {
        let differences = self.file.asked.differences(&kept.file.asked);
        if !differences.is_empty() {
            return Err(CampaignError::Differs {
                dir: kept.dir,
                differences,
            });
        }
        self.file.started = kept
            .file
            .started
            .min(std::mem::take(&mut self.file.started));
        for machine in kept.file.machines {
            if !self.file.machines.contains(&machine) {
                self.file.machines.push(machine);
            }
        }
        for (_, result) in kept.results {
            let asked = &self.file.asked;
            let Some(at) = asked.find(&result.scenario, &result.kernel) else {
                // Both ask for the same combinations.
                continue;
            };
            let key = (at, result.boot);
            let there = self.results.get(&key);
            let replace = match there {
                None => true,
                Some(there) if *there == result || !Kept::is_result(&result) => false,
                Some(there) if !Kept::is_result(there) => true,
                Some(_) => {
                    let first = self.dirs.iter().find(|(k, _)| *k == key);
                    return Err(CampaignError::Twice {
                        what: format!(
                            "{} on {}, boot {}",
                            result.scenario, result.kernel, result.boot
                        ),
                        first: first.map(|(_, dir)| dir.clone()).unwrap_or_default(),
                        second: kept.dir,
                    });
                }
            };
            if replace {
                self.results.insert(key, result);
                self.dirs.retain(|(k, _)| *k != key);
                self.dirs.push((key, kept.dir.clone()));
            }
        }
        Ok(())
    }

    /// Where the evidence is, for a table: the only directory, or nothing in particular.
    pub fn dir(&self) -> PathBuf {
        let mut dirs = self.dirs.iter().map(|(_, dir)| dir);
        match dirs.next() {
            Some(first) if dirs.all(|dir| dir == first) => first.clone(),
            _ => PathBuf::new(),
        }
    }

    /// Copies results and evidence into `out`, a new directory or one of the same campaign.
    pub fn write(&self, out: &Path) -> Result<(), CampaignError> {
        let machine = self.file.machines.join("; ");
        let first = self.file.machines.first().unwrap_or(&machine);
        let (store, there) = Store::open(out, &self.file.asked, first)?;
        store.set_machines(&self.file)?;
        for ((at, boot), dir) in &self.dirs {
            let Some(result) = self.results.get(&(*at, *boot)) else {
                continue;
            };
            let asked = store.asked();
            let place = asked.find(&result.scenario, &result.kernel);
            match place.and_then(|at| there.get(&(at, *boot))) {
                Some(same) if same == result => continue,
                Some(other) if Kept::is_result(other) => {
                    return Err(CampaignError::Twice {
                        what: format!("{} on {}, boot {boot}", result.scenario, result.kernel),
                        first: out.to_path_buf(),
                        second: dir.clone(),
                    });
                }
                _ => {}
            }
            let from = boot_dir(dir, &result.scenario, &result.kernel, *boot);
            let to = store.fresh(&result.scenario, &result.kernel, *boot)?;
            copy(&from, &to)?;
            store.put(result)?;
        }
        Ok(())
    }
}

/// Copies the files of a boot but for its result.
fn copy(from: &Path, to: &Path) -> Result<(), CampaignError> {
    let entries = std::fs::read_dir(from).map_err(files::failed("read", from))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || name == store::RESULT || name.to_string_lossy().starts_with(files::TEMPORARY)
        {
            continue;
        }
        let to = to.join(name);
        std::fs::copy(&path, &to).map_err(files::failed("copy", &path))?;
    }
    Ok(())
}
