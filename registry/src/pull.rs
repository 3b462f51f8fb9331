//! Pulling: the bytes of each layer go from the wire through the hashes into files, and are visible when
//! everything about them is verified.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use boxship_layers::oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use boxship_layers::{Addition, Digest, Document, Expected, Image, LayerLock, Platform, Publish, Store};
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Call, Client, Repository, host_of, lost, pause};
use crate::error::{Error, Result};
use crate::reference::ImageRef;

pub(crate) const MANIFESTS: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const MAX_DOCUMENT: u64 = 4 << 20;
const MAX_LAYER: u64 = 64 << 30;
const MAX_LAYERS: usize = 500;
const MAX_NESTING: usize = 4;
/// Layers on their way at once.
const AT_ONCE: usize = 3;
/// Cuts of one layer without a byte between them.
const CUTS: u32 = 5;
/// Bytes after which a connection has been of use.
const PROGRESS: u64 = 64 << 10;
/// Bytes of all pages of a list of tags.
const MAX_TAGS: u64 = 16 << 20;

/// When a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullPolicy {
    /// When the image is not in the store.
    #[default]
    Missing,
    /// Every time; what is there already is not fetched again.
    Always,
    /// Never: no socket is opened.
    Never,
}

/// What is pulled.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Which image of one for several platforms, and of which the image in the store has to be; without it
    /// this machine's, and whatever is in the store.
    pub platform: Option<Platform>,
    /// When the registry is asked.
    pub policy: PullPolicy,
}

/// What happens during a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullEvent {
    /// It is known what is missing.
    Resolved {
        /// The digest of the manifest.
        digest: Digest,
        /// Layers of the image.
        layers: usize,
        /// Layers that have to be fetched.
        missing: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes of a layer have come.
    Bytes {
        /// The layer.
        layer: Digest,
        /// Its bytes so far.
        done: u64,
        /// Its bytes in all.
        total: u64,
    },
    /// A layer is verified, unpacked and in the store; or another pull has brought it.
    Layer(Digest),
}

type Observer = Arc<dyn Fn(PullEvent) + Send + Sync>;

impl Client {
    /// Pulls an image into a store. Layers that the store has are not fetched; of several pulls, also of
    /// other processes, one fetches a layer and the others wait for it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unauthorized`], [`Error::Network`], [`Error::Status`] name the host;
    /// [`Error::Content`] and [`Error::Layers`] for what is not what it has to be. The store's names are
    /// then as before; whole layers that came stay, until the store's `gc`.
    ///
    /// # Cancel safety
    /// Dropping the future ends the pull, its threads a moment later; layers that were whole stay, so the
    /// next one goes on there.
    pub async fn pull(
        &self,
        store: &Store,
        reference: &ImageRef,
        options: &PullOptions,
        observe: impl Fn(PullEvent) + Send + Sync + 'static,
    ) -> Result<Image> {
        let local = reference.local_name();
        if options.policy != PullPolicy::Always {
            let name = reference.digest().map(ToString::to_string).or_else(|| local.clone());
            let found = blocking({
                let (store, name) = (store.clone(), name.unwrap_or_default());
                move || Ok(store.image(&name))
            })
            .await?;
            let fits =
                |image: &Image| options.platform.as_ref().is_none_or(|p| is_for(p, image.configuration()));
            match found {
                Ok(image) if fits(&image) => return Ok(image),
                Ok(_) if options.policy == PullPolicy::Missing => {}
                Ok(image) => {
                    let name =
                        format!("{} for {}", image.digest(), options.platform.clone().unwrap_or_default());
                    return Err(boxship_layers::Error::NotFound { what: "image", name }.into());
                }
                Err(boxship_layers::Error::NotFound { .. }) if options.policy == PullPolicy::Missing => {}
                Err(e) => return Err(e.into()),
            }
        }
        let repository = self.repository(reference, "pull")?;
        let platform = options.platform.clone().unwrap_or_default();
        let (bytes, manifest, index) = resolve(&repository, reference, &platform).await?;
        let config = small_blob(&repository, manifest.config()).await?;
        let parts = parts(&repository, &manifest, &config)?;
        let add = blocking({
            let store = store.clone();
            move || Ok(Arc::new(store.begin(Publish::Each)?))
        })
        .await?;
        fetch(&repository, &add, &parts, Digest::of(&bytes), Arc::new(observe)).await?;
        blocking(move || {
            add.document(&config)?;
            Ok(add.finish_chosen(&bytes, local.as_deref(), index.as_ref())?)
        })
        .await
    }

