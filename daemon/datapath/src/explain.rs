//! What would happen to a packet, and why.
//!
//! The programs themselves answer: `explain_uplink` and `explain_pod` decide by the code of the attached ones, on a
//! packet made to the description, write nothing and note what they see in `TRACE`. What a socket of this node meets
//! when it connects is worked out here, from the same tables: a hook of a cgroup cannot be run on a made-up socket.

mod packet;
mod words;

use std::net::{IpAddr, SocketAddr};

use fairlead_abi::{AffinityKey, Backend, ServiceValue, Trace, TraceSteps};
use fairlead_source::Protocol;
use serde::Serialize;

use crate::desired::Key;
use crate::tables::{Set, protocol_number, to_mapped};
use crate::{Datapath, DatapathError, loader};

/// A question: where would a packet of this description go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainRequest {
    /// Who sends it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// Over what.
    pub protocol: Protocol,
    /// Where it comes from.
    pub from: Origin,
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From outside, by the first uplink.
    Uplink,
    /// A pod of this node, by its address.
    Pod(IpAddr),
    /// A process of the node itself.
    Host,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was looked at, in this order.
    pub steps: Vec<Step>,
    /// Endpoints of the service that was found.
    pub candidates: Vec<Candidate>,
    /// The endpoint chosen; none, too, where it is one of several in turn.
    pub chosen: Option<SocketAddr>,
    /// What happens.
    pub verdict: String,
    /// Why.
    pub reason: String,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is.
    pub title: String,
    /// What came out.
    pub detail: String,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its address and port.
    pub address: SocketAddr,
    /// active, draining or gone.
    pub state: String,
    /// Runs on this node.
    pub local: bool,
    /// Share of new connections relative to others in the set; 0: not in it.
    pub weight: u16,
    /// It is the one.
    pub chosen: bool,
}

impl Explanation {
    fn step(&mut self, title: &str, detail: impl Into<String>) {
        self.steps.push(Step { title: title.to_owned(), detail: detail.into() });
    }

    fn conclude(&mut self, verdict: impl Into<String>, reason: impl Into<String>) {
        self.verdict = verdict.into();
        self.reason = reason.into();
    }
}

impl Datapath {
    /// Says where a packet would go, without sending one or leaving a trace in the tables.
    pub fn explain(&mut self, request: &ExplainRequest) -> Result<Explanation, DatapathError> {
        if request.src.is_ipv4() != request.dst.is_ipv4() {
            let text = format!("{} and {} are of different families", request.src, request.dst);
            return Err(DatapathError::Unexplained(text));
        }
        let mut answer = Explanation::default();
        match request.from {
            Origin::Uplink => {
                let uplink = self.uplinks.values().next().map(|uplink| (uplink.ifindex, uplink.name.clone()));
                let (ifindex, name) = uplink.ok_or_else(|| {
                    DatapathError::Unexplained("no uplink is attached, so nothing comes in (see `--uplink`)".to_owned())
                })?;
                answer.step("arrives", format!("by uplink {name}"));
                let trace = self.ask("explain_uplink", ifindex, request)?;
                self.tell(&trace, request, &mut answer);
            }
            Origin::Pod(addr) => {
                let pod = self.pods.values().find(|pod| pod.addresses.contains(&addr)).cloned();
                let ifindex = pod.as_ref().map_or(0, |pod| pod.ifindex);
                let name = pod.as_ref().map_or("no interface that is attached", |pod| pod.name.as_str());
                answer.step("sent by a pod", format!("{addr}, behind {name}"));
                let hooked = self.hooks_all() || pod.as_ref().is_some_and(|pod| pod.netns_cookie != 0);
                if hooked && self.connect(request, true, &mut answer) {
                    return Ok(answer);
                }
                if !hooked {
                    answer.step("connect (from the tables)", "its sockets are not known to the hooks: per packet");
                }
                let trace = self.ask("explain_pod", ifindex, request)?;
                self.tell(&trace, request, &mut answer);
            }
            Origin::Host => {
                answer.step("sent by a process of the node", request.src.to_string());
                if !self.connect(request, false, &mut answer) {
                    answer.conclude("left as it is", "the host's own routing takes it from here");
                }
            }
        }
        Ok(answer)
    }

