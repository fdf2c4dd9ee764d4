// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use proptest::prelude::*;

use crate::event::{FunctionId, Role};
use crate::scenario::{CallPhase, MESSAGES, Point, What, WirePhase};

#[test]
fn points_read_back_what_they_print() {
    for (short, long) in [
        (
            "pf:wire:SET_VRING_ENABLE@reply",
            "pf:wire:SET_VRING_ENABLE#0@reply",
        ),
        ("vf1:wire:RESET_DEVICE", "vf1:wire:RESET_DEVICE#0@request"),
        ("any:call:foo", "any:call:foo#0@enter"),
        ("bridge:call:device_del#3", "bridge:call:device_del#3@enter"),
        (
            "teardown/vf255:call:_x9@return",
            "teardown/vf255:call:_x9#0@return",
        ),
        ("unplug/any:call:wire", "unplug/any:call:wire#0@enter"),
    ] {
        let point: Point = short.parse().unwrap();
        assert_eq!(point.to_string(), long);
        assert_eq!(long.parse::<Point>().unwrap(), point);
    }
}

#[test]
fn mistakes_in_points_point_at_the_character() {
    let long = format!("pf:call:{}", "a".repeat(128));
    let said: Vec<String> = [
        "",
        "pf",
        "pf:wire",
        "pf:wire:",
        "pf:wrie:GET_FEATURES",
        "pf:calls:x",
        "pf::x",
        "tear/pf:call:x",
        "tearown/pf:call:x",
        "teardown/pf:wire:GET_FEATURES",
        "any:wire:GET_FEATURES",
        "bridge:wire:GET_FEATURES",
        "mailbox:call:x",
        "vf0:call:x",
        "/pf:call:x",
        "pf:wire:get_features",
        "pf:wire:sriov_disable",
        "pf:call:sriov_disable.isra.0",
        "pf:call:9x",
        "pf:call:a-b",
        "pf:call:",
        "pf:call:é",
        "pf:call:x@request",
        "pf:call:x@",
        "pf:wire:GET_FEATURES@enter",
        "pf:call:x#",
        "pf:call:x#4294967296",
        "pf:call:x@enter#1",
        &long,
    ]
    .iter()
    .map(|text| {
        let e = text.parse::<Point>().unwrap_err();
        format!(
            "{text}\n  {} | <{}> | {}\n",
            e.what,
            &text[e.at.clone()],
            e.hint
        )
    })
    .collect();
    insta::assert_snapshot!(said.concat());
}

/// Every point that there can be.
pub(super) fn any_point() -> impl Strategy<Value = Point> {
    let role = prop_oneof![
        Just(None),
        Just(Some(Role::Teardown)),
        Just(Some(Role::Unplug))
    ];
    let wire = (
        prop_oneof![Just(FunctionId::Pf), (1u16..=255).prop_map(FunctionId::Vf)],
        prop::sample::select(MESSAGES),
        prop_oneof![Just(WirePhase::Request), Just(WirePhase::Reply)],
    )
        .prop_map(|(function, message, phase)| {
            let message = message.to_owned();
            (None, Some(function), What::Wire { message, phase })
        });
    let call = (
        role,
        prop_oneof![
            Just(None),
            Just(Some(FunctionId::Pf)),
            Just(Some(FunctionId::Bridge)),
            (1u16..=255).prop_map(|n| Some(FunctionId::Vf(n))),
        ],
        "[a-zA-Z_][a-zA-Z0-9_]{0,20}",
        prop_oneof![Just(CallPhase::Enter), Just(CallPhase::Return)],
    )
        .prop_map(|(role, function, call, phase)| (role, function, What::Call { call, phase }));
    (prop_oneof![wire, call], any::<u32>()).prop_map(|((role, function, what), nth)| Point {
        role,
        function,
        what,
        nth,
    })
}

proptest! {
    #[test]
    fn every_point_is_read_back(point in any_point()) {
        prop_assert_eq!(point.to_string().parse::<Point>().unwrap(), point);
    }

    #[test]
    fn any_text_is_a_point_or_an_error_inside_it(
        text in "\\PC{0,40}|(teardown/)?(vf[0-9]{1,3}|any):(wire|call):[A-Z_#@a-z0-9é.]{0,24}"
    ) {
        match text.parse::<Point>() {
            Ok(p) => prop_assert_eq!(p.to_string().parse::<Point>().unwrap(), p),
            Err(e) => prop_assert!(text.get(e.at.clone()).is_some(), "{:?} in {:?}", e, text),
        }
    }
}