    /// The tags of a repository, in the registry's order. The tag and digest of `reference` do not matter.
    ///
    /// # Errors
    /// As [`pull`](Client::pull).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn tags(&self, reference: &ImageRef) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let repository = self.repository(reference, "pull")?;
        let mut url = repository.url("tags/list?n=1000")?;
        let (mut all, mut total) = (Vec::new(), 0);
        // A registry that always knows a next page must not keep us forever, nor fill us.
        for _ in 0..1000 {
            let call = Call::get(url.clone(), "ask for tags at", reference.repository());
            let (headers, bytes) = repository.document(&call, MAX_DOCUMENT, "a list of tags").await?;
            let next = headers.get("link").and_then(|l| l.to_str().ok()).and_then(next_page);
            let bad = |e: serde_json::Error| content(&repository, "a list of tags", &e.to_string());
            let page: Page = serde_json::from_slice(&bytes).map_err(bad)?;
            all.extend(page.tags.unwrap_or_default());
            total += bytes.len() as u64;
            if total > MAX_TAGS {
                break;
            }
            match next {
                Some(next) => {
                    let to = repository.follow(&url, &next)?;
                    if to.origin() != url.origin() {
                        let reason = format!("its list of tags goes on at {}", host_of(&to));
                        return Err(Error::Untrusted { host: repository.host(), reason });
                    }
                    url = to;
                }
                None => return Ok(all),
            }
        }
        Err(Error::Limit { host: repository.host(), what: "a list of tags", limit: MAX_TAGS })
    }
}

/// `<address>; rel="next"`, RFC 8288.
pub(crate) fn next_page(link: &str) -> Option<String> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then(|| address.to_owned())
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(Error::Io { operation: "run blocking work", source: std::io::Error::other(e) }),
    }
}

fn content(repository: &Repository, what: impl Into<String>, reason: &str) -> Error {
    Error::Content { host: repository.host(), what: what.into(), reason: reason.to_owned() }
}

fn is_for(platform: &Platform, config: &ImageConfiguration) -> bool {
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    platform.fits(&os, &architecture, config.variant().as_deref()).is_some()
}

/// The manifest for the platform, as it was sent, and the index that it was chosen from.
async fn resolve(
    repository: &Repository,
    reference: &ImageRef,
    platform: &Platform,
) -> Result<(Vec<u8>, ImageManifest, Option<Digest>)> {
    let mut selector = reference.selector();
    let (mut size, mut chosen_from) = (None, None);
    for _ in 0..MAX_NESTING {
        let bytes = manifest(repository, &selector, size).await?;
        let bad = |e: boxship_layers::Error| content(repository, &selector, &e.to_string());
        let index = match Document::parse(&bytes).map_err(bad)? {
            Document::Manifest(manifest) => return Ok((bytes, *manifest, chosen_from)),
            Document::Index(index) => index,
            _ => return Err(content(repository, &selector, "it is neither a manifest nor an index")),
        };
        let fit = |d: &Descriptor| {
            let p = d.platform().as_ref()?;
            platform.fits(&p.os().to_string(), &p.architecture().to_string(), p.variant().as_deref())
        };
        // The best, and of equals the first.
        let best = index.manifests().iter().rev().max_by_key(|d| fit(d)).filter(|d| fit(d).is_some());
        let best = best.ok_or_else(|| Error::NotFound {
            what: format!("{reference} for {platform}"),
            host: repository.host(),
            message: String::new(),
        })?;
        // The outermost is what somebody asks for.
        chosen_from = chosen_from.or_else(|| Some(Digest::of(&bytes)));
        selector = digest_of(repository, best)?.to_string();
        size = Some(best.size());
    }
    Err(content(repository, reference.to_string(), "its indexes are nested too deeply"))
}

fn digest_of(repository: &Repository, d: &Descriptor) -> Result<Digest> {
    d.digest()
        .to_string()
        .parse()
        .map_err(|e: boxship_layers::Error| content(repository, "a descriptor", &e.to_string()))
}

