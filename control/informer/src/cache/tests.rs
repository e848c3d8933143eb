//! The cache against a scripted API: what it shows, what it tells, and how it recovers.

use std::collections::VecDeque;
use std::sync::Mutex;

use fairlead_api::client::{DeleteOptions, List, Patch};
use fairlead_api::kind::Subresource;
use fairlead_api::registry;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

/// Answers lists and watches from a script, and refuses everything else.
struct Script {
    lists: Mutex<VecDeque<List>>,
    watches: Mutex<VecDeque<Vec<Result<Event, Status>>>>,
    /// Where the cache asked to go on.
    resumed: Mutex<Vec<u64>>,
}

fn refuse<T>() -> Result<T, Status> {
    Err(Status::new(Reason::MethodNotAllowed, "not in the script"))
}

#[async_trait]
impl Client for Script {
    async fn get(&self, _: &'static Kind, _: &str, _: &str) -> Result<Arc<Object>, Status> {
        refuse()
    }

    async fn list(&self, _: &'static Kind, _: &str, _: &Selector) -> Result<List, Status> {
        self.lists.lock().unwrap().pop_front().map_or_else(refuse, Ok)
    }

    async fn watch(&self, _: &'static Kind, _: &str, _: &Selector, revision: u64) -> Result<WatchStream, Status> {
        self.resumed.lock().unwrap().push(revision);
        match self.watches.lock().unwrap().pop_front() {
            Some(events) => Ok(futures::stream::iter(events).boxed()),
            None => Ok(futures::stream::pending().boxed()),
        }
    }

    async fn create(&self, _: &'static Kind, _: Object) -> Result<Arc<Object>, Status> {
        refuse()
    }

    async fn update(&self, _: &'static Kind, _: Object, _: Option<Subresource>) -> Result<Arc<Object>, Status> {
        refuse()
    }

    async fn patch(
        &self,
        _: &'static Kind,
        _: &str,
        _: &str,
        _: Patch,
        _: Option<Subresource>,
    ) -> Result<Arc<Object>, Status> {
        refuse()
    }

    async fn delete(&self, _: &'static Kind, _: &str, _: &str, _: DeleteOptions) -> Result<(), Status> {
        refuse()
    }
}

fn pod(name: &str, revision: u64, node: &str, owner: &str) -> Arc<Object> {
    let tree = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "ns", "uid": name, "resourceVersion": revision.to_string(),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner}],
        },
        "spec": {"nodeName": node, "containers": []},
    });
    Arc::new(serde_json::from_value(tree).unwrap())
}

fn event(kind: EventType, object: Arc<Object>, revision: u64) -> Result<Event, Status> {
    Ok(Event { kind, object, revision })
}

fn node_of(pod: &Object, values: &mut Vec<String>) {
    values.push(pod.str_at(&["spec", "nodeName"]).to_owned());
}

/// Runs a cache over a script until it has seen `revision`. Answers it, what its handler was told, and where it resumed.
async fn follow(
    lists: Vec<List>,
    watches: Vec<Vec<Result<Event, Status>>>,
    revision: u64,
) -> (Arc<Cache<Pod>>, Vec<String>, Vec<u64>) {
    let script = Arc::new(Script {
        lists: Mutex::new(lists.into()),
        watches: Mutex::new(watches.into()),
        resumed: Mutex::default(),
    });
    let cache: Arc<Cache<Pod>> = Cache::new(&registry::POD, &[node_of]);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    cache.on_change({
        let told = told.clone();
        move |change| {
            let sign = match (&change.old, &change.new) {
                (None, _) => '+',
                (Some(_), Some(_)) => '~',
                (Some(_), None) => '-',
            };
            told.lock().unwrap().push(format!("{sign}{}", change.key.name));
        }
    });
    let shutdown = CancellationToken::new();
    let wait = async {
        tokio::time::timeout(Duration::from_secs(30), cache.settled(revision)).await.expect("the revision is seen");
        shutdown.cancel();
    };
    tokio::join!(cache.run(script.clone(), shutdown.clone()), wait);
    let told = told.lock().unwrap().clone();
    let resumed = script.resumed.lock().unwrap().clone();
    (cache, told, resumed)
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
}

#[tokio::test]
async fn changes_are_shown_indexed_and_told() {
    let list = List { items: vec![pod("a", 1, "x", "r"), pod("b", 2, "x", "r")], revision: 5 };
    let watch = vec![
        event(EventType::Modified, pod("a", 6, "y", "r"), 6),
        event(EventType::Added, pod("c", 7, "y", "q"), 7),
        event(EventType::Deleted, pod("b", 8, "x", "r"), 8),
        event(EventType::Bookmark, Arc::default(), 9),
    ];
    let (cache, told, resumed) = follow(vec![list], vec![watch], 9).await;
    assert_eq!(told, ["+a", "+b", "~a", "+c", "-b"]);
    assert_eq!(resumed[0], 5);
    assert_eq!(names(&cache.all()), ["a", "c"]);
    assert_eq!(names(&cache.by_index(0, "y")), ["a", "c"]);
    assert_eq!(names(&cache.by_index(0, "x")), [] as [&str; 0]);
    assert_eq!(names(&cache.owned_by("r")), ["a"]);
    assert_eq!(names(&cache.in_namespace("ns")), ["a", "c"]);
    assert_eq!(cache.in_namespace("n").len(), 0, "no prefix of a name");
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_tells_only_what_differs() {
    let first = List { items: vec![pod("a", 1, "x", "r"), pod("b", 2, "x", "r")], revision: 5 };
    let second = List { items: vec![pod("a", 1, "x", "r"), pod("c", 30, "x", "r")], revision: 40 };
    let expired = vec![Err(Status::expired("too old"))];
    let (cache, told, resumed) = follow(vec![first, second], vec![expired], 40).await;
    assert_eq!(told, ["+a", "+b", "-b", "+c"]);
    assert_eq!(names(&cache.all()), ["a", "c"]);
    assert_eq!(resumed[0], 5);
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_was() {
    let list = List { items: vec![], revision: 5 };
    let broken = vec![
        event(EventType::Added, pod("a", 6, "x", "r"), 6),
        Err(Status::new(Reason::ServiceUnavailable, "restarting")),
    ];
    let rest = vec![event(EventType::Added, pod("b", 7, "x", "r"), 7)];
    let (_, told, resumed) = follow(vec![list], vec![broken, rest], 7).await;
    assert_eq!(told, ["+a", "+b"]);
    assert_eq!(resumed[..2], [5, 6]);
}

#[tokio::test]
async fn an_object_that_does_not_fit_its_kind_is_left_out_alone() {
    let mut odd = Object::clone(&pod("odd", 1, "x", "r"));
    odd.section_mut("spec").insert("containers".to_owned(), json!("none"));
    let list = List { items: vec![Arc::new(odd), pod("a", 2, "x", "r")], revision: 5 };
    let (cache, told, _) = follow(vec![list], vec![], 5).await;
    assert_eq!(told, ["+a"]);
    assert_eq!(names(&cache.all()), ["a"]);
}
