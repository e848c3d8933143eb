//! Maglev's permutation: which endpoint owns which slot of a ring of prime size.
//!
//! Every node computes the same ring from the same endpoints, whatever their order, and a change of one endpoint moves
//! little more than its own share (Eisenbud and others, NSDI 2016).

use std::net::{IpAddr, SocketAddr};

use fairlead_packet::choice::mix;

use crate::desired::Member;

#[cfg(test)]
mod tests;

/// Sizes of rings; at least a hundred slots per endpoint keep the shares within one percent of each other.
const SIZES: [u32; 5] = [251, 1021, 4093, 16_381, 65_521];

/// Most slots of a list, however large the weights.
const LIST_MAX: u64 = 4096;

/// Slots of a ring for this many shares.
pub fn ring_size(shares: u64) -> u32 {
    let wanted = u32::try_from(shares).unwrap_or(u32::MAX).saturating_mul(100);
    SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1])
}

/// For each slot the index of its owner in `members`, which must be sorted. Empty without members.
pub fn ring(members: &[Member]) -> Vec<u32> {
    if members.is_empty() {
        return Vec::new();
    }
    let most = members.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(1);
    let size = ring_size(members.len() as u64);
    // Each endpoint walks the ring from its own start in its own stride and takes the first free slot, in turn. One of
    // less weight than the heaviest sits out turns.
    let mut walks: Vec<(u32, u32)> = members
        .iter()
        .map(|(address, _)| {
            let seed = seed(*address);
            (seed % size, mix(seed ^ 0x6c65_6164) % (size - 1) + 1)
        })
        .collect();
    let mut owners = vec![u32::MAX; size as usize];
    let mut free = size;
    for turn in 1.. {
        for (owner, (place, stride)) in walks.iter_mut().enumerate() {
            let weight = u64::from(members[owner].1);
            if turn * weight / most == (turn - 1) * weight / most {
                continue;
            }
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
    owners
}

/// A number of an endpoint that looks random.
fn seed(address: SocketAddr) -> u32 {
    let port = mix(u32::from(address.port()) ^ 0x6661_6972);
    match address.ip() {
        IpAddr::V4(addr) => mix(u32::from(addr) ^ port),
        IpAddr::V6(addr) => addr
            .segments()
            .chunks(2)
            .fold(port, |seed, pair| mix(seed ^ (u32::from(pair[0]) << 16 | u32::from(pair[1])))),
    }
}

/// For each slot of a plain list the index of its owner in `members`: each as often as its weight says, and evenly
/// spread, so that going round the list keeps the shares at every moment.
pub fn list(members: &[Member]) -> Vec<u32> {
    let sum: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let bound = LIST_MAX.max(members.len() as u64);
    let scaled = |weight: u16| {
        let weight = u64::from(weight);
        if sum <= bound { weight } else { ((weight * bound + sum / 2) / sum).max(1) }
    };
    let mut places: Vec<(u64, u32)> = Vec::with_capacity(sum.min(bound) as usize);
    for (owner, (_, weight)) in members.iter().enumerate() {
        let times = scaled(*weight);
        places.extend((0..times).map(|time| (((2 * time + 1) << 32) / times, owner as u32)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, owner)| owner).collect()
}
