//! Tables of the programs' own: see [`fairlead_abi::Bucket`]. `table` holds flows in them, `sock` what sockets were given.
//!
//! A key has a place in its bucket that it takes if it can, so that most lookups look there and nowhere else: one miss of
//! the cache. The tags find what had to go elsewhere.
//!
//! Lookups take no lock. Writers of one bucket take turns; they empty a place before they fill it anew. Whoever still
//! looks at an entry that another CPU gives away may see a mixture of both, as with the kernel's own tables that forget:
//! the entry that gives way is the one that was silent for longest, and for this its next packet would have to come in
//! the same few nanoseconds.

use core::arch::asm;
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::maps::Array;
use fairlead_abi::{Bucket, Entry, PLACES, SEEDS, Shape};
use fairlead_packet::bucket;

use crate::maps::{self, ticks};

/// One of the tables.
pub(crate) trait Table: Sized + 'static {
    /// Aligned words, of which the last is never zero in a key.
    type Key: Copy + 'static;
    /// What is kept under a key.
    type Value: Copy + 'static;
    /// Number of locks, a power of two.
    const LOCKS: u32;

    /// The buckets.
    fn map() -> &'static Array<Bucket<Self::Key, Self::Value>>;
    /// The first of the locks.
    fn locks(shape: *mut Shape) -> *mut u64;
    /// The bucket of a key, and its hash.
    fn place(key: &Self::Key, shape: &Shape) -> (u32, u32);
    /// Whether two keys are the same.
    fn same(a: &Self::Key, b: &Self::Key) -> bool;
}

/// A key as words of either size.
#[inline(always)]
pub(crate) fn words<K, W>(key: &K) -> &W {
    const { assert!(size_of::<W>() == size_of::<K>() && align_of::<W>() <= align_of::<K>()) }
    // SAFETY: of the same size, aligned, without padding; used with arrays of numbers alone.
    unsafe { &*core::ptr::from_ref(key).cast::<W>() }
}

/// How often a writer asks for its turn. Others keep it for some ten nanoseconds.
const TRIES: u32 = 32;

/// [`bucket::hash`], word by word: the compiler would load all words and seeds at once, and keep them on the stack.
#[inline(always)]
pub(crate) fn hash<const N: usize>(words: &[u32; N], seeds: &[u64; SEEDS]) -> u32 {
    const { assert!(N.is_multiple_of(2) && N < SEEDS) }
    let mut sum = seeds[0];
    let mut i = 0;
    while i < N {
        sum = bucket::mix(sum, [words[i], words[i + 1]], [seeds[i + 1], seeds[i + 2]]);
        if N > 4 {
            // SAFETY: changes nothing; what follows waits for the sum. Without any instruction, the debug information would
            // name a line twice, which the kernel refuses.
            unsafe { asm!("{0} = {0}", inout(reg) sum) }
        }
        i += 2;
    }
    bucket::finish(sum)
}

/// Where a key belongs.
pub(crate) struct Home<T: Table> {
    bucket: *mut Bucket<T::Key, T::Value>,
    tag: u16,
    /// Its own place in the bucket.
    place: usize,
    /// Whose turn it is to write to the bucket.
    lock: *mut u64,
}

#[inline(always)]
pub(crate) fn home<T: Table>(key: &T::Key) -> Option<Home<T>> {
    let shape = maps::SHAPE.get_ptr_mut(0)?;
    // SAFETY: the map returned a pointer to its value; these fields are only written before programs are attached.
    let (number, hash) = T::place(key, unsafe { &*shape });
    let bucket = T::map().get_ptr_mut(number)?;
    // SAFETY: less than the number of locks.
    let lock = unsafe { T::locks(shape).add((number & (T::LOCKS - 1)) as usize) };
    Some(Home { bucket, tag: bucket::tag(hash), place: hash as usize & (PLACES - 1), lock })
}

type EntryOf<T> = Entry<<T as Table>::Key, <T as Table>::Value>;

/// The entry of a key in its bucket, and its place there.
#[inline(always)]
pub(crate) fn entry<T: Table>(home: &Home<T>, key: &T::Key) -> Option<(*mut EntryOf<T>, usize)> {
    let &Home { bucket, tag, place, .. } = home;
    // SAFETY: the pointer is to a bucket of the map, and a place is less than 16.
    let own = unsafe { (&raw mut (*bucket).entries).cast::<Entry<T::Key, T::Value>>().add(place) };
    // SAFETY: inside the bucket; words that others may overwrite.
    if T::same(unsafe { &(*own).key }, key) {
        return Some((own, place));
    }
    // SAFETY: as above.
    let mut found = bucket::find(&unsafe { (*bucket).tags }, tag);
    // Three keys of a bucket with one tag are not to be expected in the life of a machine.
    let mut tries = 0;
    while found != 0 && tries < 2 {
        let (place, rest) = bucket::first(found);
        // SAFETY: a place is less than 16.
        let entry = unsafe { (&raw mut (*bucket).entries).cast::<Entry<T::Key, T::Value>>().add(place) };
        // SAFETY: inside the bucket.
        if T::same(unsafe { &(*entry).key }, key) {
            return Some((entry, place));
        }
        found = rest;
        tries += 1;
    }
    None
}

