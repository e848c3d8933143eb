//! Sizes by table, and whole rollouts by simulation: whatever pods do, the bounds hold and the rollout ends.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Action, Plan, Seen, plan};
use super::sizes::{self, Bounds};
use super::{sets, status};
use crate::meta;

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    let tree = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "1"}]}},
        },
    });
    serde_json::from_value(tree).unwrap()
}

fn rolling(surge: impl Into<Value>, unavailable: impl Into<Value>) -> Value {
    let bounds = json!({"maxSurge": surge.into(), "maxUnavailable": unavailable.into()});
    json!({"type": "RollingUpdate", "rollingUpdate": bounds})
}

/// A Deployment, its ReplicaSets, and pods that are just numbers.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    /// ReplicaSets made so far.
    made: i64,
}

impl World {
    fn new(replicas: i32, strategy: Value) -> Self {
        Self { deployment: deployment(replicas, strategy), sets: Vec::new(), now: start(), made: 0 }
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        plan(&Seen { deployment: &self.deployment, sets: &sets, pods: &[], now: self.now })
    }

    /// One turn, carried out. True if it did anything but write the status.
    fn turn(&mut self) -> bool {
        let actions = self.plan().actions;
        let acted = actions.iter().any(|action| !matches!(action, Action::Status(_)));
        for action in actions {
            self.apply(action);
        }
        acted
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create(mut set) => {
                self.made += 1;
                let number = self.made;
                set.metadata.uid = Some(number.to_string());
                let age = SignedDuration::from_secs(number);
                set.metadata.creation_timestamp = Some(Time(start() + age));
                self.sets.push(*set);
            }
            Action::Scale { set, to, annotations } => {
                let set = self.set_mut(&set);
                set.spec.as_mut().unwrap().replicas = Some(to);
                set.metadata.annotations.get_or_insert_default().extend(annotations);
            }
            Action::Annotate { set, annotations, min_ready } => {
                let set = self.set_mut(&set);
                set.spec.as_mut().unwrap().min_ready_seconds = Some(min_ready);
                set.metadata.annotations.get_or_insert_default().extend(annotations);
            }
            Action::Revision(revision) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(sets::REVISION.to_owned(), revision);
            }
            Action::Delete(set) => self.sets.retain(|one| one.metadata.uid != set.metadata.uid),
            Action::Status(status) => self.deployment.status = Some(*status),
        }
    }

    fn set_mut(&mut self, set: &ReplicaSet) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|one| one.metadata.uid == set.metadata.uid).unwrap()
    }

    /// The ReplicaSets' loop makes and removes pods, unready ones first; then up to `ready` pods of each get ready.
    fn pods(&mut self, ready: i32) {
        for set in &mut self.sets {
            let wanted = sizes::wanted(set);
            let available = sizes::available(set).min(wanted);
            let available = (available + ready).min(wanted);
            set.status = Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    }

    fn resize(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(sizes::wanted).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|set| sizes::available(set).min(sizes::wanted(set))).sum()
    }

    /// Runs turns and pods until nothing moves.
    fn finish(&mut self) {
        for _ in 0..200 {
            let acted = self.turn();
            self.pods(1000);
            if !acted && self.plan().actions.is_empty() {
                return;
            }
        }
        panic!("the rollout does not end: {:?}", self.plan().actions);
    }

    fn condition(&self, type_: &str) -> (String, String, String) {
        let conditions = self.deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let condition = conditions.clone().find(|condition| condition.type_ == type_).unwrap();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (condition.status.clone(), text(&condition.reason), text(&condition.message))
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(sizes::wanted).collect()
    }
}

