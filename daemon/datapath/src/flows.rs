//! User space's side of the programs' own tables: their shape, how full those of flows are, and what sockets were given.
//! The entries are the programs' alone to write.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aya::maps::{Array, MapData};
use fairlead_abi::{FlowBucket, PLACES, SEEDS, Shape, SocketBucket, SocketKey, SocketValue, map};
use fairlead_packet::bucket;

use crate::error::DatapathError;
use crate::kernel::{failed, halves, typed, words};
use crate::sys::MappedWords;

/// Tells the programs how many buckets there are, and gives the hash its secret numbers. Both stay for as long as the
/// tables do: a daemon that finds them agrees with the programs that are at work.
pub(crate) fn shape(dir: &Path) -> Result<(), DatapathError> {
    let mut map: Array<MapData, Shape> = typed(dir, map::SHAPE)?;
    let mut shape = map.get(&0, 0).map_err(failed(map::SHAPE))?;
    let buckets = [buckets(dir, map::FLOWS4)?, buckets(dir, map::FLOWS6)?, buckets(dir, map::SOCKETS)?];
    if shape.seeds != Shape::ZERO.seeds && [shape.flows4, shape.flows6, shape.sockets] == buckets {
        return Ok(());
    }
    [shape.flows4, shape.flows6, shape.sockets] = buckets;
    shape.socket_step = bucket::step(shape.sockets);
    shape.seeds = secret()?;
    // No program has used the tables yet, so nobody is at a lock.
    map.set(0, shape, 0).map_err(failed(map::SHAPE))
}

fn buckets(dir: &Path, name: &'static str) -> Result<u32, DatapathError> {
    let data = MapData::from_pin(dir.join(name)).map_err(failed(name))?;
    Ok(data.info().map_err(failed(name))?.max_entries())
}

fn secret() -> Result<[u64; SEEDS], DatapathError> {
    const PATH: &str = "/dev/urandom";
    let failed = |source| DatapathError::Io { action: "read random numbers from", path: PATH.into(), source };
    let mut random = File::open(PATH).map_err(failed)?;
    let mut seeds = Shape::ZERO.seeds;
    for seed in &mut seeds {
        let mut bytes = [0; 8];
        random.read_exact(&mut bytes).map_err(failed)?;
        *seed = u64::from_ne_bytes(bytes);
    }
    Ok(seeds)
}

/// A table, mapped.
pub(crate) struct Flows {
    words: MappedWords,
    buckets: u32,
    bucket_words: usize,
}

impl Flows {
    /// Opens the pinned table of a family.
    pub(crate) fn open<A>(dir: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let bucket_words = size_of::<FlowBucket<A>>() / 8;
        let (words, buckets) = words(dir, name, bucket_words)?;
        Ok(Self { words, buckets, bucket_words })
    }

    /// Entries. Reads one line of each bucket.
    pub(crate) fn count(&self) -> usize {
        let tags = |bucket: usize| (0..PLACES / 4).map(move |word| bucket * self.bucket_words + word);
        (0..self.buckets as usize).flat_map(tags).map(|word| taken(self.words.load(word))).sum()
    }
}

/// What the socket hooks have given to sockets.
pub(crate) struct Given {
    words: MappedWords,
    shape: Shape,
}

impl Given {
    /// Opens the pinned table.
    pub(crate) fn open(dir: &Path) -> Result<Self, DatapathError> {
        let map: Array<MapData, Shape> = typed(dir, map::SHAPE)?;
        let shape = map.get(&0, 0).map_err(failed(map::SHAPE))?;
        let (words, _) = words(dir, map::SOCKETS, size_of::<SocketBucket>() / 8)?;
        Ok(Self { words, shape })
    }

    /// What is kept under a key. Read as one word after the other: the hooks may be writing.
    pub(crate) fn get(&self, key: &SocketKey) -> Option<SocketValue> {
        const BUCKET: usize = size_of::<SocketBucket>() / 8;
        const ENTRY: usize = size_of::<fairlead_abi::Entry<SocketKey, SocketValue>>() / 8;
        const ENTRIES: usize = std::mem::offset_of!(SocketBucket, entries) / 8;
        let wanted = key_words(key);
        let halves: [u32; 8] = std::array::from_fn(|half| (wanted[half / 2] >> (half % 2 * 32)) as u32);
        let Shape { seeds, socket_step, sockets, .. } = &self.shape;
        let number = bucket::socket(&halves, seeds, *socket_step, *sockets).0 as usize;
        (0..PLACES).find_map(|place| {
            let start = number * BUCKET + ENTRIES + place * ENTRY;
            let word = |index: usize| self.words.load(start + index);
            (std::array::from_fn(word) == wanted).then(|| value_from(std::array::from_fn(|index| word(4 + index))))
        })
    }
}

fn key_words(key: &SocketKey) -> [u64; 4] {
    let [p, q] = key.port;
    let [a, b, c, d] = key.pad.to_ne_bytes();
    let (high, low) = halves(&key.addr);
    [key.cookie, high, low, u64::from_ne_bytes([p, q, key.back, key.proto, a, b, c, d])]
}

fn value_from(words: [u64; 4]) -> SocketValue {
    let bytes = words.map(u64::to_ne_bytes);
    let half = |word: usize, at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[word][at + byte]));
    SocketValue {
        addr: std::array::from_fn(|byte| bytes[byte / 8][byte % 8]),
        port: [bytes[2][0], bytes[2][1]],
        pad: u16::from_ne_bytes([bytes[2][2], bytes[2][3]]),
        backend: half(2, 4),
        life: half(3, 0),
    }
}

/// Tags of a word that are those of entries.
fn taken(word: u64) -> usize {
    word.to_ne_bytes().chunks_exact(2).filter(|tag| **tag != [0, 0]).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_that_are_not_zero_are_entries() {
        assert_eq!(taken(0), 0);
        assert_eq!(taken(0x0001_0000_8000_0100), 3);
        assert_eq!(taken(u64::MAX), 4);
    }

    #[test]
    fn a_key_and_a_value_are_the_words_of_their_bytes() {
        let addr = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let key = SocketKey { cookie: 0x4711, addr, port: [0, 80], back: 1, proto: 17, pad: 0 };
        let words = key_words(&key);
        assert_eq!(words[0], 0x4711);
        assert_eq!(words[1].to_ne_bytes(), addr[..8]);
        assert_eq!(words[2].to_ne_bytes(), addr[8..]);
        assert_eq!(words[3].to_ne_bytes(), [0, 80, 1, 17, 0, 0, 0, 0]);
        let word = |bytes: [u8; 8]| u64::from_ne_bytes(bytes);
        let life = [words[1], words[2], word([31, 144, 0, 0, 7, 0, 0, 0]), word([1, 5, 0, 0, 0, 0, 0, 0])];
        let value = SocketValue { addr, port: [31, 144], pad: 0, backend: 7, life: 0x501 };
        if cfg!(target_endian = "little") {
            assert_eq!(value_from(life), value);
        }
    }

    #[test]
    fn there_are_three_places_for_each_entry() {
        for entries in [1, 15, 16, 1000, 262_144, u32::MAX] {
            let places = u64::from(Shape::buckets(entries)) * PLACES as u64;
            assert!(places >= u64::from(entries) * 3 && places < u64::from(entries) * 3 + 16, "{entries}");
        }
    }
}
