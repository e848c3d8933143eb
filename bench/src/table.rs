//! Results for the terminal: one table per workload, a row per cell, for each figure its median, its ratio to the
//! reference and how far rounds lie apart.

use std::fmt::Write;

use crate::results::{Better, Measurement, Results, Summary};

/// Of ours, so that it is found among the others.
const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const PLAIN: &str = "\u{1b}[0m";

/// Ratios that differ by less are equal.
const EQUAL: f64 = 0.01;

/// The whole report.
pub fn render(results: &Results, has_colour: bool) -> String {
    let mut text = String::new();
    let meta = &results.meta;
    let guest = meta.hypervisor.as_ref().map_or_else(String::new, |kind| format!(", virtual ({kind})"));
    let _ =
        writeln!(text, "{} on {}, {} cores{guest}", meta.kernel.split(' ').next().unwrap_or(""), meta.cpu, meta.cores);
    let _ = writeln!(
        text,
        "{} rounds of {:.2} s, seed {}; medians, ± is half of what the middle half of the rounds spans, ~ marks what is too far apart",
        meta.rounds, meta.sample_seconds, meta.seed
    );
    let mut workloads: Vec<&str> = Vec::new();
    for measurement in &results.measurements {
        if !workloads.contains(&measurement.workload.as_str()) {
            workloads.push(&measurement.workload);
        }
    }
    for workload in workloads {
        let all: Vec<&Measurement> =
            results.measurements.iter().filter(|measurement| measurement.workload == workload).collect();
        group(&mut text, results, &all, has_colour);
    }
    if !results.skipped.is_empty() {
        let _ = writeln!(text, "\nNot measured");
        for skipped in &results.skipped {
            let _ = writeln!(text, "  {}: {}", skipped.what, skipped.reason);
        }
    }
    if meta.interrupted {
        let _ = writeln!(text, "\nThe run was interrupted; only complete rounds count.");
    }
    text
}

/// One line of a table.
struct Row {
    cells: Vec<String>,
    is_ours: bool,
}

fn group(text: &mut String, results: &Results, all: &[&Measurement], has_colour: bool) {
    let Some(first) = all.first() else { return };
    let mut figures: Vec<&Measurement> = Vec::new();
    for measurement in all {
        if !figures.iter().any(|known| known.figure == measurement.figure) {
            figures.push(measurement);
        }
    }
    let has_flows = all.iter().any(|measurement| measurement.cell.flows.is_some());
    let mut head = vec!["peer".to_owned(), "services".to_owned()];
    if has_flows {
        head.push("flows".to_owned());
    }
    for figure in &figures {
        let reference = all.iter().find_map(|one| one.reference.as_ref());
        head.push(format!("{} {}", figure.figure, figure.unit).trim().to_owned());
        head.push(reference.map_or_else(String::new, |cell| format!("× {}", cell.peer)));
        head.push("±".to_owned());
    }
    head.push(String::new());
    let mut rows = vec![Row { cells: head, is_ours: false }];
    for measurement in all.iter().filter(|one| one.figure == first.figure) {
        let cell = &measurement.cell;
        let number = |number: Option<u32>| number.map_or_else(String::new, |number| grouped(f64::from(number), 0));
        let mut cells = vec![cell.peer.clone(), number(cell.services)];
        if has_flows {
            cells.push(number(cell.flows));
        }
        let mut notes = Vec::new();
        for figure in &figures {
            let found = all.iter().find(|one| one.figure == figure.figure && one.cell == *cell);
            let Some(found) = found else {
                cells.extend([String::new(), String::new(), String::new()]);
                continue;
            };
            let summary = results.summary(found);
            cells.extend(columns(&summary));
            if found.figure == first.figure {
                notes.extend(behind(results, all, found, &summary));
            }
        }
        if measurement.failures > 0 {
            notes.push(format!("{} failed", grouped(measurement.failures as f64, 0)));
        }
        cells.push(notes.join("; "));
        rows.push(Row { cells, is_ours: is_ours(&cell.peer) });
    }
    let direction = if first.better == Better::Higher { "more is better" } else { "less is better" };
    let _ = writeln!(text, "\n{} [{}], {direction}", first.title, first.workload);
    print(text, &rows, has_colour);
}

fn is_ours(peer: &str) -> bool {
    peer.starts_with("fairlead")
}

/// Median, ratio and spread.
fn columns(summary: &Summary) -> [String; 3] {
    let value = summary.value.map_or_else(String::new, |value| number(value.median));
    let ratio = summary.ratio.map_or_else(String::new, |ratio| format!("{:.3}", ratio.median));
    // As wide either way, so that the figures line up.
    let mark = if summary.is_noisy { " ~" } else { "  " };
    let spread = summary.ratio.or(summary.value);
    [value, ratio, spread.map_or_else(String::new, |spread| format!("{:.1} %{mark}", spread.relative() * 100.0))]
}

