//! What we hold ourselves to, looked up in a run: `fairlead bench targets` prints it as the table of `docs/benchmarks.md`.
//!
//! A target is met or not by the median; the spread of the rounds stands beside it. One that a run did not measure says so.

use std::fmt::{Display, Formatter};

use crate::report::quantity;
use crate::results::{Measurement, Results, Spread};

/// Not more, or not less.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What of a measurement counts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// The ratio to its reference.
    Ratio,
    /// The figure itself.
    Value,
    /// The ratio of figures of the last cell to those of the first, round by round, divided by this.
    Growth(f64),
    /// The ratio of this figure to another one of the same cell.
    Over(&'static str),
}

/// One target.
#[derive(Clone, Copy, Debug)]
struct Target {
    what: &'static str,
    workloads: &'static [&'static str],
    figure: &'static str,
    peers: &'static [&'static str],
    /// Services or flows; empty: any.
    numbers: &'static [u32],
    part: Part,
    bound: Bound,
}

const SOCKET: &[&str] = &["fairlead-socket"];
const PACKET: &[&str] = &["fairlead-packet"];
const EITHER: &[&str] = &["fairlead-socket", "fairlead-packet"];
const XDP: &[&str] = &["xdp_service"];
const TC: &[&str] = &["tc_uplink_in", "tc_from_pod"];
const OURS: &[&str] = &["fairlead"];
const WIDE: &[&str] = &["fairlead, 10 endpoints each"];
const MEBIBYTE: f64 = 1_048_576.0;

/// Name, then which figure of which cells, then how far.
const TARGETS: [Target; 32] = [
    of("XDP, flow known, 1 flow", &["program-hit"], "", XDP, &[1], Part::Ratio, Bound::AtMost(1.15)),
    of("tc, flow known, 1 flow", &["program-hit"], "", TC, &[1], Part::Ratio, Bound::AtMost(1.15)),
    of("XDP, flow known, 1M flows", &["program-hit"], "", XDP, &[1 << 20], Part::Ratio, Bound::AtMost(1.15)),
    of("tc, flow known, 1M flows", &["program-hit"], "", TC, &[1 << 20], Part::Ratio, Bound::AtMost(1.15)),
    of("XDP, each packet a new flow", &["program-new"], "", XDP, &[], Part::Ratio, Bound::AtMost(1.10)),
    of("tc, each packet a new flow", &["program-new"], "", TC, &[], Part::Ratio, Bound::AtMost(1.10)),
    of(
        "new connections, 10,000 services over 1",
        &["connect-rate"],
        "",
        SOCKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtLeast(0.98),
    ),
    of(
        "new connections, 10,000 services over 1",
        &["connect-rate"],
        "",
        PACKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtLeast(0.98),
    ),
    of(
        "connect p50, 10,000 services over 1",
        &["connect-time"],
        "p50",
        SOCKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtMost(1.02),
    ),
    of(
        "connect p50, 10,000 services over 1",
        &["connect-time"],
        "p50",
        PACKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtMost(1.02),
    ),
    of(
        "request p50, 10,000 services over 1",
        &["exchange"],
        "p50",
        PACKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtMost(1.02),
    ),
    of(
        "UDP, one flow, 10,000 services over 1",
        &["udp-held"],
        "",
        PACKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtLeast(0.98),
    ),
    of(
        "UDP, new flows, 10,000 services over 1",
        &["udp-new"],
        "",
        PACKET,
        &[1, 10_000],
        Part::Growth(1.0),
        Bound::AtLeast(0.98),
    ),
    of("new connections, sockets", &["connect-rate"], "", SOCKET, &[1, 10_000], Part::Ratio, Bound::AtLeast(0.98)),
    of("new connections, packets", &["connect-rate"], "", PACKET, &[1, 10_000], Part::Ratio, Bound::AtLeast(0.93)),
    of("connect p50, sockets", &["connect-time"], "p50", SOCKET, &[1, 10_000], Part::Ratio, Bound::AtMost(1.03)),
    of("connect p50, packets", &["connect-time"], "p50", PACKET, &[1, 10_000], Part::Ratio, Bound::AtMost(1.10)),
    of("request p50", &["exchange"], "p50", EITHER, &[1, 10_000], Part::Ratio, Bound::AtMost(1.03)),
    of("UDP, one flow", &["udp-held"], "", PACKET, &[1, 10_000], Part::Ratio, Bound::AtLeast(0.95)),
    of("UDP, each packet a new flow", &["udp-new"], "", PACKET, &[1, 10_000], Part::Ratio, Bound::AtLeast(0.80)),
    of(
        "connect hook",
        &["connect-hook"],
        "",
        &["fairlead", "fairlead, no service"],
        &[],
        Part::Ratio,
        Bound::AtMost(1.2),
    ),
    of(
        "one TCP stream, everything attached",
        &["stream"],
        "",
        &["fairlead-direct", "fairlead-packet"],
        &[],
        Part::Ratio,
        Bound::AtLeast(0.97),
    ),
    of("XDP service path over veth", &["xdp-forward"], "", &["fairlead-xdp"], &[], Part::Ratio, Bound::AtMost(0.30)),
    of("one endpoint changed", &["change-one"], "p50", OURS, &[], Part::Value, Bound::AtMost(50_000.0)),
    of(
        "one endpoint changed, 100,000 services over 1,000",
        &["change-one"],
        "p50",
        OURS,
        &[1000, 100_000],
        Part::Growth(1.0),
        Bound::AtMost(1.10),
    ),
    of(
        "all of 10,000 services, in the kernel",
        &["change-all"],
        "in the kernel",
        OURS,
        &[10_000],
        Part::Value,
        Bound::AtMost(30e6),
    ),
    of(
        "all services, 100,000 over ten times 10,000",
        &["change-all"],
        "in the kernel",
        OURS,
        &[10_000, 100_000],
        Part::Growth(10.0),
        Bound::AtMost(1.15),
    ),
    of("a slice patched, until traffic moves", &["change-patch"], "p50", OURS, &[], Part::Value, Bound::AtMost(3e6)),
    of(
        "… and what the node computes for it",
        &["change-patch"],
        "cpu of the node",
        OURS,
        &[],
        Part::Value,
        Bound::AtMost(2e5),
    ),
    of(
        "daemon, 10,000 services × 10 endpoints",
        &["memory"],
        "resident",
        WIDE,
        &[10_000],
        Part::Value,
        Bound::AtMost(40.0 * MEBIBYTE),
    ),
    of(
        "its tables over their entries",
        &["memory"],
        "tables",
        WIDE,
        &[10_000],
        Part::Over("entries of the tables"),
        Bound::AtMost(2.0),
    ),
    of(
        "tables over their entries",
        &["memory"],
        "tables",
        &["fairlead, 2 endpoints each"],
        &[],
        Part::Over("entries of the tables"),
        Bound::AtMost(2.0),
    ),
];

