//! The API server: Kubernetes' REST API over one HTTPS port, and the same API in process for the control loops.
//!
//! A request passes through [`listen`] (TLS, identity), [`authn`], authorization, and then, if it means objects, one of
//! the verbs: defaults, admission, allocation, validation, store. Reads never touch the store: the [`cache`] follows
//! its watch and holds every object once, as tree and as the bytes that go out.
//!
//! - [`api`]: the verbs' state. [`local`]: the loops' client over the same verbs.
//! - [`server`], [`listen`], [`tls`], [`pki`]: the edge.
//! - [`bootstrap`]: what a new cluster begins with.
//!
//! Invariant `ADMITTED`: nothing reaches the store undefaulted or unvalidated.
//!
//! What kinds exist, their defaults, validation, columns and documents are fairlead-api's; this crate names no kind
//! unless the API itself gives it a role (pods have a grace period, namespaces hold others, Services get addresses).
#![forbid(unsafe_code)]

mod admission;
mod allocate;
pub mod api;
pub mod authn;
mod authz;
pub mod bootstrap;
pub mod cache;
mod discovery;
mod encode;
mod http;
pub mod listen;
pub mod local;
pub mod pki;
mod rest;
pub mod server;
mod status;
mod stream;
pub mod tls;

pub use allocate::{AddressRange, PortRange};
pub use api::{Api, ClusterConfig};
pub use authn::Identity;
pub use local::LocalClient;
pub use server::Server;
