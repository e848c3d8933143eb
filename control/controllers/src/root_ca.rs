//! The ConfigMap `kube-root-ca.crt` of every namespace: how pods know the API server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::client::Patch;
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{Key, Queue};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::r#loop::{Loop, Shared};
use crate::meta::{self, Map};
use crate::writer::Writer;

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// Starts the loop. Keys are namespaces.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.namespaces.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    shared.caches.config_maps.on_change({
        let queue = queue.clone();
        move |change| {
            if change.key.name == NAME {
                queue.add(Key::new("", &change.key.namespace));
            }
        }
    });
    shared.spawn("root-ca-certificate-publisher", 1, queue, RootCaLoop { shared: shared.clone() });
}

struct RootCaLoop {
    shared: Arc<Shared>,
}

#[async_trait]
impl Loop for RootCaLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let caches = &self.shared.caches;
        if caches.namespaces.get(key).is_none_or(|namespace| meta::is_terminating(&namespace.metadata)) {
            return Ok(None);
        }
        let data = Map::from([(FILE.to_owned(), self.shared.config.root_ca.clone())]);
        let name = Key::new(&key.name, NAME);
        let written = match caches.config_maps.get(&name) {
            Some(present) if present.data.as_ref() == Some(&data) => return Ok(None),
            Some(_) => {
                let patch = json!([{"op": "add", "path": "/data", "value": data}]);
                writer.patch(&registry::CONFIG_MAP, &name, Patch::Json(patch), None).await
            }
            None => writer.create(&registry::CONFIG_MAP, &fresh(&key.name, data)).await,
        };
        match written {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(None),
        }
    }
}

fn fresh(namespace: &str, data: Map) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(Map::from([(DESCRIPTION.0.to_owned(), DESCRIPTION.1.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}
