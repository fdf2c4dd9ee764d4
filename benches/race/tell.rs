// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results as Markdown and as JSON.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use vfrace::campaign::stats::round_times::PARTS;
use vfrace::campaign::stats::{Interval, Rate};

use crate::Error;
use crate::play::{Aim, Loop, Section};
use crate::setup::{Machine, Setup};

/// Everything that came out.
#[derive(Debug, Serialize)]
pub struct Results {
    machine: Machine,
    qemu: String,
    accel: String,
    scenario: String,
    vfs: u16,
    rounds_in_boot: u32,
    seed: u64,
    kernels: Vec<Kernel>,
    sections: Vec<Section>,
    comparisons: Vec<Comparison>,
}

#[derive(Debug, Serialize)]
struct Kernel {
    name: String,
    id: String,
    release: String,
    config: String,
}

/// Two loops on the same kernel: directed against undirected, or all probes against few.
#[derive(Debug, Serialize)]
struct Comparison {
    kernel: String,
    one: String,
    other: String,
    /// `None`: the other loop never hit.
    hits_per_round: Option<f64>,
    bounds: Option<Interval>,
    hits_per_hour: Option<f64>,
    hits_per_hour_bounds: Option<Interval>,
}

impl Comparison {
    fn new(one: &Section, other: &Section) -> Self {
        let (d, u) = (one.double_removal, other.double_removal);
        let bounds = d.times_as_often_as_bounds(u);
        // Rounds a minute are measured, not estimated: they scale the ratio and its bounds.
        let speed = one.per_minute() / other.per_minute();
        let scaled = |bounds: Interval| Interval {
            low: bounds.low * speed,
            high: bounds.high * speed,
        };
        Self {
            kernel: one.kernel.clone(),
            one: one.way.name(),
            other: other.way.name(),
            hits_per_round: d.times_as_often_as(u),
            bounds,
            hits_per_hour: d.times_as_often_as(u).map(|ratio| ratio * speed),
            hits_per_hour_bounds: bounds.map(scaled),
        }
    }
}

fn are_compared(earlier: Loop, later: Loop) -> bool {
    if earlier.few_probes != later.few_probes {
        return earlier.aim == later.aim && earlier.skip_sleep == later.skip_sleep;
    }
    let aimed = earlier.aim == Aim::Directed && later.aim == Aim::Undirected;
    aimed && (earlier.skip_sleep || !later.skip_sleep)
}

impl Results {
    pub fn new(setup: &Setup) -> Self {
        let kernels = setup.kernels.iter().map(|kernel| Kernel {
            name: kernel.name.to_string(),
            id: kernel.id.clone(),
            release: kernel.release.clone(),
            config: kernel.config_summary.clone(),
        });
        Self {
            machine: Machine::this(),
            qemu: setup.qemu.version.clone(),
            accel: setup.accel.to_string(),
            scenario: setup.scenario.name.clone(),
            vfs: setup.scenario.vfs,
            rounds_in_boot: setup.choice.rounds_in_boot,
            seed: setup.choice.seed,
            kernels: kernels.collect(),
            sections: Vec::new(),
            comparisons: Vec::new(),
        }
    }

    pub fn add(&mut self, section: Section) {
        let compared = self
            .sections
            .iter()
            .filter(|earlier| {
                earlier.kernel == section.kernel && are_compared(earlier.way, section.way)
            })
            .map(|earlier| Comparison::new(earlier, &section));
        let compared: Vec<Comparison> = compared.collect();
        self.comparisons.extend(compared);
        self.sections.push(section);
    }

