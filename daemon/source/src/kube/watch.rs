//! One kind, listed and then watched, again and again.
//!
//! ```text
//!            ┌──────────── expired ────────────┐
//!            ▼                                 │
//!          list ──► watch from its revision ───┤
//!                     ▲                        │
//!                     └── ended, lost, silent ─┘
//! ```
//!
//! The client library's own loop is not used: it does not say when a watch stands again on a quiet cluster, and it asks
//! for an expired revision for ever if the server refuses it before the stream instead of in it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use futures::TryStreamExt;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Kind;
use crate::pause::pause;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// A page that takes longer has failed.
const LIST: Duration = Duration::from_secs(60);
/// A watch that is not answered in this time has failed.
const ANSWER: Duration = Duration::from_secs(15);
/// The server ends a watch after this many seconds, so that a connection that died is noticed …
const WATCH_SECONDS: u32 = 45;
/// … which it is if the end does not come either.
const SILENCE: Duration = Duration::from_secs(50);
/// A watch that ends sooner than this was not worth having: wait before the next.
const SHORT: Duration = Duration::from_secs(1);

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News {
    /// Everything there is.
    Listed(Vec<DynamicObject>),
    /// A new or changed object.
    Put(Box<DynamicObject>),
    /// An object that is gone.
    Removed(Box<DynamicObject>),
    /// The watch stands.
    Up,
    /// It broke, or could not be had.
    Lost(String),
}

/// The watch of one kind.
#[derive(Debug)]
pub(super) struct Watch {
    kind: Kind,
    api: Api<DynamicObject>,
    labels: Option<String>,
    fields: Option<String>,
    news: mpsc::Sender<(Kind, News)>,
    /// Where the next watch begins; `None`: with a list.
    resume: Option<String>,
}

/// Why a watch is over.
#[derive(Debug)]
enum End {
    /// Nobody reads the news.
    Unread,
    /// The server ended it in good order.
    Over,
    /// The revision is too old, or not of this store: list again.
    Expired,
    /// It broke, for this reason.
    Lost(String),
}

impl Watch {
    pub(super) fn new(
        kind: Kind,
        api: Api<DynamicObject>,
        labels: Option<String>,
        fields: Option<String>,
        news: mpsc::Sender<(Kind, News)>,
    ) -> Self {
        Self { kind, api, labels, fields, news, resume: None }
    }

    /// Runs until nobody reads the news.
    pub(super) async fn run(mut self) {
        let chance = RandomState::new();
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            match self.round().await {
                End::Unread => return,
                End::Over => {}
                End::Expired => {
                    tracing::debug!(kind = ?self.kind, "the watch has expired, listing again");
                    self.resume = None;
                }
                End::Lost(reason) => {
                    if self.tell(News::Lost(reason)).await.is_err() {
                        return;
                    }
                }
            }
            if began.elapsed() > SHORT {
                // It worked for a while; whatever ended it, the next try is due at once.
                failures = 0;
            }
            let mut hasher = chance.build_hasher();
            hasher.write_u32(failures);
            tokio::time::sleep(pause(failures, hasher.finish())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// A list if need be, and one watch to its end.
    async fn round(&mut self) -> End {
        let from = match self.resume.take() {
            Some(revision) => revision,
            None => match self.list().await {
                Ok((objects, revision)) => {
                    if self.tell(News::Listed(objects)).await.is_err() {
                        return End::Unread;
                    }
                    revision
                }
                Err(end) => return end,
            },
        };
        // A revision is kept unless the server says that it is of no use any more.
        self.resume = Some(from.clone());
        match self.watch(&from).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn list(&self) -> Result<(Vec<DynamicObject>, String), End> {
        let mut objects = Vec::new();
        let mut parameters = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let page = timeout(LIST, self.api.list(&parameters)).await;
            let page = page
                .map_err(|_| End::Lost(format!("no list in {} s", LIST.as_secs())))?
                .map_err(|error| end(&error))?;
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => {
                    let revision = page.metadata.resource_version.filter(|revision| !revision.is_empty());
                    let Some(revision) = revision else {
                        return Err(End::Lost("a list without a revision".to_owned()));
                    };
                    return Ok((objects, revision));
                }
            }
        }
    }

    async fn watch(&mut self, from: &str) -> Result<End, End> {
        let parameters = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let answer = timeout(ANSWER, self.api.watch(&parameters, from)).await;
        let stream = answer
            .map_err(|_| End::Lost(format!("no watch in {} s", ANSWER.as_secs())))?
            .map_err(|error| end(&error))?;
        let mut stream = std::pin::pin!(stream);
        self.tell(News::Up).await?;
        loop {
            let event = match timeout(SILENCE, stream.try_next()).await {
                Err(_) => return Err(End::Lost(format!("no sign of life for {} s", SILENCE.as_secs()))),
                Ok(Err(error)) => return Err(end(&error)),
                Ok(Ok(None)) => return Ok(End::Over),
                Ok(Ok(Some(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.note(object.metadata.resource_version.as_deref());
                    self.tell(News::Put(Box::new(object))).await?;
                }
                WatchEvent::Deleted(object) => {
                    self.note(object.metadata.resource_version.as_deref());
                    self.tell(News::Removed(Box::new(object))).await?;
                }
                WatchEvent::Bookmark(mark) => self.note(Some(&mark.metadata.resource_version)),
                WatchEvent::Error(status) => return Err(end(&kube::Error::Api(status))),
            }
        }
    }

    fn note(&mut self, revision: Option<&str>) {
        if let Some(revision) = revision.filter(|revision| !revision.is_empty()) {
            self.resume = Some(revision.to_owned());
        }
    }

    async fn tell(&self, news: News) -> Result<(), End> {
        self.news.send((self.kind, news)).await.map_err(|_| End::Unread)
    }
}

/// What an error means for the watch. Besides 410 a server says 400 to a revision that it cannot read, and 504 to one
/// that its store has not reached: of a store that was set back.
fn end(error: &kube::Error) -> End {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 410 | 504) || status.reason == "Expired" => {
            End::Expired
        }
        kube::Error::Api(status) => End::Lost(format!("{} ({}, {})", status.message, status.reason, status.code)),
        other => End::Lost(chain(other)),
    }
}

/// An error with its causes, in one line: the outermost alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}
