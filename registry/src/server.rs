//! A registry: the OCI distribution specification, version 1.1, served from a directory.

mod access;
mod answer;
mod blobs;
mod body;
mod collect;
mod depot;
mod disk;
mod listen;
mod lists;
mod manifest;
mod manifests;
mod name;
mod pushes;
mod range;
mod route;
mod state;
mod token;
mod uploads;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxship_layers::Durability;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub use access::{Rights, Users};
pub use collect::Swept;
pub use token::TokenAuth;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::pull::blocking;
use access::Access;
use depot::Depot;
use state::{Limits, Shared, State};
use uploads::Uploads;
use upstream::Upstream;

/// A registry that this process serves.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # let dir = std::env::temp_dir().join(format!("boxship-registry-doc-{}", std::process::id()));
/// # runtime.block_on(async {
/// use boxship_registry::Registry;
/// let registry = Registry::builder().root(&dir).bind("127.0.0.1:0").spawn().await?;
/// println!("push to {}/team/app:1", registry.address());
/// registry.shutdown().await;
/// # Ok::<(), boxship_registry::Error>(())
/// # })?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Registry(());

impl Registry {
    /// A registry to be: without TLS and for everybody, until it is told otherwise.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder::default()
    }
}

/// Starts a [`Registry`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until spawn() is called"]
pub struct RegistryBuilder {
    root: Option<PathBuf>,
    bind: String,
    durability: Durability,
    certificate: Option<(Vec<u8>, Secret)>,
    users: Option<Users>,
    tokens: Option<TokenAuth>,
    upstream: Option<(Client, String)>,
    fresh: Duration,
    read_only: bool,
    collect_every: Option<Duration>,
    limits: Limits,
}

/// A private key. No log shows it.
#[derive(Clone)]
struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Default for RegistryBuilder {
    fn default() -> RegistryBuilder {
        let day = Duration::from_secs(24 * 3600);
        RegistryBuilder {
            root: None,
            bind: "127.0.0.1:0".into(),
            durability: Durability::Full,
            certificate: None,
            users: None,
            tokens: None,
            upstream: None,
            fresh: Duration::ZERO,
            read_only: false,
            collect_every: None,
            limits: Limits {
                blob: 64 << 30,
                connections: 256,
                uploads: 1000,
                header: Duration::from_secs(30),
                body: Duration::from_secs(60),
                grace: day,
                shutdown: Duration::from_secs(30),
            },
        }
    }
}

