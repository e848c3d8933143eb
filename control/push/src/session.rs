//! The protocol with one node, without any network.
//!
//! ```text
//!   Greeting ──Hello──► Streaming ──(room, and something new)──► one batch ──► Streaming
//!                           ▲                                                     │
//!                           └───────────────────── Ack ───────────────────────────┘
//! ```
//!
//! A session is a place in the [`World`], not a queue: when the connection has room, the session asks what changed
//! since its place and sends the latest of it. A node that reads slowly is therefore told less often, never more, and
//! costs no memory. A place the world can no longer tell from, or one in another store, becomes a snapshot.

use fairlead_proto::push::v1;

use crate::ledger::Latest;
use crate::world::World;

/// Most bytes of JSON in one message, unless a single object has more.
const MOST_BYTES: usize = 1 << 20;

/// One node's side of the protocol.
#[derive(Debug)]
pub struct Session {
    node: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing but a Hello may come.
    Greeting,
    Streaming(Place),
}

/// How far the node is.
#[derive(Debug)]
struct Place {
    store_id: String,
    /// Everything up to here was sent.
    revision: u64,
    /// The revision of the last message: what the node can at most acknowledge.
    sent: u64,
    acknowledged: u64,
    /// Nothing was sent yet: the node is told at once where it stands, even if nothing is new.
    fresh: bool,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The node said something.
    Message(v1::NodeMessage),
    /// The connection has room, and the world may have something new.
    Room(&'a World),
}

/// What a session answers.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to send, in order, before there is room again.
    pub send: Vec<v1::Update>,
    /// The node said its first word: its daemon's version, and the revision it has.
    pub greeted: Option<(String, u64)>,
    /// The node acknowledged.
    pub acknowledged: Option<v1::Ack>,
    /// The protocol is broken: end the stream with this.
    pub refuse: Option<String>,
}

impl Session {
    /// For the node that the peer's certificate names.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), state: State::Greeting }
    }

    /// True once room is of use.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    /// The last revision sent, 0 before any.
    pub fn sent(&self) -> u64 {
        match &self.state {
            State::Greeting => 0,
            State::Streaming(place) => place.sent,
        }
    }

    /// One step of the protocol.
    pub fn step(&mut self, input: Input<'_>) -> Effects {
        match (&mut self.state, input) {
            (State::Greeting, Input::Message(message)) => self.greet(message),
            (State::Greeting, Input::Room(_)) => Effects::default(),
            (State::Streaming(place), Input::Room(world)) => {
                Effects { send: place.advance(&self.node, world), ..Effects::default() }
            }
            (State::Streaming(place), Input::Message(message)) => match message.body {
                Some(v1::node_message::Body::Ack(ack)) => place.acknowledge(ack),
                Some(v1::node_message::Body::Hello(_)) => refuse("Hello was said twice on one stream".to_owned()),
                None => Effects::default(),
            },
        }
    }

    fn greet(&mut self, message: v1::NodeMessage) -> Effects {
        let Some(v1::node_message::Body::Hello(hello)) = message.body else {
            return refuse("the first message of a stream must be Hello".to_owned());
        };
        if hello.node != self.node {
            return refuse(format!("Hello is from {:?}, but the client certificate names {:?}", hello.node, self.node));
        }
        let place = Place { store_id: hello.store_id, revision: hello.revision, sent: 0, acknowledged: 0, fresh: true };
        self.state = State::Streaming(place);
        Effects { greeted: Some((hello.version, hello.revision)), ..Effects::default() }
    }
}

impl Place {
    fn acknowledge(&mut self, ack: v1::Ack) -> Effects {
        // An acknowledgement of something never sent here speaks of another stream's revision.
        if ack.revision > self.sent || ack.revision < self.acknowledged {
            return Effects::default();
        }
        self.acknowledged = ack.revision;
        Effects { acknowledged: Some(ack), ..Effects::default() }
    }

    fn advance(&mut self, node: &str, world: &World) -> Vec<v1::Update> {
        let known = self.revision > 0 && self.store_id == world.store_id();
        let delta = if known { world.since(node, self.revision) } else { None };
        let messages = match delta {
            Some(delta) if delta.is_empty() && !self.fresh => Vec::new(),
            Some(delta) => messages(world, false, delta),
            None => {
                world.store_id().clone_into(&mut self.store_id);
                self.acknowledged = 0;
                messages(world, true, world.snapshot(node))
            }
        };
        self.revision = world.revision();
        if !messages.is_empty() {
            self.sent = world.revision();
            self.fresh = false;
        }
        messages
    }
}

/// A batch in messages of bounded size, at least one; the last is the complete one.
fn messages(world: &World, snapshot: bool, batch: Vec<Latest>) -> Vec<v1::Update> {
    let empty = || v1::Update {
        revision: world.revision(),
        snapshot,
        complete: false,
        put: Vec::new(),
        removed: Vec::new(),
        committed_at: world.committed_at(),
        store_id: world.store_id().to_owned(),
    };
    let mut messages = Vec::new();
    let (mut message, mut bytes) = (empty(), 0);
    for (key, json) in batch {
        let size = json.as_ref().map_or(0, bytes::Bytes::len) + key.namespace.len() + key.name.len() + 16;
        if bytes > 0 && bytes + size > MOST_BYTES {
            messages.push(std::mem::replace(&mut message, empty()));
            bytes = 0;
        }
        bytes += size;
        match json {
            Some(json) => message.put.push(v1::Object { object: Some(key.to_wire()), json }),
            None => message.removed.push(key.to_wire()),
        }
    }
    message.complete = true;
    messages.push(message);
    messages
}

fn refuse(why: String) -> Effects {
    Effects { refuse: Some(why), ..Effects::default() }
}

#[cfg(test)]
mod tests;
