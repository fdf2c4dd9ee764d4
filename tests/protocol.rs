// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tap, devices, switch and mailbox against a vhost-user front end: the `vhost` crate's own, and raw sockets where it is
//! too well behaved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "protocol/decoder.rs"]
mod decoder;
#[path = "protocol/driver.rs"]
mod driver;
#[path = "protocol/hostile.rs"]
mod hostile;

use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use driver::*;
use vfrace::device::{Backend, BackendConfig, DeviceError, MAX_MAILBOX_FRAME, MailboxError};
use vfrace::event::{EventKind, EventSink, FunctionId, Side, WireMessage};
use vfrace::wire::{Header, Payload, code, read_frame};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

const MAC_PF: [u8; 6] = [2, 0, 0, 0, 0, 0];
const MAC_VF: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ALL: [u8; 6] = [0xff; 6];
const ENABLE: Payload = Payload::State { index: 0, num: 1 };

fn enabled(kind: &EventKind) -> Option<WireMessage> {
    match kind {
        EventKind::Wire(message) if message.message == "SET_VRING_ENABLE" => Some(message.clone()),
        _ => None,
    }
}

#[test]
fn features_are_those_of_the_function() {
    let bench = Bench::with(1, 2, Arc::new(Hook(|_: &WireMessage| {}, Mutex::new(None))));
    for (function, sriov) in [(FunctionId::Pf, true), (FunctionId::Vf(1), false)] {
        let mut guest = Guest::connect(&bench.backend().socket(function), 4);
        let offered = guest.negotiate();
        assert_eq!(
            offered >> 37 & 1 == 1,
            sriov,
            "VIRTIO_F_SR_IOV of {function}"
        );
        assert_eq!(offered >> 22 & 1, 1, "VIRTIO_NET_F_MQ");
        assert_eq!(guest.front.get_queue_num().unwrap(), 4);
        assert!(guest.front.get_max_mem_slots().unwrap() > 0);
    }
    let mut mailbox = Guest::connect(&bench.backend().socket(FunctionId::Mailbox), 3);
    mailbox.negotiate();
    assert_eq!(mailbox.front.get_queue_num().unwrap(), 3);
}

#[test]
fn nothing_is_offered_that_the_crate_does_not_dispatch() {
    let bench = Bench::new(0);
    let mut guest = Guest::connect(&bench.backend().socket(FunctionId::Pf), 2);
    assert_eq!(
        guest.front.get_features().unwrap() >> 22 & 1,
        0,
        "MQ with one pair"
    );
    let offered = guest.front.get_protocol_features().unwrap();
    let never = VhostUserProtocolFeatures::STATUS
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::MTU;
    assert!((offered & never).is_empty(), "{offered:?}");
}

#[test]
fn an_early_enable_is_acknowledged_and_made_up_for_without_an_answer() {
    let bench = Bench::new(0);
    let raw = Raw::connect(&bench, FunctionId::Pf);
    raw.hello();
    for _ in 0..2 {
        raw.send(code::SET_VRING_ENABLE, true, &ENABLE, &[]);
        assert_eq!(raw.answer(), (code::SET_VRING_ENABLE, Payload::U64(0)));
    }
    let (request, answer) = (bench.event(enabled), bench.event(enabled));
    assert_eq!(
        (request.from, request.vring, request.value, request.nth),
        (Side::Qemu, Some(0), Some(1), 0)
    );
    assert_eq!(
        (answer.from, answer.vring, answer.value, answer.nth),
        (Side::Backend, Some(0), Some(0), 0)
    );
    assert!(request.answered_by_tap && answer.answered_by_tap && request.need_reply);
    assert_eq!((bench.event(enabled).nth, bench.event(enabled).nth), (1, 1));
    // The next answer is the one to the next question: the message that was made up had none.
    raw.send(
        code::SET_FEATURES,
        false,
        &Payload::U64(1 << 30 | 1 << 32),
        &[],
    );
    assert!(raw.is_alive());
    // From now on it is the back end that answers.
    raw.send(code::SET_VRING_ENABLE, true, &ENABLE, &[]);
    assert_eq!(raw.answer(), (code::SET_VRING_ENABLE, Payload::U64(0)));
    assert!(!bench.event(enabled).answered_by_tap && !bench.event(enabled).answered_by_tap);
    // RESET_OWNER takes the features back.
    raw.send(code::RESET_OWNER, false, &Payload::Empty, &[]);
    raw.send(code::SET_VRING_ENABLE, true, &ENABLE, &[]);
    assert_eq!(raw.answer(), (code::SET_VRING_ENABLE, Payload::U64(0)));
    assert!(bench.event(enabled).answered_by_tap);
    bench.backend().reset_wire_counters();
    raw.send(code::SET_VRING_ENABLE, false, &ENABLE, &[]);
    bench.event(enabled);
    assert_eq!(bench.event(enabled).nth, 0, "counted from 0 again");
    assert!(raw.is_alive(), "one without NEED_REPLY gets no answer");
}

