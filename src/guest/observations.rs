// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The records that the guest has sent so far, and waiting for one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::GuestRecord;

/// All records of a run, or the last ones of a server, shared by the mailbox (which adds), the run and the holds (which
/// wait). Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Observations(Arc<(Mutex<Records>, Condvar)>);

#[derive(Debug, Default)]
struct Records {
    /// Those before were dropped.
    dropped: usize,
    kept: Vec<GuestRecord>,
    /// Twice as many are never kept.
    most: Option<usize>,
}

impl Records {
    fn len(&self) -> usize {
        self.dropped.saturating_add(self.kept.len())
    }

    /// Those from the number `from` on that are still there.
    fn from(&self, from: usize) -> &[GuestRecord] {
        let at = from.saturating_sub(self.dropped);
        self.kept.get(at..).unwrap_or_default()
    }
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed<E> {
    /// The time was up.
    Late,
    /// The caller's check said so.
    Stopped(E),
}

impl Observations {
    /// The last `most` are kept, and up to as many before them: for a guest that nobody ends.
    pub fn last(most: usize) -> Self {
        let records = Records {
            most: Some(most),
            ..Records::default()
        };
        Self(Arc::new((Mutex::new(records), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        // A panic of another thread while it pushed leaves complete records.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record and wakes everybody who waits.
    pub fn push(&self, record: GuestRecord) {
        let mut records = self.lock();
        if let Some(most) = records.most.filter(|most| records.kept.len() >= 2 * most) {
            let gone = records.kept.len() - most;
            records.kept.drain(..gone);
            records.dropped += gone;
        }
        records.kept.push(record);
        drop(records);
        self.0.1.notify_all();
    }

    /// Whether there is a record from `from` on that is like that.
    pub fn any(&self, from: usize, is: impl FnMut(&GuestRecord) -> bool) -> bool {
        self.lock().from(from).iter().any(is)
    }

    /// Number of records so far: a place to wait from.
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// Wakes everybody who waits, so that they run their checks.
    pub fn nudge(&self) {
        self.0.1.notify_all();
    }

    /// Waits for a record from `from` on for which `find` has an answer, at most `limit`. `check` is asked at every
    /// wake-up and at least every 50 ms; an error from it ends the wait.
    pub fn wait<T, E>(
        &self,
        from: usize,
        limit: Duration,
        mut check: impl FnMut() -> Result<(), E>,
        mut find: impl FnMut(&GuestRecord) -> Option<T>,
    ) -> Result<T, Missed<E>> {
        const LOOK: Duration = Duration::from_millis(50);
        let end = Instant::now() + limit;
        let mut next = from;
        let mut records = self.lock();
        loop {
            for record in records.from(next) {
                if let Some(found) = find(record) {
                    return Ok(found);
                }
            }
            next = records.len().max(next);
            drop(records);
            check().map_err(Missed::Stopped)?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Late);
            }
            records = self.lock();
            if records.len() <= next {
                records = self
                    .0
                    .1
                    .wait_timeout(records, left.min(LOOK))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Observation;

    fn record(number: u64) -> GuestRecord {
        GuestRecord {
            number,
            guest_ns: 0,
            pid: 1,
            cpu: 0,
            comm: String::new(),
            what: Observation::AgentReady,
        }
    }

    #[test]
    fn of_a_server_the_last_ones_are_kept_and_marks_stay_good() {
        let seen = Observations::last(10);
        for number in 0..25 {
            seen.push(record(number));
        }
        let mark = seen.mark();
        assert_eq!(mark, 25);
        assert!(seen.lock().kept.len() <= 20);
        let is = |wanted| move |record: &GuestRecord| record.number == wanted;
        assert!(!seen.any(0, is(3)) && seen.any(0, is(15)) && seen.any(24, is(24)));
        for number in 25..100 {
            seen.push(record(number));
            assert!(seen.any(mark, is(number)) && !seen.any(seen.mark(), is(number)));
        }
    }

    #[test]
    fn a_wait_sees_what_came_before_and_what_comes() {
        let seen = Observations::default();
        seen.push(record(0));
        let never = || Ok::<(), ()>(());
        let find = |wanted| move |record: &GuestRecord| (record.number == wanted).then_some(wanted);
        assert_eq!(seen.wait(0, Duration::ZERO, never, find(0)), Ok(0));
        assert_eq!(
            seen.wait(1, Duration::from_millis(1), never, find(0)),
            Err(Missed::Late)
        );
        let other = seen.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            other.push(record(1));
        });
        assert_eq!(seen.wait(1, Duration::from_secs(10), never, find(1)), Ok(1));
        thread.join().unwrap();
        assert_eq!(
            seen.wait(2, Duration::from_secs(10), || Err("dead"), find(2)),
            Err(Missed::Stopped("dead"))
        );
    }
}
