// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes on while it goes on, on standard error: bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text;
use crate::event::{Event, EventKind, Phase, Standing};

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Bars that move; otherwise lines.
    pub bars: bool,
    /// Colours.
    pub color: bool,
}

impl Style {
    /// What standard error can do.
    pub fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), |name| std::env::var_os(name))
    }

    /// What standard output can do; nothing moves there.
    pub fn stdout() -> Self {
        Self {
            bars: false,
            ..Self::of(io::stdout().is_terminal(), |name| std::env::var_os(name))
        }
    }

    /// Decides from what the stream is and the environment: CI (set to anything) and TERM=dumb mean plain lines,
    /// NO_COLOR (set to anything, <https://no-color.org>) means no colours.
    pub fn of(terminal: bool, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| env(name).is_some_and(|v| !v.is_empty());
        let dumb = env("TERM").is_some_and(|v| v == "dumb");
        Self {
            bars: terminal && !set("CI") && !dumb,
            color: terminal && !set("NO_COLOR") && !dumb,
        }
    }
}

/// A step that is under way.
struct Step {
    began_ns: u64,
    /// Quarters that a plain line was written for.
    quarters: u64,
    bar: Option<ProgressBar>,
}

/// Shows events as they come.
pub struct Terminal {
    style: Style,
    out: Box<dyn Write + Send>,
    bars: MultiProgress,
    steps: BTreeMap<String, Step>,
    /// The run that is under way.
    run: Option<String>,
    /// The schedule that was told last.
    schedule: String,
}

impl Terminal {
    /// Shows them on standard error.
    pub fn stderr() -> Self {
        Self::new(
            Style::stderr(),
            Box::new(io::stderr()),
            ProgressDrawTarget::stderr(),
        )
    }

    /// Shows them on `out`, in lines.
    pub fn plain(out: Box<dyn Write + Send>) -> Self {
        Self::new(
            Style {
                bars: false,
                color: false,
            },
            out,
            ProgressDrawTarget::hidden(),
        )
    }

    pub(super) fn new(
        style: Style,
        out: Box<dyn Write + Send>,
        target: ProgressDrawTarget,
    ) -> Self {
        let target = if style.bars {
            target
        } else {
            ProgressDrawTarget::hidden()
        };
        let bars = MultiProgress::with_draw_target(target);
        Self {
            style,
            out,
            bars,
            steps: BTreeMap::new(),
            run: None,
            schedule: String::new(),
        }
    }

