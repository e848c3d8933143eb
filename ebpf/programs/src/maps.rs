//! Map declarations and the one-line questions asked of them. Sizes here are the least; user space sets the real ones.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use fairlead_abi::{
    AffinityKey, AffinityValue, Backend, Bypass, Counter, FlowBucket, FragmentKey, FragmentValue, Group, INTERFACES,
    MemberKey, Node, Pod, RangeKey, ServiceKey, ServiceValue, Shape, SocketBucket, SourcePool, Trace, V6,
};

/// `BPF_F_MMAPABLE`: user space stores into these arrays without system calls.
const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`: memory as it is used; tries must have it.
const NO_PREALLOC: u32 = 1;

#[map]
pub(crate) static SERVICES4: HashMap<ServiceKey<u32>, ServiceValue> = HashMap::pinned(1, 0);
#[map]
pub(crate) static SERVICES6: HashMap<ServiceKey<[u32; 4]>, ServiceValue> = HashMap::pinned(1, 0);
#[map]
pub(crate) static GROUPS: Array<Group> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static SLOTS: Array<u32> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static MEMBERS: HashMap<MemberKey, u32> = HashMap::pinned(1, NO_PREALLOC);
#[map]
pub(crate) static RANGES: LpmTrie<RangeKey, u32> = LpmTrie::pinned(1, NO_PREALLOC);
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::pinned(1, 0);
#[map]
pub(crate) static FLOWS4: Array<FlowBucket<u32>> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static FLOWS6: Array<FlowBucket<[u32; 4]>> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static SHAPE: Array<Shape> = Array::pinned(1, 0);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::pinned(1, 0);
#[map]
pub(crate) static FRAGMENT_TAP: Array<u32> = Array::pinned(1, 0);
#[map]
pub(crate) static SOCKETS: Array<SocketBucket> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static NETNS: HashMap<u64, Pod> = HashMap::pinned(4096, 0);
#[map]
pub(crate) static PODS: HashMap<V6, Pod> = HashMap::pinned(4096, 0);
#[map]
pub(crate) static UPLINKS: HashMap<u32, SourcePool> = HashMap::pinned(256, 0);
#[map]
pub(crate) static TURNS: PerCpuArray<u32> = PerCpuArray::pinned(1, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);
#[map]
pub(crate) static BYPASS: Array<Bypass> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static TRACE: PerCpuArray<Trace> = PerCpuArray::pinned(1, 0);

#[unsafe(no_mangle)]
static NODE: Node = Node::ZERO;

/// Constants of the node. The verifier knows their values and drops branches that they rule out.
#[inline(always)]
pub(crate) fn constants() -> *const Node {
    &raw const NODE
}

/// Reads one constant of the node.
macro_rules! node {
    ($($field:tt)+) => {{
        // SAFETY: NODE is a static of the object; volatile, because user space replaces its bytes before loading.
        unsafe { core::ptr::read_volatile(&raw const (*$crate::maps::constants()).$($field)+) }
    }};
}
pub(crate) use node;

/// One more packet of this verdict.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map returned a pointer to this CPU's value; no other CPU writes it.
        unsafe { *value += 1 }
    }
}

/// A clock in units of about a second, for the price of a load.
#[inline(always)]
pub(crate) fn ticks() -> u32 {
    // SAFETY: the helper takes nothing and cannot fail.
    (unsafe { bpf_jiffies64() } >> (node!(tick_shift) & 31)) as u32
}

/// The life an endpoint has now; 0 for an id that is none.
#[inline(always)]
pub(crate) fn life(backend: u32) -> u32 {
    match BACKENDS.get_ptr(backend) {
        // SAFETY: the map returned a pointer to a value of the array; volatile, because user space stores into it.
        Some(entry) => unsafe { core::ptr::read_volatile(&raw const (*entry).life) },
        None => 0,
    }
}

/// An endpoint.
#[inline(always)]
pub(crate) fn backend(id: u32) -> Option<&'static Backend> {
    BACKENDS.get(id)
}

/// Tells user space that sockets were given an endpoint: it looks for the sockets of no other when that ends.
#[inline(always)]
pub(crate) fn mark_given(id: u32, life: u32) {
    if let Some(backend) = BACKENDS.get_ptr_mut(id) {
        // SAFETY: the map returned a pointer to a value of the array; this word is written by nobody else, and with the
        // same value by all who are given an endpoint of this life.
        unsafe {
            let given = &raw mut (*backend).given;
            if core::ptr::read_volatile(given) != life {
                core::ptr::write_volatile(given, life);
            }
        }
    }
}

/// The life that a flow notes for an endpoint it was given: that of an active one, even if the endpoint began to drain
/// just now, so that the flow meets the difference.
#[inline(always)]
pub(crate) const fn noted(life: u32) -> u32 {
    life & !0xff | Backend::ACTIVE
}

/// Whether an endpoint still takes new flows of the life that was noted for it.
#[inline(always)]
pub(crate) fn is_alive(backend: u32, life: u32) -> bool {
    self::life(backend) == life
}

/// Addresses to translate sources to on an uplink.
#[inline(always)]
pub(crate) fn pool(ifindex: u32) -> Option<&'static SourcePool> {
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
    UPLINKS.get_ptr(&ifindex).map(|pool| unsafe { &*pool })
}

/// The pod of this node at an address (mapped if IPv4).
#[inline(always)]
pub(crate) fn pod(addr: &V6) -> Option<&'static Pod> {
    // SAFETY: as above.
    PODS.get_ptr(addr).map(|pod| unsafe { &*pod })
}

/// In [`Bypass::clients`]: packets of pods of this node were translated at their interfaces.
pub(crate) const POD_CLIENTS: u64 = 1;
/// In [`Bypass::clients`]: packets of pods of other nodes were translated at an uplink.
pub(crate) const CLUSTER_CLIENTS: u64 = 2;

/// Whether there ever were clients of a kind that takes part of the fast paths away.
#[inline(always)]
pub(crate) fn bypassed(clients: u64) -> bool {
    BYPASS.get(0).is_some_and(|bypass| bypass.clients & clients != 0)
}

/// Whether user space is closing datagram sockets of endpoints that ended.
#[inline(always)]
pub(crate) fn has_ended() -> bool {
    match BYPASS.get_ptr(0) {
        // SAFETY: the map returned a pointer to its value; volatile, because user space stores into it.
        Some(bypass) => unsafe { core::ptr::read_volatile(&raw const (*bypass).closing) != 0 },
        None => false,
    }
}

/// Whether there ever were such clients at a pod's interface.
#[inline(always)]
pub(crate) fn bypassed_at(ifindex: u32) -> bool {
    BYPASS.get_ptr(0).is_some_and(|bypass| {
        // SAFETY: the map returned a pointer to its value, and the place is below the number of places.
        unsafe { (*bypass).interfaces.as_ptr().add(ifindex as usize & (INTERFACES - 1)).read_volatile() != 0 }
    })
}

/// There are such clients at a pod's interface now.
#[inline(always)]
pub(crate) fn bypass_at(ifindex: u32) {
    if let Some(bypass) = BYPASS.get_ptr_mut(0) {
        // SAFETY: as above. A byte for each, which takes no other CPU's with it.
        unsafe {
            let place = (&raw mut (*bypass).interfaces).cast::<u8>().add(ifindex as usize & (INTERFACES - 1));
            if place.read_volatile() == 0 {
                place.write_volatile(1);
            }
        }
    }
    bypass(POD_CLIENTS);
}

/// There are clients of such a kind now.
#[inline(always)]
pub(crate) fn bypass(clients: u64) {
    if let Some(bypass) = BYPASS.get_ptr_mut(0) {
        // SAFETY: the map returned a pointer to its value; bits are only ever set, and one lost to another CPU is set
        // again by the next flow.
        unsafe {
            if (*bypass).clients & clients == 0 {
                (*bypass).clients |= clients;
            }
        }
    }
}
