//! Reading bodies: at most 3 MiB, in JSON, YAML or protobuf.

use axum::body::Body;
use bytes::Bytes;
use fairlead_api::decode::{self, Decoded, Format};
use fairlead_api::{Kind, Reason, Status};
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::protobuf;

/// What upstream accepts as well.
const LIMIT: usize = 3 << 20;

/// What is still read and thrown away of a body that is too large, so that its sender gets to read the answer.
const DRAIN: usize = 64 << 20;

/// The whole body.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, Status> {
    match Limited::new(&mut body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            drain(body).await;
            Err(Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {LIMIT}")))
        }
        Err(error) => Err(Status::bad_request(format!("cannot read the request body: {error}"))),
    }
}

async fn drain(body: Body) {
    let mut rest = Limited::new(body, DRAIN);
    while let Some(Ok(_)) = rest.frame().await {}
}

/// The media type of the body, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// How the body is written, or 415.
fn format(headers: &HeaderMap) -> Result<Format, Status> {
    let media_type = media_type(headers);
    Format::of_content_type(media_type).ok_or_else(|| {
        Status::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml, {} (got {media_type})",
                protobuf::MEDIA_TYPE
            ),
        )
    })
}

/// The object of a body, and what a strict reader would refuse of it.
pub(crate) fn object(kind: &Kind, headers: &HeaderMap, body: &[u8]) -> Result<Decoded, Status> {
    if media_type(headers) == protobuf::MEDIA_TYPE {
        return decode::decode_value(kind, tree(headers, body)?);
    }
    decode::decode(kind, body, format(headers)?)
}

/// The tree of a body that is no object of a kind: options, a binding, a scale.
pub(crate) fn tree(headers: &HeaderMap, body: &[u8]) -> Result<Value, Status> {
    let parsed = if media_type(headers) == protobuf::MEDIA_TYPE {
        protobuf::tree(body)
    } else {
        decode::parse(body, format(headers)?).map(|(tree, _)| tree)
    };
    parsed.map_err(|why| Status::bad_request(format!("cannot read the request body: {why}")))
}
