//! The ServiceAccount `default` of every namespace.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::{Reason, Status};
use fairlead_informer::{Key, Queue};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::r#loop::{Loop, Shared};
use crate::meta;
use crate::writer::Writer;

/// The account that pods get which name none.
const DEFAULT: &str = "default";

/// Starts the loop. Keys are namespaces.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.namespaces.on_change({
        let queue = queue.clone();
        move |change| queue.add(change.key.clone())
    });
    shared.caches.service_accounts.on_change({
        let queue = queue.clone();
        move |change| {
            if change.new.is_none() && change.key.name == DEFAULT {
                queue.add(Key::new("", &change.key.namespace));
            }
        }
    });
    shared.spawn("serviceaccount", 1, queue, AccountLoop { shared: shared.clone() });
}

struct AccountLoop {
    shared: Arc<Shared>,
}

#[async_trait]
impl Loop for AccountLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let caches = &self.shared.caches;
        let lives = caches.namespaces.get(key).is_some_and(|namespace| !meta::is_terminating(&namespace.metadata));
        if !lives || caches.service_accounts.get(&Key::new(&key.name, DEFAULT)).is_some() {
            return Ok(None);
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.to_owned()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        match writer.create(&registry::SERVICE_ACCOUNT, &account).await {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(None),
        }
    }
}
