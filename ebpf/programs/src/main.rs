//! The programs of the data path, one object.
//!
//! A flow is translated, and translated back, at its client's interface. Outside clients: `xdp_service`, for what is
//! plain, with `tc_uplink_in` behind it for everything, and `tc_uplink_out`. Pods whose sockets bypass the hooks:
//! `tc_from_pod` and `tc_to_pod`. Sockets on this node: the hooks of `sock`, where nothing is left to translate back but
//! what `recvmsg` and `getpeername` show.
//!
//! A packet is read (`parse`), its verdict found (`uplink` and `pod` ask `flow`, then `service`, then `create`), and the
//! verdict carried out (`xdp` or `skb`; `route`, `answer`, `dsr`, `icmp_error` and `fragment` for what is not a plain
//! rewrite). `known` is tc's short way through all of this, which writes as XDP does (`rewrite`). Everything is written
//! once over `family`. `explain` runs the same decisions and writes down what `trace` notes.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod bucket;
#[cfg(target_arch = "bpf")]
mod create;
#[cfg(target_arch = "bpf")]
mod desk;
#[cfg(target_arch = "bpf")]
mod dsr;
#[cfg(target_arch = "bpf")]
mod ended;
#[cfg(target_arch = "bpf")]
mod explain;
#[cfg(target_arch = "bpf")]
mod family;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod header;
#[cfg(target_arch = "bpf")]
mod hook;
#[cfg(target_arch = "bpf")]
mod icmp_error;
#[cfg(target_arch = "bpf")]
mod known;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod pod;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod service;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod state;
#[cfg(target_arch = "bpf")]
mod table;
#[cfg(target_arch = "bpf")]
mod trace;
#[cfg(target_arch = "bpf")]
mod uplink;
#[cfg(target_arch = "bpf")]
mod xdp;

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
