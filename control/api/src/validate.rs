//! Validation that several kinds share; what one kind alone needs stands with the kind in [`crate::registry`].

pub mod metadata;
pub mod names;

use serde_json::Value;

use crate::status::FieldError;

/// What upstream says of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";
/// What upstream says of a number below zero.
pub const NON_NEGATIVE: &str = "must be greater than or equal to 0";
/// What upstream says of a text that is no IP address.
pub const MUST_BE_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// What upstream says of a port out of range.
pub const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// A place in an object and the list that errors about it go to.
#[derive(Debug)]
pub struct Check<'e> {
    errors: &'e mut Vec<FieldError>,
    path: String,
}

impl<'e> Check<'e> {
    /// At a path such as `spec`.
    pub fn new(errors: &'e mut Vec<FieldError>, path: &str) -> Self {
        Self { errors, path: path.to_owned() }
    }

    /// At a field of this place.
    pub fn field(&mut self, name: &str) -> Check<'_> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Check { errors: self.errors, path }
    }

    /// At an item of this list.
    pub fn index(&mut self, index: usize) -> Check<'_> {
        Check { path: format!("{}[{index}]", self.path), errors: self.errors }
    }

    /// At an entry of this map.
    pub fn key(&mut self, key: &str) -> Check<'_> {
        Check { path: format!("{}[{key}]", self.path), errors: self.errors }
    }

    /// The value is not allowed.
    pub fn invalid(&mut self, value: impl Into<Value>, why: &str) {
        self.errors.push(FieldError::invalid(self.path.clone(), value, why));
    }

    /// The value must be there.
    pub fn required(&mut self, why: &str) {
        self.errors.push(FieldError::required(self.path.clone(), why));
    }

    /// The value is there twice.
    pub fn duplicate(&mut self, value: impl Into<Value>) {
        self.errors.push(FieldError::duplicate(self.path.clone(), value));
    }

    /// The value may not be there.
    pub fn forbidden(&mut self, why: &str) {
        self.errors.push(FieldError::forbidden(self.path.clone(), why));
    }

    /// The value names something that is not there.
    pub fn not_found(&mut self, value: impl Into<Value>) {
        self.errors.push(FieldError::not_found(self.path.clone(), value));
    }

    /// The value is longer than this many bytes.
    pub fn too_long(&mut self, max: usize) {
        self.errors.push(FieldError::too_long(self.path.clone(), max));
    }

    /// The value is none of these. An absent one counts as the empty text.
    pub fn one_of(&mut self, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.errors.push(FieldError::not_supported(self.path.clone(), value, supported));
        }
    }

    /// What [`names`] found wrong with a text.
    pub fn named(&mut self, value: &str, wrong: Vec<String>) {
        for why in wrong {
            self.invalid(value, &why);
        }
    }

    /// A number, if there is one, may not be below zero.
    pub fn non_negative(&mut self, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_i64).filter(|number| *number < 0) {
            self.invalid(number, NON_NEGATIVE);
        }
    }

    /// An IP address.
    pub fn address(&mut self, text: &str) {
        if text.parse::<std::net::IpAddr>().is_err() {
            self.invalid(text, MUST_BE_IP);
        }
    }

    /// A port number.
    pub fn port(&mut self, number: i64) {
        if !(1..=65535).contains(&number) {
            self.invalid(number, PORT_RANGE);
        }
    }

    /// A field that may not change between two states.
    pub fn immutable(&mut self, new: Option<&Value>, old: Option<&Value>) {
        let present = |value: Option<&Value>| value.cloned().unwrap_or_default();
        if present(new) != present(old) {
            self.invalid(present(new), IMMUTABLE);
        }
    }

    /// A map of labels.
    pub fn labels(&mut self, labels: Option<&Value>) {
        for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
            self.named(key, names::qualified_name(key));
            let value = value.as_str().unwrap_or_default();
            self.named(value, names::label_value(value));
        }
    }

    /// A `metav1.LabelSelector`.
    pub fn label_selector(&mut self, selector: Option<&Value>) {
        let Some(selector) = selector else { return };
        self.field("matchLabels").labels(selector.get("matchLabels"));
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for (index, expression) in expressions.into_iter().flatten().enumerate() {
            let mut list = self.field("matchExpressions");
            let mut here = list.index(index);
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
            let values = expression.get("values").and_then(Value::as_array).map_or(0, Vec::len);
            match text("operator") {
                "In" | "NotIn" if values == 0 => {
                    here.field("values").required("must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    here.field("values")
                        .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => here.field("operator").invalid(other, "not a valid selector operator"),
            }
            here.field("key").named(text("key"), names::qualified_name(text("key")));
        }
    }
}
