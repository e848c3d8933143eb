//! Datagrams, made as whole frames: what the sender's own sockets would cost is left out, and a flow costs it nothing.

use std::io::IoSlice;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike, sendmmsg, socket,
};

use super::{Flows, Rate, Sources};

/// Frames per system call.
const BATCH: usize = 32;
/// Bytes of a frame: the least that Ethernet carries, without its checksum.
const FRAME: usize = 60;
const IP: usize = 14;
const UDP: usize = 34;

/// Sends frames as fast as the path takes them.
pub(super) fn rate(
    interface: &str,
    gateway: [u8; 6],
    to: SocketAddrV4,
    from: &Sources,
    flows: Flows,
    time: Duration,
) -> Result<Rate> {
    let link = link(interface)?;
    // Protocol 0: nothing is received, and the kernel reads what is sent in the frame.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).context("no packet socket")?;
    let mut frames = [[0; FRAME]; BATCH];
    frames.iter_mut().for_each(|frame| prepare(frame, gateway, link.addr().unwrap_or_default(), to));
    let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
    let addresses = [Some(link); BATCH];
    let (mut number, mut sent) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        for frame in &mut frames {
            let flow = if let Flows::Held(flows) = flows { number % flows } else { number };
            address(frame, from.pair(flow));
            number += 1;
        }
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|place| [IoSlice::new(&frames[place])]);
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty()) {
            Ok(done) => sent += done.count() as u64,
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => (),
            Err(error) => return Err(error).context("cannot send frames"),
        }
    }
    Ok(Rate { done: sent, failed: number - sent, time: start.elapsed() })
}

/// The address of an interface among packet sockets.
fn link(interface: &str) -> Result<LinkAddr> {
    let all = nix::ifaddrs::getifaddrs().context("cannot list interfaces")?;
    let mut links = all.filter(|found| found.interface_name == interface).filter_map(|found| found.address);
    links
        .find_map(|address| {
            let is_link = address.family() == Some(AddressFamily::Packet);
            if is_link { address.as_link_addr().copied() } else { None }
        })
        .with_context(|| format!("no interface {interface} here"))
}

/// What all frames have in common.
fn prepare(frame: &mut [u8; FRAME], gateway: [u8; 6], own: [u8; 6], to: SocketAddrV4) {
    frame[..6].copy_from_slice(&gateway);
    frame[6..12].copy_from_slice(&own);
    frame[12] = 8;
    let total = (FRAME - IP) as u16;
    frame[IP] = 0x45;
    frame[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    frame[IP + 8..IP + 10].copy_from_slice(&[64, 17]);
    frame[IP + 16..IP + 20].copy_from_slice(&to.ip().octets());
    frame[UDP + 2..UDP + 4].copy_from_slice(&to.port().to_be_bytes());
    frame[UDP + 4..UDP + 6].copy_from_slice(&(total - 20).to_be_bytes());
}

/// Writes where a frame comes from. UDP over IPv4 may go without a checksum.
fn address(frame: &mut [u8; FRAME], from: SocketAddrV4) {
    frame[IP + 12..IP + 16].copy_from_slice(&from.ip().octets());
    frame[UDP..UDP + 2].copy_from_slice(&from.port().to_be_bytes());
    frame[IP + 10..IP + 12].fill(0);
    let words = frame[IP..UDP].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[IP + 10..IP + 12].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_datagram_with_a_header_that_sums_up() {
        let mut frame = [0; FRAME];
        prepare(&mut frame, [1; 6], [2; 6], "10.0.0.1:53".parse().unwrap());
        for number in [0, 1, 59_999, 60_000, 1 << 40] {
            let sources = Sources { addresses: vec!["10.1.0.1".parse().unwrap()], first: 7 };
            let pair = sources.pair(number);
            address(&mut frame, pair);
            let words = frame[IP..UDP].chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
            assert_eq!(words.sum::<u64>() % 0xffff, 0);
            assert_eq!(frame[UDP..UDP + 2], pair.port().to_be_bytes());
            assert!((2000..62_000).contains(&pair.port()));
        }
        assert_eq!(frame[12..16], [8, 0, 0x45, 0]);
    }
}
