//! Where a packet is met.

/// The four places where tc programs sit. XDP sits before [`Hook::UplinkIn`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Into the node.
    UplinkIn,
    /// Out of the node.
    UplinkOut,
    /// From a pod.
    FromPod,
    /// To a pod.
    ToPod,
}

impl Hook {
    /// At a pod's interface.
    #[inline(always)]
    pub(crate) const fn is_pod(self) -> bool {
        matches!(self, Self::FromPod | Self::ToPod)
    }
}
