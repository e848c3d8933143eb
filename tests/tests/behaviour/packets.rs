//! Packets that most proxies forget: of one client to two addresses, in pieces, too large for the way.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::dialogue::{
    PORT, ask, ask_datagram, bulk, connect, greeted, internet_checksum, patience, udp_socket,
};
use fairlead_tests::harness::lab::{FAMILIES, Family};
use fairlead_tests::harness::manifest::{slices, with_annotation};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;
use socket2::{Domain, Protocol, Socket, Type};

use crate::change::paths;
use crate::subject::{Front, SOON, Subject, plain};

/// A connection from a port that others use, too.
fn connect_from(source: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&to.into(), patience()).with_context(|| format!("connect {source} to {to}"))?;
    greeted(socket.into())
}

pub(crate) fn two_addresses(subject: &mut Subject) -> Result<()> {
    for (round, id) in [11, 21].into_iter().enumerate() {
        let fronts = [subject.publish(30, plain(), &[id])?, subject.publish(31, plain(), &[id])?];
        for family in FAMILIES {
            let port = 25_000 + u16::try_from(round)?;
            let any = SocketAddr::new(if family == Family::V4 { "0.0.0.0" } else { "::" }.parse()?, port);
            let [first, second] = fronts;
            let outside = [first.node_port(family, 1), second.node_port(family, 1), first.load_balancer(family)];
            let inside = [first.cluster_ip(family), second.cluster_ip(family), first.node_port(family, 1)];
            for (place, targets) in [(subject.lab.client(1), outside), (&subject.pod(13).bypass, inside)] {
                let mut streams: Vec<TcpStream> =
                    place.run(|| targets.iter().map(|target| connect_from(any, *target)).collect())?;
                let socket = place.run(|| Ok(UdpSocket::bind(any)?))?;
                socket.set_read_timeout(Some(patience()))?;
                let mut clients = Vec::new();
                for turn in 0..3 {
                    for (stream, target) in streams.iter_mut().zip(targets) {
                        let (by, client) = ask(stream)?;
                        ensure!(by == id && ask_datagram(&socket, target, false, 9)?.0 == id, "{by} answered");
                        if turn == 0 {
                            clients.push(client);
                        }
                    }
                }
                clients.sort();
                clients.dedup();
                ensure!(clients.len() == targets.len(), "{id} cannot tell its clients apart: {clients:?}");
            }
        }
        fronts.into_iter().try_for_each(|front| subject.withdraw(front))?;
    }
    Ok(())
}

pub(crate) fn fragments(subject: &mut Subject) -> Result<()> {
    for id in [11, 21] {
        let front = subject.publish(32, plain(), &[id])?;
        for path in FAMILIES.into_iter().flat_map(|family| paths(subject, front, family)) {
            path.place
                .run(|| {
                    let socket = udp_socket(path.target)?;
                    for length in [8000, 100, 3000] {
                        ensure!(ask_datagram(&socket, path.target, false, length)?.0 == id);
                    }
                    Ok(())
                })
                .with_context(|| format!("{} to {} on {id}", path.name, path.target))?;
        }
        subject.withdraw(front)?;
    }
    for family in FAMILIES {
        let server = SocketAddr::new(family.client(1), PORT);
        for pod in [12, 22] {
            let asked = subject.pod(pod).net.run(|| ask_datagram(&udp_socket(server)?, server, false, 8000));
            asked.with_context(|| format!("pod {pod} to {server}, masqueraded"))?;
        }
    }
    Ok(())
}

/// A UDP datagram cut into pieces of at most 1400 bytes, as IP packets.
fn pieces(source: SocketAddr, target: SocketAddr, length: usize, id: u16) -> Vec<Vec<u8>> {
    let total = (8 + length) as u16;
    let mut datagram = [source.port().to_be_bytes(), target.port().to_be_bytes(), total.to_be_bytes(), [0; 2]].concat();
    datagram.resize(8 + length, b'x');
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let addresses = [octets(source), octets(target)].concat();
    let pseudo = [&addresses[..], &[0, 17], &total.to_be_bytes(), &datagram].concat();
    datagram[6..8].copy_from_slice(&internet_checksum(&pseudo));

    const PIECE: usize = 1400;
    let count = datagram.len().div_ceil(PIECE);
    let piece = |(number, bytes): (usize, &[u8])| {
        let (offset, more) = ((number * PIECE / 8) as u16, u16::from(number + 1 < count));
        let mut packet;
        if source.is_ipv4() {
            packet = vec![0x45, 0];
            packet.extend((20 + bytes.len() as u16).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend((more << 13 | offset).to_be_bytes());
            // The kernel fills the checksum in.
            packet.extend([64, 17, 0, 0]);
            packet.extend(&addresses);
        } else {
            packet = vec![0x60, 0, 0, 0];
            packet.extend((8 + bytes.len() as u16).to_be_bytes());
            packet.extend([44, 64]);
            packet.extend(&addresses);
            packet.extend([17, 0]);
            packet.extend((offset << 3 | more).to_be_bytes());
            packet.extend(u32::from(id).to_be_bytes());
        }
        packet.extend(bytes);
        packet
    };
    datagram.chunks(PIECE).enumerate().map(piece).collect()
}

/// Sends a datagram's pieces in this order; the whole of it must come back.
fn ask_in_pieces(place: &Namespace, source: SocketAddr, target: SocketAddr, order: [usize; 3]) -> Result<u8> {
    place.run(|| {
        let socket = UdpSocket::bind(source)?;
        socket.set_read_timeout(Some(patience()))?;
        let domain = Domain::for_address(target);
        let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW)))?;
        let id = order.iter().fold(source.port(), |id, place| id.wrapping_mul(3) + *place as u16);
        let pieces = pieces(source, target, 4000, id);
        for place in order {
            raw.send_to(&pieces[place], &SocketAddr::new(target.ip(), 0).into())?;
        }
        let mut buffer = vec![0; 1 << 16];
        let (len, from) = socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(len == 4000 && from == target, "{len} bytes came back from {from}");
        let text = String::from_utf8_lossy(&buffer[..8]).into_owned();
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    })
}