#[test]
fn an_enable_made_up_for_enables() {
    let bench = Bench::new(1);
    let socket = |function| bench.backend().socket(function);
    let mut vf = Guest::connect(&socket(FunctionId::Vf(1)), 2);
    vf.start();
    vf.can_receive(4);
    let mut pf = Guest::connect(&socket(FunctionId::Pf), 2);
    pf.start();
    // As QEMU does it at a reset of the device: rings stopped, features forgotten, enabled, features again.
    pf.front.get_vring_base(0).unwrap();
    pf.front.get_vring_base(1).unwrap();
    pf.front.set_vring_enable(1, false).unwrap();
    pf.front.reset_owner().unwrap();
    pf.front.set_vring_enable(1, false).unwrap();
    pf.front.set_vring_enable(1, true).unwrap();
    pf.front.set_features(1 << 30 | 1 << 32).unwrap();
    bench.event(|kind| enabled(kind).filter(|m| m.answered_by_tap));
    pf.set_up_queue(1);
    pf.send(&frame(ALL, MAC_PF, "enabled"));
    assert_eq!(vf.receive(), frame(ALL, MAC_PF, "enabled"));
}

#[test]
fn frames_cross_the_switch_and_addresses_are_learned() {
    let bench = Bench::new(2);
    let mut guests: Vec<Guest> = [FunctionId::Pf, FunctionId::Vf(1), FunctionId::Vf(2)]
        .map(|function| {
            let mut guest = Guest::connect(&bench.backend().socket(function), 2);
            guest.start();
            guest.can_receive(8);
            guest
        })
        .into();
    let [pf, vf1, vf2] = &mut guests[..] else {
        unreachable!()
    };
    // Give the last one's ring time to come up: a flood leaves out ports that are down.
    wait("all ports", || {
        pf.send(&frame(ALL, MAC_PF, "anyone?"));
        (vf1.used(0).is_some() && vf2.used(0).is_some()).then_some(())
    });
    std::thread::sleep(QUIET);
    while vf1.used(0).is_some() || vf2.used(0).is_some() {}
    for guest in [&mut *vf1, &mut *vf2] {
        guest.can_receive(8);
    }
    // Unknown: flooded to both, not back.
    let unknown = frame(MAC_VF, MAC_PF, "where are you?");
    pf.send(&unknown);
    assert_eq!((vf1.receive(), vf2.receive()), (unknown.clone(), unknown));
    // The answer goes to the PF alone, whose address is known.
    let answer = frame(MAC_PF, MAC_VF, "here");
    vf1.send(&answer);
    assert_eq!(pf.receive(), answer);
    vf2.hears_nothing();
    // Known now.
    let direct = frame(MAC_VF, MAC_PF, "thanks");
    pf.send(&direct);
    assert_eq!(vf1.receive(), direct);
    vf2.hears_nothing();
    // The guest is interrupted for what it receives and what was sent.
    assert!(vf1.queues[0].call.read().is_ok() && pf.queues[1].call.read().is_ok());
    // Reset: the port is down and its address forgotten.
    vf1.front.get_vring_base(0).unwrap();
    pf.send(&frame(MAC_VF, MAC_PF, "gone?"));
    assert_eq!(vf2.receive(), frame(MAC_VF, MAC_PF, "gone?"));
    assert_eq!(bench.backend().switch_counters().unicast, 2);
    let counters = bench.backend().counters();
    assert_eq!(
        (counters[1].0, counters[1].1.tx_packets),
        (FunctionId::Vf(1), 1)
    );
    assert_eq!(counters[1].1.tx_bytes, answer.len() as u64);
    assert_eq!(counters[2].1.tx_packets, 0);
}

#[test]
fn two_queue_pairs_both_send() {
    let bench = Bench::with(1, 2, Arc::new(Hook(|_: &WireMessage| {}, Mutex::new(None))));
    let mut vf = Guest::connect(&bench.backend().socket(FunctionId::Vf(1)), 4);
    vf.start();
    for queue in [0, 2] {
        for i in 0..4 {
            vf.offer_empty(queue, i, 0x800);
        }
        vf.kick(queue);
    }
    let mut pf = Guest::connect(&bench.backend().socket(FunctionId::Pf), 4);
    pf.start();
    let mut bytes = vec![0; 12];
    bytes.extend(frame(ALL, MAC_PF, "second pair"));
    pf.offer_bytes(3, 0, &bytes);
    pf.kick(3);
    assert_eq!(pf.wait_used(3), (0, 0));
    // Which receive queue it goes to depends on its addresses.
    wait("frame", || vf.used(0).or_else(|| vf.used(2)));
}

