// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The language, whatever comes in; and followers who do not read.

use proptest::prelude::*;

use super::journal::{Journal, Told};
use super::protocol::{Kind, Request, Unplugging, VERSION, read, request};
use crate::event::{EventKind, EventSink, FunctionId, Target};
use crate::scenario::Actuator;

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (1u16..=255).prop_map(|number| Target::Function(FunctionId::Vf(number))),
        Just(Target::Function(FunctionId::Pf)),
        Just(Target::Slot),
    ]
}

fn actuator() -> impl Strategy<Value = Option<Actuator>> {
    prop_oneof![
        Just(None),
        Just(Some(Actuator::Platform)),
        Just(Some(Actuator::SysfsRemove)),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let unplug = (target(), actuator());
    let unplug = unplug.prop_map(|(target, actuator)| Unplugging { target, actuator });
    prop_oneof![
        Just(Request::Status {}),
        Just(Request::Up {}),
        Just(Request::Disarm {}),
        Just(Request::Teardown {}),
        Just(Request::Counters {}),
        Just(Request::Stop {}),
        (".*", proptest::option::of(unplug))
            .prop_map(|(schedule, unplug)| Request::Arm { schedule, unplug }),
        (target(), actuator()).prop_map(|(target, actuator)| Request::Unplug { target, actuator }),
        ".*".prop_map(|command| Request::Exec { command }),
        (any::<u64>(), any::<bool>()).prop_map(|(from, follow)| Request::Events { from, follow }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(id: u64, what in requests()) {
        let line = request(id, &what).to_string();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(read(line.as_bytes()), (Some(id), Ok(what)));
    }

    #[test]
    fn any_bytes_are_answered(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        // A panic is what is looked for; random bytes are no request.
        prop_assert!(read(&line).1.is_err());
    }

    #[test]
    fn a_damaged_request_is_answered(what in requests(), at: proptest::sample::Index, byte: u8) {
        let mut line = request(7, &what).to_string().into_bytes();
        let at = at.index(line.len());
        line[at] = byte;
        let (id, read) = read(&line);
        prop_assert!(id.is_some() || read.is_err());
    }
}

#[test]
fn refusals_have_kinds() {
    let kind = |line: &str| read(line.as_bytes()).1.unwrap_err().kind;
    let next = VERSION + 1;
    for (line, expected) in [
        ("", Kind::Malformed),
        ("[]", Kind::Malformed),
        (r#"{"version":1,"do":"status"}"#, Kind::Malformed),
        (r#"{"version":1,"id":-1,"do":"status"}"#, Kind::Malformed),
        (r#"{"version":1,"id":1,"do":"dance"}"#, Kind::Malformed),
        (
            r#"{"version":1,"id":1,"do":"status","x":1}"#,
            Kind::Malformed,
        ),
        (
            r#"{"version":1,"id":1,"do":"unplug","target":"mailbox"}"#,
            Kind::Malformed,
        ),
        (r#"{"id":1,"do":"status"}"#, Kind::Version),
        (
            &format!(r#"{{"version":{next},"id":1,"do":"status"}}"#),
            Kind::Version,
        ),
    ] {
        assert_eq!(kind(line), expected, "{line}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(kind(&deep), Kind::Malformed);
}

#[test]
fn a_follower_that_does_not_read_is_told_what_it_lost() {
    let (events, received) = EventSink::new();
    let journal = Journal::default();
    let (_, coming) = journal.subscribe(0);
    let say = |text: String| events.emit(EventKind::PointReached { point: text });
    for number in 0..3000 {
        say(number.to_string());
    }
    // Up to here it fits 1024; the thread of the journal is this one.
    let sink = events.clone();
    drop(events);
    let reader = std::thread::spawn({
        let journal = journal.clone();
        move || journal.follow(&received, None)
    });
    while journal.next() < 3000 {
        std::thread::yield_now();
    }
    let mut heard = 0;
    while let Ok(Told::Event(_)) = coming.try_recv() {
        heard += 1;
    }
    sink.emit(EventKind::PointReached {
        point: "last".to_owned(),
    });
    drop(sink);
    reader.join().unwrap();
    let lost = match coming.try_recv() {
        Ok(Told::Lost(lost)) => lost,
        other => panic!("{other:?}"),
    };
    assert_eq!(heard + lost, 3000);
    assert!(matches!(coming.try_recv(), Ok(Told::Event(_))));
    let (lines, next) = journal.read(2990, 5);
    assert_eq!((lines.len(), next), (5, 2995));
}
