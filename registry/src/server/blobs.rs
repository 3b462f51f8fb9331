//! Blobs: read, also in part, and deleted.

use boxship_layers::Digest;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE};

use super::answer::{Answer, Refusal, Reply};
use super::body::{blocking, of_file};
use super::depot::blob_at;
use super::name::Name;
use super::range::{Part, part};
use super::state::{Asked, Shared};

pub(super) const DIGEST: &str = "docker-content-digest";

pub(super) async fn get(state: &Shared, asked: &Asked, name: &Name, digest: &Digest) -> Reply {
    let size = match find(state, name, digest).await? {
        Some(size) => size,
        None => match &state.upstream {
            Some(upstream) => upstream.blob(state, name, digest).await?,
            None => return Err(Refusal::blob_unknown(digest)),
        },
    };
    let tag = format!("\"{digest}\"");
    // What has a digest never changes.
    let common = |status| {
        Answer::new(status)
            .named(DIGEST, &digest.to_string())
            .header(ETAG, &tag)
            .header(ACCEPT_RANGES, "bytes")
            .header(CACHE_CONTROL, "max-age=31536000")
    };
    if asked.text(&IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|t| t.trim() == tag)) {
        return Ok(common(StatusCode::NOT_MODIFIED));
    }
    let valid = asked.text(&IF_RANGE).is_none_or(|t| t == tag);
    let (status, first, length) = match part(asked.text(&RANGE).filter(|_| valid && !asked.is_head()), size) {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Bytes(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Outside => {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let refusal = Refusal::new(status, "UNSUPPORTED", "the blob has no such range");
            return Err(refusal.header("content-range", format!("bytes */{size}")));
        }
    };
    let mut answer = common(status).typed("application/octet-stream").length(length);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header(CONTENT_RANGE, &format!("bytes {first}-{}/{size}", first + length - 1));
    }
    if asked.is_head() {
        return Ok(answer);
    }
    let file = blocking({
        let (state, digest) = (state.clone(), *digest);
        move || state.depot.disk.file(&blob_at(&digest))?.ok_or_else(|| Refusal::blob_unknown(&digest))
    })
    .await?;
    Ok(answer.body(of_file(file, first, length)))
}

pub(super) async fn find(state: &Shared, name: &Name, digest: &Digest) -> Reply<Option<u64>> {
    let (state, name, digest) = (state.clone(), name.clone(), *digest);
    blocking(move || Ok(state.depot.blob(&name, &digest)?)).await
}

pub(super) async fn delete(state: &Shared, name: &Name, digest: &Digest) -> Reply {
    let (state, name, digest) = (state.clone(), name.clone(), *digest);
    blocking(move || {
        if state.depot.remove_blob(&name, &digest)? {
            Ok(Answer::new(StatusCode::ACCEPTED))
        } else {
            Err(Refusal::blob_unknown(&digest))
        }
    })
    .await
}
