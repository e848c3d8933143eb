//! Updates made of news, by example.

use serde_json::json;

use super::*;

fn object(kind: &str, name: &str, note: &str) -> DynamicObject {
    let version = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
    let mut tree = json!({"apiVersion": version, "kind": kind,
        "metadata": {"namespace": "default", "name": name, "annotations": {"note": note}}});
    if kind == "EndpointSlice" {
        tree["addressType"] = json!("IPv4");
        tree["endpoints"] = json!([]);
    }
    serde_json::from_value(tree).expect("an object")
}

fn service(name: &str) -> DynamicObject {
    object("Service", name, "")
}

fn put(update: &Update) -> Vec<String> {
    update.put.iter().map(|item| item.name().to_string()).collect()
}

/// All three lists, and the snapshot they make.
fn begun(services: Vec<DynamicObject>) -> Gathered {
    let mut gathered = Gathered::default();
    for (kind, objects) in [(Kind::Service, services), (Kind::EndpointSlice, vec![]), (Kind::Node, vec![])] {
        gathered.take(kind, News::Listed(objects));
    }
    assert!(gathered.update().is_some_and(|update| update.snapshot && update.complete));
    gathered
}

#[test]
fn the_first_update_is_complete_and_waits_for_all_lists() {
    let mut gathered = Gathered::default();
    gathered.take(Kind::Service, News::Listed(vec![service("a")]));
    gathered.take(Kind::Service, News::Put(Box::new(service("b"))));
    assert!(gathered.update().is_none());
    gathered.take(Kind::EndpointSlice, News::Listed(vec![object("EndpointSlice", "a-1", "")]));
    assert!(gathered.update().is_none());
    gathered.take(Kind::Node, News::Lost("forbidden".into()));
    let update = gathered.update().expect("without the Node, which is out of reach");
    assert!(update.snapshot && update.first && update.complete);
    assert_eq!(put(&update), ["Service default/a", "Service default/b", "EndpointSlice default/a-1"]);
    assert!(gathered.update().is_none(), "told already");
}

#[test]
fn last_good_a_list_after_the_first_removes_only_what_is_gone() {
    let mut gathered = begun(vec![service("a"), service("b")]);
    gathered.take(Kind::Service, News::Lost("connection refused".into()));
    assert!(gathered.update().is_none(), "lost contact removes nothing");
    gathered.take(Kind::Service, News::Listed(vec![service("b"), service("c")]));
    let update = gathered.update().expect("an update");
    assert!(!update.snapshot);
    assert_eq!(put(&update), ["Service default/b", "Service default/c"]);
    assert_eq!(update.removed, [ObjectName::Service("default".into(), "a".into())]);
}

#[test]
fn an_update_names_an_object_once_with_its_last_news() {
    let mut gathered = begun(vec![service("a"), service("b")]);
    gathered.take(Kind::Service, News::Put(Box::new(object("Service", "a", "old"))));
    gathered.take(Kind::Service, News::Put(Box::new(object("Service", "a", "new"))));
    gathered.take(Kind::Service, News::Removed(Box::new(service("b"))));
    gathered.take(Kind::Service, News::Put(Box::new(service("b"))));
    gathered.take(Kind::Service, News::Put(Box::new(service("c"))));
    gathered.take(Kind::Service, News::Removed(Box::new(service("c"))));
    let update = gathered.update().expect("an update");
    assert_eq!(put(&update), ["Service default/a", "Service default/b"]);
    let [Item::Service(first), _] = &update.put[..] else { panic!("{update:?}") };
    assert_eq!(
        first.metadata.annotations.as_ref().and_then(|notes| notes.get("note")).map(String::as_str),
        Some("new")
    );
    assert_eq!(update.removed, [ObjectName::Service("default".into(), "c".into())]);
}

#[test]
fn last_good_an_object_that_does_not_fit_its_type_is_refused_alone() {
    let mut gathered = begun(vec![]);
    let mut odd = service("odd");
    odd.data = json!({"spec": {"ports": [{"port": "eighty"}]}});
    gathered.take(Kind::Service, News::Put(Box::new(odd)));
    gathered.take(Kind::Service, News::Put(Box::new(service("good"))));
    let update = gathered.update().expect("an update");
    assert_eq!(put(&update), ["Service default/good"]);
    assert_eq!(update.rejected.len(), 1);
    assert!(update.rejected[0].reason.contains("eighty"), "{:?}", update.rejected);
}

#[test]
fn contact_is_up_when_every_watch_stands() {
    let mut gathered = Gathered::default();
    assert_eq!(gathered.contact(), Contact::None);
    gathered.take(Kind::Service, News::Up);
    gathered.take(Kind::EndpointSlice, News::Up);
    assert_eq!(gathered.contact(), Contact::None);
    gathered.take(Kind::Node, News::Up);
    assert_eq!(gathered.contact(), Contact::Up);
    gathered.take(Kind::EndpointSlice, News::Lost("gone".into()));
    assert_eq!(gathered.contact(), Contact::Lost("gone".into()));
    gathered.take(Kind::EndpointSlice, News::Up);
    assert_eq!(gathered.contact(), Contact::Up);
}
