//! A sender that is faster than sockets are closed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairlead_datapath::find_pods;
use fairlead_source::Service;
use fairlead_tests::harness::dialogue::udp_socket;
use fairlead_tests::harness::namespace::Namespace;
use fairlead_tests::wait_for;

use crate::{CLIENT, ECHO, NODE_PORT, SERVERS, World, service, shared};

/// Datagrams that came to a namespace's sockets or found none. Each family counts its own, and counts one that a socket
/// took when it is read: nothing is said before all are.
fn arrived(pod: &Namespace) -> Result<u64> {
    let mut last = None;
    wait_for("a server to read all it was sent", Duration::from_secs(10), || {
        let (unread, counted) = pod.run(|| Ok((unread()?, counted()?)))?;
        ensure!(unread == 0, "{unread} bytes are unread");
        let settled = last.replace(counted) == Some(counted);
        ensure!(settled, "it is still reading");
        Ok(counted)
    })
}

/// Bytes that wait in the datagram sockets of this thread's namespace.
fn unread() -> Result<u64> {
    let mut sum = 0;
    for file in ["udp", "udp6"] {
        for socket in fs::read_to_string(format!("/proc/thread-self/net/{file}"))?.lines().skip(1) {
            let queues = socket.split_whitespace().nth(4).context("no queues")?;
            sum += u64::from_str_radix(queues.split_once(':').context("one queue")?.1, 16)?;
        }
    }
    Ok(sum)
}

fn counted() -> Result<u64> {
    let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
    let mut lines = v4.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split_whitespace());
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let v4 = names.zip(values);
    let v6 = v6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let all = v4.chain(v6.map(|(name, value)| (name.trim_start_matches("Udp6"), value.trim())));
    let all = all.filter(|(name, _)| matches!(*name, "InDatagrams" | "RcvbufErrors" | "NoPorts"));
    all.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

/// Sends as fast as it can, from one connected socket, until that is closed, and counts what it has sent.
fn send_on(target: SocketAddr, sent: &AtomicU64) -> Result<()> {
    let socket = udp_socket(target)?;
    socket.connect(target)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        match socket.send(b"once more") {
            Ok(_) => sent.fetch_add(1, Ordering::SeqCst),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EDESTADDRREQ) => return Ok(()),
            Err(error) => return Err(error).context("a datagram was not sent"),
        };
    }
    bail!("the socket was never closed")
}

/// Sockets are closed milliseconds after their endpoint was removed; what they send until then must not arrive.
pub(crate) fn flood(world: &mut World) -> Result<()> {
    for pod in find_pods(&world.interfaces)? {
        world.datapath.attach_pod(&pod)?;
    }
    for (target, from) in
        ECHO.into_iter().flat_map(|ip| [None, Some(CLIENT)].map(|from| (SocketAddr::new(ip, 80), from)))
    {
        world.served_by(&SERVERS[..1])?;
        let (first, refused) = (arrived(&world.pods[&SERVERS[0]])?, world.counter("drop_endpoint_gone")?);
        let place = from.map(|id| File::open(world.pods[&id].path())).transpose()?;
        let sent = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let sent = Arc::clone(&sent);
            move || {
                if let Some(place) = place {
                    nix::sched::setns(place, nix::sched::CloneFlags::CLONE_NEWNET)?;
                }
                send_on(target, &sent)
            }
        });
        wait_for("the sender", Duration::from_secs(10), || {
            ensure!(sent.load(Ordering::SeqCst) > 1000, "it sent little");
            Ok(())
        })?;
        let service = Service { cluster_ips: ECHO.to_vec(), ..service("echo", Some(NODE_PORT), &SERVERS[1..]) };
        world.datapath.sync(vec![(service.name.clone(), Some(service))])?;
        let start = Instant::now();
        let until_change = sent.load(Ordering::SeqCst);
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let closed = start.elapsed();
        let sent = sent.load(Ordering::SeqCst);
        let arrived = arrived(&world.pods[&SERVERS[0]])? - first;
        let refused = world.counter("drop_endpoint_gone")? - refused;
        println!(
            "{target} from {from:?}: {until_change} sent until the change and {} after it, until the socket was closed \
             after {closed:?}; {arrived} arrived, {refused} were dropped",
            sent - until_change
        );
        ensure!(arrived + refused + 200 > sent, "too many were lost on the way for this to say anything");
        // One may have been on its way while the change was made.
        ensure!(arrived <= until_change + 1, "{} reached the removed endpoint", arrived - until_change);
    }
    world.served_by(&SERVERS)?;
    // Nothing of this outlasts the closing: other sockets of the same endpoint, by other services, lose nothing.
    shared(world)
}
