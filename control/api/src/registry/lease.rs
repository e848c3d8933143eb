//! Lease: who holds something, and until when.

use k8s_openapi::api::coordination::v1::Lease;

use crate::kind::{Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::Check;
use serde_json::Value;

/// coordination/v1 Lease.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    types: super::types::<Lease>,
    generation: false,
    default: |_| {},
    validate,
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::text("Holder", "Who holds the lease.", |object, _| object.str_at(&["spec", "holderIdentity"]).into()),
        cells::AGE,
    ],
};

fn validate(new: &Object, _old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "spec");
    if let Some(seconds) = new.at(&["spec", "leaseDurationSeconds"]).and_then(Value::as_i64)
        && seconds <= 0
    {
        check.field("leaseDurationSeconds").invalid(seconds, "must be greater than 0");
    }
    let transitions = new.at(&["spec", "leaseTransitions"]);
    check.field("leaseTransitions").non_negative(transitions);
    if new.at(&["spec", "holderIdentity"]).and_then(Value::as_str) == Some("") {
        check.field("holderIdentity").invalid("", "must not be empty");
    }
}
