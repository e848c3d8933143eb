//! A figure against a number of services or flows: one line per peer, its name at its end.

use super::axis::{Axis, spread};
use super::bars::told;
use super::group::{Figure, Scale, colour};
use super::quantity::{count, quantity};
use super::svg::{Anchor, Svg};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 118.0;
const TOP: f64 = 16.0;
const FOOT: f64 = HEIGHT - 38.0;
/// Least distance of two names.
const LINE: f64 = 13.0;

/// Lines of all peers, if any was measured with several numbers.
pub(super) fn draw(figure: &Figure<'_>) -> Option<String> {
    let scale = figure.scale()?;
    let unit = figure.first.unit.as_str();
    let spreads =
        || figure.cells.iter().filter_map(|(measurement, summary)| Some((*measurement, summary, summary.value?)));
    let numbers = || spreads().filter_map(|(measurement, ..)| scale.of(&measurement.cell)).map(f64::from);
    let (least, most) = (numbers().fold(f64::MAX, f64::min), numbers().fold(0.0, f64::max));
    let across = Axis::log(least, most, LEFT, WIDTH - RIGHT);
    let lowest = spreads().map(|(.., value)| value.low).filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
    let highest = spreads().map(|(.., value)| value.high).fold(0.0, f64::max);
    let up = Axis::suited(lowest, highest, FOOT, TOP);

    let mut svg = Svg::new(WIDTH, HEIGHT);
    for tick in up.ticks(7) {
        svg.line("grid", (LEFT, up.place(tick)), (WIDTH - RIGHT, up.place(tick)));
        svg.text("tick", (LEFT - 6.0, up.place(tick) + 3.5), Anchor::End, quantity(tick, unit));
    }
    let mut named: Vec<f64> = numbers().collect();
    named.sort_by(f64::total_cmp);
    named.dedup();
    for number in named {
        let x = across.place(number);
        svg.line("grid", (x, TOP), (x, FOOT));
        svg.text("tick", (x, FOOT + 15.0), Anchor::Middle, count(number as u32));
    }
    svg.text("tick", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0), Anchor::Middle, scale.name());

    let mut ends: Vec<(String, String, f64)> = Vec::new();
    for peer in figure.peers() {
        if let Some(end) = line(&mut svg, figure, peer, scale, &across, &up) {
            ends.push((peer.to_owned(), colour(peer), end));
        }
    }
    let mut places: Vec<f64> = ends.iter().map(|(.., end)| *end).collect();
    spread(&mut places, LINE, TOP, FOOT);
    for ((peer, class, end), place) in ends.iter().zip(places) {
        let x = WIDTH - RIGHT;
        svg.line(&format!("lead {class}"), (x, *end), (x + 8.0, place));
        svg.text(&format!("name {class}"), (x + 11.0, place + 3.5), Anchor::Start, peer);
    }
    Some(svg.finish(&format!("{} against {}", figure.first.title, scale.name())))
}

/// One peer's line; returns the height of its end.
fn line(svg: &mut Svg, figure: &Figure<'_>, peer: &str, scale: Scale, across: &Axis, up: &Axis) -> Option<f64> {
    let class = colour(peer);
    let of_peer = || figure.cells.iter().filter(|(measurement, _)| measurement.cell.peer == peer);
    let mut points: Vec<_> = of_peer()
        .filter_map(|(measurement, summary)| {
            Some((scale.of(&measurement.cell)?, *measurement, summary, summary.value?))
        })
        .collect();
    points.sort_by_key(|(number, ..)| *number);
    // Whoever has none of it is the same for any number.
    let Some(last) = points.last() else {
        let value = of_peer().find_map(|(_, summary)| summary.value)?;
        let y = up.place(value.median);
        svg.line(&format!("flat {class}"), (LEFT, y), (WIDTH - RIGHT, y));
        return Some(y);
    };
    let end = up.place(last.3.median);
    let at = |number: u32, value: f64| (across.place(f64::from(number)), up.place(value));
    let band: Vec<_> = points
        .iter()
        .map(|(number, .., value)| at(*number, value.high))
        .chain(points.iter().rev().map(|(number, .., value)| at(*number, value.low)))
        .collect();
    svg.path(&format!("band {class}"), &band, true);
    let middle: Vec<_> = points.iter().map(|(number, .., value)| at(*number, value.median)).collect();
    svg.path(&format!("stroke {class}"), &middle, false);
    for (number, measurement, summary, value) in &points {
        let told = told(measurement.cell.to_string(), &measurement.unit, summary);
        let kind = if summary.is_noisy { "hollow" } else { "fill" };
        svg.dot(&format!("{kind} {class}"), at(*number, value.median), 3.5, &told);
    }
    Some(end)
}
