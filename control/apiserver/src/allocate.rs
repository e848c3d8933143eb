//! Addresses and ports of Services: who has which is written in the store, beside the Service.
//!
//! Every ClusterIP and NodePort in use has a key of its own (a claim), created and removed in the transaction that
//! writes the Service. So two requests cannot get the same one, a restart forgets none, a deleted Service leaves none
//! behind, and no separate bookkeeping has to be repaired.

use std::collections::BTreeSet;

use fairlead_api::status::FieldError;
use fairlead_api::{Kind, Object, Status};
use serde_json::Value;

use crate::api::Api;

mod address;
mod port;

pub use address::AddressRange;
pub use port::PortRange;

/// What a Service gets its addresses and ports by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation<'a> {
    /// The object as the client wants it: what it names itself is checked, what it leaves open is chosen.
    pub(crate) chosen: &'a Object,
    /// The stored object on an update: what it has, it keeps.
    pub(crate) current: Option<&'a Object>,
}

/// Fills in what the client left open. Nothing for kinds other than Service.
pub(crate) async fn fill(
    api: &Api,
    kind: &Kind,
    draft: &mut Object,
    allocation: &Allocation<'_>,
) -> Result<(), Status> {
    if kind.kind != "Service" {
        return Ok(());
    }
    let old = allocation.current;
    leave_behind(draft, old);
    address::carry_over(draft, old);
    port::carry_over(draft, old);
    let mut errors = Vec::new();
    address::check(&api.config.service_range, draft, old, &mut errors);
    port::check(api.config.node_ports, draft, old, &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid(kind.kind, kind.group, allocation.chosen.name(), errors));
    }
    address::choose(api, draft).await?;
    port::choose(api, draft).await
}

/// The keys that an object takes.
pub(crate) fn claims(kind: &Kind, object: &Object) -> BTreeSet<String> {
    if kind.kind != "Service" {
        return BTreeSet::new();
    }
    address::addresses(object).map(address::claim).chain(port::ports(object).map(port::claim)).collect()
}

/// A claim was taken by another. `Ok` means to choose again: it was our own choice, and there may be another try.
pub(crate) fn refused(
    kind: &Kind,
    chosen: &Object,
    old: Option<&Object>,
    claim: &str,
    again: bool,
) -> Result<(), Status> {
    let mut wanted = chosen.clone();
    address::carry_over(&mut wanted, old);
    port::carry_over(&mut wanted, old);
    if !claims(kind, &wanted).contains(claim) && again {
        return Ok(());
    }
    let error = match claim.rsplit_once('/') {
        Some((prefix, address)) if prefix.ends_with("address") => {
            let value: Value = vec![address].into();
            let why = format!("failed to allocate IP {address}: provided IP is already allocated");
            FieldError::invalid("spec.clusterIPs", value, &why)
        }
        Some((_, number)) => {
            let number: i64 = number.parse().unwrap_or_default();
            let at = port::position(&wanted, number).unwrap_or(0);
            let field = format!("spec.ports[{at}].nodePort");
            FieldError::invalid(field, number, "provided port is already allocated")
        }
        None => return Err(Status::internal("a claim without a kind")),
    };
    Err(Status::invalid(kind.kind, kind.group, chosen.name(), vec![error]))
}

/// What only the type before had, and the client copied along, goes with that type.
fn leave_behind(service: &mut Object, old: Option<&Object>) {
    let Some(old) = old else { return };
    let reachable = |service: &Object| matches!(type_of(service), "NodePort" | "LoadBalancer");
    let balanced = |service: &Object| type_of(service) == "LoadBalancer";
    let mut fields = Vec::new();
    if reachable(old) && !reachable(service) {
        fields.push("externalTrafficPolicy");
    }
    if balanced(old) && !balanced(service) {
        fields.extend(["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    for field in fields {
        if service.at(&["spec", field]) == old.at(&["spec", field]) {
            service.section_mut("spec").remove(field);
        }
    }
}

/// The type, written out.
fn type_of(service: &Object) -> &str {
    match service.str_at(&["spec", "type"]) {
        "" => "ClusterIP",
        other => other,
    }
}

/// A random number below `bound`.
fn random(bound: u32) -> u32 {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % bound.max(1)
}

#[cfg(test)]
mod tests;
