//! JSON patch, RFC 6902.

use serde_json::Value;

use super::unprocessable;
use crate::status::{Reason, Status};

/// As many operations as upstream takes.
const MAX_OPERATIONS: usize = 10_000;

pub(super) fn apply(tree: &mut Value, operations: &Value) -> Result<(), Status> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"),
        ));
    }
    let patch: json_patch::Patch = serde_json::from_value(operations.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    json_patch::patch(tree, &patch).map_err(|_| unprocessable())
}
