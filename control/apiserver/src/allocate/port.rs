//! NodePorts.

use fairlead_api::status::FieldError;
use fairlead_api::{Object, Status};
use serde_json::Value;

use super::{random, type_of};
use crate::api::Api;
use crate::status::from_store;

/// Random picks before the range is walked.
const PICKS: usize = 32;

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (0 < first && first <= last).then_some(Self { first, last })
        });
        parsed.ok_or_else(|| format!("{text:?} is not a range of ports such as 30000-32767"))
    }
}

/// The key of a port in use.
pub(super) fn claim(port: i64) -> String {
    format!("/claims/nodeport/{port}")
}

/// The node ports that a Service has.
pub(super) fn ports(service: &Object) -> impl Iterator<Item = i64> {
    entries(service).filter_map(node_port)
}

/// Which of a Service's ports has this node port.
pub(super) fn position(service: &Object, wanted: i64) -> Option<usize> {
    entries(service).position(|port| node_port(port) == Some(wanted))
}

fn entries(service: &Object) -> impl Iterator<Item = &Value> {
    service.at(&["spec", "ports"]).and_then(Value::as_array).into_iter().flatten()
}

fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|port| *port != 0)
}

fn has_node_ports(service: &Object) -> bool {
    match type_of(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

/// What an update leaves out, a port keeps; what the type no longer has, it loses.
pub(super) fn carry_over(service: &mut Object, old: Option<&Object>) {
    let Some(old) = old else { return };
    let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
    let wants = matches!(type_of(service), "NodePort" | "LoadBalancer");
    let had = matches!(type_of(old), "NodePort" | "LoadBalancer");
    let taken: Vec<i64> = ports(service).collect();
    let Some(Value::Array(list)) = service.section_mut("spec").get_mut("ports") else { return };
    for port in list {
        let before = entries(old).find(|one| same(one, port)).and_then(node_port);
        match (node_port(port), before) {
            (None, Some(before)) if wants && had && !taken.contains(&before) => port["nodePort"] = before.into(),
            // Left over from the type before: the client copied it, it did not ask for it.
            (Some(_), _) if !wants && had => {
                if let Some(port) = port.as_object_mut() {
                    port.remove("nodePort");
                }
            }
            _ => {}
        }
    }
}

/// Ports that the client names must be of the range.
pub(super) fn check(range: PortRange, service: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let known = |port: i64| old.is_some_and(|old| ports(old).any(|one| one == port));
    for (at, port) in entries(service).enumerate() {
        let Some(number) = node_port(port).filter(|number| !known(*number)) else { continue };
        if !(i64::from(range.first)..=i64::from(range.last)).contains(&number) {
            let why = format!("provided port is not in the valid range. The range of valid ports is {range}");
            errors.push(FieldError::invalid(format!("spec.ports[{at}].nodePort"), number, &why));
        }
    }
}

/// Gives a node port to every port of a Service that needs one.
pub(super) async fn choose(api: &Api, service: &mut Object) -> Result<(), Status> {
    if !has_node_ports(service) {
        return Ok(());
    }
    let mut taken: Vec<i64> = ports(service).collect();
    let mut chosen: Vec<(Value, i64)> = Vec::new();
    let Some(Value::Array(mut list)) = service.section_mut("spec").remove("ports") else { return Ok(()) };
    for port in &mut list {
        if node_port(port).is_some() {
            continue;
        }
        // The same port over another protocol gets the same node port.
        let sibling = chosen.iter().find(|(number, _)| *number == port["port"]).map(|(_, node)| *node);
        let node = match sibling {
            Some(node) => node,
            None => free(api, &taken).await?,
        };
        taken.push(node);
        chosen.push((port["port"].clone(), node));
        port["nodePort"] = node.into();
    }
    service.section_mut("spec").insert("ports".to_owned(), list.into());
    Ok(())
}

async fn free(api: &Api, taken: &[i64]) -> Result<i64, Status> {
    let range = api.config.node_ports;
    let size = u32::from(range.last - range.first) + 1;
    // The lower part is left to those who name their port, unless nothing else is free.
    let reserved = (size / 32).min(128);
    let pick = |_| reserved + random(size - reserved);
    for offset in (0..PICKS).map(pick).chain(reserved..size).chain(0..reserved) {
        let port = i64::from(range.first) + i64::from(offset);
        if !taken.contains(&port) && api.store.get(&claim(port)).await.map_err(from_store)?.is_none() {
            return Ok(port);
        }
    }
    Err(Status::internal(format!("failed to allocate a nodePort: range is full ({range})")))
}
