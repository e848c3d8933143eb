//! Options of list, watch, write and delete, as queries and bodies carry them.

use fairlead_api::client::{DeleteOptions, Propagation};
use fairlead_api::selector::Selector;
use fairlead_api::status::FieldError;
use fairlead_api::{Kind, Reason, Status};
use serde_json::Value;

use crate::http::query::Query;

/// How a list relates to the revision it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Everything acknowledged so far.
    Latest,
    /// At this revision or any later one.
    NotOlderThan(u64),
    /// At this very revision.
    Exact(u64),
}

/// Of a list.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) selector: Selector,
    pub(crate) at: Match,
    /// 0 for no limit.
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
}

/// Of a watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchOptions {
    pub(crate) selector: Selector,
    /// Events after this revision; `None` or 0 begins with the present objects.
    pub(crate) after: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

/// How unknown fields are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

fn invalid(field: &str, message: &str) -> Status {
    Status::invalid("ListOptions", "meta.k8s.io", "", vec![FieldError::forbidden(field, message)])
}

fn revision(query: &Query) -> Result<Option<u64>, Status> {
    let text = query.get("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        let error = FieldError::invalid("resourceVersion", text, &why);
        Status::invalid("ListOptions", "meta.k8s.io", "", vec![error])
    })
}

fn selector(kind: &Kind, query: &Query, name: &str) -> Result<Selector, Status> {
    let mut fields = query.get("fieldSelector").to_owned();
    if !name.is_empty() {
        let own = format!("metadata.name={name}");
        fields = if fields.is_empty() { own } else { format!("{fields},{own}") };
    }
    Selector::parse(kind, query.get("labelSelector"), &fields)
}

impl ListOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Status> {
        let named = revision(query)?;
        let continue_token = query.get("continue").to_owned();
        let matching = query.get("resourceVersionMatch");
        if !query.get("sendInitialEvents").is_empty() {
            return Err(invalid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if !matching.is_empty() && named.is_none() {
            return Err(invalid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !continue_token.is_empty() && (!matching.is_empty() || named.is_some_and(|revision| revision > 0)) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let limit: i64 = query.number("limit")?.unwrap_or(0);
        let at = match (named, matching) {
            (None, _) => Match::Latest,
            (Some(0), "Exact") => {
                return Err(invalid(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some(revision), "Exact") => Match::Exact(revision),
            // Without a word on it, a page of a named revision is exact, a whole list is at least as new.
            (Some(revision), "") if limit > 0 && revision > 0 => Match::Exact(revision),
            (Some(revision), "" | "NotOlderThan") => Match::NotOlderThan(revision),
            (Some(_), other) => {
                let error = FieldError::not_supported("resourceVersionMatch", other, &["Exact", "NotOlderThan"]);
                return Err(Status::invalid("ListOptions", "meta.k8s.io", "", vec![error]));
            }
        };
        let limit = usize::try_from(limit).map_err(|_| Status::bad_request("limit must not be negative"))?;
        Ok(Self { selector: selector(kind, query, "")?, at, limit, continue_token })
    }
}

impl WatchOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query, name: &str) -> Result<Self, Status> {
        let initial = query.get("sendInitialEvents");
        let matching = query.get("resourceVersionMatch");
        if !initial.is_empty() && matching != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid("resourceVersionMatch", why));
        }
        if initial.is_empty() && !matching.is_empty() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid("resourceVersionMatch", why));
        }
        Ok(Self {
            selector: selector(kind, query, name)?,
            after: revision(query)?,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: initial == "true" || initial == "1",
            timeout_seconds: query.number("timeoutSeconds")?,
        })
    }
}

impl FieldValidation {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        match query.get("fieldValidation") {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"])),
        }
    }
}

/// `dryRun=All`.
pub(crate) fn dry_run(query: &Query) -> Result<bool, Status> {
    let mut asked = false;
    for value in query.all("dryRun") {
        match value {
            "All" => asked = true,
            "" => {}
            other => return Err(unsupported("dryRun", other, &["All"])),
        }
    }
    Ok(asked)
}

fn unsupported(field: &'static str, value: &str, supported: &[&str]) -> Status {
    let error = FieldError::not_supported(field, value, supported);
    Status::invalid("Options", "meta.k8s.io", "", vec![error])
}

/// Options of a delete: from the body if there is one, else from the query. The flag is dry run.
pub(crate) fn delete(query: &Query, body: Option<&Value>) -> Result<(DeleteOptions, bool), Status> {
    let text = |field: &str| match body {
        Some(body) => body[field].as_str().unwrap_or_default().to_owned(),
        None => query.get(field).to_owned(),
    };
    let grace = match body {
        Some(body) => body["gracePeriodSeconds"].as_i64(),
        None => None,
    };
    let orphan = match body.and_then(|body| body["orphanDependents"].as_bool()) {
        Some(true) => Some(Propagation::Orphan),
        Some(false) => Some(Propagation::Background),
        None => None,
    };
    let policy = text("propagationPolicy");
    let policy = if policy.is_empty() { query.get("propagationPolicy") } else { &policy };
    let propagation = match policy {
        "" => orphan,
        "Background" => Some(Propagation::Background),
        "Foreground" => Some(Propagation::Foreground),
        "Orphan" => Some(Propagation::Orphan),
        other => {
            let supported = ["Foreground", "Background", "Orphan"];
            let error = FieldError::not_supported("propagationPolicy", other, &supported);
            return Err(Status::invalid("DeleteOptions", "meta.k8s.io", "", vec![error]));
        }
    };
    let precondition = |field: &str| {
        let value = body?.pointer(&format!("/preconditions/{field}"))?.as_str()?;
        Some(value.to_owned())
    };
    let mut dry = dry_run(query)?;
    for value in body.and_then(|body| body["dryRun"].as_array()).into_iter().flatten() {
        match value.as_str() {
            Some("All") => dry = true,
            other => return Err(unsupported("dryRun", other.unwrap_or_default(), &["All"])),
        }
    }
    let options = DeleteOptions {
        grace_period_seconds: grace.or(query.number("gracePeriodSeconds")?),
        propagation,
        uid: precondition("uid"),
        resource_version: precondition("resourceVersion"),
    };
    Ok((options, dry))
}

/// 405 in upstream's words.
pub(crate) fn not_allowed() -> Status {
    Status::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}
