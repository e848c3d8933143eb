//! A byte there and back, on a connection that is held.

use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Times, connect};

/// How long each exchange takes.
pub(super) fn times(to: SocketAddrV4, time: Duration) -> Result<Times> {
    let mut stream = connect::connection(to)?;
    let mut byte = [b'x'];
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut before = start;
    while before - start < time {
        stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)).context("the connection was lost")?;
        let now = Instant::now();
        times.push(u64::try_from((now - before).as_nanos())?);
        before = now;
    }
    Times::of(times)
}
