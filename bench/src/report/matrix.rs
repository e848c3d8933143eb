//! Everything at a glance: peers down, figures across, the ratio to the reference in each place, coloured by how good
//! that is.

use std::fmt::Write as _;

use super::bars::told;
use super::group::Group;
use super::quantity::{count, ratio};
use super::svg::escape;
use crate::results::{Better, Cell, Measurement, Summary};

/// Of all figures that are held against a cell of this peer; nothing without any.
pub(super) fn draw(groups: &[Group<'_>], reference: &str) -> Option<String> {
    let is_against = |measurement: &Measurement| {
        measurement.reference.as_ref().is_some_and(|cell| cell.peer == reference && *cell != measurement.cell)
    };
    let columns: Vec<_> = groups
        .iter()
        .flat_map(|group| group.figures.iter().map(move |figure| (group, figure)))
        .filter(|(_, figure)| figure.cells.iter().any(|(measurement, _)| is_against(measurement)))
        .collect();
    let mut rows: Vec<&Cell> = Vec::new();
    for (measurement, _) in columns.iter().flat_map(|(_, figure)| &figure.cells) {
        if is_against(measurement) && !rows.contains(&&measurement.cell) {
            rows.push(&measurement.cell);
        }
    }
    if rows.is_empty() {
        return None;
    }
    // By peer, in the order in which they come; within one by number.
    let peers: Vec<&str> = rows.iter().map(|cell| cell.peer.as_str()).collect();
    rows.sort_by_key(|cell| (peers.iter().position(|peer| *peer == cell.peer), cell.services, cell.flows));

    let mut html = String::from("<div class=\"wide\"><table class=\"matrix\"><thead><tr><th></th><th></th>");
    for (group, figure) in &columns {
        let sign = match figure.first.better {
            Better::Higher => "↑",
            Better::Lower => "↓",
        };
        let _ = write!(
            html,
            "<th><a href=\"#{}\">{}</a><small>{} {sign}</small></th>",
            escape(group.workload),
            escape(group.title),
            escape(figure.label())
        );
    }
    html.push_str("</tr></thead><tbody>");
    let mut before = "";
    for cell in rows {
        let peer = if cell.peer == before { "" } else { cell.peer.as_str() };
        let class = if peer.is_empty() { "" } else { " class=\"first\"" };
        before = &cell.peer;
        let number = cell.services.or(cell.flows).map(count).unwrap_or_default();
        let _ = write!(html, "<tr{class}><th>{}</th><td class=\"number\">{number}</td>", escape(peer));
        for (_, figure) in &columns {
            let found = figure.cells.iter().find(|(measurement, _)| measurement.cell == *cell);
            html.push_str(&found.map_or_else(
                || "<td class=\"none\">·</td>".to_owned(),
                |(measurement, summary)| place(measurement, summary),
            ));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    Some(html)
}

fn place(measurement: &Measurement, summary: &Summary) -> String {
    let Some(spread) = summary.ratio else { return "<td class=\"none\">·</td>".to_owned() };
    let good = match measurement.better {
        Better::Higher => spread.median,
        Better::Lower => 1.0 / spread.median.max(1e-9),
    };
    // Half as good, or twice, has the full colour.
    let depth = (good.max(1e-9).log2().abs().min(1.0).powf(0.7) * 100.0).round();
    let side = if good < 1.0 { "worse" } else { "better" };
    let noisy = if summary.is_noisy { " noisy" } else { "" };
    format!(
        "<td class=\"{side}{noisy}\" style=\"--depth:{depth}%\" title=\"{}\">{}{}</td>",
        escape(&told(measurement.cell.to_string(), &measurement.unit, summary)),
        ratio(spread.median),
        if summary.is_noisy { "<sup>~</sup>" } else { "" }
    )
}
