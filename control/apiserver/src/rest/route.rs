//! From a request for a resource to its verb, and from the verb's answer to a response.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use fairlead_api::client::Patch;
use fairlead_api::kind::Subresource;
use fairlead_api::{Kind, Object, Reason, Status, decode, registry, scale};
use http::header::{HeaderValue, WARNING};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::delete::Deleted;
use super::options::{self, FieldValidation, ListOptions, WatchOptions, dry_run};
use super::render::{self, Form};
use super::{create, delete, get, list, patch, update, watch};
use crate::api::Api;
use crate::cache::Entry;
use crate::http::body;
use crate::http::query::Query;
use crate::http::request::{ResourceTarget, Verb};
use crate::http::respond::{self, Answer};

/// Watches without a timeout of their own end after this and a random part of it more, so that clients spread.
const WATCH_SECONDS: u64 = 1800;
/// A quiet watch that wants bookmarks gets one this often.
const BOOKMARK: Duration = Duration::from_secs(60);

/// A request for a resource, read and authorized.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) api: &'a Arc<Api>,
    pub(crate) kind: &'static Kind,
    pub(crate) verb: Verb,
    pub(crate) target: &'a ResourceTarget,
    pub(crate) query: &'a Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

/// The kind of a target, or the 404 of a path that leads nowhere.
pub(crate) fn kind(target: &ResourceTarget) -> Result<&'static Kind, Status> {
    let kind = registry::by_plural(&target.group, &target.version, &target.plural);
    let misplaced = |kind: &&'static Kind| {
        (!kind.is_namespaced() && !target.namespace.is_empty())
            || (kind.is_namespaced() && target.namespace.is_empty() && !target.name.is_empty())
    };
    kind.filter(|kind| !misplaced(kind)).ok_or_else(not_served)
}

/// 404 without an object.
pub(crate) fn not_served() -> Status {
    Status::new(Reason::NotFound, "the server could not find the requested resource")
}

