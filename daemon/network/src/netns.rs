//! Work inside another network namespace, and a namespace's identity.
//!
//! `setns` moves one thread, so the work gets a thread of its own that ends with it: no runtime thread is ever left in a
//! pod's namespace.

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

use crate::error::NetworkError;

sockopt_impl!(
    /// `SO_NETNS_COOKIE`: the identity of the socket's network namespace, since Linux 5.14.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// Runs `work` in the namespace at `path`.
pub(crate) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    let failed = |source| NetworkError::Namespace { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(failed)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            work()
        });
        thread.map_err(failed)?.join().map_err(|_| NetworkError::Thread)?
    })
}

/// The cookie of the namespace this thread is in; `None` where the kernel does not tell.
pub(crate) fn cookie() -> Option<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    getsockopt(&socket, NetnsCookie).ok()
}
