//! The query string.

use fairlead_api::Status;
use percent_encoding::percent_decode_str;

/// Decoded parameters, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a parameter, or the empty string.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `true`, `1`, or the parameter without a value.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        values.next().is_some_and(|(_, value)| !matches!(value.as_str(), "false" | "0"))
    }

    /// A number, or a BadRequest that names the parameter.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("invalid value {text:?} of the query parameter {name}: not a number"))
            }),
        }
    }
}
