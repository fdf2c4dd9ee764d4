// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page of `vfrace report --format html` in a real browser, over the DevTools protocol on a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>). Needs Debian's package chromium, or another Chromium that
//! `VFRACE_CHROMIUM` names, and fails without one: therefore ignored by default; `make test-report` runs it.
//!
//! `VFRACE_SCREENSHOTS=DIR` keeps what the page looks like.

#![allow(clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Text and boxes that lie over one another where they should not, and what is wider than the window.
const OVERLAPS: &str = r#"(() => {
  const found = [];
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) found.push(`the page is ${wide} px wider than the window`);
  const boxes = (list) => {
    for (let i = 0; i < list.length; i++) {
      for (let j = i + 1; j < list.length; j++) {
        const [a, b] = [list[i], list[j]];
        const w = Math.min(a.r.right, b.r.right) - Math.max(a.r.left, b.r.left);
        const h = Math.min(a.r.bottom, b.r.bottom) - Math.max(a.r.top, b.r.top);
        if (w > 1 && h > 3) found.push(`"${a.t}" and "${b.t}"`);
      }
    }
  };
  const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 0;
  for (const svg of document.querySelectorAll('svg.main')) {
    if (!shown(svg)) continue;
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].filter(shown);
    boxes(texts.map((t) => ({ t: t.textContent, r: t.getBoundingClientRect() })));
    for (const t of texts) {
      const r = t.getBoundingClientRect();
      if (r.right > edge.right + 1 || r.left < edge.left - 1) found.push(`"${t.textContent}" leaves its picture`);
    }
  }
  const list = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const parent = n.parentElement;
    if (!n.textContent.trim() || parent.closest('svg, script, style') || !shown(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(n);
    for (const r of range.getClientRects()) list.push({ t: n.textContent.trim().slice(0, 40), r });
  }
  boxes(list);
  return found.slice(0, 10);
})()"#;

/// Bars of the lane with a double removal: class, left, right.
const TWICE: &str = r#"(() => {
  const lane = [...document.querySelectorAll('svg.main .lane')].find((l) =>
    l.querySelector('.title').textContent.includes('TWICE'));
  if (!lane) return null;
  const bars = {};
  for (const kind of ['teardown', 'unplug', 'twice']) {
    const r = lane.querySelector(`.m.${kind} rect`).getBoundingClientRect();
    bars[kind] = [r.left, r.right, r.top, r.bottom];
  }
  const svg = lane.closest('svg').getBoundingClientRect();
  return { title: lane.querySelector('.title').textContent, bars, left: svg.left, right: svg.right,
    labels: [...lane.querySelectorAll('.m text:not(.off)')].map((t) => t.textContent) };
})()"#;