    /// Whether the hooks see every socket below the cgroup, because the kernel has no cookies of namespaces.
    fn hooks_all(&self) -> bool {
        crate::netns_cookie(None).unwrap_or(0) == 0
    }

    /// Runs a program that explains, and reads its record.
    fn ask(&mut self, program: &'static str, ifindex: u32, request: &ExplainRequest) -> Result<Trace, DatapathError> {
        let frame = packet::first(request.src, request.dst, request.protocol);
        self.kernel.clear_trace()?;
        if ifindex == 0 {
            self.run(program, &frame)?;
        } else {
            self.run_on(program, ifindex, &frame)?;
        }
        let trace = self.kernel.trace()?;
        trace.ok_or_else(|| DatapathError::Unexplained("the program did not read the packet".to_owned()))
    }

    /// What a socket meets when it connects, worked out from the tables. False if it is left to go on as it is.
    fn connect(&self, request: &ExplainRequest, is_pod: bool, answer: &mut Explanation) -> bool {
        const TITLE: &str = "connect (from the tables)";
        let key = Key::new(request.dst.ip(), request.dst.port(), protocol_number(request.protocol));
        let found = self.tables.lookup(&key);
        let Some((group, flags)) = found.filter(|(_, flags)| !is_pod || flags & ServiceValue::SOCKETS_ONLY == 0) else {
            answer.step(TITLE, format!("{} is no service: the socket is left alone", request.dst));
            return false;
        };
        answer.step(TITLE, self.name(group, flags));
        let (affinity, settings, ranges) = self.tables.settings(group).map_or_else(
            || (0, 0, String::new()),
            |(affinity, flags, ranges)| {
                let all: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                (affinity, flags, all.join(", "))
            },
        );
        let set = if flags & ServiceValue::EXTERNAL != 0 { Set::Cluster } else { Set::Internal };
        self.list(group, set, None, answer);
        if flags & ServiceValue::SOURCE_RANGES != 0 && is_pod {
            let is_in = self.tables.is_allowed(group, request.src.ip());
            answer.step(
                "source ranges",
                format!("{} is {}in {ranges}", request.src.ip(), if is_in { "" } else { "not " }),
            );
            if !is_in {
                answer
                    .conclude("refused at connect (socket_out_of_range)", "the client is in none of the source ranges");
                return true;
            }
        }
        let members = self.tables.set(group, set);
        let place = words::set(set);
        if members.is_empty() {
            answer.step("choice", format!("nobody in {place}"));
            let reason = if settings & fairlead_abi::Group::HAS_ENDPOINTS != 0 {
                "a traffic policy leaves this client none of its endpoints"
            } else {
                "the service has no endpoint"
            };
            answer.conclude("refused at connect (socket_no_endpoint)", reason);
            return true;
        }
        let kept = if affinity > 0 { self.kept(group, affinity, request, is_pod) } else { None };
        match kept {
            Some(kept) => answer.step("session affinity", format!("the client keeps {kept} ({affinity} s)")),
            None => answer.step("choice", format!("in turn from the {} of {place}", members.len())),
        }
        let only = kept.or_else(|| (members.len() == 1).then(|| members[0].0));
        if let Some(only) = only {
            answer.chosen = Some(only);
            answer.candidates.iter_mut().for_each(|candidate| candidate.chosen = candidate.address == only);
        }
        let whom = only.map_or_else(|| "one of the endpoints above".to_owned(), |only| only.to_string());
        answer.conclude(
            format!("the socket is connected to {whom} (socket_translated)"),
            "translated once, at connect or sendmsg; its packets carry the endpoint's address and are not touched",
        );
        true
    }

