//! Plans against a model of the kernel's arrays.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use fairlead_abi::RangeKey;
use proptest::prelude::*;

use super::*;

/// The kernel, as the programs read it.
#[derive(Clone, Default)]
struct Model {
    services: BTreeMap<Key, ServiceValue>,
    groups: HashMap<u32, fairlead_abi::Group>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend>,
    members: HashMap<MemberKey, u32>,
    ranges: HashMap<RangeKey, u32>,
}

/// What a client of an address can get: the members of its three sets, slot by slot.
type Answer = [Vec<SocketAddr>; 3];

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Backend(id, backend) => _ = self.backends.insert(*id, *backend),
            Step::Slots(start, ids) => (*start..).zip(ids).for_each(|(slot, id)| _ = self.slots.insert(slot, *id)),
            Step::Switch(group, set, range) => {
                let group = self.groups.entry(*group).or_default();
                match set {
                    Set::Internal => group.internal = *range,
                    Set::Cluster => group.cluster = *range,
                    Set::Ring => group.ring = *range,
                }
            }
            Step::Settings(group, affinity, flags) => {
                let group = self.groups.entry(*group).or_default();
                (group.affinity, group.flags) = (*affinity, *flags);
            }
            Step::Allow(key, len) => _ = self.ranges.insert(*key, *len),
            Step::Deny(key, _) => _ = self.ranges.remove(key),
            Step::Join(key, id) => _ = self.members.insert(*key, *id),
            Step::Leave(key) => _ = self.members.remove(key),
            Step::Put(key, value) => _ = self.services.insert(*key, *value),
            Step::Drop(key) => _ = self.services.remove(key),
        }
    }

    /// Endpoints slot by slot; of a ring, whose slots are written all at once, a few dozen.
    fn read(&self, range: Range) -> Vec<SocketAddr> {
        let slots = (range.start()..range.start() + range.len()).step_by(range.len() as usize / 32 + 1);
        slots.map(|slot| life::address(&self.backends[&self.slots[&slot]])).collect()
    }

    fn answer(&self, key: &Key) -> Option<Answer> {
        let group = self.groups.get(&self.services.get(key)?.group).copied().unwrap_or_default();
        Some([group.internal, group.cluster, group.ring].map(|range| self.read(range)))
    }

    fn answers(&self) -> BTreeMap<Key, Answer> {
        self.services.keys().map(|key| (*key, self.answer(key).unwrap())).collect()
    }

    /// What counts besides, where it can be compared with that of another history.
    fn settings(&self) -> BTreeMap<Key, (u32, u32, u32, usize)> {
        let of = |(key, value): (&Key, &ServiceValue)| {
            let group = self.groups[&value.group];
            let ranges = self.ranges.keys().filter(|range| range.group == value.group.to_be_bytes()).count();
            (*key, (value.flags, group.affinity, group.flags, ranges))
        };
        self.services.iter().map(of).collect()
    }

    fn adopt(&self, now: Instant) -> Tables {
        let found = Found {
            keys: self.services.iter().map(|(key, value)| (*key, *value)).collect(),
            members: self.members.iter().map(|(key, id)| (*key, *id)).collect(),
            ranges: self.ranges.iter().map(|(key, len)| (*key, *len)).collect(),
        };
        Tables::adopt(
            CAPACITY,
            found,
            |group| self.groups.get(&group).copied().unwrap_or_default(),
            |slot| self.slots[&slot],
            |id| self.backends.get(&id).copied().unwrap_or_default(),
            now,
        )
    }
}

const CAPACITY: Capacity = Capacity { services: 64, backends: 512, slots: 1 << 20 };
const DRAIN: Duration = Duration::from_secs(7);

fn name(service: u8) -> ServiceName {
    ServiceName { namespace: "default".into(), name: format!("s{service}") }
}

/// Steps of a change that nothing is refused of.
fn plan(tables: &mut Tables, service: u8, wants: &[Want], now: Instant) -> Vec<Step> {
    let plan = tables.plan(&name(service), wants, now);
    assert_eq!(plan.refusal, None);
    plan.steps
}