pub(crate) async fn manifest(repository: &Repository, selector: &str, size: Option<u64>) -> Result<Vec<u8>> {
    let url = repository.url(&format!("manifests/{selector}"))?;
    let what = format!("{}/{}:{selector}", repository.registry, repository.name);
    let call = Call::get(url, "ask for a manifest at", &what).accept(&MANIFESTS)?;
    let (headers, bytes) = repository.document(&call, MAX_DOCUMENT, "a manifest").await?;
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (kind, claimed) = (text(CONTENT_TYPE.as_str()), text("docker-content-digest"));
    let found = Digest::of(&bytes);
    let pinned = selector.parse::<Digest>().ok();
    // What was asked for counts; what the registry says of it must not contradict.
    let claimed = claimed.filter(|c| c.starts_with("sha256:")).map(|c| c.parse::<Digest>()).transpose();
    let claimed = claimed.map_err(|e| content(repository, &what, &e.to_string()))?;
    if let Some(want) = pinned.or(claimed).filter(|want| *want != found) {
        return Err(content(repository, &what, &format!("it has the digest {found} instead of {want}")));
    }
    if size.is_some_and(|n| n != bytes.len() as u64) {
        return Err(content(
            repository,
            &what,
            &format!("it has {} bytes instead of {}", bytes.len(), size.unwrap_or(0)),
        ));
    }
    // A type in the document has to be the type that it was sent as (CVE-2021-41190).
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| content(repository, &what, &e.to_string()))?;
    let kind = kind.map(|k| k.split(';').next().unwrap_or_default().trim().to_owned());
    let kind = kind.filter(|k| {
        !matches!(k.as_str(), "" | "application/json" | "text/plain" | "application/octet-stream")
    });
    if let (Some(kind), Some(own)) = (kind, value.get("mediaType").and_then(|m| m.as_str()))
        && kind != own
    {
        return Err(content(repository, &what, &format!("it is sent as {kind} and calls itself {own}")));
    }
    Ok(bytes)
}

/// A config: small, whole, verified.
async fn small_blob(repository: &Repository, d: &Descriptor) -> Result<Vec<u8>> {
    let digest = digest_of(repository, d)?;
    if d.size() > MAX_DOCUMENT {
        return Err(Error::Limit { host: repository.host(), what: "a config", limit: MAX_DOCUMENT });
    }
    let url = repository.url(&format!("blobs/{digest}"))?;
    let call = Call::get(url, "ask for a config at", digest.to_string());
    let (_, bytes) = repository.document(&call, MAX_DOCUMENT, "a config").await?;
    match Digest::of(&bytes) {
        found if found == digest && bytes.len() as u64 == d.size() => Ok(bytes),
        found => Err(content(
            repository,
            digest.to_string(),
            &format!("{} bytes with the digest {found} come", bytes.len()),
        )),
    }
}

/// A layer to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

fn parts(repository: &Repository, manifest: &ImageManifest, config: &[u8]) -> Result<Vec<Part>> {
    let bad = |reason: &str| content(repository, "the image", reason);
    let config: ImageConfiguration =
        serde_json::from_slice(config).map_err(|e| bad(&format!("its config does not parse: {e}")))?;
    let (layers, diff_ids) = (manifest.layers(), config.rootfs().diff_ids());
    if layers.len() != diff_ids.len() {
        return Err(bad(&format!("its manifest has {} layers, its config {}", layers.len(), diff_ids.len())));
    }
    if layers.len() > MAX_LAYERS {
        return Err(bad(&format!("it has {} layers, more than {MAX_LAYERS}", layers.len())));
    }
    let mut parts = Vec::new();
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let kind = layer.media_type().to_string();
        if !LAYERS.contains(&kind.as_str()) {
            return Err(bad(&format!("a layer is of the type {kind}, which cannot be unpacked")));
        }
        if layer.size() > MAX_LAYER {
            return Err(Error::Limit { host: repository.host(), what: "a layer", limit: MAX_LAYER });
        }
        let diff_id = diff_id.parse().map_err(|e: boxship_layers::Error| bad(&e.to_string()))?;
        let part = Part { digest: digest_of(repository, layer)?, size: layer.size(), diff_id };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    Ok(parts)
}