pub(crate) fn fragments_out_of_order(subject: &mut Subject) -> Result<()> {
    let mut port = 26_000;
    for id in [11, 21] {
        let front = subject.publish(33, plain(), &[id])?;
        for family in FAMILIES {
            let pod = subject.pod(13);
            for (place, address, target) in [
                (subject.lab.client(1), family.client(1), front.node_port(family, 1)),
                (&pod.bypass, pod.address(family), front.cluster_ip(family)),
            ] {
                for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]] {
                    port += 1;
                    let by = ask_in_pieces(place, SocketAddr::new(address, port), target, order)
                        .with_context(|| format!("{address} to {target} on {id}, pieces in the order {order:?}"))?;
                    ensure!(by == id);
                }
            }
        }
        subject.withdraw(front)?;
    }
    Ok(())
}

/// Puts a router with a narrow link between the nodes: whatever node 1 sends to pod 21 takes it.
fn narrow(subject: &Subject) -> Result<Namespace> {
    let (router, n1, n2) = (Namespace::new()?, &subject.lab.at(1).net, &subject.lab.at(2).net);
    router.forward()?;
    subject.lab.switch.connect("router", &router, "eth0")?;
    subject.lab.switch.enslave("router", "lan")?;
    router.connect("eth1", n2, "eth1")?;
    for (place, interface) in [(&router, "eth1"), (n2, "eth1")] {
        place.mtu(interface, 1400)?;
    }
    let lan: [(IpAddr, u8); 2] = [("192.0.2.250".parse()?, 24), ("2001:db8::250".parse()?, 64)];
    let near: [(IpAddr, IpAddr, u8); 2] =
        [("198.18.3.1".parse()?, "198.18.3.2".parse()?, 24), ("2001:db8:3::1".parse()?, "2001:db8:3::2".parse()?, 64)];
    for ((family, (address, prefix)), (ours, theirs, link)) in FAMILIES.into_iter().zip(lan).zip(near) {
        let alone = family.alone();
        router.address("eth0", address, prefix)?;
        router.address("eth1", ours, link)?;
        n2.address("eth1", theirs, link)?;
        n1.route("eth0", family.pod(2, 11), alone, Some(address))?;
        router.route("eth1", family.pod(2, 11), alone, Some(theirs))?;
        n2.route("eth1", family.node(1), alone, Some(ours))?;
        // Nearer than the way without the router.
        for half in halves(family) {
            n2.route("eth1", half, if family == Family::V4 { 25 } else { 65 }, Some(ours))?;
        }
        let net = family.lan();
        router.route("eth0", family.pod(1, 0), net, Some(family.node(1)))?;
    }
    wait_for("the second uplink of node 2", SOON, || {
        let uplink = subject.lab.at(2).fact("uplink eth1")?;
        ensure!(uplink.contains("198.18.3.2"), "it says {uplink:?}");
        Ok(())
    })?;
    Ok(router)
}

/// The lower and the upper half of node 1's pod network.
fn halves(family: Family) -> [IpAddr; 2] {
    match family.pod(1, 0) {
        IpAddr::V4(low) => [low.into(), IpAddr::V4((u32::from(low) | 1 << 7).into())],
        IpAddr::V6(low) => [low.into(), IpAddr::V6((u128::from(low) | 1 << 63).into())],
    }
}

pub(crate) fn path_mtu(subject: &mut Subject) -> Result<()> {
    let _router = narrow(subject)?;
    let front = subject.publish(34, plain(), &[21])?;
    let direct = Front(35);
    let mut objects = slices(&direct.name(), &[subject.end(21)]);
    objects.push(with_annotation(direct.manifest(plain()), "fairlead.io/dsr", "ipip"));
    subject.lab.manifests.put(&direct.name(), &objects)?;
    subject.in_force(direct, &[21])?;
    let (client, pod) = (subject.lab.client(1), subject.pod(13));
    for family in FAMILIES {
        for (what, place, target) in [
            ("SNAT", client, front.node_port(family, 1)),
            ("IPIP", client, direct.load_balancer(family)),
            ("a bypassing pod", &pod.bypass, front.cluster_ip(family)),
            ("a pod", &pod.net, front.cluster_ip(family)),
        ] {
            place.run(|| bulk(&mut connect(target)?)).with_context(|| format!("a bulk by {what} to {target}"))?;
        }
    }
    subject.withdraw(direct)?;
    subject.withdraw(front)?;
    // Away with the narrow way.
    for family in FAMILIES {
        let alone = family.alone();
        subject.lab.at(1).net.forget("eth0", family.pod(2, 11), alone)?;
    }
    subject.lab.switch.remove("router")?;
    subject.lab.at(2).net.remove("eth1")
}
