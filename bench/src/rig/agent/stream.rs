//! As many bytes as get through.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Rate, connect};

/// What one call hands to the kernel.
const PIECE: usize = 128 << 10;
/// Part of the time that is not counted: windows are still opening.
const WARM: u32 = 5;

/// Bytes that the other side got. What was sent before the connections were warm is not counted; what is still under way
/// at the end is waited for.
pub(super) fn rate(to: SocketAddrV4, streams: usize, time: Duration) -> Result<Rate> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut connections = Vec::with_capacity(streams);
    for place in 0..streams {
        let stream = connect::connection(to)?;
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, place as u64))?;
        stream.set_nonblocking(true)?;
        connections.push(stream);
    }
    let warm = time / WARM;
    send(&mut connections, &epoll, warm)?;
    let start = Instant::now();
    let sent = send(&mut connections, &epoll, time - warm)?;
    // As much is under way now as was at the start, within the size of a window.
    let time = start.elapsed();
    for stream in &mut connections {
        stream.set_nonblocking(false)?;
        stream.shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).context("the connection was lost")?;
        ensure!(received.len() == 8, "the other side did not say how much it got");
    }
    Ok(Rate { done: sent, failed: 0, time })
}

/// Writes to whichever connection takes something.
fn send(connections: &mut [TcpStream], epoll: &Epoll, time: Duration) -> Result<u64> {
    let piece = vec![0; PIECE];
    let mut events = [EpollEvent::empty(); 64];
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < time {
        let ready = epoll.wait(&mut events, EpollTimeout::from(100u8))?;
        for event in &events[..ready] {
            match connections[event.data() as usize].write(&piece) {
                Ok(written) => sent += written as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => (),
                Err(error) => return Err(error).context("the connection was lost"),
            }
        }
    }
    Ok(sent)
}