fn key(service: u8, kind: u8, ipv6: bool) -> Key {
    let addr: IpAddr = match ipv6 {
        false => [10, 96, kind, service].into(),
        true => [0xfd00, 0, 0, 0, 0, 0, kind.into(), service.into()].into(),
    };
    Key::new(addr, 80, 6)
}

fn end(last: u8, ipv6: bool) -> SocketAddr {
    match ipv6 {
        false => ([10, 244, 0, last], 8080).into(),
        true => ([0xfd00, 244, 0, 0, 0, 0, 0, last.into()], 8080).into(),
    }
}

/// A service with all that a group can have. Odd endpoints are local.
fn want(change: &Change, ipv6: bool) -> Want {
    let ends = change.ends.clone().unwrap_or_default();
    let all: Vec<Member> = ends.iter().map(|(last, weight)| (end(*last, ipv6), *weight)).collect();
    let local: Vec<Member> =
        ends.iter().filter(|(last, _)| *last % 2 == 1).map(|(last, _)| (end(*last, ipv6), 1)).collect();
    let mut keys = vec![(key(change.service, 0, ipv6), 0)];
    if change.outside {
        keys.push((key(change.service, 1, ipv6), ServiceValue::EXTERNAL | ServiceValue::NODE_ADDRESS));
    }
    let net = if ipv6 { "2001:db8::/32" } else { "198.51.100.0/24" };
    Want {
        label: Label { port: String::new(), proto: 6, ipv6 },
        keys,
        internal: if change.local { local.clone() } else { all.clone() },
        cluster: if change.outside { all.clone() } else { Vec::new() },
        ring: if change.outside { all } else { Vec::new() },
        local: local.iter().map(|(address, _)| *address).collect(),
        has_endpoints: !ends.is_empty(),
        affinity: if change.local { 100 } else { 0 },
        ranges: if change.outside { vec![net.parse().unwrap()] } else { Vec::new() },
        decapsulate: change.outside,
    }
}

fn wants(change: &Change) -> Vec<Want> {
    if change.ends.is_none() { Vec::new() } else { vec![want(change, false), want(change, true)] }
}

#[derive(Clone, Debug)]
struct Change {
    service: u8,
    ends: Option<BTreeMap<u8, u16>>,
    outside: bool,
    local: bool,
    seconds: u64,
}

/// Plain changes for examples: endpoints of weight 1, for clients inside.
fn simple(service: u8, ends: &[u8]) -> Vec<Want> {
    let ends = Some(ends.iter().map(|last| (*last, 1)).collect());
    vec![want(&Change { service, ends, outside: false, local: false, seconds: 0 }, false)]
}

