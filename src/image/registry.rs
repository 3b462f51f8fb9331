//! Images from registries and to them.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use boxship_registry::{
    Client, Credentials, ImageRef, Keyring, PullEvent, PullOptions, PullPolicy, PushEvent,
};
use tokio::sync::mpsc;

use super::{Image, ImageApi, Pending, Platform};
use crate::blocking;
use crate::error::{Error, Result};

/// The client of those who bring none: anonymous, TLS everywhere.
pub(crate) fn default_client() -> Result<Client> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    let client = Client::builder().build()?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

/// An image to be pulled. Await it, or follow it with [`events`](Pull::events).
///
/// ```no_run
/// # async fn f() -> Result<(), boxship::Error> {
/// use boxship::Image;
/// let alpine = Image::pull("alpine:3").await?;
/// let arm = Image::pull("alpine:3").platform("linux/arm64".parse()?).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`ErrorKind::Unreachable`](crate::ErrorKind) names the host that does not answer,
/// [`NotFound`](crate::ErrorKind), [`PermissionDenied`](crate::ErrorKind) for missing credentials,
/// [`InvalidData`](crate::ErrorKind) for content that is not what it has to be.
///
/// # Cancel safety
/// Dropping the future ends the pull; layers that were whole stay, so the next one goes on there.
#[derive(Debug)]
#[must_use = "a pull does nothing until it is awaited"]
pub struct Pull {
    api: ImageApi,
    name: String,
    options: PullOptions,
    client: Option<Client>,
    credentials: Option<Credentials>,
}

impl Pull {
    pub(crate) fn new(api: ImageApi, name: String) -> Pull {
        let options = PullOptions { policy: PullPolicy::Always, ..PullOptions::default() };
        Pull { api, name, options, client: None, credentials: None }
    }

    /// Sets which image of one for several platforms; this machine's by default. One in the store that is for
    /// another platform does not count then.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.options.platform = Some(platform);
        self
    }

    /// Sets when the registry is asked; always by default, and layers that are there are not fetched again.
    pub fn policy(mut self, policy: PullPolicy) -> Self {
        self.options.policy = policy;
        self
    }

    /// Uses this client: for registries without TLS or with an authority of their own, and for credentials
    /// of many.
    pub fn client(mut self, client: &Client) -> Self {
        self.client = Some(client.clone());
        self
    }

    /// Sets the credentials for the image's registry (with the default client).
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    async fn carry_out(self, observe: impl Fn(PullEvent) + Send + Sync + 'static) -> Result<Image> {
        let reference: ImageRef = self.name.parse()?;
        let client = client(self.client, self.credentials, &reference)?;
        let api = self.api;
        let engine = blocking::run(move || api.blocking_engine()).await?;
        let store = engine.runtime().store().clone();
        Ok(Image::new(client.pull(&store, &reference, &self.options, observe).await?))
    }

    /// Starts the pull on the caller's runtime and returns its events; the last one is
    /// [`PullProgress::Done`] or an error.
    ///
    /// # Drop
    /// Dropping the stream ends the pull.
    pub fn events(self) -> PullEvents {
        let (sender, receiver) = mpsc::channel(256);
        let task = tokio::spawn(async move {
            let told = sender.clone();
            // A slow reader misses numbers, not the end.
            let result =
                self.carry_out(move |event| drop(told.try_send(Ok(PullProgress::Event(event))))).await;
            let _ = sender.send(result.map(PullProgress::Done)).await;
        });
        PullEvents { receiver, task }
    }
}

fn client(own: Option<Client>, credentials: Option<Credentials>, reference: &ImageRef) -> Result<Client> {
    match (own, credentials) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("credentials", "a client of your own has its credentials; give them to it"))
        }
        (Some(client), None) => Ok(client),
        (None, Some(credentials)) => {
            let ring = Keyring::new().with(reference.registry(), credentials);
            Ok(Client::builder().credentials(ring).build()?)
        }
        (None, None) => default_client(),
    }
}

impl IntoFuture for Pull {
    type Output = Result<Image>;
    type IntoFuture = Pending<Image>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.carry_out(|_| {}))
    }
}

/// What happens during a pull.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PullProgress {
    /// Something on the way.
    Event(PullEvent),
    /// The image is there: the last event.
    Done(Image),
}

/// The events of a pull: a stream, and the same as a method.
#[derive(Debug)]
pub struct PullEvents {
    receiver: mpsc::Receiver<Result<PullProgress>>,
    task: tokio::task::JoinHandle<()>,
}

impl PullEvents {
    /// The next event; `None` after the last.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Option<Result<PullProgress>> {
        self.receiver.recv().await
    }
}

impl Drop for PullEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl futures_core::Stream for PullEvents {
    type Item = Result<PullProgress>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

type PushObserver = Arc<dyn Fn(PushEvent) + Send + Sync>;

/// An image to be pushed; await it. The result is the digest of its manifest.
///
/// # Errors
/// As [`Pull`]. The registry then has no new manifest.
///
/// # Cancel safety
/// Dropping the future ends the push; what has arrived stays with the registry.
#[must_use = "a push does nothing until it is awaited"]
pub struct Push {
    image: Image,
    to: String,
    client: Option<Client>,
    credentials: Option<Credentials>,
    observe: PushObserver,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("image", &self.image).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Push {
    /// As [`Pull::client`].
    pub fn client(mut self, client: &Client) -> Self {
        self.client = Some(client.clone());
        self
    }

    /// As [`Pull::credentials`].
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Is told what happens; it must not block.
    pub fn progress(mut self, observe: impl Fn(PushEvent) + Send + Sync + 'static) -> Self {
        self.observe = Arc::new(observe);
        self
    }
}

impl IntoFuture for Push {
    type Output = Result<String>;
    type IntoFuture = Pending<String>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let reference: ImageRef = self.to.parse()?;
            let client = client(self.client, self.credentials, &reference)?;
            let (store, digest) = (self.image.inner.store().clone(), self.image.digest());
            let observe = self.observe;
            let pushed = client.push(&store, &digest, &reference, move |event| observe(event)).await?;
            Ok(pushed.to_string())
        })
    }
}

impl Image {
    /// An image of a registry: `alpine`, `ghcr.io/org/app:1`, `host:5000/app@sha256:…`.
    pub fn pull(name: impl Into<String>) -> Pull {
        ImageApi::new(None).pull(name)
    }

    /// Copies it to a registry under this name.
    ///
    /// ```no_run
    /// # async fn f(image: boxship::Image) -> Result<(), boxship::Error> {
    /// use boxship::registry::Credentials;
    /// image.push("registry.example.com/team/app:1").credentials(Credentials::basic("me", "secret")).await?;
    /// # Ok(()) }
    /// ```
    pub fn push(&self, to: impl Into<String>) -> Push {
        Push {
            image: self.clone(),
            to: to.into(),
            client: None,
            credentials: None,
            observe: Arc::new(|_| {}),
        }
    }
}

impl ImageApi {
    /// As [`Image::pull`].
    pub fn pull(&self, name: impl Into<String>) -> Pull {
        Pull::new(self.clone(), name.into())
    }
}
