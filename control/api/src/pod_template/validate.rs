//! What upstream refuses in a pod spec. Defaults have been filled in before.

use serde_json::Value;

use super::{container, list, text, volume};
use crate::validate::{Check, names};

/// Which restart policies a template may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// A pod of its own: any.
    Any,
    /// Of a Deployment or ReplicaSet: always.
    Always,
}

/// Checks a `PodTemplateSpec` at the check's place.
pub fn template(template: Option<&Value>, check: &mut Check<'_>) {
    let empty = Value::Null;
    let template = template.unwrap_or(&empty);
    let metadata = template.get("metadata").unwrap_or(&empty);
    check.field("metadata").field("labels").labels(metadata.get("labels"));
    spec(template.get("spec").unwrap_or(&empty), Restart::Always, &mut check.field("spec"));
}

/// Checks a `PodSpec` at the check's place.
pub fn spec(spec: &Value, restart: Restart, check: &mut Check<'_>) {
    let volumes = volume::all(spec, &mut check.field("volumes"));
    container::all(spec, &volumes, check);
    if restart == Restart::Always {
        check.field("restartPolicy").one_of(text(spec, "restartPolicy"), &["Always"]);
    } else {
        check.field("restartPolicy").one_of(text(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    }
    check
        .field("dnsPolicy")
        .one_of(text(spec, "dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    check.field("terminationGracePeriodSeconds").non_negative(spec.get("terminationGracePeriodSeconds"));
    if let Some(seconds) = spec.get("activeDeadlineSeconds").and_then(Value::as_i64)
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        check.field("activeDeadlineSeconds").invalid(seconds, "must be between 1 and 2147483647, inclusive");
    }
    check.field("nodeSelector").labels(spec.get("nodeSelector"));
    for field in ["nodeName", "serviceAccountName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            check.field(field).named(name, names::dns_subdomain(name));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            check.field(field).named(name, names::dns_label(name));
        }
    }
    tolerations(spec, &mut check.field("tolerations"));
    for (index, alias) in list(spec, "hostAliases").enumerate() {
        check.field("hostAliases").index(index).field("ip").address(text(alias, "ip"));
        for (at, name) in list(alias, "hostnames").enumerate() {
            let name = name.as_str().unwrap_or_default();
            let mut aliases = check.field("hostAliases");
            aliases.index(index).field("hostnames").index(at).named(name, names::dns_subdomain(name));
        }
    }
    for (index, secret) in list(spec, "imagePullSecrets").enumerate() {
        if text(secret, "name").is_empty() {
            check.field("imagePullSecrets").index(index).field("name").required("");
        }
    }
}

fn tolerations(spec: &Value, check: &mut Check<'_>) {
    for (index, toleration) in list(spec, "tolerations").enumerate() {
        let mut here = check.index(index);
        let (key, operator, value, effect) = (
            text(toleration, "key"),
            text(toleration, "operator"),
            text(toleration, "value"),
            text(toleration, "effect"),
        );
        if !key.is_empty() {
            here.field("key").named(key, names::qualified_name(key));
        } else if operator != "Exists" {
            here.field("operator").invalid(
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        match operator {
            "" | "Equal" => here.field("value").named(value, names::label_value(value)),
            "Exists" if !value.is_empty() => {
                here.field("operator").invalid(toleration.clone(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            other => here.field("operator").one_of(other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            here.field("effect").one_of(effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            here.field("effect").invalid(effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
    }
}
