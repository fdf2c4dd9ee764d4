// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::file::parse;
use super::*;
use crate::exit::ExitCode;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-tests/scenarios")
}

const GOOD: &str = r#"title = "t"
source = "s"
teardown = "unbind"

[parameters]
vfs = { default = 3, min = 1, max = 255 }
vf = { default = 2, min = 1, max = "vfs" }
rounds = { default = 3, min = 1, max = 10 }

[unplug]
actuator = "platform"
target = "vf{vf}"
at = "vf{vf}:wire:GET_VRING_BASE#0@request"
hold = { until = "unplug-committed", at-most-ms = 500 }
"#;

/// The message, the marked text, line, column and hint that a broken file leads to.
fn broken(from: &str, to: &str) -> String {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "`{from}` is not in the file");
    match parse("x", "x.toml", &text, &[]) {
        Err(ScenarioError::Malformed(m)) => {
            let marked = &text[m.place.offset()..m.place.offset() + m.place.len()];
            format!(
                "{} | <{marked}> | {}",
                m.what,
                m.hint.as_deref().unwrap_or("-")
            )
        }
        other => panic!("{other:?}"),
    }
}

fn rendered(error: ScenarioError) -> String {
    let mut text = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, &error)
        .unwrap();
    text.replace(&dir().display().to_string(), "DIR")
}

#[test]
fn the_three_scenarios_load() {
    let names: Vec<String> = list(&dir()).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(
        names,
        ["pf-remove-with-vfs", "unbind-alone", "unbind-vs-vf-unplug"]
    );
    let s = load("unbind-vs-vf-unplug", &dir(), &[]).unwrap();
    assert_eq!((s.vfs, s.rounds, s.teardown), (3, 3, Teardown::Unbind));
    assert_eq!(
        s.unplug.unwrap().target,
        Target::Function(FunctionId::Vf(2))
    );
    assert_eq!(
        s.schedule.to_string(),
        "teardown first; vf2:wire:GET_VRING_BASE#0@request fire until other-committed <=100ms"
    );
    assert!(s.source.contains("S2"));
    let s = load("unbind-alone", &dir(), &[]).unwrap();
    assert_eq!((s.teardown, s.unplug), (Teardown::Unbind, None));
    let s = load("pf-remove-with-vfs", &dir(), &[]).unwrap();
    assert_eq!((s.teardown, s.unplug), (Teardown::PfRemove, None));
    assert!(s.source.contains("S3"));
}

#[test]
fn parameters_come_from_the_command_line() {
    let s = load(
        "unbind-vs-vf-unplug",
        &dir(),
        &[("vfs", 8), ("vf", 8), ("rounds", 1)],
    )
    .unwrap();
    assert_eq!((s.vfs, s.rounds), (8, 1));
    assert_eq!(
        s.unplug.unwrap().target,
        Target::Function(FunctionId::Vf(8))
    );
    assert!(s.schedule.to_string().contains("vf8:wire"));
    let path = dir().join("unbind-alone.toml");
    assert_eq!(
        load(path.to_str().unwrap(), Path::new("/nowhere"), &[("vfs", 1)])
            .unwrap()
            .vfs,
        1
    );
}

#[test]
fn values_out_of_range_name_the_range() {
    let mut said = String::new();
    for given in [
        ("vfs", 0),
        ("vfs", 300),
        ("vf", 4),
        ("vf", 0),
        ("vfs", 1),
        ("vvf", 1),
        ("rounds", -1),
    ] {
        let error = load("unbind-vs-vf-unplug", &dir(), &[given]).unwrap_err();
        assert_eq!(error.exit(), ExitCode::Usage);
        said += &rendered(error);
    }
    insta::assert_snapshot!(said);
}

#[test]
fn a_name_that_is_not_there_gets_a_suggestion() {
    let error = load("unbind-vs-vf-unplugg", &dir(), &[]).unwrap_err();
    assert!(rendered(error).contains("did you mean `unbind-vs-vf-unplug`?"));
    let error = load("zzz", &dir(), &[]).unwrap_err();
    assert!(rendered(error).contains("there are: pf-remove-with-vfs"));
    let error = load("x", Path::new("/nowhere"), &[]).unwrap_err();
    assert!(matches!(error, ScenarioError::Read { .. }));
}

