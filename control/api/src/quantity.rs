//! Kubernetes quantities: `500m`, `1.5Gi`, `1e3`.
//!
//! A quantity is held exactly, in billionths; finer fractions round up, as upstream does. Printing gives the canonical
//! form, the one that the API stores: `1024Mi` becomes `1Gi`, `0.5` becomes `500m`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde_json::Value;

const NANOS: i128 = 1_000_000_000;
/// The largest magnitude upstream keeps, 2^63-1, in billionths.
const MAX: i128 = i64::MAX as i128 * NANOS;

/// A fixed-point number with the suffix family it was written in. Compares by value alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    family: Family,
}

/// How a quantity was written, and is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Family {
    /// `m`, none, `k`, `M`, ...
    #[default]
    Decimal,
    /// `Ki`, `Mi`, ...
    Binary,
    /// `e3`.
    Exponent,
}

/// A text that is no quantity. The messages are those that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantityError {
    /// Not of the form number, suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// A whole number.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANOS, family: Family::Decimal }
    }

    /// A number of thousandths, as for CPU.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANOS / 1000), family: Family::Decimal }
    }

    /// A number of bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANOS, family: Family::Binary }
    }

    /// The quantity of a JSON string or number.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// Whole units, rounded up: bytes of memory, counts.
    pub fn value(self) -> i64 {
        clamp(div_up(self.nanos, NANOS))
    }

    /// Thousandths, rounded up: millicores of CPU.
    pub fn milli(self) -> i64 {
        clamp(div_up(self.nanos, NANOS / 1000))
    }

    /// True below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// True at zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// True if there is no fraction.
    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || suffix.contains(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '-') {
            return Err(QuantityError::Format);
        }
        let (base, exponent, family) = suffix_of(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = scale(number, base, exponent)?;
        Ok(Self { nanos: if negative { -nanos } else { nanos }, family })
    }
}

/// Base, exponent and family of a suffix.
fn suffix_of(suffix: &str) -> Option<(i128, i32, Family)> {
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((10, *exponent, Family::Decimal));
    }
    if let Some(power) = BINARY.iter().position(|name| !name.is_empty() && *name == suffix) {
        return Some((1024, i32::try_from(power).ok()?, Family::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-1000..=1000).contains(&exponent).then_some((10, exponent, Family::Exponent))
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `number` times `base` to the `exponent`, in billionths, rounded up and capped.
fn scale(number: &str, base: i128, exponent: i32) -> Result<i128, QuantityError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(QuantityError::Number);
    }
    // Digits with the point moved out: the value is digits * 10^-point * base^exponent.
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > 36 {
        return if whole.trim_start_matches('0').len() > 28 {
            Ok(MAX)
        } else {
            scale_long(whole, fraction, base, exponent)
        };
    }
    let digits: i128 = digits.parse().map_err(|_| QuantityError::Number)?;
    let point = i32::try_from(fraction.len()).map_err(|_| QuantityError::Number)?;
    let (digits, ten) = if base == 10 {
        (Some(digits), exponent - point + 9)
    } else {
        (digits.checked_mul(1024i128.pow(exponent.unsigned_abs())), 9 - point)
    };
    let Some(digits) = digits else { return Ok(MAX) };
    let power = 10i128.checked_pow(ten.unsigned_abs());
    let nanos = match (ten >= 0, power) {
        (true, Some(power)) => digits.checked_mul(power).unwrap_or(MAX),
        (true, None) => MAX,
        (false, Some(power)) => div_up(digits, power),
        (false, None) => 1,
    };
    Ok(nanos.min(MAX))
}

/// A number with more digits than fit: the fraction is cut to what can matter, rounding up.
fn scale_long(whole: &str, fraction: &str, base: i128, exponent: i32) -> Result<i128, QuantityError> {
    let short: String = fraction.chars().take(7).collect();
    scale(&format!("{whole}.{short}"), base, exponent).map(|nanos| (nanos + 1).min(MAX))
}

fn div_up(value: i128, by: i128) -> i128 {
    // Away from zero, as upstream rounds.
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [(&str, i32); 10] =
            [("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6), ("n", -9)];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.family == Family::Binary && self.nanos.abs() >= 1024 * NANOS {
            let mut value = div_up(self.nanos, NANOS);
            let mut power = 0;
            while value % 1024 == 0 && power + 1 < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", BINARY[power]);
        }
        for (suffix, exponent) in DECIMAL {
            let unit = 10i128.pow((exponent + 9).unsigned_abs());
            if self.nanos % unit == 0 {
                let value = self.nanos / unit;
                return match self.family {
                    Family::Exponent if exponent != 0 => write!(f, "{value}e{exponent}"),
                    _ => write!(f, "{value}{suffix}"),
                };
            }
        }
        unreachable!("every value is a multiple of a billionth")
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // Zero has no family of its own: a sum that starts at the default prints as its first real term.
        let family = if self.nanos == 0 { other.family } else { self.family };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), family }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { nanos: -other.nanos, family: other.family }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::default(), Add::add)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        let rows = [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512", "512"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1500e-3", "1500e-3"),
            ("128M", "128M"),
            ("1000M", "1G"),
            ("0", "0"),
            ("0Mi", "0"),
            ("-1.5", "-1500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("+3k", "3k"),
            ("100E", "9223372036854775807"),
        ];
        for (text, canonical) in rows {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "abc", "-", "1 Gi", "1_000"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Format), "{text}");
        }
        for text in ["1GB", "1Q", "1kib", "1e"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text}");
        }
        for text in ["1.2.3", "."] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Number), "{text}");
        }
    }

    #[test]
    fn counts_and_compares() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("100m").milli(), 100);
        assert_eq!(parse("1.0005").milli(), 1001);
        assert_eq!(parse("1Gi").value(), 1 << 30);
        assert_eq!(parse("100m").value(), 1);
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!(parse("1"), parse("1000m"));
        assert_eq!(["100m", "0.4", "500m"].into_iter().map(parse).sum::<Quantity>().to_string(), "1");
        assert_eq!((parse("2Gi") - parse("1Gi")).to_string(), "1Gi");
        assert_eq!(Quantity::from_bytes(64 << 20).to_string(), "64Mi");
        assert_eq!(Quantity::from_json(&serde_json::json!(0.1)).map(Quantity::milli), Ok(100));
    }
}
