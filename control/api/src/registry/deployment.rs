//! Deployment: replica sets that follow each other.

use k8s_openapi::api::apps::v1::Deployment;

use super::workload;
use crate::defaults;
use crate::intstr::IntOrString;
use crate::kind::{Kind, Naming, Scope, Subresource};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::Check;
use serde_json::{Map, Value};

/// apps/v1 Deployment.
pub static DEPLOYMENT: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[Subresource::Status, Subresource::Scale],
    connects: &[],
    schema: "io.k8s.api.apps.v1.Deployment",
    types: super::types::<Deployment>,
    generation: true,
    default,
    validate,
    selectable: &[],
    columns: &[
        cells::NAME,
        cells::text("Ready", "How many pods are ready, of how many.", |object, _| {
            let number = |path: &[&str]| cells::number(object, path);
            format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"])).into()
        }),
        cells::integer("Up-to-date", "How many pods have the present template.", |object, _| {
            cells::number(object, &["status", "updatedReplicas"])
        }),
        cells::integer("Available", "How many pods are available.", |object, _| {
            cells::number(object, &["status", "availableReplicas"])
        }),
        cells::AGE,
        cells::wide("Containers", "Names of the template's containers.", |object, _| cells::containers(object, "name")),
        cells::wide("Images", "Images of the template's containers.", |object, _| cells::containers(object, "image")),
        cells::wide("Selector", "Which pods belong to it.", |object, _| cells::selector(object, &["spec", "selector"])),
    ],
};

fn default(object: &mut Object) {
    workload::default_replicas(object);
    let spec = object.section_mut("spec");
    let strategy = defaults::section(spec, "strategy");
    defaults::set(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let rolling = defaults::section(strategy, "rollingUpdate");
        defaults::set(rolling, "maxUnavailable", "25%");
        defaults::set(rolling, "maxSurge", "25%");
    }
    defaults::set(spec, "revisionHistoryLimit", 10);
    defaults::set(spec, "progressDeadlineSeconds", 600);
}

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "spec");
    workload::validate(new, old, "empty selector is invalid for deployment", &mut check);
    let empty = Map::new();
    let spec = new.at(&["spec"]).and_then(Value::as_object).unwrap_or(&empty);
    strategy(spec.get("strategy"), &mut check.field("strategy"));
    check.field("revisionHistoryLimit").non_negative(spec.get("revisionHistoryLimit"));
    if let Some(deadline) = spec.get("progressDeadlineSeconds").and_then(Value::as_i64) {
        let ready = spec.get("minReadySeconds").and_then(Value::as_i64).unwrap_or(0);
        check.field("progressDeadlineSeconds").non_negative(spec.get("progressDeadlineSeconds"));
        if deadline <= ready {
            check.field("progressDeadlineSeconds").invalid(deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: Option<&Value>, check: &mut Check<'_>) {
    let Some(strategy) = strategy else { return };
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").and_then(Value::as_str).unwrap_or_default() {
        "Recreate" => {
            if rolling.is_some() {
                check.field("rollingUpdate").forbidden("may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = rolling else {
                return check.field("rollingUpdate").required("this should be defaulted and never be nil");
            };
            let mut here = check.field("rollingUpdate");
            let mut zero = true;
            for field in ["maxUnavailable", "maxSurge"] {
                let Some(value) = rolling.get(field).and_then(IntOrString::from_json) else { continue };
                match value.scaled(100, true) {
                    Some(number) if number < 0 => {
                        here.field(field).invalid(number, crate::validate::NON_NEGATIVE);
                    }
                    Some(number) => {
                        zero &= number == 0;
                        if field == "maxUnavailable" && value.percent().is_some_and(|percent| percent > 100) {
                            here.field(field).invalid(rolling[field].clone(), "must not be greater than 100%");
                        }
                    }
                    None => {
                        zero = false;
                        let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. \
                                   '1%',  or '93%', regex used for validation is '[0-9]+%')";
                        here.field(field).invalid(rolling[field].clone(), why);
                    }
                }
            }
            if zero {
                here.field("maxUnavailable").invalid(
                    rolling.get("maxUnavailable").cloned().unwrap_or_default(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        other => check.field("type").one_of(other, &["Recreate", "RollingUpdate"]),
    }
}
