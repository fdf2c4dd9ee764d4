// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slot loses its card in every way, and gets it back.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use vfrace::event::{FunctionId, Side, WireMessage};
use vfrace::qemu::machine::{BRIDGE_ADDRESS, SLOT_DIRECTORY, function_device};
use vfrace::qemu::qmp::QmpError;
use vfrace::qemu::slot::{Slot, SlotError};
use vfrace::wire::WireHook;

use crate::bench::{Guest, PF};
use crate::frames;

const LIMIT: Duration = Duration::from_secs(30);

/// Binds the PF if need be, makes three VFs and sees to it that all have a carrier.
fn use_card(guest: &mut Guest) {
    guest.shell(&format!(
        "cd /sys/bus/pci/devices/{PF} && echo 3 >sriov_numvfs && usleep 300000; \
         for i in virtio*/net/* virtfn*/virtio*/net/*; do ip link set ${{i##*/}} up; done; sleep 1; \
         cat virtio*/net/*/carrier virtfn?/virtio*/net/*/carrier | tr -d '\\n' | grep -x 1111"
    ));
}

/// Runs `act` and gives the time from its beginning until the PF is gone (or there) in the guest.
fn until_pf(guest: &mut Guest, there: bool, act: impl FnOnce(&Guest)) -> Duration {
    let is_there = format!("[ -e /sys/bus/pci/devices/{PF}/driver ]");
    let is_gone = format!("[ ! -e /sys/bus/pci/devices/{PF} ]");
    let is = if there { is_there } else { is_gone };
    let text = format!("n=0; until {is} || [ $n = 20000 ]; do usleep 1000; n=$((n+1)); done; {is}");
    let waiting = guest.begin(&text);
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    act(guest);
    let acted = began.elapsed();
    guest.ended(&text, waiting);
    let took = began.elapsed();
    println!("PF there: {there} after {took:?}, of which the call {acted:?}");
    took
}

/// Removes the card and sees to it that pciehp hears of it.
fn remove(guest: &Guest, slot: &Slot) {
    let heard = || guest.console().matches("Slot(1): Card not present").count();
    let before = heard();
    let began = Instant::now();
    slot.surprise_remove(LIMIT).unwrap();
    let removed = began.elapsed();
    while heard() == before {
        assert!(began.elapsed() < LIMIT, "{}", guest.console());
        std::thread::sleep(Duration::from_millis(1));
    }
    println!(
        "removed after {removed:?}, pciehp runs after {:?}",
        began.elapsed()
    );
}

fn plug_back(guest: &mut Guest, slot: &Slot) {
    until_pf(guest, true, |_| slot.plug_back(LIMIT).unwrap());
    use_card(guest);
}

#[test]
#[ignore = "boots a guest: make test"]
fn slot_loses_its_card_and_gets_it_back() {
    let mut guest = Guest::boot(3, 1);
    let slot = guest.slot();
    assert!(guest.qmp().status(LIMIT).unwrap().running);
    let address = guest.shell(&format!("cat {SLOT_DIRECTORY}/address"));
    assert_eq!(address.trim(), "0000:01:00");
    let driver = guest.shell(&format!(
        "readlink /sys/bus/pci/devices/{BRIDGE_ADDRESS}/driver"
    ));
    assert!(driver.trim().ends_with("/pcieport"), "{driver}");
    use_card(&mut guest);
    guest.shell("dmesg -n 7");

    for round in 1..=2 {
        println!("round {round}: surprise removal");
        until_pf(&mut guest, false, |guest| remove(guest, &slot));
        let left = guest.shell("ls /sys/bus/pci/devices | grep -c 0000:01: || true");
        assert_eq!(left.trim(), "0");
        slot.wait_until_empty(LIMIT).unwrap();
        let empty = slot.surprise_remove(LIMIT).unwrap_err();
        assert!(matches!(empty, SlotError::Off { .. }), "{empty}");
        plug_back(&mut guest, &slot);
    }
    println!("attention button");
    let took = until_pf(&mut guest, false, |_| {
        slot.press_button(LIMIT).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let again = slot.press_button(LIMIT).unwrap_err();
        println!("second press: {again:?}");
        assert!(
            matches!(again, SlotError::Qmp(QmpError::Refused { .. })),
            "{again:?}"
        );
        slot.wait_until_empty(LIMIT).unwrap();
    });
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(15),
        "{took:?}"
    );
    plug_back(&mut guest, &slot);
    println!("half a card");
    until_pf(&mut guest, false, |guest| remove(guest, &slot));
    slot.wait_until_empty(LIMIT).unwrap();
    let mut in_the_way = function_device(FunctionId::Vf(1), 1);
    in_the_way["id"] = "other".into();
    let mark = guest.qmp().mark();
    guest.qmp().device_add(in_the_way, LIMIT).unwrap();
    let error = slot.plug_back(LIMIT).unwrap_err();
    println!("{error:?}");
    assert!(
        matches!(error, SlotError::Qmp(QmpError::Refused { .. })),
        "{error:?}"
    );
    guest.qmp().device_del("other", LIMIT).unwrap();
    guest.qmp().wait_deleted("other", mark, LIMIT).unwrap();
    plug_back(&mut guest, &slot);

    // The back ends have kept their connections: do frames cross them?
    guest.shell(&format!("echo 0 >/sys/bus/pci/devices/{PF}/sriov_numvfs"));
    frames::ping_all(&mut guest);

    // A press that nobody made would be a card that came while pciehp was not done with the one before.
    let log = guest.shell("dmesg");
    for (line, count) in [
        ("Card not present", 3),
        ("Button press: will power on", 4),
        ("Button press: will power off", 1),
        ("BUG:", 0),
        ("Oops", 0),
    ] {
        assert_eq!(log.matches(line).count(), count, "{line}: {log}");
    }
}

