// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
mod points;
mod schedules;

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
wants = ["ASSERT"]
schedule = "vf{vf}:wire:GET_VRING_BASE#0@request fire until other-committed <={bound}ms"

[pf]
driver = "module"
remove-ms = 5

[parameters]
vfs = { default = 3, min = 1, max = 255 }
vf = { default = 2, min = 1, max = "vfs" }
rounds = { default = 3, min = 1, max = 10 }
bound = { default = 500, min = 0, max = 60000 }

[unplug]
actuator = "platform"
target = "vf{vf}"
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
fn every_scenario_says_where_it_comes_from() {
    let entries = list(&dir()).unwrap();
    let numbers = [
        1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 15, 16, 17, 21, 23, 24,
    ]
    .map(|n| format!("S{n}"));
    let mut named = std::collections::BTreeSet::new();
    for entry in &entries {
        let s = load(&entry.name, &dir(), &[]).unwrap_or_else(|e| panic!("{}", rendered(e)));
        let mut words = s.source.split(|c: char| !c.is_ascii_alphanumeric());
        let own = words.find(|w| w.starts_with('S') && w[1..].parse::<u8>().is_ok());
        named.insert(own.unwrap_or_else(|| panic!("{}", entry.name)).to_owned());
        assert_eq!(
            s.title.starts_with("control: "),
            entry.name.ends_with("-alone"),
            "{}",
            s.title
        );
        assert_eq!(s.title, s.title.trim_end_matches('.'));
        assert_eq!(
            s.unplug.is_some(),
            entry.name.contains("-vs-"),
            "{}",
            entry.name
        );
        assert_eq!(
            s.teardown.needs_module(),
            s.driver != PfDriver::Virtio,
            "{}",
            entry.name
        );
        // with every number of VFs that its file allows
        let least = u16::from(entry.name.contains("error")) + 1;
        let text = std::fs::read_to_string(&entry.path).unwrap();
        let chooses_vf = text.contains("\nvf = {");
        assert_eq!(chooses_vf, text.contains("{vf}"), "{}", entry.name);
        for vfs in [least, 255] {
            let mut given = vec![("vfs", i64::from(vfs)), ("rounds", 1000)];
            if chooses_vf {
                given.push(("vf", 1));
            }
            load(&entry.name, &dir(), &given).unwrap_or_else(|e| panic!("{}", rendered(e)));
        }
    }
    for number in numbers {
        assert!(
            named.contains(&number),
            "no scenario for {number}: {named:?}"
        );
    }
}

#[test]
fn schedules_of_the_scenarios() {
    let said: Vec<String> = list(&dir())
        .unwrap()
        .iter()
        .map(|entry| {
            let s = load(&entry.name, &dir(), &[]).unwrap();
            format!("{}\n  {}\n", s.name, s.schedule)
        })
        .collect();
    insta::assert_snapshot!(said.concat());
}

#[test]
fn what_a_file_says_is_what_is_run() {
    let s = load("unbind-vs-vf-unplug", &dir(), &[]).unwrap();
    assert_eq!((s.vfs, s.rounds, s.teardown), (3, 3, Teardown::Unbind));
    assert_eq!(
        s.unplug.unwrap().target,
        Target::Function(FunctionId::Vf(2))
    );
    let s = load("rmmod-vs-vf-unplug", &dir(), &[]).unwrap();
    assert_eq!(s.teardown, Teardown::Rmmod);
    assert_eq!(s.driver, PfDriver::Module { remove_ms: 100 });
    let s = load("unbind-vs-surprise", &dir(), &[]).unwrap();
    assert_eq!(s.unplug.unwrap().target, Target::Slot);
    assert!(s.removes_pf());
    let s = parse("x", "x.toml", GOOD, &[]).unwrap();
    assert_eq!(s.wants, [Class::Assert]);
    assert_eq!(s.driver, PfDriver::Module { remove_ms: 5 });
    assert!(
        s.schedule.to_string().ends_with("<=500ms"),
        "{}",
        s.schedule
    );
    let s = parse("x", "x.toml", GOOD, &[("bound", 7)]).unwrap();
    assert!(s.schedule.to_string().ends_with("<=7ms"), "{}", s.schedule);
    let text = GOOD.replacen("= 5\n", "= \"{bound}\"\n", 1);
    let s = parse("x", "x.toml", &text, &[]).unwrap();
    assert_eq!(s.driver, PfDriver::Module { remove_ms: 500 });
}

