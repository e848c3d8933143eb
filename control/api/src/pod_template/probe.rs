//! Probes and life-cycle hooks.

use serde_json::Value;

use super::text;
use crate::validate::{Check, names};

/// What a probe or a hook may do.
const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// Checks the probes and hooks of a container, if it may have them.
pub(super) fn all(container: &Value, allowed: bool, check: &mut Check<'_>) {
    if !allowed {
        return;
    }
    if let Some(lifecycle) = container.get("lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.get(name) {
                handler(hook, &HOOK_HANDLERS, &mut check.field("lifecycle").field(name));
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name) else { continue };
        let mut here = check.field(name);
        handler(probe, &PROBE_HANDLERS, &mut here);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            here.field(field).non_negative(probe.get(field));
        }
        let successes = probe.get("successThreshold").and_then(Value::as_i64).unwrap_or(1);
        if name != "readinessProbe" && successes != 1 {
            here.field("successThreshold").invalid(successes, "must be 1");
        }
        match probe.get("terminationGracePeriodSeconds").and_then(Value::as_i64) {
            Some(_) if name == "readinessProbe" => {
                here.field("terminationGracePeriodSeconds")
                    .invalid(probe["terminationGracePeriodSeconds"].clone(), "must not be set for readinessProbes");
            }
            Some(seconds) if seconds <= 0 => {
                here.field("terminationGracePeriodSeconds").invalid(seconds, "must be greater than 0");
            }
            _ => {}
        }
    }
}

fn handler(handler: &Value, kinds: &[&str], check: &mut Check<'_>) {
    let given: Vec<&str> = kinds.iter().copied().filter(|kind| handler.get(kind).is_some()).collect();
    if given.is_empty() {
        check.required("must specify a handler type");
    }
    for extra in given.iter().skip(1) {
        check.field(extra).forbidden("may not specify more than 1 handler type");
    }
    if let Some(exec) = handler.get("exec")
        && exec.get("command").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        check.field("exec").field("command").required("");
    }
    if let Some(http) = handler.get("httpGet") {
        let mut here = check.field("httpGet");
        if text(http, "path").is_empty() {
            here.field("path").required("");
        }
        port(http, &mut here.field("port"));
        here.field("scheme").one_of(text(http, "scheme"), &["HTTP", "HTTPS"]);
    }
    if let Some(tcp) = handler.get("tcpSocket") {
        port(tcp, &mut check.field("tcpSocket").field("port"));
    }
    if let Some(grpc) = handler.get("grpc") {
        let number = grpc.get("port").and_then(Value::as_i64).unwrap_or(0);
        check.field("grpc").field("port").port(number);
    }
}

fn port(holder: &Value, check: &mut Check<'_>) {
    match holder.get("port") {
        Some(Value::String(name)) => check.named(name, names::port_name(name)),
        Some(number) => check.port(number.as_i64().unwrap_or(0)),
        None => check.port(0),
    }
}
