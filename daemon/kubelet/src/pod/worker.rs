//! The task that owns one pod: observe, plan, act, report; again at the next input.
//!
//! Inputs are the desired object, a sign that the runtime's state may have changed, the end of a step, a probe's
//! verdict, and the clock. Steps run beside each other, one per slot, so that a long pull does not keep the worker from
//! noticing that the pod was deleted.

mod inputs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::act::{self, Killing};
use super::plan::{self, Action};
use super::start::{Failure, Start};
use super::state::{Container, Ending, Memory, Observed, Run, Sandbox, Slot};
use super::{PodName, labels, status};
use crate::context::Context;
use crate::cri::CriError;
use crate::outbox::Kind;
use crate::probe::Verdict;

/// After a sign from the runtime its lists may lag behind its events: as long as nothing has changed, they are looked at
/// again after each of these.
const LOOKS: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_secs(2),
];

/// At the daemon's end, a start that is under way gets so long.
const SETTLE: Duration = Duration::from_secs(2);

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Desired {
    /// This object; its deletionTimestamp says whether it should end.
    Present(Arc<Pod>),
    /// The object is gone: end what is left.
    Gone,
}

/// The dispatcher's end of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) desired: watch::Sender<Desired>,
    /// The runtime may have news.
    pub(crate) poke: Arc<Notify>,
    /// A ConfigMap or Secret may have news.
    pub(crate) objects: Arc<Notify>,
}

/// What a step came to.
#[derive(Debug)]
enum Done {
    Volumes(Result<(), String>),
    Sandbox(Result<String, String>),
    Started(String, Result<String, Failure>),
    Stopped(Slot, Result<(), CriError>),
    Cleaned(Result<(), String>),
    Refreshed,
}

/// One pod's worker.
pub(crate) struct Worker {
    context: Arc<Context>,
    name: PodName,
    pod: Arc<Pod>,
    observed: Observed,
    memory: Memory,
    /// Reported last.
    status: PodStatus,
    steps: JoinSet<(Slot, Done)>,
    starting: BTreeMap<String, AbortHandle>,
    probes: inputs::Probes,
    ended: BTreeMap<String, Container>,
    /// Which of [`LOOKS`] comes next.
    look: usize,
}

