//! Documents that say what is served: versions, groups, resources, schemas; and the health pages.

use axum::body::Body;
use bytes::Bytes;
use fairlead_api::discovery::{self, Aggregated};
use fairlead_api::openapi;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::query::Query;
use crate::http::respond::{self, Answer};
use crate::rest::route::not_served;

/// What the health pages tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    /// The store and the cache are open and the first objects are there.
    pub(crate) ready: bool,
    /// Nobody has asked the server to end.
    pub(crate) serving: bool,
}

/// The document at a path, if it is one. `address` is the server's own, for clients inside the cluster.
pub(crate) fn document(path: &str, query: &Query, headers: &HeaderMap, address: &str) -> Answer {
    let path = path.trim_end_matches('/');
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let tree = match segments[..] {
        ["version"] => discovery::version("unknown", "1970-01-01T00:00:00Z"),
        ["api"] => return Ok(grouped(headers, true, || discovery::api_versions(address))),
        ["apis"] => return Ok(grouped(headers, false, discovery::api_groups)),
        ["api", version] => discovery::api_resources("", version).ok_or_else(not_served)?,
        ["apis", group] => discovery::api_group(group).ok_or_else(not_served)?,
        ["apis", group, version] => discovery::api_resources(group, version).ok_or_else(not_served)?,
        ["openapi", "v2"] => {
            let mut response = schema(openapi::v2(), headers, None);
            let content_type = HeaderValue::from_static(openapi::V2_CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            return Ok(response);
        }
        ["openapi", "v3"] => return Ok(schema(openapi::index(), headers, None)),
        ["openapi", "v3", ref rest @ ..] => {
            let document = openapi::v3(&rest.join("/")).ok_or_else(not_served)?;
            return Ok(schema(document, headers, Some(query.get("hash"))));
        }
        [] | [""] => json!({"paths": paths()}),
        _ => return Err(not_served()),
    };
    Ok(respond::json(StatusCode::OK, &tree))
}

fn paths() -> Vec<String> {
    let fixed = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    let kinds = fairlead_api::registry::all().iter().filter(|kind| !kind.group.is_empty());
    let groups = kinds.flat_map(|kind| [format!("/apis/{}", kind.group), format!("/apis/{}", kind.api_version())]);
    let all: std::collections::BTreeSet<String> = fixed.into_iter().map(str::to_owned).chain(groups).collect();
    all.into_iter().collect()
}

/// `/api` and `/apis`: one document for all groups where the client takes it, else the list of groups.
fn grouped(headers: &HeaderMap, core: bool, plain: impl Fn() -> Value) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(form) = Aggregated::accepted(accept) else {
        return respond::json(StatusCode::OK, &plain());
    };
    let body = Bytes::from(discovery::aggregated(form, core).to_string());
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02X}")).collect();
    let mut response = tagged(headers, &hash, body);
    if let Ok(content_type) = HeaderValue::from_str(&form.content_type()) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// A schema; under the URL that carries its hash it never changes.
fn schema(document: &openapi::Document, headers: &HeaderMap, asked: Option<&str>) -> Response<Body> {
    let mut response = tagged(headers, &document.hash, document.body.clone());
    if asked == Some(document.hash.as_str()) {
        let immutable = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(CACHE_CONTROL, immutable);
    }
    response
}

fn tagged(headers: &HeaderMap, hash: &str, body: Bytes) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
        respond::json_bytes(StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        respond::json_bytes(StatusCode::OK, body)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// `/livez`, `/readyz`, `/healthz`, their single checks, and `?verbose`.
pub(crate) fn health(path: &str, query: &Query, health: Health) -> Option<Answer> {
    let mut segments = path.trim_end_matches('/').split('/').skip(1);
    let page = segments.next().filter(|page| matches!(*page, "livez" | "readyz" | "healthz"))?;
    let mut checks = vec![("ping", true), ("store", health.ready)];
    if page == "readyz" {
        checks.push(("bootstrap", health.ready));
        checks.push(("shutdown", health.serving));
    }
    if let Some(single) = segments.next() {
        let found = checks.into_iter().find(|(name, _)| *name == single);
        return Some(match found {
            Some((_, true)) => Ok(respond::text(StatusCode::OK, "ok")),
            Some((name, false)) => Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{name} failed\n"))),
            None => Err(not_served()),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    checks.retain(|(name, _)| !excluded.contains(name));
    let good = checks.iter().all(|(_, passed)| *passed);
    let lines: String = checks
        .iter()
        .map(
            |(name, passed)| {
                if *passed { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") }
            },
        )
        .collect();
    Some(Ok(match (good, query.flag("verbose")) {
        (true, false) => respond::text(StatusCode::OK, "ok"),
        (true, true) => respond::text(StatusCode::OK, format!("{lines}{page} check passed\n")),
        (false, _) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{page} check failed\n")),
    }))
}
