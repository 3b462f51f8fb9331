//! The pull-through cache: what the registry lacks comes from another one, verified before it is served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use boxship_layers::Digest;
use hyper::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::answer::{Refusal, Reply};
use super::blobs;
use super::body::blocking;
use super::depot::{Kept, tag_at};
use super::manifest::Manifest;
use super::manifests;
use super::name::{Name, UploadId};
use super::route::Reference;
use super::state::Shared;
use super::uploads::Hash;
use crate::client::{Call, Client, Repository, pause};
use crate::error::{Error, Result};
use crate::pull;
use crate::reference::ImageRef;

/// Cuts of one blob without a byte between them.
const CUTS: u32 = 5;
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Upstream {
    client: Client,
    registry: String,
    /// How long a tag is believed.
    fresh: Duration,
    /// One fetches, the others wait.
    flights: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Upstream {
    pub(super) fn new(client: Client, registry: String, fresh: Duration) -> Result<Upstream> {
        let upstream = Upstream { client, registry, fresh, flights: Mutex::default() };
        format!("{}/library/x:1", upstream.registry).parse::<ImageRef>()?;
        Ok(upstream)
    }

    fn repository(&self, name: &Name) -> Reply<Repository> {
        let reference = format!("{}/{name}:latest", self.registry).parse::<ImageRef>();
        let reference = reference.map_err(|_| Refusal::name_invalid(name.as_str()))?;
        self.client.repository(&reference, "pull").map_err(|e| refusal(&e, Refusal::manifest_unknown))
    }

    fn flight(&self, key: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(key).or_default())
    }

    /// A manifest from here if it is by digest or was asked for just now, else from there; and when nobody is
    /// there, what is here.
    pub(super) async fn manifest(&self, state: &Shared, name: &Name, reference: &Reference) -> Reply<Kept> {
        let (selector, tag) = match reference {
            Reference::Neither => return Err(Refusal::manifest_unknown()),
            Reference::Digest(digest) => (digest.to_string(), None),
            Reference::Tag(tag) => (tag.to_string(), Some(tag.clone())),
        };
        let flight = self.flight(format!("{name} {selector}"));
        let _flight = flight.lock().await;
        let here = manifests::find(state, name, reference).await?;
        if let Some(kept) = &here
            && (tag.is_none() || self.is_fresh(state, name, reference).await?)
        {
            return Ok(kept.clone());
        }
        let repository = self.repository(name)?;
        match pull::manifest(&repository, &selector, None).await {
            Ok(bytes) => {
                let manifest = Manifest::parse(&bytes, None)?;
                let (state, name) = (state.clone(), name.clone());
                blocking(move || {
                    let digest = state.depot.add_manifest(&name, tag.as_ref(), &bytes, &manifest, true)?;
                    Ok(Kept { bytes, kind: manifest.kind, digest })
                })
                .await
            }
            Err(e) => match here {
                Some(kept) if is_away(&e) => Ok(kept),
                _ => Err(refusal(&e, Refusal::manifest_unknown)),
            },
        }
    }

    async fn is_fresh(&self, state: &Shared, name: &Name, reference: &Reference) -> Reply<bool> {
        let Reference::Tag(tag) = reference else { return Ok(true) };
        let (state, at, fresh) = (state.clone(), tag_at(name, tag), self.fresh);
        blocking(move || {
            let time = state.depot.disk.stat(&at)?.map(|(_, time)| time);
            Ok(time.is_some_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age < fresh)))
        })
        .await
    }

    /// Brings a blob and says how large it is. That goes on when the client gives up: it will be back.
    pub(super) async fn blob(&self, state: &Shared, name: &Name, digest: &Digest) -> Reply<u64> {
        let (repository, flight) = (self.repository(name)?, self.flight(format!("{name} {digest}")));
        let (state, name, digest) = (state.clone(), name.clone(), *digest);
        let job = tokio::spawn(async move {
            let _flight = flight.lock().await;
            if let Some(size) = blobs::find(&state, &name, &digest).await? {
                return Ok(size);
            }
            tokio::select! {
                size = fetch(&state, &repository, &name, digest) => size,
                () = state.closed() => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    Err(Refusal::new(status, "UNKNOWN", "the registry is going down"))
                }
            }
        });
        job.await.map_err(std::io::Error::other)?
    }

    /// The tags there; `None` when nobody is there.
    pub(super) async fn tags(&self, name: &Name) -> Reply<Option<Vec<String>>> {
        let reference = format!("{}/{name}:latest", self.registry).parse::<ImageRef>();
        let reference = reference.map_err(|_| Refusal::name_invalid(name.as_str()))?;
        match self.client.tags(&reference).await {
            Ok(tags) => Ok(Some(tags)),
            Err(e) if is_away(&e) => Ok(None),
            Err(e) => Err(refusal(&e, || Refusal::name_unknown(name.as_str()))),
        }
    }
}

