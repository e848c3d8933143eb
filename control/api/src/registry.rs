//! The kinds served, each one declaration in a file of its own.
//!
//! A file holds all that is particular to its kind: the declaration, its defaults, its validation and its columns;
//! a new kind is a new file and a line in [`all`].

mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod namespace;
mod node;
pub mod pod;
mod replica_set;
mod secret;
mod service;
mod service_account;
mod workload;

pub use config_map::CONFIG_MAP;
pub use deployment::DEPLOYMENT;
pub use endpoint_slice::ENDPOINT_SLICE;
pub use endpoints::ENDPOINTS;
pub use event::EVENT;
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use replica_set::REPLICA_SET;
pub use secret::SECRET;
pub use service::SERVICE;
pub use service_account::SERVICE_ACCOUNT;

use schemars::{JsonSchema, SchemaGenerator};

use crate::kind::Kind;

/// Every kind, core first, in the order discovery shows them.
pub fn all() -> &'static [&'static Kind] {
    static ALL: [&Kind; 13] = [
        &CONFIG_MAP,
        &ENDPOINTS,
        &EVENT,
        &NAMESPACE,
        &NODE,
        &POD,
        &SECRET,
        &SERVICE_ACCOUNT,
        &SERVICE,
        &DEPLOYMENT,
        &REPLICA_SET,
        &LEASE,
        &ENDPOINT_SLICE,
    ];
    &ALL
}

/// The kind at `group`/`version` whose URL name is `plural`.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind by `apiVersion` and `kind`, as objects name it.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().copied().find(|one| one.kind == kind && one.api_version() == api_version)
}

/// Adds a type and all it refers to to the OpenAPI components.
fn types<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

#[cfg(test)]
mod tests;
