//! What an update changes, by example and by property.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn service(name: &str, ip: &str) -> Item {
    let object = json!({"metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}});
    Item::Service(serde_json::from_value(object).expect("a Service"))
}

fn slice(name: &str, owner: &str, address: &str) -> Item {
    let object = json!({"metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": owner}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [address]}]});
    Item::EndpointSlice(serde_json::from_value(object).expect("an EndpointSlice"))
}

fn pod(name: &str, image: &str) -> Item {
    let object = json!({"metadata": {"namespace": "default", "name": name},
        "spec": {"containers": [{"name": "c", "image": image}]}});
    Item::Pod(serde_json::from_value(object).expect("a Pod"))
}

fn delta(revision: u64, put: Vec<Item>, removed: Vec<ObjectName>) -> Update {
    Update { revision, complete: true, put, removed, ..Update::default() }
}

fn snapshot(revision: u64, first: bool, complete: bool, put: Vec<Item>) -> Update {
    Update { revision, snapshot: true, first, complete, put, ..Update::default() }
}

fn named(name: &str) -> ServiceName {
    ServiceName { namespace: "default".into(), name: name.into() }
}

fn endpoints(view: &View, name: &str) -> Vec<String> {
    let service = view.service(&named(name));
    service.map(|one| one.ports[0].endpoints.iter().map(|e| e.address.to_string()).collect()).unwrap_or_default()
}

fn services(changes: &Changes) -> Vec<&str> {
    changes.services.iter().map(|name| name.name.as_str()).collect()
}

#[test]
fn slices_join_whatever_order_they_come_in() {
    let mut view = View::new("n1");
    let changes = view.apply(delta(1, vec![slice("web-1", "web", "10.244.0.2")], vec![]));
    assert!(changes.is_empty(), "a slice without its Service changes nothing: {changes:?}");
    let changes = view.apply(delta(2, vec![service("web", "10.96.0.7")], vec![]));
    assert_eq!(services(&changes), ["web"]);
    assert_eq!(endpoints(&view, "web"), ["10.244.0.2:8080"]);
    let changes = view.apply(delta(3, vec![slice("web-2", "web", "10.244.0.1")], vec![]));
    assert_eq!(services(&changes), ["web"]);
    assert_eq!(endpoints(&view, "web"), ["10.244.0.1:8080", "10.244.0.2:8080"]);
    let gone = ObjectName::EndpointSlice("default".into(), "web-1".into());
    view.apply(delta(4, vec![], vec![gone]));
    assert_eq!(endpoints(&view, "web"), ["10.244.0.1:8080"]);
    let changes = view.apply(delta(5, vec![], vec![ObjectName::Service("default".into(), "web".into())]));
    assert_eq!(services(&changes), ["web"]);
    assert_eq!(view.service(&named("web")), None);
    assert_eq!(view.revision(), 5);
}

#[test]
fn a_slice_that_changes_its_label_moves() {
    let mut view = View::new("n1");
    let put = vec![service("a", "10.96.0.1"), service("b", "10.96.0.2"), slice("s", "a", "10.244.0.2")];
    view.apply(delta(1, put, vec![]));
    let changes = view.apply(delta(2, vec![slice("s", "b", "10.244.0.2")], vec![]));
    assert_eq!(services(&changes), ["a", "b"]);
    assert_eq!(endpoints(&view, "a"), Vec::<String>::new());
    assert_eq!(endpoints(&view, "b"), ["10.244.0.2:8080"]);
}

