// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A QEMU that is started by what `vfrace serve` prints, and orders over its control socket.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Under TCG a boot takes 8 s, on a busy machine a minute.
const BOOT: Duration = Duration::from_secs(300);

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // Already gone where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().unwrap().iter();
    words.map(|w| w.as_str().unwrap().to_owned()).collect()
}

fn qemu(told: &Value, console: &Path) -> Ends {
    let command = words(&told["command"]);
    let mut qemu = Command::new(&command[0]);
    qemu.args(&command[1..])
        .args(words(&told["arguments"]))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(console).unwrap());
    for (name, value) in told["env"].as_object().unwrap() {
        qemu.env(name, value.as_str().unwrap());
    }
    Ends(qemu.spawn().unwrap())
}

#[test]
#[ignore = "boots a guest: make test"]
fn a_vf_is_unplugged_at_a_point_by_ctl_and_qemu_may_come_again() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().join("s");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    serve
        .args(["serve", "--kernel", "base", "--vfs", "3", "--json"])
        .arg("--socket-dir")
        .arg(&dir)
        .stdout(Stdio::piped());
    let mut server = Ends(serve.spawn().unwrap());
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let told: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let control = told["control"].as_str().unwrap();
    let ctl = |words: &[&str]| -> String {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_vfrace"));
        let output = ctl.args(["ctl", "--control", control]).args(words);
        let output = output.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let ask = |words: &[&str]| -> Value { serde_json::from_str(&ctl(words)).unwrap() };
    // The second one is another QEMU at the same back end.
    for boot in 1..=2u32 {
        let console = room.path().join(format!("console-{boot}"));
        let mut qemu = qemu(&told, &console);
        let end = Instant::now() + BOOT;
        while ctl(&["events"]).matches("agent-ready").count() < boot as usize {
            assert!(
                Instant::now() < end,
                "{}",
                std::fs::read_to_string(&console).unwrap()
            );
            assert!(qemu.0.try_wait().unwrap().is_none(), "QEMU has ended");
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!(ask(&["up"])["vfs"], 3);
        let list = ask(&["exec", "ls -d /sys/bus/pci/devices/*/virtfn*"]);
        assert_eq!(
            list["output"].as_str().unwrap().lines().count(),
            3,
            "{list}"
        );
        let armed = ask(&["unplug", "vf2", "--at", "vf2:wire:GET_VRING_BASE"]);
        assert_eq!(armed["unplug"]["target"], "vf2");
        let torn = ask(&["teardown"]);
        assert_eq!(torn["status"], 0, "{torn}");
        assert_eq!(torn["unplug"]["number"], boot, "{torn}");
        let events = ctl(&["events"]);
        let at = |name: &str| {
            let event = format!("\"event\":\"{name}\"");
            let lines = events.lines().enumerate();
            let places = lines.filter(|(_, line)| line.contains(&event));
            places.map(|(place, _)| place).collect::<Vec<_>>()
        };
        // Ordered at the message, which is then held. On a busy machine the hold may end at its bound: see the README.
        let (reached, fired) = (at("point-reached"), at("unplug-fired"));
        let (began, ended) = (at("hold-began"), at("hold-ended"));
        for places in [&reached, &fired, &began, &ended] {
            assert_eq!(places.len(), boot as usize, "{events}");
        }
        let order = [reached.last(), fired.last(), began.last(), ended.last()];
        assert!(order.is_sorted(), "{order:?}");
    }
    ctl(&["stop"]);
    assert!(server.0.wait().unwrap().success());
    assert!(!dir.exists());
}
