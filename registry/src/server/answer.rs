//! Answers: what a handler says, and how it says no (the specification's error body).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The body of an answer: in memory if it is small, else from a file as the other side takes it.
#[derive(Debug)]
pub(super) enum Body {
    Small(Bytes),
    File { pieces: mpsc::Receiver<std::io::Result<Bytes>>, left: u64 },
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Body::Small(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Small(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::File { left: 0, .. } => Poll::Ready(None),
            Body::File { pieces, left } => match std::task::ready!(pieces.poll_recv(cx)) {
                Some(Ok(piece)) => {
                    *left = left.saturating_sub(piece.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
                Some(Err(e)) => Poll::Ready(Some(Err(e))),
                None => Poll::Ready(Some(Err(std::io::ErrorKind::UnexpectedEof.into()))),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Small(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::File { left, .. } => SizeHint::with_exact(*left),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Small(bytes) => bytes.is_empty(),
            Body::File { left, .. } => *left == 0,
        }
    }
}

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Answer(Response<Body>);

impl Answer {
    pub(super) fn new(status: StatusCode) -> Answer {
        let mut response = Response::new(Body::Small(Bytes::new()));
        *response.status_mut() = status;
        Answer(response)
    }

    pub(super) fn json(value: &Value) -> Answer {
        Answer::new(StatusCode::OK).typed("application/json").small(value.to_string().into())
    }

    /// A value that is no header text, which none of ours is, is left out.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    pub(super) fn named(self, name: &'static str, value: &str) -> Answer {
        self.header(HeaderName::from_static(name), value)
    }

    pub(super) fn typed(self, kind: &str) -> Answer {
        self.header(CONTENT_TYPE, kind)
    }

    pub(super) fn small(mut self, bytes: Bytes) -> Answer {
        *self.0.body_mut() = Body::Small(bytes);
        self
    }

    pub(super) fn body(mut self, body: Body) -> Answer {
        *self.0.body_mut() = body;
        self
    }

    /// The length that a body would have: for `HEAD`.
    pub(super) fn length(self, n: u64) -> Answer {
        self.header(CONTENT_LENGTH, &n.to_string())
    }

    pub(super) fn finish(self) -> Response<Body> {
        self.0
    }
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Reason>);

#[derive(Debug)]
struct Reason {
    status: StatusCode,
    code: &'static str,
    message: String,
    detail: Value,
    headers: Vec<(&'static str, String)>,
    /// More of them, with other details.
    more: Vec<Value>,
}

/// What a handler returns.
pub(super) type Reply<T = Answer> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        let (headers, more) = (Vec::new(), Vec::new());
        let message = message.into();
        Refusal(Box::new(Reason { status, code, message, detail: Value::Null, headers, more }))
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Refusal {
        self.0.headers.push((name, value.into()));
        self
    }

    pub(super) fn detail(mut self, detail: Value) -> Refusal {
        self.0.detail = detail;
        self
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn name_invalid(name: &str) -> Refusal {
        Refusal::bad_request("NAME_INVALID", "invalid repository name")
            .detail(json!({"name": shortened(name)}))
    }

    pub(super) fn name_unknown(name: &str) -> Refusal {
        Refusal::not_found("NAME_UNKNOWN", "repository name not known to registry")
            .detail(json!({"name": name}))
    }

    pub(super) fn digest_invalid(digest: &str) -> Refusal {
        Refusal::bad_request("DIGEST_INVALID", "the digest is not sha256: and 64 lower-case hex digits")
            .detail(json!({"digest": shortened(digest)}))
    }

    pub(super) fn digest_mismatch(wanted: &impl ToString, found: &impl ToString) -> Refusal {
        Refusal::bad_request("DIGEST_INVALID", "provided digest did not match uploaded content")
            .detail(json!({"digest": wanted.to_string(), "found": found.to_string()}))
    }

    pub(super) fn upload_unknown() -> Refusal {
        Refusal::not_found("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub(super) fn blob_unknown(digest: &impl ToString) -> Refusal {
        Refusal::not_found("BLOB_UNKNOWN", "blob unknown to registry")
            .detail(json!({"digest": digest.to_string()}))
    }

    pub(super) fn manifest_unknown() -> Refusal {
        Refusal::not_found("MANIFEST_UNKNOWN", "manifest unknown")
    }

    pub(super) fn manifest_invalid(reason: impl Into<String>) -> Refusal {
        Refusal::bad_request("MANIFEST_INVALID", reason)
    }

    /// One error for each of these.
    pub(super) fn blobs_missing(digests: &[String]) -> Refusal {
        let message = "the manifest references what the repository does not have";
        let mut refusal = Refusal::not_found("MANIFEST_BLOB_UNKNOWN", message);
        for (i, digest) in digests.iter().enumerate() {
            let detail = json!({"digest": digest});
            if i == 0 {
                refusal.0.detail = detail;
            } else {
                let entry = json!({"code": refusal.0.code, "message": message, "detail": detail});
                refusal.0.more.push(entry);
            }
        }
        refusal
    }

    pub(super) fn unsupported(message: &'static str) -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
    }

    pub(super) fn into_answer(self) -> Answer {
        let Reason { status, code, message, detail, headers, more } = *self.0;
        let mut entry = json!({"code": code, "message": message});
        if !detail.is_null() {
            entry["detail"] = detail;
        }
        let errors: Vec<Value> = std::iter::once(entry).chain(more).collect();
        let body = json!({"errors": errors}).to_string();
        let answer = Answer::new(status).typed("application/json").small(body.into());
        headers.into_iter().fold(answer, |answer, (name, value)| answer.named(name, &value))
    }
}

/// What somebody sent, when it is sent back.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

impl From<std::io::Error> for Refusal {
    /// Storage that fails. Where it is, is nobody's business.
    fn from(e: std::io::Error) -> Refusal {
        tracing::warn!(error = %e, "the registry's storage failed");
        let (status, message) = match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                (StatusCode::INSUFFICIENT_STORAGE, "no space is left")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "the storage failed"),
        };
        Refusal::new(status, "UNKNOWN", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_each_missing_blob() {
        let refusal = Refusal::blobs_missing(&["sha256:a".into(), "sha256:b".into()]);
        let Body::Small(bytes) = refusal.into_answer().finish().into_body() else { panic!("small") };
        let value: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(value["errors"][0]["detail"]["digest"], "sha256:a");
        assert_eq!(value["errors"][1]["code"], "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(value["errors"][1]["detail"]["digest"], "sha256:b");
    }
}
