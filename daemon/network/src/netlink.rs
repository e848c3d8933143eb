//! The few rtnetlink requests pod networking makes. No other module knows the library behind them.
//!
//! Each batch of requests runs on a socket of its own, opened in the calling thread's network namespace and closed with
//! the batch.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo as LinkDetail, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::NetworkError;

/// Who put a route there, as `ip route` shows it in `proto`: a number nobody in `/etc/iproute2/rt_protos` has.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0xf1);

/// An interface, as far as we ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) alias: String,
    pub(crate) kind: Kind,
    /// Its other end is in another namespace.
    pub(crate) elsewhere: bool,
}

/// Kinds of interfaces we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Veth,
    Bridge,
    Other,
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) ifindex: u32,
    pub(crate) gateway: Option<IpAddr>,
}

/// One end of a veth pair to be made.
#[derive(Clone, Debug)]
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

/// An open netlink socket.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: Handle,
}

/// Opens a socket in this thread's namespace and runs `work` with it, on a thread of its own (which inherits the
/// namespace), because the caller's may be driving tasks. Blocks.
pub(crate) fn run<T, F>(work: impl FnOnce(Netlink) -> F + Send) -> Result<T, NetworkError>
where
    T: Send,
    F: Future<Output = Result<T, NetworkError>>,
{
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netlink".to_owned());
        let running = thread.spawn_scoped(scope, || block_on(work)).map_err(NetworkError::Socket)?;
        running.join().map_err(|_| NetworkError::Thread)?
    })
}

fn block_on<T, F>(work: impl FnOnce(Netlink) -> F) -> Result<T, NetworkError>
where
    F: Future<Output = Result<T, NetworkError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetworkError::Socket)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        let work = work(Netlink { handle });
        tokio::select! {
            biased;
            result = work => result,
            () = connection => Err(NetworkError::Socket(io::ErrorKind::ConnectionAborted.into())),
        }
    })
}

impl Netlink {
    /// Every interface.
    pub(crate) async fn links(&self) -> Result<Vec<LinkInfo>, NetworkError> {
        let links = self.handle.link().get().execute().map_ok(link_info).try_collect().await;
        links.map_err(refused("list the interfaces"))
    }

