//! Plans against a model of the kernel's arrays.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

/// The kernel, as the programs read it.
#[derive(Clone, Default)]
struct Model {
    services: BTreeMap<ServiceKey, ServiceValue>,
    groups: HashMap<u32, (Range, Range)>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend>,
}

/// What a client of an address can get: endpoints in turn, and owners of the ring's slots.
type Answer = (Vec<SocketAddrV4>, Vec<SocketAddrV4>);

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Backend(id, backend) => _ = self.backends.insert(*id, *backend),
            Step::Slots(start, ids) => (*start..).zip(ids).for_each(|(slot, id)| _ = self.slots.insert(slot, *id)),
            Step::List(group, range) => self.groups.entry(*group).or_default().0 = *range,
            Step::Ring(group, range) => self.groups.entry(*group).or_default().1 = *range,
            Step::Put(key, value) => _ = self.services.insert(*key, *value),
            Step::Drop(key) => _ = self.services.remove(key),
        }
    }

    fn answer(&self, key: &ServiceKey) -> Option<Answer> {
        let value = self.services.get(key)?;
        let (list, ring) = self.groups.get(&value.group).copied().unwrap_or_default();
        let read = |range: Range| {
            (range.start()..range.start() + range.len())
                .map(|slot| {
                    let backend = self.backends[&self.slots[&slot]];
                    SocketAddrV4::new(backend.addr.into(), u16::from_be_bytes(backend.port))
                })
                .collect()
        };
        Some((read(list), read(ring)))
    }

    fn answers(&self) -> BTreeMap<ServiceKey, Answer> {
        self.services.keys().map(|key| (*key, self.answer(key).unwrap())).collect()
    }
}

const CAPACITY: Capacity = Capacity { services: 64, backends: 512, slots: 65_536 };

fn name(service: u8) -> ServiceName {
    ServiceName { namespace: "default".into(), name: format!("s{service}") }
}

/// Steps of a change that nothing is refused of.
fn plan(tables: &mut Tables, service: u8, wants: &[Want], now: Instant) -> Vec<Step> {
    let (steps, refusal) = tables.plan(&name(service), wants, now);
    assert_eq!(refusal, None);
    steps
}

fn key(service: u8, kind: u8) -> ServiceKey {
    ServiceKey { addr: [10, 96, kind, service], port: [0, 80], proto: 6, pad: 0 }
}

fn want(service: u8, ends: &BTreeSet<u8>, outside: bool) -> Vec<Want> {
    let ends: Vec<SocketAddrV4> = ends.iter().map(|end| SocketAddrV4::new([10, 244, 0, *end].into(), 8080)).collect();
    let mut keys = vec![(key(service, 0), 0)];
    if outside {
        keys.push((key(service, 1), ServiceValue::NODE_ADDRESS));
    }
    vec![Want { keys, list: ends.clone(), ring: outside.then_some(ends) }]
}

#[derive(Clone, Debug)]
struct Change {
    service: u8,
    ends: Option<BTreeSet<u8>>,
    outside: bool,
    seconds: u64,
}

fn change() -> impl Strategy<Value = Change> {
    (0u8..5, prop::option::weighted(0.8, prop::collection::btree_set(1u8..9, 0..6)), any::<bool>(), 0u64..9)
        .prop_map(|(service, ends, outside, seconds)| Change { service, ends, outside, seconds })
}

proptest! {
    /// Invariant `WHOLE`, and that any history ends where a fresh start would.
    #[test]
    fn a_plan_is_whole_at_every_step_and_ends_as_a_fresh_build(changes in prop::collection::vec(change(), 1..30)) {
        let mut now = Instant::now();
        let (mut tables, mut model) = (Tables::new(CAPACITY), Model::default());
        let mut last = BTreeMap::new();
        for Change { service, ends, outside, seconds } in changes {
            now += Duration::from_secs(seconds);
            let wants = ends.as_ref().map(|ends| want(service, ends, outside)).unwrap_or_default();
            let before = model.answers();
            let steps = plan(&mut tables, service, &wants, now);
            let mut after = model.clone();
            steps.iter().for_each(|step| after.apply(step));
            for step in &steps {
                model.apply(step);
                for (key, (list, ring)) in model.answers() {
                    let old = before.get(&key);
                    let new = after.answer(&key);
                    // While a service goes, its key goes first; while it stays, each half is the old or the new one.
                    prop_assert!(
                        old.is_some_and(|old| old.0 == list) || new.as_ref().is_some_and(|new| new.0 == list),
                        "list of {key:?} after {step:?} of {steps:?}"
                    );
                    prop_assert!(
                        old.is_some_and(|old| old.1 == ring) || new.as_ref().is_some_and(|new| new.1 == ring),
                        "ring of {key:?} after {step:?} of {steps:?}"
                    );
                }
            }
            prop_assert!(plan(&mut tables, service, &wants, now).is_empty(), "the second time nothing is left to do");
            last.insert(service, wants);
        }
        let (mut fresh, mut expected) = (Tables::new(CAPACITY), Model::default());
        for (service, wants) in &last {
            plan(&mut fresh, *service, wants, now).iter().for_each(|step| expected.apply(step));
        }
        prop_assert_eq!(model.answers(), expected.answers());

        // A daemon that comes back finds the same, and has nothing to do.
        let mut adopted = Tables::adopt(
            CAPACITY,
            model.services.clone(),
            |group| model.groups.get(&group).copied().unwrap_or_default(),
            |slot| model.slots[&slot],
            |id| model.backends.get(&id).copied().unwrap_or_default(),
        );
        for (service, wants) in &last {
            let steps = plan(&mut adopted, *service, wants, now);
            prop_assert!(steps.is_empty(), "{:?}", steps);
        }
        prop_assert!(adopted.plan_orphans(now).is_empty());
    }
}

#[test]
fn an_endpoint_that_leaves_drains_and_gets_its_life_back_when_it_returns() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    plan(&mut tables, 1, &want(1, &[1, 2].into(), false), now);
    let life = |steps: &[Step], state| {
        steps.iter().find_map(|step| match step {
            Step::Backend(id, backend) if backend.state() == state => Some((*id, backend.generation())),
            _ => None,
        })
    };
    let gone = plan(&mut tables, 1, &want(1, &[1].into(), false), now);
    let drained = life(&gone, Backend::DRAINING).unwrap();
    let back = plan(&mut tables, 1, &want(1, &[1, 2].into(), false), now);
    assert_eq!(life(&back, Backend::ACTIVE), Some(drained));
    // After the rest the id goes to another endpoint under a new generation.
    plan(&mut tables, 1, &want(1, &[1].into(), false), now);
    let other = plan(&mut tables, 1, &want(1, &[1, 3].into(), false), now + 2 * REST);
    assert_eq!(life(&other, Backend::ACTIVE), Some((drained.0, drained.1 + 1)));
}

#[test]
fn the_second_service_on_an_address_is_refused_by_name() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    plan(&mut tables, 1, &want(1, &[1].into(), false), now);
    let refusal = tables.plan(&name(2), &want(1, &[2].into(), false), now).1.unwrap();
    assert_eq!(refusal.to_string(), "10.96.0.1:80 (protocol 6) already belongs to default/s1");
}

#[test]
fn one_changed_endpoint_writes_only_what_changed() {
    let now = Instant::now();
    let mut tables = Tables::new(CAPACITY);
    for service in 0..30 {
        plan(&mut tables, service, &want(service, &[1, 2].into(), false), now);
    }
    let steps = plan(&mut tables, 7, &want(7, &[1, 3].into(), false), now);
    assert_eq!(steps.len(), 4, "{steps:?}");
}