#[test]
fn a_snapshot_takes_effect_with_its_last_piece_and_removes_what_it_does_not_name() {
    let mut view = View::new("n1");
    view.apply(delta(1, vec![service("old", "10.96.0.1"), service("kept", "10.96.0.2"), pod("p", "x")], vec![]));
    assert!(view.apply(snapshot(9, true, false, vec![service("new", "10.96.0.3")])).is_empty());
    assert!(view.service(&named("old")).is_some() && view.service(&named("new")).is_none());
    assert_eq!(view.revision(), 1);
    let changes = view.apply(snapshot(9, false, true, vec![service("kept", "10.96.0.2")]));
    assert_eq!(services(&changes), ["new", "old"], "what stays as it was is no change");
    assert_eq!(changes.pods.len(), 1);
    assert!(view.pod("default", "p").is_none());
    assert_eq!(view.revision(), 9);
}

#[test]
fn last_good_a_snapshot_that_broke_off_leaves_no_trace() {
    let mut view = View::new("n1");
    view.apply(delta(1, vec![service("a", "10.96.0.1")], vec![]));
    view.apply(snapshot(5, true, false, vec![service("ghost", "10.96.0.9")]));
    view.apply(snapshot(5, true, false, vec![service("a", "10.96.0.1")]));
    let changes = view.apply(snapshot(5, false, true, vec![service("b", "10.96.0.2")]));
    assert_eq!(services(&changes), ["b"]);
    assert!(view.service(&named("ghost")).is_none());
    view.apply(snapshot(6, true, false, vec![service("ghost", "10.96.0.9")]));
    view.apply(delta(7, vec![], vec![]));
    assert!(view.apply(snapshot(6, false, true, vec![service("a", "10.96.0.1")])).services.contains(&named("b")));
    assert!(view.service(&named("ghost")).is_none());
}

#[test]
fn last_good_a_bad_object_is_rejected_alone_and_its_last_form_stays() {
    let mut view = View::new("n1");
    view.apply(delta(1, vec![service("web", "10.96.0.7"), slice("web-1", "web", "10.244.0.2")], vec![]));
    let put = vec![service("web", "nonsense"), slice("web-1", "web", "fd00::1"), service("other", "10.96.0.8")];
    let changes = view.apply(delta(2, put, vec![]));
    let refused: Vec<_> = changes.rejected.iter().map(|one| one.object.clone()).collect();
    let expected = [
        ObjectName::Service("default".into(), "web".into()),
        ObjectName::EndpointSlice("default".into(), "web-1".into()),
    ];
    assert_eq!(refused, expected);
    assert_eq!(services(&changes), ["other"]);
    assert_eq!(endpoints(&view, "web"), ["10.244.0.2:8080"]);
    assert_eq!(view.revision(), 2);

    let unreadable = Rejected { object: expected[0].clone(), reason: "not JSON".into() };
    let whole =
        Update { rejected: vec![unreadable], ..snapshot(3, true, true, vec![slice("web-1", "web", "10.244.0.2")]) };
    view.apply(whole);
    assert_eq!(endpoints(&view, "web"), ["10.244.0.2:8080"], "named but unreadable is not gone");
    assert!(view.service(&named("other")).is_none());
}

#[test]
fn pieces_of_a_delta_take_effect_at_once_but_only_the_last_moves_the_revision() {
    let mut view = View::new("n1");
    let piece = Update { complete: false, ..delta(4, vec![service("a", "10.96.0.1")], vec![]) };
    assert_eq!(services(&view.apply(piece)), ["a"]);
    assert_eq!(view.revision(), 0);
    view.apply(delta(4, vec![], vec![]));
    assert_eq!(view.revision(), 4);
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let mut view = View::new("n1");
    let state = || vec![service("a", "10.96.0.1"), slice("s", "a", "10.244.0.2"), pod("p", "x")];
    assert!(!view.apply(delta(1, state(), vec![])).is_empty());
    assert!(view.apply(snapshot(2, true, true, state())).is_empty());
    assert!(!view.apply(delta(3, vec![pod("p", "y")], vec![])).is_empty());
}

