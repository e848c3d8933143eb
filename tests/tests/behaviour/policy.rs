//! Who may reach what, and as whom.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_tests::harness::dialogue::{PORT, Seen, ask, ask_datagram, bulk, connect, greeted, patience, tcp, udp};
use fairlead_tests::harness::lab::{FAMILIES, Family, http};
use fairlead_tests::harness::manifest::{End, slices};
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::change::paths;
use crate::subject::{Ending, SOON, Subject, ends, plain, seen_as};

pub(crate) fn health(subject: &mut Subject) -> Result<()> {
    for node in &subject.lab.nodes {
        for path in ["/healthz", "/livez"] {
            let (status, answer) = node.http(10256, path)?;
            ensure!(status == 200 && answer.contains("lastUpdated"), "{path} of {}: {answer}", node.name);
        }
    }
    let spec = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000});
    let front = subject.publish(1, spec, &[11, 12])?;
    let check = |node: u8, family: Family| {
        let at = SocketAddr::new(family.node(node), 32_000);
        subject.lab.client(1).run(|| http(at, "/"))
    };
    for family in FAMILIES {
        wait_for("the health check of node 1", SOON, || {
            let (status, answer) = check(1, family)?;
            ensure!(status == 200 && answer.contains("\"localEndpoints\":2"), "{answer}");
            ensure!(answer.to_lowercase().contains("x-load-balancing-endpoint-weight: 2"), "{answer}");
            ensure!(answer.contains("\"name\":\"s1\""), "{answer}");
            Ok(())
        })?;
        let (status, answer) = check(2, family).context("the health check of node 2")?;
        ensure!(status == 503 && answer.contains("\"localEndpoints\":0"), "{answer}");
    }
    subject.withdraw(front)?;
    wait_for("the end of the health check", SOON, || {
        ensure!(check(1, Family::V4).is_err(), "it still answers");
        Ok(())
    })
}

/// A connection from one of several addresses of this place.
fn from(address: IpAddr, to: SocketAddr) -> Result<Seen> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.connect_timeout(&to.into(), patience()).with_context(|| format!("connect {address} to {to}"))?;
    ask(&mut greeted(socket.into())?)
}

pub(crate) fn affinity(subject: &mut Subject) -> Result<()> {
    let config = |seconds: u32| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    // With affinity one client does not see all endpoints, so nobody waits for that.
    let all = [11, 12, 21];
    let write = |ids: &[u8], seconds| {
        subject.write(2, config(seconds), &ids.iter().map(|id| subject.end(*id)).collect::<Vec<_>>())
    };
    let front = write(&all, 4)?;
    let target = front.node_port(Family::V4, 1);
    let outside = subject.lab.client(1);
    wait_for("the Service", SOON, || outside.run(|| tcp(target)).map(drop))?;
    let clients: Vec<IpAddr> = (0..16).map(|last| IpAddr::from([192, 0, 2, 200 + last])).collect();
    for client in &clients {
        outside.address("eth0", *client, 24)?;
    }
    let first: Vec<u8> = outside.run(|| clients.iter().map(|client| Ok(from(*client, target)?.0)).collect())?;
    ensure!(first.iter().collect::<BTreeSet<_>>().len() > 1, "sixteen clients went to {first:?}");
    let all_again =
        || outside.run(|| clients.iter().map(|client| Ok(from(*client, target)?.0)).collect::<Result<Vec<u8>>>());
    for _ in 0..6 {
        sleep(Duration::from_secs(1));
        ensure!(all_again()? == first, "clients that came back within their time went elsewhere");
    }
    // The address is another one, and UDP another protocol: neither is bound by what TCP did, but each keeps to its own.
    let stays = |place: &Namespace, what: &str, ask: &(dyn Fn() -> Result<Seen> + Sync)| {
        let seen: BTreeSet<u8> = place.run(|| (0..12).map(|_| Ok(ask()?.0)).collect())?;
        ensure!(seen.len() == 1, "{what} went to {seen:?}");
        Ok(())
    };
    for family in FAMILIES {
        let vip = front.cluster_ip(family);
        stays(&subject.pod(12).net, "a pod", &|| tcp(vip))?;
        stays(&subject.pod(12).bypass, "a pod that bypasses the hooks", &|| tcp(vip))?;
        stays(&subject.lab.at(1).net, "a host", &|| tcp(vip))?;
        stays(outside, "a client outside", &|| udp(front.node_port(family, 1), false))?;
    }
    sleep(Duration::from_secs(7));
    ensure!(all_again()? != first, "all sixteen clients came back after their time to where they were");
    let gone = all_again()?;
    let left = [11, 21];
    write(&left, 4)?;
    let moved = wait_for("the change", SOON, || {
        let now = all_again()?;
        ensure!(now.iter().all(|id| left.contains(id)), "{now:?}");
        Ok(now)
    })?;
    let kept = gone.iter().zip(&moved).filter(|(before, _)| left.contains(before));
    for (before, now) in kept {
        ensure!(before == now, "a client whose endpoint stayed moved from {before} to {now}");
    }
    subject.withdraw(front)
}

