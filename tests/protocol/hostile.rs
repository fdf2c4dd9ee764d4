// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a hostile front end or guest can send.

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use vfrace::event::{FunctionId, Side, WireMessage};
use vfrace::wire::{Header, Payload, StreamError, read_frame};
use vhost::VhostBackend;

use crate::driver::*;
use crate::{ALL, MAC_PF};

#[test]
fn hostile_chains_are_counted_and_given_back_empty() {
    let bench = Bench::new(0);
    let mut pf = Guest::connect(&bench.backend().socket(FunctionId::Pf), 2);
    pf.start();
    let buffer = pf.buffer(1, 0);
    pf.descriptor(1, 0, buffer, 64, NEXT, 0); // a loop
    pf.descriptor(1, 1, u64::MAX - 8, 64, 0, 0); // nowhere
    pf.descriptor(1, 2, buffer, 64, WRITE, 0); // wrong direction
    pf.descriptor(1, 3, buffer, 64, NEXT, 999); // next out of the table
    pf.descriptor(1, 4, buffer, u32::MAX, 0, 0); // 4 GiB
    pf.descriptor(1, 5, buffer, 11, 0, 0); // not even a header
    pf.descriptor(1, 6, buffer, 12 + 13, 0, 0); // not even two addresses and a type
    for head in 0..7 {
        pf.offer(1, head);
    }
    pf.kick(1);
    for head in 0..7 {
        assert_eq!(pf.wait_used(1), (head, 0));
    }
    let counters = bench.backend().counters()[0].1;
    assert_eq!(
        (counters.bad_chain, counters.bad_length, counters.tx_packets),
        (4, 3, 0)
    );
    // A head out of the table cannot be given back, and an available index far ahead is no reason to spin.
    pf.offer(1, 4000);
    pf.send_raw_index(1, 5000);
    pf.kick(1);
    std::thread::sleep(QUIET);
    assert!(pf.front.get_features().is_ok());
}

#[test]
fn receive_buffers_that_do_not_do_are_given_back() {
    let bench = Bench::new(1);
    let mut vf = Guest::connect(&bench.backend().socket(FunctionId::Vf(1)), 2);
    vf.start();
    vf.offer_empty(0, 0, 20); // too small
    vf.descriptor(0, 1, vf.buffer(0, 1), 0x800, 0, 0); // not writable
    vf.offer(0, 1);
    vf.descriptor(0, 2, 1 << 40, 0x800, WRITE, 0); // nowhere
    vf.offer(0, 2);
    vf.offer_empty(0, 3, 0x800);
    vf.kick(0);
    let mut pf = Guest::connect(&bench.backend().socket(FunctionId::Pf), 2);
    pf.start();
    wait("port", || {
        pf.send(&frame(ALL, MAC_PF, "hello"));
        (bench.backend().counters()[1].1.rx_packets == 1).then_some(())
    });
    for used in [(0, 0), (1, 0), (2, 0)] {
        assert_eq!(vf.wait_used(0), used);
    }
    assert_eq!(vf.receive(), frame(ALL, MAC_PF, "hello"));
    let counters = bench.backend().counters()[1].1;
    assert_eq!((counters.no_room, counters.bad_chain), (1, 2));
}

#[test]
fn malformed_messages_end_only_their_connection() {
    let bench = Bench::new(1);
    let other = Raw::connect(&bench, FunctionId::Vf(1));
    other.hello();
    let header = |code: u32, flags: u32, size: u32| Header { code, flags, size }.encode().to_vec();
    let with = |mut bytes: Vec<u8>, n: usize| {
        bytes.resize(bytes.len() + n, 0xff);
        bytes
    };
    let cases: [(&str, Vec<u8>, usize); 11] = [
        ("has flags", header(1, 0, 0), 0),
        ("has flags", header(1, 0x21, 0), 0),
        ("wrong direction", header(1, 5, 0), 0),
        ("more than the 4096", header(5, 1, 4097), 0),
        ("more than the 4096", header(5, 1, u32::MAX), 0),
        ("payload of 4 bytes", with(header(2, 1, 4), 4), 0),
        ("payload of 40 bytes", with(header(5, 1, 40), 40), 1),
        ("out of range", with(header(18, 1, 8), 8), 0),
        (
            "expected 1 to 1",
            [header(12, 1, 8), vec![0; 8]].concat(),
            2,
        ),
        ("expected 0 to 0", header(1, 1, 0), 1),
        ("middle of a message", header(2, 1, 8), 0),
    ];
    for (expected, bytes, fds) in cases {
        let mut raw = Raw::connect(&bench, FunctionId::Pf);
        assert!(raw.is_alive());
        let fds: Vec<OwnedFd> = (0..fds).map(|_| some_fd()).collect();
        send_bytes(&raw.0, &bytes, &fds);
        raw.0.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = raw.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{expected}: answered with {rest:?}");
        let reason = bench.down(FunctionId::Pf);
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // More file descriptors than a message may have.
    let raw = Raw::connect(&bench, FunctionId::Pf);
    assert!(raw.is_alive());
    let many: Vec<OwnedFd> = (0..40).map(|_| some_fd()).collect();
    send_bytes(&raw.0, &header(1, 1, 0), &many);
    assert!(bench.down(FunctionId::Pf).contains("expected 0 to 32"));
    assert!(other.is_alive());
    assert!(Raw::connect(&bench, FunctionId::Pf).is_alive());
}

#[test]
fn what_the_back_end_refuses_is_reported_with_its_reason() {
    let bench = Bench::new(0);
    let raw = Raw::connect(&bench, FunctionId::Pf);
    assert!(raw.is_alive());
    // SET_STATUS: known to the tap, not dispatched by the crate.
    raw.send(39, false, &Payload::U64(0), &[]);
    assert!(read_frame(&raw.0).is_err());
    assert!(
        bench
            .down(FunctionId::Pf)
            .contains("the back end closed it")
    );
}

#[test]
fn a_hook_that_panics_does_not_leave_qemu_waiting() {
    let hook = |message: &WireMessage| {
        assert!(
            message.from != Side::Backend,
            "this panic is part of a test"
        )
    };
    let bench = Bench::with(1, 1, Arc::new(Hook(hook, Mutex::new(None))));
    for function in [FunctionId::Pf, FunctionId::Vf(1)] {
        let raw = Raw::connect(&bench, function);
        raw.send(1, false, &Payload::Empty, &[]);
        assert!(matches!(read_frame(&raw.0), Err(StreamError::Closed)));
    }
}