#[test]
fn a_node_sees_only_itself() {
    let mut view = View::new("n1");
    let node = |name: &str| Item::Node(serde_json::from_value(json!({"metadata": {"name": name}})).expect("a Node"));
    let changes = view.apply(delta(1, vec![node("n2"), node("n1")], vec![]));
    assert!(changes.node);
    assert_eq!(changes.rejected.len(), 1);
    assert_eq!(view.node().and_then(|node| node.metadata.name.clone()).as_deref(), Some("n1"));
    assert!(view.apply(delta(2, vec![], vec![ObjectName::Node("n1".into())])).node);
    assert!(view.node().is_none());
}

#[test]
fn what_is_refused_is_known_until_it_is_put_well_or_removed() {
    let mut view = View::new("n1");
    let names = |view: &View| view.rejected().map(|one| one.object.to_string()).collect::<Vec<_>>();
    let file = Rejected { object: ObjectName::File("a.yaml".into()), reason: "line 3".into() };
    let put = vec![service("web", "nonsense"), service("bad", "nonsense"), service("good", "10.96.0.8")];
    view.apply(Update { rejected: vec![file], ..delta(1, put, vec![]) });
    assert_eq!(names(&view), ["Service default/bad", "Service default/web", "file a.yaml"]);
    view.apply(delta(2, vec![service("web", "10.96.0.7")], vec![]));
    assert_eq!(names(&view), ["Service default/bad", "file a.yaml"]);
    view.apply(delta(3, vec![], vec![ObjectName::File("a.yaml".into())]));
    assert_eq!(names(&view), ["Service default/bad"]);
    view.apply(snapshot(4, true, true, vec![]));
    assert_eq!(names(&view), Vec::<String>::new());
}

