//! Figures with their units, as short as they can be told apart.

/// A figure in a unit that suits its size: 38.6 µs rather than 38600 ns.
pub fn quantity(value: f64, unit: &str) -> String {
    let steps: &[(f64, &str)] = match unit {
        "ns" => &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")],
        "us" | "µs" => &[(1e6, "s"), (1e3, "ms"), (1.0, "µs"), (1e-3, "ns")],
        "ms" => &[(1e3, "s"), (1.0, "ms"), (1e-3, "µs"), (1e-6, "ns")],
        "B" | "bytes" => &[(1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
        _ => return with_prefix(value, unit),
    };
    let (size, name) = step(value, steps);
    format!("{} {name}", digits(value / size))
}

/// The largest step that a figure reaches, else the smallest.
fn step<'a>(value: f64, steps: &[(f64, &'a str)]) -> (f64, &'a str) {
    // What would be shown as 1000 of one step is 1 of the next.
    let reaches = |(size, _): &&(f64, &str)| value.abs() >= size * 0.9995;
    *steps.iter().find(reaches).unwrap_or(&steps[steps.len() - 1])
}

fn with_prefix(value: f64, unit: &str) -> String {
    let (size, prefix) = match step(value, &[(1e9, "G"), (1e6, "M"), (1e4, "k"), (1.0, "")]) {
        // Four digits are still read at a glance.
        (1e4, _) => (1e3, "k"),
        other => other,
    };
    // "Gbit/s" has its prefix already.
    let (size, prefix) = if unit.starts_with(['G', 'M', '%']) { (1.0, "") } else { (size, prefix) };
    format!("{}{prefix}{}{unit}", digits(value / size), if unit.is_empty() || unit == "%" { "" } else { " " })
}

/// Three digits that count.
pub(super) fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if !(1e-9..99.95).contains(&size) => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') && value.fract() == 0.0 { format!("{value:.0}") } else { text }
}

/// A figure of an axis: no more digits than it takes.
pub(super) fn tick(value: f64) -> String {
    let text = digits(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A number of services or flows: 10k rather than 10000.
pub(super) fn count(number: u32) -> String {
    match number {
        0..1000 => number.to_string(),
        1000..1_000_000 if number.is_multiple_of(1000) => format!("{}k", number / 1000),
        // Powers of two are told in those.
        1024..1_048_576 if number.is_multiple_of(1024) => format!("{}Ki", number / 1024),
        1_048_576.. if number.is_multiple_of(1_048_576) => format!("{}Mi", number / 1_048_576),
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{}M", number / 1_000_000),
        _ => number.to_string(),
    }
}

/// A ratio: two places tell a percent.
pub(super) fn ratio(ratio: f64) -> String {
    if ratio >= 9.995 { format!("×{}", digits(ratio)) } else { format!("×{ratio:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_the_unit_of_their_size() {
        let check = |value, unit, text: &str| assert_eq!(quantity(value, unit), text, "{value} {unit}");
        check(38_600.0, "ns", "38.6 µs");
        check(999.9, "ns", "1.00 µs");
        check(12.0, "ns", "12 ns");
        check(0.25, "us", "250 ns");
        check(37_700.0, "ms", "37.7 s");
        check(15_140.0, "conn/s", "15.1k conn/s");
        check(9_140.0, "conn/s", "9140 conn/s");
        check(2_290_000.0, "pps", "2.29M pps");
        check(11.1, "Gbit/s", "11.1 Gbit/s");
        check(41_943_040.0, "B", "40 MiB");
        check(7.0, "", "7");
        check(0.0, "ns", "0 ns");
    }

    #[test]
    fn counts_and_ratios() {
        assert_eq!([1, 100, 1000, 10_000, 16_384, 1 << 20].map(count), ["1", "100", "1k", "10k", "16Ki", "1Mi"]);
        assert_eq!([0.978, 1.0, 12.34].map(ratio), ["×0.98", "×1.00", "×12.3"]);
    }
}
