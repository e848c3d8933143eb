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
    /// A packet of a known flow towards a service was translated.
    FlowHit = "flow_hit",
    /// A new flow towards a service got an endpoint.
    FlowNew = "flow_new",
    /// A flow whose endpoint is gone got another one.
    FlowMoved = "flow_moved",
    /// A reply was translated back.
    Reply = "reply",
    /// A packet of a masqueraded flow left.
    MasqueradeHit = "masquerade_hit",
    /// A new masqueraded flow left.
    MasqueradeNew = "masquerade_new",
    /// A reply to a masqueraded flow was translated back.
    MasqueradeReply = "masquerade_reply",
    /// A flow from outside straight to a pod's own address was noted, so that its replies stay as they are.
    DirectNew = "direct_new",
    /// A fragment, or a packet with IP options, towards or from us passed untouched.
    PassedUntranslated = "passed_untranslated",
    /// Dropped: the service has no endpoint.
    DropNoEndpoint = "drop_no_endpoint",
    /// Dropped: the flow table took no entry.
    DropFlowInsert = "drop_flow_insert",
    /// Dropped: no free port to masquerade from towards this destination.
    DropNoMasqueradePort = "drop_no_masquerade_port",
    /// Dropped: the packet could not be rewritten.
    DropRewrite = "drop_rewrite",
}
