//! The loops' client: the same verbs as over HTTPS, without the wire.

use std::sync::Arc;

use async_trait::async_trait;
use fairlead_api::client::{Client, DeleteOptions, Event, EventType, List, Patch, WatchStream};
use fairlead_api::kind::Subresource;
use fairlead_api::selector::Selector;
use fairlead_api::{Kind, Object, Status, scale};
use futures::StreamExt;
use serde_json::json;

use crate::api::{Api, ClusterConfig};
use crate::rest::options::{ListOptions, Match, WatchOptions};
use crate::rest::watch::Told;
use crate::rest::{create, delete, get, list, patch, update, watch};

/// [`Client`] in process: controllers, scheduler and push go through admission and validation as everybody does.
#[derive(Clone, Debug)]
pub struct LocalClient {
    api: Arc<Api>,
}

impl LocalClient {
    /// A client of this API.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    /// A whole API over a store in memory, with the namespaces every cluster has: for tests of loops.
    pub async fn memory() -> Self {
        let store = Arc::new(fairlead_store::memory());
        let tasks = tokio_util::task::TaskTracker::new();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let api = Api::open(store, ClusterConfig::default(), &tasks, shutdown).await;
        let api = api.expect("a memory store has nothing that could fail to load");
        let client = Self::new(api);
        crate::bootstrap::namespaces(&client).await.expect("an empty store takes the first namespaces");
        client
    }

    /// The API behind it.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }
}

#[async_trait]
impl Client for LocalClient {
    async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        get::get(&self.api, kind, namespace, name).await.map(|entry| entry.object.clone())
    }

    async fn list(&self, kind: &'static Kind, namespace: &str, selector: &Selector) -> Result<List, Status> {
        let options =
            ListOptions { selector: selector.clone(), at: Match::Latest, limit: 0, continue_token: String::new() };
        let listed = list::list(&self.api, kind, namespace, &options).await?;
        let items = listed.entries.iter().map(|entry| entry.object.clone()).collect();
        Ok(List { items, revision: listed.revision })
    }

    async fn watch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        selector: &Selector,
        revision: u64,
    ) -> Result<WatchStream, Status> {
        let options = WatchOptions {
            selector: selector.clone(),
            after: Some(revision),
            bookmarks: false,
            initial_events: false,
            timeout_seconds: None,
        };
        let watching = watch::watch(&self.api, kind, namespace, &options).await?;
        let stream = futures::stream::unfold(Some(watching), |watching| async move {
            let mut watching = watching?;
            match watching.next().await {
                Ok(told) => Some((Ok(event(told)), Some(watching))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(stream.boxed())
    }

    async fn create(&self, kind: &'static Kind, object: Object) -> Result<Arc<Object>, Status> {
        let namespace = object.namespace().to_owned();
        create::create(&self.api, kind, &namespace, object, false).await.map(|entry| entry.object.clone())
    }

    async fn update(
        &self,
        kind: &'static Kind,
        object: Object,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status> {
        let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
        let written = match subresource {
            Some(Subresource::Binding) => update::bind(&self.api, &namespace, &name, &object, false).await?,
            Some(Subresource::Scale) => {
                let current = get::get(&self.api, kind, &namespace, &name).await?;
                let new = scale::set(kind, &current.object, &object)?;
                update::update(&self.api, kind, &namespace, &name, new, None, false).await?
            }
            part => update::update(&self.api, kind, &namespace, &name, object, part, false).await?,
        };
        Ok(written.object.clone())
    }

    async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        document: Patch,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, Status> {
        let patched = patch::patch(&self.api, kind, namespace, name, &document, subresource, false, false).await?;
        Ok(patched.0.object.clone())
    }

    async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), Status> {
        delete::delete(&self.api, kind, namespace, name, &options, false).await.map(drop)
    }
}

fn event(told: Told) -> Event {
    match told {
        Told::Event { event, entry, revision } => Event { kind: event, object: entry.object.clone(), revision },
        Told::Bookmark { revision, .. } => {
            let tree = json!({"metadata": {"resourceVersion": revision.to_string()}});
            let object = tree.as_object().cloned().map(Object).unwrap_or_default();
            Event { kind: EventType::Bookmark, object: Arc::new(object), revision }
        }
    }
}
