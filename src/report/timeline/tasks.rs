// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each task was in: a bar a call, a row a level.

use super::{Draw, Kind, Lane, Mark, at, ms};
use crate::event::{FunctionId, GuestRecord, Observation};
use crate::oracle::invariants::symbol;

/// Levels that are drawn.
const MOST_ROWS: usize = 10;
/// Tasks that are drawn beside the two sides.
const MOST_OTHERS: usize = 4;

struct Task<'a> {
    record: &'a GuestRecord,
    /// Calls that have not returned: name, function, place in `marks`.
    stack: Vec<(&'a str, Option<FunctionId>, usize)>,
    marks: Vec<Mark>,
    rows: usize,
    deeper: usize,
}

impl Draw<'_> {
    /// Lanes of the teardown's task, the handler's, and of others that removed something.
    pub(super) fn tasks(&mut self) -> Vec<Lane> {
        let mut tasks: Vec<Task<'_>> = Vec::new();
        for record in self.round.records() {
            let takes_part = matches!(
                record.what,
                Observation::Enter { .. }
                    | Observation::Return { .. }
                    | Observation::UnplugSeen { .. }
            );
            let is_teardown = self.teardown.is_some_and(|t| t.pid == record.pid);
            if !takes_part && !is_teardown {
                continue;
            }
            let task = match tasks.iter().position(|t| t.record.pid == record.pid) {
                Some(known) => tasks.get_mut(known),
                None => {
                    tasks.push(Task {
                        record,
                        stack: Vec::new(),
                        marks: Vec::new(),
                        rows: 1,
                        deeper: 0,
                    });
                    tasks.last_mut()
                }
            };
            if let Some(task) = task {
                self.call(task, record);
            }
        }
        let end = self.to;
        for task in &mut tasks {
            for (_, _, place) in std::mem::take(&mut task.stack) {
                if let Some(mark) = task.marks.get_mut(place) {
                    mark.to = end;
                    mark.is_open = true;
                    mark.tip += ", no return is recorded";
                }
            }
        }
        tasks.sort_by_key(|task| match self.kind(task.record.pid) {
            Kind::Teardown => 0,
            Kind::Unplug => 1,
            _ => 2,
        });
        let others = tasks
            .iter()
            .filter(|t| self.kind(t.record.pid) == Kind::Other)
            .count();
        if others > MOST_OTHERS {
            let sides = tasks.len() - others;
            tasks.truncate(sides + MOST_OTHERS);
            self.left_out.push(format!(
                "{} more tasks have no lane here; they are in the recording (events.jsonl)",
                others - MOST_OTHERS
            ));
        }
        let deeper: usize = tasks.iter().map(|task| task.deeper).sum();
        if deeper > 0 {
            self.left_out.push(format!(
                "{deeper} calls deeper than {MOST_ROWS} levels are not drawn"
            ));
        }
        let lane = |task: Task<'_>| Lane {
            title: format!(
                "{}: {}, pid {}",
                self.side(task.record.pid),
                task.record.comm,
                task.record.pid
            ),
            is_bad: false,
            rows: u32::try_from(task.rows).unwrap_or(1),
            marks: task.marks,
        };
        tasks.into_iter().map(lane).collect()
    }

    fn call<'r>(&self, task: &mut Task<'r>, record: &'r GuestRecord) {
        let now = self.guest(record.guest_ns);
        match &record.what {
            Observation::Enter { call, function, .. } => {
                let name = symbol(call);
                let row = task.stack.len();
                if row >= MOST_ROWS {
                    task.deeper += 1;
                    // It has a place in the stack, so that its return is found.
                    task.stack.push((name, *function, usize::MAX));
                    return;
                }
                task.stack.push((name, *function, task.marks.len()));
                task.rows = task.rows.max(row + 1);
                let what = match function {
                    Some(function) => format!("{name}({function})"),
                    None => name.to_owned(),
                };
                task.marks.push(Mark {
                    row: u32::try_from(row).unwrap_or_default(),
                    from: now,
                    to: now,
                    is_open: false,
                    kind: self.kind(record.pid),
                    tip: format!(
                        "{}: {what}, from {}",
                        self.who(record.pid, &record.comm),
                        at(now)
                    ),
                    label: what,
                });
            }
            Observation::Return { call, function } => {
                let name = symbol(call);
                let entered = task.stack.iter().rposition(|(n, f, _)| {
                    *n == name && (function.is_none() || f.is_none() || f == function)
                });
                let Some(entered) = entered else { return };
                // What is above it has no return of its own.
                for (_, _, place) in task.stack.drain(entered..) {
                    if let Some(mark) = task.marks.get_mut(place) {
                        mark.to = now;
                        mark.tip +=
                            &format!(" to {} ({})", at(now), ms(now.saturating_sub(mark.from)));
                    }
                }
            }
            _ => {}
        }
    }
}
