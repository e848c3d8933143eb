//! Defaults of a pod spec, field by field as upstream sets them, so that `apply` and `diff` settle.

use serde_json::{Map, Value, json};

use super::{CONTAINER_FIELDS, default_pull_policy};
use crate::defaults::{is_unset, items, object, section, set};

/// Fills a pod spec; the same in a pod and in a template.
pub fn spec(spec: &mut Map<String, Value>) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "securityContext", Map::new());
    // The deprecated field mirrors the other one.
    match (is_unset(spec, "serviceAccountName"), is_unset(spec, "serviceAccount")) {
        (false, _) => {
            let name = spec["serviceAccountName"].clone();
            spec.insert("serviceAccount".to_owned(), name);
        }
        (true, false) => {
            let name = spec["serviceAccount"].clone();
            spec.insert("serviceAccountName".to_owned(), name);
        }
        (true, true) => {}
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in CONTAINER_FIELDS {
        for one in items(spec, field) {
            container(one, host_network);
        }
    }
    for one in items(spec, "volumes") {
        volume(one);
    }
}

/// What a pod gets beyond its spec's defaults, and a template does not.
pub fn pod_only(spec: &mut Map<String, Value>) {
    set(spec, "enableServiceLinks", true);
    for field in ["initContainers", "containers"] {
        for one in items(spec, field) {
            requests_from_limits(one);
        }
    }
}

fn container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    set(container, "imagePullPolicy", default_pull_policy(&image));
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", Map::new());
    for port in items(container, "ports") {
        set(port, "protocol", "TCP");
        if host_network && is_unset(port, "hostPort") {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            port.insert("hostPort".to_owned(), number);
        }
    }
    for env in items(container, "env") {
        if let Some(source) = object(env, "valueFrom") {
            field_ref(source);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, name) {
            set(probe, "timeoutSeconds", 1);
            set(probe, "periodSeconds", 10);
            set(probe, "successThreshold", 1);
            set(probe, "failureThreshold", 3);
            // Zero is as good as unset for these: Go cannot tell them apart.
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                if probe.get(field).and_then(Value::as_i64) == Some(0) {
                    probe.insert(field.to_owned(), value.into());
                }
            }
            handler(probe);
            if let Some(grpc) = object(probe, "grpc")
                && !grpc.contains_key("service")
            {
                grpc.insert("service".to_owned(), "".into());
            }
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle, name) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Map<String, Value>) {
    if let Some(http) = object(handler, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
}

fn field_ref(source: &mut Map<String, Value>) {
    if let Some(field) = object(source, "fieldRef") {
        set(field, "apiVersion", "v1");
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let resources = section(container, "resources");
    let Some(limits) = object(resources, "limits").map(|limits| limits.clone()) else { return };
    if limits.is_empty() {
        return;
    }
    let requests = section(resources, "requests");
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|field| field == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, source) {
            set(source, "defaultMode", 0o644);
        }
    }
    if let Some(downward) = object(volume, "downwardAPI") {
        items(downward, "items").for_each(field_ref);
    }
    if let Some(projected) = object(volume, "projected") {
        for source in items(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object(source, "downwardAPI") {
                items(downward, "items").for_each(field_ref);
            }
        }
    }
    if let Some(path) = object(volume, "hostPath") {
        path.entry("type").or_insert_with(|| "".into());
    }
    if let Some(image) = object(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default().to_owned();
        set(image, "pullPolicy", default_pull_policy(&reference));
    }
}
