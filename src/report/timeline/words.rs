// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is to be seen in a round in a sentence, and which part of it.

use super::{Draw, at, ms};
use crate::event::{Class, EventKind, Finding, FunctionId};
use crate::oracle::locks::Open;
use crate::oracle::removals::Removal;

impl Draw<'_> {
    pub(super) fn headline(
        &self,
        doubles: &[(FunctionId, Vec<Removal>)],
        findings: &[Finding],
    ) -> String {
        if let Some((vf, runs)) = doubles.first() {
            let mut by: Vec<String> = Vec::new();
            for run in runs {
                let name = self.who(run.pid, &run.comm);
                if !by.contains(&name) {
                    by.push(name);
                }
            }
            let overlap = match self.together(runs) {
                Some((from, to)) => format!(
                    ", both at once for {} (from {} to {})",
                    ms(to.saturating_sub(from)),
                    at(from),
                    at(to)
                ),
                None => ", one after the other".to_owned(),
            };
            return format!(
                "{vf} was removed TWICE: by {}{overlap}.",
                by.join(" and by ")
            );
        }
        let stuck = findings
            .iter()
            .find(|f| f.class == Class::Deadlock && f.round == Some(self.round.number));
        if let Some(stuck) = stuck {
            return format!("DEADLOCK: {}.", stuck.title);
        }
        let fired = self.round.fired();
        let Some((number, target)) = fired.first() else {
            return "Nothing was unplugged in this round.".to_owned();
        };
        let waits = self
            .round
            .lock_uses()
            .into_iter()
            .filter(|u| u.waited > 0 || u.open.is_some());
        let waits: Vec<String> = waits
            .map(|u| match u.open {
                Some(Open::Waits) => {
                    format!(
                        "the {} waits for pci_rescan_remove_lock and never gets it",
                        self.who(u.pid, &u.comm)
                    )
                }
                Some(Open::Holds) => {
                    format!(
                        "the {} never gives pci_rescan_remove_lock back",
                        self.who(u.pid, &u.comm)
                    )
                }
                None => format!(
                    "the {} waited {} for pci_rescan_remove_lock",
                    self.who(u.pid, &u.comm),
                    ms(i64::try_from(u.waited).unwrap_or(i64::MAX))
                ),
            })
            .collect();
        let removed = target.function().map(|function| {
            let times = self
                .round
                .removals()
                .iter()
                .filter(|r| r.vf == function && r.deleted > 0)
                .count();
            match times {
                0 => String::new(),
                1 => format!("{function} was removed once; "),
                n => format!("{function}: {n} removals; "),
            }
        });
        let back = match self.round.unplugged(*number) {
            Some(_) if self.round.teardown_done().is_some() => "both tasks came back",
            Some(_) => "the teardown did not come back",
            None if self.round.teardown_done().is_some() => "the unplug handler did not come back",
            None => "neither task came back",
        };
        let mut said = removed.unwrap_or_default() + back;
        for wait in waits {
            said += "; ";
            said += &wait;
        }
        format!("Unplug of {target}: {said}.")
    }

    pub(super) fn focus(&self, doubles: &[(FunctionId, Vec<Removal>)]) -> (i64, i64) {
        let span = match doubles.first() {
            Some((_, runs)) => {
                let from = runs.iter().map(|r| self.guest(r.began)).min();
                let to = runs.iter().map(|r| self.end(r).0).max();
                from.zip(to)
            }
            None => {
                let fired = self.round.events.iter().filter(|e| {
                    matches!(
                        e.kind,
                        EventKind::UnplugFired { .. } | EventKind::HoldBegan { .. }
                    )
                });
                let from = fired.map(|e| self.time(e)).min();
                let done = self
                    .round
                    .fired()
                    .into_iter()
                    .filter_map(|(n, _)| self.round.unplugged(n));
                let to = done.map(|r| self.guest(r.guest_ns)).max();
                from.map(|from| (from, to.unwrap_or(self.to)))
            }
        };
        let (from, to) = span
            .filter(|(from, to)| to > from)
            .unwrap_or((self.from, self.to));
        let margin = to.saturating_sub(from) / 8;
        (
            from.saturating_sub(margin).max(self.from),
            to.saturating_add(margin).min(self.to),
        )
    }
}