#[test]
fn a_held_answer_holds_only_its_own_function() {
    let (held, is_held) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hook = move |message: &WireMessage| {
        if (message.function, message.from) == (FunctionId::Vf(1), Side::Backend)
            && message.message == "GET_VRING_BASE"
        {
            held.send(()).unwrap();
            let _ = released.lock().unwrap().recv_timeout(SOON);
        }
    };
    let bench = Bench::with(2, 1, Arc::new(Hook(hook, Mutex::new(None))));
    let mut vf1 = Guest::connect(&bench.backend().socket(FunctionId::Vf(1)), 2);
    let mut vf2 = Guest::connect(&bench.backend().socket(FunctionId::Vf(2)), 2);
    vf1.start();
    vf2.start();
    let (done, is_done) = channel();
    let asker = std::thread::spawn(move || done.send(vf1.front.get_vring_base(0)).unwrap());
    is_held.recv_timeout(SOON).unwrap();
    // The other function goes on: a whole teardown of it fits in between.
    vf2.front.get_vring_base(0).unwrap();
    vf2.front.get_vring_base(1).unwrap();
    assert!(is_done.recv_timeout(QUIET).is_err(), "the answer is held");
    release.send(()).unwrap();
    assert_eq!(is_done.recv_timeout(SOON).unwrap().unwrap(), 0);
    asker.join().unwrap();
}

/// Set in a copy of this program that runs one test alone.
const ALONE: &str = "VFRACE_TEST_ALONE";

#[test]
fn qemu_may_come_back_and_leaves_no_descriptor_behind() {
    if std::env::var_os(ALONE).is_none() {
        // Other tests open files in this process, so count in one where nothing else runs.
        let name = "qemu_may_come_back_and_leaves_no_descriptor_behind";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{errors}"
        );
        return;
    }
    let count = |what| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .unwrap()
            .count()
    };
    let now = || (count("fd"), count("task"));
    // A thread that was joined may still be listed for a moment.
    let back_to = |expected| {
        wait("everything given back", || {
            (now() == expected).then_some(())
        })
    };
    let before = now();
    let mut bench = Bench::new(1);
    let mut vf = Guest::connect(&bench.backend().socket(FunctionId::Vf(1)), 2);
    vf.start();
    vf.can_receive(8);
    let mut with_vf = None;
    for round in 0..6u16 {
        let mut pf = Guest::connect(&bench.backend().socket(FunctionId::Pf), 2);
        pf.start();
        let text = frame(ALL, MAC_PF, &format!("round {round}"));
        pf.send(&text);
        assert_eq!(vf.receive(), text);
        drop(pf);
        bench.down(FunctionId::Pf);
        std::thread::sleep(QUIET);
        back_to(*with_vf.get_or_insert_with(now));
    }
    // Messages that are refused leave none of theirs behind either.
    let raw = Raw::connect(&bench, FunctionId::Pf);
    assert!(raw.is_alive());
    let fds: Vec<OwnedFd> = (0..5).map(|_| some_fd()).collect();
    send_bytes(
        &raw.0,
        &Header {
            code: 1,
            flags: 1,
            size: 0,
        }
        .encode(),
        &fds,
    );
    bench.down(FunctionId::Pf);
    drop((raw, fds));
    back_to(with_vf.unwrap());
    drop(vf);
    bench.backend.take().unwrap().stop();
    drop(bench);
    back_to(before);
}

