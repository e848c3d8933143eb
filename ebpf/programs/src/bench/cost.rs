//! What programs are compared with, and what runs them one packet after the other.
//!
//! `empty_*` do nothing. `minimal_*` are the least that a service load balancer can do and be one: look up the service, the
//! connection and its endpoint, rewrite the packet with checksums brought up to date, count; no IPv6, no options, no ICMP,
//! no policy, no end of a connection, no life of an endpoint, no way back. Whatever ours costs beyond them is the price of
//! these.
//!
//! The kernel's test run hands a program one buffer again and again. `wrap_*` make it the next flow's packet, whatever the
//! program under test left of it, and call that program; `empty_*` behind them show what that costs.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::macros::{cgroup_sock_addr, classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};

/// Bytes that are written anew for each packet: Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 54;
const SOURCE: usize = 26;
const PORTS: usize = 34;
const FLAGS: usize = 47;
const SYN: u8 = 2;
/// First source port of the flows; each source address has 16384.
const FIRST_PORT: u32 = 1024;
const PORT_BITS: u32 = 14;

const TC_OK: i32 = 0;
const TC_SHOT: i32 = 2;
const ALLOW: i32 = 1;

/// The packets of a run.
#[repr(C)]
#[derive(Clone, Copy)]
struct Packets {
    /// Number of the next one.
    next: u64,
    /// Number of flows less one; a power of two less one.
    mask: u64,
    /// Source address of the first, as a number.
    source: u32,
    template: [u8; HEADERS],
}

/// A tuple, as the packet has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tuple {
    source: u32,
    destination: u32,
    ports: u32,
    protocol: u32,
}

/// Where a service answers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Address {
    address: u32,
    port: u16,
    protocol: u16,
}

#[map]
static PACKETS: Array<Packets> = Array::with_max_entries(1, 0);
#[map]
static UNDER_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static UNDER_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where services answer, and how many endpoints each has: those numbered from the upper half, as many as the lower half.
#[map]
static MINIMAL_SERVICES: HashMap<Address, u64> = HashMap::with_max_entries(1, 0);
#[map]
static MINIMAL_FLOWS: LruHashMap<Tuple, u64> = LruHashMap::with_max_entries(1, 0);
#[map]
static MINIMAL_ENDPOINTS: Array<Address> = Array::with_max_entries(1, 0);
#[map]
static MINIMAL_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Writes the next packet over the one that is there.
#[inline(always)]
fn next(start: usize, end: usize) -> bool {
    if start + HEADERS > end {
        return false;
    }
    let Some(packets) = PACKETS.get_ptr_mut(0) else { return false };
    // SAFETY: the map returned a pointer to its value, which one test run at a time uses; the places are inside the
    // packet, as checked above.
    unsafe {
        let number = ((*packets).next & (*packets).mask) as u32;
        (*packets).next += 1;
        *(start as *mut [u8; HEADERS]) = (*packets).template;
        ((start + SOURCE) as *mut u32).write_unaligned((((*packets).source) + (number >> PORT_BITS)).to_be());
        let port = (FIRST_PORT + (number & ((1 << PORT_BITS) - 1))) as u16;
        ((start + PORTS) as *mut u16).write_unaligned(port.to_be());
    }
    true
}