    /// The endpoint that a client of this node has had within the time of the group's affinity, if it takes new flows.
    fn kept(&self, group: u32, affinity: u32, request: &ExplainRequest, is_pod: bool) -> Option<SocketAddr> {
        let client = if is_pod {
            to_mapped(request.src.ip())
        } else {
            let mut client = [0xff; 16];
            client[8..].copy_from_slice(&crate::netns_cookie(None).ok()?.to_ne_bytes());
            client
        };
        let entry = self.kernel.affinity(&AffinityKey { client, group })?;
        let (address, backend) = self.tables.backend(entry.backend)?;
        let is_recent = loader::ticks().wrapping_sub(entry.seen) < affinity;
        (is_recent && backend.life == entry.life && backend.state() == Backend::ACTIVE).then_some(address)
    }

    /// A program's record in words.
    fn tell(&self, trace: &Trace, request: &ExplainRequest, answer: &mut Explanation) {
        let has = |step: u32| trace.steps & step != 0;
        let backend = self.tables.backend(trace.backend);
        let name = backend.map_or_else(|| format!("endpoint {}", trace.backend), |(address, _)| address.to_string());
        if has(TraceSteps::FLOW_HIT) {
            answer.step("flow table", words::flow(trace, &name));
            if has(TraceSteps::FLOW_STALE) {
                answer.step("flow's endpoint", format!("{name} takes no new flows any more"));
            }
        } else {
            answer.step("flow table", "no entry");
        }
        let mut group = backend.filter(|_| trace.backend != u32::MAX).map(|(_, backend)| backend.group);
        if has(TraceSteps::SERVICE) {
            group = Some(trace.service.group);
            answer.step("service", self.name(trace.service.group, trace.service.flags));
        } else if !has(TraceSteps::FLOW_HIT) {
            answer.step("service", format!("{} is none", request.dst));
        }
        if has(TraceSteps::OUT_OF_RANGE) {
            answer.step("source ranges", format!("{} is in none of them", request.src.ip()));
        }
        let set = [
            (TraceSteps::BY_RING, Set::Ring),
            (TraceSteps::BY_INTERNAL, Set::Internal),
            (TraceSteps::BY_CLUSTER, Set::Cluster),
        ];
        let set = set.into_iter().find(|(step, _)| has(*step)).map(|(_, set)| set);
        if has(TraceSteps::AFFINITY) {
            answer.step("session affinity", format!("the client keeps {name}"));
        }
        if let Some(set) = set {
            answer.step("choice", words::choice(trace, set, &name));
        }
        let has_choice = has(TraceSteps::FLOW_HIT) || has(TraceSteps::AFFINITY) || set.is_some();
        let chosen = has_choice && !has(TraceSteps::NO_ENDPOINT | TraceSteps::OUT_OF_RANGE);
        if let Some(group) = group {
            let chosen = backend.filter(|_| chosen).map(|(address, _)| address);
            self.list(group, set.unwrap_or(Set::Ring), chosen, answer);
            answer.chosen = chosen;
        }
        for (step, detail) in words::REMARKS {
            if has(*step) {
                answer.step("besides", *detail);
            }
        }
        let (verdict, reason) = words::verdict(trace, request);
        answer.conclude(verdict, reason);
    }

    /// Whose an address is.
    fn name(&self, group: u32, flags: u32) -> String {
        let flags = words::flags(flags);
        match self.tables.owner(group) {
            Some((service, label)) if label.port.is_empty() => format!("{service}{flags}"),
            Some((service, label)) => format!("{service}, port {}{flags}", label.port),
            None => format!("group {group}, which nobody has claimed since the daemon began{flags}"),
        }
    }

    /// Endpoints of a group, with their weights in a set.
    fn list(&self, group: u32, set: Set, chosen: Option<SocketAddr>, answer: &mut Explanation) {
        let members = self.tables.set(group, set);
        let weight = |address: &SocketAddr| {
            members.binary_search_by_key(address, |(member, _)| *member).map_or(0, |place| members[place].1)
        };
        let mut candidates: Vec<Candidate> = self
            .tables
            .endpoints(group)
            .map(|(address, backend)| Candidate {
                address,
                state: words::state(backend.state()).to_owned(),
                local: backend.flags & Backend::LOCAL != 0,
                weight: weight(&address),
                chosen: chosen == Some(address),
            })
            .collect();
        candidates.sort_by_key(|candidate| candidate.address);
        answer.candidates = candidates;
    }
}
