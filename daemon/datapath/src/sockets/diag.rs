//! Messages of `NETLINK_SOCK_DIAG`: which sockets talk to an address, and the end of one.
//!
//! The kernel filters: a question carries a little program (`INET_DIAG_REQ_BYTECODE`) that it runs on each socket, so a
//! node with a hundred thousand connections hands over the few that are asked for. The layouts are those of
//! `linux/inet_diag.h`.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

use crate::netlink::Netlink;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// States that can be connected: all but TIME_WAIT (6), CLOSE (7), LISTEN (10) and NEW_SYN_RECV (12). A connected UDP
/// socket is ESTABLISHED (1).
const CONNECTED: u32 = 0b1011_0011_1110;

/// Bytes of a `struct inet_diag_sockid`.
const ID: usize = 48;
/// Where it begins in a `struct inet_diag_msg`.
const ID_AT: usize = 4;

/// A socket as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// The kernel's name for it, the same that programs see.
    pub(super) cookie: u64,
    /// Whom it talks to. An IPv4 peer of an IPv6 socket stands as IPv4.
    pub(super) peer: SocketAddr,
    family: u8,
    id: [u8; ID],
}

/// Sockets of this namespace connected to one of these addresses.
pub(super) fn connected(netlink: &Netlink, proto: u8, ends: &[SocketAddr]) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    let filter = filter(ends);
    for family in FAMILIES {
        let answers = netlink.dump(Diag { kind: SOCK_DIAG_BY_FAMILY, body: dump_request(family, proto, &filter) })?;
        found.extend(answers.iter().filter_map(|answer| Socket::read(&answer.body)));
    }
    // A kernel that ignored the filter must not make us close anybody else.
    found.retain(|socket| ends.contains(&socket.peer));
    Ok(found)
}

/// Ends a socket: its owner gets `ECONNABORTED`, a TCP peer a reset.
pub(super) fn destroy(netlink: &Netlink, proto: u8, socket: &Socket) -> io::Result<()> {
    netlink.ask(Diag { kind: SOCK_DESTROY, body: request(socket.family, proto, &socket.id) }).map(drop)
}

/// Whether the kernel would do that: tried on a socket that cannot be, once the protocol is seen to be known.
pub(super) fn can_destroy(netlink: &Netlink, proto: u8) -> io::Result<bool> {
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    netlink.dump(Diag { kind: SOCK_DIAG_BY_FAMILY, body: dump_request(FAMILIES[0], proto, &filter(&[nobody])) })?;
    match netlink.ask(Diag { kind: SOCK_DESTROY, body: request(FAMILIES[0], proto, &[0; ID]) }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        other => other.map(|_| false),
    }
}

