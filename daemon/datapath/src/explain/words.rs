//! A program's record in the operator's words.

use std::net::{IpAddr, SocketAddr};

use fairlead_abi::{Backend, Counter, FlowFlags, ServiceValue, Trace, TraceSteps, V6};

use super::ExplainRequest;
use crate::tables::{Set, from_mapped};

/// Steps that need no more than to be said.
pub(super) const REMARKS: &[(u32, &str)] = &[
    (TraceSteps::SOURCE, "the source is translated, so that the answer comes back this way; its port is drawn anew"),
    (TraceSteps::PORT_MOVED, "the answer's tuple was taken, so another source port was found"),
    (TraceSteps::MASQUERADE, "a pod leaves the cluster: masqueraded behind the uplink's address"),
    (TraceSteps::DIRECT, "straight to a pod's own address: its answers leave as they are"),
];

/// Names of a service's flags, after a comma.
pub(super) fn flags(flags: u32) -> String {
    let names = [
        (ServiceValue::NODE_ADDRESS, "on an address of the node"),
        (ServiceValue::EXTERNAL, "external"),
        (ServiceValue::EXTERNAL_LOCAL, "externalTrafficPolicy Local"),
        (ServiceValue::INTERNAL_LOCAL, "internalTrafficPolicy Local"),
        (ServiceValue::SOURCE_RANGES, "source ranges"),
        (ServiceValue::DSR_IPIP, "direct server return (IPIP)"),
        (ServiceValue::DSR_L2, "direct server return (L2)"),
        (ServiceValue::SOCKETS_ONLY, "sockets of the node alone"),
    ];
    names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| format!(", {name}")).collect()
}

/// A set's name.
pub(super) fn set(set: Set) -> &'static str {
    match set {
        Set::Internal => "the set for the ClusterIP (internal)",
        Set::Cluster => "the set for clients inside on external addresses (cluster)",
        Set::Ring => "the ring for clients outside (Maglev)",
    }
}

/// An endpoint's state.
pub(super) fn state(state: u32) -> &'static str {
    match state {
        Backend::ACTIVE => "active",
        Backend::DRAINING => "draining",
        Backend::GONE => "gone",
        _ => "free",
    }
}

/// The entry of the flow.
pub(super) fn flow(trace: &Trace, endpoint: &str) -> String {
    let flow = &trace.flow;
    let whom = if flow.flags & FlowFlags::CHOSEN != 0 { format!(", endpoint {endpoint}") } else { String::new() };
    let kind = match flow.flags {
        flags if flags & FlowFlags::DIRECT != 0 => "left as it is",
        flags if flags & (FlowFlags::DSR_IPIP | FlowFlags::DSR_L2) != 0 => "sent on untranslated",
        flags if flags & FlowFlags::REPLY != 0 => "a reply",
        _ => "translated",
    };
    format!("an entry: {kind}, {} → {}{whom}", end(flow.src, flow.sport), end(flow.dst, flow.dport))
}

/// How an endpoint was chosen.
pub(super) fn choice(trace: &Trace, of: Set, endpoint: &str) -> String {
    let set = set(of);
    if trace.steps & TraceSteps::NO_ENDPOINT != 0 || trace.range_len == 0 {
        return format!("nobody in {set}");
    }
    format!("hash {:#010x} → place {} of {} in {set} → {endpoint}", trace.hash, trace.place, trace.range_len)
}

/// What happens, and why.
pub(super) fn verdict(trace: &Trace, request: &ExplainRequest) -> (String, String) {
    let counter = Counter::ALL.get(trace.counter as usize).copied();
    let name = counter.map_or_else(String::new, |counter| format!(" ({})", counter.name()));
    if let Some(counter) = counter
        && let Some((what, why)) = ends(counter)
    {
        return (format!("{what}{name}"), why.to_owned());
    }
    let (src, dst) = (end(trace.src, trace.sport), end(trace.dst, trace.dport));
    if trace.flags & FlowFlags::DSR_IPIP != 0 {
        return (
            format!("sent to {} encapsulated{name}", dst.ip()),
            "direct server return: it answers the client itself".to_owned(),
        );
    }
    if trace.flags & FlowFlags::DSR_L2 != 0 {
        return (
            format!("sent to the node of {} as it is{name}", dst.ip()),
            "direct server return: it answers the client itself".to_owned(),
        );
    }
    if (src, dst) == (request.src, request.dst) {
        let why = if trace.steps & TraceSteps::DIRECT != 0 {
            "it is for a pod's own address"
        } else {
            "no service and no flow of ours: routing takes it from here"
        };
        return (format!("passes as it is{name}"), why.to_owned());
    }
    let how = match trace.flags {
        flags if flags & FlowFlags::HAIRPIN != 0 => ", back to where it came from",
        flags if flags & FlowFlags::TRANSMIT != 0 => ", sent on past the host's stack",
        _ => "",
    };
    (format!("leaves as {src} → {dst}{how}{name}"), why(trace).to_owned())
}

fn why(trace: &Trace) -> &'static str {
    let has = |step: u32| trace.steps & step != 0;
    if has(TraceSteps::FLOW_HIT) && !has(TraceSteps::FLOW_STALE) {
        "it belongs to a flow that is known"
    } else if has(TraceSteps::AFFINITY) {
        "a new flow of a client with session affinity"
    } else if has(TraceSteps::MASQUERADE) {
        "a new flow from a pod out of the cluster"
    } else {
        "a new flow to a service"
    }
}

/// Verdicts under which the packet goes nowhere.
fn ends(counter: Counter) -> Option<(&'static str, &'static str)> {
    Some(match counter {
        Counter::ResetEndpointGone => ("answered with a reset", "the connection's endpoint is gone"),
        Counter::RefusedNoEndpoint => ("refused", "the service has no endpoint"),
        Counter::DropNoLocalEndpoint => ("dropped", "the service's traffic policy leaves this client no endpoint"),
        Counter::DropSourceRange => ("dropped", "the client is in none of the service's source ranges"),
        Counter::DropFlowInsert => ("dropped", "the flow table took no entry"),
        Counter::DropNoSourcePort => ("dropped", "no source port towards this destination is free"),
        Counter::DropNoSourceAddress => ("dropped", "the uplink has no address to translate the source to"),
        Counter::DropNoRoute => ("dropped", "there is no route to where it has to go"),
        Counter::TooBig => ("answered with ICMP too big", "it does not fit where it has to go"),
        Counter::TimeExceeded => ("answered with ICMP time exceeded", "it has come too far"),
        Counter::DropFragment | Counter::DropDecapsulate | Counter::DropRewrite => {
            ("dropped", "the counter's name says why")
        }
        _ => return None,
    })
}

fn end(addr: V6, port: [u8; 2]) -> SocketAddr {
    let addr: IpAddr = from_mapped(addr);
    SocketAddr::new(addr, u16::from_be_bytes(port))
}
