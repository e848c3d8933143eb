//! Maglev's permutation: which endpoint owns which slot of a ring of prime size.
//!
//! Every node computes the same ring from the same endpoints, whatever their order (Eisenbud and others, NSDI 2016). Two
//! things differ from the paper, both so that the loss of one endpoint moves hardly more than its own share: an endpoint
//! that finds a slot taken waits for its next turn instead of walking on, so that a slot's owner is whoever comes by
//! first, and not whoever was pushed there by others; and for that, shares may exceed the mean.
//!
//! By how much decides what else moves. Without a limit a slot's owner is whoever of all comes by first, so that nobody
//! but the one who leaves loses any; the shares then scatter around the mean by `sqrt(endpoints / 2 slots)` of it. Where a
//! limit cuts deep into that, those who are full push others about. Up to a dozen endpoints a percent is enough; above,
//! the limit grows with the scatter, and the ring with the endpoints, which keeps the scatter small. Measured with 2 to
//! 1000 endpoints, 1.00 to 1.04 of the share moves; the paper's walk moves up to 1.2 of it.

use std::net::{IpAddr, SocketAddr};

use fairlead_packet::choice::mix;

use crate::desired::Member;

#[cfg(test)]
mod tests;

/// Sizes of rings: primes of which three does not divide the predecessor, so that cubes are a permutation of their
/// residues. Few, since a change of size moves everything.
const SIZES: [u32; 5] = [251, 1019, 8171, 65_519, 262_139];

/// Most endpoints for the third size …
const MANY: usize = 12;
/// … and for the fourth.
const MORE: usize = 256;

/// By how many millionths of the mean a share may exceed it, up to [`MANY`] endpoints.
const SLACK: u64 = 10_000;
/// Above, by how many tenths of the shares' scatter.
const SCATTERS: u64 = 25;

/// Most slots of a list, however large the weights.
const LIST_MAX: u64 = 4096;

/// Slots of a ring for this many endpoints. What moves besides the lost share shrinks with the root of the size and
/// grows with the endpoints. Of one endpoint everything is its own, in a ring of any size.
pub fn ring_size(endpoints: usize) -> u32 {
    match endpoints {
        0 | 1 => 2,
        2..=MANY => SIZES[2],
        ..=MORE => SIZES[3],
        _ => SIZES[4],
    }
}

/// Slots of a ring for when these run out.
pub fn small_ring_size(endpoints: usize) -> u32 {
    let fits = |size: &u32| *size as usize > 2 * endpoints;
    SIZES.into_iter().find(fits).unwrap_or(SIZES[4]).min(ring_size(endpoints))
}

/// An endpoint's order of the slots, `offset + factor * (turn + shift)³`, turn by turn: a cubic's third difference is
/// constant, so that each turn takes three additions.
#[derive(Clone, Copy)]
struct Walk {
    size: u32,
    slot: u32,
    differences: [u32; 3],
}

impl Walk {
    fn new(address: SocketAddr, size: u32) -> Self {
        let seed = seed(address);
        let modulus = u64::from(size);
        let number = |salt: u32| u64::from(mix(seed ^ salt));
        let offset = u64::from(seed) % modulus;
        let factor = number(0x6c65_6164) % (modulus - 1) + 1;
        let shift = number(0x1357_9bdf) % modulus;
        let at = |turn: u64| {
            let base = (turn + shift) % modulus;
            (offset + factor * (base * base % modulus * base % modulus)) % modulus
        };
        let minus = |a: u64, b: u64| (a + modulus - b) % modulus;
        let first = [minus(at(1), at(0)), minus(at(2), at(1)), minus(at(3), at(2))];
        let second = [minus(first[1], first[0]), minus(first[2], first[1])];
        let differences = [first[0], second[0], minus(second[1], second[0])];
        Self { size, slot: at(0) as u32, differences: differences.map(|difference| difference as u32) }
    }

    /// The slot of this turn; the next time, that of the next one.
    fn next(&mut self) -> usize {
        let slot = self.slot;
        let [first, second, third] = self.differences;
        let add = |a: u32, b: u32| {
            let sum = a + b;
            if sum >= self.size { sum - self.size } else { sum }
        };
        self.slot = add(slot, first);
        self.differences = [add(first, second), add(second, third), third];
        slot as usize
    }
}

const MILLION: u64 = 1_000_000;

/// By how many millionths a share may exceed the mean: whole numbers, so that it is the same everywhere.
fn slack(endpoints: u64, size: u64) -> u64 {
    if endpoints <= MANY as u64 {
        return SLACK;
    }
    let tenths = MILLION / 10 * SCATTERS;
    (u128::from(tenths).pow(2) * u128::from(endpoints) / u128::from(2 * size)).isqrt() as u64
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
    let slack = if sum == most * members.len() as u64 { slack(members.len() as u64, length) } else { 0 };
    let mut walkers: Vec<(u32, Walk, u64, u64)> = members
        .iter()
        .zip(0..)
        .map(|((address, weight), owner)| {
            let weight = u64::from(*weight);
            (owner, Walk::new(*address, size), weight, (length * weight * (MILLION + slack)).div_ceil(MILLION * sum))
        })
        .collect();
    let mut owners = vec![u32::MAX; size as usize];
    let mut free = size;
    for turn in 0.. {
        for (owner, walk, weight, room) in &mut walkers {
            // One of less weight than the heaviest sits out turns.
            if *room == 0 || turn * *weight / most == (turn + 1) * *weight / most {
                continue;
            }
            let slot = &mut owners[walk.next()];
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