pub(crate) fn source_ranges(subject: &mut Subject) -> Result<()> {
    let ranges = FAMILIES.map(|family| format!("{}/{}", family.client(1), family.alone()));
    let front = subject.publish(3, json!({"loadBalancerSourceRanges": ranges}), &[11, 21])?;
    for family in FAMILIES {
        for target in [front.load_balancer(family), front.node_port(family, 1)] {
            wait_for("the Service", SOON, || ends(subject.lab.client(1), target, Ending::Success))?;
        }
        // Their way to the load balancer's address is node 2.
        for target in [front.load_balancer(family), front.node_port(family, 1), front.node_port(family, 2)] {
            ends(subject.lab.client(2), target, Ending::Silence)?;
        }
        // Nobody inside is asked on a ClusterIP.
        ends(&subject.pod(12).net, front.cluster_ip(family), Ending::Success)?;
        ends(&subject.pod(12).bypass, front.cluster_ip(family), Ending::Success)?;
        ends(&subject.lab.at(1).net, front.load_balancer(family), Ending::Success)?;
        ends(&subject.pod(12).bypass, front.load_balancer(family), Ending::Silence)?;
        ends(&subject.pod(12).net, front.load_balancer(family), Ending::Refused)?;
    }
    let dropped: u64 = subject.lab.at(2).fact("packets drop_source_range")?.parse().unwrap_or(0);
    ensure!(dropped >= 4, "node 2 counted {dropped} drops");
    subject.withdraw(front)
}

pub(crate) fn local_without_endpoint(subject: &mut Subject) -> Result<()> {
    let spec = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let front = subject.write(4, spec.clone(), &[subject.end(21)])?;
    let node_2 = || subject.lab.at(2).net.run(|| tcp(front.cluster_ip(Family::V6)));
    wait_for("the Service", SOON, || node_2().map(drop))?;
    for family in FAMILIES {
        wait_for("the Service", SOON, || ends(&subject.lab.at(1).net, front.node_port(family, 1), Ending::Success))?;
        ends(subject.lab.client(1), front.node_port(family, 1), Ending::Silence)?;
        ends(subject.lab.client(1), front.load_balancer(family), Ending::Silence)?;
        ends(subject.lab.client(2), front.load_balancer(family), Ending::Success)?;
        // A socket is told at once; a packet is answered by silence.
        ends(&subject.pod(12).net, front.cluster_ip(family), Ending::Refused)?;
        ends(&subject.pod(12).bypass, front.cluster_ip(family), Ending::Silence)?;
    }
    subject.write(4, spec, &[])?;
    for family in FAMILIES {
        for (place, target) in [
            (subject.lab.client(1), front.node_port(family, 1)),
            (subject.lab.client(1), front.load_balancer(family)),
            (&subject.pod(12).net, front.cluster_ip(family)),
            (&subject.pod(12).bypass, front.cluster_ip(family)),
            (&subject.lab.at(1).net, front.node_port(family, 1)),
        ] {
            wait_for("the end of all endpoints", SOON, || ends(place, target, Ending::Refused))?;
        }
    }
    subject.withdraw(front)
}

/// Three quarters for one endpoint, one quarter for another, nothing for the third: by connections of every kind.
pub(crate) fn weights(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(12, plain(), &[11, 12, 21])?;
    let mut objects = slices(&front.name(), &[11, 12, 21].map(|id| subject.end(id)));
    for (slice, family) in objects.iter_mut().zip(FAMILIES) {
        let [heavy, light, none] = [11, 12, 21].map(|id| subject.pod(id).address(family));
        slice["metadata"]["annotations"] =
            json!({"fairlead.io/endpoint-weights": format!("{heavy}=3,{light}=1,{none}=0")});
    }
    objects.push(front.manifest(plain()));
    subject.lab.manifests.put(&front.name(), &objects)?;
    subject.in_force(front, &[11, 12])?;
    for path in FAMILIES.into_iter().flat_map(|family| paths(subject, front, family)) {
        const TIMES: u32 = 400;
        let mut heavy = 0;
        path.place.run(|| {
            for _ in 0..TIMES {
                let (id, _) = udp(path.target, false)?;
                ensure!(id != 21, "an endpoint of weight 0 was chosen");
                heavy += u32::from(id == 11);
            }
            Ok(())
        })?;
        // Five standard deviations of as many independent draws are 43.
        ensure!(heavy.abs_diff(TIMES * 3 / 4) <= 43, "{}: {heavy} of {TIMES} went to the heavy one", path.name);
    }
    subject.withdraw(front)
}

