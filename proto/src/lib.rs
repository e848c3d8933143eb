//! The gRPC contracts: between control plane and node (`push`), and on one machine between the daemon and its tools
//! (`admin`). Generated code and nothing else; the contracts' own comments are in the `.proto` files.
#![forbid(unsafe_code)]

/// Control plane and node: `push/v1/push.proto`.
pub mod push {
    /// Version 1.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    pub mod v1 {
        tonic::include_proto!("fairlead.push.v1");
    }
}

/// The daemon's own socket: `admin/v1/admin.proto`.
pub mod admin {
    /// Version 1.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    pub mod v1 {
        tonic::include_proto!("fairlead.admin.v1");
    }
}