async fn fetch(
    repository: &Repository,
    add: &Arc<Addition>,
    parts: &[Part],
    digest: Digest,
    observe: Observer,
) -> Result<()> {
    let missing: Vec<Part> =
        parts.iter().filter(|p| !add.has_layer(&p.digest, &p.diff_id)).copied().collect();
    let bytes = missing.iter().map(|p| p.size).fold(0, u64::saturating_add);
    observe(PullEvent::Resolved { digest, layers: parts.len(), missing: missing.len(), bytes });
    let seats = Arc::new(Semaphore::new(AT_ONCE));
    let (stop, stopped) = watch::channel(());
    let mut stop = Some(stop);
    let mut all: JoinSet<Result<()>> = JoinSet::new();
    for part in missing {
        let (repository, add, observe, seats, stopped) =
            (repository.clone(), Arc::clone(add), Arc::clone(&observe), Arc::clone(&seats), stopped.clone());
        all.spawn(async move {
            let Ok(_seat) = seats.acquire_owned().await else { return Ok(()) };
            if layer(&repository, &add, part, &observe, stopped).await? {
                observe(PullEvent::Layer(part.digest));
            }
            Ok(())
        });
    }
    // The first error stops the others; when we return, nothing goes on.
    let mut first = Ok(());
    while let Some(done) = all.join_next().await {
        let result = match done {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(e) => Err(Error::Io { operation: "run a pull", source: std::io::Error::other(e) }),
        };
        if result.is_err() && first.is_ok() {
            first = result;
            stop = None;
            seats.close();
        }
    }
    drop(stop);
    first
}

/// What the unpacking thread reads: pieces, and then a word that this was all. A channel that just ends is
/// a pull that was given up.
enum Wire {
    Bytes(Bytes),
    End,
}

struct WireReader {
    input: mpsc::Receiver<Wire>,
    current: Bytes,
    ended: bool,
}

impl Read for WireReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match (self.ended, self.ended.then_some(Wire::End).or_else(|| self.input.blocking_recv())) {
                (true, _) => return Ok(0),
                (_, Some(Wire::Bytes(bytes))) => self.current = bytes,
                (_, Some(Wire::End)) => self.ended = true,
                (_, None) => {
                    let reason = "the download was given up";
                    return Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, reason));
                }
            }
        }
        let n = self.current.len().min(buf.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Ends when another layer has failed: then the sender is gone.
type Stopped = watch::Receiver<()>;

/// One fetches, the others wait and find it. Asking again, and not waiting in the kernel, can be given up.
async fn lock(add: &Addition, part: Part, stopped: &mut Stopped) -> Result<Option<LayerLock>> {
    let mut wait = Duration::from_millis(5);
    loop {
        if let Some(lock) = add.store().try_lock_layer(&part.digest)? {
            return Ok(Some(lock));
        }
        tokio::select! {
            _ = stopped.changed() => return Ok(None),
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_millis(100)),
        }
    }
}

/// Fetches and unpacks one layer, at the same time. False when it was stopped.
async fn layer(
    repository: &Repository,
    add: &Arc<Addition>,
    part: Part,
    observe: &Observer,
    mut stopped: Stopped,
) -> Result<bool> {
    let Some(lock) = lock(add, part, &mut stopped).await? else { return Ok(false) };
    if add.has_layer(&part.digest, &part.diff_id) {
        return Ok(true);
    }
    let (sender, input) = mpsc::channel(32);
    let unpack = tokio::task::spawn_blocking({
        let add = Arc::clone(add);
        move || {
            let reader = WireReader { input, current: Bytes::new(), ended: false };
            let expected =
                Expected { digest: Some(part.digest), size: Some(part.size), diff_id: Some(part.diff_id) };
            add.layer(reader, expected, &mut |_| true)
        }
    });
    // What is dropped here is also the sender: then the unpacking ends.
    let downloaded = tokio::select! {
        result = download(repository, part, sender, observe) => Some(result),
        _ = stopped.changed() => None,
    };
    let unpacked = match unpack.await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => return Err(Error::Io { operation: "run a pull", source: std::io::Error::other(e) }),
    };
    drop(lock);
    match (downloaded, unpacked) {
        (None, _) => Ok(false),
        (Some(Ok(())), Ok(_)) => Ok(true),
        // Nobody listened any more: the unpacking knows why.
        (Some(Ok(())), Err(e)) => Err(of_layer(repository, part, e)),
        (Some(Err(e)), _) => Err(e),
    }
}

