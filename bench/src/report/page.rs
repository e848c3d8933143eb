//! The page as a whole.

use std::fmt::Write as _;

use super::group::{Figure, Group, groups};
use super::quantity::count;
use super::svg::escape;
use super::{bars, lines, matrix, ridges, tables};
use crate::results::Results;

const STYLE: &str = include_str!("page.css");

/// The report, one file.
pub fn html(results: &Results) -> String {
    let groups = groups(results);
    let meta = &results.meta;
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>fairlead bench, {}</title><style>{STYLE}</style></head><body>",
        escape(&meta.started)
    );
    let _ = write!(
        html,
        "<header><h1>fairlead bench</h1><p>{} on {}, {} cores, Linux {}{}</p></header><main>",
        escape(day(&meta.started)),
        escape(&meta.cpu),
        meta.cores,
        escape(meta.kernel.split_whitespace().next().unwrap_or_default()),
        meta.hypervisor.as_ref().map(|kind| format!(", virtual ({})", escape(kind))).unwrap_or_default()
    );
    overview(&mut html, results, &groups);
    for group in &groups {
        section(&mut html, group);
    }
    if !results.skipped.is_empty() {
        let _ = write!(
            html,
            "<section id=\"skipped\"><h2>Not measured</h2>{}</section>",
            tables::skipped(&results.skipped)
        );
    }
    let _ = write!(
        html,
        "<section id=\"meta\"><h2>Where and how</h2>{}</section></main></body></html>",
        tables::meta(meta)
    );
    html
}

/// What to know before reading on, and every ratio in one table.
fn overview(html: &mut String, results: &Results, groups: &[Group<'_>]) {
    let mut notes = Vec::new();
    if results.meta.interrupted {
        notes.push("<b>The run was ended before all rounds were taken.</b>".to_owned());
    }
    let all: usize = groups.iter().flat_map(|group| &group.figures).map(|figure| figure.cells.len()).sum();
    let noisy = groups.iter().flat_map(|group| &group.figures).flat_map(|figure| &figure.cells);
    let noisy = noisy.filter(|(_, summary)| summary.is_noisy).count();
    notes.push(format!(
        "{all} figures, {} rounds each, in random order. A ratio is the median of the rounds' ratios: noise that lasts longer \
         than a round cancels out.",
        results.meta.rounds
    ));
    notes.push(match noisy {
        0 => "No figure's rounds lie too far apart to rely on it.".to_owned(),
        noisy => format!(
            "<span class=\"noise\">~ {noisy} of them are noisy</span>: their rounds are too few or too far apart to rely on; \
             such places are hatched."
        ),
    });
    if !results.skipped.is_empty() {
        notes.push(format!(
            "<a href=\"#skipped\">{} not measured</a>, with the reasons.",
            count(results.skipped.len() as u32)
        ));
    }
    let _ = write!(html, "<section><p class=\"lead\">{}</p>", notes.join(" "));
    let mut references: Vec<&str> = Vec::new();
    for cell in results.measurements.iter().filter_map(|measurement| measurement.reference.as_ref()) {
        if !references.contains(&cell.peer.as_str()) {
            references.push(&cell.peer);
        }
    }
    for reference in references {
        if let Some(table) = matrix::draw(groups, reference) {
            let _ = write!(html, "<h2>Ratio to <em>{}</em></h2>{table}", escape(reference));
        }
    }
    html.push_str("</section>");
}

/// Plots and figures of one workload.
fn section(html: &mut String, group: &Group<'_>) {
    let _ = write!(
        html,
        "<section id=\"{}\"><h2>{}</h2><div class=\"cards\">",
        escape(group.workload),
        escape(group.title)
    );
    // A distribution belongs to the workload; each of its figures carries the same one, or one of them does.
    if let Some(drawn) = group.figures.iter().find_map(ridges::draw) {
        card(html, "distribution of single events", &drawn);
    }
    for figure in &group.figures {
        let label = figure.label();
        if let Some(drawn) = lines::draw(figure) {
            card(html, &against(figure, label), &drawn);
        }
        if let Some(drawn) = bars::draw(figure) {
            card(html, label, &drawn);
        }
    }
    html.push_str("</div>");
    for figure in &group.figures {
        let _ = write!(
            html,
            "<details><summary>{} in numbers</summary><div class=\"wide\">{}</div></details>",
            escape(figure.label()),
            tables::figure(figure)
        );
    }
    html.push_str("</section>");
}

fn against(figure: &Figure<'_>, label: &str) -> String {
    figure.scale().map_or_else(|| label.to_owned(), |scale| format!("{label} against number of {}", scale.name()))
}

fn card(html: &mut String, caption: &str, drawing: &str) {
    let _ = write!(html, "<figure><figcaption>{}</figcaption>{drawing}</figure>", escape(caption));
}

/// The date of an RFC 3339 time.
fn day(started: &str) -> &str {
    started.split('T').next().unwrap_or(started)
}
