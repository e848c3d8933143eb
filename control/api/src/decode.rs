//! Bytes of a request to an object of a kind, as strictly as the kind's Go type would read them.
//!
//! Decoding walks the tree along the kind's [`crate::schema`]: a value of a wrong type is an error in the words clients
//! know; unknown and duplicate fields are collected, for the caller to refuse, to warn of or to ignore; and what remains
//! is normal: no nulls, no unknown fields, quantities and times in canonical form.

mod duplicates;
mod walk;

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;
use crate::schema::{self, Struct};
use crate::status::Status;

/// An object and what a strict reader would have refused.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The object, normal: no nulls, no unknown fields, `apiVersion` and `kind` filled in.
    pub object: Object,
    /// `unknown field "spec.foo"`, `duplicate field "spec.replicas"`.
    pub problems: Vec<String>,
}

impl Decoded {
    /// The object, or what `fieldValidation=Strict` answers when there were problems.
    pub fn strict(self, kind: &Kind) -> Result<Object, Status> {
        if self.problems.is_empty() { Ok(self.object) } else { Err(strict_error(kind, &self.problems)) }
    }
}

/// How the body of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

impl Format {
    /// The format of a `Content-Type`; JSON if there is none, `None` for those not understood.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// Reads a body as a tree; the second value lists duplicate fields as problems.
pub fn parse(body: &[u8], format: Format) -> Result<(Value, Vec<String>), String> {
    match format {
        Format::Json => duplicates::parse(body).map_err(|error| error.to_string()),
        Format::Yaml => {
            serde_norway::from_slice(body).map(|tree| (tree, Vec::new())).map_err(|error| error.to_string())
        }
    }
}

/// Reads the body of a create or an update as an object of `kind`.
pub fn decode(kind: &Kind, body: &[u8], format: Format) -> Result<Decoded, Status> {
    let (tree, duplicates) = parse(body, format).map_err(|error| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {error}",
            kind.kind
        ))
    })?;
    let mut decoded = decode_value(kind, tree)?;
    // Upstream reports duplicates, found while parsing, before unknown fields.
    decoded.problems.splice(0..0, duplicates);
    Ok(decoded)
}

/// Reads a tree as an object of `kind`.
pub fn decode_value(kind: &Kind, tree: Value) -> Result<Decoded, Status> {
    check_type(kind, &tree)?;
    let (object, problems) = normalize(kind, tree).map_err(|why| cannot_be_handled(kind, &why))?;
    Ok(Decoded { object, problems })
}

/// The normal form of a tree, for example of a patched object, and its unknown fields. The error says what is of a
/// wrong type, without a frame around it.
pub fn normalize(kind: &Kind, tree: Value) -> Result<(Object, Vec<String>), String> {
    let root = schema::lookup(kind.schema).expect("every kind has a schema");
    let (mut object, problems) = normalize_as(root, tree)?;
    object.0.insert("apiVersion".to_owned(), kind.api_version().into());
    object.0.insert("kind".to_owned(), kind.kind.into());
    object.metadata_mut();
    Ok((object, problems))
}

/// The normal form of a tree of that type, and its unknown fields.
pub(crate) fn normalize_as(root: &'static Struct, mut tree: Value) -> Result<(Object, Vec<String>), String> {
    let mut problems = Vec::new();
    walk::walk(root, &mut tree, &mut problems)?;
    match tree {
        Value::Object(map) => Ok((Object(map), problems)),
        _ => Err("json: cannot unmarshal a value that is no object".to_owned()),
    }
}

/// The answer to unknown or duplicate fields under `fieldValidation=Strict`.
pub fn strict_error(kind: &Kind, problems: &[String]) -> Status {
    cannot_be_handled(kind, &format!("strict decoding error: {}", problems.join(", ")))
}

fn cannot_be_handled(kind: &Kind, why: &str) -> Status {
    let name = kind.kind;
    Status::bad_request(format!("{name} in version {:?} cannot be handled as a {name}: {why}", kind.version))
}

fn check_type(kind: &Kind, tree: &Value) -> Result<(), Status> {
    let text = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, name) = (text("apiVersion"), text("kind"));
    if !api_version.is_empty() && api_version != kind.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    if !name.is_empty() && name != kind.kind {
        return Err(Status::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {}: converting ({name}) to ({}): unknown conversion",
            kind.version, kind.kind, kind.kind
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