/// A browser with one page.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    number: u64,
    /// What the page complained about, and what it asked the network for.
    complaints: Vec<String>,
    loaded: bool,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let program = std::env::var("VFRACE_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let profile = tempfile::tempdir()?;
        // The protocol is spoken on descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1",
            ])
            .arg(&program)
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipe to the browser".into());
        };
        let mut browser = Browser {
            child,
            to,
            from: BufReader::new(from),
            session: None,
            number: 0,
            complaints: Vec::new(),
            loaded: false,
            _profile: profile,
        };
        let made = browser.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let made = made.map_err(|error| {
            format!("{program} does not answer ({error}); it is in Debian's package chromium, or name one with VFRACE_CHROMIUM")
        })?;
        let page = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", page)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Sends a command and waits for its answer. What happens meanwhile is noted.
    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Box<dyn std::error::Error>> {
        self.number += 1;
        let number = self.number;
        let mut message = json!({ "id": number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        loop {
            let said = self.read()?;
            if said["id"] == json!(number) {
                return match said.get("error") {
                    Some(error) => Err(format!("{method}: {error}").into()),
                    None => Ok(said["result"].clone()),
                };
            }
        }
    }

    fn read(&mut self) -> Result<Value, Box<dyn std::error::Error>> {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes)?;
        if bytes.pop() != Some(0) {
            return Err("it ended".into());
        }
        let said: Value = serde_json::from_slice(&bytes)?;
        let params = &said["params"];
        match said["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                self.complaints.push(params.to_string());
            }
            "Network.requestWillBeSent" => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                if !url.starts_with("file:") && !url.starts_with("data:") {
                    self.complaints.push(format!("a request for {url}"));
                }
            }
            "Page.loadEventFired" => self.loaded = true,
            _ => {}
        }
        Ok(said)
    }

    /// Opens the page in a window of that width.
    fn open(&mut self, page: &Path, width: u32, scheme: &str) -> Outcome {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask("Emulation.setDeviceMetricsOverride", size)?;
        let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", dark)?;
        self.loaded = false;
        self.ask(
            "Page.navigate",
            json!({ "url": format!("file://{}", page.display()) }),
        )?;
        while !self.loaded {
            self.read()?;
        }
        Ok(())
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Result<Value, Box<dyn std::error::Error>> {
        let what = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let made = self.ask("Runtime.evaluate", what)?;
        match made.get("exceptionDetails") {
            Some(details) => Err(format!("{expression}: {details}").into()),
            None => Ok(made["result"]["value"].clone()),
        }
    }

    fn text(&mut self, expression: &str) -> Result<String, Box<dyn std::error::Error>> {
        let value = self.value(expression)?;
        Ok(value
            .as_str()
            .ok_or_else(|| format!("{expression} is {value}"))?
            .to_owned())
    }

    fn number(&mut self, expression: &str) -> Result<f64, Box<dyn std::error::Error>> {
        let value = self.value(expression)?;
        Ok(value
            .as_f64()
            .ok_or_else(|| format!("{expression} is {value}"))?)
    }

    /// Waits until an expression is true: the page lays itself out when it is told its width.
    fn wait(&mut self, expression: &str) -> Outcome {
        let end = Instant::now() + Duration::from_secs(30);
        while self.value(expression)? != json!(true) {
            if Instant::now() > end {
                return Err(format!("it does not become true: {expression}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Moves the mouse to the middle of what a selector finds.
    fn point_at(&mut self, selector: &str) -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let middle = format!(
            "(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{ block: 'center' }}); \
             const r = e.getBoundingClientRect(), s = e.closest('svg')?.getBoundingClientRect() ?? r; \
             const l = Math.max(r.left, s.left), t = Math.min(r.right, s.right); \
             return [(l + t) / 2, (r.top + r.bottom) / 2]; }})()"
        );
        let at = self.value(&middle)?;
        let (Some(x), Some(y)) = (at[0].as_f64(), at[1].as_f64()) else {
            return Err(format!("{selector} is nowhere: {at}").into());
        };
        self.mouse("mouseMoved", x, y, json!({}))?;
        Ok((x, y))
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64, more: Value) -> Outcome {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        for (name, value) in more.as_object().into_iter().flatten() {
            event[name] = value.clone();
        }
        self.ask("Input.dispatchMouseEvent", event)?;
        Ok(())
    }

    fn click(&mut self, selector: &str) -> Outcome {
        let (x, y) = self.point_at(selector)?;
        for kind in ["mousePressed", "mouseReleased"] {
            self.mouse(kind, x, y, json!({ "button": "left", "clickCount": 1 }))?;
        }
        Ok(())
    }

    fn key(&mut self, key: &str) -> Outcome {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key });
            if kind == "keyDown" && key.chars().count() == 1 {
                event["text"] = json!(key);
            }
            self.ask("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    fn screenshot(&mut self, name: &str) -> Outcome {
        let Some(dir) = std::env::var_os("VFRACE_SCREENSHOTS").map(PathBuf::from) else {
            return Ok(());
        };
        let how = json!({ "format": "png", "captureBeyondViewport": true });
        let made = self.ask("Page.captureScreenshot", how)?;
        let text = made["data"].as_str().unwrap_or_default();
        std::fs::create_dir_all(&dir)?;
        Ok(std::fs::write(dir.join(name), bytes_of(text))?)
    }
}

/// Base64, RFC 4648.
fn bytes_of(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for value in text.bytes().filter_map(digit) {
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

/// The page of the recorded run in tests/fixtures.
fn page(dir: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/run-base");
    let to = dir.join("report.html");
    let made = Command::new(env!("CARGO_BIN_EXE_vfrace"))
        .arg("report")
        .arg(&run)
        .args(["--format", "html", "-o"])
        .arg(&to)
        .output()?;
    match made.status.success() {
        true => Ok(to),
        false => Err(String::from_utf8_lossy(&made.stderr).into_owned().into()),
    }
}

const LAID_OUT: &str = "[...document.querySelectorAll('svg.main')].every((s) => \
    Math.abs(s.getBoundingClientRect().width - s.parentNode.clientWidth) < 4)";

fn is_clean(browser: &mut Browser, what: &str) {
    let complaints = std::mem::take(&mut browser.complaints);
    assert!(complaints.is_empty(), "{what}: {complaints:#?}");
}

/// The double removal can be read off: two bars over the same stretch of time, and a third over what they share.
fn shows_double_removal(browser: &mut Browser, what: &str) -> Outcome {
    let lane = browser.value(TWICE)?;
    let edge = |kind: &str, n: usize| lane["bars"][kind][n].as_f64().unwrap_or(f64::NAN);
    let title = lane["title"].as_str().unwrap_or_default();
    assert!(title.starts_with("vf2: removed TWICE"), "{what}: {lane}");
    let (from, to) = (
        edge("teardown", 0).max(edge("unplug", 0)),
        edge("teardown", 1).min(edge("unplug", 1)),
    );
    assert!(
        to - from > 10.0,
        "{what}: the bars do not overlap in time: {lane}"
    );
    assert!((edge("twice", 0) - from).abs() < 2.0, "{what}: {lane}");
    assert!((edge("twice", 1) - to).abs() < 2.0, "{what}: {lane}");
    // In rows of their own, inside of the picture.
    assert!(edge("teardown", 3) <= edge("unplug", 2), "{what}: {lane}");
    assert!(edge("unplug", 3) <= edge("twice", 2), "{what}: {lane}");
    let (left, right) = (lane["left"].as_f64(), lane["right"].as_f64());
    assert!(left <= Some(from) && Some(to) <= right, "{what}: {lane}");
    let labels = lane["labels"].to_string();
    for words in ["teardown", "unplug handler", "both at once"] {
        assert!(
            labels.contains(words),
            "{what}: no label says {words}: {labels}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs a browser (Debian's package chromium): make test-report"]
fn the_page_is_readable_at_every_width() -> Outcome {
    let dir = tempfile::tempdir()?;
    let page = page(dir.path())?;
    let mut browser = Browser::start()?;
    for width in [1280, 390] {
        for scheme in ["light", "dark"] {
            let what = format!("{width} px, {scheme}");
            browser.open(&page, width, scheme)?;
            browser.wait(LAID_OUT)?;
            assert_eq!(browser.value(OVERLAPS)?, json!([]), "{what}");
            shows_double_removal(&mut browser, &what)?;
            let background = browser.text("getComputedStyle(document.body).backgroundColor")?;
            let is_light = background == "rgb(255, 255, 255)";
            assert_eq!(is_light, scheme == "light", "{what}: {background}");
            browser.screenshot(&format!("{width}-{scheme}.png"))?;
            is_clean(&mut browser, &what);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a browser (Debian's package chromium): make test-report"]
fn the_page_says_the_same_without_its_script() -> Outcome {
    let dir = tempfile::tempdir()?;
    let page = page(dir.path())?;
    let mut browser = Browser::start()?;
    browser.ask(
        "Emulation.setScriptExecutionDisabled",
        json!({ "value": true }),
    )?;
    browser.open(&page, 1280, "light")?;
    assert_eq!(browser.value(OVERLAPS)?, json!([]));
    shows_double_removal(&mut browser, "without a script")?;
    assert_eq!(
        browser.value("document.querySelectorAll('button').length")?,
        json!(0)
    );
    browser.screenshot("no-script.png")
}

#[test]
#[ignore = "needs a browser (Debian's package chromium): make test-report"]
fn marks_are_named_and_time_is_zoomed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let page = page(dir.path())?;
    let mut browser = Browser::start()?;
    browser.open(&page, 1280, "light")?;
    browser.wait(LAID_OUT)?;
    let read = "document.querySelector('.read').textContent";
    let span = "(() => { const t = [...document.querySelectorAll('.ticks line')].map((l) => +l.getAttribute('x1')); \
        return t[1] - t[0]; })()";
    let shown = "+document.querySelector('rect.win').getAttribute('width')";

    // Pointing at a mark names it.
    let before = browser.text(read)?;
    browser.point_at(".lane.bad .m.unplug rect")?;
    browser.wait(&format!(
        "{read}.startsWith('vf2 is removed by unplug handler (vfrace-unplug, pid')"
    ))?;
    assert_ne!(browser.text(read)?, before);
    assert_eq!(
        browser.value("document.querySelectorAll('.m.on').length")?,
        json!(1)
    );
    browser.screenshot("hover.png")?;

    // Buttons: the part that is shown is halved, and comes back.
    let whole = browser.number(shown)?;
    let bar = |browser: &mut Browser| {
        browser.number("document.querySelector('.lane.bad .m.twice rect').width.baseVal.value")
    };
    let wide = bar(&mut browser)?;
    browser.click(".bar button[title^=\"zoom in\"]")?;
    assert!((browser.number(shown)? / whole - 0.5).abs() < 0.02);
    assert!(bar(&mut browser)? > wide * 1.2);
    assert!(browser.number(span)? > 0.0);
    assert_eq!(browser.value(OVERLAPS)?, json!([]), "zoomed in");
    browser.screenshot("zoomed.png")?;
    browser.click(".bar button[title^=\"where it happens\"]")?;
    assert!((browser.number(shown)? / whole - 1.0).abs() < 0.02);

    // Keys: the picture is reached with Tab, and does the same.
    browser.value("document.querySelector('.bar button:last-child').focus()")?;
    let tab =
        json!({ "type": "rawKeyDown", "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 });
    browser.ask("Input.dispatchKeyEvent", tab)?;
    browser.wait("document.activeElement.matches('svg.main')")?;
    browser.key("+")?;
    assert!((browser.number(shown)? / whole - 0.5).abs() < 0.02);
    browser.key("0")?;
    assert!((browser.number(shown)? - 1000.0).abs() < 1.0);
    assert_eq!(browser.value(OVERLAPS)?, json!([]), "the whole round");
    browser.screenshot("whole.png")?;
    browser.key("f")?;
    let named = browser.text(read)?;
    browser.key("n")?;
    assert_ne!(browser.text(read)?, named);

    // The wheel zooms with Ctrl only: a page that cannot be scrolled over its pictures would be no help.
    let (x, y) = browser.point_at("svg.main")?;
    browser.mouse(
        "mouseWheel",
        x,
        y,
        json!({ "deltaX": 0, "deltaY": -100, "modifiers": 2 }),
    )?;
    browser.wait(&format!("{shown} < {whole} * 0.9"))?;

    // Dragging moves.
    let left = "+document.querySelector('rect.win').getAttribute('x')";
    let from = browser.number(left)?;
    browser.mouse(
        "mousePressed",
        x,
        y,
        json!({ "button": "left", "clickCount": 1 }),
    )?;
    browser.mouse(
        "mouseMoved",
        x - 60.0,
        y,
        json!({ "button": "left", "buttons": 1 }),
    )?;
    browser.mouse(
        "mouseReleased",
        x - 60.0,
        y,
        json!({ "button": "left", "clickCount": 1 }),
    )?;
    browser.wait(&format!("{left} > {from}"))?;
    is_clean(&mut browser, "hover and zoom");
    Ok(())
}