/// Whether there is no answer at all, or none that means anything.
fn is_away(e: &Error) -> bool {
    matches!(e, Error::Network { .. } | Error::Status { status: 429 | 500.., .. })
}

fn refusal(e: &Error, unknown: impl Fn() -> Refusal) -> Refusal {
    match e {
        Error::NotFound { .. } => unknown(),
        Error::Unauthorized { .. } => {
            Refusal::new(StatusCode::FORBIDDEN, "DENIED", "the upstream registry refuses access")
        }
        e => {
            tracing::debug!(error = %e, "the upstream registry fails");
            Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", format!("the upstream registry fails: {e}"))
        }
    }
}

/// A file that has no name yet; it goes with this.
struct Scratch {
    state: Shared,
    at: String,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.state.depot.disk.forget(&self.at);
    }
}

async fn fetch(state: &Shared, repository: &Repository, name: &Name, digest: Digest) -> Reply<u64> {
    let scratch = Scratch { state: state.clone(), at: format!("tmp/{}", UploadId::random()?) };
    let mut file = blocking({
        let (state, at) = (state.clone(), scratch.at.clone());
        move || Ok(state.depot.disk.create(&at)?)
    })
    .await?;
    let lost = |e: &Error| refusal(e, || Refusal::blob_unknown(&digest));
    let url = repository.url(&format!("blobs/{digest}")).map_err(|e| lost(&e))?;
    let (mut hash, mut at, mut cuts) = (Hash::new(), 0u64, 0);
    loop {
        let mut call = Call::get(url.clone(), "ask for a blob at", digest.to_string());
        if at > 0 {
            call = call.header(RANGE, &format!("bytes={at}-")).map_err(|e| lost(&e))?;
        }
        let mut response = repository.call(&call).await.map_err(|e| lost(&e))?;
        if at > 0 && !continues(&response, at) {
            // From the beginning: it knows no ranges.
            let fresh = blocking(move || Ok(file.set_len(0).map(|()| file)?)).await?;
            file = rewound(fresh)?;
            (hash, at) = (Hash::new(), 0);
        }
        let begun = at;
        let whole = loop {
            let (mut pieces, mut size) = (Vec::new(), 0);
            let end = loop {
                match response.chunk().await {
                    Ok(Some(piece)) => {
                        size += piece.len();
                        pieces.push(piece);
                        if size >= PIECE {
                            break None;
                        }
                    }
                    Ok(None) => break Some(true),
                    Err(_) => break Some(false),
                }
            };
            at += size as u64;
            if at > state.limits.blob {
                return Err(Refusal::too_large(format!("a blob may have {} bytes", state.limits.blob)));
            }
            (file, hash) = blocking(move || {
                for piece in &pieces {
                    std::io::Write::write_all(&mut file, piece)?;
                    hash.update(piece);
                }
                Ok((file, hash))
            })
            .await?;
            if let Some(whole) = end {
                break whole;
            }
        };
        if whole {
            break;
        }
        cuts = if at > begun { 0 } else { cuts + 1 };
        if cuts >= CUTS {
            let message = "the upstream registry breaks off";
            return Err(Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", message));
        }
        tokio::time::sleep(pause(cuts, None)).await;
    }
    let found = hash.digest()?;
    if found != digest {
        let message = format!("the upstream registry sends {found} instead of {digest}");
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "DIGEST_INVALID", message));
    }
    let (state, name) = (state.clone(), name.clone());
    blocking(move || {
        state.depot.add_blob(&name, digest, &file, &scratch.at)?;
        Ok(at)
    })
    .await
}

fn rewound(mut file: std::fs::File) -> std::io::Result<std::fs::File> {
    std::io::Seek::rewind(&mut file).map(|()| file)
}

/// Whether what comes begins where we were.
fn continues(response: &reqwest::Response, at: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|r| r.starts_with(&format!("bytes {at}-")))
}
