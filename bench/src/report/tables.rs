//! The same in numbers: every cell of a figure, what was not measured, and where and how the run was made.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::group::{Figure, colour};
use super::quantity::{count, quantity, ratio};
use super::svg::escape;
use crate::results::{Meta, Skipped};

/// Every cell of a figure.
pub(super) fn figure(figure: &Figure<'_>) -> String {
    let mut html = String::from(
        "<table class=\"figures\"><thead><tr><th>what</th><th>median</th><th>middle half</th><th>ratio</th>\
         <th>middle half</th><th>rounds</th><th></th></tr></thead><tbody>",
    );
    for (measurement, summary) in &figure.cells {
        let unit = measurement.unit.as_str();
        let cell = &measurement.cell;
        let number = cell
            .services
            .map(|number| format!("{} services", count(number)))
            .or_else(|| Some(format!("{} flows", count(cell.flows?))));
        let value = summary.value.map_or_else(
            || "<td></td><td></td>".to_owned(),
            |value| {
                format!(
                    "<td>{}</td><td class=\"dim\">{} – {}</td>",
                    quantity(value.median, unit),
                    quantity(value.low, unit),
                    quantity(value.high, unit)
                )
            },
        );
        let against = summary.ratio.map_or_else(
            || "<td></td><td></td>".to_owned(),
            |spread| {
                format!(
                    "<td>{}</td><td class=\"dim\">{} – {}</td>",
                    ratio(spread.median),
                    ratio(spread.low),
                    ratio(spread.high)
                )
            },
        );
        let mut remarks = Vec::new();
        if summary.is_noisy {
            remarks.push("<span class=\"noise\">noisy</span>".to_owned());
        }
        if measurement.failures > 0 {
            remarks.push(format!("<span class=\"fail\">{} failed</span>", measurement.failures));
        }
        let _ = write!(
            html,
            "<tr><td><i class=\"swatch {}\"></i>{} <span class=\"dim\">{}</span></td>{value}{against}<td class=\"dim\">{}</td><td>{}</td></tr>",
            colour(&cell.peer),
            escape(&cell.peer),
            number.unwrap_or_default(),
            measurement.rounds.len(),
            remarks.join(" ")
        );
    }
    html.push_str("</tbody></table>");
    html
}

/// What was asked for and not measured.
pub(super) fn skipped(skipped: &[Skipped]) -> String {
    let mut html = String::from("<table class=\"pairs\"><tbody>");
    for Skipped { what, reason } in skipped {
        let _ = write!(html, "<tr><th>{}</th><td>{}</td></tr>", escape(what), escape(reason));
    }
    html.push_str("</tbody></table>");
    html
}

/// Where and how the run was made.
pub(super) fn meta(meta: &Meta) -> String {
    let load = |[one, five, fifteen]: [f64; 3]| format!("{one:.2} {five:.2} {fifteen:.2}");
    let machine = [
        ("kernel", meta.kernel.clone()),
        ("processor", format!("{}, {} online", meta.cpu, meta.cores)),
        ("virtual machine", meta.hypervisor.clone().unwrap_or_else(|| "none seen".to_owned())),
        ("load before", load(meta.load[0])),
        ("load after", load(meta.load[1])),
    ];
    let method = [
        ("began", meta.started.clone()),
        ("took", quantity(meta.took_seconds * 1e9, "ns")),
        ("rounds", meta.rounds.to_string()),
        ("length of a sample", quantity(meta.sample_seconds * 1e9, "ns")),
        ("seed of the order", meta.seed.to_string()),
    ];
    let own =
        |pairs: &[(&str, String)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let map = |pairs: &BTreeMap<String, String>| pairs.clone().into_iter().collect();
    let parts: [(&str, Vec<(String, String)>); 6] = [
        ("Machine", own(&machine)),
        ("Method", own(&method)),
        ("Options", map(&meta.options)),
        ("Versions", map(&meta.versions)),
        ("Settings", map(&meta.settings)),
        ("Mitigations", map(&meta.mitigations)),
    ];
    let mut html = String::from("<div class=\"cards\">");
    for (title, pairs) in parts.iter().filter(|(_, pairs)| !pairs.is_empty()) {
        let _ = write!(html, "<figure><figcaption>{title}</figcaption><table class=\"pairs\"><tbody>");
        for (name, value) in pairs {
            let _ = write!(html, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
        }
        html.push_str("</tbody></table></figure>");
    }
    html.push_str("</div>");
    html
}