#[test]
fn the_mailbox_carries_frames_both_ways() {
    let bench = Bench::new(0);
    let mailbox = bench.backend().mailbox();
    assert_eq!(mailbox.send_unplug(b"x"), Err(MailboxError::NotConnected));
    let mut guest = Guest::connect(&bench.backend().socket(FunctionId::Mailbox), 3);
    guest.start();
    wait("mailbox", || mailbox.is_connected().then_some(()));
    assert_eq!(
        mailbox.send_unplug(b"x"),
        Err(MailboxError::NoBuffer { queue: 0 })
    );
    // No kick from here on: the guest may not be able to.
    guest.offer_empty(0, 0, 16);
    assert_eq!(
        mailbox.send_unplug(&[7; 17]),
        Err(MailboxError::TooLong { length: 17 })
    );
    assert_eq!(
        mailbox.send_unplug(&vec![7; MAX_MAILBOX_FRAME + 1]),
        Err(MailboxError::TooLong { length: 4097 })
    );
    mailbox.send_unplug(&[7; 16]).unwrap();
    assert_eq!(guest.used(0), Some((0, 16)), "there at once");
    assert_eq!(guest.bytes(guest.buffer(0, 0), 16), [7; 16]);
    assert!(guest.queues[0].call.read().is_err(), "without an interrupt");

    guest.offer_empty(1, 3, 0x400);
    mailbox.send_command(b"go on").unwrap();
    assert_eq!(guest.used(1), Some((3, 5)));
    assert_eq!(guest.queues[1].call.read().unwrap(), 1);

    for (i, text) in [(0, "one"), (2, "two"), (4, "three")] {
        guest.offer_bytes(2, i, text.as_bytes());
    }
    for text in ["one", "two", "three"] {
        assert_eq!(bench.reports.recv_timeout(SOON).unwrap(), text.as_bytes());
    }
    assert_eq!(
        (guest.used(2), guest.used(2), guest.used(2)),
        (Some((0, 0)), Some((2, 0)), Some((4, 0)))
    );
    assert!(guest.queues[2].call.read().is_err());

    // A broken buffer is given back and does not stop what comes after it.
    guest.descriptor(2, 6, 1 << 50, 8, 0, 0);
    guest.offer(2, 6);
    guest.offer_bytes(2, 8, b"four");
    assert_eq!(bench.reports.recv_timeout(SOON).unwrap(), b"four");
    drop(guest);
    bench.down(FunctionId::Mailbox);
    assert_eq!(mailbox.send_command(b"x"), Err(MailboxError::NotConnected));
}

#[test]
fn stop_ends_everything_even_while_a_message_is_held() {
    let (held, is_held) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hook = move |message: &WireMessage| {
        if message.message == "GET_QUEUE_NUM" {
            held.send(()).unwrap();
            // Until on_stop() drops the other end.
            let _ = released.lock().unwrap().recv();
        }
    };
    let mut bench = Bench::with(3, 1, Arc::new(Hook(hook, Mutex::new(Some(release)))));
    let raw = Raw::connect(&bench, FunctionId::Vf(2));
    raw.hello();
    raw.send(17, false, &Payload::Empty, &[]);
    is_held.recv_timeout(SOON).unwrap();
    let connected = Raw::connect(&bench, FunctionId::Pf);
    connected.hello();
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 5);
    let start = Instant::now();
    bench.backend.take().unwrap().stop();
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 0);
    assert!(read_frame(&connected.0).is_err());
}

#[test]
fn stop_does_not_wait_for_ever_for_a_hook() {
    let (held, is_held) = channel();
    let hook = move |_: &WireMessage| {
        held.send(()).unwrap();
        std::thread::sleep(Duration::from_secs(3600));
    };
    let mut bench = Bench::with(0, 1, Arc::new(Hook(hook, Mutex::new(None))));
    let raw = Raw::connect(&bench, FunctionId::Pf);
    raw.send(1, false, &Payload::Empty, &[]);
    is_held.recv_timeout(SOON).unwrap();
    let start = Instant::now();
    bench.backend.take().unwrap().stop();
    assert!(start.elapsed() < SOON);
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_device_has_256_functions() {
    let mut bench = Bench::new(255);
    let all: Vec<FunctionId> = std::iter::once(FunctionId::Pf)
        .chain((1..=255).map(FunctionId::Vf))
        .collect();
    let raws: Vec<Raw> = all
        .iter()
        .map(|function| Raw::connect(&bench, *function))
        .collect();
    assert!(raws.iter().all(Raw::is_alive));
    bench.backend.take().unwrap().stop();
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_configuration_that_cannot_be_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let start = |vfs, queue_pairs| {
        Backend::start(BackendConfig {
            socket_dir: dir.path().into(),
            vfs,
            queue_pairs,
            hook: Arc::new(Hook(|_: &WireMessage| {}, Mutex::new(None))),
            events: EventSink::discard(),
            on_report: Box::new(|_| {}),
        })
        .map(Backend::stop)
    };
    assert!(matches!(
        start(256, 1),
        Err(DeviceError::TooManyVfs { vfs: 256 })
    ));
    assert!(matches!(
        start(1, 0),
        Err(DeviceError::QueuePairs { pairs: 0 })
    ));
    assert!(matches!(
        start(1, 17),
        Err(DeviceError::QueuePairs { pairs: 17 })
    ));
    // Somebody else's socket is in the way: the ones made before it go, it stays.
    std::fs::write(dir.path().join("vf2.sock"), "").unwrap();
    assert!(matches!(start(3, 1), Err(DeviceError::Tap(_))));
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["vf2.sock"]);
}
