//! Connections through the server to a node: logs, exec, attach, port forwarding.

pub(crate) mod kubelet;
pub(crate) mod pod;
