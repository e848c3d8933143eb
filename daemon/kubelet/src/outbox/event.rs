//! Events: one object per happening; the same happening again counts up in the object that is there.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// A happening is the same one again within this time.
const SAME: SignedDuration = SignedDuration::from_mins(10);
/// Happenings remembered.
const REMEMBERED: usize = 4_096;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

/// Remembers recent events.
#[derive(Debug)]
pub(super) struct Recorder {
    node: String,
    recent: HashMap<(String, String, String, String), Event>,
    serial: u64,
}

impl Recorder {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), recent: HashMap::new(), serial: 0 }
    }

    /// The event to report: a new one, or the one before with a higher count.
    pub(super) fn record(
        &mut self,
        kind: Kind,
        about: ObjectReference,
        reason: &str,
        message: &str,
        now: Timestamp,
    ) -> Event {
        let subject = about.uid.clone().or_else(|| about.name.clone()).unwrap_or_default();
        let part = about.field_path.clone().unwrap_or_default();
        let key = (subject, part, reason.to_owned(), message.to_owned());
        if let Some(event) = self.recent.get_mut(&key) {
            let last = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            if now.duration_since(last) < SAME {
                event.count = Some(event.count.unwrap_or(1) + 1);
                event.last_timestamp = Some(Time(now));
                return event.clone();
            }
        }
        if self.recent.len() >= REMEMBERED {
            self.recent.retain(|_, event| {
                event.last_timestamp.as_ref().is_some_and(|last| now.duration_since(last.0) < SAME / 10)
            });
        }
        self.serial += 1;
        let name = about.name.clone().unwrap_or_default();
        let unique = now.as_nanosecond().unsigned_abs() + u128::from(self.serial);
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{unique:x}")),
                namespace: Some(namespace.unwrap_or_else(|| "default".into())),
                ..Default::default()
            },
            type_: Some(if kind == Kind::Normal { "Normal" } else { "Warning" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            involved_object: about,
            ..Default::default()
        };
        self.recent.insert(key, event.clone());
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_happening_counts_up_and_another_does_not() {
        let mut recorder = Recorder::new("n1");
        let about = ObjectReference { name: Some("p".into()), uid: Some("u".into()), ..Default::default() };
        let now = Timestamp::UNIX_EPOCH;
        let first = recorder.record(Kind::Normal, about.clone(), "Pulled", "a", now);
        let later = now + SignedDuration::from_secs(5);
        let second = recorder.record(Kind::Normal, about.clone(), "Pulled", "a", later);
        assert_eq!(second.metadata.name, first.metadata.name);
        assert_eq!((second.count, second.first_timestamp.map(|t| t.0)), (Some(2), Some(now)));
        let other = recorder.record(Kind::Normal, about.clone(), "Pulled", "b", later);
        assert_ne!(other.metadata.name, first.metadata.name);
        let much_later = later + SignedDuration::from_mins(11);
        assert_eq!(recorder.record(Kind::Normal, about, "Pulled", "a", much_later).count, Some(1));
    }
}
