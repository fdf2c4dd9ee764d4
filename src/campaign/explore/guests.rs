// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rounds in boots: one guest serves round after round until it is damaged, then a new one is started.

use std::time::Instant;

use super::{Effort, Outcome, Runner, Trace};
use crate::event::Role;
use crate::scenario::Schedule;

/// A guest that runs rounds. Dropping it ends the guest.
pub trait Boot {
    /// Why no round could be run at all.
    type Error: std::error::Error;

    /// As [`Runner::trace`]; the seconds of the outcome are filled in by [`Guests`].
    fn trace(&mut self, first: Role) -> Result<Trace, Self::Error>;

    /// As [`Runner::run`]; likewise.
    fn round(&mut self, schedule: &Schedule) -> Result<Outcome, Self::Error>;

    /// Whether a round that came after this one would tell nothing: a reference is lost, a task is stuck, memory is
    /// corrupt, the guest is gone.
    fn damaged(&self) -> bool;
}

/// Makes a [`Runner`] out of boots. The first one is started by the first round.
pub struct Guests<B, S> {
    start: S,
    boot: Option<(B, u32)>,
    rounds_in_boot: u32,
    effort: Effort,
}

impl<B: Boot, S: FnMut(u32) -> Result<B, B::Error>> Guests<B, S> {
    /// `start` starts a guest, given the number of the boot from 1. None serves more than `rounds_in_boot` rounds.
    pub fn new(start: S, rounds_in_boot: u32) -> Self {
        Self {
            start,
            boot: None,
            rounds_in_boot,
            effort: Effort::default(),
        }
    }

    /// Runs one round in the guest that is there, or in a new one. Gives its seconds as well.
    fn in_boot<T>(
        &mut self,
        round: impl FnOnce(&mut B) -> Result<T, B::Error>,
        outcome: impl FnOnce(&mut T) -> &mut Outcome,
    ) -> Result<T, B::Error> {
        let began = Instant::now();
        let (mut boot, rounds) = match self.boot.take() {
            Some(boot) => boot,
            None => {
                self.effort.boots += 1;
                ((self.start)(self.effort.boots)?, 0)
            }
        };
        self.effort.rounds += 1;
        // After an error the guest is not used again: it is dropped here.
        let mut given = round(&mut boot)?;
        let told = outcome(&mut given);
        let is_of_use = !boot.damaged() && !told.is_without_guest() && !told.is_wanted();
        if is_of_use && rounds + 1 < self.rounds_in_boot {
            self.boot = Some((boot, rounds + 1));
        } else {
            // Ending a guest takes time too.
            drop(boot);
        }
        told.seconds = began.elapsed().as_secs_f64();
        Ok(given)
    }
}

impl<B: Boot, S: FnMut(u32) -> Result<B, B::Error>> Runner for Guests<B, S> {
    type Error = B::Error;

    fn trace(&mut self, first: Role) -> Result<Trace, B::Error> {
        self.in_boot(|boot| boot.trace(first), |trace| &mut trace.outcome)
    }

    fn run(&mut self, schedule: &Schedule) -> Result<Outcome, B::Error> {
        self.in_boot(|boot| boot.round(schedule), |outcome| outcome)
    }

    fn effort(&self) -> Effort {
        self.effort
    }
}
