//! The join of a Service with its EndpointSlices, in three pure steps.
//!
//! [`front()`] and [`slice()`] read one object each and refuse it alone if it makes no sense; they keep what the data path
//! needs and nothing else. [`join`] puts a front and its slices together and cannot fail. The rules are those of
//! kube-proxy: ports meet by name and protocol, each family stands for itself, an endpoint counts with its first
//! address only, conditions not given mean ready, serving, not terminating, and hints hold all or nothing.

use std::net::{IpAddr, SocketAddr};

use crate::service::{Endpoint, Port, Service, ServiceName};

mod check;
mod front;
mod slice;

pub(crate) use front::{Front, front};
pub(crate) use slice::{Slice, slice};

use front::FrontPort;
use slice::Hint;

/// Label that gives a Service, and with it its slices, to another proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// The node for which is joined: what `local` and `near` mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The node's name.
    pub(crate) node: &'a str,
    /// `topology.kubernetes.io/zone` of the Node, if it has one and is known.
    pub(crate) zone: Option<&'a str>,
}

/// The Service with the endpoints of its slices, as this place sees them.
pub(crate) fn join<'a>(
    name: &ServiceName,
    front: &Front,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    place: Place<'_>,
) -> Service {
    let ports = front.ports.iter().map(|port| Port {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        node_port: port.node_port,
        endpoints: endpoints(front, port, slices.clone(), place),
    });
    Service {
        name: name.clone(),
        cluster_ips: front.cluster_ips.clone(),
        load_balancer_ips: front.load_balancer_ips.clone(),
        external_ips: front.external_ips.clone(),
        affinity: front.affinity,
        internal_local: front.internal_local,
        external_local: front.external_local,
        source_ranges: front.source_ranges.clone(),
        health_check_node_port: front.health_check_node_port,
        dsr: front.dsr,
        ports: ports.collect(),
    }
}

/// An endpoint that may yet turn out to be a duplicate.
struct Candidate<'a> {
    endpoint: Endpoint,
    hint: Option<&'a Hint>,
}

fn endpoints<'a>(
    front: &Front,
    port: &FrontPort,
    slices: impl Iterator<Item = &'a Slice>,
    place: Place<'_>,
) -> Vec<Endpoint> {
    let mut candidates = Vec::new();
    for slice in slices.filter(|slice| front.has_family(slice.is_ipv4)) {
        for (_, _, target) in
            slice.ports.iter().filter(|(name, proto, _)| **name == *port.name && *proto == port.protocol)
        {
            candidates.extend(slice.endpoints().map(|(one, hint)| Candidate {
                endpoint: Endpoint {
                    address: SocketAddr::new(one.address, *target),
                    ready: one.ready,
                    serving: one.serving,
                    terminating: one.terminating,
                    local: one.local,
                    near: true,
                    weight: one.weight,
                },
                hint,
            }));
        }
    }
    candidates.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    // While an endpoint moves between slices it may be in two: its best conditions count, and local if either says so.
    candidates.dedup_by(|next, kept| {
        let same = next.endpoint.address == kept.endpoint.address;
        if same {
            let local = next.endpoint.local || kept.endpoint.local;
            if rank(&next.endpoint) > rank(&kept.endpoint) {
                std::mem::swap(next, kept);
            }
            kept.endpoint.local = local;
        }
        same
    });
    // Sorted by address, IPv4 stands before IPv6.
    let first_ipv6 = candidates.partition_point(|one| one.endpoint.address.is_ipv4());
    let (ipv4, ipv6) = candidates.split_at_mut(first_ipv6);
    for family in [ipv4, ipv6] {
        heed_hints(family, place);
    }
    let mut endpoints: Vec<Endpoint> = candidates.into_iter().map(|one| one.endpoint).collect();
    endpoints.shrink_to_fit();
    endpoints
}

fn rank(endpoint: &Endpoint) -> (bool, bool, bool) {
    (endpoint.ready, endpoint.serving, !endpoint.terminating)
}

/// Decides who is near. A kind of hint counts only if every ready endpoint has one and one of them means this place:
/// otherwise a half-told story would leave this node with few endpoints, or none. Nodes go before zones. Those that are
/// not ready are near: they serve only when nobody is ready, and then hints are not asked.
fn heed_hints(candidates: &mut [Candidate<'_>], place: Place<'_>) {
    let for_node = |hint: &Hint| hint.nodes.iter().any(|node| node == place.node);
    let for_zone = |hint: &Hint| place.zone.is_some_and(|zone| hint.zones.iter().any(|one| one == zone));
    let by_node = decides(candidates, |hint| !hint.nodes.is_empty(), for_node);
    let by_zone = !by_node && decides(candidates, |hint| !hint.zones.is_empty(), for_zone);
    if !by_node && !by_zone {
        return;
    }
    for one in candidates.iter_mut().filter(|one| one.endpoint.ready) {
        one.endpoint.near = one.hint.is_some_and(|hint| if by_node { for_node(hint) } else { for_zone(hint) });
    }
}

fn decides(candidates: &[Candidate<'_>], is_given: impl Fn(&Hint) -> bool, is_ours: impl Fn(&Hint) -> bool) -> bool {
    let mut ready = candidates.iter().filter(|one| one.endpoint.ready).map(|one| one.hint);
    ready.clone().all(|hint| hint.is_some_and(&is_given)) && ready.any(|hint| hint.is_some_and(&is_ours))
}

/// The family of an address, as messages name it.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests;
