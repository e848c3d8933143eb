//! Which endpoint a flow goes to, from its 5-tuple alone, so that every node would choose the same.
//!
//! The addresses are mixed well; the client's port then walks in steps of the golden ratio. Clients take their ports
//! nearly in sequence, and such a walk covers a table more evenly than chance would: 1,000 connections of one client
//! over 3 endpoints come out even to about one percent where independent draws would stray by ten.

/// A well-mixed 32-bit hash of a flow, without the client's port.
#[inline(always)]
pub const fn hash(client: [u8; 4], service: [u8; 4], port: [u8; 2], proto: u8) -> u32 {
    let mut h = mix(u32::from_be_bytes(client) ^ 0x9e37_79b9);
    h = mix(h ^ u32::from_be_bytes(service));
    mix(h ^ ((u16::from_be_bytes(port) as u32) << 8) ^ proto as u32)
}

/// The same for IPv6.
#[inline(always)]
pub const fn hash6(client: &[u8; 16], service: &[u8; 16], port: [u8; 2], proto: u8) -> u32 {
    let mut h = mix6(0x9e37_79b9, client);
    h = mix6(h, service);
    mix(h ^ ((u16::from_be_bytes(port) as u32) << 8) ^ proto as u32)
}

/// Mixes the words of an address in, one after the other.
#[inline(always)]
const fn mix6(mut h: u32, addr: &[u8; 16]) -> u32 {
    let mut i = 0;
    while i < 16 {
        h = mix(h ^ u32::from_be_bytes([addr[i], addr[i + 1], addr[i + 2], addr[i + 3]]));
        i += 4;
    }
    h
}

/// The hash moved on by the client's port.
#[inline(always)]
pub const fn walk(hash: u32, client_port: [u8; 2]) -> u32 {
    hash.wrapping_add((u16::from_be_bytes(client_port) as u32).wrapping_mul(0x9e37_79b9))
}

/// A place in a table of `len` entries.
#[inline(always)]
pub const fn place(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

/// Every bit of the input changes about half of the output (the finalizer of MurmurHash3).
#[inline(always)]
pub const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_connections_of_one_client_are_spread_evenly() {
        for (len, step) in [(3u32, 1u16), (3, 2), (5, 1), (5, 2), (7, 2), (1021, 2)] {
            for client in 1..=50u8 {
                let base = hash([10, 0, 0, client], [10, 0, 0, 254], 30080u16.to_be_bytes(), 6);
                let mut counts = [0u32; 7];
                let backends = len.min(7);
                for i in 0..1000u16 {
                    let port = (33_000 + i * step).to_be_bytes();
                    let slot = place(walk(base, port), len);
                    counts[(slot % backends) as usize] += 1;
                }
                let even = 1000 / backends;
                for count in &counts[..backends as usize] {
                    assert!(count.abs_diff(even) * 100 <= 15 * even, "{counts:?} of {len}, step {step}");
                }
            }
        }
    }

    #[test]
    fn many_clients_with_one_port_are_spread_evenly() {
        let mut counts = [0u32; 4];
        for i in 0..40_000u32 {
            let base = hash(i.to_be_bytes(), [10, 0, 0, 254], [0, 80], 17);
            counts[place(walk(base, [0x30, 0x39]), 4) as usize] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn clients_of_ipv6_are_spread_evenly() {
        let service = [0xfd; 16];
        let mut counts = [0u32; 4];
        for i in 0..40_000u32 {
            let mut client = [0x20; 16];
            client[4..8].copy_from_slice(&i.to_be_bytes());
            let base = hash6(&client, &service, [0, 80], 6);
            counts[place(walk(base, [0x30, 0x39]), 4) as usize] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }

    #[test]
    fn a_place_is_always_inside() {
        for len in [1, 2, 3, 251, 65_521] {
            assert!(place(u32::MAX, len) == len - 1 && place(0, len) == 0);
        }
    }
}
