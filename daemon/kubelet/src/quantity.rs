//! Kubernetes quantities as numbers: `250m`, `64Mi`, `1.5`, `1e3`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths, rounded up; `None` if it is no quantity.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Numerator and denominator of the suffix, in thousandths of a unit.
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| *power <= 18)?;
            (1_000 * 10_i128.checked_pow(power)?, 1)
        }
    };
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let value = digits.checked_mul(numerator)?;
    let divisor = denominator.checked_mul(scale)?;
    let rounded = (value + divisor - 1) / divisor;
    Some(if negative { -rounded } else { rounded })
}

/// Whole units, rounded up, as for bytes.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from((milli + 999) / 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_every_form() {
        let check = |text: &str, want: Option<i128>| assert_eq!(milli(&Quantity(text.into())), want, "{text}");
        check("250m", Some(250));
        check("1", Some(1_000));
        check("1.5", Some(1_500));
        check("64Mi", Some(64 * 1024 * 1024 * 1000));
        check("1e3", Some(1_000_000));
        check("100n", Some(1));
        check(".5", Some(500));
        check("1Qi", None);
        check("", None);
        assert_eq!(units(&Quantity("1500m".into())), Some(2));
    }
}
