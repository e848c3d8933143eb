//! Ratios to the reference: a bar to the median, a box over the middle half of the rounds, whiskers to the ends.

use super::axis::Axis;
use super::group::{Figure, colour};
use super::quantity::{count, quantity, ratio};
use super::svg::{Anchor, Svg};
use crate::results::{Better, Spread, Summary};

const WIDTH: f64 = 560.0;
const LEFT: f64 = 128.0;
const RIGHT: f64 = 92.0;
const TOP: f64 = 22.0;
const BAR: f64 = 13.0;
const GAP: f64 = 9.0;

/// Bars of all cells that have a reference; nothing if none has.
pub(super) fn draw(figure: &Figure<'_>) -> Option<String> {
    let rows: Vec<_> = figure
        .cells
        .iter()
        .filter(|(measurement, _)| measurement.reference.as_ref().is_some_and(|cell| *cell != measurement.cell))
        .filter_map(|(measurement, summary)| Some((*measurement, *summary, summary.ratio?)))
        .collect();
    let reference = rows.first()?.0.reference.as_ref()?;
    let peers = rows.iter().map(|(measurement, ..)| &measurement.cell.peer);
    let changes = peers.clone().zip(peers.skip(1)).filter(|(a, b)| a != b).count();
    let height = TOP + rows.len() as f64 * BAR + (changes + 1) as f64 * GAP + 26.0;
    let mut svg = Svg::new(WIDTH, height);

    let highest = rows.iter().map(|(.., spread)| spread.high).fold(1.0, f64::max);
    let lowest = rows.iter().map(|(.., spread)| spread.low).fold(1.0, f64::min);
    let is_log = highest > 8.0 && lowest > 0.0;
    let (from, to) = (LEFT, WIDTH - RIGHT);
    let axis = if is_log { Axis::log(lowest.min(0.8), highest, from, to) } else { Axis::linear(highest, from, to) };
    let foot = height - 22.0;
    for tick in axis.ticks(6) {
        let x = axis.place(tick);
        svg.line("grid", (x, TOP - 4.0), (x, foot));
        svg.text("tick", (x, foot + 14.0), Anchor::Middle, format!("×{}", super::quantity::tick(tick)));
    }
    let better = match figure.first.better {
        Better::Higher => "longer is better →",
        Better::Lower => "← shorter is better",
    };
    svg.text("tick", (LEFT, 11.0), Anchor::Start, format!("ratio to {reference}; {better}"));

    let mut y = TOP + GAP / 2.0;
    let mut before: Option<&str> = None;
    for (measurement, summary, spread) in &rows {
        let cell = &measurement.cell;
        if before != Some(cell.peer.as_str()) {
            if before.is_some() {
                y += GAP;
            }
            svg.text("label", (LEFT - 30.0, y + BAR - 3.0), Anchor::End, &cell.peer);
            before = Some(&cell.peer);
        }
        if let Some(number) = cell.services.or(cell.flows) {
            svg.text("tick", (LEFT - 5.0, y + BAR - 3.0), Anchor::End, count(number));
        }
        bar(
            &mut svg,
            &axis,
            y,
            &colour(&cell.peer),
            spread,
            &told(measurement.cell.to_string(), &measurement.unit, summary),
        );
        let mark = if summary.is_noisy { " ~" } else { "" };
        let text = format!("{}{mark}", ratio(spread.median));
        svg.text("value", (WIDTH - RIGHT + 8.0, y + BAR - 3.0), Anchor::Start, text);
        if measurement.failures > 0 {
            svg.text("bad", (WIDTH - 4.0, y + BAR - 3.0), Anchor::End, "lost!");
        }
        y += BAR;
    }
    let one = axis.place(1.0);
    svg.line("one", (one, TOP - 4.0), (one, foot));
    Some(svg.finish(&format!("{}: ratio to {reference}", figure.first.title)))
}

fn bar(svg: &mut Svg, axis: &Axis, y: f64, class: &str, spread: &Spread, told: &str) {
    let [low, median, high, min, max] =
        [spread.low, spread.median, spread.high, spread.min, spread.max].map(|value| axis.place(value));
    let middle = y + (BAR - 2.0) / 2.0;
    svg.rect(&format!("fill {class}"), (LEFT, y), (median - LEFT, BAR - 2.0), told);
    svg.rect("box", (low, y + 2.0), ((high - low).max(1.0), BAR - 6.0), told);
    svg.line("whisker", (min, middle), (max, middle));
    svg.line("median", (median, y), (median, y + BAR - 2.0));
}

/// What a mark says when it is pointed at.
pub(super) fn told(what: String, unit: &str, summary: &Summary) -> String {
    let mut text = what;
    if let Some(value) = summary.value {
        text += &format!(
            "\nmedian {}, middle half {} – {}",
            quantity(value.median, unit),
            quantity(value.low, unit),
            quantity(value.high, unit)
        );
    }
    if let Some(spread) = summary.ratio {
        text +=
            &format!("\nratio {}, middle half {} – {}", ratio(spread.median), ratio(spread.low), ratio(spread.high));
    }
    if summary.is_noisy {
        text += "\nnoisy: rounds too few or too far apart";
    }
    text
}
