//! One scenario as a picture: the failed share of each second, and the state of each circuit below it.
//!
//! SVG by hand: two curves and some rectangles need no library, and the file stays small enough to be kept.

use std::fmt::Write as _;

use fusewire_resilience::State;

use crate::case::Track;
use crate::table::Done;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const CURVE: f64 = 150.0;
const GAP: f64 = 30.0;
const LANE: f64 = 12.0;

const OURS: &str = "#1f6feb";
const WITHOUT: &str = "#b8b8b8";
const OPEN: &str = "#d1242f";
const HALF_OPEN: &str = "#d4a72c";
const CLOSED: &str = "#d8eadb";

pub(crate) fn draw(done: &Done) -> Option<String> {
    let track = done.measured.track.as_ref()?;
    let last = track.seconds.len().max(1) as f64;
    let x = |second: f64| LEFT + (WIDTH - LEFT - RIGHT) * (second / last).clamp(0.0, 1.0);
    let lanes = TOP + CURVE + GAP;
    let height = lanes + LANE * track.instances as f64 + 34.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#333\"><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, LEFT, 14.0, "start", &format!("{}: {}", done.name, done.asks));
    for (share, label) in [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")] {
        let y = TOP + CURVE * (1.0 - share);
        line(&mut svg, (LEFT, y), (WIDTH - RIGHT, y));
        text(&mut svg, LEFT - 4.0, y + 4.0, "end", label);
    }
    curve(&mut svg, &track.without, WITHOUT, x);
    curve(&mut svg, &track.seconds, OURS, x);
    text(&mut svg, LEFT, TOP - 6.0, "start", "failed requests of each second; grey: without");
    states(&mut svg, track, lanes, last, x);
    let bottom = lanes + LANE * track.instances as f64 + 14.0;
    let step = if last > 60.0 { 20 } else { 5 };
    for second in (0..=last as u64).step_by(step) {
        text(&mut svg, x(second as f64), bottom, "middle", &format!("{second} s"));
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn curve(svg: &mut String, seconds: &[(u32, u32)], colour: &str, x: impl Fn(f64) -> f64) {
    if seconds.is_empty() {
        return;
    }
    let point = |(second, (all, failed)): (usize, &(u32, u32))| {
        let share = if *all == 0 { 0.0 } else { f64::from(*failed) / f64::from(*all) };
        format!("{:.1},{:.1}", x(second as f64), TOP + CURVE * (1.0 - share))
    };
    let points: Vec<String> = seconds.iter().enumerate().map(point).collect();
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
        points.join(" ")
    );
}

/// A lane for each instance, coloured by its circuit.
fn states(svg: &mut String, track: &Track, top: f64, last: f64, x: impl Fn(f64) -> f64) {
    text(svg, LEFT, top - 6.0, "start", "circuits: green closed, yellow half-open, red open");
    for instance in 0..track.instances {
        let y = top + LANE * instance as f64;
        text(svg, LEFT - 4.0, y + LANE - 3.0, "end", &instance.to_string());
        rect(svg, (x(0.0), x(last)), y, CLOSED);
        let own = || track.states.iter().filter(|(_, index, _)| *index == instance);
        let ends = own().map(|(second, _, _)| *second).skip(1).chain([last]);
        for ((second, _, state), end) in own().zip(ends) {
            match state {
                State::Closed => {}
                State::Open => rect(svg, (x(*second), x(end)), y, OPEN),
                State::HalfOpen => rect(svg, (x(*second), x(end)), y, HALF_OPEN),
            }
        }
    }
}

fn rect(svg: &mut String, (from, to): (f64, f64), y: f64, colour: &str) {
    // What lasts a moment is seen all the same.
    let width = (to - from).max(0.6);
    let _ = writeln!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>",
        LANE - 2.0
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(svg, "<path d=\"M{x1} {y1}L{x2} {y2}\" stroke=\"#e4e4e4\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
