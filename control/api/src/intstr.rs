//! Fields that take a number or a text: ports by name, shares as a percentage.

use serde_json::Value;

/// `8080`, `"http"`, `"25%"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A text.
    String(String),
}

impl IntOrString {
    /// The value of a JSON number or string; `None` for anything else.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().map(Self::Int),
            Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    /// The percentage of a text such as `25%`.
    pub fn percent(&self) -> Option<i64> {
        match self {
            Self::Int(_) => None,
            Self::String(text) => {
                let digits = text.strip_suffix('%')?;
                (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
            }
        }
    }

    /// The number, or the percentage of `total` rounded up or down. `None` for any other text.
    ///
    /// A rolling update rounds `maxSurge` up and `maxUnavailable` down.
    pub fn scaled(&self, total: i64, round_up: bool) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::String(_) => {
                let product = self.percent()?.checked_mul(total)?;
                Some(if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let text = |t: &str| IntOrString::String(t.to_owned());
        for (value, total, up, down) in [
            (text("25%"), 3, Some(1), Some(0)),
            (text("25%"), 4, Some(1), Some(1)),
            (text("100%"), 7, Some(7), Some(7)),
            (text("0%"), 7, Some(0), Some(0)),
            (IntOrString::Int(2), 7, Some(2), Some(2)),
            (text("http"), 7, None, None),
            (text("%"), 7, None, None),
            (text("-5%"), 7, None, None),
        ] {
            assert_eq!(value.scaled(total, true), up, "{value:?}");
            assert_eq!(value.scaled(total, false), down, "{value:?}");
        }
    }
}
