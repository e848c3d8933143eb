//! What Deployment and ReplicaSet have in common: a number, a selector and a template.

use serde_json::{Map, Value};

use crate::defaults;
use crate::object::Object;
use crate::pod_template;
use crate::selector::Selector;
use crate::validate::{Check, IMMUTABLE};

/// One replica unless said otherwise, and the template's own defaults.
pub(super) fn default_replicas(object: &mut Object) {
    let spec = object.section_mut("spec");
    defaults::set(spec, "replicas", 1);
    let template = defaults::section(spec, "template");
    pod_template::defaults::spec(defaults::section(template, "spec"));
}

/// Checks the spec; `empty` is what upstream says of a selector that selects everything.
pub(super) fn validate(new: &Object, old: Option<&Object>, empty: &str, check: &mut Check<'_>) {
    let nothing = Map::new();
    let spec = new.at(&["spec"]).and_then(Value::as_object).unwrap_or(&nothing);
    check.field("replicas").non_negative(spec.get("replicas"));
    check.field("minReadySeconds").non_negative(spec.get("minReadySeconds"));
    selector(spec, empty, check);
    pod_template::validate::template(spec.get("template"), &mut check.field("template"));
    if let Some(old) = old {
        let (new, old) = (spec.get("selector"), old.at(&["spec", "selector"]));
        if new != old {
            check.field("selector").invalid(new.cloned().unwrap_or_default(), IMMUTABLE);
        }
    }
}

fn selector(spec: &Map<String, Value>, empty: &str, check: &mut Check<'_>) {
    let Some(json) = spec.get("selector") else { return check.field("selector").required("") };
    check.field("selector").label_selector(Some(json));
    let selector = match Selector::from_label_selector(Some(json)) {
        Ok(Some(selector)) => selector,
        Ok(None) => return check.field("selector").required(""),
        Err(_) => return check.field("selector").invalid(json.clone(), "invalid label selector"),
    };
    if selector.is_everything() {
        return check.field("selector").invalid(json.clone(), empty);
    }
    let template = spec.get("template");
    let labels = template.and_then(|template| template.get("metadata")?.get("labels")?.as_object());
    let nothing = Map::new();
    let labels = labels.unwrap_or(&nothing);
    if !selector.labels.iter().all(|requirement| requirement.matches(labels)) {
        let mut template = check.field("template");
        let mut metadata = template.field("metadata");
        metadata.field("labels").invalid(labels.clone(), "`selector` does not match template `labels`");
    }
}
