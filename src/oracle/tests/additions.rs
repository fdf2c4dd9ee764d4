// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFs that are made available to drivers twice.

use crate::event::FunctionId;
use crate::oracle::builder::{HANDLER, TEARDOWN, Tape};
use crate::oracle::invariants::rounds;

#[test]
fn a_vf_that_is_added_twice_is_found_without_a_word_of_the_kernel() {
    let add = |tape: &mut Tape, pid| {
        let (call, vf) = ("pci_bus_add_device", FunctionId::Vf(2));
        tape.enter(pid, call, vf, &["pci_bus_add_devices"]);
    };
    let vf = FunctionId::Vf(2);
    let found = |who: &[u32], created: bool| {
        let mut tape = Tape::begun("base");
        tape.arm(1);
        if created {
            tape.enter(TEARDOWN, "pci_iov_add_virtfn", vf, &[]);
        }
        for pid in who {
            add(&mut tape, *pid);
        }
        let rounds = rounds(&tape.events);
        let round = rounds.first().unwrap();
        let added = round.double_additions();
        added.first().map(|(vf, times, by)| (*vf, *times, by.len()))
    };
    assert_eq!(found(&[TEARDOWN], true), None);
    assert_eq!(found(&[TEARDOWN, HANDLER], true), Some((vf, 2, 2)));
    // it was there before the round
    assert_eq!(found(&[HANDLER], false), Some((vf, 2, 1)));
}
