//! The kubelet: runs the pods bound to this node through a CRI runtime and tells the control plane how they fare.
//!
//! It stands between `daemon/source`, whose `View` says what should run, and the runtime, which says what does. One
//! worker per pod owns one state machine (`pod`): a pure plan from desired and observed state to actions, and a thin
//! shell that carries them out. A runtime call that hangs therefore stalls one pod, never the node.
//!
//! ```text
//! View ─► dispatch ─► pod/worker ─► pod/plan ─► pod/act ─► cri ─► runtime
//!                        ▲   │                                      │
//!            probe ──────┘   └─► pod/status ─► outbox ─► Reporter   └─► runtime (events, list) ─► dispatch
//! ```
//!
//! Invariants: `LAST-GOOD` (without a control plane pods go on, are probed and restarted; nothing reported is lost),
//! `ADOPT` (a restarted daemon takes over running pods as they are: no restart, no change of readiness).
#![forbid(unsafe_code)]

mod cgroup;
mod config;
mod context;
mod cri;
mod dispatch;
pub mod image;
mod kubelet;
mod logs;
mod node;
mod outbox;
mod pod;
mod preflight;
mod probe;
mod quantity;
mod remove;
mod resolv;
mod runtime;
mod serve;
mod spdy;
mod volume;

pub use config::Config;
pub use cri::CriError;
pub use kubelet::{Kubelet, StartError};
pub use preflight::{Check, preflight};
pub use remove::{RemoveError, remove_all};
pub use serve::ServeError;