pub(crate) fn ending_endpoints(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(5, plain(), &[11, 12])?;
    let ending = [subject.end(11).ending(), subject.end(12)];
    subject.write(5, plain(), &ending)?;
    subject.in_force(front, &[12]).context("one ends, another is ready")?;
    let unready = End { serving: false, ..subject.end(12).ending() };
    subject.write(5, plain(), &[subject.end(11).ending(), unready])?;
    subject.in_force(front, &[11]).context("one ends and serves, another serves no longer")?;
    subject.withdraw(front)
}

pub(crate) fn loopback(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(6, plain(), &[11, 21])?;
    for address in ["127.0.0.1", "::1"] {
        let target = SocketAddr::new(address.parse()?, front.port());
        let seen: BTreeSet<u8> = subject.lab.at(1).net.run(|| (0..16).map(|_| Ok(tcp(target)?.0)).collect())?;
        ensure!(seen == [11, 21].into(), "{target} led to {seen:?}");
        subject.lab.at(1).net.run(|| udp(target, true).and_then(|_| udp(target, false)))?;
        ends(&subject.lab.at(2).net, target, Ending::Refused).context("not asked for on node 2")?;
        // A pod's loopback is its own.
        ends(&subject.pod(11).net, target, Ending::Refused).context("a pod of node 1")?;
    }
    subject.withdraw(front)
}

pub(crate) fn external_ips(subject: &mut Subject) -> Result<()> {
    let addresses: [IpAddr; 2] = ["203.0.113.9".parse()?, "2001:db8:ee::9".parse()?];
    let front = subject.publish(7, json!({"externalIPs": addresses}), &[11])?;
    for (family, address) in FAMILIES.into_iter().zip(addresses) {
        let target = SocketAddr::new(address, 80);
        for client in [1, 2] {
            let prefix = family.alone();
            subject.lab.client(client).route("eth0", address, prefix, Some(family.node(client)))?;
        }
        let seen = subject.lab.client(1).run(|| tcp(target))?;
        seen_as(seen, 11, family.client(1))?;
        subject.pod(12).net.run(|| tcp(target))?;
        subject.pod(12).bypass.run(|| tcp(target))?;
        let by_node_2 =
            subject.lab.client(2).run(|| Ok(TcpStream::connect_timeout(&target, Duration::from_millis(400))))?;
        ensure!(by_node_2.is_err(), "node 2 answers on an external address although nobody asked for that");
    }
    subject.withdraw(front)
}

pub(crate) fn hairpin(subject: &mut Subject) -> Result<()> {
    let fronts = [(subject.publish(8, plain(), &[12])?, 12, 1), (subject.publish(9, plain(), &[22])?, 22, 2)];
    for (front, id, node) in fronts {
        let pod = subject.pod(id);
        for (family, (name, place)) in FAMILIES
            .into_iter()
            .flat_map(|family| [("by hooks", &pod.net), ("bypassing", &pod.bypass)].map(|place| (family, place)))
        {
            for target in [front.cluster_ip(family), front.node_port(family, node), front.load_balancer(family)] {
                place
                    .run(|| {
                        ensure!(tcp(target)?.0 == id && udp(target, false)?.0 == id && udp(target, true)?.0 == id);
                        bulk(&mut connect(target)?)
                    })
                    .with_context(|| format!("pod {id} to itself by {target}, {name}"))?;
            }
        }
        subject.withdraw(front)?;
    }
    Ok(())
}

pub(crate) fn host_endpoint(subject: &mut Subject) -> Result<()> {
    // Every node has a server whose number is its own.
    let node_end = |node: u8| End::new(FAMILIES.map(|family| family.node(node)), &subject.lab.at(node).name);
    for node in [1, 2] {
        let front = subject.write(10, plain(), &[node_end(node)])?;
        subject.in_force(front, &[node])?;
        for family in FAMILIES {
            let expected = if node == 1 { family.client(1) } else { family.node(1) };
            for target in [front.node_port(family, 1), front.load_balancer(family)] {
                seen_as(subject.lab.client(1).run(|| tcp(target))?, node, expected)?;
            }
            for place in [&subject.pod(11).net, &subject.pod(11).bypass, &subject.lab.at(1).net] {
                place.run(|| {
                    ensure!(tcp(front.cluster_ip(family))?.0 == node);
                    // A UDP server with several addresses answers under the nearest, not under the one asked.
                    if node != 1 {
                        udp(front.cluster_ip(family), false)?;
                    }
                    Ok(())
                })?;
            }
        }
        subject.withdraw(front)?;
    }
    Ok(())
}

