//! JSON patch, RFC 6902.

use json_patch::PatchOperation;
use serde_json::Value;

use super::unprocessable;
use crate::status::{Reason, Status};

/// As many operations as upstream takes.
const MAX_OPERATIONS: usize = 10_000;
/// As many bytes as all `copy` operations may make together: each could double the object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

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
    let mut copied = 0;
    for operation in &patch.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += tree.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                let why =
                    format!("Unable to complete, the copy operations of the JSON patch exceed {MAX_COPIED} bytes");
                return Err(Status::new(Reason::RequestEntityTooLarge, why));
            }
        }
        // The tree is a copy already: nothing has to be rolled back.
        json_patch::patch_unsafe(tree, std::slice::from_ref(operation)).map_err(|_| unprocessable())?;
    }
    Ok(())
}
