//! What every loop over the API is made of: a cache fed by list and watch, a queue of keys, and a recorder of events.
//!
//! The controllers and the scheduler stand on it. It reaches the API through [`fairlead_api::client::Client`] alone,
//! as an outside client would.
//!
//! - [`cache`]: the last known state of one kind, indexed, with handlers that turn changes into keys.
//! - [`queue`]: keys that wait for work, each at most once, with back-off per key.
//! - [`events`]: events about objects, written in the background, repeats counted.
#![forbid(unsafe_code)]

pub mod cache;
pub mod events;
pub mod key;
pub mod queue;

pub use cache::{AnyCache, Cache, Change, Raw, View};
pub use events::{Clock, Recorder, Regarding};
pub use key::Key;
pub use queue::{Limits, Queue};
