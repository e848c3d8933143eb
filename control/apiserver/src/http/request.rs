//! What a request asks for, from its method and path alone.

use http::Method;

use super::query::Query;

/// What is done, in the words of authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// Another method on a path that is no resource.
    Other,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Other => "access",
        }
    }
}

/// What it is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Objects, or one object, or a part of one.
    Resource(ResourceTarget),
    /// Health, version, discovery, documents, and what does not exist.
    Other,
}

/// `/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE`, absent parts empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceTarget {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
}

/// Reads method, path and query.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> (Verb, Target) {
    match resource(path) {
        Some(target) => (verb(method, &target, query), Target::Resource(target)),
        None => {
            let verb = match *method {
                Method::GET | Method::HEAD => Verb::Get,
                Method::POST => Verb::Create,
                Method::PUT => Verb::Update,
                Method::PATCH => Verb::Patch,
                Method::DELETE => Verb::Delete,
                _ => Verb::Other,
            };
            (verb, Target::Other)
        }
    }
}

fn verb(method: &Method, target: &ResourceTarget, query: &Query) -> Verb {
    match *method {
        Method::GET | Method::HEAD if target.name.is_empty() || is_watch_by_name(target, query) => {
            if query.flag("watch") { Verb::Watch } else { Verb::List }
        }
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if target.name.is_empty() => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => Verb::Other,
    }
}

/// `GET /api/v1/namespaces/x/pods/y?watch=true` watches that one object.
fn is_watch_by_name(target: &ResourceTarget, query: &Query) -> bool {
    target.subresource.is_empty() && query.flag("watch")
}

fn resource(path: &str) -> Option<ResourceTarget> {
    let decoded: Vec<String> = path
        .strip_prefix('/')?
        .trim_end_matches('/')
        .split('/')
        .map(|segment| percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let (group, version, rest) = match &segments[..] {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let own = |text: &str| text.to_owned();
    let target = |namespace: &str, plural: &str, name: &str, subresource: &[&str]| ResourceTarget {
        group: own(group),
        version: own(version),
        namespace: own(namespace),
        plural: own(plural),
        name: own(name),
        subresource: subresource.join("/"),
    };
    match rest {
        [] => None,
        // A namespace is an object too, and its own namespace for authorization.
        ["namespaces"] => Some(target("", "namespaces", "", &[])),
        ["namespaces", name] => Some(target("", "namespaces", name, &[])),
        ["namespaces", name, subresource @ ("status" | "finalize")] => {
            Some(target("", "namespaces", name, &[subresource]))
        }
        ["namespaces", namespace, plural] => Some(target(namespace, plural, "", &[])),
        ["namespaces", namespace, plural, name, rest @ ..] => Some(target(namespace, plural, name, rest)),
        [plural] => Some(target("", plural, "", &[])),
        [plural, name, rest @ ..] => Some(target("", plural, name, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("GET", "/api/v1/pods", Verb::List, ["", "", "pods", "", ""]),
            ("GET", "/api/v1/pods?watch=1", Verb::Watch, ["", "", "pods", "", ""]),
            ("GET", "/api/v1/namespaces/a/pods/b", Verb::Get, ["", "a", "pods", "b", ""]),
            ("GET", "/api/v1/namespaces/a/pods/b/log", Verb::Get, ["", "a", "pods", "b", "log"]),
            ("PUT", "/api/v1/namespaces/a/finalize", Verb::Update, ["", "", "namespaces", "a", "finalize"]),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/a/deployments",
                Verb::DeleteCollection,
                ["apps", "a", "deployments", "", ""],
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                Verb::Patch,
                ["apps", "a", "deployments", "b", "scale"],
            ),
            ("GET", "/api/v1/nodes/n%41", Verb::Get, ["", "", "nodes", "nA", ""]),
        ];
        for (method, url, verb, [group, namespace, plural, name, subresource]) in cases {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let (got, target) = parse(&method.parse().unwrap(), path, &Query::parse(query));
            let expected = ResourceTarget {
                group: group.into(),
                version: "v1".into(),
                namespace: namespace.into(),
                plural: plural.into(),
                name: name.into(),
                subresource: subresource.into(),
            };
            assert_eq!((got, target), (verb, Target::Resource(expected)), "{url}");
        }
        for path in ["/", "/api", "/api/v1", "/apis/apps/v1", "/version", "/x/y/z"] {
            assert_eq!(parse(&Method::GET, path, &Query::default()).1, Target::Other, "{path}");
        }
    }
}