impl Call<'_> {
    /// Performs the verb.
    pub(crate) async fn answer(self) -> Answer {
        let part = match self.target.subresource.as_str() {
            "" => None,
            name => {
                let part = Subresource::parse(name).filter(|part| self.kind.has(*part)).ok_or_else(not_served)?;
                Some(part)
            }
        };
        match (self.verb, part) {
            (Verb::Get, part) => self.get(part).await,
            (Verb::List, None) => self.list().await,
            (Verb::Watch, None) => self.watch().await,
            (Verb::Create, None) => self.create().await,
            (Verb::Create, Some(Subresource::Binding)) => self.bind().await,
            (Verb::Update | Verb::Patch, _) if self.target.name.is_empty() => Err(options::not_allowed()),
            (Verb::Update, part) => self.update(part).await,
            (Verb::Patch, part) => self.patch(part).await,
            (Verb::Delete, None) => self.delete().await,
            (Verb::DeleteCollection, None) => self.delete_collection().await,
            _ => Err(options::not_allowed()),
        }
    }

    fn place(&self) -> (&str, &str) {
        (&self.target.namespace, &self.target.name)
    }

    async fn get(&self, part: Option<Subresource>) -> Answer {
        let (namespace, name) = self.place();
        let entry = get::get(self.api, self.kind, namespace, name).await?;
        self.shown(StatusCode::OK, part, &entry)
    }

    async fn list(&self) -> Answer {
        let options = ListOptions::parse(self.kind, self.query)?;
        let form = Form::of(self.headers, self.query)?;
        let listed = list::list(self.api, self.kind, &self.target.namespace, &options).await?;
        Ok(respond::json_bytes(StatusCode::OK, render::list(self.kind, form, &listed)))
    }

    async fn watch(&self) -> Answer {
        let (namespace, name) = self.place();
        let options = WatchOptions::parse(self.kind, self.query, name)?;
        let form = Form::of(self.headers, self.query)?;
        let seconds = options.timeout_seconds.filter(|seconds| *seconds > 0);
        let spread = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * WATCH_SECONDS / 256;
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds.unwrap_or(WATCH_SECONDS + spread));
        let watching = watch::watch(self.api, self.kind, namespace, &options).await;
        let shutdown = self.api.shutdown.clone();
        let lines = Lines { kind: self.kind, form, bookmarks: options.bookmarks, end, shutdown };
        Ok(lines.response(watching))
    }

    async fn create(&self) -> Answer {
        if !self.target.name.is_empty() {
            return Err(options::not_allowed());
        }
        let (object, warnings) = self.decode()?;
        let dry_run = dry_run(self.query)?;
        let entry = create::create(self.api, self.kind, &self.target.namespace, object, dry_run).await?;
        Ok(warned(self.shown(StatusCode::CREATED, None, &entry)?, &warnings))
    }

    async fn bind(&self) -> Answer {
        let tree = body::tree(self.headers, &self.body)?;
        let Value::Object(map) = tree else { return Err(Status::bad_request("a binding is a JSON object")) };
        let (namespace, name) = self.place();
        update::bind(self.api, namespace, name, &Object(map), dry_run(self.query)?).await?;
        Ok(respond::json(StatusCode::CREATED, &success(None)))
    }

    async fn update(&self, part: Option<Subresource>) -> Answer {
        let (namespace, name) = self.place();
        let dry_run = dry_run(self.query)?;
        let (new, warnings, write) = match part {
            Some(Subresource::Binding) => return Err(options::not_allowed()),
            Some(Subresource::Scale) => {
                let wanted = scale::decode(body::tree(self.headers, &self.body)?)?;
                let current = get::get(self.api, self.kind, namespace, name).await?;
                let new = scale::set(self.kind, &current.object, &wanted.object)?;
                (new, wanted.problems, None)
            }
            part => {
                let (object, warnings) = self.decode()?;
                (object, warnings, part)
            }
        };
        let entry = update::update(self.api, self.kind, namespace, name, new, write, dry_run).await?;
        Ok(warned(self.shown(StatusCode::OK, part, &entry)?, &warnings))
    }

    async fn patch(&self, part: Option<Subresource>) -> Answer {
        let media_type = body::media_type(self.headers);
        let parse = || {
            let parsed = decode::parse(&self.body, decode::Format::Json);
            parsed.map(|(tree, _)| tree).map_err(|why| Status::bad_request(format!("cannot read the patch: {why}")))
        };
        let document = match media_type {
            "application/json-patch+json" => Patch::Json(parse()?),
            "application/merge-patch+json" => Patch::Merge(parse()?),
            "application/strategic-merge-patch+json" => Patch::Strategic(parse()?),
            other => {
                let hint = match other {
                    "application/apply-patch+yaml" => ": server-side apply is not served yet, use client-side apply",
                    _ => "",
                };
                let why = format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json (got {other}{hint})"
                );
                return Err(Status::new(Reason::UnsupportedMediaType, why));
            }
        };
        if part == Some(Subresource::Binding) {
            return Err(options::not_allowed());
        }
        let validation = FieldValidation::parse(self.query)?;
        let (namespace, name) = self.place();
        let strict = validation == FieldValidation::Strict;
        let dry_run = dry_run(self.query)?;
        let (entry, unknown) =
            patch::patch(self.api, self.kind, namespace, name, &document, part, strict, dry_run).await?;
        let warnings = if validation == FieldValidation::Warn { unknown } else { Vec::new() };
        Ok(warned(self.shown(StatusCode::OK, part, &entry)?, &warnings))
    }

    async fn delete(&self) -> Answer {
        let (options, dry_run) = self.delete_options()?;
        let (namespace, name) = self.place();
        match delete::delete(self.api, self.kind, namespace, name, &options, dry_run).await? {
            // Upstream answers with the pod itself, also when it is gone at once.
            Deleted::Gone(entry) if self.kind.kind == "Pod" => self.shown(StatusCode::OK, None, &entry),
            Deleted::Gone(entry) => {
                let details = json!({
                    "name": name, "group": self.kind.group, "kind": self.kind.plural, "uid": entry.object.uid(),
                });
                Ok(respond::json(StatusCode::OK, &success(Some(details))))
            }
            Deleted::Marked(entry) => self.shown(StatusCode::OK, None, &entry),
        }
    }

    async fn delete_collection(&self) -> Answer {
        let (options, dry_run) = self.delete_options()?;
        let list_options = ListOptions::parse(self.kind, self.query)?;
        let form = Form::of(self.headers, self.query)?;
        let listed = list::list(self.api, self.kind, &self.target.namespace, &list_options).await?;
        for entry in &listed.entries {
            let (namespace, name) = (entry.object.namespace(), entry.object.name());
            match delete::delete(self.api, self.kind, namespace, name, &options, dry_run).await {
                Err(status) if !status.is(Reason::NotFound) => return Err(status),
                _ => {}
            }
        }
        Ok(respond::json_bytes(StatusCode::OK, render::list(self.kind, form, &listed)))
    }

    fn delete_options(&self) -> Result<(fairlead_api::client::DeleteOptions, bool), Status> {
        let body = if self.body.is_empty() { None } else { Some(body::tree(self.headers, &self.body)?) };
        options::delete(self.query, body.as_ref())
    }

    /// The object of the body, and the warnings that go with it.
    fn decode(&self) -> Result<(Object, Vec<String>), Status> {
        let validation = FieldValidation::parse(self.query)?;
        let decoded = body::object(self.kind, self.headers, &self.body)?;
        match validation {
            FieldValidation::Ignore => Ok((decoded.object, Vec::new())),
            FieldValidation::Warn => Ok((decoded.object, decoded.problems)),
            FieldValidation::Strict => decoded.strict(self.kind).map(|object| (object, Vec::new())),
        }
    }

    fn shown(&self, code: StatusCode, part: Option<Subresource>, entry: &Arc<Entry>) -> Answer {
        if part == Some(Subresource::Scale) {
            let scale = scale::get(self.kind, &entry.object).ok_or_else(not_served)?;
            return Ok(respond::json(code, &Value::Object(scale.0)));
        }
        let form = Form::of(self.headers, self.query)?;
        Ok(respond::json_bytes(code, render::object(self.kind, form, entry)))
    }
}

