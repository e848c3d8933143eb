//! Who may do what. The rules of this build are fixed: administrators everything, nodes read, everybody the health
//! pages. Roles and bindings take this place in the chain.

use fairlead_api::{Reason, Status};

use crate::authn::Identity;
use crate::http::request::{Target, Verb};

/// Refuses what the identity may not do, as upstream phrases it.
pub(crate) fn authorize(identity: &Identity, verb: Verb, target: &Target, path: &str) -> Result<(), Status> {
    if allowed(identity, verb, target, path) { Ok(()) } else { Err(refusal(identity, verb, target, path)) }
}

fn allowed(identity: &Identity, verb: Verb, target: &Target, path: &str) -> bool {
    if identity.is_in("system:masters") {
        return true;
    }
    let reads = matches!(verb, Verb::Get | Verb::List | Verb::Watch);
    match target {
        Target::Other => {
            let public = ["/livez", "/readyz", "/healthz", "/version"];
            let health = public.iter().any(|page| path == *page || path.starts_with(&format!("{page}/")));
            health || (!identity.is_anonymous() && reads)
        }
        // A node's streams (logs, exec) go through the API server to a node, never from one.
        Target::Resource(resource) => {
            let connects = !matches!(resource.subresource.as_str(), "" | "status" | "scale");
            reads && !connects && identity.is_in("system:nodes") && identity.user.starts_with("system:node:")
        }
    }
}

fn refusal(identity: &Identity, verb: Verb, target: &Target, path: &str) -> Status {
    let (user, verb) = (&identity.user, verb.as_str());
    match target {
        Target::Other => {
            Status::new(Reason::Forbidden, format!("forbidden: User {user:?} cannot {verb} path {path:?}"))
        }
        Target::Resource(resource) => {
            let place = if resource.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", resource.namespace)
            };
            let mut what = resource.plural.clone();
            if !resource.subresource.is_empty() {
                what = format!("{what}/{}", resource.subresource);
            }
            let why =
                format!("User {user:?} cannot {verb} resource {what:?} in API group {:?} {place}", resource.group);
            Status::forbidden(&resource.plural, &resource.group, &resource.name, &why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::ResourceTarget;

    fn pods(subresource: &str) -> Target {
        Target::Resource(ResourceTarget {
            group: String::new(),
            version: "v1".into(),
            namespace: "default".into(),
            plural: "pods".into(),
            name: String::new(),
            subresource: subresource.into(),
        })
    }

    fn node() -> Identity {
        Identity { user: "system:node:a".into(), groups: vec!["system:nodes".into(), "system:authenticated".into()] }
    }

    #[test]
    fn rules() {
        let admin = Identity { user: "kubernetes-admin".into(), groups: vec!["system:masters".into()] };
        let nobody = Identity { user: "bob".into(), groups: vec!["system:authenticated".into()] };
        let cases = [
            (&admin, Verb::Delete, pods(""), true),
            (&node(), Verb::List, pods(""), true),
            (&node(), Verb::Create, pods(""), false),
            (&node(), Verb::Get, pods("exec"), false),
            (&nobody, Verb::List, pods(""), false),
            (&Identity::anonymous(), Verb::List, pods(""), false),
        ];
        for (who, verb, target, expected) in cases {
            assert_eq!(allowed(who, verb, &target, ""), expected, "{who:?} {verb:?}");
        }
        assert!(allowed(&Identity::anonymous(), Verb::Get, &Target::Other, "/readyz/ping"));
        assert!(!allowed(&Identity::anonymous(), Verb::Get, &Target::Other, "/api"));
        let refused = authorize(&nobody, Verb::List, &pods(""), "").unwrap_err();
        assert_eq!(
            refused.message,
            "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }
}
