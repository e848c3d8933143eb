//! Where a node's desired state comes from, and what it looks like once here.
//!
//! A [`Source`] (the push stream; later any Kubernetes API server, or a directory of manifests) yields [`Update`]s. One
//! owner applies them to the [`View`] and passes the resulting [`Changes`] on: services to the data path, pods and the
//! ConfigMaps and Secrets they use to the kubelet. An acknowledgement goes back once the maps hold the revision.
//!
//! Invariant `LAST-GOOD`: a bad item is rejected alone; lost contact never removes working state.
#![forbid(unsafe_code)]

pub mod service;
pub mod update;
pub mod view;

pub use service::{Endpoint, Port, Protocol, Service, ServiceName};
pub use update::{Item, ObjectName, Rejected, Update};
pub use view::{Changes, View};
