//! What the server writes into metadata.

use fairlead_api::Object;
use jiff::Timestamp;
use serde_json::Value;

/// Characters of generated names: no vowels, nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest base of a generated name.
const BASE: usize = 63 - 5;

/// The time as metadata shows it: whole seconds.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `base` and five random characters.
pub(crate) fn generate_name(base: &str) -> String {
    let mut end = base.len().min(BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let random = *uuid::Uuid::new_v4().as_bytes();
    let suffix = random.iter().take(5).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    base[..end].chars().chain(suffix).collect()
}

/// Fills what a new object gets and takes away what a client may not set.
pub(crate) fn on_create(object: &mut Object, namespace: &str, generation: bool, now: Timestamp) {
    let metadata = object.metadata_mut();
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "resourceVersion"] {
        metadata.remove(field);
    }
    if namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), rfc3339(now).into());
    if generation {
        metadata.insert("generation".into(), 1.into());
    } else {
        metadata.remove("generation");
    }
}

/// Carries over what an update may not change, without complaint where the client left it out.
pub(crate) fn on_update(object: &mut Object, current: &Object) {
    let old = current.0.get("metadata").and_then(Value::as_object);
    let metadata = object.metadata_mut();
    for field in ["selfLink", "managedFields"] {
        metadata.remove(field);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old.and_then(|old| old.get(field)) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// Moves the generation if anything but metadata and status differs.
pub(crate) fn count_generation(object: &mut Object, current: &Object) {
    let relevant = |field: &str| !matches!(field, "metadata" | "status" | "kind" | "apiVersion");
    let differs = object.0.iter().filter(|(field, _)| relevant(field)).any(|(k, v)| current.0.get(k) != Some(v))
        || current.0.keys().any(|field| relevant(field) && !object.0.contains_key(field));
    if differs {
        bump_generation(object);
    }
}

/// Moves the generation.
pub(crate) fn bump_generation(object: &mut Object) {
    let next = object.generation() + 1;
    object.metadata_mut().insert("generation".into(), next.into());
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Object) -> Vec<String> {
    let list = object.at(&["metadata", "finalizers"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Writes `metadata.finalizers`.
pub(crate) fn set_finalizers(object: &mut Object, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        object.metadata_mut().remove("finalizers");
    } else {
        object.metadata_mut().insert("finalizers".into(), finalizers.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_stay_within_a_label() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
        assert_eq!(generate_name("web-").len(), 9);
    }

    #[test]
    fn the_generation_counts_spec_changes_only() {
        let object = |spec: i32, status: i32| {
            let tree = serde_json::json!({"metadata": {"generation": 3}, "spec": {"x": spec}, "status": {"y": status}});
            serde_json::from_value::<Object>(tree).unwrap()
        };
        for (mut new, expected) in [(object(1, 2), 3), (object(2, 1), 4)] {
            count_generation(&mut new, &object(1, 1));
            assert_eq!(new.generation(), expected);
        }
    }
}
