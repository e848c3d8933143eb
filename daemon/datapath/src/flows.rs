//! User space's side of the tables of flows: their shape, and how full they are. The entries are the programs' alone.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aya::maps::{Array, MapData};
use fairlead_abi::{FLOW_PLACES, FLOW_SEEDS, FlowBucket, FlowShape, map};

use crate::error::DatapathError;
use crate::kernel::{failed, typed, words};
use crate::sys::MappedWords;

/// Tells the programs how many buckets there are, and gives the hash its secret numbers. Both stay for as long as the
/// tables do: a daemon that finds them agrees with the programs that are at work.
pub(crate) fn shape(dir: &Path) -> Result<(), DatapathError> {
    let mut map: Array<MapData, FlowShape> = typed(dir, map::FLOW_SHAPE)?;
    let mut shape = map.get(&0, 0).map_err(failed(map::FLOW_SHAPE))?;
    let known = (shape.seeds != FlowShape::ZERO.seeds, shape.buckets4, shape.buckets6);
    (shape.buckets4, shape.buckets6) = (buckets(dir, map::FLOWS4)?, buckets(dir, map::FLOWS6)?);
    if known == (true, shape.buckets4, shape.buckets6) {
        return Ok(());
    }
    shape.seeds = secret()?;
    // No program has used the tables yet, so nobody is at a lock.
    map.set(0, shape, 0).map_err(failed(map::FLOW_SHAPE))
}

fn buckets(dir: &Path, name: &'static str) -> Result<u32, DatapathError> {
    let data = MapData::from_pin(dir.join(name)).map_err(failed(name))?;
    Ok(data.info().map_err(failed(name))?.max_entries())
}

fn secret() -> Result<[u64; FLOW_SEEDS], DatapathError> {
    const PATH: &str = "/dev/urandom";
    let failed = |source| DatapathError::Io { action: "read random numbers from", path: PATH.into(), source };
    let mut random = File::open(PATH).map_err(failed)?;
    let mut seeds = FlowShape::ZERO.seeds;
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
        let tags = |bucket: usize| (0..FLOW_PLACES / 4).map(move |word| bucket * self.bucket_words + word);
        (0..self.buckets as usize).flat_map(tags).map(|word| taken(self.words.load(word))).sum()
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
    fn there_are_places_for_half_as_many_entries_again() {
        for entries in [1, 15, 16, 1000, 262_144, u32::MAX] {
            let places = u64::from(FlowShape::buckets(entries)) * FLOW_PLACES as u64;
            assert!(places * 2 >= u64::from(entries) * 3 && places * 2 < u64::from(entries) * 3 + 32, "{entries}");
        }
    }
}
