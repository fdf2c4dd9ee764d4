// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The pages docs/points.md and docs/schedules.md, made from what the parsers accept.

use std::fmt::Write;

use super::point::MESSAGES;
use super::schedule::{
    CONDITIONS, DEFAULT_CALL_HOLD, DEFAULT_WIRE_HOLD, MAX_AFTER, MAX_CALL_HOLD, MAX_WIRE_HOLD,
};

/// Points with what they mean. A test reads each.
pub(super) const POINTS: &[(&str, &str)] = &[
    (
        "vf2:wire:GET_VRING_BASE",
        "the first time that QEMU asks for a vring of VF 2: its virtio reset begins",
    ),
    (
        "vf2:wire:GET_VRING_BASE#1@reply",
        "the answer to the second such question",
    ),
    (
        "teardown/pf:call:sriov_disable",
        "the teardown enters sriov_disable() for the PF",
    ),
    (
        "unplug/vf1:call:device_del@return",
        "the handler is back from device_del() of VF 1",
    ),
    (
        "teardown/any:call:pci_lock_rescan_remove",
        "the teardown is about to take pci_rescan_remove_lock, which belongs to no function",
    ),
];

/// Schedules with what they do. A test reads each.
pub(super) const SCHEDULES: &[(&str, &str)] = &[
    (
        "teardown+0ms fire",
        "order the unplug when the teardown begins, hold nothing: what a scenario without a schedule does",
    ),
    (
        "vf2:wire:GET_VRING_BASE fire until other-committed",
        "when the teardown resets VF 2, order the unplug, and hold the message until the handler has got as far",
    ),
    (
        "teardown/pf:call:sriov_disable fire until other-blocked(device_lock(pf)) <=5000ms",
        "stop the unbind of the PF before it disables SR-IOV, until the handler waits for the PF's own lock",
    ),
    (
        "teardown+0ms fire; teardown/vf1:call:device_del until other-at(unplug/vf1:call:device_del); \
         unplug/vf1:call:device_del until other-rests",
        "bring both sides into device_del() of VF 1, the teardown first out",
    ),
    (
        "unplug first; unplug/vf1:call:pci_stop_and_remove_bus_device fire until other-rests",
        "the handler goes first; the teardown begins when the handler is about to remove VF 1",
    ),
    (
        "teardown/vf3:call:pci_iov_add_virtfn return -12",
        "let VF 3 fail with -ENOMEM while VFs are enabled",
    ),
];

const POINTS_HEAD: &str = "A point is a place where something can be done in a run: fire the unplug, hold a task.\n\n\
    \x20   [SIDE/]FUNCTION:FAMILY:WHAT[#N][@PHASE]\n\n\
    - `SIDE`: `teardown` or `unplug`, the side whose task is meant; without it, either. Call points only: a message does not\n  \
      say which task is behind it.\n\
    - `FUNCTION`: `pf`, `vf1` to `vf255` (`vf1` is Linux' `virtfn0`), `bridge` (the port above), or `any`: whatever the\n  \
      kernel function is called for. Messages have only `pf` and the VFs.\n\
    - `FAMILY`: `wire`, the vhost-user messages of a function; or `call`, the functions of the guest's kernel.\n\
    - `WHAT`: the message, or the kernel function by its name in the source. Suffixes that compilers add (`.isra.0`) cannot\n  \
      be named. `vfrace points --kernel K` says which functions a kernel has; another one is refused before anything boots.\n  \
      A function with more than six arguments must not be named.\n\
    - `#N`: which occurrence since the round was armed, from 0, which is the default.\n\
    - `@PHASE`: of a message `request` (default; before the back end sees it) or `reply` (before QEMU sees it); of a call\n  \
      `enter` (default; before its first instruction) or `return` (after its last).\n";

const SCHEDULES_HEAD: &str = "A schedule says in which order the two sides of a race go. It is one line of text; every run prints its own, and \
    `vfrace run\nSCENARIO --schedule 'TEXT'` plays one again. Space and line breaks are free.\n\n\
    \x20   [SIDE first;] STEP; STEP; ...\n\
    \x20   STEP = POINT [fire] [until CONDITION [<=Nms]] [return N]\n\
    \x20        | SIDE+Nms fire\n\n\
    - `SIDE first`: the side that is started first, `teardown` (default) or `unplug`.\n\
    - `POINT`: see points.md. The steps of a side stand in the order in which it comes by.\n\
    - `SIDE+Nms`: a time after the start of a side, for undirected runs.\n\
    - `fire`: start the other side. One step does, unless nothing is unplugged.\n\
    - `until`: hold the task there. At a call point it sleeps and blocks nobody; the point has to name its side. At a wire\n  \
      point the message is held, and with it everything that needs QEMU's global lock.\n\
    - `return N`: a call is not made (at its entry) or its value is replaced (at its return). The point has to name a\n  \
      function.\n";

/// Columns of the pages, about.
const WIDTH: usize = 118;

fn list(page: &mut String, title: &str, items: &[(&str, &str)]) {
    // Writing to a String does not fail.
    let _ = write!(page, "\n## {title}\n\n");
    for (text, meaning) in items {
        let _ = writeln!(page, "- `{text}`:\n  {meaning}");
    }
}

/// The documentation of points and schedules: file names below docs/ and their contents.
pub fn grammar_pages() -> [(&'static str, String); 2] {
    let page = |title: &str| {
        format!(
            "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->\n\
             <!-- Made by src/scenario/grammar.rs: UPDATE=1 cargo test --lib scenario -->\n\n# {title}\n\n"
        )
    };
    let mut points = page("Points") + POINTS_HEAD;
    list(&mut points, "Examples", POINTS);
    points += "\n## Messages\n\n";
    let mut column = 0;
    for (at, message) in MESSAGES.iter().enumerate() {
        let end = if at + 1 == MESSAGES.len() { "." } else { "," };
        if column + message.len() > WIDTH {
            points += "\n";
            column = 0;
        }
        let space = if column == 0 { "" } else { " " };
        let _ = write!(points, "{space}{message}{end}");
        column += message.len() + 2;
    }
    points += "\n";

    let mut schedules = page("Schedules") + SCHEDULES_HEAD;
    list(&mut schedules, "Conditions", CONDITIONS);
    let ms = |time: std::time::Duration| time.as_millis();
    let _ = write!(
        schedules,
        "\n## Bounds\n\nEvery hold has an upper bound, and one that runs into it is marked in the evidence. At a wire point it is \
         {} ms unless\nsaid, and at most {} ms; at a call point {} ms and at most {} ms. A side's time is at most {} ms.\n",
        ms(DEFAULT_WIRE_HOLD),
        ms(MAX_WIRE_HOLD),
        ms(DEFAULT_CALL_HOLD),
        ms(MAX_CALL_HOLD),
        ms(MAX_AFTER),
    );
    list(&mut schedules, "Examples", SCHEDULES);
    [("points.md", points), ("schedules.md", schedules)]
}
