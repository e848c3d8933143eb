//! Which ConfigMaps and Secrets a pod uses: volumes (projected ones too), environment, image pull secrets.

use std::collections::BTreeSet;

use fairlead_api::Object;
use fairlead_proto::push::v1::Kind;
use serde_json::Value;

use crate::ledger::Key;

/// The ConfigMaps and Secrets that the pod names, existing or not.
pub(crate) fn references(pod: &Object) -> BTreeSet<Key> {
    let mut found = Found { namespace: pod.namespace().to_owned(), keys: BTreeSet::new() };
    let Some(spec) = pod.0.get("spec") else { return found.keys };
    for volume in list(spec, "volumes") {
        found.volume(volume);
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(spec, field) {
            found.container(container);
        }
    }
    for secret in list(spec, "imagePullSecrets") {
        found.add(Kind::Secret, secret.get("name"));
    }
    found.keys
}

struct Found {
    namespace: String,
    keys: BTreeSet<Key>,
}

impl Found {
    fn add(&mut self, kind: Kind, name: Option<&Value>) {
        if let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            self.keys.insert(Key { kind, namespace: self.namespace.clone(), name: name.to_owned() });
        }
    }

    fn volume(&mut self, volume: &Value) {
        for (source, value) in volume.as_object().into_iter().flatten() {
            match source.as_str() {
                "configMap" => self.add(Kind::ConfigMap, value.get("name")),
                "projected" => {
                    for part in list(value, "sources") {
                        self.add(Kind::ConfigMap, part.get("configMap").and_then(|map| map.get("name")));
                        self.add(Kind::Secret, part.get("secret").and_then(|secret| secret.get("name")));
                    }
                }
                // `secret` itself, and the storage drivers: each names its Secret in one of these ways.
                _ => {
                    self.add(Kind::Secret, value.get("secretName"));
                    for field in ["secretRef", "nodePublishSecretRef"] {
                        self.add(Kind::Secret, value.get(field).and_then(|secret| secret.get("name")));
                    }
                }
            }
        }
    }

    fn container(&mut self, container: &Value) {
        let from = list(container, "env").filter_map(|variable| variable.get("valueFrom"));
        for source in from.chain(list(container, "envFrom")) {
            for field in ["configMapKeyRef", "configMapRef"] {
                self.add(Kind::ConfigMap, source.get(field).and_then(|map| map.get("name")));
            }
            for field in ["secretKeyRef", "secretRef"] {
                self.add(Kind::Secret, source.get(field).and_then(|secret| secret.get("name")));
            }
        }
    }
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_name_one_is_followed() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "p"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "volume-map"}},
                    {"name": "b", "secret": {"secretName": "volume-secret"}},
                    {"name": "c", "projected": {"sources": [
                        {"configMap": {"name": "projected-map"}}, {"secret": {"name": "projected-secret"}},
                        {"downwardAPI": {}},
                    ]}},
                    {"name": "d", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "csi-secret"}}},
                    {"name": "e", "cephfs": {"secretRef": {"name": "ceph-secret"}}},
                    {"name": "f", "emptyDir": {}},
                ],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "from-map"}}, {"secretRef": {"name": "from-secret"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "value": "literal"},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "key-map", "key": "k"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "key-secret", "key": "k"}}},
                    {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ]}],
                "ephemeralContainers": [{"name": "e", "envFrom": [{"configMapRef": {"name": "debug-map"}}]}],
            },
        });
        let pod: Object = serde_json::from_value(pod).expect("an object");
        let of = |kind: Kind| -> Vec<String> {
            references(&pod)
                .into_iter()
                .filter(|key| key.kind == kind && key.namespace == "shop")
                .map(|key| key.name)
                .collect()
        };
        assert_eq!(of(Kind::ConfigMap), ["debug-map", "from-map", "key-map", "projected-map", "volume-map"]);
        let secrets =
            ["ceph-secret", "csi-secret", "from-secret", "key-secret", "projected-secret", "pull", "volume-secret"];
        assert_eq!(of(Kind::Secret), secrets);
    }
}
