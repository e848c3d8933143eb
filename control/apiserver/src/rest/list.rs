//! List: the objects of a kind at one revision, a page at a time if asked.

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fairlead_api::{Kind, Status};
use serde::{Deserialize, Serialize};

use super::options::{ListOptions, Match};
use crate::api::Api;
use crate::cache::Entry;
use crate::encode::key_prefix;
use crate::status::too_large;

/// How long a list waits for a revision the server has not reached.
const PATIENCE: Duration = Duration::from_secs(3);

/// One page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: u64,
    /// Empty on the last page.
    pub(crate) continue_token: String,
    /// How many follow this page; not counted under a selector.
    pub(crate) remaining: Option<usize>,
}

/// Where the next page begins, and at which revision. Opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v")]
    version: String,
    #[serde(rename = "rv")]
    revision: u64,
    /// The last key of the page before, below the kind's prefix.
    start: String,
}

/// Objects of a kind, of one namespace if it is named.
pub(crate) async fn list(
    api: &Api,
    kind: &'static Kind,
    namespace: &str,
    options: &ListOptions,
) -> Result<Listed, Status> {
    let token = Token::decode(&options.continue_token)?;
    let at = match (&token, options.at) {
        (Some(token), _) if token.revision > 0 => Match::Exact(token.revision),
        (_, at) => at,
    };
    let at = match at {
        Match::Latest | Match::NotOlderThan(0) => api.cache.fresh().await.map(|_| None)?,
        Match::NotOlderThan(revision) => reach(api, revision).await.map(|()| None)?,
        Match::Exact(revision) => reach(api, revision).await.map(|()| Some(revision))?,
    };
    let page = api.cache.list(kind, namespace, at).map_err(|status| match token {
        // The list went on for longer than history is kept: the client may begin again.
        Some(_) => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new \
             list without the continue parameter.",
        ),
        None => status,
    })?;
    let prefix = key_prefix(kind, "");
    let start = token.map(|token| format!("{prefix}{}", token.start));
    let follows = |entry: &&Arc<Entry>| start.as_deref().is_none_or(|start| &*entry.key > start);
    let mut chosen = page.entries.iter().filter(follows).filter(|entry| options.selector.matches(&entry.object));
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let entries: Vec<_> = chosen.by_ref().take(limit).cloned().collect();
    let rest = chosen.count();
    let plain = options.selector == fairlead_api::selector::Selector::all();
    let continue_token = match entries.last() {
        Some(last) if rest > 0 => {
            let start = last.key[prefix.len()..].to_owned();
            Token { version: "fairlead/1".to_owned(), revision: page.revision, start }.encode()
        }
        _ => String::new(),
    };
    let remaining = (plain && rest > 0).then_some(rest);
    Ok(Listed { entries, revision: page.revision, continue_token, remaining })
}

async fn reach(api: &Api, revision: u64) -> Result<(), Status> {
    match tokio::time::timeout(PATIENCE, api.cache.reach(revision)).await {
        Ok(reached) => reached.map(drop),
        Err(_) => Err(too_large(revision, api.cache.revision())),
    }
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a structure of texts and numbers serializes"))
    }

    fn decode(text: &str) -> Result<Option<Self>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match token {
            Some(token) if token.version == "fairlead/1" => Ok(Some(token)),
            _ => Err(Status::bad_request("continue key is not valid: it is not one that this server gave out")),
        }
    }
}
