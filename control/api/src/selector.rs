//! Label and field selectors, in the text form of URLs and the JSON form of specs.

mod fields;
mod labels;

use std::fmt;

use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::object::Object;
use crate::status::Status;

/// Which objects a list or a watch means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// All must hold.
    pub labels: Vec<Requirement>,
    /// All must hold.
    pub fields: Vec<FieldRequirement>,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
}

/// Set-based operators; equality is a set of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of the values.
    In(Vec<String>),
    /// The label is absent or has none of the values.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// The label is an integer above this one.
    Gt(i64),
    /// The label is an integer below this one.
    Lt(i64),
}

/// One requirement on a selectable field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Where the value is: `["spec", "nodeName"]`.
    pub path: Vec<String>,
    /// The value as text; an absent field counts as empty.
    pub value: String,
    /// True for `=`, false for `!=`.
    pub equal: bool,
}

impl Selector {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// True if nothing is required.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The text form of the label requirements, sorted by key: `app=web,tier in (a,b),!old`.
    pub fn labels_text(&self) -> String {
        let mut sorted: Vec<&Requirement> = self.labels.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        sorted.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// True if the object is meant.
    pub fn matches(&self, object: &Object) -> bool {
        let empty = Map::new();
        let labels = object.labels().unwrap_or(&empty);
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|requirement| requirement.matches(object))
    }

    /// The selector of `labelSelector=` and `fieldSelector=`; a field the kind does not offer is a BadRequest.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Status> {
        Ok(Self { labels: labels::parse(labels)?, fields: fields::parse(kind, fields)? })
    }

    /// A `metav1.LabelSelector` (`matchLabels`, `matchExpressions`). A null or absent one matches nothing (`None`).
    pub fn from_label_selector(json: Option<&Value>) -> Result<Option<Self>, Status> {
        labels::from_json(json)
    }

    /// The plain map of a Service's or ReplicationController's `spec.selector`. An empty map matches nothing (`None`).
    pub fn from_map(map: Option<&Map<String, Value>>) -> Option<Self> {
        let map = map.filter(|map| !map.is_empty())?;
        let labels = map
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.as_str().unwrap_or_default().to_owned()]),
            })
            .collect();
        Some(Self { labels, fields: Vec::new() })
    }
}

impl Requirement {
    /// True if it holds for these labels.
    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        match (&self.operator, value) {
            (Operator::In(values), Some(value)) => values.iter().any(|one| one == value),
            (Operator::In(_), None) => false,
            (Operator::NotIn(values), Some(value)) => values.iter().all(|one| one != value),
            (Operator::NotIn(_) | Operator::DoesNotExist, None) => true,
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, Some(_)) => false,
            (Operator::Gt(bound), value) => value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v > *bound),
            (Operator::Lt(bound), value) => value.and_then(|v| v.parse().ok()).is_some_and(|v: i64| v < *bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) => match &values[..] {
                [one] => write!(f, "{key}={one}"),
                many => write!(f, "{key} in ({})", many.join(",")),
            },
            Operator::NotIn(values) => match &values[..] {
                [one] => write!(f, "{key}!={one}"),
                many => write!(f, "{key} notin ({})", many.join(",")),
            },
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Gt(bound) => write!(f, "{key}>{bound}"),
            Operator::Lt(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

impl FieldRequirement {
    /// True if it holds for this object.
    pub fn matches(&self, object: &Object) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = match object.at(&path) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        (value == self.value) == self.equal
    }
}

#[cfg(test)]
mod tests;
