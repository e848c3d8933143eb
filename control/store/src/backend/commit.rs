//! The commit queue: everything that waits goes into one durable group.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use super::{Log, Shared, State};
use crate::{Entry, Event, Op, Outcome, Revision, StoreError, Txn};

/// Most transactions in one group, so that the first of them does not wait for ever.
const GROUP: usize = 1024;

/// A transaction and where its answer goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Decided transactions, about to be made durable together.
#[derive(Debug)]
pub(super) struct Group {
    /// In order, of all transactions.
    pub(super) events: Vec<Event>,
    /// After the last of them.
    pub(super) revision: Revision,
    /// Keys the group has touched so far: later transactions see what earlier ones leave.
    overlay: HashMap<Arc<str>, Option<Entry>>,
    now: SystemTime,
}

impl Group {
    /// An empty group on top of a revision.
    pub(super) fn new(revision: Revision, now: SystemTime) -> Self {
        Self { events: Vec::new(), revision, overlay: HashMap::new(), now }
    }

    /// Decides one transaction against the state and the group so far, and adds what it does.
    pub(super) fn add(&mut self, state: &State, txn: Txn) -> Outcome {
        for compare in &txn.compares {
            let current = self.current(state, &compare.key);
            if current.as_ref().map(|entry| entry.modified) != compare.modified {
                return Outcome::Conflict { key: compare.key.clone(), current };
            }
        }
        let revision = self.revision.next();
        let mut written = Vec::new();
        let mut changed = false;
        for op in txn.ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value)),
                Op::Delete { key } => (key, None),
            };
            let before = self.current(state, &key);
            if before.is_none() && value.is_none() {
                continue;
            }
            let key: Arc<str> = before.as_ref().map_or_else(|| key.as_str().into(), |entry| entry.key.clone());
            let after = value.map(|value| Entry {
                key: key.clone(),
                value: value.stamped(revision),
                created: before.as_ref().map_or(revision, |entry| entry.created),
                modified: revision,
            });
            written.extend(after.clone());
            self.overlay.insert(key, after.clone());
            self.events.push(Event { revision, committed: self.now, before, after });
            changed = true;
        }
        if changed {
            self.revision = revision;
        }
        Outcome::Committed { revision: self.revision, written }
    }

    fn current(&self, state: &State, key: &str) -> Option<Entry> {
        self.overlay.get(key).cloned().unwrap_or_else(|| state.index.get(key))
    }
}

/// Serves the queue until every sender is gone.
pub(super) fn run(mut log: impl Log, mut requests: mpsc::Receiver<Request>, shared: &Shared) {
    let mut waiting = Vec::with_capacity(GROUP);
    while requests.blocking_recv_many(&mut waiting, GROUP) > 0 {
        let (group, answers) = decide(shared, &mut waiting);
        let durable = if group.events.is_empty() { Ok(()) } else { log.commit(&group) };
        if let Err(error) = &durable {
            tracing::error!(%error, "cannot commit");
        } else {
            publish(shared, group);
        }
        for (reply, outcome) in answers {
            // A writer that went away does not need its answer.
            let _ = reply.send(durable.clone().map(|()| outcome));
        }
    }
}

type Answers = Vec<(oneshot::Sender<Result<Outcome, StoreError>>, Outcome)>;

fn decide(shared: &Shared, waiting: &mut Vec<Request>) -> (Group, Answers) {
    let state = shared.read();
    let mut group = Group::new(state.revision, SystemTime::now());
    let answers = waiting.drain(..).map(|Request { txn, reply }| (reply, group.add(&state, txn))).collect();
    (group, answers)
}

fn publish(shared: &Shared, group: Group) {
    if group.events.is_empty() {
        return;
    }
    let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
    for event in group.events {
        match &event.after {
            Some(after) => state.index.put(after.clone()),
            None => state.index.remove(event.key()),
        };
        state.history.push(event);
    }
    state.revision = group.revision;
    drop(state);
    shared.latest.send_replace(group.revision);
}
