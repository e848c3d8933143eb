//! The scheduler: which node a pod goes to.
//!
//! ```text
//! pod without a node ──► queue ──► filters ──► scores ──► assume ──► bind (in the background)
//!                          ▲          │ no node fits                   │ refused
//!                          │          ▼                                ▼
//!                          └── unschedulable, until nodes or pods change, with back-off
//! ```
//!
//! Decisions are made one at a time on [`cluster::Cluster`], a picture of the nodes that is kept up to date change by
//! change, so that a decision costs a look at each node and never at each pod. A pod is counted on its node from the
//! decision on, before the API knows of it: however many are created at once, no node takes more than it has.
//!
//! - [`cluster`]: nodes and what is on them. [`request`]: what a pod asks. [`filter`], [`score`]: the rules.
//! - [`framework`]: one decision. [`bind`]: telling the API. [`waiting`]: pods that fit nowhere yet.
//!
//! Preemption, affinity between pods and topology spread constraints are not done here yet.
#![forbid(unsafe_code)]

mod bind;
mod cluster;
mod filter;
mod framework;
mod node;
mod request;
mod resources;
mod run;
mod score;
mod waiting;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fairlead_api::client::Client;
use fairlead_informer::Clock;
use tokio_util::sync::CancellationToken;

/// The name by which pods ask for this scheduler, and under which it writes events.
pub const NAME: &str = "default-scheduler";

/// What the scheduler needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The time.
    pub now: Clock,
}

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler;

impl Scheduler {
    /// Schedules until `shutdown`; binds under way are finished.
    pub async fn run(config: Config, client: Arc<dyn Client>, shutdown: CancellationToken) {
        run::run(config, client, shutdown).await;
    }
}
