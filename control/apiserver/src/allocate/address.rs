//! ClusterIPs.

use std::net::Ipv4Addr;

use fairlead_api::status::FieldError;
use fairlead_api::{Object, Status};
use serde_json::{Value, json};

use super::{random, type_of};
use crate::api::Api;
use crate::status::from_store;

/// Random picks before the range is walked.
const PICKS: usize = 32;

/// A range of IPv4 addresses, without its network and broadcast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: Ipv4Addr,
    length: u8,
}

impl AddressRange {
    /// The range of a CIDR; bits below the prefix are dropped.
    pub fn new(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        Self { network: Ipv4Addr::from(u32::from(address) & mask), length }
    }

    /// The n-th usable address, counted from 1.
    pub fn nth(&self, number: u32) -> Option<Ipv4Addr> {
        (1..=self.size()).contains(&number).then(|| Ipv4Addr::from(u32::from(self.network) + number))
    }

    /// How many usable addresses there are.
    pub fn size(&self) -> u32 {
        let all = 1u64 << (32 - self.length);
        u32::try_from(all.saturating_sub(2)).unwrap_or(u32::MAX)
    }

    /// True for a usable address of the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        (1..=self.size()).contains(&offset)
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl std::str::FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let (address, length) = (address.parse().ok()?, length.parse().ok()?);
            (8..=30).contains(&length).then(|| Self::new(address, length))
        });
        parsed.ok_or_else(|| format!("{text:?} is not an IPv4 range such as 10.96.0.0/12 (prefix of 8 to 30 bits)"))
    }
}

/// The key of an address in use.
pub(super) fn claim(address: &str) -> String {
    format!("/claims/address/{address}")
}

/// The addresses that a Service has.
pub(super) fn addresses(service: &Object) -> impl Iterator<Item = &str> {
    let list = service.at(&["spec", "clusterIPs"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).filter(|address| !matches!(*address, "" | "None"))
}

/// What an update leaves out, a Service keeps; what its type does not have, it loses.
pub(super) fn carry_over(service: &mut Object, old: Option<&Object>) {
    let external = type_of(service) == "ExternalName";
    let before = old.filter(|old| type_of(old) != "ExternalName");
    let spec = service.section_mut("spec");
    if external {
        // Only what was given by us is taken away: a client that names one itself gets the validation's answer.
        let unchanged = |field: &str, spec: &serde_json::Map<String, Value>| {
            before.is_some_and(|old| old.at(&["spec", field]) == spec.get(field))
        };
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unchanged(field, spec) {
                spec.remove(field);
            }
        }
        return;
    }
    let text = |spec: &serde_json::Map<String, Value>| {
        spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let first = |spec: &serde_json::Map<String, Value>| {
        let list = spec.get("clusterIPs").and_then(Value::as_array);
        list.and_then(|list| list.first()).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    match (text(spec).as_str(), first(spec).as_str()) {
        ("", "") => {
            if let Some(old) = before {
                for field in ["clusterIP", "clusterIPs"] {
                    if let Some(value) = old.at(&["spec", field]) {
                        spec.insert(field.to_owned(), value.clone());
                    }
                }
            }
        }
        ("", address) => drop(spec.insert("clusterIP".to_owned(), address.into())),
        (address, "") => drop(spec.insert("clusterIPs".to_owned(), json!([address]))),
        _ => {}
    }
}

/// Addresses that the client names must be addresses of the range.
pub(super) fn check(range: &AddressRange, service: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let list = || service.at(&["spec", "clusterIPs"]).cloned().unwrap_or(Value::Null);
    let known = |address: &str| old.is_some_and(|old| addresses(old).any(|one| one == address));
    for address in addresses(service).filter(|address| !known(address)) {
        // What is no IPv4 address at all is the validation's to tell.
        if address.parse::<Ipv4Addr>().is_ok_and(|address| !range.contains(address)) {
            let why = format!(
                "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            );
            errors.push(FieldError::invalid("spec.clusterIPs", list(), &why));
        }
    }
}

/// Gives an address to a Service that needs one.
pub(super) async fn choose(api: &Api, service: &mut Object) -> Result<(), Status> {
    if type_of(service) == "ExternalName" {
        return Ok(());
    }
    if service.str_at(&["spec", "clusterIP"]).is_empty() {
        let address = free(api).await?.to_string();
        let spec = service.section_mut("spec");
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), address.into());
    }
    let spec = service.section_mut("spec");
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    Ok(())
}

async fn free(api: &Api) -> Result<Ipv4Addr, Status> {
    let range = &api.config.service_range;
    // The lower part is left to those who name their address, unless nothing else is free.
    let reserved = (range.size() / 16).clamp(0, 256);
    let pick = |_| reserved + 1 + random(range.size() - reserved);
    let picks = (0..PICKS).map(pick).chain(reserved + 1..=range.size()).chain(1..=reserved);
    for number in picks {
        let Some(address) = range.nth(number) else { continue };
        if api.store.get(&claim(&address.to_string())).await.map_err(from_store)?.is_none() {
            return Ok(address);
        }
    }
    Err(Status::internal(format!("failed to allocate a serviceIP: range is full ({range})")))
}