impl Worker {
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>) -> Self {
        Self {
            name: PodName::of(&pod),
            status: pod.status.clone().unwrap_or_default(),
            pod,
            context,
            observed: Observed::default(),
            memory: Memory::default(),
            steps: JoinSet::new(),
            starting: BTreeMap::new(),
            probes: inputs::Probes::default(),
            ended: BTreeMap::new(),
            look: LOOKS.len(),
        }
    }

    /// Runs until nothing of the pod is left, or until `shutdown`, which leaves the pod as it is. True if it is gone.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<Desired>,
        poke: Arc<Notify>,
        objects: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> bool {
        let (verdict_sender, mut verdicts) = mpsc::channel::<Verdict>(16);
        self.take(desired.borrow_and_update().clone());
        loop {
            let wake = match self.observe().await {
                Ok(()) => {
                    let plan = self.step(&verdict_sender);
                    if plan.finished {
                        self.context.outbox.pod_gone(&self.name);
                        info!(pod = %self.name, uid = self.name.uid, "pod is gone");
                        return true;
                    }
                    plan.wake
                }
                Err(error) => {
                    warn!(pod = %self.name, error = %error, "cannot observe the pod");
                    Some(Timestamp::now() + SignedDuration::from_secs(1))
                }
            };
            let mut pause = wake.map_or(Duration::from_secs(60), |at| {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
            });
            if let Some(look) = LOOKS.get(self.look) {
                pause = pause.min(*look);
                self.look += 1;
            }
            tokio::select! {
                changed = desired.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let wanted = desired.borrow_and_update().clone();
                    self.take(wanted);
                }
                () = poke.notified() => self.look = 0,
                () = objects.notified() => self.refresh(),
                Some(done) = self.steps.join_next() => self.done(done),
                Some(verdict) = verdicts.recv() => self.verdict(&verdict),
                () = tokio::time::sleep(pause.max(Duration::from_millis(5))) => {}
                () = shutdown.cancelled() => {
                    self.settle().await;
                    return false;
                }
            }
        }
    }

    /// Lets starts that are under way come to their end, so that the next daemon finds whole containers. Pulls and
    /// kills need no such care: they are simply begun again.
    async fn settle(&mut self) {
        let starting = |worker: &Self| worker.memory.busy.contains(&Slot::Sandbox) || !worker.starting.is_empty();
        let finish = async {
            while starting(self) {
                match self.steps.join_next().await {
                    Some(done) => self.done(done),
                    None => break,
                }
            }
        };
        if tokio::time::timeout(SETTLE, finish).await.is_err() {
            debug!(pod = %self.name, "a start was still under way at the end");
        }
    }

    /// Takes in what should be.
    fn take(&mut self, desired: Desired) {
        let now = Timestamp::now();
        match desired {
            Desired::Present(pod) => {
                if pod.metadata.deletion_timestamp.is_some() {
                    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0);
                    self.end(SignedDuration::from_secs(grace), now);
                }
                self.take_status(&pod);
                let told = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                if told(&pod) != told(&self.pod) {
                    // Downward volumes show them.
                    self.pod = pod;
                    self.refresh();
                    return;
                }
                self.pod = pod;
            }
            Desired::Gone => {
                let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                let grace = SignedDuration::from_secs(grace.unwrap_or(30));
                if self.memory.ending.as_ref().is_none_or(|ending| ending.failed.is_some()) {
                    self.end(grace, now);
                }
            }
        }
    }

    /// Takes over the conditions that others own, and contradicts whoever changed one of ours: the node loop does, when
    /// the node was silent for too long.
    fn take_status(&mut self, pod: &Pod) {
        let theirs = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mine = self.status.conditions.get_or_insert_default();
        let mut contradicted = false;
        for condition in theirs {
            let known = mine.iter().find(|known| known.type_ == condition.type_);
            if status::is_ours(&condition.type_) {
                contradicted |= known.is_some_and(|known| known.status != condition.status);
            } else if known != Some(condition) {
                mine.retain(|known| known.type_ != condition.type_);
                mine.push(condition.clone());
            }
        }
        if contradicted && !self.memory.cleaned {
            self.context.outbox.pod_status(&self.name, self.status.clone());
        }
    }

    /// Begins the end, or hurries it.
    fn end(&mut self, grace: SignedDuration, now: Timestamp) {
        let begun = self.memory.ending.as_ref().filter(|ending| ending.failed.is_none());
        let hurry = begun.is_some_and(|ending| grace < ending.grace);
        if begun.is_some() && !hurry {
            return;
        }
        let since = begun.map_or(now, |ending| ending.since);
        info!(pod = %self.name, grace = grace.as_secs(), "pod ends");
        self.memory.ending = Some(Ending { since, grace, failed: None });
        for (_, start) in std::mem::take(&mut self.starting) {
            start.abort();
        }
        if hurry {
            self.steps.abort_all();
            self.memory.busy.clear();
        }
    }

    /// Looks at the runtime.
    async fn observe(&mut self) -> Result<(), CriError> {
        let label = (labels::POD_UID, self.name.uid.as_str());
        let cri = &self.context.cri;
        let (sandboxes, containers) = futures::try_join!(cri.sandboxes(label), cri.containers(label))?;
        let mut observed = Observed::default();
        for listed in sandboxes {
            match cri.sandbox(&listed.id).await {
                Ok(status) => observed.sandboxes.push(Sandbox::from_wire(status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let mut ended = BTreeMap::new();
        for listed in containers {
            if let Some(known) = self.ended.remove(&listed.id) {
                ended.insert(listed.id, known.clone());
                observed.containers.push(known);
                continue;
            }
            let status = match cri.container(&listed.id).await {
                Ok(status) => status,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let policy = status.annotations.get(labels::TERMINATION_POLICY).cloned();
            let mut container = Container::from_wire(&listed.pod_sandbox_id, status);
            if matches!(container.run, Run::Exited { .. }) {
                inputs::termination_message(&self.context, &self.name, &mut container, policy.as_deref());
                ended.insert(listed.id, container.clone());
            }
            observed.containers.push(container);
        }
        self.ended = ended;
        observed.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created)));
        observed.containers.sort_by_key(|container| std::cmp::Reverse((container.created, container.attempt)));
        if self.observed != observed {
            if self.observed == Observed::default() {
                for container in &observed.containers {
                    let memory = self.memory.containers.entry(container.name.clone()).or_default();
                    memory.restart.resume(container.attempt);
                }
            }
            self.look = LOOKS.len();
            self.observed = observed;
        }
        Ok(())
    }

    /// Plans, starts the steps of the plan, and reports.
    fn step(&mut self, verdicts: &mpsc::Sender<Verdict>) -> plan::Plan {
        let now = Timestamp::now();
        self.deadline(now);
        self.probes.update(&self.context, &self.pod, &self.observed, &mut self.memory, &self.status, verdicts);
        let mut plan = plan::plan(&self.pod, &self.observed, &self.memory, now);
        if !self.memory.cleaned && !plan.finished {
            self.report(now);
        }
        if let Some(at) = self.next_look(now) {
            plan.wake = Some(plan.wake.map_or(at, |wake| wake.min(at)));
        }
        for action in std::mem::take(&mut plan.actions) {
            debug!(pod = %self.name, ?action, "step");
            self.act(action);
        }
        plan
    }

    /// Fails the pod once it has been active for too long.
    fn deadline(&mut self, now: Timestamp) {
        let limit = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let (Some(limit), Some(start)) = (limit, &self.status.start_time) else { return };
        let over = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || self.memory.ending.is_some() || now < start.0 + SignedDuration::from_secs(limit) {
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.context.pod_event(Kind::Normal, &self.name, "DeadlineExceeded", &message);
        let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        self.memory.ending = Some(Ending {
            since: now,
            grace: SignedDuration::from_secs(grace),
            failed: Some(("DeadlineExceeded".into(), message)),
        });
        for (_, start) in std::mem::take(&mut self.starting) {
            start.abort();
        }
    }

    /// When time alone changes something the plan does not know of.
    fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let limit = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let deadline = limit
            .zip(self.status.start_time.as_ref())
            .filter(|_| self.memory.ending.is_none())
            .map(|(limit, start)| start.0 + SignedDuration::from_secs(limit));
        let shown = self
            .memory
            .containers
            .values()
            .filter_map(|memory| memory.problem.as_ref())
            .map(|problem| problem.since + SignedDuration::from_millis(1_010));
        shown.chain(deadline).filter(|at| *at > now).min()
    }

    fn report(&mut self, now: Timestamp) {
        let status = status::status(&self.pod, &self.observed, &self.memory, &self.status, &self.context.host, now);
        if status != self.status {
            for container in inputs::new_back_offs(&self.status, &status) {
                let text = format!(
                    "Back-off restarting failed container {container} in pod {}_{}({})",
                    self.name.name, self.name.namespace, self.name.uid
                );
                let (_, path) = act::find(&self.pod.spec.clone().unwrap_or_default(), &container);
                self.context.container_event(Kind::Warning, &self.name, &path, "BackOff", &text);
            }
            self.context.outbox.pod_status(&self.name, status.clone());
            self.status = status;
        }
    }

    fn ips(&self) -> Vec<String> {
        if self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return vec![self.context.host.ip.clone()];
        }
        self.observed.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    fn act(&mut self, action: Action) {
        let context = self.context.clone();
        let pod = self.pod.clone();
        let ips = self.ips();
        match action {
            Action::PrepareVolumes => {
                self.spawn(Slot::Volumes, async move { Done::Volumes(act::prepare(context, pod, ips).await) })
            }
            Action::CreateSandbox { attempt } => {
                if attempt > 0 {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    self.context.pod_event(Kind::Normal, &self.name, "SandboxChanged", text);
                }
                let old: Vec<String> = self.observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
                self.spawn(Slot::Sandbox, async move {
                    for id in old {
                        // Frees the old sandbox's address; it stays for its containers' logs.
                        if let Err(error) = context.cri.stop_sandbox(&id).await {
                            return Done::Sandbox(Err(error.to_string()));
                        }
                    }
                    Done::Sandbox(act::create_sandbox(context, pod, attempt).await)
                });
            }
            Action::StopSandbox { id } => self
                .spawn(Slot::Sandbox, async move { Done::Stopped(Slot::Sandbox, context.cri.stop_sandbox(&id).await) }),
            Action::RemoveSandbox { id } => {
                let slot = Slot::Remove(id.clone());
                self.spawn(slot.clone(), async move { Done::Stopped(slot, context.cri.remove_sandbox(&id).await) });
            }
            Action::RemoveContainer { id } => {
                let slot = Slot::Remove(id.clone());
                self.spawn(slot.clone(), async move { Done::Stopped(slot, context.cri.remove(&id).await) });
            }
            Action::Start { name, attempt, sandbox } => self.start(name, attempt, sandbox),
            Action::Kill { id, name, grace, why } => {
                let slot = Slot::Container(name.clone());
                let ip = ips.first().cloned().unwrap_or_default();
                let killing = Killing { context, pod, id, name, grace, why, ip };
                self.spawn(slot.clone(), async move { Done::Stopped(slot, killing.run().await) });
            }
            Action::Cleanup => {
                let observed = self.observed.clone();
                self.spawn(Slot::Cleanup, async move { Done::Cleaned(act::clean_up(context, pod, observed).await) });
            }
        }
    }

    fn start(&mut self, name: String, attempt: u32, sandbox: String) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let (Some(container), path) = act::find(&spec, &name) else { return };
        let ips = self.ips();
        if let Err(error) = act::write_hosts(&self.context, &self.pod, &ips) {
            warn!(pod = %self.name, error = %error, "cannot write the hosts file");
        }
        let number = self.observed.sandbox().map_or(0, |sandbox| sandbox.attempt);
        let (sandbox_config, _) = act::sandbox_config(&self.context, &self.pod, number);
        let start = Start {
            context: self.context.clone(),
            pod: self.pod.clone(),
            container: container.clone(),
            path,
            attempt,
            sandbox,
            sandbox_config,
            ips,
        };
        if attempt > 0 {
            self.memory.containers.entry(name.clone()).or_default().restart.restarted();
        }
        let slot = Slot::Container(name.clone());
        let key = name.clone();
        self.memory.busy.insert(slot.clone());
        let handle = self.steps.spawn(async move { (slot, Done::Started(name, Box::pin(start.run()).await)) });
        self.starting.insert(key, handle);
    }

    fn spawn(&mut self, slot: Slot, work: impl Future<Output = Done> + Send + 'static) {
        self.memory.busy.insert(slot.clone());
        self.steps.spawn(async move { (slot, work.await) });
    }
}