#[test]
fn another_zone_makes_other_endpoints_near() {
    let mut view = View::new("n1");
    let node = |zone: &str| {
        let object = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": zone}}});
        Item::Node(serde_json::from_value(object).expect("a Node"))
    };
    let endpoint = |address: &str, zone: &str| json!({"addresses": [address], "hints": {"forZones": [{"name": zone}]}});
    let object = json!({"metadata": {"namespace": "default", "name": "s", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [endpoint("10.244.0.2", "east"), endpoint("10.244.0.3", "west")]});
    let hinted = Item::EndpointSlice(serde_json::from_value(object).expect("an EndpointSlice"));
    let near = |view: &View| {
        let service = view.service(&named("web")).expect("joined");
        service.ports[0].endpoints.iter().map(|one| one.near).collect::<Vec<_>>()
    };
    view.apply(delta(1, vec![service("web", "10.96.0.7"), hinted, service("plain", "10.96.0.8")], vec![]));
    assert_eq!(near(&view), [true, true], "without a zone hints say nothing");
    assert_eq!(services(&view.apply(delta(2, vec![node("east")], vec![]))), ["web"]);
    assert_eq!(near(&view), [true, false]);
    assert_eq!(services(&view.apply(delta(3, vec![node("west")], vec![]))), ["web"]);
    assert_eq!(near(&view), [false, true]);
    assert!(view.apply(delta(4, vec![node("west")], vec![])).services.is_empty());
    assert_eq!(services(&view.apply(delta(5, vec![], vec![ObjectName::Node("n1".into())]))), ["web"]);
}

#[test]
fn a_pods_addresses_are_its_own_word_or_that_of_slices() {
    let mut view = View::new("n1");
    let object = json!({"metadata": {"namespace": "default", "name": "s", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.244.0.2"], "targetRef": {"kind": "Pod", "name": "p"}}, {"addresses": ["10.244.0.3"]}]});
    view.apply(delta(1, vec![Item::EndpointSlice(serde_json::from_value(object).expect("an EndpointSlice"))], vec![]));
    let addresses = |view: &View, namespace: &str| {
        view.pod_addresses(namespace, "p").iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&view, "default"), ["10.244.0.2"]);
    assert_eq!(addresses(&view, "shop"), Vec::<String>::new());
    let object = json!({"metadata": {"namespace": "default", "name": "p"},
        "status": {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00::9"}]}});
    view.apply(delta(2, vec![Item::Pod(serde_json::from_value(object).expect("a Pod"))], vec![]));
    assert_eq!(addresses(&view, "default"), ["10.244.0.9", "fd00::9"]);
}

#[test]
fn service_variables_are_those_of_the_namespace_and_the_api() {
    let mut view = View::new("n1");
    let mut headless = service("headless", "None");
    if let Item::Service(one) = &mut headless {
        one.metadata.namespace = Some("shop".into());
    }
    let mut cart = service("cart", "10.96.0.5");
    if let Item::Service(one) = &mut cart {
        one.metadata.namespace = Some("shop".into());
    }
    view.apply(delta(1, vec![service("kubernetes", "10.96.0.1"), service("web", "10.96.0.7"), headless, cart], vec![]));
    let hosts = |namespace: &str, links: bool| -> Vec<String> {
        let variables = view.service_env(namespace, links);
        variables.into_iter().filter(|(name, _)| name.ends_with("_SERVICE_HOST")).map(|(name, _)| name).collect()
    };
    assert_eq!(hosts("shop", true), ["CART_SERVICE_HOST", "KUBERNETES_SERVICE_HOST"]);
    assert_eq!(hosts("shop", false), ["KUBERNETES_SERVICE_HOST"]);
    assert_eq!(hosts("default", true), ["KUBERNETES_SERVICE_HOST", "WEB_SERVICE_HOST"]);
}

/// One step of a history: a Service, slice or pod put or removed.
fn step() -> impl Strategy<Value = (Option<Item>, ObjectName)> {
    (0..3_u8, 0..4_u8, 0..4_u8, any::<bool>()).prop_map(|(kind, number, variant, gone)| {
        let namespace = "default".to_owned();
        let (item, name) = match kind {
            0 => (service(&format!("s{number}"), &format!("10.96.0.{variant}")), format!("s{number}")),
            1 => (
                slice(&format!("e{number}"), &format!("s{variant}"), &format!("10.244.0.{variant}")),
                format!("e{number}"),
            ),
            _ => (pod(&format!("p{number}"), &format!("image{variant}")), format!("p{number}")),
        };
        let object = match kind {
            0 => ObjectName::Service(namespace, name),
            1 => ObjectName::EndpointSlice(namespace, name),
            _ => ObjectName::Pod(namespace, name),
        };
        ((!gone).then_some(item), object)
    })
}

proptest! {
    /// CONVERGE, the node's half: whatever way deltas and snapshots are mixed, the view is that of a fresh snapshot.
    #[test]
    fn converge_deltas_equal_a_fresh_snapshot(history in prop::collection::vec((step(), 0..8_u8), 1..40)) {
        let mut view = View::new("n1");
        let mut state: BTreeMap<ObjectName, Item> = BTreeMap::new();
        for (revision, ((item, name), how)) in (1_u64..).zip(history) {
            let update = match item.clone() {
                Some(item) => {
                    state.insert(name, item.clone());
                    delta(revision, vec![item], vec![])
                }
                None => {
                    state.remove(&name);
                    delta(revision, vec![], vec![name])
                }
            };
            // Now and then the delta is lost and a snapshot comes in its place.
            let update = if how == 0 { snapshot(revision, true, true, state.values().cloned().collect()) } else { update };
            view.apply(update);
        }
        let mut fresh = View::new("n1");
        fresh.apply(snapshot(view.revision(), true, true, state.into_values().collect()));
        prop_assert_eq!(view.services().collect::<Vec<_>>(), fresh.services().collect::<Vec<_>>());
        prop_assert_eq!(view.pods().collect::<Vec<_>>(), fresh.pods().collect::<Vec<_>>());
        prop_assert_eq!(view.names().collect::<BTreeSet<_>>(), fresh.names().collect::<BTreeSet<_>>());
        prop_assert!(view.services.values().all(|entry| entry.facts.is_some() || !entry.slices.is_empty()));
    }
}
