//! The uplink's fast side: packets are translated in the driver's buffer and handed to the stack, which routes them to
//! the pod's interface.
//!
//! Two programs, so that a real card does not pay for virtual ones: behind a veth the sender may have left the checksum
//! unfinished, which shows as the bare pseudo-header sum in its field. One finished checksum in 65536 is that number
//! too and is taken for an unfinished one: XDP is not told which it is.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use fairlead_abi::{Counter, proto};
use fairlead_packet::{checksum, net};

use crate::maps::count;
use crate::parse::{Action, End, HEAD, Packet, Parsed, Verdict, parse};
use crate::skb::check_offset;
use crate::tc_uplink::arrive;

/// For interfaces with hardware behind them.
#[xdp]
pub(crate) fn xdp_service(ctx: XdpContext) -> u32 {
    run::<false>(&ctx)
}

/// For virtual interfaces.
#[xdp]
pub(crate) fn xdp_service_veth(ctx: XdpContext) -> u32 {
    run::<true>(&ctx)
}

#[inline(always)]
fn run<const UNFINISHED: bool>(ctx: &XdpContext) -> u32 {
    let Some(head) = at::<[u8; HEAD]>(ctx, 0) else {
        return XDP_PASS;
    };
    // SAFETY: `at` checked that the bytes are inside the packet.
    let mut packet = match parse(unsafe { &*head }) {
        Parsed::Packet(packet) => packet,
        Parsed::Awkward => {
            count(Counter::PassedUntranslated);
            return XDP_PASS;
        }
        Parsed::Foreign => return XDP_PASS,
    };
    if packet.proto == proto::TCP {
        let Some(flags) = at::<u8>(ctx, net::L4 + 13) else {
            return XDP_PASS;
        };
        // SAFETY: as above.
        packet.flags = unsafe { *flags };
    }
    let verdict = arrive(&packet);
    match verdict.action {
        Action::Continue | Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Rewrite => match rewrite::<UNFINISHED>(ctx, &packet, verdict) {
            Some(()) => XDP_PASS,
            None => {
                count(Counter::DropRewrite);
                XDP_DROP
            }
        },
    }
}

/// A pointer into the packet, if what it points to is all inside.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

#[inline(always)]
fn rewrite<const UNFINISHED: bool>(ctx: &XdpContext, packet: &Packet, verdict: Verdict) -> Option<()> {
    let Verdict { end, addr, port, .. } = verdict;
    let icmp = packet.proto == proto::ICMP;
    let (old_addr, old_port, addr_at, port_at) = match end {
        End::Source => (packet.src, packet.sport, net::ETH_LEN + 12, net::L4),
        End::Destination => (packet.dst, packet.dport, net::ETH_LEN + 16, net::L4 + 2),
    };
    // Where an echo's one id stands, whichever end it belongs to.
    let (old_port, port_at) = if icmp { (packet.sport, net::L4 + 4) } else { (old_port, port_at) };
    let change = checksum::delta_addr(old_addr, addr);
    let port_change = checksum::delta_port(old_port, port);

    let ip_check = at::<u16>(ctx, net::ETH_LEN + 10)?;
    let new_addr = at::<[u8; 4]>(ctx, addr_at)?;
    let new_port = at::<[u8; 2]>(ctx, port_at)?;
    let l4_check = at::<u16>(ctx, net::L4 + check_offset(packet.proto))?;
    // SAFETY: `at` checked that each lies inside the packet; offsets of 16-bit fields are even in a frame that starts
    // aligned, and the target reads unaligned words anyway.
    unsafe {
        let field = l4_check.read_unaligned();
        let unfinished = UNFINISHED && !icmp && field == pseudo(ctx, packet)?;
        let field = match packet.proto {
            _ if unfinished => checksum::apply_partial(field, change),
            proto::TCP => checksum::apply(field, change + port_change),
            proto::UDP => checksum::apply_udp(field, change + port_change),
            _ => checksum::apply(field, port_change),
        };
        l4_check.write_unaligned(field);
        ip_check.write_unaligned(checksum::apply(ip_check.read_unaligned(), change));
        new_addr.write_unaligned(addr);
        new_port.write_unaligned(port);
    }
    Some(())
}

/// What an unfinished checksum looks like on this packet.
#[inline(always)]
fn pseudo(ctx: &XdpContext, packet: &Packet) -> Option<u16> {
    let total = at::<[u8; 2]>(ctx, net::ETH_LEN + 2)?;
    // SAFETY: `at` checked that the bytes are inside the packet.
    let total = u16::from_be_bytes(unsafe { *total });
    Some(checksum::pseudo(packet.src, packet.dst, packet.proto, total.wrapping_sub(net::IP_LEN as u16)))
}
