//! HTTP as the API speaks it: what a request means, how its body is read, how an answer is written.

pub(crate) mod body;
pub(crate) mod protobuf;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod respond;