const fn of(
    what: &'static str,
    workloads: &'static [&'static str],
    figure: &'static str,
    peers: &'static [&'static str],
    numbers: &'static [u32],
    part: Part,
    bound: Bound,
) -> Target {
    Target { what, workloads, figure, peers, numbers, part, bound }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What is held to something.
    pub what: String,
    /// Of which cell.
    pub cell: String,
    /// To what.
    pub target: String,
    /// What it came to; nothing if it was not measured.
    pub found: Option<Found>,
    /// What to run to see it.
    pub command: String,
}

/// What a target came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The median.
    pub median: String,
    /// The middle half of the rounds.
    pub spread: String,
    /// As it should be.
    pub holds: bool,
}

/// All targets, each with what the run says.
pub fn lines(results: &Results) -> Vec<Line> {
    TARGETS.iter().flat_map(|target| target.lines(results)).collect()
}

/// The table, as Markdown.
#[derive(Debug)]
pub struct Table(pub Vec<Line>);

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "| what | of | target | measured | middle half | | command |\n|---|---|---|---|---|---|---|")?;
        for line in &self.0 {
            let (median, spread, verdict) = match &line.found {
                Some(found) => {
                    (found.median.as_str(), found.spread.as_str(), if found.holds { "holds" } else { "**misses**" })
                }
                None => ("", "", "not measured"),
            };
            let Line { what, cell, target, command, .. } = line;
            writeln!(f, "| {what} | {cell} | {target} | {median} | {spread} | {verdict} | `{command}` |")?;
        }
        Ok(())
    }
}

impl Target {
    fn lines(&self, results: &Results) -> Vec<Line> {
        let found = self.found(results);
        let command = format!("fairlead bench --workloads {}", self.workloads.join(","));
        let line = |cell, found| Line {
            what: self.what.to_owned(),
            cell,
            target: self.told(),
            found,
            command: command.clone(),
        };
        if found.is_empty() {
            return vec![line(self.peers.join(", "), None)];
        }
        let lines = found.into_iter().map(|(cell, spread, unit)| {
            let show = |value: f64| unit.as_ref().map_or_else(|| format!("{value:.2}"), |unit| quantity(value, unit));
            let holds = match self.bound {
                Bound::AtMost(most) => spread.median <= most,
                Bound::AtLeast(least) => spread.median >= least,
            };
            let spread_told = format!("{} – {}", show(spread.low), show(spread.high));
            line(cell, Some(Found { median: show(spread.median), spread: spread_told, holds }))
        });
        lines.collect()
    }

