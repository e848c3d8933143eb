//! Maglev's permutation: which endpoint owns which slot of a ring of prime size.
//!
//! Every node computes the same ring from the same endpoints, whatever their order, and a change of one endpoint moves
//! little more than its own share (Eisenbud and others, NSDI 2016).

use std::net::SocketAddrV4;

use fairlead_packet::choice::mix;

/// Sizes of rings; at least a hundred slots per endpoint keep the shares within one percent of each other.
const SIZES: [u32; 5] = [251, 1021, 4093, 16_381, 65_521];

/// Slots of a ring for this many endpoints.
pub fn ring_size(endpoints: usize) -> u32 {
    let wanted = u32::try_from(endpoints).unwrap_or(u32::MAX).saturating_mul(100);
    SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// For each slot the index of its owner in `endpoints`, which must be sorted. Empty without endpoints.
pub fn ring(endpoints: &[SocketAddrV4]) -> Vec<u32> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let size = ring_size(endpoints.len());
    // Each endpoint walks the ring from its own start in its own stride and takes the first free slot, in turn.
    let mut walks: Vec<(u32, u32)> = endpoints
        .iter()
        .map(|endpoint| {
            let seed = mix(u32::from(*endpoint.ip()) ^ mix(u32::from(endpoint.port()) ^ 0x6661_6972));
            (seed % size, mix(seed ^ 0x6c65_6164) % (size - 1) + 1)
        })
        .collect();
    let mut owners = vec![u32::MAX; size as usize];
    let mut free = size;
    loop {
        for (owner, (place, stride)) in walks.iter_mut().enumerate() {
            while owners[*place as usize] != u32::MAX {
                *place = (*place + *stride) % size;
            }
            owners[*place as usize] = owner as u32;
            free -= 1;
            if free == 0 {
                return owners;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoints(n: u8) -> Vec<SocketAddrV4> {
        (0..n).map(|i| SocketAddrV4::new([10, 244, i / 5, i + 2].into(), 8080)).collect()
    }

    fn shares(owners: &[u32], n: usize) -> Vec<u32> {
        let mut shares = vec![0; n];
        owners.iter().for_each(|owner| shares[*owner as usize] += 1);
        shares
    }

    proptest! {
        #[test]
        fn shares_differ_by_at_most_one(n in 1u8..120) {
            let shares = shares(&ring(&endpoints(n)), n.into());
            let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(max - min <= 1, "{shares:?}");
        }

        #[test]
        fn losing_one_endpoint_moves_little_else(n in 3u8..40, gone in 0u8..40) {
            let gone = usize::from(gone % n);
            let before = endpoints(n);
            let mut after = before.clone();
            after.remove(gone);
            let (old, new) = (ring(&before), ring(&after));
            prop_assume!(old.len() == new.len());
            let moved = old.iter().zip(&new).filter(|(o, n)| before[**o as usize] != after[**n as usize]).count();
            let ideal = old.len() as f64 / f64::from(n);
            prop_assert!((moved as f64) < ideal * 2.0 + old.len() as f64 * 0.05, "{moved} of {}, ideal {ideal}", old.len());
        }
    }
}