    /// A line above the bars. A terminal that is gone must not stop a run: errors are ignored.
    fn line(&mut self, line: &str) {
        if self.style.bars {
            let out = &mut self.out;
            self.bars.suspend(|| {
                let _ = writeln!(out, "{line}");
            });
        } else {
            let _ = writeln!(self.out, "{line}");
        }
    }

    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Progress {
                step,
                detail,
                part,
                finished,
            } => {
                self.step(event.ns, step, detail, *part, *finished);
            }
            EventKind::RunStarted {
                scenario,
                kernel,
                arch,
                vfs,
                accel,
                qemu,
                ..
            } => {
                let vfs = if *vfs == 1 {
                    "1 VF".to_owned()
                } else {
                    format!("{vfs} VFs")
                };
                // The usual one is not worth a word.
                let arch = match arch.is_default() {
                    true => String::new(),
                    false => format!("{arch}, "),
                };
                let name = format!("{scenario} on {kernel}");
                self.run = Some(name.clone());
                self.schedule.clear();
                self.step(
                    event.ns,
                    &name,
                    &format!("{arch}{vfs}, {accel}, QEMU {qemu}"),
                    None,
                    false,
                );
            }
            EventKind::Phase { phase, round, .. } => self.phase(event.ns, *phase, *round),
            // Once, as long as it stays the same; one without steps is that of a control.
            EventKind::Schedule { text } if *text != self.schedule && text.contains(';') => {
                self.schedule.clone_from(text);
                self.line(&format!("  schedule: {text}"));
            }
            EventKind::UnplugFired { target, .. } => {
                self.detail(event.ns, &format!("unplugged {target}"))
            }
            EventKind::Cut { reason, .. } => self.line(&format!("  cut short: {reason}")),
            EventKind::Finding(finding) if finding.standing != Standing::Known => {
                self.line(&format!("  {}: {}", finding.class, finding.title));
            }
            EventKind::Judged {
                verdict,
                hits,
                rounds,
                seconds,
                ..
            } => {
                let word = text::verdict(*verdict, 0, self.style.color);
                if let Some(name) = self.run.take() {
                    if let Some(bar) = self.steps.remove(&name).and_then(|s| s.bar) {
                        bar.finish_and_clear();
                    }
                    self.line(&format!(
                        "{name}: {word}  {hits}/{rounds} rounds  {seconds:.1} s"
                    ));
                }
            }
            _ => {}
        }
    }

    fn phase(&mut self, ns: u64, phase: Phase, round: u32) {
        let what = where_it_is(phase, round);
        // In lines, one for each round is enough.
        let told = matches!(phase, Phase::Boot | Phase::Armed | Phase::FinalRemove);
        if self.style.bars {
            self.detail(ns, &what);
        } else if told {
            let what = if phase == Phase::Armed {
                format!("round {round}")
            } else {
                what
            };
            self.line(&format!("  {what}"));
        }
    }

    /// What the run is at; in bars only.
    fn detail(&mut self, ns: u64, what: &str) {
        if self.style.bars {
            if let Some(name) = self.run.clone() {
                self.step(ns, &name, what, None, false);
            }
        }
    }

    fn step(
        &mut self,
        ns: u64,
        name: &str,
        detail: &str,
        part: Option<(u64, u64)>,
        finished: bool,
    ) {
        let known = self.steps.contains_key(name);
        if finished {
            let step = self.steps.remove(name);
            let began = step.as_ref().map_or(ns, |s| s.began_ns);
            if let Some(bar) = step.and_then(|s| s.bar) {
                bar.finish_and_clear();
            }
            let seconds = Duration::from_nanos(ns.saturating_sub(began)).as_secs_f64();
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {detail}")
            };
            self.line(&format!("{name} done in {seconds:.1} s{detail}"));
            return;
        }
        let quarters = part.map_or(0, |(done, of)| {
            done.saturating_mul(4).checked_div(of).unwrap_or(0).min(4)
        });
        let bar = (self.style.bars && !known).then(|| self.bar(name));
        let step = self.steps.entry(name.to_owned()).or_insert(Step {
            began_ns: ns,
            quarters: 0,
            bar,
        });
        if let Some(bar) = &step.bar {
            match part {
                Some((done, of)) if of > 0 => {
                    bar.set_style(style("{spinner} {prefix} [{bar:24}] {percent:>3} % {msg}"));
                    bar.set_length(of);
                    bar.set_position(done);
                }
                _ => {}
            }
            bar.set_message(detail.to_owned());
        } else if !known {
            step.quarters = quarters;
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(" ({detail})")
            };
            self.line(&format!("{name} ...{detail}"));
        } else if quarters > step.quarters {
            step.quarters = quarters;
            self.line(&format!("{name} {} %", quarters * 25));
        }
    }

    fn bar(&self, name: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix} {msg} {elapsed}"));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants that a test tries.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Where a run is, in words.
pub fn where_it_is(phase: Phase, round: u32) -> String {
    match phase {
        Phase::Boot => "boot".to_owned(),
        Phase::Armed => format!("round {round}: armed"),
        Phase::Teardown => format!("round {round}: teardown"),
        Phase::Settle => format!("round {round}: settle"),
        Phase::FinalRemove => "remove the PF".to_owned(),
        Phase::PowerOff => "power off".to_owned(),
    }
}
