//! Where an entry of a table of flows is: the hash of its key, and the search of a bucket's tags.

use crate::choice;

/// Mixes a key's 32-bit words with secret numbers, two words to a multiplication ("multilinear HM", Lemire and Kaser,
/// Strongly universal string hashing is fast). Whoever does not know the seeds does no better at filling a bucket than
/// chance. `N` is even, and less than the number of seeds.
#[inline(always)]
pub const fn hash<const N: usize, const S: usize>(words: &[u32; N], seeds: &[u64; S]) -> u32 {
    const { assert!(N.is_multiple_of(2) && N < S) }
    let mut sum = seeds[0];
    let mut i = 0;
    while i < N {
        sum = mix(sum, [words[i], words[i + 1]], [seeds[i + 1], seeds[i + 2]]);
        i += 2;
    }
    finish(sum)
}

/// A step of [`hash`], which begins with the first seed: two words, with the seeds that are theirs.
#[inline(always)]
pub const fn mix(sum: u64, words: [u32; 2], seeds: [u64; 2]) -> u64 {
    let (a, b) = ((words[0] as u64).wrapping_add(seeds[0]), (words[1] as u64).wrapping_add(seeds[1]));
    sum.wrapping_add(a.wrapping_mul(b))
}

/// What comes after all steps. Keys of which one word counts up, such as the ports of one pair of addresses, have sums that
/// are as far apart as each other; with some seeds they crowd into few buckets, unless they are mixed once more.
#[inline(always)]
pub const fn finish(sum: u64) -> u32 {
    choice::mix((sum >> 32) as u32)
}

/// Where an entry of the table of sockets is, given a key's words (the cookie, the address, port and kind, zero): its
/// bucket, and its hash.
///
/// Cookies count up. For one address eight of them share a bucket, and the next eight the one after it: what is kept for
/// sockets that come one after the other lies together in memory, and evenly. Where an address begins is its hash's.
#[inline(always)]
pub const fn socket<const S: usize>(words: &[u32; 8], seeds: &[u64; S], step: u32, buckets: u32) -> (u32, u32) {
    let [low, high, a, b, c, d, port, _] = *words;
    let address = mix(seeds[0], [a ^ b ^ c ^ d, port], [seeds[1], seeds[2]]);
    let hash = finish(mix(address, [low, high], [seeds[3], seeds[4]]));
    let turn = (low >> 3).wrapping_mul(step);
    (choice::place(turn.wrapping_add((address >> 32) as u32), buckets), hash)
}

/// What [`socket`] moves on by from bucket to bucket, of so many: their part of all hashes.
pub const fn step(buckets: u32) -> u32 {
    if buckets == 0 { 0 } else { ((1u64 << 32) / buckets as u64) as u32 }
}

/// The tag of a hash: 15 of the bits that do not tell the bucket, and never zero.
#[inline(always)]
pub const fn tag(hash: u32) -> u16 {
    hash as u16 | 1
}

const ONES: u64 = 0x0001_0001_0001_0001;
const TOPS: u64 = 0x8000_8000_8000_8000;

/// Which of sixteen tags, four to a word, are equal to one: a set of places, as a number for [`first`] alone.
///
/// All four tags of a word are compared at once. The borrow of one that is equal can make the next look equal, too, but
/// only one further up: the first is always right.
#[inline(always)]
pub const fn find(tags: &[u64; 4], tag: u16) -> u64 {
    let wanted = tag as u64 * ONES;
    let mut found = 0;
    let mut word = 0;
    while word < 4 {
        let differ = tags[word] ^ wanted;
        found |= (differ.wrapping_sub(ONES) & !differ & TOPS) >> (15 - 4 * word);
        word += 1;
    }
    found
}

/// The first place of a set that is not empty, and the rest of the set.
#[inline(always)]
pub const fn first(found: u64) -> (usize, u64) {
    let bit = found & found.wrapping_neg();
    ((bit.wrapping_mul(PLACES) >> 60) as usize, found ^ bit)
}

