//! Secret: keys and base64 values; `stringData` is folded in when it is written.

use k8s_openapi::api::core::v1::Secret;

use super::config_map;
use crate::defaults;
use crate::kind::{Kind, Naming, Scope};
use crate::object::Object;
use crate::status::FieldError;
use crate::table::cells;
use crate::validate::{Check, IMMUTABLE, names};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// core/v1 Secret.
pub static SECRET: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    naming: Naming::Subdomain,
    subresources: &[],
    connects: &[],
    schema: "io.k8s.api.core.v1.Secret",
    types: super::types::<Secret>,
    generation: false,
    default,
    validate,
    selectable: &[("type", &["type"])],
    columns: &[
        cells::NAME,
        cells::text("Type", "What the secret is for.", |object, _| object.str_at(&["type"]).into()),
        cells::integer("Data", "Number of entries.", |object, _| cells::count(object, &["data"]).into()),
        cells::AGE,
    ],
};

fn default(object: &mut Object) {
    if let Some(Value::Object(texts)) = object.0.remove("stringData")
        && !texts.is_empty()
    {
        let data = object.section_mut("data");
        for (key, value) in texts {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }
    defaults::set(&mut object.0, "type", "Opaque");
}

fn validate(new: &Object, old: Option<&Object>, errors: &mut Vec<FieldError>) {
    let mut check = Check::new(errors, "");
    let empty = Map::new();
    let data = new.at(&["data"]).and_then(Value::as_object).unwrap_or(&empty);
    let mut size = 0;
    for (key, value) in data {
        check.field("data").key(key).named(key, names::config_key(key));
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if size > config_map::MAX_SIZE {
        check.field("data").too_long(config_map::MAX_SIZE);
    }
    for key in required_keys(new.str_at(&["type"])) {
        if !data.contains_key(*key) {
            check.field("data").key(key).required("");
        }
    }
    basic_auth(new, data, &mut check);
    if new.str_at(&["type"]) == "kubernetes.io/service-account-token"
        && new.annotation("kubernetes.io/service-account.name").unwrap_or_default().is_empty()
    {
        check.field("metadata").field("annotations").key("kubernetes.io/service-account.name").required("");
    }
    if let Some(old) = old {
        if old.str_at(&["type"]) != new.str_at(&["type"]) {
            check.field("type").invalid(new.str_at(&["type"]), IMMUTABLE);
        }
        config_map::immutable(new, old, &["data"], &mut check);
    }
}

/// Keys that a type of secret must have.
fn required_keys(secret_type: &str) -> &'static [&'static str] {
    match secret_type {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    }
}

/// Basic authentication needs one of its two keys.
fn basic_auth(new: &Object, data: &Map<String, Value>, check: &mut Check<'_>) {
    let keys = ["username", "password"];
    if new.str_at(&["type"]) == "kubernetes.io/basic-auth" && !keys.iter().any(|key| data.contains_key(*key)) {
        for key in keys {
            check.field("data").key(key).required("");
        }
    }
}
