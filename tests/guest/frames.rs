// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames move between the functions, also after a guest reset, after QEMU was started anew, and with several queues.

use vfrace::event::FunctionId;

use crate::bench::{Guest, PF};

/// Puts the interface of a function into a network namespace of its own, with an address.
fn give_address(guest: &mut Guest, pf: &str, function: &str, number: u8) {
    let place = match function {
        "pf" => format!("/sys/bus/pci/devices/{pf}"),
        vf => format!(
            "/sys/bus/pci/devices/{pf}/virtfn{}",
            vf[2..].parse::<u16>().unwrap() - 1
        ),
    };
    guest.shell(&format!(
        "unshare -n sleep 1000 & n=$!; echo $n >/tmp/{function}; usleep 300000; \
         i=$(ls {place}/virtio*/net); ip link set $i netns $n && \
         nsenter -t $n -n ip addr add 10.0.0.{number}/24 dev $i && nsenter -t $n -n ip link set $i up"
    ));
}

fn ping(guest: &mut Guest, from: &str, to: u8) {
    let said = guest.shell(&format!(
        "nsenter -t $(cat /tmp/{from}) -n ping -c 3 -W 5 10.0.0.{to}"
    ));
    assert!(
        said.contains("3 packets transmitted, 3 packets received"),
        "{said}"
    );
}

/// Makes two VFs and sends frames from the PF and from one of them to another.
pub fn ping_all(guest: &mut Guest) {
    guest.shell(&format!("echo 2 >/sys/bus/pci/devices/{PF}/sriov_numvfs"));
    ping_those_that_are(guest, PF);
}

/// Sends frames from the PF at this address, and from one of its two VFs to the other.
pub fn ping_those_that_are(guest: &mut Guest, pf: &str) {
    for (number, function) in (1..).zip(["pf", "vf1", "vf2"]) {
        give_address(guest, pf, function, number);
    }
    ping(guest, "pf", 2);
    ping(guest, "vf1", 3);
}

fn packets(guest: &Guest, function: FunctionId) -> u64 {
    let counters = guest.backend.counters();
    counters
        .iter()
        .find(|(which, _)| *which == function)
        .map(|(_, port)| port.rx_packets)
        .unwrap()
}

#[test]
#[ignore = "boots a guest: make test"]
fn frames_cross_functions_before_and_after_a_reset_and_a_restart() {
    let mut guest = Guest::boot(2, 1);
    ping_all(&mut guest);
    assert!(
        packets(&guest, FunctionId::Pf) >= 3,
        "{:?}",
        guest.backend.counters()
    );
    assert!(
        packets(&guest, FunctionId::Vf(2)) >= 3,
        "{:?}",
        guest.backend.counters()
    );

    let mark = guest.mark();
    guest.send("reboot -f");
    guest.wait_until_ready(mark);
    ping_all(&mut guest);

    guest.start();
    ping_all(&mut guest);
}

#[test]
#[ignore = "boots a guest: make test"]
fn frames_cross_functions_with_several_queues() {
    let mut guest = Guest::boot(2, 2);
    ping_all(&mut guest);
}