    pub fn write(&self, path: &Path) -> Result<(), Error> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(std::fs::write(path, text)?)
    }

    pub fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.tell(&mut out);
        out
    }

    fn tell(&self, out: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "Scenario {}, {} VFs; QEMU {}, {}; {} CPUs ({}), {} MiB, Linux {}; up to {} rounds in a boot; seed {}.\n",
            self.scenario,
            self.vfs,
            self.qemu,
            self.accel,
            machine.cpus,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            self.rounds_in_boot,
            self.seed,
        )?;
        for kernel in &self.kernels {
            writeln!(
                out,
                "Kernel {}: {} ({}), id {}.\n",
                kernel.name, kernel.release, kernel.config, kernel.id
            )?;
        }
        writeln!(
            out,
            "| kernel | loop | overlap proven | DOUBLE-REMOVAL | 95 % interval | boots | rounds/min | without boots | hits/h | load |\n\
             |---|---|---|---|---|---|---|---|---|---|"
        )?;
        for s in &self.sections {
            writeln!(
                out,
                "| {} | {} | {} of {} | {} of {} | {} | {} | {:.1} | {:.1} | {:.0} | {} to {} |",
                s.kernel,
                s.way.name(),
                s.overlap.hits,
                s.overlap.of,
                s.double_removal.hits,
                s.double_removal.of,
                percent(s.double_removal),
                s.boots,
                s.per_minute(),
                s.per_minute_without_boots(),
                s.hits_per_hour(),
                figure(s.load[0]),
                figure(s.load[1]),
            )?;
        }
        writeln!(out)?;
        for s in &self.sections {
            let verdicts = s.verdicts.iter();
            let verdicts: Vec<String> = verdicts.map(|(v, n)| format!("{v} {n}")).collect();
            writeln!(
                out,
                "- {}, {}: `{}`; verdicts: {}",
                s.kernel,
                s.way.name(),
                s.schedule,
                verdicts.join(", ")
            )?;
            for damage in &s.damaged {
                writeln!(out, "  - replaced early: {damage}")?;
            }
        }
        writeln!(
            out,
            "\n| kernel | loop | against | hits per round, ratio | hits per hour, ratio |\n|---|---|---|---|---|"
        )?;
        for c in &self.comparisons {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                c.kernel,
                c.one,
                c.other,
                ratio(c.hits_per_round, c.bounds),
                ratio(c.hits_per_hour, c.hits_per_hour_bounds)
            )?;
        }
        self.times(out)
    }

    /// A column for each directed loop.
    fn times(&self, out: &mut String) -> std::fmt::Result {
        let sections = self.sections.iter();
        let told: Vec<&Section> = sections
            .filter(|s| s.way.aim == Aim::Directed && !s.times.is_empty())
            .collect();
        write!(out, "\n| part of a round, mean |")?;
        for s in &told {
            let name = s.way.name();
            write!(out, " {}, {name}: ms | % |", s.kernel)?;
        }
        writeln!(out, "\n|---|{}", "---:|---:|".repeat(told.len()))?;
        for (n, part) in PARTS.iter().enumerate() {
            write!(out, "| {part} |")?;
            for line in told.iter().filter_map(|s| s.times.get(n)) {
                write!(out, " {:.0} | {:.1} |", line.milliseconds, line.percent)?;
            }
            writeln!(out)?;
        }
        write!(out, "| whole round |")?;
        for s in &told {
            let whole: f64 = s.times.iter().map(|line| line.milliseconds).sum();
            write!(out, " {whole:.0} | 100.0 |")?;
        }
        writeln!(out)
    }
}

fn percent(rate: Rate) -> String {
    match rate.interval() {
        Some(i) => format!("{:.1} % to {:.1} %", i.low * 100.0, i.high * 100.0),
        None => "-".to_owned(),
    }
}

fn ratio(ratio: Option<f64>, bounds: Option<Interval>) -> String {
    match (ratio, bounds) {
        (Some(ratio), Some(b)) if b.high.is_finite() => {
            format!("{ratio:.2} ({:.2} to {:.2})", b.low, b.high)
        }
        (None, Some(b)) if b.low > 0.0 => {
            format!("over {:.2}: that one never hit", b.low)
        }
        _ => "-".to_owned(),
    }
}

fn figure(number: Option<f64>) -> String {
    number.map_or("?".to_owned(), |number| format!("{number:.1}"))
}