/// `Status` of a success.
fn success(details: Option<Value>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details;
    }
    status
}

/// Adds `Warning: 299` headers.
fn warned(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// The lines of a watch as a response body.
struct Lines {
    kind: &'static Kind,
    form: Form,
    bookmarks: bool,
    end: tokio::time::Instant,
    shutdown: CancellationToken,
}

impl Lines {
    fn response(self, watching: Result<watch::Watching, Status>) -> Response<Body> {
        let state = Some((self, watching));
        let lines = futures::stream::unfold(state, |state| async move {
            let (lines, watching) = state?;
            let mut watching = match watching {
                Ok(watching) => watching,
                // Too late for another status code: the failure is the watch's only event.
                Err(status) => return Some((Ok::<_, std::convert::Infallible>(render::error_event(&status)), None)),
            };
            match lines.next(&mut watching).await? {
                Ok(line) => Some((Ok(line), Some((lines, Ok(watching))))),
                Err(status) => Some((Ok(render::error_event(&status)), None)),
            }
        });
        let mut response = Response::new(Body::from_stream(lines));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    }

    async fn next(&self, watching: &mut watch::Watching) -> Option<Result<Bytes, Status>> {
        let told = tokio::select! {
            biased;
            told = watching.next() => told,
            () = tokio::time::sleep_until(self.end) => return None,
            () = self.shutdown.cancelled() => return None,
            () = tokio::time::sleep(BOOKMARK), if self.bookmarks => watching.bookmark(),
        };
        Some(told.map(|told| render::event(self.kind, self.form, &told)))
    }
}
