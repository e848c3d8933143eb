//! Volumes: each has a name of its own and exactly one source.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::subscript;
use super::{list, text};
use crate::validate::{Check, names};

/// Fields of a pod that a downward volume may show, beside labels and annotations.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks the volumes of a pod spec; the names are those that mounts may use.
pub(super) fn all(spec: &Value, check: &mut Check<'_>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").enumerate() {
        let mut here = check.index(index);
        source(volume, &mut here);
        let name = text(volume, "name");
        if name.is_empty() {
            here.field("name").required("");
            continue;
        }
        let wrong = names::dns_label(name);
        let fine = wrong.is_empty();
        here.field("name").named(name, wrong);
        if !fine {
            continue;
        }
        if !found.insert(name.to_owned()) {
            here.field("name").duplicate(name);
        }
    }
    found
}

fn source(volume: &Value, check: &mut Check<'_>) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(field, _)| field).filter(|field| *field != "name").collect();
    if sources.is_empty() {
        check.required("must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        check.field(extra).forbidden("may not specify more than 1 volume type");
    }
    if let Some(path) = volume.get("hostPath") {
        host_path(path, &mut check.field("hostPath"));
    }
    if let Some(secret) = volume.get("secret") {
        named(secret, "secretName", &mut check.field("secret"));
    }
    if let Some(config) = volume.get("configMap") {
        named(config, "name", &mut check.field("configMap"));
    }
    if let Some(claim) = volume.get("persistentVolumeClaim")
        && text(claim, "claimName").is_empty()
    {
        check.field("persistentVolumeClaim").field("claimName").required("");
    }
    if let Some(downward) = volume.get("downwardAPI") {
        let mut here = check.field("downwardAPI");
        mode(downward, "defaultMode", &mut here);
        downward_items(downward, &mut here.field("items"));
    }
    if let Some(projected) = volume.get("projected") {
        let mut here = check.field("projected");
        mode(projected, "defaultMode", &mut here);
        for (index, source) in list(projected, "sources").enumerate() {
            let mut sources = here.field("sources");
            let mut at = sources.index(index);
            for field in ["configMap", "secret"] {
                if let Some(named) = source.get(field) {
                    if text(named, "name").is_empty() {
                        at.field(field).field("name").required("");
                    }
                    key_items(named, &mut at.field(field).field("items"));
                }
            }
            if let Some(downward) = source.get("downwardAPI") {
                downward_items(downward, &mut at.field("downwardAPI").field("items"));
            }
        }
    }
}

fn host_path(source: &Value, check: &mut Check<'_>) {
    let path = text(source, "path");
    if path.is_empty() {
        check.field("path").required("");
    } else if path.split('/').any(|step| step == "..") {
        check.field("path").invalid(path, "must not contain '..'");
    }
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    check.field("type").one_of(text(source, "type"), &types);
}

fn named(source: &Value, field: &str, check: &mut Check<'_>) {
    if text(source, field).is_empty() {
        check.field(field).required("");
    }
    mode(source, "defaultMode", check);
    key_items(source, &mut check.field("items"));
}

fn key_items(source: &Value, check: &mut Check<'_>) {
    for (index, item) in list(source, "items").enumerate() {
        let mut here = check.index(index);
        if text(item, "key").is_empty() {
            here.field("key").required("");
        }
        local_path(text(item, "path"), &mut here.field("path"));
        mode(item, "mode", &mut here);
    }
}

fn downward_items(source: &Value, check: &mut Check<'_>) {
    for (index, item) in list(source, "items").enumerate() {
        let mut here = check.index(index);
        local_path(text(item, "path"), &mut here.field("path"));
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), None) => {
                let path = text(field, "fieldPath");
                let subscripted = matches!(subscript(path), Some(("metadata.labels" | "metadata.annotations", _)));
                if path.is_empty() {
                    here.field("fieldRef").field("fieldPath").required("");
                } else if !subscripted {
                    here.field("fieldRef").field("fieldPath").one_of(path, &FIELDS);
                }
            }
            (None, Some(resource)) => {
                if text(resource, "containerName").is_empty() {
                    here.field("resourceFieldRef").field("containerName").required("");
                }
            }
            (Some(_), Some(_)) => {
                here.invalid("resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
            (None, None) => here.field("fieldRef").required("one of fieldRef and resourceFieldRef is required"),
        }
    }
}

/// A path inside the volume.
fn local_path(path: &str, check: &mut Check<'_>) {
    if path.is_empty() {
        check.required("");
    } else if path.starts_with('/') {
        check.invalid(path, "must be a relative path");
    } else if path.split('/').any(|step| step == "..") {
        check.invalid(path, "must not contain '..'");
    } else if path.starts_with("..") {
        check.invalid(path, "must not start with '..'");
    }
}

fn mode(source: &Value, field: &str, check: &mut Check<'_>) {
    if let Some(mode) = source.get(field).and_then(Value::as_i64)
        && !(0..=0o777).contains(&mode)
    {
        check.field(field).invalid(mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
