//! New connections: how many, and how long one takes.

use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Rate, Sources, Times};

/// Source ports that are still in use from before are skipped; more than this in a row are not.
const TRIES: u32 = 1000;
/// One connection takes no longer, or is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections that are each reset as soon as they stand: neither side waits for what might still be under way, so there
/// is no end to how many can be made.
pub(super) fn rate(to: SocketAddrV4, from: &Sources, at_once: usize, time: Duration) -> Result<Rate> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut number = 0;
    let mut sockets = Vec::with_capacity(at_once);
    for place in 0..at_once {
        sockets.push(begin(to, from, &mut number, &epoll, place)?);
    }
    let (mut done, mut failed) = (0, 0);
    let mut events = [EpollEvent::empty(); 256];
    let start = Instant::now();
    let mut last = start;
    while start.elapsed() < time {
        let ready = match epoll.wait(&mut events, EpollTimeout::from(100u8)) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => bail!("epoll_wait: {error}"),
        };
        for event in &events[..ready] {
            let place = event.data() as usize;
            match sockets[place].take_error()? {
                None => done += 1,
                Some(_) => failed += 1,
            }
            // Closes the old one, which resets it and takes it out of the set.
            sockets[place] = begin(to, from, &mut number, &epoll, place)?;
        }
        if ready > 0 {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            bail!("no connection to {to} came about within {PATIENCE:?}");
        }
    }
    Ok(Rate { done, failed, time: start.elapsed() })
}

/// A connection that is not waited for.
fn begin(to: SocketAddrV4, from: &Sources, number: &mut u64, epoll: &Epoll, place: usize) -> Result<Socket> {
    let mut last = None;
    for _ in 0..TRIES {
        let source = from.pair(*number);
        *number += 1;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        let begun = socket.bind(&source.into()).and_then(|()| match socket.connect(&SockAddr::from(to)) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(()),
        });
        match begun {
            Ok(()) => {
                let event = EpollEvent::new(EpollFlags::EPOLLOUT, place as u64);
                epoll.add(socket.as_fd(), event).context("epoll_ctl")?;
                return Ok(socket);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("cannot connect to {to}")),
        None => bail!("nothing was tried"),
    }
}

/// Connections one at a time, each waited for.
pub(super) fn times(to: SocketAddrV4, time: Duration) -> Result<Times> {
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_linger(Some(Duration::ZERO))?;
        let before = Instant::now();
        socket.connect(&SockAddr::from(to)).with_context(|| format!("cannot connect to {to}"))?;
        times.push(u64::try_from(before.elapsed().as_nanos())?);
    }
    Times::of(times)
}

/// One connection, in reasonable time.
pub(super) fn connection(to: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
