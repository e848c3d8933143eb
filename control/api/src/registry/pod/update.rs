//! What of a pod may change once it is there: very little.

use serde_json::{Map, Value};

use crate::pod_template::{CONTAINER_FIELDS, list};
use crate::validate::Check;

const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";

/// Compares two specs at the check's place, `spec`.
pub(super) fn validate(new: &Value, old: &Value, check: &mut Check<'_>) {
    for field in ["containers", "initContainers"] {
        if list(new, field).count() != list(old, field).count() {
            check.forbidden("pod updates may not add or remove containers");
            return;
        }
    }
    deadline(new, old, check);
    tolerations(new, old, check);
    gates(new, old, check);
    // What may change is taken out of both; the rest must agree.
    let (mut new, mut old) = (without_mutable(new), without_mutable(old));
    let negative = |spec: &Map<String, Value>| {
        spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0)
    };
    if negative(&old) && new.get("terminationGracePeriodSeconds") == Some(&1.into()) {
        old.remove("terminationGracePeriodSeconds");
        new.remove("terminationGracePeriodSeconds");
    }
    if new != old {
        check.forbidden(&format!("{WHY}\n{}", difference(&new, &old)));
    }
}

fn without_mutable(spec: &Value) -> Map<String, Value> {
    let mut spec = spec.as_object().cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove(field);
    }
    for field in CONTAINER_FIELDS {
        for container in crate::defaults::items(&mut spec, field) {
            container.remove("image");
        }
    }
    spec
}

/// It may be set, and then only come nearer.
fn deadline(new: &Value, old: &Value, check: &mut Check<'_>) {
    let seconds = |spec: &Value| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    let mut here = check.field("activeDeadlineSeconds");
    match (seconds(new), seconds(old)) {
        (Some(new), Some(old)) if new > old => {
            here.invalid(new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => here.invalid(Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

/// They may be added to; of those there, only the seconds may change.
fn tolerations(new: &Value, old: &Value, check: &mut Check<'_>) {
    let plain = |toleration: &Value| {
        let mut plain = toleration.as_object().cloned().unwrap_or_default();
        plain.remove("tolerationSeconds");
        plain
    };
    let now: Vec<Map<String, Value>> = list(new, "tolerations").map(plain).collect();
    if list(old, "tolerations").map(plain).any(|one| !now.contains(&one)) {
        check.field("tolerations").forbidden("existing toleration can not be modified except its tolerationSeconds");
    }
}

/// They may only be removed.
fn gates(new: &Value, old: &Value, check: &mut Check<'_>) {
    let had: Vec<&Value> = list(old, "schedulingGates").collect();
    if list(new, "schedulingGates").any(|gate| !had.contains(&gate)) {
        check.field("schedulingGates").forbidden("only deletion is allowed, but found new scheduling gate(s)");
    }
}

/// The fields that differ, old value first.
fn difference(new: &Map<String, Value>, old: &Map<String, Value>) -> String {
    let fields: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let mut lines = Vec::new();
    for field in fields.into_iter().filter(|field| new.get(*field) != old.get(*field)) {
        lines.extend(old.get(field).map(|value| format!("- \t{field}: {value}")));
        lines.extend(new.get(field).map(|value| format!("+ \t{field}: {value}")));
    }
    lines.join("\n")
}
