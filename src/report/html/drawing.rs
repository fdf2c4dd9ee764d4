// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the marks of a timeline are in a picture. The script in the page does the same again for another part of the
//! time and another width (`lay` in script.js): only what is horizontal changes.

use serde::Serialize;

use crate::report::timeline::{Kind, Lane, Mark, Timeline};

/// Width without a script, pixels.
const WIDTH: f64 = 960.0;
/// Height of a row, and of the bar in it.
const ROW: u32 = 20;
const BAR: u32 = 16;
/// Height of a lane's title.
const TITLE: u32 = 18;
/// Between two lanes.
const GAP: u32 = 8;
/// Height of the axis.
const AXIS: u32 = 22;
/// Half of a label on it.
const MARGIN: f64 = 34.0;
/// Width of a character, on average and rather too much.
const CHARACTER: f64 = 6.6;

/// A picture of a timeline.
#[derive(Serialize)]
pub(super) struct Drawing {
    id: String,
    width: f64,
    height: u32,
    /// The whole and the part that is shown, microseconds.
    from: i64,
    to: i64,
    shown: (i64, i64),
    ticks: Vec<Tick>,
    lanes: Vec<DrawnLane>,
    mini: Vec<Mini>,
    window: (f64, f64),
}

#[derive(Serialize)]
struct Tick {
    x: f64,
    /// None where it would leave the picture.
    label: Option<String>,
}

#[derive(Serialize)]
struct DrawnLane {
    y: u32,
    title: String,
    is_bad: bool,
    marks: Vec<DrawnMark>,
}

#[derive(Serialize)]
struct DrawnMark {
    kind: Kind,
    is_open: bool,
    /// Microseconds.
    a: i64,
    b: i64,
    y: u32,
    h: u32,
    x: f64,
    w: f64,
    /// Where the label is, if there is room for it.
    text: Option<f64>,
    /// The label ends there.
    ends: bool,
    label: String,
    tip: String,
}

/// A mark in the overview, thousandths of its width.
#[derive(Serialize)]
struct Mini {
    kind: Kind,
    x: f64,
    w: f64,
    y: u32,
}

/// Hundredths are enough.
fn short(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}

/// The least width of a mark.
fn least(kind: Kind) -> f64 {
    match kind {
        Kind::Request | Kind::Answer => 3.0,
        Kind::Point | Kind::Finding => 6.0,
        _ => 2.0,
    }
}

impl Drawing {
    pub(super) fn new(id: &str, line: &Timeline) -> Self {
        let shown = line.focus;
        let span = (shown.1.saturating_sub(shown.0)).max(1) as f64;
        let x = |ns: i64| ns.saturating_sub(shown.0) as f64 / span * WIDTH;
        let mut y = AXIS;
        let mut lanes = Vec::new();
        for lane in &line.lanes {
            lanes.push(DrawnLane {
                y: y + TITLE - 5,
                title: lane.title.clone(),
                is_bad: lane.is_bad,
                marks: marks(lane, y + TITLE, &x),
            });
            y += TITLE + lane.rows * ROW + GAP;
        }
        let whole = (line.to.saturating_sub(line.from)).max(1) as f64;
        let thousandth = |ns: i64| ns.saturating_sub(line.from) as f64 / whole * 1000.0;
        let kinds = [Kind::Teardown, Kind::Unplug, Kind::Twice];
        let mut mini = Vec::new();
        for lane in &line.lanes {
            let top = lane.marks.iter().filter(|m| kinds.contains(&m.kind));
            for mark in top.filter(|m| m.row == 0 || m.kind != Kind::Teardown) {
                mini.push(Mini {
                    kind: mark.kind,
                    x: short(thousandth(mark.from)),
                    w: short((thousandth(mark.to) - thousandth(mark.from)).max(1.0)),
                    y: match mark.kind {
                        Kind::Teardown => 2,
                        Kind::Unplug => 9,
                        _ => 16,
                    },
                });
            }
        }
        mini.truncate(200);
        let us = |ns: i64| ns.div_euclid(1000);
        Drawing {
            id: id.to_owned(),
            width: WIDTH,
            height: y,
            from: us(line.from),
            to: us(line.to),
            shown: (us(shown.0), us(shown.1)),
            ticks: ticks(shown, &x),
            lanes,
            mini,
            window: (
                short(thousandth(shown.0)),
                short((thousandth(shown.1) - thousandth(shown.0)).max(2.0)),
            ),
        }
    }
}