fn change() -> impl Strategy<Value = Change> {
    let ends = prop::collection::btree_map(1u8..9, 1u16..4, 0..6);
    (0u8..5, prop::option::weighted(0.8, ends), any::<bool>(), any::<bool>(), 0u64..9)
        .prop_map(|(service, ends, outside, local, seconds)| Change { service, ends, outside, local, seconds })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Invariant `WHOLE`, and that any history ends where a fresh start would.
    #[test]
    fn a_plan_is_whole_at_every_step_and_ends_as_a_fresh_build(changes in prop::collection::vec(change(), 1..20)) {
        let mut now = Instant::now();
        let (mut tables, mut model) = (Tables::new(CAPACITY), Model::default());
        let mut last = BTreeMap::new();
        for change in changes {
            now += Duration::from_secs(change.seconds);
            let (service, wants) = (change.service, wants(&change));
            let before = model.answers();
            let steps = plan(&mut tables, service, &wants, now);
            let mut after = model.clone();
            steps.iter().for_each(|step| after.apply(step));
            for step in &steps {
                model.apply(step);
                for (key, answer) in model.answers() {
                    let (old, new) = (before.get(&key), after.answer(&key));
                    // While a service goes, its key goes first; while it stays, each set is the old or the new one.
                    for set in 0..3 {
                        prop_assert!(
                            old.is_some_and(|old| old[set] == answer[set])
                                || new.as_ref().is_some_and(|new| new[set] == answer[set]),
                            "set {set} of {key:?} after {step:?} of {steps:?}"
                        );
                    }
                }
            }
            prop_assert!(plan(&mut tables, service, &wants, now).is_empty(), "the second time nothing is left to do");
            for step in tables.tick(now, DRAIN).steps {
                model.apply(&step);
            }
            // Whatever a slot in use names is there for it.
            for (key, answer) in model.answers() {
                let group = model.services[&key].group;
                for address in answer.iter().flatten() {
                    let is_it = |backend: &Backend| {
                        let is_active = backend.state() == Backend::ACTIVE && backend.group == group;
                        is_active && life::address(backend) == *address
                    };
                    let found = model.backends.values().any(is_it);
                    prop_assert!(found, "{address} of {key:?}");
                }
            }
            last.insert(service, wants);
        }
        let (mut fresh, mut expected) = (Tables::new(CAPACITY), Model::default());
        for (service, wants) in &last {
            plan(&mut fresh, *service, wants, now).iter().for_each(|step| expected.apply(step));
        }
        prop_assert_eq!(model.answers(), expected.answers());
        prop_assert_eq!(model.settings(), expected.settings());

        // A daemon that comes back finds the same, and has nothing to do.
        let mut adopted = model.adopt(now);
        for (service, wants) in &last {
            let steps = plan(&mut adopted, *service, wants, now);
            prop_assert!(steps.is_empty(), "{:?}", steps);
        }
        prop_assert!(adopted.plan_orphans(now).steps.is_empty());
        // What was draining goes on to its end, and nothing is lost in the long run.
        for seconds in [10, 20, 30] {
            adopted.tick(now + Duration::from_secs(seconds), DRAIN).steps.iter().for_each(|step| model.apply(step));
        }
        let live = model.backends.values().filter(|backend| backend.state() == Backend::ACTIVE).count();
        prop_assert_eq!(live, adopted.groups.values().map(|group| group.backends.iter().count()).sum::<usize>());
        prop_assert!(adopted.left.is_empty() && adopted.since.is_empty());
        let mut free = 0;
        while adopted.backend_ids.take(1).is_some() {
            free += 1;
        }
        prop_assert_eq!(free + live, CAPACITY.backends as usize);
    }
}

/// The id and generation of the endpoint that a plan puts in this state.
fn life_of(steps: &[Step], state: u32) -> Option<(u32, u32)> {
    steps.iter().find_map(|step| match step {
        Step::Backend(id, backend) if backend.state() == state => Some((*id, backend.generation())),
        _ => None,
    })
}

#[test]
fn an_endpoint_that_leaves_drains_and_gets_its_life_back_when_it_returns() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    plan(&mut tables, 1, &simple(1, &[1, 2]), now);
    let gone = tables.plan(&name(1), &simple(1, &[1]), now);
    let drained = life_of(&gone.steps, Backend::DRAINING).unwrap();
    assert_eq!(
        gone.ended.iter().map(|ended| (ended.address, ended.backend)).collect::<Vec<_>>(),
        [(end(2, false), drained.0)]
    );
    assert!(tables.tick(now + DRAIN - Duration::from_secs(1), DRAIN).steps.is_empty());
    let back = plan(&mut tables, 1, &simple(1, &[1, 2]), now + DRAIN);
    assert_eq!(life_of(&back, Backend::ACTIVE), Some(drained));
    assert!(tables.tick(now + 3 * DRAIN, DRAIN).steps.is_empty(), "it is no longer draining");
}