#[test]
fn bounds_round_surge_up_and_unavailability_down() {
    let rows = [
        (10, rolling("25%", "25%"), (3, 2)),
        (1, rolling("25%", "25%"), (1, 0)),
        (3, rolling("25%", "25%"), (1, 0)),
        (10, rolling(2, 0), (2, 0)),
        (10, rolling(0, 0), (0, 1)),
        (1, rolling("0%", "10%"), (0, 1)),
        (4, rolling(0, "100%"), (0, 4)),
        (4, rolling(0, 9), (0, 4)),
        (8, json!({"type": "RollingUpdate"}), (2, 2)),
        (8, json!({"type": "Recreate"}), (0, 0)),
    ];
    for (replicas, strategy, (surge, unavailable)) in rows {
        let bounds = sizes::bounds(&deployment(replicas, strategy.clone()));
        assert_eq!(bounds, Bounds { surge, unavailable }, "{replicas} {strategy}");
    }
}

#[test]
fn the_first_turn_makes_the_set_and_numbers_it() {
    let mut world = World::new(3, rolling(1, 0));
    assert!(world.turn());
    let set = &world.sets[0];
    let hash = set.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(meta::name(&set.metadata), format!("web-{hash}"));
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    assert_eq!(sizes::wanted(set), 3);
    for (name, value) in [(sets::REVISION, "1"), (sets::DESIRED, "3"), (sets::MAX, "4")] {
        assert_eq!(meta::annotation(&set.metadata, name), Some(value), "{name}");
    }
    assert_eq!(meta::annotation(&world.deployment.metadata, sets::REVISION), Some("1"));
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetCreated");
    assert_eq!(world.condition("Available").0, "False");
    world.finish();
    let message = format!("ReplicaSet \"web-{hash}\" has successfully progressed.");
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into(), message));
    assert_eq!(world.condition("Available").1, "MinimumReplicasAvailable");
}

#[test]
fn the_hash_names_the_template_and_nothing_else() {
    let mut one = deployment(3, rolling(1, 0));
    let template = |deployment: &Deployment| deployment.spec.as_ref().unwrap().template.clone();
    let first = sets::hash(&template(&one), 0);
    one.spec.as_mut().unwrap().replicas = Some(7);
    assert_eq!(sets::hash(&template(&one), 0), first);
    assert_ne!(sets::hash(&template(&one), 1), first, "a collision moves on");
    let labels = one.spec.as_mut().unwrap().template.metadata.as_mut().unwrap().labels.as_mut().unwrap();
    labels.insert("pod-template-hash".into(), "x".into());
    assert_eq!(sets::hash(&template(&one), 0), first, "the hash is not hashed");
    labels_of(&mut one).insert("more".into(), "x".into());
    assert_ne!(sets::hash(&template(&one), 0), first);
}

fn labels_of(deployment: &mut Deployment) -> &mut meta::Map {
    deployment.spec.as_mut().unwrap().template.metadata.as_mut().unwrap().labels.as_mut().unwrap()
}

#[test]
fn rolling_back_gives_the_old_set_a_new_number() {
    let mut world = World::new(2, rolling(1, 0));
    world.finish();
    world.image("2");
    world.finish();
    world.image("1");
    world.finish();
    assert_eq!(world.sets.len(), 2);
    let first = &world.sets[0].metadata;
    assert_eq!(meta::annotation(first, sets::REVISION), Some("3"));
    assert_eq!(meta::annotation(first, "deployment.kubernetes.io/revision-history"), Some("1"));
    assert_eq!(meta::annotation(&world.deployment.metadata, sets::REVISION), Some("3"));
    assert_eq!(world.sizes(), [2, 0]);
}

