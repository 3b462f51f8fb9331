//! Pushing: what the registry lacks, then the manifest, byte for byte as it was pulled or made.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use boxship_layers::{Digest, Document, Store};
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;

use crate::client::{Call, Client, Repository, host_of, pause};
use crate::error::{Error, Result};
use crate::pull::blocking;
use crate::reference::ImageRef;

const ATTEMPTS: u32 = 4;
/// Blobs that are sent at the same time.
const AT_ONCE: usize = 3;

type Observer = Arc<dyn Fn(PushEvent) + Send + Sync>;
/// Bytes of a blob that are read at once.
const PIECE: usize = 256 << 10;

/// What happens during a push.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushEvent {
    /// Bytes of a blob were handed to the network.
    Bytes {
        /// The blob.
        blob: Digest,
        /// Its bytes so far.
        done: u64,
        /// Its bytes in all.
        total: u64,
    },
    /// The registry has a blob.
    Blob {
        /// The blob.
        digest: Digest,
        /// Whether it had it before.
        existed: bool,
    },
}

/// The bytes of a file as the body of a request.
struct FileBody(mpsc::Receiver<std::io::Result<Bytes>>);

impl futures_core::Stream for FileBody {
    type Item = std::io::Result<Bytes>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

impl Client {
    /// Pushes the image that the store has under `name` (a name or digest) to `reference`, and returns the
    /// digest of its manifest there.
    ///
    /// # Errors
    /// [`Error::Layers`] with `NotFound` when the store has none; [`Error::Unauthorized`],
    /// [`Error::Network`] and [`Error::Status`] name the host. The registry then has no new manifest.
    ///
    /// # Cancel safety
    /// Dropping the future ends the push; blobs that have arrived stay with the registry.
    pub async fn push(
        &self,
        store: &Store,
        name: &str,
        reference: &ImageRef,
        observe: impl Fn(PushEvent) + Send + Sync + 'static,
    ) -> Result<Digest> {
        let repository = self.repository(reference, "pull,push")?;
        let (bytes, digest) = blocking({
            let (store, name) = (store.clone(), name.to_owned());
            move || {
                let image = store.image(&name)?;
                Ok((image.manifest()?, *image.digest()))
            }
        })
        .await?;
        if let Some(pinned) = reference.digest().filter(|pinned| **pinned != digest) {
            let reason = format!("{reference} names {pinned}, and the image is {digest}");
            return Err(Error::invalid("image reference", reason));
        }
        let Document::Manifest(manifest) = Document::parse(&bytes)? else {
            return Err(Error::invalid("image", "it is an index"));
        };
        let mut blobs: Vec<(Digest, u64)> = Vec::new();
        for d in manifest.layers().iter().chain([manifest.config()]) {
            let blob = (d.digest().to_string().parse()?, d.size());
            if !blobs.contains(&blob) {
                blobs.push(blob);
            }
        }
        push_blobs(&repository, store, blobs, Arc::new(observe)).await?;
        let kind = manifest
            .media_type()
            .as_ref()
            .map_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned(), ToString::to_string);
        let selector = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let url = repository.url(&format!("manifests/{selector}"))?;
        let call = Call::get(url, "send a manifest to", reference.to_string())
            .method(Method::PUT)
            .body(&kind, bytes)?;
        let response = repository.call(&call).await?;
        let claimed = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        if let Some(claimed) = claimed.filter(|c| c.starts_with("sha256:") && **c != digest.to_string()) {
            let reason = format!("it stored {claimed} instead of {digest}");
            return Err(Error::Content { host: repository.host(), what: reference.to_string(), reason });
        }
        Ok(digest)
    }
}

/// Some at a time. The first failure ends the others, and so does whoever drops this.
async fn push_blobs(
    repository: &Repository,
    store: &Store,
    blobs: Vec<(Digest, u64)>,
    observe: Observer,
) -> Result<()> {
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut all = tokio::task::JoinSet::new();
    for (blob, size) in blobs {
        let (repository, store) = (repository.clone(), store.clone());
        let (observe, places) = (Arc::clone(&observe), Arc::clone(&places));
        all.spawn(async move {
            let _place = places.acquire_owned().await;
            push_blob(&repository, &store, blob, size, &*observe).await
        });
    }
    while let Some(result) = all.join_next().await {
        match result {
            Ok(result) => result?,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => return Err(Error::Io { operation: "run a push", source: std::io::Error::other(e) }),
        }
    }
    Ok(())
}

