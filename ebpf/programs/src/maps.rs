//! Map declarations and the one-line questions asked of them. Sizes here are the least; user space sets the real ones.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use fairlead_abi::{
    Backend, Counter, FlowKey, FlowValue, Group, Node, ServiceKey, ServiceValue, SocketKey, SocketValue,
};

/// `BPF_F_MMAPABLE`: user space stores into these arrays without system calls.
const MAPPED: u32 = 1 << 10;

#[map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceValue> = HashMap::pinned(1, 0);
#[map]
pub(crate) static GROUPS: Array<Group> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static SLOTS: Array<u32> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static BACKENDS: Array<Backend> = Array::pinned(1, MAPPED);
#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowValue> = LruHashMap::pinned(1, 0);
#[map]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketValue> = LruHashMap::pinned(1, 0);
#[map]
pub(crate) static NETNS: HashMap<u64, u32> = HashMap::pinned(4096, 0);
#[map]
pub(crate) static UPLINKS: HashMap<u32, [u8; 4]> = HashMap::pinned(256, 0);
#[map]
pub(crate) static TURNS: PerCpuArray<u32> = PerCpuArray::pinned(1, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);
#[map]
pub(crate) static BYPASS: Array<u32> = Array::pinned(1, 0);

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

/// Looks a flow up, for reading and for marking.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<&'static mut FlowValue> {
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program; fields are words that may
    // be overwritten by another CPU, with values as good as ours.
    FLOWS.get_ptr_mut(key).map(|value| unsafe { &mut *value })
}

/// Whether an endpoint still takes flows of the life it had when it was chosen.
#[inline(always)]
pub(crate) fn is_alive(backend: u32, life: u32) -> bool {
    match BACKENDS.get_ptr(backend) {
        // SAFETY: the map returned a pointer to a value of the array; volatile, because user space stores into it.
        Some(entry) => unsafe { core::ptr::read_volatile(&raw const (*entry).life) == life },
        None => false,
    }
}
