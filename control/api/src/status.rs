//! Errors as the API shows them: `metav1.Status` with a reason, a code and causes that name fields.
//!
//! Codes and reasons are those of `k8s.io/apimachinery/pkg/api/errors`; clients act on them.

use serde_json::{Value, json};

/// Machine-readable reason of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the API's own")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    RequestEntityTooLarge,
    InternalError,
    Expired,
    ServiceUnavailable,
    Timeout,
    ServerTimeout,
    TooManyRequests,
}

impl Reason {
    /// The HTTP status code that goes with it.
    pub fn code(self) -> u16 {
        match self {
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::BadRequest => 400,
            Reason::InternalError | Reason::ServerTimeout => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueInvalid`, `FieldValueRequired`, `FieldValueDuplicate`, `FieldValueForbidden`,
    /// `FieldValueNotSupported`, `FieldValueTooLong`.
    pub reason: &'static str,
    /// Path as clients know it: `spec.ports[0].port`.
    pub field: String,
    /// The sentence upstream prints, without the path: `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
}

impl FieldError {
    /// `FIELD: Invalid value: VALUE: WHY`, the value printed as JSON.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, why: &str) -> Self {
        let message = format!("Invalid value: {}: {why}", value.into());
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// `FIELD: Required value: WHY` (WHY may be empty).
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// `FIELD: Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {}", value.into()),
        }
    }

    /// `FIELD: Forbidden: WHY`.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// `FIELD: Not found: VALUE`.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), message: format!("Not found: {}", value.into()) }
    }

    /// `FIELD: Too long: may not be more than MAX bytes`.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        let message = format!("Too long: may not be more than {max} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }

    /// `FIELD: Unsupported value: VALUE: supported values: "A", "B"`.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        Self {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!("Unsupported value: {}: supported values: {}", value.into(), list.join(", ")),
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A failure, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// Machine-readable reason; decides the HTTP code.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// What it is about: (name, group, kind or resource name), each possibly empty.
    pub details: Option<Box<Details>>,
}

/// The object a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Object name.
    pub name: String,
    /// API group, empty for core.
    pub group: String,
    /// Resource (`pods`) or, for Invalid, kind (`Pod`), as upstream has it.
    pub kind: String,
    /// UID, where known.
    pub uid: String,
    /// Field errors.
    pub causes: Vec<FieldError>,
    /// When to try again, seconds; 0 for unset.
    pub retry_after: u32,
}

impl Status {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    /// `pods "x" not found`.
    pub fn not_found(resource: &str, group: &str, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, group, name, "not found")
    }

    /// `pods "x" already exists`.
    pub fn already_exists(resource: &str, group: &str, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, resource, group, name, "already exists")
    }

    /// `Operation cannot be fulfilled on pods "x": WHY`.
    pub fn conflict(resource: &str, group: &str, name: &str, why: &str) -> Self {
        let mut status = Self::about(Reason::Conflict, resource, group, name, "");
        status.message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(resource, group));
        status
    }

    /// `Pod "x" is invalid: CAUSES`.
    pub fn invalid(kind: &str, group: &str, name: &str, causes: Vec<FieldError>) -> Self {
        let list = match &causes[..] {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        Self {
            reason: Reason::Invalid,
            message: format!("{} {name:?} is invalid: {list}", qualified(kind, group)),
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: kind.to_owned(),
                causes,
                ..Details::default()
            })),
        }
    }

    /// `pods "x" is forbidden: WHY`.
    pub fn forbidden(resource: &str, group: &str, name: &str, why: &str) -> Self {
        let mut status = Self::about(Reason::Forbidden, resource, group, name, "");
        let subject = qualified(resource, group);
        status.message = if name.is_empty() {
            format!("{subject} is forbidden: {why}")
        } else {
            format!("{subject} {name:?} is forbidden: {why}")
        };
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 410: the revision asked for is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 500. The message is shown: keep internals in the log.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {}", message.into()))
    }

    /// True for the given reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason
    }

    /// The `metav1.Status` document.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": format!("{:?}", self.reason), "code": self.reason.code(),
        });
        if let Some(details) = &self.details {
            let mut out = serde_json::Map::new();
            let texts =
                [("name", &details.name), ("group", &details.group), ("kind", &details.kind), ("uid", &details.uid)];
            for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
                out.insert(field.to_owned(), text.as_str().into());
            }
            if !details.causes.is_empty() {
                let causes = details.causes.iter();
                let causes = causes.map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
                out.insert("causes".to_owned(), causes.collect());
            }
            if details.retry_after > 0 {
                out.insert("retryAfterSeconds".to_owned(), details.retry_after.into());
            }
            document["details"] = Value::Object(out);
        }
        document
    }

    fn about(reason: Reason, resource: &str, group: &str, name: &str, what: &str) -> Self {
        Self {
            reason,
            message: format!("{} {name:?} {what}", qualified(resource, group)),
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: resource.to_owned(),
                ..Details::default()
            })),
        }
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}
