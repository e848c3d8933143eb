//! Every packet or socket that meets a program of ours is counted under one of these names.
//!
//! Invariant `COUNTED`: every drop has a reason here.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Index into `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// All, in order of index.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name under which it is shown and exported.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// A socket was pointed at an endpoint.
    SocketTranslated = "socket_translated",
    /// A socket asked for a service without endpoints and was refused.
    SocketNoEndpoint = "socket_no_endpoint",
    /// A socket's client is in none of the service's source ranges and was refused.
    SocketOutOfRange = "socket_out_of_range",
    /// A packet of a known flow was translated.
    FlowHit = "flow_hit",
    /// A new flow towards a service got an endpoint.
    FlowNew = "flow_new",
    /// A flow whose endpoint is gone got another one.
    FlowMoved = "flow_moved",
    /// A flow's endpoint was the one its client had before (session affinity).
    AffinityHit = "affinity_hit",
    /// A reply was translated back.
    Reply = "reply",
    /// A new masqueraded flow left.
    MasqueradeNew = "masquerade_new",
    /// A flow from outside straight to a pod's own address was noted, so that its replies stay as they are.
    DirectNew = "direct_new",
    /// A flow got another source port, because its reply's tuple was taken.
    PortMoved = "port_moved",
    /// A packet was encapsulated towards its endpoint's node (direct server return).
    Encapsulated = "encapsulated",
    /// A packet that another node encapsulated was taken out.
    Decapsulated = "decapsulated",
    /// An ICMP error was translated, with the header it quotes.
    IcmpError = "icmp_error",
    /// A fragment that is not the first was translated.
    Fragment = "fragment",
    /// A packet of a protocol that is not translated, towards or from us, passed untouched.
    PassedUntranslated = "passed_untranslated",
    /// Answered with a TCP reset: the connection's endpoint is gone.
    ResetEndpointGone = "reset_endpoint_gone",
    /// Refused with a TCP reset or ICMP port unreachable: the service has no endpoint.
    RefusedNoEndpoint = "refused_no_endpoint",
    /// Answered with ICMP "too big": the packet does not fit where it has to go.
    TooBig = "too_big",
    /// Answered with ICMP "time exceeded".
    TimeExceeded = "time_exceeded",
    /// Dropped: the service's traffic policy leaves this client no endpoint, though there are some.
    DropNoLocalEndpoint = "drop_no_local_endpoint",
    /// Dropped: the client is in none of the service's source ranges.
    DropSourceRange = "drop_source_range",
    /// Dropped: the flow table took no entry.
    DropFlowInsert = "drop_flow_insert",
    /// Dropped: no free source port towards this destination.
    DropNoSourcePort = "drop_no_source_port",
    /// Dropped: no address to translate the source to on this uplink.
    DropNoSourceAddress = "drop_no_source_address",
    /// Dropped: no route to where the packet has to go.
    DropNoRoute = "drop_no_route",
    /// Dropped: a fragment whose first part has not been seen.
    DropFragment = "drop_fragment",
    /// Dropped: an encapsulated packet for no endpoint of ours.
    DropDecapsulate = "drop_decapsulate",
    /// Dropped: a datagram of a connected socket that is about to be closed, because its endpoint is gone.
    DropEndpointGone = "drop_endpoint_gone",
    /// Dropped: the packet could not be rewritten.
    DropRewrite = "drop_rewrite",
}