    /// The interface of that name, if there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<LinkInfo>, NetworkError> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(link) => Ok(link.map(link_info)),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(refused(format!("show interface {name}"))(error)),
        }
    }

    /// Makes a veth pair, one end in another namespace from the start. That end is still down: the kernel refuses to
    /// bring it up before it has a peer.
    pub(crate) async fn add_veth(
        &self,
        host: &End<'_>,
        pod: &End<'_>,
        namespace: BorrowedFd<'_>,
        mtu: u32,
        alias: &str,
    ) -> Result<(), NetworkError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(pod.name)
            .address(pod.mac.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(host.name, pod.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(host.mac.to_vec())
            .mtu(mtu)
            .up()
            .build();
        let attempt = format!("make the veth pair {} and {}", host.name, pod.name);
        self.handle.link().add(message).execute().await.map_err(refused(attempt))?;
        // The kernel takes an alias in a change, not in a creation.
        let alias = LinkUnspec::new_with_name(host.name).alias(alias).build();
        self.handle.link().set(alias).execute().await.map_err(refused(format!("name the owner of {}", host.name)))
    }

    /// Removes an interface; success when there is none.
    pub(crate) async fn remove_link(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is(&error, libc::ENODEV) => Err(refused(format!("remove interface {name}"))(error)),
            _ => Ok(()),
        }
    }

    /// Brings an interface up.
    pub(crate) async fn up(&self, name: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle.link().set(message).execute().await.map_err(refused(format!("bring {name} up")))
    }

    /// Gives an interface a /32; one it already has is left.
    pub(crate) async fn add_address(&self, index: u32, address: Ipv4Addr) -> Result<(), NetworkError> {
        let request = self.handle.address().add(index, IpAddr::V4(address), 32);
        tolerate(request.execute().await, libc::EEXIST).map_err(refused(format!("give an interface {address}")))
    }

    /// Whether this namespace has the address.
    pub(crate) async fn has_address(&self, address: Ipv4Addr) -> Result<bool, NetworkError> {
        let all: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(refused("list the addresses"))?;
        let wanted = AddressAttribute::Local(IpAddr::V4(address));
        Ok(all.iter().any(|message| message.attributes.contains(&wanted)))
    }

    /// A neighbour that is never asked for.
    pub(crate) async fn add_neighbour(&self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Result<(), NetworkError> {
        let request = self.handle.neighbours().add(index, IpAddr::V4(address)).link_layer_address(&mac).replace();
        request.execute().await.map_err(refused(format!("set the neighbour {address}")))
    }

    /// Hardware addresses of all neighbours, by interface and address.
    pub(crate) async fn neighbours(&self) -> Result<HashMap<(u32, IpAddr), [u8; 6]>, NetworkError> {
        let all: Vec<_> =
            self.handle.neighbours().get().execute().try_collect().await.map_err(refused("list the neighbours"))?;
        Ok(all.iter().filter_map(neighbour).collect())
    }

    /// At which port each bridge has learnt a hardware address.
    pub(crate) async fn bridged(&self) -> Result<HashMap<(u32, [u8; 6]), u32>, NetworkError> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let all: Vec<_> = request.execute().try_collect().await.map_err(refused("list what bridges have learnt"))?;
        let entries = all.iter().filter_map(|message| {
            let bridge = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Controller(index) => Some(*index),
                _ => None,
            });
            Some(((bridge?, hardware_address(message)?), message.header.ifindex))
        });
        Ok(entries.collect())
    }

    /// Where packets of this host to an address go; `None` for an address of the host's own, or without a route.
    pub(crate) async fn route_of(&self, address: IpAddr) -> Result<Option<Hop>, NetworkError> {
        let question = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build(),
        };
        // Any refusal means the same: there is no way there now.
        let Ok(Some(route)) = self.handle.route().get(question).execute().try_next().await else { return Ok(None) };
        if route.header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let mut hop = Hop { ifindex: 0, gateway: None };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => hop.ifindex = *index,
                RouteAttribute::Gateway(gateway) => hop.gateway = ip(gateway),
                _ => {}
            }
        }
        Ok((hop.ifindex != 0).then_some(hop))
    }

    /// A route to one address by an interface, `source` being what local processes are seen as.
    pub(crate) async fn route_to(
        &self,
        address: Ipv4Addr,
        index: u32,
        source: Option<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(ROUTE_PROTOCOL);
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        let request = self.handle.route().add(route.build()).replace();
        request.execute().await.map_err(refused(format!("route {address} to its pod")))
    }

    /// The default route by a next hop that is taken to be on the link.
    pub(crate) async fn route_default(&self, gateway: Ipv4Addr, index: u32) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).onlink().build();
        let request = self.handle.route().add(route).replace();
        request.execute().await.map_err(refused(format!("set the default route by {gateway}")))
    }

    /// Makes addresses of a network that have no route of their own unreachable. `false` if a route is there already.
    pub(crate) async fn add_unreachable(&self, network: Ipv4Net) -> Result<bool, NetworkError> {
        match self.handle.route().add(unreachable(network)).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is(&error, libc::EEXIST) => Ok(false),
            Err(error) => Err(refused(format!("close the pod network {network}"))(error)),
        }
    }

    /// Takes that back; success when it is gone.
    pub(crate) async fn remove_unreachable(&self, network: Ipv4Net) -> Result<(), NetworkError> {
        let removed = self.handle.route().del(unreachable(network)).execute().await;
        tolerate(removed, libc::ESRCH).map_err(refused(format!("remove the route to {network}")))
    }

    /// Whether the main table has a route inside that network.
    pub(crate) async fn routes_inside(&self, network: Ipv4Net) -> Result<bool, NetworkError> {
        let inside = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet(to)) if network.contains(to));
        Ok(self.routes().await?.iter().any(|route| route.attributes.iter().any(inside)))
    }

    /// Single addresses that the main table has a route to.
    pub(crate) async fn hosts(&self) -> Result<BTreeSet<Ipv4Addr>, NetworkError> {
        let to = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(*to),
            _ => None,
        };
        let routes = self.routes().await?;
        let hosts = routes.iter().filter(|route| route.header.destination_prefix_length == 32);
        Ok(hosts.filter_map(|route| route.attributes.iter().find_map(to)).collect())
    }

    async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<_> =
            self.handle.route().get(any).execute().try_collect().await.map_err(refused("list the routes"))?;
        Ok(routes.into_iter().filter(|route: &RouteMessage| route.header.table == libc::RT_TABLE_MAIN).collect())
    }

    /// Index of the interface the IPv4 default route of the lowest metric uses.
    pub(crate) async fn default_interface(&self) -> Result<Option<u32>, NetworkError> {
        let routes = self.routes().await?;
        let candidates = routes.iter().filter(|route| {
            route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && !route.attributes.iter().any(|a| matches!(a, RouteAttribute::Destination(RouteAddress::Inet(_))))
        });
        let ranked = candidates.filter_map(|route| {
            let mut metric = 0;
            let mut index = None;
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Priority(value) => metric = *value,
                    RouteAttribute::Oif(value) => index = Some(*value),
                    _ => {}
                }
            }
            Some((metric, index?))
        });
        Ok(ranked.min().map(|(_, index)| index))
    }
}

fn unreachable(network: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.network(), network.prefix_len())
        .kind(RouteType::Unreachable)
        .protocol(ROUTE_PROTOCOL)
        .build()
}

fn link_info(message: LinkMessage) -> LinkInfo {
    let mut info = LinkInfo {
        name: String::new(),
        index: message.header.index,
        mtu: 0,
        mac: [0; 6],
        alias: String::new(),
        kind: Kind::Other,
        elsewhere: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => info.name = name,
            LinkAttribute::Mtu(mtu) => info.mtu = mtu,
            LinkAttribute::Address(bytes) => info.mac = bytes.try_into().unwrap_or_default(),
            LinkAttribute::IfAlias(alias) => info.alias = alias,
            LinkAttribute::LinkNetNsId(_) => info.elsewhere = true,
            LinkAttribute::LinkInfo(details) => info.kind = details.iter().find_map(kind).unwrap_or(Kind::Other),
            _ => {}
        }
    }
    info
}

fn kind(detail: &LinkDetail) -> Option<Kind> {
    match detail {
        LinkDetail::Kind(InfoKind::Veth) => Some(Kind::Veth),
        LinkDetail::Kind(InfoKind::Bridge) => Some(Kind::Bridge),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), [u8; 6])> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    Some(((message.header.ifindex, address?), hardware_address(message)?))
}

fn hardware_address(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

fn refused(attempt: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let attempt = attempt.into();
    |error| NetworkError::Netlink { attempt, source: Box::new(error) }
}

fn tolerate(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, errno) => Ok(()),
        other => other,
    }
}

fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