fn of_layer(repository: &Repository, part: Part, e: boxship_layers::Error) -> Error {
    use boxship_layers::Error as E;
    match e {
        e @ (E::DigestMismatch { .. } | E::Archive { .. } | E::Limit { .. } | E::Invalid { .. }) => {
            content(repository, format!("layer {}", part.digest), &e.to_string())
        }
        e => e.into(),
    }
}

/// Sends the bytes of a layer on, whatever it takes: after a cut it goes on where it was.
async fn download(
    repository: &Repository,
    part: Part,
    sender: mpsc::Sender<Wire>,
    observe: &Observer,
) -> Result<()> {
    let url = repository.url(&format!("blobs/{}", part.digest))?;
    let what = format!("layer {}", part.digest);
    let at = AtomicU64::new(0);
    let mut cuts = 0;
    loop {
        let before = at.load(Ordering::Relaxed);
        match body(repository, &url, &what, part, &at, &sender, observe).await {
            Ok(true) => return Ok(()),
            // The unpacking has ended: it says why.
            Ok(false) => return Ok(()),
            Err(e @ (Error::Content { .. } | Error::Limit { .. })) => return Err(e),
            Err(e) => {
                // A byte for each connection is no progress.
                cuts = if at.load(Ordering::Relaxed) >= before + PROGRESS { 0 } else { cuts + 1 };
                if cuts >= CUTS || !matches!(e, Error::Network { .. }) {
                    return Err(e);
                }
                tracing::debug!(layer = %part.digest, error = %e, "goes on after a cut");
                tokio::time::sleep(pause(cuts, None)).await;
            }
        }
    }
}

/// One request; true when the layer is complete, false when nobody wants it any more.
async fn body(
    repository: &Repository,
    url: &reqwest::Url,
    what: &str,
    part: Part,
    at: &AtomicU64,
    sender: &mpsc::Sender<Wire>,
    observe: &Observer,
) -> Result<bool> {
    let from = at.load(Ordering::Relaxed);
    let mut call = Call::get(url.clone(), "ask for a layer at", what);
    if from > 0 {
        call = call.header(RANGE, &format!("bytes={from}-"))?;
    }
    let mut response = if from == part.size && from > 0 { None } else { Some(repository.call(&call).await?) };
    let mut skip = 0;
    if let Some(response) = &response {
        let header =
            |name| response.headers().get(name).and_then(|v: &reqwest::header::HeaderValue| v.to_str().ok());
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(CONTENT_RANGE).unwrap_or_default();
            if !range.starts_with(&format!("bytes {from}-")) {
                return Err(content(
                    repository,
                    what,
                    &format!("asked for bytes from {from} it sends {range:?}"),
                ));
            }
        } else {
            // The range was ignored: what we have comes again.
            skip = from;
            let length = header(CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
            if length.is_some_and(|n| n != part.size) {
                let reason = format!("{} bytes are announced instead of {}", length.unwrap_or(0), part.size);
                return Err(content(repository, what, &reason));
            }
        }
    }
    while let Some(r) = &mut response {
        let Some(mut bytes) = r.chunk().await.map_err(|e| lost("read a layer from", url, e))? else { break };
        let again = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
        skip -= again as u64;
        let _ = bytes.split_to(again);
        let done = at.load(Ordering::Relaxed) + bytes.len() as u64;
        if done > part.size {
            return Err(content(repository, what, &format!("more than its {} bytes come", part.size)));
        }
        if bytes.is_empty() {
            continue;
        }
        if sender.send(Wire::Bytes(bytes)).await.is_err() {
            return Ok(false);
        }
        at.store(done, Ordering::Relaxed);
        observe(PullEvent::Bytes { layer: part.digest, done, total: part.size });
    }
    if at.load(Ordering::Relaxed) < part.size {
        let source = "the connection ends before the layer does".into();
        return Err(Error::Network { operation: "read a layer from", host: host_of(url), source });
    }
    Ok(sender.send(Wire::End).await.is_ok())
}
