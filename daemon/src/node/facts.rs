//! What the daemon tells of itself: the facts behind `fairlead status`.

use std::sync::{Arc, Mutex as Lock, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fairlead_datapath::Datapath;
use fairlead_proto::admin::v1::Fact;
use fairlead_source::{Contact, View};
use tokio::sync::{Mutex, watch};

use super::Shared;
use super::engine::{Programmed, Written};
use super::pods::PodNetwork;

/// Name of the fact `up` waits for.
pub(crate) const READY: &str = "ready";

/// Where the facts come from.
#[derive(Debug)]
pub(super) struct Facts {
    node: String,
    began: Instant,
    /// Seconds since the epoch, as heartbeats have it: an older one was left by a daemon before this.
    began_at: i64,
    view: Arc<RwLock<View>>,
    datapath: Arc<Mutex<Datapath>>,
    contact: watch::Receiver<Contact>,
    programmed: Arc<Lock<Programmed>>,
    source: String,
    /// Absent where pods are another's.
    network: Option<PodNetwork>,
}

impl Facts {
    pub(super) fn new(
        node: &str,
        source: String,
        shared: &Shared,
        contact: watch::Receiver<Contact>,
        network: Option<PodNetwork>,
    ) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            node: node.to_owned(),
            began: Instant::now(),
            began_at: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
            view: Arc::clone(&shared.view),
            datapath: Arc::clone(&shared.datapath),
            contact,
            programmed: Arc::clone(&shared.programmed),
            source,
            network,
        }
    }

    /// All of them, the most asked for first.
    pub(super) async fn collect(&self) -> Vec<Fact> {
        let mut facts = vec![fact("node", &self.node), fact("version", env!("CARGO_PKG_VERSION"))];
        facts.push(fact("source", &self.source));
        facts.push(fact("contact", contact(&self.contact.borrow())));
        self.of_view(&mut facts);
        self.of_tables(&mut facts);
        facts.push(fact("uptime", format!("{} s", self.began.elapsed().as_secs())));
        match self.network.as_ref().map(PodNetwork::now) {
            None => facts.push(fact("pod network", "another's")),
            Some(Some(network)) => {
                facts.push(fact("pod network", format!("{}, MTU {}", network.pod_cidr(), network.mtu())));
            }
            Some(None) => facts.push(fact("pod network", "waits for the node's spec.podCIDR")),
        }
        let datapath = self.datapath.lock().await;
        let refused = datapath.rejected().iter();
        facts.extend(refused.map(|(name, reason)| fact(format!("refused Service {name}"), reason)));
        for uplink in datapath.uplinks() {
            let reason = if uplink.reason.is_empty() { String::new() } else { format!(" ({})", uplink.reason) };
            let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
            let addresses = addresses.join(", ");
            facts.push(fact(format!("uplink {}", uplink.name), format!("{}{reason}: {addresses}", uplink.mode)));
        }
        for name in datapath.missing_uplinks() {
            facts.push(fact(format!("uplink {name}"), "not there yet"));
        }
        let (v4, v6) = datapath.flows();
        facts.push(fact("flow entries", format!("{v4} IPv4, {v6} IPv6")));
        facts.push(fact("pod interfaces", datapath.pods().count().to_string()));
        match datapath.counters() {
            Ok(counters) => {
                let told = counters.into_iter().filter(|(_, count)| *count > 0);
                facts.extend(told.map(|(name, count)| fact(format!("packets {name}"), count.to_string())));
            }
            Err(error) => facts.push(fact("packets", format!("not known: {error}"))),
        }
        facts
    }

    fn of_tables(&self, facts: &mut Vec<Fact>) {
        let programmed = self.programmed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Written { services, steps, system_calls }) = programmed.last {
            let text = format!("{services} services, {steps} writes, {system_calls} system calls");
            facts.push(fact("last change", text));
        }
        if let Some(failure) = &programmed.failure {
            facts.push(fact("tables", format!("not written, tried again: {failure}")));
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        for rejected in view.rejected() {
            facts.push(fact(format!("refused {}", rejected.object), &rejected.reason));
        }
    }

    fn of_view(&self, facts: &mut Vec<Fact>) {
        let programmed = self.programmed.lock().unwrap_or_else(PoisonError::into_inner).last.is_some();
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let ready = view.node().and_then(|node| {
            let conditions = node.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            let heartbeat = ready.last_heartbeat_time.as_ref().map_or(0, |time| time.0.as_second());
            Some(match (ready.status.as_str(), ready.reason.as_deref()) {
                _ if heartbeat < self.began_at => "Unknown (said by an earlier daemon)".to_owned(),
                ("True", _) => "True".to_owned(),
                (status, Some(reason)) => format!("{status} ({reason})"),
                (status, None) => status.to_owned(),
            })
        });
        // A proxy alone does not say what becomes of the node: it is ready when services are in force.
        let ready = match self.network {
            Some(_) => ready.unwrap_or_else(|| "Unknown (not registered)".to_owned()),
            None if programmed => "True".to_owned(),
            None => "False (no services were programmed yet)".to_owned(),
        };
        facts.push(fact(READY, ready));
        facts.push(fact("revision", view.revision().to_string()));
        facts.push(fact("services", view.service_count().to_string()));
        if self.network.is_some() {
            facts.push(fact("pods", view.pods().count().to_string()));
        }
    }
}

fn fact(name: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact { name: name.into(), value: value.into() }
}

fn contact(contact: &Contact) -> String {
    match contact {
        Contact::None => "not yet reached".to_owned(),
        Contact::Up => "connected".to_owned(),
        Contact::Lost(reason) => format!("lost: {reason}"),
    }
}
