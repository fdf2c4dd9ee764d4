// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Headless Chromium, driven through its DevTools protocol over a pair of pipes (`--remote-debugging-pipe`): JSON
//! messages, each ended by a zero byte.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A page in a browser.
pub struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    last: u64,
    session: Value,
    complaints: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Browser {
    /// Opens `page` in a window of this size.
    pub fn open(page: &Path, width: u32, height: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        for pipe in [&input, &output] {
            assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        }
        // A shell gives the pipes the numbers that Chromium expects: it reads from 3 and writes to 4.
        let child = Command::new("sh")
            .arg("-c")
            .arg("exec chromium --headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir=\"$3\" about:blank 3<\"$1\" 4>\"$2\"")
            .arg("sh")
            .args([&input, &output])
            .arg(dir.path().join("profile"))
            .env("HOME", dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let found = Command::new("sh")
            .args(["-c", "command -v chromium"])
            .output()
            .unwrap();
        assert!(
            found.status.success(),
            "chromium is missing: `make test-report` installs it"
        );
        let to = File::options().write(true).open(&input).unwrap();
        let from = BufReader::new(File::open(&output).unwrap());
        let mut browser = Browser {
            child,
            to,
            from,
            last: 0,
            session: Value::Null,
            complaints: Vec::new(),
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Runtime", "Log", "Page", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        browser.call(
            "Page.navigate",
            json!({"url": format!("file://{}", page.display())}),
        );
        browser.wait("Page.loadEventFired");
        // The script draws when the browser has laid out the page.
        browser.call(
            "Runtime.evaluate",
            json!({"expression": "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))", "awaitPromise": true}),
        );
        browser
    }

    /// What the page printed as an error or warning, what it threw, what it asked a network for.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.clone()
    }

    fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser went away");
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        let of = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => true,
            Some("Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = of["request"]["url"].as_str().unwrap_or_default();
                !url.starts_with("file:") && !url.starts_with("data:") && !url.starts_with("about:")
            }
            _ => false,
        };
        if complaint {
            self.complaints.push(message.to_string());
        }
        message
    }

    fn wait(&mut self, method: &str) {
        while self.message()["method"] != method {}
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        loop {
            let answer = self.message();
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Moves the pointer to the middle of an element.
    pub fn point_at(&mut self, element: &str) {
        let middle = format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); \
             return [Math.max(r.left, 0) + Math.min(r.width, innerWidth) / 2, r.top + r.height / 2]; }})()"
        );
        let at = self.eval(&middle);
        let event = json!({"type": "mouseMoved", "x": at[0], "y": at[1]});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Presses a key.
    pub fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({"type": kind, "key": key, "text": if kind == "keyDown" { key } else { "" }});
            self.call("Input.dispatchKeyEvent", event);
        }
    }
}
