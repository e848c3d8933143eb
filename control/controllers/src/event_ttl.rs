//! Events go an hour after they were last seen.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairlead_api::registry;
use fairlead_api::status::Status;
use fairlead_informer::{Key, Queue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use crate::r#loop::{Loop, Shared};
use crate::writer::Writer;

const LIFETIME: Duration = Duration::from_secs(3600);

/// Starts the loop.
pub(crate) fn start(shared: &Arc<Shared>) {
    let queue = Arc::new(Queue::default());
    shared.caches.events.on_change({
        let (queue, now) = (queue.clone(), shared.config.now);
        move |change| {
            if let Some(event) = &change.new {
                queue.add_after(change.key.clone(), left(event, now()));
            }
        }
    });
    shared.spawn("event-ttl", 1, queue, EventLoop { shared: shared.clone() });
}

/// How long an event has to live.
fn left(event: &Event, now: Timestamp) -> Duration {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let times = [
        series,
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let last = times.into_iter().flatten().max().unwrap_or(now);
    let age = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    LIFETIME.saturating_sub(age)
}

struct EventLoop {
    shared: Arc<Shared>,
}

#[async_trait]
impl Loop for EventLoop {
    type Key = Key;

    async fn reconcile(&self, key: &Key, writer: &Writer) -> Result<Option<Duration>, Status> {
        let Some(event) = self.shared.caches.events.get(key) else { return Ok(None) };
        match left(&event, self.shared.now()) {
            Duration::ZERO => writer.delete(&registry::EVENT, &event.metadata).await.map(|()| None),
            left => Ok(Some(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_lives_an_hour_from_its_last_sight() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let rows = [
            (json!({"firstTimestamp": "2026-01-01T09:00:00Z", "lastTimestamp": "2026-01-01T11:30:00Z"}), 1800),
            (json!({"lastTimestamp": "2026-01-01T10:59:59Z"}), 0),
            (json!({"eventTime": "2026-01-01T11:59:00.000000Z"}), 3540),
            (json!({"lastTimestamp": "2026-01-01T12:00:30Z"}), 3600),
        ];
        for (event, expected) in rows {
            let mut tree = event.clone();
            tree["metadata"] = json!({});
            tree["involvedObject"] = json!({});
            let typed: Event = serde_json::from_value(tree).unwrap();
            assert_eq!(left(&typed, now).as_secs(), expected, "{event}");
        }
    }
}
