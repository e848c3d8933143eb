//! The Internet checksum, kept right incrementally (RFC 1624).
//!
//! All sums are of 16-bit words as they lie in memory: the one's complement sum does not care about byte order as long
//! as everything is read the same way.

/// Folds a sum of 16-bit words into one.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A 16-bit word as it lies in memory.
#[inline(always)]
pub const fn word(bytes: [u8; 2]) -> u16 {
    u16::from_ne_bytes(bytes)
}

/// The sum of a number of bytes that four divides, folded into 16 bits.
#[inline(always)]
pub const fn words<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        sum += u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]) as u64;
        i += 4;
    }
    halve(sum)
}

/// What changes when an address, or a pair of ports, is replaced: a sum to [`apply`], folded into 16 bits. Neutral
/// (zero, or its twin 0xffff) where nothing does.
#[inline(always)]
pub const fn delta<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        // Each word is complemented by itself, so that the sum stays positive.
        sum += !u32::from_ne_bytes([old[i], old[i + 1], old[i + 2], old[i + 3]]) as u64;
        sum += u32::from_ne_bytes([new[i], new[i + 1], new[i + 2], new[i + 3]]) as u64;
        i += 4;
    }
    halve(sum)
}

/// The same for addresses and ports that are words already, in packet order.
#[inline(always)]
pub const fn delta_words<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        sum += !old[i] as u64 + new[i] as u64;
        i += 1;
    }
    halve(sum)
}

/// The sum of words, folded into 16 bits.
#[inline(always)]
pub const fn sum_words<const N: usize>(words: &[u32; N]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        sum += words[i] as u64;
        i += 1;
    }
    halve(sum)
}

/// Folds a sum of 32-bit words into 16 bits, which is the same to a sum of 16-bit words.
#[inline(always)]
const fn halve(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    fold(sum as u32) as u32
}

/// The checksum field of a finished packet after a change.
#[inline(always)]
pub const fn apply(check: u16, delta: u32) -> u16 {
    !fold((!check) as u32 + delta)
}

/// The same for UDP, where zero means "no checksum": zero stays, and nothing becomes zero.
#[inline(always)]
pub const fn apply_udp(check: u16, delta: u32) -> u16 {
    if check == 0 {
        return 0;
    }
    let check = apply(check, delta);
    if check == 0 { 0xffff } else { check }
}

/// What a sender that leaves the checksum to the hardware writes into the field: the sum over the pseudo header, not
/// complemented. `addrs` is the sum of both addresses, `len` the length of transport header and payload.
#[inline(always)]
pub const fn pseudo(addrs: u32, proto: u8, len: u16) -> u16 {
    fold(addrs + (proto as u16).to_be() as u32 + len.to_be() as u32)
}

/// The field of such a packet after a change of an address; ports are not part of it.
#[inline(always)]
pub const fn apply_partial(field: u16, delta: u32) -> u16 {
    fold(field as u32 + delta)
}

/// Sum over bytes, as the receiver does it. For tests and for packets made here.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += word([pair[0], *pair.get(1).unwrap_or(&0)]) as u32;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(src: [u8; 4], dst: [u8; 4], port: [u8; 2]) -> [u8; 20] {
        let mut bytes = [0x45, 0, 0, 84, 0x1c, 0x46, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&port);
        bytes[12..16].copy_from_slice(&src);
        bytes[16..20].copy_from_slice(&dst);
        let check = !fold(sum(&bytes));
        bytes[10..12].copy_from_slice(&check.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_incremental_update_equals_a_fresh_sum() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()
        };
        for _ in 0..100_000 {
            let (src, old, new, ports) = (next(), next(), next(), next());
            let (from, to) = ([ports[0], ports[1]], [ports[2], ports[3]]);
            let port_delta = delta(&[from[0], from[1], 0, 0], &[to[0], to[1], 0, 0]);
            let before = header(src, old, from);
            let after = header(src, new, to);
            let check = apply(word([before[10], before[11]]), delta(&old, &new) + port_delta);
            // 0x0000 and 0xffff are the same number to a receiver.
            let fresh = word([after[10], after[11]]);
            assert!(
                check == fresh || (check.is_multiple_of(0xffff) && fresh.is_multiple_of(0xffff)),
                "{before:?} {after:?} {check:x}"
            );
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        assert_eq!(apply_udp(0, delta(&[1, 2, 3, 4], &[5, 6, 7, 8])), 0);
        for check in 1..=u16::MAX {
            assert_ne!(apply_udp(check, delta(&[10, 0, 0, 1], &[10, 244, 0, 9])), 0);
        }
    }

    #[test]
    fn a_partial_field_follows_the_address() {
        let (src, old, new) = ([10, 99, 0, 2], [10, 99, 0, 1], [10, 244, 0, 7]);
        let field = pseudo(words(&src) + words(&old), 6, 1480);
        assert_eq!(apply_partial(field, delta(&old, &new)), pseudo(words(&src) + words(&new), 6, 1480));
    }

    #[test]
    fn an_address_of_ipv6_changes_a_sum_like_its_words() {
        let mut bytes = [0u8; 40];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (i * 37 + 11) as u8;
        }
        let check = !fold(sum(&bytes));
        let mut old = [0u8; 16];
        old.copy_from_slice(&bytes[8..24]);
        let new = [0xfe, 1, 2, 3, 0xff, 0xff, 0, 0, 9, 8, 7, 6, 0x80, 0, 0, 1];
        bytes[8..24].copy_from_slice(&new);
        assert_eq!(apply(check, delta(&old, &new)), !fold(sum(&bytes)));
    }
}
