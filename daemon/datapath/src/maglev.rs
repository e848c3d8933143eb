//! Maglev's permutation: which endpoint owns which slot of a ring of prime size.
//!
//! Every node computes the same ring from the same endpoints, whatever their order (Eisenbud and others, NSDI 2016). Two
//! things differ from the paper, both so that the loss of one endpoint moves hardly more than its own share: an endpoint
//! that finds a slot taken waits for its next turn instead of walking on, so that a slot's owner is whoever comes by
//! first, and not whoever was pushed there by others; and for that, shares may exceed the mean by [`SLACK`] percent.
//! Measured over rings of this size, 1.01 to 1.05 of the share moves; the paper's walk moves 1.05 to 1.5.

use std::net::{IpAddr, SocketAddr};

use fairlead_packet::choice::mix;

use crate::desired::Member;

#[cfg(test)]
mod tests;

/// Sizes of rings: primes of which three does not divide the predecessor, so that cubes are a permutation of their
/// residues.
const SIZES: [u32; 9] = [251, 509, 1019, 2039, 4091, 8171, 16_361, 32_717, 65_519];

/// By how many percent a share may exceed the mean.
const SLACK: u64 = 1;

/// Most slots of a list, however large the weights.
const LIST_MAX: u64 = 4096;

/// Sizes a ring for this many endpoints may have, the best first. What moves besides the lost share shrinks with the
/// ring's root and grows with the endpoints, hence the square; the smaller sizes are for when slots run out.
pub fn ring_sizes(endpoints: usize) -> impl Iterator<Item = u32> {
    let count = endpoints as u64;
    let wanted = (40 * count * count).max(100 * count);
    let best = SIZES.iter().position(|size| u64::from(*size) >= wanted).unwrap_or(SIZES.len() - 1);
    SIZES[..=best].iter().rev().copied().filter(move |size| *size == SIZES[best] || u64::from(*size) > 2 * count)
}

/// An endpoint's order of the slots: `offset + factor * (turn + shift)³`.
#[derive(Clone, Copy)]
struct Walk {
    offset: u64,
    factor: u64,
    shift: u64,
}

impl Walk {
    fn new(address: SocketAddr, size: u64) -> Self {
        let seed = seed(address);
        let number = |salt: u32| u64::from(mix(seed ^ salt));
        Self {
            offset: u64::from(seed) % size,
            factor: number(0x6c65_6164) % (size - 1) + 1,
            shift: number(0x1357_9bdf) % size,
        }
    }

    fn slot(self, turn: u64, size: u64) -> usize {
        let base = (turn + self.shift) % size;
        ((self.offset + self.factor * (base * base % size * base % size)) % size) as usize
    }
}

/// For each slot of a ring of this size the index of its owner in `members`, which must be sorted. Empty without
/// members.
pub fn ring(members: &[Member], size: u32) -> Vec<u32> {
    let most = members.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(0);
    let sum: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if sum == 0 {
        return Vec::new();
    }
    let length = u64::from(size);
    // Unequal weights are kept to the slot: the slack of the heavy would be all that the light have.
    let slack = if sum == most * members.len() as u64 { SLACK } else { 0 };
    let mut walkers: Vec<(u32, Walk, u64, u64)> = members
        .iter()
        .zip(0..)
        .map(|((address, weight), owner)| {
            let weight = u64::from(*weight);
            (owner, Walk::new(*address, length), weight, (length * weight * (100 + slack)).div_ceil(100 * sum))
        })
        .collect();
    let mut owners = vec![u32::MAX; size as usize];
    let mut free = size;
    for turn in 0.. {
        for (owner, walk, weight, room) in &mut walkers {
            // One of less weight than the heaviest sits out turns.
            let step = turn * *weight / most;
            if step == (turn + 1) * *weight / most || *room == 0 {
                continue;
            }
            let slot = &mut owners[walk.slot(step, length)];
            if *slot == u32::MAX {
                *slot = *owner;
                *room -= 1;
                free -= 1;
                if free == 0 {
                    return owners;
                }
            }
        }
        walkers.retain(|(.., room)| *room > 0);
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
    for ((_, weight), owner) in members.iter().zip(0..) {
        let times = scaled(*weight);
        places.extend((0..times).map(|time| (((2 * time + 1) << 32) / times, owner)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, owner)| owner).collect()
}
