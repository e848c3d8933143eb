//! Failures of the layers below as the API shows them; the internal detail goes to the log.

use fairlead_api::{Reason, Status};
use fairlead_store::StoreError;

/// What a client is told of a failure of the store.
pub(crate) fn from_store(error: StoreError) -> Status {
    match error {
        StoreError::Expired { asked, oldest } => crate::cache::expired(asked.get(), oldest.get()),
        StoreError::Future { asked, latest } => too_large(asked.get(), latest.get()),
        StoreError::Closed => Status::new(Reason::ServiceUnavailable, "the server is shutting down"),
        error @ StoreError::Full { .. } => Status::internal(error.to_string()),
        error => {
            tracing::error!(%error, "the store failed");
            Status::internal("the store failed, see the log of fairlead-control")
        }
    }
}

/// A revision that has not happened yet.
pub(crate) fn too_large(asked: u64, current: u64) -> Status {
    let mut status = Status::new(Reason::Timeout, format!("Too large resource version: {asked}, current: {current}"));
    status.details = Some(Box::new(fairlead_api::status::Details { retry_after: 1, ..Default::default() }));
    status
}
