//! The writes a plan consists of, and why there may be none.

use std::net::IpAddr;

use fairlead_abi::{Backend, MemberKey, Range, RangeKey, ServiceValue, mapped};
use fairlead_source::{Protocol, ServiceName};
use ipnet::IpNet;

use crate::desired::Key;

/// One write to the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write an endpoint.
    Backend(u32, Backend),
    /// Write slots from an index on.
    Slots(u32, Vec<u32>),
    /// Switch one of a group's sets.
    Switch(u32, Set, Range),
    /// Write a group's seconds of affinity and its flags.
    Settings(u32, u32, u32),
    /// Let a network use the group's keys with source ranges. The prefix length counts as [`RangeKey`] says.
    Allow(RangeKey, u32),
    /// Let it no more.
    Deny(RangeKey, u32),
    /// Let encapsulated packets reach an endpoint.
    Join(MemberKey, u32),
    /// No more.
    Leave(MemberKey),
    /// Let an address answer.
    Put(Key, ServiceValue),
    /// Let it answer no more.
    Drop(Key),
}

/// A set of a group: see [`fairlead_abi::Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// `Group::internal`.
    Internal,
    /// `Group::cluster`.
    Cluster,
    /// `Group::ring`.
    Ring,
}

/// Why a service was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Two services want one address.
    #[error("{}/{} already belongs to {owner}", .key.address(), protocol(.key.proto()))]
    Taken {
        /// The address.
        key: Key,
        /// Who has it.
        owner: ServiceName,
    },
    /// A table is full.
    #[error("the table of {0} is full (raise its capacity)")]
    Full(&'static str),
}

/// The IP protocol of a Service's port.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => fairlead_abi::proto::TCP,
        Protocol::Udp => fairlead_abi::proto::UDP,
        Protocol::Sctp => fairlead_abi::proto::SCTP,
    }
}

/// The name of a Service's IP protocol.
fn protocol(proto: u8) -> &'static str {
    match proto {
        fairlead_abi::proto::TCP => "tcp",
        fairlead_abi::proto::UDP => "udp",
        fairlead_abi::proto::SCTP => "sctp",
        _ => "?",
    }
}

/// What a change takes.
#[derive(Debug, Default)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Endpoints that take no new flows from now on.
    pub ended: Vec<Ended>,
    /// Why the service is not in force.
    pub refusal: Option<Refusal>,
}

/// An endpoint that was removed from a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// Its address and port.
    pub address: std::net::SocketAddr,
    /// IP protocol.
    pub proto: u8,
    /// Its id in `BACKENDS`.
    pub backend: u32,
    /// The generation of this id that has ended.
    pub generation: u32,
}

/// An address as tables of both families hold it.
pub(crate) fn to_mapped(addr: IpAddr) -> fairlead_abi::V6 {
    match addr {
        IpAddr::V4(addr) => mapped(addr.octets()),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// The address that [`to_mapped`] was given.
pub(crate) fn from_mapped(addr: fairlead_abi::V6) -> IpAddr {
    std::net::Ipv6Addr::from(addr).to_canonical()
}

/// The key and prefix length of a network in `RANGES`.
pub(super) fn range_key(group: u32, net: &IpNet) -> (RangeKey, u32) {
    let family = if net.addr().is_ipv4() { 96 } else { 0 };
    let key = RangeKey { group: group.to_be_bytes(), addr: to_mapped(net.trunc().addr()) };
    (key, 32 + family + u32::from(net.prefix_len()))
}
