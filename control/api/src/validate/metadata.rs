//! `metadata`, the same for every kind.

use serde_json::Value;

use super::{Check, names};
use crate::kind::{Kind, Naming};
use crate::object::Object;
use crate::pod_template::{list, text};
use crate::status::FieldError;

/// As many bytes as all annotations may have together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What is wrong with the metadata of `new`; `old` is the stored object on an update.
pub fn validate(kind: &Kind, new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "metadata");
    let empty = Value::Null;
    let metadata = new.0.get("metadata").unwrap_or(&empty);
    name(kind, metadata, &mut check);
    match (kind.is_namespaced(), text(metadata, "namespace")) {
        (true, "") => check.field("namespace").required(""),
        (true, namespace) => check.field("namespace").named(namespace, names::dns_label(namespace)),
        (false, "") => {}
        (false, _) => check.field("namespace").forbidden("not allowed on this type"),
    }
    check.field("generation").non_negative(metadata.get("generation"));
    check.field("labels").labels(metadata.get("labels"));
    annotations(metadata.get("annotations"), &mut check.field("annotations"));
    for (index, finalizer) in list(metadata, "finalizers").enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let mut list = check.field("finalizers");
        let mut here = list.index(index);
        here.named(finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            here.invalid(finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    owners(metadata, &mut check.field("ownerReferences"));
    if let Some(old) = old {
        update(metadata, old, &mut check);
    }
}

/// What is wrong with a name of this kind.
pub fn name_of(kind: &Kind, name: &str) -> Vec<String> {
    match kind.naming {
        Naming::Subdomain => names::dns_subdomain(name),
        Naming::Label => names::dns_label(name),
        Naming::Label1035 => names::dns_1035_label(name),
    }
}

fn name(kind: &Kind, metadata: &Value, check: &mut Check<'_>) {
    let (name, prefix) = (text(metadata, "name"), text(metadata, "generateName"));
    if !prefix.is_empty() {
        // What is generated follows, so a dash may stand at the end.
        let probe = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |rest| format!("{rest}a"));
        check.field("generateName").named(prefix, name_of(kind, &probe));
    }
    if name.is_empty() {
        check.field("name").required("name or generateName is required");
    } else {
        check.field("name").named(name, name_of(kind, name));
    }
}

fn annotations(annotations: Option<&Value>, check: &mut Check<'_>) {
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        check.named(key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        check.too_long(MAX_ANNOTATIONS);
    }
}

fn owners(metadata: &Value, check: &mut Check<'_>) {
    let mut controller: Option<&str> = None;
    for (index, owner) in list(metadata, "ownerReferences").enumerate() {
        let mut here = check.index(index);
        if text(owner, "apiVersion").is_empty() {
            here.field("apiVersion").invalid("", "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                here.field(field).invalid("", "must not be empty");
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let name = text(owner, "name");
            if let Some(first) = controller {
                check.invalid(
                    metadata["ownerReferences"].clone(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                );
                return;
            }
            controller = Some(name);
        }
    }
}

fn update(metadata: &Value, old: &Object, check: &mut Check<'_>) {
    let before = |field: &str| old.at(&["metadata", field]);
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        // An absent value takes the stored one.
        if metadata.get(field).is_some_and(|new| before(field) != Some(new)) {
            check.field(field).immutable(metadata.get(field), before(field));
        }
    }
    if let (Some(new), Some(old)) =
        (metadata.get("generation").and_then(Value::as_i64), before("generation").and_then(Value::as_i64))
        && new < old
    {
        check.field("generation").invalid(new, "must not be decremented");
    }
    // Nothing may be added to what is on its way out.
    if old.is_terminating() {
        let has = |finalizer: &Value| {
            before("finalizers").and_then(Value::as_array).is_some_and(|list| list.contains(finalizer))
        };
        let added: Vec<Value> = list(metadata, "finalizers").filter(|one| !has(one)).cloned().collect();
        if !added.is_empty() {
            let added: Vec<String> = added.iter().map(ToString::to_string).collect();
            check.field("finalizers").forbidden(&format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            ));
        }
    }
}
