//! The kernel's table of connections, emptied.

use anyhow::{Context, Result, bail};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
/// `NLMSG_ERROR`, which an acknowledgement is, too.
const ERROR: u16 = 2;

/// Empties the table of the namespace the thread is in: a deletion that does not say of what.
pub(super) fn flush() -> Result<()> {
    let socket = Socket::new(NETLINK_NETFILTER).context("no netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot reach netfilter")?;
    let mut message = Vec::with_capacity(20);
    message.extend(20u32.to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    // Of IPv4; version and resource id are 0.
    message.extend([libc::AF_INET as u8, 0, 0, 0]);
    socket.send(&message, 0).context("cannot ask netfilter")?;
    let (answer, _) = socket.recv_from_full().context("netfilter does not answer")?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    match (kind, word(16)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => {
            Err(std::io::Error::from_raw_os_error(-code)).context("cannot empty the table of connections")
        }
        _ => bail!("netfilter answered something else"),
    }
}
