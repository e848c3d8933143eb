//! Programs that measure and are measured, an object of their own: nothing of it is loaded but by `fairlead bench`.
//!
//! `inject_*` turn the frame that the kernel lends them into the next one of a set of flows, and drop it or send it out by
//! an interface; `arrive_*` are what a frame meets there. Frames are counted where they are made and where they end. Programs
//! that others are compared with are in `cost`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[path = "bench/cost.rs"]
mod cost;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
    use aya_ebpf::macros::{map, xdp};
    use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
    use aya_ebpf::programs::XdpContext;

    /// Bytes of a frame that are written anew each time: Ethernet, IPv4 and UDP headers.
    const HEADERS: usize = 42;
    /// Where a UDP header over IPv4 has its source port.
    const SOURCE_PORT: usize = 34;
    /// First source port of the flows; there are as many as the mask of `FLOWS` says.
    const FIRST_PORT: u16 = 1024;

    /// What every frame starts with.
    #[map]
    static TEMPLATE: Array<[u8; HEADERS]> = Array::with_max_entries(1, 0);
    /// Number of flows less one; a power of two less one.
    #[map]
    static FLOWS: Array<u32> = Array::with_max_entries(1, 0);
    /// Frames made, and frames that came to their end.
    #[map]
    static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);
    /// Interfaces that frames are sent out by: the injector's, and the second hop's.
    #[map]
    static DEVICES: DevMap = DevMap::with_max_entries(2, 0);

    const MADE: u32 = 0;
    const ENDED: u32 = 1;

    #[inline(always)]
    fn count(place: u32) -> u64 {
        let Some(value) = COUNTS.get_ptr_mut(place) else { return 0 };
        // SAFETY: the map returned a pointer to this CPU's value; no other CPU writes it.
        unsafe {
            *value += 1;
            *value
        }
    }

    /// Writes the next frame.
    #[inline(always)]
    fn fill(ctx: &XdpContext) -> bool {
        let start = ctx.data();
        if start + HEADERS > ctx.data_end() {
            return false;
        }
        let (Some(template), Some(mask)) = (TEMPLATE.get(0), FLOWS.get(0)) else { return false };
        let port = FIRST_PORT.wrapping_add((count(MADE) as u32 & *mask) as u16);
        // SAFETY: both places are inside the frame, as checked above; byte arrays have no alignment.
        unsafe {
            *(start as *mut [u8; HEADERS]) = *template;
            *((start + SOURCE_PORT) as *mut [u8; 2]) = port.to_be_bytes();
        }
        true
    }

    /// A frame that goes nowhere: what making one costs.
    #[xdp]
    fn inject_nowhere(ctx: XdpContext) -> u32 {
        if !fill(&ctx) {
            return XDP_ABORTED;
        }
        count(ENDED);
        XDP_DROP
    }

    /// A frame for the first interface.
    #[xdp]
    fn inject_out(ctx: XdpContext) -> u32 {
        if !fill(&ctx) {
            return XDP_ABORTED;
        }
        DEVICES.redirect(0, 0).unwrap_or(XDP_ABORTED)
    }

    /// Its end.
    #[xdp]
    fn arrive_end(_ctx: XdpContext) -> u32 {
        count(ENDED);
        XDP_DROP
    }

    /// Sent on, by the second interface, without a look at it.
    #[xdp]
    fn arrive_redirect(_ctx: XdpContext) -> u32 {
        send_on()
    }

    /// Out by the second interface.
    #[inline(always)]
    pub(crate) fn send_on() -> u32 {
        DEVICES.redirect(1, 0).unwrap_or(XDP_ABORTED)
    }

    /// Left to the kernel.
    #[xdp]
    fn arrive_pass(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    /// Some helpers are for programs under the GPL alone.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

/// The host has no use for them.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
