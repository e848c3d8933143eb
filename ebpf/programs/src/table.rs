//! The tables of flows, one per family, in buckets of our own (see `bucket`).

use core::marker::PhantomData;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use fairlead_abi::{FLOW_LOCKS, FlowBucket, FlowKey, FlowValue, Shape};
use fairlead_packet::choice;

use crate::bucket::{self, Table};
use crate::family::{Family, Ip4, Ip6};
use crate::parse::write_key;

/// The flows of a family.
struct Flows<F>(PhantomData<F>);

impl<F: Family> Table for Flows<F> {
    type Key = FlowKey<F::Addr>;
    type Value = FlowValue<F::Addr>;
    const LOCKS: u32 = FLOW_LOCKS as u32;

    #[inline(always)]
    fn map() -> &'static Array<FlowBucket<F::Addr>> {
        F::flows()
    }

    #[inline(always)]
    fn locks(shape: *mut Shape) -> *mut u64 {
        // SAFETY: the caller's pointer is to the map's value.
        unsafe { (&raw mut (*shape).flow_locks).cast() }
    }

    #[inline(always)]
    fn place(key: &FlowKey<F::Addr>, shape: &Shape) -> (u32, u32) {
        let hash = F::flow_hash(key, &shape.seeds);
        (choice::place(hash, if F::V6 { shape.flows6 } else { shape.flows4 }), hash)
    }

    #[inline(always)]
    fn same(a: &FlowKey<F::Addr>, b: &FlowKey<F::Addr>) -> bool {
        F::same_key(a, b)
    }
}

/// The entry of a key. Its fields are words that other CPUs may write, with values as good as ours.
#[inline(always)]
pub(crate) fn get<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut FlowValue<F::Addr>> {
    let (entry, _) = bucket::entry(&bucket::home::<Flows<F>>(key)?, key)?;
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
    if let Some(home) = bucket::home::<Flows<F>>(key)
        && let Some((_, place)) = bucket::entry(&home, key)
    {
        home.touch(place, now);
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
    draft::<F>().is_some_and(|draft| bucket::insert::<Flows<F>>(&draft.key, &draft.value, replace))
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

/// Removes the other entry of a flow.
#[inline(always)]
pub(crate) fn remove_partner<F: Family>(key: &FlowKey<F::Addr>, value: &FlowValue<F::Addr>) {
    if let Some(draft) = draft::<F>() {
        write_key::<F>(&mut draft.gone, [&value.dst, &value.src], [value.dport, value.sport], key.proto);
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
    draft::<F>().is_some_and(|draft| bucket::remove::<Flows<F>>(&draft.gone))
}