#[test]
fn without_a_schedule_the_unplug_goes_when_the_teardown_begins() {
    let line = GOOD.lines().find(|l| l.starts_with("schedule")).unwrap();
    let text = GOOD.replacen(line, "", 1);
    let s = parse("x", "x.toml", &text, &[]).unwrap();
    assert_eq!(s.schedule.to_string(), "teardown first; teardown+0ms fire");
    let (text, _) = text.split_once("[unplug]").unwrap();
    let s = parse("x", "x.toml", text, &[]).unwrap();
    assert_eq!(s.schedule.to_string(), "teardown first");
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
    assert!(rendered(error).contains("there are: bind-alone"));
    let error = load("x", Path::new("/nowhere"), &[]).unwrap_err();
    assert!(matches!(error, ScenarioError::Read { .. }));
}

#[test]
fn mistakes_point_at_their_place() {
    let cases = [
        ("title =", "titel ="),
        ("[unplug]", "[unplugged]"),
        ("teardown = \"unbind\"", "teardown = \"unbnd\""),
        ("\"ASSERT\"", "\"ASERT\""),
        ("\"module\"", "\"modul\""),
        ("\"module\"", "\"virtio\""),
        ("remove-ms = 5", "remove-ms = -1"),
        ("remove-ms = 5", "remove-ms = \"{bound}00\""),
        ("remove-ms = 5", "remove-ms = true"),
        ("\"platform\"", "\"pciehp\""),
        ("\"platform\"", "\"pciehp-surprise\""),
        ("\"platform\"", "\"sysfs-rescan\""),
        ("GET_VRING_BASE", "GET_VRING_BAES"),
        ("GET_VRING_BASE", "VHOST_USER_GET_VRING_BASE"),
        ("#0", "#-1"),
        ("= \"vf{vf}:", "= \"vg{vf}:"),
        ("= \"vf{vf}:", "= \"vf{vfx}:"),
        ("= \"vf{vf}:", "= \"vf{vf:"),
        ("= \"vf{vf}:", "= \"vf7:"),
        ("fire ", ""),
        ("other-committed", "unplug-committed"),
        ("other-committed", "other-comitted"),
        ("<={bound}ms", "<={bound}00ms"),
        ("<={bound}ms", "<={bound}"),
        ("target = \"vf{vf}\"", "target = \"pf\""),
        ("target = \"vf{vf}\"", "target = \"vf9\""),
        ("target = \"vf{vf}\"", "target = \"mailbox\""),
        ("default = 2", "default = 4"),
        ("vfs = { default = 3", "vfs = { default = 0"),
        ("max = 255", "max = 300"),
        ("max = \"vfs\"", "max = \"vsf\""),
        ("max = \"vfs\"", "max = \"vf\""),
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
fn a_mistake_in_a_schedule_of_several_lines_is_shown_in_its_line() {
    for (quotes, end) in [("\"\"\"\n", "\n\"\"\""), ("'''", "'''"), ("'", "'")] {
        let line = GOOD.lines().find(|l| l.starts_with("schedule")).unwrap();
        let steps = "vf{vf}:wire:GET_VRING_BASE fire;";
        let more = if quotes.len() > 1 { "\n" } else { " " };
        let text =
            format!("schedule = {quotes}{steps}{more}teardown/vf{{vf}}:call:a untill time{end}");
        let text = GOOD.replacen(line, &text, 1);
        let Err(ScenarioError::Malformed(m)) = parse("x", "x.toml", &text, &[]) else {
            panic!("{text}");
        };
        assert_eq!(
            &text[m.place.offset()..m.place.offset() + m.place.len()],
            "untill"
        );
        assert_eq!(m.hint.as_deref(), Some("did you mean `until`?"));
    }
}

#[test]
fn the_pages_are_those_of_the_code() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, page) in grammar_pages() {
        let path = docs.join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&docs).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            there, page,
            "{name} is old: UPDATE=1 cargo test --lib scenario"
        );
    }
    for (text, _) in grammar::POINTS {
        text.parse::<Point>().unwrap();
    }
    let race = parse("x", "x.toml", GOOD, &[]).unwrap();
    let control = Scenario {
        unplug: None,
        ..race.clone()
    };
    for (text, _) in grammar::SCHEDULES {
        let fires = text.contains("fire");
        Schedule::read(text, if fires { &race } else { &control }).unwrap();
    }
}

proptest! {
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