/// A message of either direction, without its header.
#[derive(Clone, Debug)]
struct Diag {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for Diag {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Diag {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}

/// A `struct inet_diag_req_v2`.
fn request(family: u8, proto: u8, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, proto, 0, 0];
    body.extend(CONNECTED.to_ne_bytes());
    body.extend(id);
    body
}

/// The same with a filter as its attribute.
fn dump_request(family: u8, proto: u8, filter: &[u8]) -> Vec<u8> {
    let mut body = request(family, proto, &[0; ID]);
    body.extend((filter.len() as u16 + 4).to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);
    body
}

/// The kernel's program for "talks to one of these": conditions one after the other. One that holds goes on to a jump
/// to the end, which accepts; one that does not goes to the next condition, and the last one past the end, which
/// refuses. The kernel matches an IPv4 condition with mapped addresses, too.
fn filter(ends: &[SocketAddr]) -> Vec<u8> {
    const JUMP: u8 = 1;
    const PEER: u8 = 8;
    /// A `struct inet_diag_bc_op`: code, distance if it holds, distance if not.
    const OP: usize = 4;
    let size = |end: &SocketAddr| 2 * OP + 4 + if end.is_ipv4() { 4 } else { 16 };
    let mut left = ends.iter().map(|end| size(end) + OP).sum::<usize>() - OP * usize::from(!ends.is_empty());
    let mut code = Vec::with_capacity(left);
    for (index, end) in ends.iter().enumerate() {
        let size = size(end);
        let (family, address) = match end.ip() {
            IpAddr::V4(v4) => (FAMILIES[0], v4.octets().to_vec()),
            IpAddr::V6(v6) => (FAMILIES[1], v6.octets().to_vec()),
        };
        code.extend([PEER, size as u8]);
        code.extend((size as u16 + OP as u16).to_ne_bytes());
        // A `struct inet_diag_hostcond`.
        code.extend([family, address.len() as u8 * 8, 0, 0]);
        code.extend(i32::from(end.port()).to_ne_bytes());
        code.extend(address);
        left -= size;
        if index + 1 < ends.len() {
            code.extend([JUMP, OP as u8]);
            code.extend((left as u16).to_ne_bytes());
            left -= OP;
        }
    }
    code
}

impl Socket {
    /// Reads a `struct inet_diag_msg`.
    fn read(body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let id: [u8; ID] = body.get(ID_AT..ID_AT + ID)?.try_into().ok()?;
        let port = u16::from_be_bytes(id[2..4].try_into().ok()?);
        let ip = if family == FAMILIES[0] {
            IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&id[20..24]).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&id[20..36]).ok()?)).to_canonical()
        };
        let cookie = u64::from_ne_bytes(id[40..48].try_into().ok()?);
        Some(Self { cookie, peer: SocketAddr::new(ip, port), family, id })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use netlink_sys::protocols::NETLINK_SOCK_DIAG;

    use super::*;

    /// What the kernel does with a filter (`inet_diag_bc_run`), for peers alone.
    fn accepts(code: &[u8], peer: SocketAddr) -> bool {
        let mut at = 0;
        while at < code.len() {
            let (yes, no) = (code[at + 1] as usize, u16::from_ne_bytes([code[at + 2], code[at + 3]]) as usize);
            let holds = code[at] == 8 && {
                let port = i32::from_ne_bytes(code[at + 8..at + 12].try_into().unwrap());
                let address = &code[at + 12..at + 12 + code[at + 5] as usize / 8];
                port == i32::from(peer.port())
                    && match peer.ip() {
                        IpAddr::V4(v4) => address == v4.octets(),
                        IpAddr::V6(v6) => address == v6.octets(),
                    }
            };
            at += if holds { yes } else { no };
        }
        at == code.len()
    }

    #[test]
    fn a_filter_accepts_what_it_names_and_nothing_else() {
        let ends: Vec<SocketAddr> =
            ["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:53", "[fd00::2]:53"].map(|end| end.parse().unwrap()).to_vec();
        for count in 1..=ends.len() {
            let code = filter(&ends[..count]);
            for (index, end) in ends.iter().enumerate() {
                assert_eq!(accepts(&code, *end), index < count, "{end} among the first {count}");
            }
            assert!(!accepts(&code, "10.0.0.1:81".parse().unwrap()));
            assert!(!accepts(&code, "[fd00::1]:53".parse().unwrap()));
        }
        let many: Vec<SocketAddr> = (0..256).map(|i| SocketAddr::from((Ipv6Addr::from(i), 9))).collect();
        let code = filter(&many);
        assert!(many.iter().all(|end| accepts(&code, *end)) && !accepts(&code, ends[0]));
    }

    #[test]
    fn the_kernel_finds_connected_sockets_of_both_families_by_peer() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let end = target.local_addr().unwrap();
        let (plain, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        plain.connect(end).unwrap();
        other.connect("127.0.0.1:9").unwrap();
        let netlink = Netlink::open(NETLINK_SOCK_DIAG).unwrap();
        // Two conditions before it, so that jumps are taken.
        let ends = ["[::5]:5".parse().unwrap(), "192.0.2.1:9".parse().unwrap(), end];
        let found = match connected(&netlink, 17, &ends) {
            Ok(found) => found,
            Err(error) => return eprintln!("skipped: this kernel does not list UDP sockets ({error})"),
        };
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].peer, end);
        assert_ne!(found[0].cookie, 0);
    }
}