async fn push_blob(
    repository: &Repository,
    store: &Store,
    blob: Digest,
    size: u64,
    observe: &(dyn Fn(PushEvent) + Send + Sync),
) -> Result<()> {
    let head = Call::get(repository.url(&format!("blobs/{blob}"))?, "ask for a blob at", blob.to_string());
    match repository.call(&head.method(Method::HEAD)).await {
        Ok(_) => {
            observe(PushEvent::Blob { digest: blob, existed: true });
            return Ok(());
        }
        Err(Error::NotFound { .. }) => {}
        Err(e) => return Err(e),
    }
    let mut attempt = 0;
    loop {
        match upload(repository, store, blob, size, observe).await {
            Ok(()) => {
                observe(PushEvent::Blob { digest: blob, existed: false });
                return Ok(());
            }
            Err(e) if attempt + 1 >= ATTEMPTS || !is_temporary(&e) => return Err(e),
            Err(e) => {
                tracing::debug!(blob = %blob, error = %e, "uploaded again");
                tokio::time::sleep(pause(attempt, None)).await;
                attempt += 1;
            }
        }
    }
}

fn is_temporary(e: &Error) -> bool {
    match e {
        Error::Network { .. } => true,
        Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

async fn upload(
    repository: &Repository,
    store: &Store,
    blob: Digest,
    size: u64,
    observe: &(dyn Fn(PushEvent) + Send + Sync),
) -> Result<()> {
    let start = repository.url("blobs/uploads/")?;
    let call = Call::get(start.clone(), "begin an upload to", blob.to_string()).method(Method::POST);
    // An empty body says its length, which some registries insist on.
    let mut call = call.header(CONTENT_LENGTH, "0")?;
    call.body = Some(Vec::new());
    let response = repository.call(&call).await?;
    let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let mut url = repository.follow(&start, location)?;
    if location.is_empty() || response.status() != StatusCode::ACCEPTED {
        let reason = "it does not say where to upload".to_owned();
        return Err(Error::Content { host: repository.host(), what: blob.to_string(), reason });
    }
    url.query_pairs_mut().append_pair("digest", &blob.to_string());
    let (sender, body) = mpsc::channel(8);
    let (told, mut done) = mpsc::unbounded_channel();
    let path = store.blob_path(&blob);
    let reader = tokio::task::spawn_blocking(move || {
        let read = || -> std::io::Result<()> {
            let mut file = std::fs::File::open(path)?;
            let mut at = 0;
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                let n = std::io::Read::read_to_end(
                    &mut std::io::Read::take(&mut file, PIECE as u64),
                    &mut piece,
                )?;
                at += n as u64;
                if n == 0 || sender.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
                let _ = told.send(at);
            }
        };
        if let Err(e) = read() {
            let _ = sender.blocking_send(Err(e));
        }
    });
    let request = repository
        .streaming(Method::PUT, url.clone())
        .await
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, size)
        .body(reqwest::Body::wrap_stream(FileBody(body)))
        .send();
    tokio::pin!(request);
    let mut stalls = repository.stall_timeout();
    let response = loop {
        tokio::select! {
            response = &mut request => break response.map_err(|e| repository.unsent("upload to", &url, e))?,
            Some(done) = done.recv() => {
                if done >= size {
                    // It has to verify and to store what it got.
                    stalls = repository.stall_timeout() * 10;
                }
                observe(PushEvent::Bytes { blob, done, total: size });
            }
            () = tokio::time::sleep(stalls) => {
                let source = format!("it takes no more for {stalls:?}").into();
                return Err(Error::Network { operation: "upload to", host: host_of(&url), source });
            }
        }
    };
    drop(reader);
    match response.status() {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED => {
            // The token has run out on the way: the next attempt begins with a new one.
            let source = "the token ended during the upload".into();
            Err(Error::Network { operation: "upload to", host: host_of(&url), source })
        }
        _ => Err(repository.refused(&call, response).await),
    }
}
