//! Get.

use std::sync::Arc;

use fairlead_api::{Kind, Status};

use crate::api::Api;
use crate::cache::Entry;

/// The object, as of now or later.
pub(crate) async fn get(api: &Api, kind: &'static Kind, namespace: &str, name: &str) -> Result<Arc<Entry>, Status> {
    api.cache.fresh().await?;
    api.cache.get(kind, namespace, name).ok_or_else(|| Status::not_found(kind.plural, kind.group, name))
}
