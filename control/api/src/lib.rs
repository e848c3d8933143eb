//! The Kubernetes API as values: objects, kinds, selectors, errors, and the client that the loops speak to.
//!
//! Everything here is pure: no clock, no network, no store. The API server (`fairlead-apiserver`) serves what this
//! crate declares; controllers, scheduler and push use the [`client::Client`] trait as an outside client would.
//!
//! - [`object`]: an API object as a JSON tree, with typed views through k8s-openapi.
//! - [`kind`]: what a kind is, and [`registry`], the declarations of all kinds served.
//! - [`selector`]: label and field selectors.
//! - [`status`]: errors as the API shows them.
//! - [`client`]: the client trait.
#![forbid(unsafe_code)]

pub mod admission;
pub mod client;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod intstr;
pub mod kind;
pub mod object;
pub mod patch;
pub mod pod_template;
pub mod quantity;
pub mod registry;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod taint;
pub mod validate;

pub use client::{Client, Event, EventType, List, WatchStream};
pub use kind::{Kind, Scope};
pub use object::Object;
pub use schema::openapi;
pub use status::{Reason, Status};
