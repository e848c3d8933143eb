//! Patches: a stored object and a document of changes make a new object.
//!
//! [`apply`] is the one entry. Its result is a tree as the client made it: the caller decodes
//! ([`crate::decode::normalize`]), defaults and validates it like any other body.

mod json;
pub mod merge;
pub mod strategic;

use serde_json::Value;

use crate::client::Patch;
use crate::kind::Kind;
use crate::object::Object;
use crate::schema;
use crate::status::{Reason, Status};

/// The object after the patch.
pub fn apply(kind: &Kind, object: &Object, patch: &Patch) -> Result<Value, Status> {
    let Patch::Strategic(changes) = patch else { return apply_untyped(object, patch) };
    require_object(changes)?;
    let mut tree = Value::Object(object.0.clone());
    let root = schema::lookup(kind.schema).expect("every kind has a schema");
    strategic::apply(&mut tree, changes, root).map_err(|error| Status::bad_request(error.to_string()))?;
    Ok(tree)
}

/// The object after a patch that needs no types; a strategic one needs them.
pub(crate) fn apply_untyped(object: &Object, patch: &Patch) -> Result<Value, Status> {
    let mut tree = Value::Object(object.0.clone());
    match patch {
        Patch::Json(operations) => json::apply(&mut tree, operations)?,
        Patch::Merge(changes) => {
            require_object(changes)?;
            merge::apply(&mut tree, changes);
        }
        Patch::Strategic(_) => {
            let why = "strategic merge patch is not supported for this resource";
            return Err(Status::new(Reason::UnsupportedMediaType, why));
        }
    }
    Ok(tree)
}

/// The answer when the patched object does not decode, or has unknown fields under `fieldValidation=Strict`.
pub fn invalid_result(patch: &[u8], why: &str) -> Status {
    let text = String::from_utf8_lossy(patch).into_owned();
    Status::invalid("", "", "", vec![crate::status::FieldError::invalid("patch", text, why)])
}

fn require_object(changes: &Value) -> Result<(), Status> {
    if changes.is_object() {
        return Ok(());
    }
    Err(Status::bad_request("error decoding patch: json: cannot unmarshal a value that is no object into a patch"))
}

/// What upstream answers to a patch that is well formed and cannot be applied. It does not say where it failed.
fn unprocessable() -> Status {
    Status::new(Reason::Invalid, "the server rejected our request due to an error in our request")
}

#[cfg(test)]
mod tests;