impl RegistryBuilder {
    /// The directory in which everything is kept; it is made if needed. One server at a time has it.
    pub fn root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = Some(directory.into());
        self
    }

    /// Address and port to listen at; by default a free port that only this machine reaches.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.bind = address.into();
        self
    }

    /// What a success means; by default that what was pushed survives a power cut.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Speaks TLS, with this certificate (and those between it and the authority) and its key, both PEM.
    pub fn tls(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some((certificates.into(), Secret(key.into())));
        self
    }

    /// Lets in these only, who say their passwords with every request. Without TLS everybody on the way
    /// reads them.
    pub fn basic_auth(mut self, users: Users) -> Self {
        (self.users, self.tokens) = (Some(users), None);
        self
    }

    /// Lets in these only, who get tokens for their passwords.
    pub fn token_auth(mut self, users: Users, tokens: TokenAuth) -> Self {
        (self.users, self.tokens) = (Some(users), Some(tokens));
        self
    }

    /// Becomes a cache of another registry (`docker.io`, or host and port): what is missing comes from there,
    /// and nothing can be pushed.
    pub fn pull_through(mut self, client: &Client, registry: impl Into<String>) -> Self {
        self.upstream = Some((client.clone(), registry.into()));
        self
    }

    /// How long a cache believes a tag before it asks again; by default not at all.
    pub fn fresh(mut self, time: Duration) -> Self {
        self.fresh = time;
        self
    }

    /// Refuses everything that changes something.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The largest blob; 64 GiB by default.
    pub fn max_blob(mut self, bytes: u64) -> Self {
        self.limits.blob = bytes;
        self
    }

    /// Connections at once, others wait; 256 by default.
    pub fn max_connections(mut self, n: usize) -> Self {
        self.limits.connections = n.clamp(1, 1 << 20);
        self
    }

    /// Unfinished uploads of one repository; 1000 by default.
    pub fn max_uploads(mut self, n: usize) -> Self {
        self.limits.uploads = n;
        self
    }

    /// How long a client may take for the head of a request, and be silent between two; 30 seconds by default.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.limits.header = timeout;
        self
    }

    /// How long a client may neither send nor take anything of a body, and be slower than 1 KiB a second;
    /// a minute by default.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits.body = timeout;
        self
    }

    /// How long blobs that no manifest references, and uploads that nobody goes on with, are kept from a
    /// collection; a day by default. It has to be longer than a push may take.
    pub fn grace(mut self, time: Duration) -> Self {
        self.limits.grace = time;
        self
    }

    /// Collects this often; by default only when [`RegistryHandle::collect`] is called.
    pub fn collect_every(mut self, interval: Duration) -> Self {
        self.collect_every = Some(interval);
        self
    }

    /// How long requests may still take once the registry is told to end; 30 seconds by default.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.limits.shutdown = timeout;
        self
    }

    /// Starts it on the current tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a missing root, certificates, keys, users and an upstream that are none;
    /// [`Error::Io`] when the directory or the address cannot be had, or another server has them.
    pub async fn spawn(self) -> Result<RegistryHandle> {
        let root = self.root.ok_or_else(|| Error::invalid("registry", "it has no root directory"))?;
        let tls = self.certificate.map(|(certificate, key)| acceptor(&certificate, &key.0)).transpose()?;
        let access = Access::new(self.users, self.tokens)?;
        let fresh = self.fresh;
        let upstream = self.upstream.map(|(client, registry)| Upstream::new(client, registry, fresh));
        let upstream = upstream.transpose()?;
        let durability = self.durability;
        let depot = blocking(move || Depot::open(&root, durability)).await?;
        let bind = |source| Error::Io { operation: "listen at the registry's address", source };
        let listener = tokio::net::TcpListener::bind(&self.bind).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (close, closing) = watch::channel(false);
        let state = Arc::new(State {
            depot,
            uploads: Uploads::default(),
            access,
            limits: self.limits,
            read_only: self.read_only,
            upstream,
            tls: tls.is_some(),
            closing,
            collecting: tokio::sync::Mutex::default(),
        });
        if let Some(interval) = self.collect_every {
            tokio::spawn(collect_again(state.clone(), interval));
        }
        let server = tokio::spawn(listen::run(listener, state.clone(), tls));
        Ok(RegistryHandle { address, state, close, server: Some(server) })
    }
}

fn acceptor(certificates: &[u8], key: &[u8]) -> Result<TlsAcceptor> {
    let bad = |what, reason: &dyn ToString| Error::invalid(what, reason.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| bad("certificate", &e))?;
    if chain.is_empty() {
        return Err(Error::invalid("certificate", "it is not a PEM certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad("key", &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", &e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad("certificate", &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn collect(state: &Shared) -> Result<Swept> {
    let _alone = state.collecting.lock().await;
    let state = state.clone();
    blocking(move || {
        collect::collect(&state.depot, &state.uploads, state.limits.grace)
            .map_err(|source| Error::Io { operation: "collect what the registry does not need", source })
    })
    .await
}

async fn collect_again(state: Shared, interval: Duration) {
    loop {
        tokio::select! {
            () = state.closed() => return,
            () = tokio::time::sleep(interval) => match collect(&state).await {
                Ok(swept) => tracing::debug!(?swept, "collected"),
                Err(error) => tracing::warn!(%error, "nothing was collected"),
            },
        }
    }
}

/// A running [`Registry`].
///
/// # Drop
/// Tells it to end, as [`shutdown`](RegistryHandle::shutdown) does, and does not wait.
#[derive(Debug)]
#[must_use = "the registry ends when this is dropped"]
pub struct RegistryHandle {
    address: SocketAddr,
    state: Shared,
    close: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
}

impl RegistryHandle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Removes uploads that nobody goes on with, and blobs that no manifest of their repository references,
    /// when they are older than the builder's `grace`. Others may push and pull meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`]; what was removed by then is gone, and nothing else.
    pub async fn collect(&self) -> Result<Swept> {
        collect(&self.state).await
    }

    /// Takes no more connections, lets requests end (as long as the builder's `shutdown_timeout`), and returns
    /// when nothing of it runs any more: another server may then have its directory.
    pub async fn shutdown(mut self) {
        let _ = self.close.send(true);
        if let Some(server) = self.server.take() {
            let _ = server.await;
        }
    }
}

impl Drop for RegistryHandle {
    fn drop(&mut self) {
        let _ = self.close.send(true);
    }
}
