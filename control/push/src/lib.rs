//! Push: what each node needs, over one stream per node, and what each node reports back.
//!
//! A [`Feed`] of the store's commits keeps the [`world`] current: every object a node could want, by node, with the
//! bytes the store has. A [`session`] per node walks that world from the revision its node last acknowledged; it holds
//! no queue, so a slow node costs nothing and gets each object's latest version only. Reports come back through
//! the API's own client.
//!
//! Invariant `CONVERGE`: snapshot plus deltas equals a fresh snapshot.
//!
//! What this crate does not do: authenticate. The server that carries it puts a [`PeerIdentity`] into the request.
#![forbid(unsafe_code)]

pub mod feed;
mod hub;
pub mod identity;
pub mod ledger;
mod references;
mod report;
pub mod service;
pub mod session;
pub mod world;

pub use feed::{Change, Commit, Feed, Opening, Record, kinds};
pub use identity::PeerIdentity;
pub use service::{NodeProgress, PushService, router};