#[test]
fn an_endpoint_whose_drain_is_over_is_gone_and_its_id_another_generations() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    plan(&mut tables, 1, &simple(1, &[1, 2]), now);
    let drained = life_of(&plan(&mut tables, 1, &simple(1, &[1]), now), Backend::DRAINING).unwrap();
    let over = tables.tick(now + DRAIN, DRAIN);
    assert_eq!(life_of(&over.steps, Backend::GONE), Some(drained));
    assert_eq!(over.ended.len(), 1);
    let back = plan(&mut tables, 1, &simple(1, &[1, 2]), now + DRAIN);
    assert_eq!(life_of(&back, Backend::ACTIVE), Some((drained.0, drained.1 + 1)), "its connections were reset");
    // Another endpoint gets an id once it has rested.
    let last = life_of(&plan(&mut tables, 1, &simple(1, &[1]), now + DRAIN), Backend::DRAINING).unwrap();
    tables.tick(now + 2 * DRAIN, DRAIN);
    let other = plan(&mut tables, 1, &simple(1, &[1, 3]), now + 2 * DRAIN);
    assert_ne!(life_of(&other, Backend::ACTIVE).unwrap().0, last.0);
    tables.tick(now + 2 * DRAIN + REST, DRAIN);
    let other = plan(&mut tables, 1, &simple(1, &[1, 3, 4]), now + 2 * DRAIN + REST);
    assert_eq!(life_of(&other, Backend::ACTIVE), Some((last.0, last.1 + 1)));
}

#[test]
fn the_second_service_on_an_address_is_refused_by_name() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    plan(&mut tables, 1, &simple(1, &[1]), now);
    let refusal = tables.plan(&name(2), &simple(1, &[2]), now).refusal.unwrap();
    assert_eq!(refusal.to_string(), "10.96.0.1:80/tcp already belongs to default/s1");
}

#[test]
fn two_ports_of_a_service_may_swap_their_addresses() {
    let now = Instant::now();
    let (mut tables, mut model) = (Tables::new(CAPACITY), Model::default());
    let ports = |first: u8, second: u8| {
        let port = |label: &str, kind, last| {
            let mut want = simple(1, &[last]).remove(0);
            want.label.port = label.into();
            want.keys = vec![(key(1, kind, false), 0)];
            want
        };
        [port("a", first, 1), port("b", second, 2)]
    };
    for wants in [ports(0, 1), ports(1, 0)] {
        plan(&mut tables, 1, &wants, now).iter().for_each(|step| model.apply(step));
        for want in &wants {
            assert_eq!(model.answer(&want.keys[0].0).unwrap()[0], [want.internal[0].0]);
        }
        assert!(plan(&mut tables, 1, &wants, now).is_empty());
    }
}

#[test]
fn one_changed_endpoint_writes_only_what_changed() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    for service in 0..30 {
        plan(&mut tables, service, &simple(service, &[1, 2]), now);
    }
    let steps = plan(&mut tables, 7, &simple(7, &[1, 3]), now);
    assert_eq!(steps.len(), 4, "{steps:?}");
}

#[test]
fn sets_of_the_same_endpoints_share_their_slots() {
    let now = Instant::now();
    let (mut tables, mut model) = (Tables::new(CAPACITY), Model::default());
    let ends = Some([(1, 1), (2, 1)].into());
    let mut change = Change { service: 1, ends, outside: true, local: false, seconds: 0 };
    plan(&mut tables, 1, &[want(&change, false)], now).iter().for_each(|step| model.apply(step));
    let group = model.groups.values().next().copied().unwrap();
    assert_eq!(group.internal, group.cluster);
    // The policy changes: the internal set shrinks, the other keeps its slots.
    change.local = true;
    plan(&mut tables, 1, &[want(&change, false)], now).iter().for_each(|step| model.apply(step));
    let changed = model.groups.values().next().copied().unwrap();
    assert_eq!(changed.cluster, group.cluster);
    assert_eq!((changed.internal.len(), changed.affinity), (1, 100));
    // And back: it shares again.
    change.local = false;
    plan(&mut tables, 1, &[want(&change, false)], now).iter().for_each(|step| model.apply(step));
    assert_eq!(model.groups.values().next().unwrap().internal, group.cluster);
}
