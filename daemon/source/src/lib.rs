//! Where a node's desired state comes from, and what it looks like once here.
//!
//! A [`Source`] (the push stream, any Kubernetes API server, or a directory of manifests) yields [`Update`]s. One
//! owner applies them to the [`View`] and passes the resulting [`Changes`] on: services to the data path, pods and the
//! ConfigMaps and Secrets they use to the kubelet. An acknowledgement goes back once the maps hold the revision. What
//! the node observes goes up through a [`Reporter`].
//!
//! Invariant `LAST-GOOD`: a bad item is rejected alone; lost contact never removes working state.
#![forbid(unsafe_code)]

mod env;
pub mod file;
mod join;
pub mod kube;
mod pause;
pub mod push;
pub mod report;
pub mod service;
pub mod source;
mod spec;
pub mod update;
pub mod view;

pub use file::File;
pub use kube::Kube;
pub use push::{Push, PushReporter};
pub use report::{Outcome, Report, ReportError, Reporter, Retry};
pub use service::{Dsr, Endpoint, Port, Protocol, Service, ServiceName, UnknownDsr};
pub use source::{Acknowledgements, Contact, Feed, Source};
pub use spec::{SourceSpec, SourceSpecError};
pub use update::{Item, ObjectName, Read, Rejected, Update};
pub use view::{Changes, View};
