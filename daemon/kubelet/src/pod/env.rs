//! A container's environment, command line and `$(VAR)` references.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use super::field::{self, NodeFacts};

/// Where values come from. The node's view, or a table in a test.
pub(crate) trait Lookup {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>>;
    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>>;
}

/// Why an environment cannot be made; the text is what a waiting container shows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
}

/// The environment in order, later definitions of a name replacing earlier ones.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    services: Vec<(String, String)>,
    lookup: &dyn Lookup,
    ips: &[String],
    node: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = Environment { services: services.into_iter().collect(), ..Default::default() };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match lookup.config_map(namespace, &reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "configmap", name: reference.name.clone() }),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match lookup.secret(namespace, &reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "secret", name: reference.name.clone() }),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            let value = expand(value, |name| env.get(name));
            env.set(variable.name.clone(), value);
            continue;
        }
        let Some(source) = &variable.value_from else {
            env.set(variable.name.clone(), String::new());
            continue;
        };
        if let Some(reference) = &source.field_ref {
            let value = field::field(pod, &reference.field_path, ips, node)
                .ok_or_else(|| EnvError::Field(reference.field_path.clone()))?;
            env.set(variable.name.clone(), value);
        } else if let Some(selector) = &source.resource_field_ref {
            let value = field::resource(pod, &container.name, selector, node)
                .ok_or_else(|| EnvError::Resource(selector.resource.clone()))?;
            env.set(variable.name.clone(), value);
        } else if let Some(reference) = &source.config_map_key_ref {
            let map = lookup.config_map(namespace, &reference.name);
            let value = map.as_ref().map(|map| map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned());
            let optional = reference.optional == Some(true);
            if let Some(value) = required("configmap", namespace, &reference.name, &reference.key, optional, value)? {
                env.set(variable.name.clone(), value);
            }
        } else if let Some(reference) = &source.secret_key_ref {
            let secret = lookup.secret(namespace, &reference.name);
            let value = secret.as_ref().map(|secret| {
                let data = secret.data.as_ref().and_then(|data| data.get(&reference.key));
                data.map(|value| String::from_utf8_lossy(&value.0).into_owned())
            });
            let optional = reference.optional == Some(true);
            if let Some(value) = required("secret", namespace, &reference.name, &reference.key, optional, value)? {
                env.set(variable.name.clone(), value);
            }
        }
    }
    Ok(env.finish())
}

/// `found` is the object, and in it the key.
fn required(
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
    optional: bool,
    found: Option<Option<String>>,
) -> Result<Option<String>, EnvError> {
    match found {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional => Ok(None),
        None => Err(EnvError::Missing { kind, name: name.to_owned() }),
        Some(None) => Err(EnvError::Key {
            kind: if kind == "secret" { "Secret" } else { "ConfigMap" },
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        }),
    }
}

#[derive(Default)]
struct Environment {
    order: Vec<String>,
    own: BTreeMap<String, String>,
    services: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        if self.own.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.own.get(name).or_else(|| self.services.get(name)).cloned()
    }

    fn finish(mut self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> =
            self.order.into_iter().filter_map(|name| self.own.remove(&name).map(|value| (name, value))).collect();
        let named: Vec<(String, String)> =
            self.services.into_iter().filter(|(name, _)| !all.iter().any(|(own, _)| own == name)).collect();
        all.extend(named);
        all
    }
}

/// Replaces `$(NAME)` by the variable's value. `$$` is a dollar sign; what is not defined stays as it is written.
pub(crate) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

/// [`expand`] for a command line.
pub(crate) fn expand_all(words: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let get = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    words.into_iter().flatten().map(|word| expand(word, get)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_upstream_does() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        let check = |text: &str, want: &str| assert_eq!(expand(text, value), want, "{text}");
        check("x$(A)y", "x1y");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$(B)", "$(B)");
        check("$A", "$A");
        check("$(A", "$(A");
        check("end$", "end$");
    }

    struct Table;

    impl Lookup for Table {
        fn config_map(&self, _: &str, name: &str) -> Option<Arc<ConfigMap>> {
            (name == "cm").then(|| {
                serde_json::from_str(r#"{"data":{"k":"v","other":"o"}}"#).map(Arc::new).expect("a ConfigMap in JSON")
            })
        }

        fn secret(&self, _: &str, name: &str) -> Option<Arc<Secret>> {
            (name == "s")
                .then(|| serde_json::from_str(r#"{"data":{"k":"c2VjcmV0"}}"#).map(Arc::new).expect("a Secret in JSON"))
        }
    }

    fn env_of(container: &str) -> Result<Vec<(String, String)>, EnvError> {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{{"containers":[{container}]}}}}"#
        ))
        .expect("a pod in JSON");
        let node = NodeFacts { name: "n1".into(), ip: "10.0.0.1".into(), cpu_milli: 2_000, memory: 1 << 30 };
        let services = vec![("SVC".to_owned(), "svc".to_owned()), ("A".to_owned(), "service".to_owned())];
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        environment(&pod, container, services, &Table, &[], &node)
    }

    #[test]
    fn variables_come_from_everywhere_in_order() {
        let env = env_of(
            r#"{"name":"c","envFrom":[{"prefix":"P_","configMapRef":{"name":"cm"}},{"secretRef":{"name":"gone","optional":true}}],
                "env":[{"name":"A","value":"a"},{"name":"B","value":"$(A)-$(SVC)-$(NONE)"},
                       {"name":"S","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}},
                       {"name":"N","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},
                       {"name":"O","valueFrom":{"configMapKeyRef":{"name":"cm","key":"no","optional":true}}}]}"#,
        )
        .expect("an environment");
        let want = [
            ("P_k", "v"),
            ("P_other", "o"),
            ("A", "a"),
            ("B", "a-svc-$(NONE)"),
            ("S", "secret"),
            ("N", "p"),
            ("SVC", "svc"),
        ];
        assert_eq!(env, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |container: &str| env_of(container).expect_err("something is missing").to_string();
        assert_eq!(
            error(r#"{"name":"c","envFrom":[{"configMapRef":{"name":"gone"}}]}"#),
            "configmap \"gone\" not found"
        );
        assert_eq!(
            error(r#"{"name":"c","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"x"}}}]}"#),
            "couldn't find key x in Secret n/s"
        );
    }
}