/// The next packet, for an XDP program.
#[xdp]
fn wrap_xdp(ctx: XdpContext) -> u32 {
    if next(ctx.data(), ctx.data_end()) {
        // SAFETY: the call does not come back, or fails.
        let _ = unsafe { UNDER_XDP.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

/// The next packet, for a tc program.
#[classifier]
fn wrap_tc(ctx: TcContext) -> i32 {
    if next(ctx.data(), ctx.data_end()) {
        // SAFETY: as above.
        let _ = unsafe { UNDER_TC.tail_call(&ctx, 0) };
    }
    TC_SHOT
}

/// Nothing.
#[xdp]
fn empty_xdp(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Nothing.
#[classifier]
fn empty_tc(_ctx: TcContext) -> i32 {
    TC_OK
}

/// Nothing.
#[cgroup_sock_addr(connect4)]
fn empty_connect4(_ctx: SockAddrContext) -> i32 {
    ALLOW
}

/// The least a load balancer can do in XDP.
#[xdp]
fn minimal_xdp(ctx: XdpContext) -> u32 {
    if balance(ctx.data(), ctx.data_end()) { XDP_PASS } else { XDP_DROP }
}

/// The same, and the packet is sent on by the second interface.
#[xdp]
fn arrive_minimal(ctx: XdpContext) -> u32 {
    if balance(ctx.data(), ctx.data_end()) { crate::programs::send_on() } else { XDP_DROP }
}

/// The same in tc.
#[classifier]
fn minimal_tc(ctx: TcContext) -> i32 {
    if balance(ctx.data(), ctx.data_end()) { TC_OK } else { TC_SHOT }
}

/// Whether the packet goes on.
#[inline(always)]
fn balance(start: usize, end: usize) -> bool {
    if start + HEADERS > end {
        return false;
    }
    // SAFETY: everything is inside the headers, as checked above.
    let word = |at: usize| unsafe { ((start + at) as *const u32).read_unaligned() };
    let tuple = Tuple {
        source: word(SOURCE),
        destination: word(SOURCE + 4),
        ports: word(PORTS),
        // SAFETY: as above.
        protocol: unsafe { *((start + 23) as *const u8) } as u32,
    };
    let port = (tuple.ports >> 16) as u16;
    let service = Address { address: tuple.destination, port, protocol: tuple.protocol as u16 };
    let Some(endpoints) = MINIMAL_SERVICES.get_ptr(&service) else { return true };
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
    let endpoints = unsafe { *endpoints };
    // SAFETY: as above.
    let opens = unsafe { *((start + FLAGS) as *const u8) } & SYN != 0;
    let known = if opens { None } else { MINIMAL_FLOWS.get_ptr(&tuple) };
    let id = match known {
        // SAFETY: as above.
        Some(id) => unsafe { *id },
        None => {
            let hash = tuple.source.wrapping_mul(2_654_435_761) ^ (tuple.ports & 0xffff).wrapping_mul(40_503);
            let count = endpoints as u32;
            if count == 0 {
                return false;
            }
            let id = (endpoints >> 32) + u64::from((hash >> 8) % count);
            let _ = MINIMAL_FLOWS.insert(&tuple, &id, 0);
            id
        }
    };
    let Some(endpoint) = MINIMAL_ENDPOINTS.get(id as u32) else { return false };
    let (old, new) = (tuple.destination, endpoint.address);
    let address = fold((!old & 0xffff) + (!old >> 16) + (new & 0xffff) + (new >> 16));
    // SAFETY: as above; byte arrays have no alignment.
    unsafe {
        let ip = (start + 24) as *mut u16;
        ip.write_unaligned(!fold(u32::from(!ip.read_unaligned()) + u32::from(address)));
        let tcp = (start + 50) as *mut u16;
        let ports = u32::from(!port) + u32::from(endpoint.port);
        tcp.write_unaligned(!fold(u32::from(!tcp.read_unaligned()) + u32::from(address) + ports));
        ((start + SOURCE + 4) as *mut u32).write_unaligned(new);
        ((start + PORTS + 2) as *mut u16).write_unaligned(endpoint.port);
        *(start as *mut [u8; 6]) = [2; 6];
        *((start + 6) as *mut [u8; 6]) = [4; 6];
    }
    if let Some(count) = MINIMAL_COUNTS.get_ptr_mut(id as u32) {
        // SAFETY: the map returned a pointer to this CPU's value; no other CPU writes it.
        unsafe { *count += 1 }
    }
    true
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// The least a load balancer can do when a socket connects: no session, no affinity, and `getpeername` shows the endpoint.
#[cgroup_sock_addr(connect4)]
fn minimal_connect4(ctx: SockAddrContext) -> i32 {
    let name = ctx.sock_addr;
    // SAFETY: fields of the context.
    let (address, port, protocol) = unsafe { ((*name).user_ip4, (*name).user_port, (*name).protocol) };
    let service = Address { address, port: port as u16, protocol: protocol as u16 };
    let Some(endpoints) = MINIMAL_SERVICES.get_ptr(&service) else { return ALLOW };
    // SAFETY: the map returned a pointer to a value that lives on for the run of the program.
    let endpoints = unsafe { *endpoints };
    let count = endpoints as u32;
    if count == 0 {
        return ALLOW;
    }
    // SAFETY: the helper takes nothing and cannot fail.
    let drawn = unsafe { bpf_get_prandom_u32() } % count;
    let Some(endpoint) = MINIMAL_ENDPOINTS.get((endpoints >> 32) as u32 + drawn) else { return ALLOW };
    // SAFETY: fields of the context that such programs may write.
    unsafe {
        (*name).user_ip4 = endpoint.address;
        (*name).user_port = u32::from(endpoint.port);
    }
    ALLOW
}
