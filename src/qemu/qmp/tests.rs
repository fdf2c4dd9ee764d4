// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The QMP client against servers of every kind.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}, "package": ""}, "capabilities": ["oob"]}}"#;

/// QEMU's end.
struct Server(BufReader<UnixStream>);

impl Server {
    fn say(&mut self, line: &str) {
        self.0
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .unwrap();
    }

    /// The next command: its name, arguments and id.
    fn hear(&mut self) -> (String, Value, u64) {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let command: Value = serde_json::from_str(&line).unwrap();
        (
            command["execute"].as_str().unwrap().to_owned(),
            command["arguments"].clone(),
            command["id"].as_u64().unwrap(),
        )
    }

    fn greet(&mut self) {
        self.say(GREETING);
        let (command, _, id) = self.hear();
        assert_eq!(command, "qmp_capabilities");
        self.say(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
    }

    /// Waits until the client has closed.
    fn closed(&mut self) {
        let mut line = String::new();
        assert_eq!(self.0.read_line(&mut line).unwrap_or(0), 0, "{line}");
    }
}

/// A client of a server that does this.
fn client<T: Send + 'static>(
    limit: Duration,
    server: impl FnOnce(Server) -> T + Send + 'static,
) -> (Result<Qmp, QmpError>, JoinHandle<T>) {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::bind(&dir.path().join("qmp")).unwrap();
    let stream = UnixStream::connect(endpoint.path()).unwrap();
    let server = std::thread::spawn(move || server(Server(BufReader::new(stream))));
    (Qmp::accept(endpoint, limit), server)
}

fn deleted(device: &str) -> String {
    format!(
        r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "DEVICE_DELETED", "data": {{"device": "{device}", "path": "/machine/peripheral/{device}"}}}}"#
    )
}

#[test]
fn a_late_greeting_and_an_event_before_the_answer_are_taken() {
    let (qmp, server) = client(LIMIT, |mut server| {
        std::thread::sleep(Duration::from_millis(100));
        server.greet();
        let (command, arguments, id) = server.hear();
        server.say(&deleted("pf"));
        server.say(&format!(
            r#"{{"id": {id}, "return": {{"running": true, "status": "running"}}}}"#
        ));
        server.closed();
        (command, arguments)
    });
    let qmp = qmp.unwrap();
    let before = qmp.mark();
    let status = Status {
        running: true,
        state: "running".to_owned(),
    };
    assert_eq!(qmp.status(LIMIT).unwrap(), status);
    qmp.wait_deleted("pf", before, LIMIT).unwrap();
    // by its path as well, but not another device, and not from here on
    qmp.wait_deleted("/machine/peripheral/pf", before, SHORT)
        .unwrap();
    for (device, since) in [("vf1", before), ("pf", qmp.mark())] {
        let late = qmp.wait_deleted(device, since, SHORT).unwrap_err();
        assert!(
            matches!(late, QmpError::Link(LinkError::Late { .. })),
            "{late:?}"
        );
    }
    drop(qmp);
    assert_eq!(
        server.join().unwrap(),
        ("query-status".to_owned(), json!({}))
    );
}