/// [`find`] sets bit `16 * j + 4 * k` for the tag `j` of word `k`, which is place `4 * k + j`. Multiplying by that bit
/// moves the number of the place to the top: no loop, and no branches for the verifier to follow one by one.
const PLACES: u64 = 0x048c_159d_26ae_37bf;

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn places(mut found: u64) -> Vec<usize> {
        let mut places = Vec::new();
        while found != 0 {
            let (place, rest) = first(found);
            places.push(place);
            found = rest;
        }
        places
    }

    fn words(tags: &[u16; 16]) -> [u64; 4] {
        core::array::from_fn(|word| {
            (0..4).fold(0, |sum, tag| sum | u64::from(tags[word * 4 + tag]) << (16 * tag as u32))
        })
    }

    #[test]
    fn sockets_that_follow_each_other_fill_buckets_evenly_and_in_order() {
        const SEEDS: [u64; 11] = [3, 0x9e37_79b9_7f4a_7c15, 5, 0xbf58_476d_1ce4_e5b9, 7, 11, 13, 17, 19, 23, 29];
        for buckets in [1, 7, 768, 49_152] {
            let mut entries = std::vec![0u32; buckets as usize];
            let mut far = 0;
            let sockets = buckets * 8 * 3;
            for address in 0..2u32 {
                let mut last = None;
                for cookie in 0..sockets / 2 {
                    let words = [1_000_000 + cookie, 0, 0, 0, 0xffff_0000, address * 0x0100_0000 + 10, 80, 0];
                    let (bucket, _) = socket(&words, &SEEDS, step(buckets), buckets);
                    entries[bucket as usize] += 1;
                    let near = last.is_none_or(|last: u32| (bucket + buckets - last) % buckets <= 1);
                    far += u32::from(!near);
                    last = Some(bucket);
                }
            }
            let most = entries.iter().max().copied().unwrap_or_default();
            // 24 were the mean; a step is rounded down, so a bucket may be passed twice.
            assert!(most <= 40 && far == 0, "{buckets} buckets: {most} in one, {far} far apart");
        }
    }

    #[test]
    fn each_place_is_found_under_its_own_number() {
        for place in 0..16 {
            let mut tags = [0u16; 16];
            tags[place] = 0x4711;
            assert_eq!(places(find(&words(&tags), 0x4711)), [place]);
        }
        assert_eq!(find(&words(&core::array::from_fn(|place| place as u16 + 1)), 0x4711), 0);
    }

    #[test]
    fn the_first_place_is_always_right_and_none_is_missed() {
        let mut state = 1u32;
        for _ in 0..200_000 {
            let tags: [u16; 16] = core::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Few values, side by side, so that equal ones and borrows are frequent.
                (state >> 29) as u16
            });
            let found = places(find(&words(&tags), 3));
            for (place, tag) in tags.iter().enumerate() {
                assert!(*tag != 3 || found.contains(&place), "{tags:?}: place {place} is missed");
            }
            if let Some(place) = found.first() {
                assert_eq!(tags[*place], 3, "{tags:?}");
            }
        }
    }

    #[test]
    fn keys_that_differ_in_one_word_go_everywhere() {
        let seeds: [u64; 5] = [
            0x9e37_79b9_7f4a_7c15,
            0xbf58_476d_1ce4_e5b9,
            0x94d0_49bb_1331_11eb,
            0x2545_f491_4f6c_dd1d,
            0xd6e8_feb8_6659_fd93,
        ];
        for word in 0..4 {
            let mut counts = [0u32; 64];
            for i in 0..64_000u32 {
                let mut key = [0x0a00_0001, 0x0a63_0001, 0x5000_9000, 6];
                key[word] ^= i.swap_bytes();
                counts[((u64::from(hash(&key, &seeds)) * 64) >> 32) as usize] += 1;
            }
            assert!(counts.iter().all(|count| count.abs_diff(1000) < 250), "word {word}: {counts:?}");
        }
    }

    /// The ports of one pair of addresses, with seeds that have them a 7th of the whole range apart, and a little.
    #[test]
    fn ports_crowd_into_no_bucket_whatever_the_seeds() {
        let step = u64::MAX / 7 + (1 << 40);
        let seeds = [1, 2, 3, 4, (step >> 16).wrapping_sub(17)];
        let mut counts = std::vec![0u32; 24_576];
        for port in 0..36_000u32 {
            let hash = hash(&[0x0a00_0001, 0x0a63_0001, port << 16, 17], &seeds);
            counts[choice::place(hash, 24_576) as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count < 14), "{:?}", counts.iter().max());
    }

    #[test]
    fn no_tag_says_that_nobody_is_there() {
        assert!((0..=u16::MAX).all(|low| tag(low.into()) != 0));
    }
}
