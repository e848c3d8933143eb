//! The tables of flows: see [`fairlead_abi::FlowBucket`].
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

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use fairlead_abi::{FLOW_LOCKS, FLOW_PLACES, FlowBucket, FlowEntry, FlowKey, FlowValue};
use fairlead_packet::{bucket, choice};

use crate::family::{Family, Ip4, Ip6};
use crate::maps::{self, ticks};

/// How often a writer asks for its turn. Others keep it for some ten nanoseconds.
const TRIES: u32 = 32;

/// Where a key belongs.
struct Home<F: Family> {
    bucket: *mut FlowBucket<F::Addr>,
    tag: u16,
    /// Its own place in the bucket.
    place: usize,
    /// Whose turn it is to write to the bucket.
    lock: *mut u64,
}

#[inline(always)]
fn home<F: Family>(key: &FlowKey<F::Addr>) -> Option<Home<F>> {
    let shape = maps::FLOW_SHAPE.get_ptr_mut(0)?;
    // SAFETY: the map returned a pointer to its value; these fields are only written before programs are attached.
    let (hash, buckets) =
        unsafe { (F::flow_hash(key, &(*shape).seeds), if F::V6 { (*shape).buckets6 } else { (*shape).buckets4 }) };
    let number = choice::place(hash, buckets);
    let bucket = F::flows().get_ptr_mut(number)?;
    // SAFETY: less than the number of locks.
    let lock = unsafe { (&raw mut (*shape).locks).cast::<u64>().add((number & (FLOW_LOCKS as u32 - 1)) as usize) };
    Some(Home { bucket, tag: bucket::tag(hash), place: hash as usize & (FLOW_PLACES - 1), lock })
}

/// The entry of a key in its bucket, and its place there.
#[inline(always)]
fn entry<F: Family>(home: &Home<F>, key: &FlowKey<F::Addr>) -> Option<(*mut FlowEntry<F::Addr>, usize)> {
    let &Home { bucket, tag, place, .. } = home;
    // SAFETY: the pointer is to a bucket of the map, and a place is less than 16.
    let own = unsafe { (&raw mut (*bucket).entries).cast::<FlowEntry<F::Addr>>().add(place) };
    // SAFETY: inside the bucket; words that others may overwrite.
    if F::same_key(unsafe { &(*own).key }, key) {
        return Some((own, place));
    }
    // SAFETY: as above.
    let mut found = bucket::find(&unsafe { (*bucket).tags }, tag);
    // Three keys of a bucket with one tag are not to be expected in the life of a machine.
    let mut tries = 0;
    while found != 0 && tries < 2 {
        let (place, rest) = bucket::first(found);
        // SAFETY: a place is less than 16.
        let entry = unsafe { (&raw mut (*bucket).entries).cast::<FlowEntry<F::Addr>>().add(place) };
        // SAFETY: inside the bucket.
        if F::same_key(unsafe { &(*entry).key }, key) {
            return Some((entry, place));
        }
        found = rest;
        tries += 1;
    }
    None
}

/// The entry of a key. Its fields are words that other CPUs may write, with values as good as ours.
#[inline(always)]
pub(crate) fn get<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut FlowValue<F::Addr>> {
    let (entry, _) = entry(&home::<F>(key)?, key)?;
    // SAFETY: inside the map's value, which lives on for the run of the program.
    Some(unsafe { &mut (*entry).value })
}

/// The same, where it is not every packet that asks.
#[inline(never)]
pub(crate) fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut FlowValue<F::Addr>> {
    get::<F>(key)
}

/// Notes that a key's entry is in use.
#[inline(never)]
pub(crate) fn touch<F: Family>(key: &FlowKey<F::Addr>, now: u32) {
    if let Some(home) = home::<F>(key)
        && let Some((_, place)) = entry(&home, key)
    {
        // SAFETY: a place of the bucket. If it was given away meanwhile, its holder is as young.
        unsafe { (&raw mut (*home.bucket).seen).cast::<u16>().add(place).write(now as u16) };
    }
}

/// What a writer works on: one place per CPU, as with `desk`, and for the same reason.
pub(crate) struct Draft<F: Family> {
    /// Key of an entry to insert.
    pub(crate) key: FlowKey<F::Addr>,
    /// Its value.
    pub(crate) value: FlowValue<F::Addr>,
    /// Key of an entry to remove.
    gone: FlowKey<F::Addr>,
}