#[test]
fn qemu_s_words_are_in_the_error_and_the_client_goes_on() {
    let (qmp, server) = client(LIMIT, |mut server| {
        server.greet();
        let (_, arguments, id) = server.hear();
        server.say(&format!(
            r#"{{"id": {id}, "error": {{"class": "GenericError", "desc": "Duplicate device ID 'pf'"}}}}"#
        ));
        let (command, id_argument, id) = server.hear();
        server.say(&format!(r#"{{"id": {id}, "return": {{}}}}"#));
        (arguments, command, id_argument)
    });
    let qmp = qmp.unwrap();
    let properties = json!({"driver": "virtio-net-pci", "id": "pf"});
    let error = qmp.device_add(properties.clone(), LIMIT).unwrap_err();
    assert_eq!(
        error.to_string(),
        "QEMU refuses `device_add`: Duplicate device ID 'pf'"
    );
    qmp.device_del("pf", LIMIT).unwrap();
    assert_eq!(
        server.join().unwrap(),
        (properties, "device_del".to_owned(), json!({"id": "pf"}))
    );
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let (qmp, server) = client(LIMIT, |mut server| {
        server.greet();
        let (_, _, first) = server.hear();
        let (_, _, second) = server.hear();
        server.say(&format!(r#"{{"id": {first}, "return": "first"}}"#));
        server.say(&format!(r#"{{"id": {second}, "return": "second"}}"#));
    });
    let qmp = qmp.unwrap();
    let began = Instant::now();
    let late = qmp.execute("a", json!({}), SHORT).unwrap_err();
    assert!(
        matches!(late, QmpError::Link(LinkError::Late { .. })),
        "{late:?}"
    );
    assert!(late.hint().unwrap().contains("global lock"), "{late:?}");
    assert!(began.elapsed() < LIMIT);
    assert_eq!(qmp.execute("b", json!({}), LIMIT).unwrap(), "second");
    server.join().unwrap();
}

#[test]
fn threads_do_not_wait_for_each_other() {
    let (qmp, server) = client(LIMIT, |mut server| {
        server.greet();
        let (_, _, id) = server.hear();
        server.say(&format!(r#"{{"id": {id}, "return": {{}}}}"#));
        server.say(&deleted("pf"));
    });
    let qmp = qmp.unwrap();
    let mark = qmp.mark();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| qmp.wait_deleted("pf", mark, LIMIT));
        // While that one waits, this one gets through; its answer comes first.
        qmp.device_del("pf", LIMIT).unwrap();
        waiting.join().unwrap().unwrap();
    });
    server.join().unwrap();
}

#[test]
fn garbage_ends_the_connection_with_an_error() {
    let deep = "[".repeat(10_000);
    let long = "x".repeat(100_000);
    for garbage in [
        "no json",
        "[1]",
        "{}",
        "\u{fffd}",
        r#"{"return": {}}"#,
        r#"{"id": "one", "error": {}}"#,
        &deep,
        &long,
    ] {
        let line = garbage.to_owned();
        let (qmp, server) = client(LIMIT, move |mut server| {
            server.greet();
            server.hear();
            server.say(&line);
            server.closed();
        });
        let error = qmp.unwrap().status(LIMIT).unwrap_err();
        assert!(
            matches!(error, QmpError::Link(LinkError::Ended { .. })),
            "{garbage:.20}: {error:?}"
        );
        server.join().unwrap();
    }
}

#[test]
fn an_answer_of_another_shape_is_an_error() {
    for fields in [
        r#""return": 5"#,
        r#""return": {"running": "yes", "status": 1}"#,
        r#""error": {}"#,
        r#""error": {"desc": 1}"#,
    ] {
        let (qmp, server) = client(LIMIT, move |mut server| {
            server.greet();
            let (_, _, id) = server.hear();
            server.say(&format!(r#"{{"id": {id}, {fields}}}"#));
            server.closed();
        });
        let error = qmp.unwrap().status(LIMIT).unwrap_err();
        assert!(
            matches!(error, QmpError::Answer { .. }),
            "{fields}: {error:?}"
        );
        server.join().unwrap();
    }
}

#[test]
fn a_closed_socket_is_an_error_at_once() {
    let (qmp, server) = client(LIMIT, drop);
    server.join().unwrap();
    let error = qmp.err().unwrap();
    assert!(
        matches!(error, QmpError::Link(LinkError::Ended { .. })),
        "{error:?}"
    );

    let (qmp, server) = client(LIMIT, |mut server| server.greet());
    let qmp = qmp.unwrap();
    server.join().unwrap();
    let began = Instant::now();
    let error = qmp.wait_deleted("pf", qmp.mark(), LIMIT).unwrap_err();
    assert!(
        matches!(error, QmpError::Link(LinkError::Ended { .. })),
        "{error:?}"
    );
    assert!(began.elapsed() < LIMIT);
}

#[test]
fn a_qemu_that_does_not_come_or_does_not_speak_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let endpoint = Endpoint::bind(&path).unwrap();
    let error = Qmp::accept(endpoint, SHORT).err().unwrap();
    assert!(
        matches!(error, QmpError::Link(LinkError::Late { .. })),
        "{error:?}"
    );
    assert!(!path.exists());

    let (qmp, server) = client(SHORT, |mut server| server.closed());
    let error = qmp.err().unwrap();
    assert!(
        matches!(error, QmpError::Link(LinkError::Late { .. })),
        "{error:?}"
    );
    server.join().unwrap();
}

#[test]
fn events_are_bounded_and_marks_stay_right() {
    let mut state = State::default();
    for number in 0..3 * EVENTS {
        state
            .line(deleted(&format!("d{number}")).as_bytes())
            .unwrap();
    }
    assert_eq!(state.events.len(), EVENTS);
    let last = 3 * EVENTS as u64 - 1;
    let found = |device: &str, since| state.deleted(device, EventMark(since)).is_some();
    assert!(!found("d0", 0));
    assert!(found(&format!("d{last}"), 0) && found(&format!("d{last}"), last));
    assert!(!found(&format!("d{last}"), last + 1));
}