pub(crate) fn masquerade(subject: &mut Subject) -> Result<()> {
    for family in FAMILIES {
        // Client 2 knows the way back to node 2's pods, which come under their own address.
        let net = family.lan();
        subject.lab.client(2).route("eth0", family.pod(2, 0), net, Some(family.node(2)))?;
        for (pod, client, expected) in
            [(11, 1, family.node(1)), (11, 2, family.node(1)), (21, 1, family.node(2)), (21, 2, family.pod(2, 11))]
        {
            let server = SocketAddr::new(family.client(client), PORT);
            for place in [&subject.pod(pod).net, &subject.pod(pod).bypass] {
                place.run(|| {
                    seen_as(tcp(server)?, 100 + client, expected)?;
                    seen_as(udp(server, false)?, 100 + client, expected)
                })?;
            }
        }
    }
    Ok(())
}

/// What `fairlead explain` says of a packet: the endpoints that may be chosen, and the one that would be, if it can tell.
fn foretold(subject: &Subject, arguments: &[&str]) -> Result<(BTreeSet<String>, Option<String>)> {
    let told = subject.lab.at(1).ask(&[&["explain"], arguments, &["-o", "json"]].concat())?;
    let told: Value = serde_json::from_str(&told)?;
    let candidates = told["candidates"].as_array().with_context(|| format!("no candidates: {told}"))?;
    let address = |candidate: &Value| candidate["address"].as_str().unwrap_or_default().to_owned();
    let chosen = candidates.iter().find(|candidate| candidate["chosen"] == true);
    Ok((candidates.iter().map(address).collect(), chosen.map(address)))
}

pub(crate) fn explain(subject: &mut Subject) -> Result<()> {
    let front = subject.publish(11, plain(), &[11, 12, 13, 21, 22])?;
    for family in FAMILIES {
        let (client, target) = (family.client(1), front.node_port(family, 1));
        let asked = format!("{target}/udp");
        for port in 20_000..20_012 {
            let source = SocketAddr::new(client, port);
            let question = [&source.to_string(), "->", &asked, "--from", "uplink"];
            let (_, told) = foretold(subject, &question)?;
            let (id, _) = subject.lab.client(1).run(|| {
                let socket = UdpSocket::bind(source)?;
                socket.set_read_timeout(Some(patience()))?;
                ask_datagram(&socket, target, false, 5)
            })?;
            let went = SocketAddr::new(subject.pod(id).address(family), PORT).to_string();
            ensure!(Some(&went) == told.as_ref(), "{source} to {target} went to {went}; explain had said {told:?}");
            let (_, again) = foretold(subject, &question)?;
            ensure!(Some(&went) == again.as_ref(), "of the flow that is there it says {again:?}, not {went}");
        }
        // A socket is pointed at an endpoint in turn: which one, nobody knows before; but one of those it names.
        let (pod, vip) = (subject.pod(12), front.cluster_ip(family));
        let (candidates, told) =
            foretold(subject, &[&pod.address(family).to_string(), "->", &format!("{vip}/tcp"), "--from", "pod"])?;
        ensure!(told.is_none() && candidates.len() == 5, "of a socket it says {told:?} of {candidates:?}");
        for _ in 0..10 {
            let (id, _) = pod.net.run(|| tcp(vip))?;
            let went = SocketAddr::new(subject.pod(id).address(family), PORT).to_string();
            ensure!(candidates.contains(&went), "{went} is none of {candidates:?}");
        }
    }
    subject.publish(11, json!({"externalTrafficPolicy": "Local"}), &[21])?;
    wait_for("the policy", SOON, || ends(subject.lab.client(1), front.node_port(Family::V4, 1), Ending::Silence))?;
    let asked = format!("{}/tcp", front.node_port(Family::V4, 1));
    let told = subject.lab.at(1).ask(&["explain", "192.0.2.101:1234", "->", &asked])?;
    ensure!(told.contains("drop_no_local_endpoint"), "of a drop it says {told}");
    subject.withdraw(front)
}
