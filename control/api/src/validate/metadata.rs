//! `metadata`, the same for every kind.

use crate::kind::Kind;
use crate::object::Object;
use crate::status::FieldError;

/// What is wrong with the metadata of `new`; `old` is the stored object on an update.
pub fn validate(_kind: &Kind, _new: &Object, _old: Option<&Object>, _errors: &mut Vec<FieldError>) {}