fn marks(lane: &Lane, top: u32, x: &dyn Fn(i64) -> f64) -> Vec<DrawnMark> {
    let mut sorted: Vec<&Mark> = lane.marks.iter().collect();
    sorted.sort_by_key(|m| (m.row, m.from));
    let next = sorted
        .iter()
        .skip(1)
        .map(|m| Some((m.row, x(m.from))))
        .chain([None]);
    let next: Vec<Option<(u32, f64)>> = next.collect();
    // Up to where the row is taken, labels included.
    let (mut row, mut used) = (0, 0.0);
    let drawn = sorted.iter().zip(next).map(|(mark, next)| {
        if mark.row != row {
            (row, used) = (mark.row, 0.0);
        }
        let (from, to) = (x(mark.from), x(mark.to));
        let (from, to) = (
            from.clamp(-20.0, WIDTH + 20.0),
            to.clamp(-20.0, WIDTH + 20.0),
        );
        let width = (to - from).max(least(mark.kind));
        let needed = mark.label.chars().count() as f64 * CHARACTER + 8.0;
        let (left, right) = (from.max(0.0), (from + width).min(WIDTH));
        let free = match next {
            Some((row, x)) if row == mark.row => x.min(WIDTH),
            _ => WIDTH,
        };
        let visible = right > 0.0 && left < WIDTH;
        let text = if mark.label.is_empty() || !visible {
            None
        } else if right - left >= needed {
            Some(left + 4.0)
        } else if free - right >= needed {
            Some(right + 4.0)
        } else if left - used >= needed {
            Some(left - 4.0)
        } else {
            None
        };
        let ends = text.is_some_and(|at| at < left);
        used = match text {
            Some(at) if !ends => right.max(at + needed).max(used),
            _ => right.max(used),
        };
        let low = matches!(mark.kind, Kind::Answer);
        DrawnMark {
            kind: mark.kind,
            is_open: mark.is_open,
            a: mark.from.div_euclid(1000),
            b: mark.to.div_euclid(1000),
            y: top + mark.row * ROW + if low { BAR / 2 } else { 0 },
            h: if matches!(mark.kind, Kind::Request | Kind::Answer) {
                BAR / 2
            } else {
                BAR
            },
            x: short(from),
            w: short(width),
            text: text.map(short),
            ends,
            label: mark.label.clone(),
            tip: mark.tip.clone(),
        }
    });
    drawn.collect()
}

/// Round numbers on the axis, a handful.
fn ticks(shown: (i64, i64), x: &dyn Fn(i64) -> f64) -> Vec<Tick> {
    let span = shown.1.saturating_sub(shown.0).max(1);
    // 1, 2, 5, 10 and so on.
    let mut step = 1_000i64;
    for n in 0..60 {
        if span / step <= 8 {
            break;
        }
        step = match n % 3 {
            1 => step.saturating_mul(5) / 2,
            _ => step.saturating_mul(2),
        };
    }
    let digits = match step {
        s if s >= 1_000_000 => 0,
        s if s >= 100_000 => 1,
        s if s >= 10_000 => 2,
        _ => 3,
    };
    let first = shown.0.div_euclid(step).saturating_mul(step);
    let all = (0..20).map(|n| first.saturating_add(step.saturating_mul(n)));
    all.filter(|t| *t >= shown.0 && *t <= shown.1)
        .map(|t| Tick {
            x: short(x(t)),
            label: (MARGIN..=WIDTH - MARGIN)
                .contains(&x(t))
                .then(|| format!("{:+.*} ms", digits, t as f64 / 1e6)),
        })
        .collect()
}
