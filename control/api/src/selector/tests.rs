use serde_json::json;

use super::*;
use crate::registry::{CONFIG_MAP, EVENT, NODE, POD, REPLICA_SET};

fn object(tree: Value) -> Object {
    serde_json::from_value(tree).expect("object")
}

#[test]
fn label_grammar() {
    let pod = object(json!({"metadata": {"labels": {"app": "web", "n": "5", "empty": "", "example.com/x": "y"}}}));
    let rows = [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web", true),
        ("app!=web", false),
        ("other!=web", true),
        ("app in (db, web)", true),
        ("app in (db)", false),
        ("app notin (db)", true),
        ("other notin (db)", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("app>1", false),
        ("empty=", true),
        ("empty in ()", true),
        ("other=", false),
        ("app=web,n=5,example.com/x=y", true),
        ("app=web,n=6", false),
        ("in=a", false),
        ("in", false),
    ];
    for (text, matches) in rows {
        let selector = Selector::parse(&POD, text, "").unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&pod), matches, "{text}");
    }
}

#[test]
fn bad_label_selectors_are_refused() {
    for text in ["a=b,", "=b", "a b", "a in b", "a in (b", "a in (b c)", "!", "a>b", "a==(b)", "-a=b", "a=b!", ",a"] {
        let status = Selector::parse(&POD, text, "").expect_err(text);
        assert_eq!(status.reason, crate::Reason::BadRequest, "{text}");
        assert!(status.message.starts_with("unable to parse requirement: "), "{}", status.message);
    }
}

#[test]
fn text_form_is_sorted_and_reads_back() {
    let text = "app=web,n>4,!old,tier in (a,b),x notin (y,z),z!=1";
    let selector = Selector::parse(&POD, text, "").expect("parses");
    assert_eq!(selector.labels_text(), "app=web,n>4,!old,tier in (a,b),x notin (y,z),z!=1");
}

#[test]
fn label_selector_objects() {
    let parse = |tree: Value| Selector::from_label_selector(Some(&tree));
    assert_eq!(Selector::from_label_selector(None).expect("absent"), None);
    assert_eq!(parse(Value::Null).expect("null"), None);
    assert_eq!(parse(json!({})).expect("empty"), Some(Selector::all()));
    let selector = parse(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}));
    let selector = selector.expect("parses").expect("some");
    assert_eq!(selector.labels_text(), "a=b,c in (d,e),!f");
    assert!(parse(json!({"matchExpressions": [{"key": "c", "operator": "Near"}]})).is_err());
    assert!(parse(json!({"matchExpressions": [{"key": "c", "operator": "In"}]})).is_err());
}

#[test]
fn field_selectors() {
    let pod = object(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "a,b"},
        "status": {"phase": "Running"}}));
    let rows = [
        ("metadata.name=p", true),
        ("metadata.name==p,metadata.namespace=n", true),
        ("metadata.name!=p", false),
        (r"spec.nodeName=a\,b", true),
        ("status.phase!=Failed,status.phase!=Succeeded", true),
        ("spec.serviceAccountName=", true),
        ("spec.hostNetwork=false", true),
        ("spec.hostNetwork=true", false),
        ("spec.hostNetwork!=false", false),
    ];
    for (text, matches) in rows {
        let selector = Selector::parse(&POD, "", text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&pod), matches, "{text}");
    }
    let event = object(json!({"source": {"component": "kubelet"}, "involvedObject": {"name": "x"}}));
    let selector = Selector::parse(&EVENT, "", "involvedObject.name=x,source=kubelet").expect("parses");
    assert!(selector.matches(&event));
}

#[test]
fn unsupported_fields_are_refused_in_upstreams_words() {
    let rows: [(&Kind, &str, &str); 5] = [
        (&POD, "spec.foo=x", "field label not supported: spec.foo"),
        (&NODE, "status.phase=x", "field label not supported: status.phase"),
        (&REPLICA_SET, "spec.x=1", "field label \"spec.x\" not supported for appsv1.ReplicaSet"),
        (
            &CONFIG_MAP,
            "data=x",
            "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (&POD, "nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'"),
    ];
    for (kind, text, message) in rows {
        assert_eq!(Selector::parse(kind, "", text).expect_err(text).message, message);
    }
}
