//! What a socket hook is given: an address that the socket names, or is shown, in the fields of its family.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use fairlead_abi::{V6, mapped};

/// An address, mapped if IPv4, with port and protocol.
pub(super) struct Name {
    pub(super) addr: V6,
    pub(super) port: [u8; 2],
    pub(super) proto: u8,
}

impl Name {
    /// Who names no address means this machine, as the kernel has it.
    #[inline(always)]
    pub(super) fn reach_self(&mut self) {
        if is_mapped(&self.addr) {
            if u32::from_ne_bytes([self.addr[12], self.addr[13], self.addr[14], self.addr[15]]) == 0 {
                self.addr = mapped([127, 0, 0, 1]);
            }
        } else if is_zero(&self.addr) {
            self.addr[15] = 1;
        }
    }
}

/// Hooks of IPv4 addresses, or of IPv6 ones.
pub(super) trait Context {
    /// The address in the hook's context.
    fn name(ctx: &SockAddrContext) -> Name;
    /// Replaces it. The new one is of the same family: mapped where it was.
    fn put(ctx: &SockAddrContext, addr: &V6, port: [u8; 2]);
}

/// Hooks whose names end in 4.
pub(super) struct Ctx4;

/// Hooks whose names end in 6.
pub(super) struct Ctx6;

impl Context for Ctx4 {
    #[inline(always)]
    fn name(ctx: &SockAddrContext) -> Name {
        // SAFETY: a field of the context, read as the one word the kernel gives.
        let addr = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4) };
        named(ctx.sock_addr, mapped(addr.to_ne_bytes()))
    }

    #[inline(always)]
    fn put(ctx: &SockAddrContext, addr: &V6, port: [u8; 2]) {
        let addr = u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]]);
        // SAFETY: a field of the context, written as the one word the kernel takes.
        unsafe { core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, addr) }
        put_port(ctx.sock_addr, port);
    }
}

impl Context for Ctx6 {
    #[inline(always)]
    fn name(ctx: &SockAddrContext) -> Name {
        // SAFETY: fields of the context, each read as the one word the kernel gives.
        let [a, b, c, d] = unsafe {
            [
                core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[0]),
                core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[1]),
                core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[2]),
                core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[3]),
            ]
        };
        named(ctx.sock_addr, words(a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32))
    }

    #[inline(always)]
    fn put(ctx: &SockAddrContext, addr: &V6, port: [u8; 2]) {
        let (low, high) = halves(addr);
        // SAFETY: fields of the context, each written as the one word the kernel takes.
        unsafe {
            core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[0], low as u32);
            core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[1], (low >> 32) as u32);
            core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[2], high as u32);
            core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[3], (high >> 32) as u32);
        }
        put_port(ctx.sock_addr, port);
    }
}

#[inline(always)]
fn named(ctx: *const bpf_sock_addr, addr: V6) -> Name {
    // SAFETY: fields of the context, each read as the one word the kernel gives.
    let (port, proto) = unsafe {
        (core::ptr::read_volatile(&raw const (*ctx).user_port), core::ptr::read_volatile(&raw const (*ctx).protocol))
    };
    // The lowest byte of 262, multipath TCP, is that of TCP: such a socket is one, towards a service.
    Name { addr, port: (port as u16).to_ne_bytes(), proto: proto as u8 }
}

#[inline(always)]
fn put_port(ctx: *mut bpf_sock_addr, port: [u8; 2]) {
    // SAFETY: a field of the context, written as the one word the kernel takes.
    unsafe { core::ptr::write_volatile(&raw mut (*ctx).user_port, u16::from_ne_bytes(port) as u32) }
}

/// An address out of its halves, as they lie in memory.
#[inline(always)]
pub(super) const fn words(low: u64, high: u64) -> V6 {
    ((low as u128) | (high as u128) << 64).to_ne_bytes()
}

#[inline(always)]
const fn halves(addr: &V6) -> (u64, u64) {
    let all = u128::from_ne_bytes(*addr);
    (all as u64, (all >> 64) as u64)
}

/// Whether it is an IPv4 address in IPv6's clothes.
#[inline(always)]
pub(super) const fn is_mapped(addr: &V6) -> bool {
    let (low, high) = halves(addr);
    low == 0 && high as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// Whether it is the address of nobody, plain or mapped.
#[inline(always)]
pub(super) const fn is_zero(addr: &V6) -> bool {
    let (low, high) = halves(addr);
    low == 0 && (high == 0 || high == u32::from_ne_bytes([0, 0, 0xff, 0xff]) as u64)
}