const WORDS: usize = 17;

#[map]
static DRAFT: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's draft. Stays as it is but for its writers.
#[inline(always)]
pub(crate) fn draft<F: Family>() -> Option<&'static mut Draft<F>> {
    const { assert!(size_of::<Draft<F>>() <= size_of::<[u64; WORDS]>()) }
    // SAFETY: the map returned a pointer to this CPU's value, which is large enough and aligned for any draft; nobody else
    // uses it while the program runs, and any bytes make a draft: it holds numbers alone.
    DRAFT.get_ptr_mut(0).map(|draft| unsafe {
        core::hint::assert_unchecked(draft.is_aligned());
        &mut *draft.cast::<Draft<F>>()
    })
}

/// Enters the draft's key. Where it is there already, its value is replaced if `replace` says so, and otherwise nothing is
/// done. Returns whether the entry is ours now.
#[inline(always)]
pub(crate) fn insert<F: Family>(replace: bool) -> bool {
    let done = if F::V6 { insert6(replace as u32) } else { insert4(replace as u32) };
    done != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert4(replace: u32) -> u32 {
    step_insert::<Ip4>(replace != 0) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert6(replace: u32) -> u32 {
    step_insert::<Ip6>(replace != 0) as u32
}

#[inline(always)]
fn step_insert<F: Family>(replace: bool) -> bool {
    let Some(Draft { key, value, .. }) = draft::<F>() else {
        return false;
    };
    let Some(home) = home::<F>(key) else {
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

impl<F: Family> Home<F> {
    /// Gives a place to an entry. For whose turn it is.
    #[inline(always)]
    fn fill(&self, place: usize, key: &FlowKey<F::Addr>, value: &FlowValue<F::Addr>) {
        const { assert!(size_of::<FlowKey<F::Addr>>().is_multiple_of(8)) }
        let last = size_of::<FlowKey<F::Addr>>() / 8 - 1;
        // SAFETY: a place is less than 16, and its entry inside the bucket; keys are aligned words.
        unsafe {
            let entry = (&raw mut (*self.bucket).entries).cast::<FlowEntry<F::Addr>>().add(place);
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
            (&raw mut (*self.bucket).seen).cast::<u16>().add(place).write(ticks() as u16);
            (&raw mut (*self.bucket).tags).cast::<u16>().add(place).write(self.tag);
            compiler_fence(Ordering::SeqCst);
            to.add(last).write(from.add(last).read());
        }
    }

    /// Empties a place. For whose turn it is.
    #[inline(always)]
    fn clear(&self, place: usize) {
        let last = size_of::<FlowKey<F::Addr>>() / 8 - 1;
        // SAFETY: as above.
        unsafe {
            let entry = (&raw mut (*self.bucket).entries).cast::<FlowEntry<F::Addr>>().add(place);
            (&raw mut (*entry).key).cast::<u64>().add(last).write(0);
            (&raw mut (*self.bucket).tags).cast::<u16>().add(place).write(0);
        }
    }
}

/// The place for a key: its own if that is free, another that is free, or that of an entry that was silent for long. Its
/// own again, if the silence there was at least half of the longest.
#[inline(always)]
fn room<F: Family>(home: &Home<F>) -> usize {
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
    while place < FLOW_PLACES {
        // SAFETY: as above.
        let seen = unsafe { (*bucket).seen[place] };
        let age = (now.wrapping_sub(seen as u32) & 0xffff) << 4 | place as u32;
        oldest = if age > oldest { age } else { oldest };
        place += 1;
    }
    if own * 2 >= oldest >> 4 { home.place } else { (oldest & (FLOW_PLACES as u32 - 1)) as usize }
}

/// Removes a key's entry, if it is there.
#[inline(always)]
pub(crate) fn remove<F: Family>(key: &FlowKey<F::Addr>) {
    if let Some(draft) = draft::<F>() {
        draft.gone = *key;
        if F::V6 {
            remove6()
        } else {
            remove4()
        };
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove4() -> u32 {
    step_remove::<Ip4>() as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove6() -> u32 {
    step_remove::<Ip6>() as u32
}

#[inline(always)]
fn step_remove<F: Family>() -> bool {
    let Some(Draft { gone: key, .. }) = draft::<F>() else {
        return false;
    };
    let Some(home) = home::<F>(key) else {
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