/// Who is ahead of a row of ours with as many services, if anybody.
fn behind(results: &Results, all: &[&Measurement], ours: &Measurement, summary: &Summary) -> Option<String> {
    let ratio = summary.ratio?.median;
    if !is_ours(&ours.cell.peer) {
        return None;
    }
    let is_rival = |other: &&&Measurement| {
        other.figure == ours.figure
            && other.cell.services == ours.cell.services
            && !is_ours(&other.cell.peer)
            && other.cell.services.is_some()
    };
    let ratios = all
        .iter()
        .filter(is_rival)
        .filter_map(|other| Some((other.cell.peer.as_str(), results.summary(other).ratio?.median)));
    let is_ahead = |other: f64| match ours.better {
        Better::Higher => other > ratio * (1.0 + EQUAL),
        Better::Lower => other < ratio * (1.0 - EQUAL),
    };
    let best = ratios.filter(|(_, other)| is_ahead(*other)).max_by(|(_, a), (_, b)| match ours.better {
        Better::Higher => a.total_cmp(b),
        Better::Lower => b.total_cmp(a),
    });
    best.map(|(peer, other)| format!("behind {peer} ({other:.2})"))
}

fn print(text: &mut String, rows: &[Row], has_colour: bool) {
    let columns = rows.first().map_or(0, |row| row.cells.len());
    let width = |column: usize| rows.iter().map(|row| row.cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (place, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.cells.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 || column == columns - 1 {
                write!(line, "  {cell:<width$}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        let style = match (has_colour, place, row.is_ours) {
            (true, 0, _) => DIM,
            (true, _, true) => BOLD,
            _ => "",
        };
        let end = if style.is_empty() { "" } else { PLAIN };
        let _ = writeln!(text, "{style}{}{end}", line.trim_end());
    }
}

/// Three digits that count, at least.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    grouped(value, decimals)
}

/// With a comma between thousands.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(a, b)| (a, format!(".{b}")));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Peer;
    use crate::results::{Cell, Meta, Skipped};

    fn measurement(cell: Cell, rounds: &[f64]) -> Measurement {
        Measurement {
            workload: "connect-rate".into(),
            figure: String::new(),
            title: "New connections".into(),
            unit: "conn/s".into(),
            better: Better::Higher,
            cell,
            reference: Some(Cell::bare("direct")),
            baseline: None,
            rounds: rounds.to_vec(),
            histogram: None,
            failures: 0,
        }
    }

    fn results() -> Results {
        let cell = |peer: Peer| Cell::with_services(peer.name(), 1000, 2);
        Results {
            format: crate::results::FORMAT,
            meta: Meta { rounds: 3, ..Meta::default() },
            measurements: vec![
                measurement(Cell::bare("direct"), &[10_000.0, 12_000.0, 11_000.0]),
                measurement(cell(Peer::Nftables), &[9000.0, 10_800.0, 9900.0]),
                measurement(cell(Peer::FairleadPacket), &[8000.0, 9600.0, 8800.0]),
                measurement(cell(Peer::FairleadSocket), &[5000.0, 12_000.0, 15_400.0]),
            ],
            skipped: vec![Skipped { what: "ipvs 1000".into(), reason: "no IPVS here".into() }],
        }
    }

    #[test]
    fn a_row_shows_its_ratio_and_who_is_ahead_of_us() {
        let text = render(&results(), false);
        let row = |peer: &str| text.lines().find(|line| line.trim_start().starts_with(peer)).unwrap().to_owned();
        assert!(row("nftables").contains("0.900") && row("nftables").contains("1,000"));
        assert!(row("fairlead-packet").contains("0.800") && row("fairlead-packet").contains("behind nftables (0.90)"));
        assert!(row("fairlead-socket").contains('~'), "{text}");
        assert!(text.contains("ipvs 1000: no IPVS here"));
    }

    #[test]
    fn columns_line_up() {
        let text = render(&results(), false);
        let ends: Vec<usize> = text
            .lines()
            .filter(|line| line.contains("0.900") || line.contains("0.800") || line.contains("1.000"))
            .map(|line| line.split(" %").next().unwrap().chars().count())
            .collect();
        assert!(ends.len() >= 3 && ends.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }

    #[test]
    fn numbers_have_three_digits_or_more() {
        let shown = [0.1234, 1.2345, 12.345, 123.45, 1234.5, 1_234_567.0, -1234.0].map(number);
        assert_eq!(shown, ["0.123", "1.23", "12.3", "123", "1,234", "1,234,567", "-1,234"]);
    }
}
