//! The programs of the data path, one object.
//!
//! Every interface undoes on the way out what it did on the way in: a flow is translated and translated back at the
//! interface where its client is. Outside clients: `xdp_service` (or `tc_uplink_in`) and `tc_uplink_out`. Pods whose
//! sockets bypass the hooks: `tc_from_pod` and `tc_to_pod`. Sockets on this node: `sock_service`, where nothing is left
//! to translate back but what `recvmsg` and `getpeername` show. A reply that were given the node's own address as its
//! source on a pod's interface would be dropped by the host's routing, which is why replies to the outside are
//! translated at the uplink, after it.
//!
//! `service` and `masquerade` decide, on a parsed packet; the entry points parse, ask and rewrite.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod masquerade;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock_service;
#[cfg(target_arch = "bpf")]
mod tc_pod;
#[cfg(target_arch = "bpf")]
mod tc_uplink;
#[cfg(target_arch = "bpf")]
mod xdp_service;

/// Helpers such as `bpf_map_update_elem` are free, but the kernel wants to know that the licence lets all be used.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The host has no use for this crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