#[test]
fn mistakes_point_at_their_place() {
    let cases = [
        ("title =", "titel ="),
        ("[unplug]", "[unplugged]"),
        ("at-most-ms", "atmost-ms"),
        ("teardown = \"unbind\"", "teardown = \"unbnd\""),
        ("\"platform\"", "\"pciehp\""),
        ("GET_VRING_BASE", "GET_VRING_BAES"),
        ("GET_VRING_BASE", "get_vring_base"),
        ("GET_VRING_BASE", "VHOST_USER_GET_VRING_BASE"),
        (":wire:", ":call:"),
        (":wire:", ":wrie:"),
        (":wire:", ":"),
        ("#0", "#-1"),
        ("#0", "#"),
        ("@request", "@requst"),
        ("at = \"vf{vf}", "at = \"vg{vf}"),
        ("at = \"vf{vf}", "at = \"vf{vfx}"),
        ("at = \"vf{vf}", "at = \"vf{vf"),
        ("at = \"vf{vf}", "at = \"vf7"),
        ("at = \"vf{vf}", "at = \"mailbox"),
        ("target = \"vf{vf}\"", "target = \"pf\""),
        ("target = \"vf{vf}\"", "target = \"vf9\""),
        ("default = 2", "default = 4"),
        ("vfs = { default = 3", "vfs = { default = 0"),
        ("max = 255", "max = 300"),
        ("max = \"vfs\"", "max = \"vsf\""),
        ("max = \"vfs\"", "max = \"vf\""),
        ("= 500", "= 60000"),
        ("= 500", "= -1"),
        ("rounds = { default = 3, min = 1, max = 10 }", ""),
        ("title = \"t\"", "title = \"t"),
    ];
    let said: Vec<String> = cases
        .iter()
        .map(|(from, to)| match (*from, *to) {
            // only shows with a value that makes use of it
            ("max = 255", to) => {
                let text = GOOD
                    .replacen(from, to, 1)
                    .replacen("default = 3", "default = 300", 1);
                parse("x", "x.toml", &text, &[]).unwrap_err().to_string()
            }
            (from, to) => broken(from, to),
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_mistake_inside_a_point_is_shown_in_the_file() {
    let text = GOOD.replacen("GET_VRING_BASE", "GET_VRING_BAES", 1);
    insta::assert_snapshot!(rendered(parse("x", "x.toml", &text, &[]).unwrap_err()));
}

#[test]
fn points_read_back_what_they_print() {
    let p: Point = "pf:wire:SET_VRING_ENABLE@reply".parse().unwrap();
    assert_eq!(p.to_string(), "pf:wire:SET_VRING_ENABLE#0@reply");
    assert_eq!(p.to_string().parse::<Point>().unwrap(), p);
    let short: Point = "vf1:wire:RESET_DEVICE".parse().unwrap();
    assert_eq!(short.to_string(), "vf1:wire:RESET_DEVICE#0@request");
}

proptest! {
    #[test]
    fn any_text_is_a_point_or_an_error_inside_it(text in "\\PC{0,40}|vf[0-9]{1,3}:wire:[A-Z_#@a-z0-9é]{0,24}") {
        match text.parse::<Point>() {
            Ok(p) => prop_assert_eq!(p.to_string().parse::<Point>().unwrap(), p),
            Err(e) => prop_assert!(text.get(e.at.clone()).is_some(), "{:?} in {:?}", e, text),
        }
    }

    #[test]
    fn any_file_is_a_scenario_or_an_error_inside_it(at in 0..GOOD.len(), with in "\\PC{0,3}") {
        let mut text = GOOD.to_owned();
        if text.is_char_boundary(at) {
            text.insert_str(at, &with);
        }
        if let Err(ScenarioError::Malformed(m)) = parse("x", "x.toml", &text, &[]) {
            prop_assert!(text.get(m.place.offset()..m.place.offset() + m.place.len()).is_some());
            prop_assert!(m.line >= 1 && m.column >= 1);
        }
    }
}
