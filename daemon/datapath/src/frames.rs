//! Pods that take frames straight from an uplink's XDP program, before there is a socket buffer.
//!
//! A veth takes them if the end they come out at polls for packets, which it does with GRO switched on ("veth: allow
//! enabling NAPI even without XDP", Linux 5.13). The kernel drops frames for one that does not, and nobody hears of it, so
//! what is not certain is a no.

use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::interface::Interface;
use crate::netns::namespaces;
use crate::sys;

/// The first kernel of which a veth polls without an XDP program.
const SINCE: (u32, u32) = (5, 13);

/// Gets a pod's end ready, and says how long an IP packet may be that is sent there as a frame; zero: none may.
pub(crate) fn longest(name: &str, interface: &Interface) -> u32 {
    let is_veth = interface.kind.as_deref() == Some("veth");
    if is_veth && kernel().is_some_and(|kernel| kernel >= SINCE) && polls(name, interface.ifindex) {
        interface.mtu
    } else {
        0
    }
}

/// Switches GRO on at the other end of a veth; false if that is not to be found, or refuses.
fn polls(name: &str, ifindex: u32) -> bool {
    let Ok(found) = namespaces(&[(name.to_owned(), ifindex)]) else { return false };
    let Some(found) = found.into_iter().next().flatten() else { return false };
    let switch = move || {
        setns(&found.namespace, CloneFlags::CLONE_NEWNET)?;
        let inside = nix::net::if_::if_indextoname(found.peer)?;
        sys::switch_gro_on(&inside.to_string_lossy())
    };
    // A thread of its own, which ends where it went.
    match thread::spawn(switch).join() {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(interface = name, %error, "GRO cannot be switched on in the pod; XDP hands its packets to tc");
            false
        }
        Err(_) => false,
    }
}

/// Version of the kernel that runs.
fn kernel() -> Option<(u32, u32)> {
    let release = nix::sys::utsname::uname().ok()?;
    let mut numbers = release.release().to_str()?.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_that_runs_has_a_version() {
        assert!(super::kernel().is_some_and(|kernel| kernel > (2, 6)), "{:?}", super::kernel());
    }
}
