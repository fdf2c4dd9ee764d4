// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rooms of the house, as src/lib.rs lists them: each imports only from those below it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The rooms from top to bottom, with their places; those of the ground share one. As the documentation of the crate has them.
fn rooms(documentation: &str) -> BTreeMap<String, usize> {
    let (_, list) = documentation
        .split_once("Imports go only downwards in this list:")
        .unwrap();
    let (above, ground) = list.split_once("Below all of them are").unwrap();
    let (ground, _) = ground.split_once("\n\n").unwrap();
    let name = Regex::new("`([a-z]+)`").unwrap();
    let names = |text: &str| -> Vec<String> {
        let all = name.captures_iter(text);
        all.map(|found| found[1].to_owned()).collect()
    };
    let above = names(above);
    let bottom = above.len();
    let mut rooms: BTreeMap<String, usize> = above.into_iter().zip(0..).collect();
    rooms.extend(names(ground).into_iter().map(|name| (name, bottom)));
    rooms
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

/// The imports of a file of `room` that go upwards, in words.
fn upwards(room: &str, text: &str, rooms: &BTreeMap<String, usize>) -> Vec<String> {
    let mut wrong = Vec::new();
    let import = Regex::new(r"\bcrate::(\w+|\{)").unwrap();
    for found in import.captures_iter(text) {
        let other = &found[1];
        match (rooms.get(room), rooms.get(other)) {
            _ if other == room => {}
            (Some(mine), Some(theirs)) if mine < theirs => {}
            (Some(_), Some(_)) => wrong.push(format!("{room} imports {other}")),
            _ => wrong.push(format!(
                "{room} imports {other}, which is no room of the list"
            )),
        }
    }
    wrong
}

#[test]
fn nothing_imports_upwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms = rooms(&std::fs::read_to_string(src.join("lib.rs")).unwrap());
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::new();
    for file in files {
        let place = file.strip_prefix(&src).unwrap();
        let room = place.iter().next().unwrap().to_str().unwrap();
        let room = room.strip_suffix(".rs").unwrap_or(room);
        if ["lib", "main"].contains(&room) {
            continue;
        }
        *seen.entry(room.to_owned()).or_insert(0) += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        let place = place.display();
        wrong.extend(
            upwards(room, &text, &rooms)
                .iter()
                .map(|what| format!("src/{place}: {what}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (listed, there): (Vec<_>, Vec<_>) = (rooms.keys().collect(), seen.keys().collect());
    assert_eq!(listed, there, "the list in src/lib.rs is not what is there");
}

#[test]
fn an_import_that_goes_upwards_is_found() {
    let rooms = rooms(
        "Imports go only downwards in this list:\n`cli`, `run`,\n//! `event`. Below all of them are `arch` and `exit`.\n\n",
    );
    assert_eq!(rooms["event"], 2);
    assert_eq!((rooms["arch"], rooms["exit"]), (3, 3));
    let of = |room, text| upwards(room, text, &rooms).len();
    assert_eq!(
        of(
            "run",
            "use crate::event::X; crate::run::y(); crate::arch::Z"
        ),
        0
    );
    assert_eq!(of("event", "use crate::run::X;"), 1);
    assert_eq!(of("run", "let x = crate::cli::y();"), 1);
    assert_eq!(of("arch", "use crate::exit::X;"), 1);
    assert_eq!(of("run", "use crate::{event, cli};"), 1);
    assert_eq!(of("run", "use crate::unknown::X;"), 1);
}