/// Enters a key. Where it is there already, its value is replaced if `replace` says so, and otherwise nothing is done.
/// Returns whether the entry is ours now.
#[inline(always)]
pub(crate) fn insert<T: Table>(key: &T::Key, value: &T::Value, replace: bool) -> bool {
    let Some(home) = home::<T>(key) else {
        return false;
    };
    let Some(turn) = Turn::take(home.lock) else {
        return false;
    };
    let place = match entry(&home, key) {
        Some(_) if !replace => None,
        Some((_, place)) => Some(place),
        None => Some(room(&home)),
    };
    if let Some(place) = place {
        home.fill(place, key, value);
    }
    turn.give_back();
    place.is_some()
}

/// Removes a key's entry, if it is there.
#[inline(always)]
pub(crate) fn remove<T: Table>(key: &T::Key) -> bool {
    let Some(home) = home::<T>(key) else {
        return false;
    };
    let Some(turn) = Turn::take(home.lock) else {
        return false;
    };
    if let Some((_, place)) = entry(&home, key) {
        home.clear(place);
    }
    turn.give_back();
    true
}

impl<T: Table> Home<T> {
    /// Gives a place to an entry. For whose turn it is.
    #[inline(always)]
    fn fill(&self, place: usize, key: &T::Key, value: &T::Value) {
        const { assert!(size_of::<T::Key>().is_multiple_of(8)) }
        let last = size_of::<T::Key>() / 8 - 1;
        // SAFETY: a place is less than 16, and its entry inside the bucket; keys are aligned words.
        unsafe {
            let entry = (&raw mut (*self.bucket).entries).cast::<Entry<T::Key, T::Value>>().add(place);
            let (from, to) = (core::ptr::from_ref(key).cast::<u64>(), (&raw mut (*entry).key).cast::<u64>());
            // The last word holds the protocol, without which it is nobody's key.
            to.add(last).write(0);
            compiler_fence(Ordering::SeqCst);
            let mut word = 0;
            while word < last {
                to.add(word).write(from.add(word).read());
                word += 1;
            }
            (*entry).value = *value;
            self.touch(place, ticks());
            (&raw mut (*self.bucket).tags).cast::<u16>().add(place).write(self.tag);
            compiler_fence(Ordering::SeqCst);
            to.add(last).write(from.add(last).read());
        }
    }

    /// Notes that a place is in use. If it was given away meanwhile, its holder is as young.
    #[inline(always)]
    pub(crate) fn touch(&self, place: usize, now: u32) {
        // SAFETY: a place is less than 16.
        unsafe { (&raw mut (*self.bucket).seen).cast::<u16>().add(place).write(now as u16) };
    }

    /// Empties a place. For whose turn it is.
    #[inline(always)]
    fn clear(&self, place: usize) {
        let last = size_of::<T::Key>() / 8 - 1;
        // SAFETY: as above.
        unsafe {
            let entry = (&raw mut (*self.bucket).entries).cast::<Entry<T::Key, T::Value>>().add(place);
            (&raw mut (*entry).key).cast::<u64>().add(last).write(0);
            (&raw mut (*self.bucket).tags).cast::<u16>().add(place).write(0);
        }
    }
}

/// The place for a key: its own if that is free, another that is free, or that of an entry that was silent for long. Its
/// own again, if the silence there was at least half of the longest.
#[inline(always)]
fn room<T: Table>(home: &Home<T>) -> usize {
    let bucket = home.bucket;
    // SAFETY: inside the bucket; a place is less than 16.
    if unsafe { (&raw mut (*bucket).tags).cast::<u16>().add(home.place).read() } == 0 {
        return home.place;
    }
    // SAFETY: as in `entry`.
    let free = bucket::find(&unsafe { (*bucket).tags }, 0);
    if free != 0 {
        return bucket::first(free).0;
    }
    // A little later than now: another CPU may be a tick ahead.
    let now = ticks().wrapping_add(8);
    // SAFETY: as above.
    let own = unsafe { (&raw mut (*bucket).seen).cast::<u16>().add(home.place).read() };
    let own = now.wrapping_sub(own as u32) & 0xffff;
    let mut oldest = 0;
    let mut place = 0;
    while place < PLACES {
        // SAFETY: as above.
        let seen = unsafe { (*bucket).seen[place] };
        let age = (now.wrapping_sub(seen as u32) & 0xffff) << 4 | place as u32;
        oldest = if age > oldest { age } else { oldest };
        place += 1;
    }
    if own * 2 >= oldest >> 4 { home.place } else { (oldest & (PLACES as u32 - 1)) as usize }
}

/// A writer's turn at a bucket. The kernel's own locks are not for maps without BTF, and its comparing exchange is not in
/// 5.10; adding is. Who comes and finds himself alone has the turn; others come again.
struct Turn(*mut u64);

impl Turn {
    #[inline(always)]
    fn take(lock: *mut u64) -> Option<Self> {
        let mut tries = 0;
        while tries < TRIES {
            add(lock, 1);
            // SAFETY: inside the map's value, aligned.
            if unsafe { lock.read_volatile() } == 1 {
                return Some(Self(lock));
            }
            add(lock, -1);
            tries += 1;
        }
        None
    }

    #[inline(always)]
    fn give_back(self) {
        add(self.0, -1);
    }
}

/// Adds in one step that no other CPU gets between. Nothing in memory is moved across it, by the compiler or by x86; on
/// machines that might, two writers could meet once in an age.
#[inline(always)]
fn add(word: *mut u64, number: i64) {
    // SAFETY: the caller's pointer is inside a map's value, and aligned.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number) }
}
