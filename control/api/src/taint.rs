//! Which tolerations bear which taints: the one rule that scheduler and eviction share.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// True if the toleration bears the taint. An empty effect or key of the toleration stands for any.
pub fn bears(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let value_of_taint = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((value_of_taint.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "Equal" | "" => value == value_of_taint,
        "Gt" => numbers().is_some_and(|(has, bound)| has > bound),
        "Lt" => numbers().is_some_and(|(has, bound)| has < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_against_one_taint() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "7", "effect": "NoExecute"})).unwrap();
        let rows = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "k", "value": "7"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "8"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "6"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "6"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "six"}), false),
        ];
        for (toleration, expected) in rows {
            let typed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(bears(&typed, &taint), expected, "{toleration}");
        }
    }
}
