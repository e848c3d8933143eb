//! What the kernel says about this namespace's interfaces, addresses, routes and neighbours, as it happens.
//!
//! Only that something changed is passed on, never what: whoever listens looks at the present state anyway.

use std::io;
use std::pin::Pin;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;

use crate::error::NetworkError;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What kinds of things changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// An interface or an address.
    pub interfaces: bool,
    /// A route or a neighbour: how an address is reached.
    pub paths: bool,
}

impl Changed {
    /// Everything may have: after a loss of messages, or at start.
    pub const ALL: Self = Self { interfaces: true, paths: true };

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { interfaces: self.interfaces || other.interfaces, paths: self.paths || other.paths }
    }

    /// True if something did.
    pub fn any(self) -> bool {
        self.interfaces || self.paths
    }
}

type Messages =
    UnboundedReceiver<(rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>;

/// An open subscription.
pub struct Watch {
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    messages: Messages,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Subscribes, in the calling thread's namespace. Must be called inside a runtime.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS).map_err(NetworkError::Socket)?;
        Ok(Self { connection: Box::pin(connection), messages })
    }

    /// Waits for the next change. May be given up and called again.
    pub async fn next(&mut self) -> Result<Changed, NetworkError> {
        use rtnetlink::packet_core::NetlinkPayload::InnerMessage;
        let message = tokio::select! {
            biased;
            message = self.messages.next() => message,
            () = &mut self.connection => None,
        };
        let (message, _) = message.ok_or_else(|| NetworkError::Socket(io::ErrorKind::ConnectionAborted.into()))?;
        Ok(match message.payload {
            InnerMessage(
                RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::NewNeighbour(_)
                | RouteNetlinkMessage::DelNeighbour(_),
            ) => Changed { interfaces: false, paths: true },
            InnerMessage(_) => Changed { interfaces: true, paths: false },
            // Messages were lost: anything may have changed.
            _ => Changed::ALL,
        })
    }
}
