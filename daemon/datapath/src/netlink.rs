//! Questions to the kernel over netlink, one at a time. They are answered at once, so nobody waits in turn.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};

/// As much as the kernel puts into one answer; fewer system calls than asking for each one's size.
const ANSWER: usize = 64 * 1024;
/// Seconds for an answer, which comes at once or never.
const PATIENCE: i64 = 5;

/// A netlink socket. It belongs to the network namespace of the thread that opens it, for good.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// One for `NETLINK_ROUTE`, `NETLINK_SOCK_DIAG` or another protocol.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// Everything the kernel has of a kind.
    pub(crate) fn dump<I>(&self, question: I) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.exchange(question, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// One thing, or something to be done.
    pub(crate) fn ask<I>(&self, question: I) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.exchange(question, NLM_F_REQUEST | NLM_F_ACK)
    }

    fn exchange<I>(&self, question: I, flags: u16) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        let mut answers = Vec::new();
        loop {
            let mut buffer = Vec::with_capacity(ANSWER);
            self.socket.recv(&mut buffer, 0)?;
            let mut rest = &buffer[..];
            while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
                // Messages begin at multiples of four.
                let (message, after) = rest.split_at(length.next_multiple_of(4).clamp(4, rest.len()));
                rest = after;
                let message = match NetlinkMessage::<I>::deserialize(message) {
                    Ok(message) => message,
                    // One of many that a newer kernel describes in a way unknown here.
                    Err(error) => {
                        tracing::debug!(%error, "a netlink message is not understood");
                        continue;
                    }
                };
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}
