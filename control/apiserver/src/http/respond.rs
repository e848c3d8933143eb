//! Writing answers: JSON, compressed where it pays, and failures as `Status`.

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use fairlead_api::Status;
use flate2::{Compression, write::GzEncoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

/// Answers below this go out as they are: compressing them costs more than it saves.
const COMPRESS_FROM: usize = 128 << 10;

/// What a handler answers.
pub(crate) type Answer = Result<Response<Body>, Status>;

/// A JSON answer from bytes.
pub(crate) fn json_bytes(code: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer from a tree.
pub(crate) fn json(code: StatusCode, tree: &Value) -> Response<Body> {
    json_bytes(code, Bytes::from(tree.to_string()))
}

/// A text answer.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The answer to a failed request.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_json());
    if let Some(seconds) = status.details.as_ref().map(|details| details.retry_after).filter(|seconds| *seconds > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Compresses a finished answer if the client takes it and it is large. Streams pass as they are.
pub(crate) fn compress(request: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let wanted = request.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let takes_gzip = wanted.is_some_and(|value| value.split(',').any(|one| one.trim().starts_with("gzip")));
    let size = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
    if !takes_gzip || size < COMPRESS_FROM as u64 || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, Body::from_stream(gzip(body)))
}

/// The body is complete in memory, so it arrives in one frame; it is compressed frame by frame all the same.
fn gzip(body: Body) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::once(async move {
        let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(std::io::Error::other)?;
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
        encoder.write_all(&bytes)?;
        encoder.finish().map(Bytes::from)
    })
}
