//! Writing a tuple into a plain packet, where it lies.

use fairlead_abi::proto;
use fairlead_packet::{checksum, net};

use crate::family::Family;
use crate::parse::{Packet, Verdict, at};
use crate::skb::{check_offset, ports_offset, sctp};

/// How far the transport's checksum is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// Finished.
    Finished,
    /// Finished, or left to the hardware: what looks unfinished is taken to be so.
    Either,
    /// As it is to be already.
    Done,
}

/// Writes the verdict's tuple. IPv6's not inlined: its variables beside those of the decision would fill the stack.
#[inline(always)]
pub(crate) fn plain<F: Family>(
    data: usize,
    end: usize,
    packet: &Packet<F>,
    verdict: &Verdict<F>,
    checksum: Checksum,
) -> Option<()> {
    if F::V6 { apart(data, end, packet, verdict, checksum) } else { write(data, end, packet, verdict, checksum) }
}

#[inline(never)]
fn apart<F: Family>(
    data: usize,
    end: usize,
    packet: &Packet<F>,
    verdict: &Verdict<F>,
    checksum: Checksum,
) -> Option<()> {
    write(data, end, packet, verdict, checksum)
}

#[inline(always)]
fn write<F: Family>(
    data: usize,
    end: usize,
    packet: &Packet<F>,
    verdict: &Verdict<F>,
    checksum: Checksum,
) -> Option<()> {
    let l4 = net::ETH_LEN + F::HEADER;
    let addrs = F::delta(&packet.src, &verdict.src) + F::delta(&packet.dst, &verdict.dst);
    let old = [packet.sport[0], packet.sport[1], packet.dport[0], packet.dport[1]];
    let new = [verdict.sport[0], verdict.sport[1], verdict.dport[0], verdict.dport[1]];
    let places = at::<[F::Addr; 2]>(data, end, net::ETH_LEN + F::ADDRS)?.cast::<F::Addr>();
    if packet.proto == proto::SCTP {
        let check = at::<[u8; 4]>(data, end, l4 + 8)?;
        let ports = at::<[u8; 4]>(data, end, l4)?;
        let change = (u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new)).to_ne_bytes();
        // SAFETY: `at` checked that each lies inside the packet; byte arrays have no alignment.
        unsafe {
            if u32::from_ne_bytes(change) != 0 {
                *check = sctp(*check, change, packet.total.wrapping_sub(F::HEADER as u16));
            }
            *ports = new;
        }
    } else if checksum == Checksum::Done {
        let ports = at::<[u8; 4]>(data, end, l4)?;
        // SAFETY: as above.
        unsafe { *ports = new };
    } else {
        let check = at::<u16>(data, end, l4 + check_offset(packet.proto))?;
        let icmp = packet.is_icmp();
        // SAFETY: as above, read unaligned.
        unsafe {
            let field = check.read_unaligned();
            let field = if icmp {
                // The id stands there once; an echo of IPv4 has no pseudo header.
                let id = checksum::delta(&[old[0], old[1], 0, 0], &[new[0], new[1], 0, 0]);
                checksum::apply(field, id + if F::V6 { addrs } else { 0 })
            } else if checksum == Checksum::Either && field == unfinished(packet) {
                checksum::apply_partial(field, addrs)
            } else {
                let delta = addrs + checksum::delta(&old, &new);
                if packet.proto == proto::UDP {
                    checksum::apply_udp(field, delta)
                } else {
                    checksum::apply(field, delta)
                }
            };
            check.write_unaligned(field);
            if icmp {
                *at::<[u8; 2]>(data, end, l4 + ports_offset::<F>(packet.proto))? = verdict.sport;
            } else {
                *at::<[u8; 4]>(data, end, l4)? = new;
            }
        }
    }
    if !F::V6 {
        let check = at::<u16>(data, end, net::ETH_LEN + 10)?;
        // SAFETY: as above.
        unsafe { check.write_unaligned(checksum::apply(check.read_unaligned(), addrs)) };
    }
    // SAFETY: as above.
    unsafe {
        *places = verdict.src;
        *places.add(1) = verdict.dst;
    }
    Some(())
}

/// What an unfinished checksum looks like on this packet.
#[inline(always)]
pub(crate) fn unfinished<F: Family>(packet: &Packet<F>) -> u16 {
    let len = packet.total.wrapping_sub(F::HEADER as u16);
    checksum::pseudo(F::words(&packet.src) + F::words(&packet.dst), packet.proto, len)
}
