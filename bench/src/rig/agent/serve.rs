//! The other side: one process on all addresses of its namespace, however many endpoints a service has, so that a peer
//! with two endpoints wakes no more processes than one without a service.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Ports, Request, Response, answer};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// What one call takes from the kernel.
const PIECE: usize = 256 << 10;

/// A connection, and what it is for.
struct Peer {
    stream: TcpStream,
    /// Bytes counted; `None` where they are sent back.
    taken: Option<u64>,
}

/// Answers on both ports, and through the pipe, until the pipe ends.
pub(super) fn serve(ports: Ports) -> Result<()> {
    let (echo, sink) = (listen(ports.echo)?, listen(ports.sink)?);
    // Never read: datagrams are counted at the interface, and what this socket has no room for is dropped.
    let _datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ports.echo)).context("cannot take datagrams")?;
    let stdin = std::io::stdin();
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let fd = |source: RawFd| source as u64;
    epoll.add(&echo, EpollEvent::new(EpollFlags::EPOLLIN, fd(echo.as_raw_fd())))?;
    epoll.add(&sink, EpollEvent::new(EpollFlags::EPOLLIN, fd(sink.as_raw_fd())))?;
    epoll.add(stdin.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, fd(stdin.as_raw_fd())))?;
    let mut peers: HashMap<u64, Peer> = HashMap::new();
    let mut buffer = vec![0; PIECE];
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => bail!("epoll_wait: {error}"),
        };
        for event in &events[..ready] {
            let source = event.data();
            if source == fd(stdin.as_raw_fd()) {
                // Requests come one at a time, so no second line is left in the buffer.
                let mut line = String::new();
                if stdin.lock().read_line(&mut line)? == 0 {
                    return Ok(());
                }
                answer(carry_out(&line))?;
            } else if source == fd(echo.as_raw_fd()) {
                accept(&echo, None, &epoll, &mut peers)?;
            } else if source == fd(sink.as_raw_fd()) {
                accept(&sink, Some(0), &epoll, &mut peers)?;
            } else if let Some(peer) = peers.get_mut(&source)
                && !is_alive(peer, &mut buffer)
            {
                peers.remove(&source);
            }
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    let all = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    socket.bind(&SockAddr::from(all)).with_context(|| format!("cannot listen on {all}"))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, taken: Option<u64>, epoll: &Epoll, peers: &mut HashMap<u64, Peer>) -> Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // Reset while it waited.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("cannot accept"),
        };
        // It may block, but is only read from when there is something: one system call less per connection.
        if taken.is_none() && stream.set_nodelay(true).is_err() {
            continue;
        }
        let name = stream.as_raw_fd() as u64;
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, name))?;
        peers.insert(name, Peer { stream, taken });
    }
}

/// Takes what is there; false once nothing more comes.
fn is_alive(peer: &mut Peer, buffer: &mut [u8]) -> bool {
    match (peer.stream.read(buffer), &mut peer.taken) {
        (Ok(0), Some(taken)) => {
            let _ = peer.stream.write_all(&taken.to_be_bytes());
            false
        }
        (Ok(0), None) => false,
        (Ok(read), Some(taken)) => {
            *taken += read as u64;
            true
        }
        (Ok(read), None) => peer.stream.write_all(&buffer[..read]).is_ok(),
        (Err(error), _) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

fn carry_out(line: &str) -> Result<Response> {
    match serde_json::from_str(line)? {
        Request::Received { interface } => Ok(Response::Count(super::received(&interface)?)),
        other => bail!("a server cannot do this: {other:?}"),
    }
}
