use super::html;
use crate::results::{Better, Cell, FORMAT, Histogram, Measurement, Meta, Results, Skipped};

/// A run of two peers, one of them with several numbers of services, with a name that would be markup.
fn run() -> Results {
    let mut histogram = Histogram::default();
    (1000..9000).for_each(|time| histogram.record(time));
    let direct = Cell::bare("direct");
    let measurement = |cell: Cell, rounds: [f64; 3]| Measurement {
        workload: "connect".into(),
        figure: "p50".into(),
        title: "connect <latency>".into(),
        unit: "ns".into(),
        better: Better::Lower,
        reference: Some(direct.clone()),
        baseline: None,
        cell,
        rounds: rounds.into(),
        histogram: Some(histogram.clone()),
        failures: 0,
    };
    Results {
        format: FORMAT,
        meta: Meta { started: "2026-01-02T03:04:05Z".into(), rounds: 3, cores: 2, ..Meta::default() },
        measurements: vec![
            measurement(direct.clone(), [38_600.0, 38_700.0, 38_500.0]),
            measurement(Cell::with_services("iptables", 1, 2), [47_600.0, 47_500.0, 47_700.0]),
            measurement(Cell::with_services("iptables", 10_000, 2), [96_000.0, 40_000.0, 150_000.0]),
        ],
        skipped: vec![Skipped { what: "ipvs".into(), reason: "no <ip_vs> in this kernel".into() }],
    }
}

#[test]
fn the_report_needs_no_other_file_and_takes_no_text_for_markup() {
    let html = html(&run());
    for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "src="] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!html.contains("<latency>") && !html.contains("<ip_vs>"));
    assert!(html.contains("no &lt;ip_vs&gt; in this kernel"));
}

#[test]
fn every_element_that_is_opened_is_closed() {
    let html = html(&run());
    for element in
        ["svg", "table", "tbody", "tr", "td", "figure", "section", "div", "details", "text", "rect", "circle"]
    {
        let opened = html.matches(&format!("<{element} ")).count() + html.matches(&format!("<{element}>")).count();
        let closed = html.matches(&format!("</{element}>")).count();
        // Shapes that tell nothing close themselves.
        let selves = if matches!(element, "rect" | "circle") { opened - closed } else { 0 };
        assert_eq!(opened, closed + selves, "{element}");
    }
}

#[test]
fn a_figure_whose_rounds_lie_apart_is_marked_and_the_others_are_not() {
    let html = html(&run());
    let marks = html.matches("<span class=\"noise\">noisy</span>").count();
    assert_eq!(marks, 1);
    assert!(html.contains("~ 1 of them are noisy"));
    // 47.6 to 38.6, in the overview and beside the bar.
    assert!(html.matches("×1.23").count() >= 3, "the ratio is told");
}

#[test]
fn all_kinds_of_plots_are_drawn_for_what_has_them() {
    let html = html(&run());
    assert!(html.contains("distribution of single events") && html.contains("class=\"hill"));
    assert!(html.contains("p50 against number of services") && html.contains("class=\"stroke"));
    assert!(html.contains("class=\"one\"") && html.contains("class=\"whisker\""));
    assert!(html.contains("class=\"matrix\""));
}
