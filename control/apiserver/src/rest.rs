//! The verbs, each in a file: what is read, what is checked, what is written.
//!
//! A verb is a function of the [`Api`](crate::api::Api) and plain values; the REST front ([`route`]) and the loops'
//! client call the same ones. Writes share one step, [`mod@write`], which is the only place that reaches the store.
//!
//! Invariant `ADMITTED`: nothing reaches the store undefaulted or unvalidated.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod meta;
pub(crate) mod options;
pub(crate) mod patch;
pub(crate) mod prepare;
pub(crate) mod render;
pub(crate) mod route;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod write;

#[cfg(test)]
mod tests;