    fn told(&self) -> String {
        let unit = match (self.part, self.workloads) {
            (Part::Value, ["memory", ..]) => Some("B"),
            (Part::Value, _) => Some("ns"),
            _ => None,
        };
        let show = |value: f64| unit.map_or_else(|| format!("{value:.2}"), |unit| quantity(value, unit));
        match self.bound {
            Bound::AtMost(most) => format!("≤ {}", show(most)),
            Bound::AtLeast(least) => format!("≥ {}", show(least)),
        }
    }

    /// Cells, what they came to, and its unit unless it is a ratio.
    fn found(&self, results: &Results) -> Vec<(String, Spread, Option<String>)> {
        let cells: Vec<&Measurement> =
            results.measurements.iter().filter(|measurement| self.is_of(measurement)).collect();
        match self.part {
            Part::Growth(by) => {
                let at =
                    |number: &u32| cells.iter().find(|measurement| measurement.cell.services == Some(*number)).copied();
                let ends = self.numbers.first().and_then(at).zip(self.numbers.last().and_then(at));
                let grown = ends.and_then(|(first, last)| {
                    let ratios: Vec<f64> = first.rounds.iter().zip(&last.rounds).map(|(a, b)| b / a / by).collect();
                    Some((last.cell.peer.clone(), Spread::new(&ratios)?, None))
                });
                grown.into_iter().collect()
            }
            Part::Ratio => {
                let ratio = |measurement: &&Measurement| {
                    Some((measurement.cell.to_string(), results.summary(measurement).ratio?, None))
                };
                cells.iter().filter_map(ratio).collect()
            }
            Part::Value => {
                let value = |measurement: &&Measurement| {
                    let unit = Some(measurement.unit.clone());
                    Some((measurement.cell.to_string(), results.summary(measurement).value?, unit))
                };
                cells.iter().filter_map(value).collect()
            }
            Part::Over(other) => {
                let over = |measurement: &&Measurement| {
                    let of = |of: &&Measurement| {
                        of.workload == measurement.workload && of.figure == other && of.cell == measurement.cell
                    };
                    let other = results.measurements.iter().find(of)?;
                    let ratios: Vec<f64> = measurement.rounds.iter().zip(&other.rounds).map(|(a, b)| a / b).collect();
                    Some((measurement.cell.to_string(), Spread::new(&ratios)?, None))
                };
                cells.iter().filter_map(over).collect()
            }
        }
    }

    fn is_of(&self, measurement: &Measurement) -> bool {
        let cell = &measurement.cell;
        let number = cell.services.or(cell.flows);
        self.workloads.contains(&measurement.workload.as_str())
            && measurement.figure == self.figure
            && self.peers.contains(&cell.peer.as_str())
            && (self.numbers.is_empty() || number.is_none_or(|number| self.numbers.contains(&number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Better, Cell, FORMAT, Meta};

    fn measurement(workload: &str, figure: &str, cell: Cell, rounds: [f64; 3]) -> Measurement {
        Measurement {
            workload: workload.into(),
            figure: figure.into(),
            title: workload.into(),
            unit: "ns".into(),
            better: Better::Lower,
            cell,
            reference: None,
            baseline: None,
            rounds: rounds.into(),
            histogram: None,
            failures: 0,
        }
    }

    #[test]
    fn a_run_says_what_holds_what_misses_and_what_it_did_not_measure() {
        let cell = |services| Cell::with_services("fairlead", services, 2);
        let measurements = vec![
            measurement("change-one", "p50", cell(1000), [20_000.0, 20_000.0, 20_000.0]),
            measurement("change-one", "p50", cell(100_000), [30_000.0, 31_000.0, 29_000.0]),
        ];
        let results = Results { format: FORMAT, meta: Meta::default(), measurements, skipped: Vec::new() };
        let lines = lines(&results);
        let of = |what: &str| lines.iter().filter(|line| line.what == what).collect::<Vec<_>>();
        let one = of("one endpoint changed");
        assert_eq!(one.len(), 2);
        assert!(
            one.iter().all(|line| line.found.as_ref().is_some_and(|found| found.holds) && line.target == "≤ 50 µs")
        );
        let growth = of("one endpoint changed, 100,000 services over 1,000")[0].found.clone().unwrap();
        assert_eq!((growth.median.as_str(), growth.spread.as_str(), growth.holds), ("1.50", "1.48 – 1.52", false));
        assert!(of("connect hook")[0].found.is_none());
        let table = Table(lines).to_string();
        assert!(table.contains("**misses**") && table.contains("not measured") && table.contains("holds"));
    }

    #[test]
    fn every_workload_that_targets_name_exists() {
        let known: Vec<&str> = crate::workload::all().iter().map(|workload| workload.name()).collect();
        for target in TARGETS {
            assert!(target.workloads.iter().all(|name| known.contains(name)), "{target:?}");
        }
    }
}