/// Holds the first GET_VRING_BASE of VF 1 once it is armed, until it is let go.
#[derive(Default)]
struct Hold {
    armed: AtomicBool,
    /// SET_OWNER is sent once a connection.
    connections: AtomicU32,
    /// Holding, let go.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Hold {
    fn set(&self, change: impl FnOnce(&mut (bool, bool))) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait(&self, is: impl Fn(&(bool, bool)) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(state, LIMIT, |state| !is(state))
            .unwrap();
        assert!(!waited.1.timed_out());
    }
}

impl WireHook for Hold {
    fn on_message(&self, message: &WireMessage) {
        let is_here = message.function == FunctionId::Vf(1)
            && message.from == Side::Qemu
            && message.message == "GET_VRING_BASE";
        if message.from == Side::Qemu && message.message == "SET_OWNER" {
            self.connections.fetch_add(1, Ordering::SeqCst);
        }
        if is_here && self.armed.swap(false, Ordering::SeqCst) {
            self.set(|state| state.0 = true);
            self.wait(|state| state.1);
            self.set(|state| state.0 = false);
        }
    }

    fn on_stop(&self) {
        self.set(|state| state.1 = true);
    }
}

#[test]
#[ignore = "boots a guest: make test"]
fn slot_orders_do_not_wait_for_a_message_that_is_held() {
    let hold = Arc::new(Hold::default());
    let hook = Arc::clone(&hold);
    let mut guest = Guest::boot_with(3, 1, move |_| hook);
    let slot = guest.slot();
    use_card(&mut guest);
    guest.shell("dmesg -n 7");

    hold.armed.store(true, Ordering::SeqCst);
    // No race with the slot: only the VF's driver lets go of it.
    let unbind =
        format!("cd /sys/bus/pci/devices/{PF}/virtfn0 && basename $(readlink -f .) >driver/unbind");
    let waiting = guest.begin(&unbind);
    hold.wait(|state| state.0);

    let limit = Duration::from_millis(300);
    let began = Instant::now();
    let late = slot.surprise_remove(limit).unwrap_err();
    assert!(late.is_late(), "{late}");
    println!("held: surprise_remove: {late}: {:?}", late.hint());
    let late = guest.qmp().status(limit).unwrap_err();
    println!("held: QMP: {late}");
    let ordering = Instant::now();
    let ordered = slot.order_surprise_removal().unwrap();
    println!("held: order_surprise_removal took {:?}", ordering.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2));

    let released = Instant::now();
    hold.set(|state| state.1 = true);
    slot.finish(ordered, LIMIT).unwrap();
    println!(
        "removed {:?} after the message was let go",
        released.elapsed()
    );
    guest.ended(&unbind, waiting);
    until_pf(&mut guest, false, |_| {});
    slot.wait_until_empty(LIMIT).unwrap();
    plug_back(&mut guest, &slot);
    // three VFs, the PF, the mailbox; the new card is on the old connections
    assert_eq!(hold.connections.load(Ordering::SeqCst), 5);
}
