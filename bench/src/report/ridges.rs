//! How long single events took: one hill per cell over a common axis of time, its median and its slowest hundredth
//! marked.

use super::axis::Axis;
use super::group::{Figure, colour};
use super::quantity::quantity;
use super::svg::{Anchor, Svg};
use crate::results::{Histogram, Measurement};

const WIDTH: f64 = 560.0;
const LEFT: f64 = 158.0;
const RIGHT: f64 = 76.0;
const TOP: f64 = 34.0;
const ROW: f64 = 30.0;
/// A hill may stand taller than its row.
const TALL: f64 = 40.0;

/// Hills of all cells with a distribution; nothing if none has one. With each number of services, the cells of a peer
/// would be too many: the least and the most are shown.
pub(super) fn draw(figure: &Figure<'_>) -> Option<String> {
    let rows: Vec<(&Measurement, &Histogram)> = figure
        .cells
        .iter()
        .filter(|(measurement, _)| is_end(figure, measurement))
        .filter_map(|(measurement, _)| Some((*measurement, measurement.histogram.as_ref()?)))
        .filter(|(_, histogram)| histogram.events() > 0)
        .collect();
    let ends = |part| rows.iter().filter_map(move |(_, histogram)| histogram.percentile(part));
    let (low, high) = (ends(0.002).fold(f64::MAX, f64::min), ends(0.995).fold(0.0, f64::max));
    if rows.is_empty() || high <= 0.0 {
        return None;
    }
    let axis = Axis::log(low, high, LEFT, WIDTH - RIGHT);
    let height = TOP + rows.len() as f64 * ROW + 30.0;
    let foot = height - 24.0;
    let mut svg = Svg::new(WIDTH, height);
    for tick in axis.ticks(8) {
        svg.line("grid", (axis.place(tick), TOP - 16.0), (axis.place(tick), foot));
        svg.text("tick", (axis.place(tick), foot + 15.0), Anchor::Middle, quantity(tick, "ns"));
    }
    svg.text("tick", (WIDTH - RIGHT + 8.0, 12.0), Anchor::Start, "p50 | p99");
    let heights: Vec<Vec<(f64, f64)>> = rows.iter().map(|(_, histogram)| density(histogram, &axis)).collect();
    let tallest = heights.iter().flatten().map(|(_, height)| *height).fold(0.0, f64::max);
    for (number, ((measurement, histogram), hill)) in rows.iter().zip(heights).enumerate() {
        let base = TOP + (number + 1) as f64 * ROW - 6.0;
        let class = colour(&measurement.cell.peer);
        let mut points = vec![(LEFT, base)];
        points.extend(hill.iter().map(|(x, height)| (*x, base - TALL * height / tallest)));
        points.push((WIDTH - RIGHT, base));
        svg.path(&format!("hill {class}"), &points, true);
        svg.line("grid", (LEFT, base), (WIDTH - RIGHT, base));
        svg.text("label", (LEFT - 8.0, base - 3.0), Anchor::End, &measurement.cell);
        let [half, most] = [0.5, 0.99].map(|part| histogram.percentile(part).unwrap_or_default());
        for (value, class) in [(half, "median"), (most, "tail")] {
            svg.line(class, (axis.place(value), base - 11.0), (axis.place(value), base));
        }
        svg.text("value", (WIDTH - RIGHT + 8.0, base - 11.0), Anchor::Start, quantity(half, "ns"));
        svg.text("tick", (WIDTH - RIGHT + 8.0, base + 1.0), Anchor::Start, quantity(most, "ns"));
    }
    Some(svg.finish(&format!("{}: distribution of single events", figure.first.title)))
}

/// Whether this cell has the least or the most services of its peer.
fn is_end(figure: &Figure<'_>, measurement: &Measurement) -> bool {
    let numbers: Vec<_> = figure
        .cells
        .iter()
        .filter(|(other, _)| other.cell.peer == measurement.cell.peer)
        .map(|(other, _)| other.cell.services)
        .collect();
    let own = measurement.cell.services;
    numbers.iter().min() == Some(&own) || numbers.iter().max() == Some(&own)
}

/// How many of the events fall on each place of the axis, smoothed over its neighbours.
fn density(histogram: &Histogram, axis: &Axis) -> Vec<(f64, f64)> {
    const STEP: f64 = 2.0;
    const REACH: usize = 3;
    let steps = ((WIDTH - RIGHT - LEFT) / STEP) as usize;
    let mut events = vec![0.0; steps];
    let all = histogram.events() as f64;
    for (from, to, number) in histogram.buckets() {
        // A bucket's events lie anywhere in it.
        let (first, last) = (axis.place(from.max(1) as f64), axis.place(to as f64));
        let width = (last - first).max(STEP / 2.0);
        let mut at = first;
        while at < first + width {
            let place = ((at - LEFT) / STEP) as usize;
            let next = (LEFT + (place + 1) as f64 * STEP).min(first + width).max(at + 1e-6);
            if let Some(sum) = events.get_mut(place) {
                *sum += number as f64 / all * (next - at) / width;
            }
            at = next;
        }
    }
    let smooth = |place: usize| {
        let mut sum = (0.0, 0.0);
        let first = place.saturating_sub(REACH);
        for (other, events) in (first..).zip(&events[first..=(place + REACH).min(steps - 1)]) {
            let weight = (REACH + 1 - other.abs_diff(place)) as f64;
            sum = (sum.0 + weight * events, sum.1 + weight);
        }
        sum.0 / sum.1
    };
    (0..steps).map(|place| (LEFT + (place as f64 + 0.5) * STEP, smooth(place))).collect()
}
