//! Uploads as requests: begun, continued, asked about, finished and cancelled.

use boxship_layers::Digest;
use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, LOCATION, RANGE};

use super::access::{Need, Who};
use super::answer::{Answer, Refusal, Reply};
use super::blobs::DIGEST;
use super::body::{Inbox, blocking};
use super::name::{Name, UploadId};
use super::range::chunk;
use super::state::{Asked, Shared};
use super::uploads::{Upload, Uploads, upload_at};

const UPLOAD: &str = "docker-upload-uuid";

fn created(name: &Name, digest: &Digest) -> Answer {
    Answer::new(StatusCode::CREATED)
        .header(LOCATION, &format!("/v2/{name}/blobs/{digest}"))
        .named(DIGEST, &digest.to_string())
}

/// What all answers about an upload say.
fn progress(status: StatusCode, name: &Name, id: &UploadId, size: u64) -> Answer {
    Answer::new(status)
        .header(LOCATION, &format!("/v2/{name}/blobs/uploads/{id}"))
        .header(RANGE, &range(size))
        .named(UPLOAD, id.as_str())
}

/// Also of nothing: the form has no other way to say it.
fn range(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn digest_of(asked: &Asked) -> Reply<Option<Digest>> {
    let text = asked.query.get("digest");
    text.map(|text| text.parse().map_err(|_| Refusal::digest_invalid(text))).transpose()
}

pub(super) async fn begin(state: &Shared, asked: &Asked, who: &Who, name: &Name, inbox: Inbox) -> Reply {
    if let Some(digest) = asked.query.get("mount").and_then(|text| text.parse::<Digest>().ok())
        && mount(state, asked, who, name, digest).await?
    {
        return Ok(created(name, &digest));
    }
    let digest = digest_of(asked)?;
    let id = blocking({
        let (state, name) = (state.clone(), name.clone());
        move || Uploads::begin(&state.depot, &name, state.limits.uploads)
    })
    .await?;
    let Some(digest) = digest else { return Ok(progress(StatusCode::ACCEPTED, name, &id, 0)) };
    match put(state, asked, name, &id, digest, inbox).await {
        Ok(()) => Ok(created(name, &digest)),
        Err(refusal) => {
            // Nobody knows its name.
            let _ = cancel(state, name, &id).await;
            Err(refusal)
        }
    }
}

/// From a repository that the client may read. Where that cannot be, it has to send the bytes.
async fn mount(state: &Shared, asked: &Asked, who: &Who, to: &Name, digest: Digest) -> Reply<bool> {
    let Some(from) = asked.query.get("from").and_then(Name::parse) else { return Ok(false) };
    if !state.access.allows(who, &Need::Repository(from.clone(), "pull")) {
        return Ok(false);
    }
    let (state, to) = (state.clone(), to.clone());
    blocking(move || Ok(state.depot.mount(&from, &to, digest)?)).await
}

pub(super) async fn status(state: &Shared, name: &Name, id: &UploadId) -> Reply {
    let at = upload_at(name, id);
    let state = state.clone();
    let found = blocking(move || Ok(state.depot.disk.stat(&at)?)).await?;
    let (size, _) = found.ok_or_else(Refusal::upload_unknown)?;
    Ok(progress(StatusCode::NO_CONTENT, name, id, size))
}

pub(super) async fn add(state: &Shared, asked: &Asked, name: &Name, id: &UploadId, inbox: Inbox) -> Reply {
    let upload = open(state, name, id).await?;
    let upload = receive(state, asked, name, id, upload, inbox).await?;
    let size = upload.size();
    upload.leave();
    Ok(progress(StatusCode::ACCEPTED, name, id, size))
}

pub(super) async fn finish(state: &Shared, asked: &Asked, name: &Name, id: &UploadId, inbox: Inbox) -> Reply {
    let digest = digest_of(asked)?;
    let digest = digest.ok_or_else(|| Refusal::bad_request("DIGEST_INVALID", "the digest is missing"))?;
    put(state, asked, name, id, digest, inbox).await?;
    Ok(created(name, &digest))
}

async fn put(
    state: &Shared,
    asked: &Asked,
    name: &Name,
    id: &UploadId,
    digest: Digest,
    inbox: Inbox,
) -> Reply<()> {
    let upload = open(state, name, id).await?;
    let upload = receive(state, asked, name, id, upload, inbox).await?;
    let (state, name, at) = (state.clone(), name.clone(), upload_at(name, id));
    blocking(move || {
        let result = upload.finish(&state.depot, &name, &digest);
        state.uploads.forget(&at);
        result
    })
    .await
}

pub(super) async fn cancel(state: &Shared, name: &Name, id: &UploadId) -> Reply {
    let at = upload_at(name, id);
    let slot = state.uploads.lock(&at).await?;
    let state = state.clone();
    blocking(move || {
        let there = state.depot.disk.forget(&at)?;
        drop(slot);
        state.uploads.forget(&at);
        if there { Ok(Answer::new(StatusCode::NO_CONTENT)) } else { Err(Refusal::upload_unknown()) }
    })
    .await
}

async fn open(state: &Shared, name: &Name, id: &UploadId) -> Reply<Upload> {
    let at = upload_at(name, id);
    let slot = state.uploads.lock(&at).await?;
    let state = state.clone();
    blocking(move || {
        let upload = Upload::open(&state.depot, at.clone(), slot);
        if upload.is_err() {
            // Of names that are guessed nothing is kept.
            state.uploads.forget(&at);
        }
        upload
    })
    .await
}

/// Takes the body. What came of one that breaks off stays, and the client is told how much it was.
async fn receive(
    state: &Shared,
    asked: &Asked,
    name: &Name,
    id: &UploadId,
    upload: Upload,
    mut inbox: Inbox,
) -> Reply<Upload> {
    let begun = upload.size();
    let refused = |message: &str| {
        Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
            .header("location", format!("/v2/{name}/blobs/uploads/{id}"))
            .header("range", range(begun))
            .header(UPLOAD, id.as_str())
    };
    let announced = inbox.announced();
    let length = match asked.headers.get(CONTENT_RANGE) {
        None => announced,
        Some(value) => {
            let parsed = value.to_str().ok().and_then(chunk);
            let Some((first, last)) = parsed else { return Err(refused("the range is not first-last")) };
            if first != begun {
                return Err(refused("the range does not begin where the upload is"));
            }
            let length = last - first + 1;
            if announced.is_some_and(|n| n != length) {
                return Err(Refusal::bad_request("SIZE_INVALID", "the range and the length do not agree"));
            }
            Some(length)
        }
    };
    let max = state.limits.blob;
    let limit = || Refusal::too_large(format!("a blob may have {max} bytes"));
    if length.is_some_and(|n| n > max.saturating_sub(begun)) {
        return Err(limit());
    }
    let (mut here, mut away) = (Some(upload), None::<tokio::task::JoinHandle<std::io::Result<Upload>>>);
    let mut size = begun;
    let gone = || Refusal::from(std::io::Error::other("an upload was lost"));
    loop {
        // While some of it is written, more comes.
        let (pieces, broken) = inbox.gather().await;
        if let Some(job) = away.take() {
            here = Some(job.await.map_err(std::io::Error::other)??);
        }
        let mut upload = here.take().ok_or_else(gone)?;
        size += pieces.iter().map(|p| p.len() as u64).sum::<u64>();
        let done = pieces.is_empty() && broken.is_ok();
        let too_much = length.is_some_and(|n| size - begun > n);
        if size > max || too_much || done && length.is_some_and(|n| size - begun != n) {
            blocking(move || Ok(upload.cut(begun)?)).await?;
            let wrong = || Refusal::bad_request("SIZE_INVALID", "the body is not as long as its range");
            return Err(if size > max { limit() } else { wrong() });
        }
        if let Err(refusal) = broken {
            blocking(move || {
                upload.append(&pieces)?;
                upload.leave();
                Ok(())
            })
            .await?;
            return Err(refusal);
        }
        if done {
            return Ok(upload);
        }
        away = Some(tokio::task::spawn_blocking(move || upload.append(&pieces).map(|()| upload)));
    }
}
