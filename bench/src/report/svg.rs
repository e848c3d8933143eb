//! A drawing that grows element by element. Colours are classes, so that one style sheet decides about light and dark.

use std::fmt::{Display, Write as _};

/// A drawing.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty one.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A line.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.put(format_args!(
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A rectangle; what it stands for shows when it is pointed at.
    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), told: &str) {
        self.put(format_args!(
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"{}"#,
            at.0,
            at.1,
            size.0.max(0.0),
            size.1,
            end("rect", told)
        ));
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, told: &str) {
        self.put(format_args!(
            r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{radius}"{}"#,
            at.0,
            at.1,
            end("circle", told)
        ));
    }

    /// A path through points, closed to an area or not.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], closed: bool) {
        let mut place = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let verb = if number == 0 { 'M' } else { 'L' };
            let _ = write!(place, "{verb}{x:.1} {y:.1}");
        }
        if closed {
            place.push('Z');
        }
        self.put(format_args!(r#"<path class="{class}" d="{place}"/>"#));
    }

    /// A text.
    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: impl Display) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(&text.to_string())
        ));
    }

    /// The drawing, as wide as its place; `told` is for readers who do not see.
    pub(super) fn finish(self, told: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {:.0} {:.0}" role="img" aria-label="{}">{}</svg>"#,
            self.width,
            self.height,
            escape(told),
            self.body
        )
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element);
    }
}

fn end(element: &str, told: &str) -> String {
    if told.is_empty() { "/>".to_owned() } else { format!("><title>{}</title></{element}>", escape(told)) }
}

/// A text that means itself in HTML.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