#[test]
fn history_is_limited_and_the_oldest_go() {
    let mut world = World::new(1, rolling(1, 0));
    for image in ["1", "2", "3", "4", "5"] {
        world.image(image);
        world.finish();
    }
    let revisions: Vec<_> = world.sets.iter().map(|set| sets::revision(&set.metadata)).collect();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn a_paused_rollout_stands_still_but_may_be_resized() {
    let mut world = World::new(4, rolling(1, 0));
    world.finish();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.image("2");
    world.finish();
    assert_eq!(world.sizes(), [4]);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    world.resize(6);
    world.finish();
    assert_eq!(world.sizes(), [6]);
    world.deployment.spec.as_mut().unwrap().paused = Some(false);
    world.finish();
    assert_eq!(world.sizes(), [0, 6]);
}

#[test]
fn a_resize_in_the_middle_is_shared_in_proportion() {
    let mut world = World::new(10, rolling(3, 2));
    world.finish();
    world.image("2");
    for _ in 0..3 {
        world.turn();
        world.pods(0);
    }
    assert_eq!(world.sizes(), [8, 5]);
    world.resize(15);
    world.turn();
    // 18 are allowed, so five more: three for the eight, two for the five.
    assert_eq!(world.sizes(), [11, 7]);
    world.finish();
    assert_eq!(world.sizes(), [0, 15]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(3, json!({"type": "Recreate"}));
    world.finish();
    world.image("2");
    world.turn();
    assert_eq!(world.sizes(), [0]);
    world.turn();
    assert_eq!(world.sets.len(), 1, "status still counts three old pods");
    world.finish();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn a_rollout_without_progress_times_out_and_recovers() {
    let mut world = World::new(2, rolling(1, 0));
    world.finish();
    world.image("2");
    world.turn();
    world.pods(0);
    world.turn();
    assert_eq!(world.plan().again.map(|pause| pause.as_secs()), Some(601));
    world.now += SignedDuration::from_secs(601);
    world.turn();
    let (status, reason, message) = world.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    assert!(message.ends_with("has timed out progressing."), "{message}");
    assert_eq!(world.plan().again, None);
    world.finish();
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn a_finished_rollout_plans_nothing() {
    let mut world = World::new(3, rolling("25%", "25%"));
    world.finish();
    assert_eq!(world.plan().actions, []);
}

#[test]
fn complete_means_all_new_all_there() {
    let deployment = deployment(3, rolling(1, 0));
    let status = |updated, replicas, available| DeploymentStatus {
        updated_replicas: Some(updated),
        replicas: Some(replicas),
        available_replicas: Some(available),
        ..DeploymentStatus::default()
    };
    let rows = [((3, 3, 3), true), ((2, 3, 3), false), ((3, 4, 3), false), ((3, 3, 2), false)];
    for ((updated, replicas, available), expected) in rows {
        assert_eq!(status::is_complete(&deployment, &status(updated, replicas, available)), expected);
    }
}

/// What may happen between two turns.
#[derive(Clone, Debug)]
enum Step {
    Ready(i32),
    Image(u8),
    Resize(i32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4).prop_map(Step::Ready),
        1 => (0_u8..4).prop_map(Step::Image),
        1 => (0..12).prop_map(Step::Resize),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// A rollout never has more pods than allowed and never takes an available pod away below the minimum.
    #[test]
    fn bounds_hold_whatever_happens(
        replicas in 1..12_i32, surge in 0..4_i32, unavailable in 0..4_i32, steps in steps(),
    ) {
        let mut world = World::new(replicas, rolling(surge, unavailable));
        world.finish();
        for step in steps {
            match step {
                Step::Ready(ready) => world.pods(ready),
                Step::Image(image) => world.image(&image.to_string()),
                Step::Resize(replicas) => world.resize(replicas),
            }
            let goal = sizes::replicas(&world.deployment);
            let bounds = sizes::bounds(&world.deployment);
            let (total, available) = (world.total(), world.available());
            world.turn();
            prop_assert!(world.total() <= (goal + bounds.surge).max(total), "{:?}", world.sizes());
            let least = (goal - bounds.unavailable).min(available);
            // A resize takes shares without asking which pods are available; only a rollout must.
            if matches!(step, Step::Ready(_)) && total <= goal + bounds.surge {
                prop_assert!(world.available() >= least, "{} < {least}: {:?}", world.available(), world.sizes());
            }
        }
        world.finish();
        prop_assert_eq!(world.total(), sizes::replicas(&world.deployment));
        prop_assert_eq!(world.sets.iter().filter(|set| sizes::wanted(set) > 0).count() <= 1, true);
    }
}
