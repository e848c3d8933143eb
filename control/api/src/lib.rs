//! The Kubernetes API as values: objects, kinds, selectors, errors, and the client that the loops speak to.
//!
//! Everything here is pure: no clock, no network, no store. The API server (`fairlead-apiserver`) serves what this
//! crate declares; controllers, scheduler and push use the [`client::Client`] trait as an outside client would.
//!
//! A request's object comes through in this order:
//!
//! 1. [`decode`]: bytes to an [`object::Object`], a JSON tree, as strictly as Go would; or [`patch`], a stored object and
//!    a document of changes to a new tree.
//! 2. [`kind`] and [`registry`]: its kind's one declaration: names, views, defaults, validation, columns. What kinds
//!    share stands in [`defaults`], [`validate`] and [`pod_template`]; what admission adds, in [`admission`].
//! 3. [`table`], [`scale`]: other views of it; [`status`]: errors as the API shows them.
//!
//! [`schema`] holds the types of all kinds and how their lists merge; decoding, patches and [`openapi`] documents read
//! it. [`discovery`] says what is served, [`selector`] which objects are meant, [`client`] is the door for loops.
//! [`quantity`] and [`intstr`] are the API's own number formats.
//!
//! Invariant: ADMITTED, nothing reaches the store undefaulted or unvalidated; the server keeps it with the parts here.
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
