//! Reading and rewriting packets in socket buffers, whose checksums may still be unfinished.

use aya_ebpf::programs::TcContext;
use fairlead_abi::{Counter, proto};
use fairlead_packet::net;

use crate::maps::count;
use crate::parse::{Action, End, HEAD, Packet, Parsed, Verdict, parse};

/// `BPF_F_PSEUDO_HDR`: the change is part of the pseudo header.
const PSEUDO: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: UDP's zero means "no checksum".
const MANGLED_0: u64 = 1 << 5;

/// `TC_ACT_UNSPEC`: go on with other programs and the kernel's own path.
pub(crate) const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const SHOT: i32 = 2;

/// Offset of the checksum in the transport header.
#[inline(always)]
pub(crate) fn check_offset(proto: u8) -> usize {
    match proto {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => 2,
    }
}

/// Reads a packet, or `None` for what is not translated.
#[inline(always)]
pub(crate) fn read(ctx: &TcContext) -> Option<Packet> {
    // SAFETY: a field of the context; a tagged packet belongs to the VLAN's own interface.
    if unsafe { (*ctx.skb.skb).vlan_present } != 0 {
        return None;
    }
    let head: [u8; HEAD] = ctx.load(0).ok()?;
    match parse(&head) {
        Parsed::Packet(mut packet) => {
            if packet.proto == proto::TCP {
                packet.flags = ctx.load(net::L4 + 13).ok()?;
            }
            Some(packet)
        }
        Parsed::Awkward => {
            count(Counter::PassedUntranslated);
            None
        }
        Parsed::Foreign => None,
    }
}

/// Carries a verdict out.
#[inline(always)]
pub(crate) fn carry_out(ctx: &mut TcContext, packet: &Packet, verdict: Verdict) -> i32 {
    match verdict.action {
        Action::Continue | Action::Pass => NEXT,
        Action::Drop => SHOT,
        Action::Rewrite => match rewrite(ctx, packet, verdict) {
            Ok(()) => NEXT,
            Err(_) => {
                count(Counter::DropRewrite);
                SHOT
            }
        },
    }
}

#[inline(always)]
fn rewrite(ctx: &mut TcContext, packet: &Packet, verdict: Verdict) -> Result<(), i64> {
    let Verdict { end, addr, port, .. } = verdict;
    let (old_addr, old_port, addr_at, port_at) = match end {
        End::Source => (packet.src, packet.sport, net::ETH_LEN + 12, net::L4),
        End::Destination => (packet.dst, packet.dport, net::ETH_LEN + 16, net::L4 + 2),
    };
    let icmp = packet.proto == proto::ICMP;
    // Where an echo's one id stands, whichever end it belongs to.
    let (old_port, port_at) = if icmp { (packet.sport, net::L4 + 4) } else { (old_port, port_at) };
    let check = net::L4 + check_offset(packet.proto);
    let udp = if packet.proto == proto::UDP { MANGLED_0 } else { 0 };
    let from = u32::from_ne_bytes(old_addr) as u64;
    let to = u32::from_ne_bytes(addr) as u64;
    if !icmp {
        ctx.l4_csum_replace(check, from, to, PSEUDO | udp | 4)?;
    }
    if port != old_port {
        let (from, to) = (u16::from_ne_bytes(old_port) as u64, u16::from_ne_bytes(port) as u64);
        ctx.l4_csum_replace(check, from, to, udp | 2)?;
        ctx.store(port_at, &port, 0)?;
    }
    ctx.l3_csum_replace(net::ETH_LEN + 10, from, to, 4)?;
    ctx.store(addr_at, &addr, 0)
}
