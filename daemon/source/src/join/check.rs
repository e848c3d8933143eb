//! Values as they stand in objects: each is read, or refused with the field's name and the value.

use std::net::IpAddr;

use crate::service::Protocol;

pub(super) fn protocol(field: &str, text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{field}: `{other}` is none of TCP, UDP, SCTP")),
    }
}

pub(super) fn port(field: &str, number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{field}: {number} is not between 1 and 65535")),
    }
}

/// A port for which 0 means none.
pub(super) fn optional_port(field: &str, number: Option<i32>) -> Result<Option<u16>, String> {
    number.filter(|number| *number != 0).map(|number| port(field, number)).transpose()
}

pub(super) fn address(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field}: `{text}` is not an IP address"))
}

/// An address that packets can be sent to from elsewhere.
pub(super) fn reachable(field: &str, text: &str) -> Result<IpAddr, String> {
    let address = address(field, text)?;
    match peculiarity(address) {
        None => Ok(address),
        Some(what) => Err(format!("{field}: `{text}` is {what} address")),
    }
}

/// What keeps packets from elsewhere from reaching an address; `None` for an ordinary one.
pub(super) fn peculiarity(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified");
    }
    if address.is_loopback() {
        return Some("a loopback");
    }
    if address.is_multicast() {
        return Some("a multicast");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped"),
        _ => None,
    }
}

/// One of a field's few values; the first is what nothing means.
pub(super) fn one_of<'a>(field: &str, text: Option<&'a str>, values: &[&'a str]) -> Result<&'a str, String> {
    let text = text.filter(|text| !text.is_empty()).or(values.first().copied()).unwrap_or_default();
    if values.contains(&text) { Ok(text) } else { Err(format!("{field}: `{text}` is none of {}", values.join(", "))) }
}
