//! Tables of the programs' own: arrays of buckets.
//!
//! The kernel's tables that forget what was not used for longest take half a microsecond for each entry that is new, and
//! a flow has two. Here a key's hash names one bucket, and who finds it full takes the place of what was silent there for
//! longest.

/// Entries of a bucket.
pub const PLACES: usize = 16;

/// An entry. The last word of a key is zero where nobody is.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug)]
pub struct Entry<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
}

/// A bucket. What tells its places apart is one line of cache.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bucket<K, V> {
    /// Of each place, 16 bits of its key's hash; 0: nobody is there. Four to a word.
    pub tags: [u64; PLACES / 4],
    /// Of each place, the lower half of the ticks at its last use: what was silent for longest gives way first.
    pub seen: [u16; PLACES],
    /// The places.
    pub entries: [Entry<K, V>; PLACES],
}

/// Secret numbers of the hash: one, and one for each word of the longest key.
pub const SEEDS: usize = 11;
/// Locks of the tables of flows.
pub const FLOW_LOCKS: usize = 512;
/// Locks of the table of sockets. Not those of flows: a packet may interrupt a process that holds one.
pub const SOCKET_LOCKS: usize = 64;

/// The one entry of `SHAPE`: what all programs that share the tables must agree on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Secret numbers of the hash, so that nobody outside can fill a bucket of his choice.
    pub seeds: [u64; SEEDS],
    /// Buckets of `FLOWS4`.
    pub flows4: u32,
    /// Buckets of `FLOWS6`.
    pub flows6: u32,
    /// Buckets of `SOCKETS`.
    pub sockets: u32,
    /// See `fairlead_packet::bucket::step`, for `SOCKETS`.
    pub socket_step: u32,
    /// How many writers are at, or want to be at, the buckets that share a lock.
    pub flow_locks: [u64; FLOW_LOCKS],
    /// The same for sockets.
    pub socket_locks: [u64; SOCKET_LOCKS],
}

impl Shape {
    /// No tables yet.
    pub const ZERO: Self = Self {
        seeds: [0; SEEDS],
        flows4: 0,
        flows6: 0,
        sockets: 0,
        socket_step: 0,
        flow_locks: [0; FLOW_LOCKS],
        socket_locks: [0; SOCKET_LOCKS],
    };

    /// Buckets for so many entries. Three times as many places as entries, so that an entry seldom gives way before the table
    /// has as many as it was made for: of 49,152 buckets two can be expected to overflow then, and at half of that load none
    /// (Poisson; with half as many places again as entries it were a thousand of 24,576, and one at half of the load).
    pub const fn buckets(entries: u32) -> u32 {
        let buckets = (entries as u64 * 3).div_ceil(PLACES as u64) as u32;
        if buckets == 0 { 1 } else { buckets }
    }
}

const _: () = assert!(size_of::<Shape>() == 8 * SEEDS + 16 + 8 * FLOW_LOCKS + 8 * SOCKET_LOCKS);

// SAFETY: repr(C), every byte is initialised (there is no padding: see the assertion), any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Shape {}
