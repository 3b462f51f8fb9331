//! The transport: one request with everything that may go wrong on its way.

mod abroad;
mod token;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use crate::auth::{Anonymous, CredentialProvider};
use crate::error::{Error, Result};
use crate::reference::ImageRef;
use crate::tls;

const MAX_ERROR: u64 = 64 << 10;
const MAX_REDIRECTS: usize = 5;
const ATTEMPTS: u32 = 5;
/// The longest wait that a registry may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Makes a [`Client`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct ClientBuilder {
    plain: BTreeSet<String>,
    token_services: BTreeMap<String, String>,
    authorities: Vec<Vec<u8>>,
    credentials: Arc<dyn CredentialProvider>,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

/// A client of registries; cheap to clone. Nothing is sent before the first request.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// For the registries that are named.
    home: Transport,
    /// For other hosts that these send us to.
    abroad: Transport,
    stall_timeout: Duration,
    plain: BTreeSet<String>,
    token_services: BTreeMap<String, String>,
    credentials: Arc<dyn CredentialProvider>,
    /// By registry and scope.
    tokens: Mutex<HashMap<(String, String), (Secret, Instant)>>,
}

#[derive(Debug)]
struct Transport {
    http: reqwest::Client,
    /// For bodies that we send: there the time that a registry may say nothing begins with the last byte.
    uploads: reqwest::Client,
}

/// The value of an `Authorization` header. No log shows it.
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Default for ClientBuilder {
    fn default() -> ClientBuilder {
        ClientBuilder {
            plain: BTreeSet::new(),
            token_services: BTreeMap::new(),
            authorities: Vec::new(),
            credentials: Arc::new(Anonymous),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl ClientBuilder {
    /// Talks to this registry (host and port) without TLS. Everybody on the way can read and change what
    /// is not pinned by digest, and read the credentials.
    pub fn plain_http(mut self, registry: impl Into<String>) -> Self {
        self.plain.insert(registry.into().to_lowercase());
        self
    }

    /// Shows the credentials of this registry to a token service on another host or port, too. Without this
    /// they go to the registry itself, and of Docker Hub and GitLab to their token services.
    pub fn token_service(mut self, registry: impl Into<String>, service: impl Into<String>) -> Self {
        self.token_services.insert(registry.into().to_lowercase(), service.into().to_lowercase());
        self
    }

    /// Trusts these certificate authorities (PEM) besides the system's.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Sets where credentials come from; nobody's by default.
    pub fn credentials(mut self, provider: impl CredentialProvider + 'static) -> Self {
        self.credentials = Arc::new(provider);
        self
    }

    /// Sets how long a connection may take; 10 seconds by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a registry may send nothing; 30 seconds by default.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Invalid`] for certificates that do not parse.
    pub fn build(self) -> Result<Client> {
        let tls = tls::config(&self.authorities)?;
        let basics = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(self.connect_timeout)
                // The environment of the embedding program has no say.
                .no_proxy()
                .user_agent(concat!("boxship/", env!("CARGO_PKG_VERSION")))
        };
        let bad = |e: reqwest::Error| Error::invalid("client", e.to_string());
        let transport = |kind: &dyn Fn() -> reqwest::ClientBuilder| -> Result<Transport> {
            let http = kind().read_timeout(self.stall_timeout).build().map_err(bad)?;
            Ok(Transport { http, uploads: kind().build().map_err(bad)? })
        };
        let inner = Inner {
            home: transport(&basics)?,
            abroad: transport(&|| basics().dns_resolver(abroad::PublicOnly))?,
            stall_timeout: self.stall_timeout,
            plain: self.plain,
            token_services: self.token_services,
            credentials: self.credentials,
            tokens: Mutex::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// For errors: what is asked, and about what.
    pub(crate) operation: &'static str,
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
}

/// One repository of one registry.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) client: Client,
    pub(crate) registry: String,
    pub(crate) name: String,
    base: Url,
    /// "pull" or "pull,push".
    access: &'static str,
}

impl Call {
    pub(crate) fn get(url: Url, operation: &'static str, subject: impl Into<String>) -> Call {
        let subject = subject.into();
        Call { method: Method::GET, url, operation, subject, headers: HeaderMap::new(), body: None }
    }

    pub(crate) fn method(mut self, method: Method) -> Call {
        self.method = method;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Result<Call> {
        let value = HeaderValue::from_str(value).map_err(|e| Error::invalid("header", e.to_string()))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(crate) fn accept(self, types: &[&str]) -> Result<Call> {
        self.header(ACCEPT, &types.join(", "))
    }

    pub(crate) fn body(mut self, kind: &str, bytes: Vec<u8>) -> Result<Call> {
        self.body = Some(bytes);
        self.header(CONTENT_TYPE, kind)
    }
}

pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn network(operation: &'static str, url: &Url, e: reqwest::Error) -> Error {
    // The address is in the error already, and a signed one is a secret.
    Error::Network { operation, host: host_of(url), source: Box::new(e.without_url()) }
}

fn random() -> f64 {
    let mut bytes = [0u8; 4];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// How long to wait before the next attempt: what the registry asks for, else longer and longer, and never
/// all at once.
pub(crate) fn pause(attempt: u32, headers: Option<&HeaderMap>) -> Duration {
    let asked = headers
        .and_then(|h| h.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u64>().ok())
        .map(Duration::from_secs);
    let own = Duration::from_millis(100).mul_f64(f64::from(1u32 << attempt.min(6)) * (0.5 + random()));
    asked.unwrap_or(own).min(MAX_WAIT)
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

impl Client {
    /// A client to be.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn repository(&self, r: &ImageRef, access: &'static str) -> Result<Repository> {
        let scheme = if self.inner.plain.contains(r.registry()) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/v2/{}/", r.host(), r.repository()))
            .map_err(|e| Error::invalid("image reference", e.to_string()))?;
        let (registry, name) = (r.registry().to_owned(), r.repository().to_owned());
        Ok(Repository { client: self.clone(), registry, name, base, access })
    }

    /// A small body as a whole: one that comes byte by byte never stalls and never ends.
    async fn in_time<T>(&self, url: &Url, body: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.inner.stall_timeout * 4;
        tokio::time::timeout(limit, body).await.unwrap_or_else(|_| {
            let source = format!("a small document takes longer than {limit:?}").into();
            Err(Error::Network { operation: "read from", host: host_of(url), source })
        })
    }

    /// What an error body says; nothing where it takes long.
    async fn message(&self, response: &mut Response) -> String {
        tokio::time::timeout(self.inner.stall_timeout, message(response)).await.unwrap_or_default()
    }
}

impl Repository {
    pub(crate) fn host(&self) -> String {
        host_of(&self.base)
    }

    /// An address below the repository.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        self.base.join(path).map_err(|e| Error::invalid("image reference", e.to_string()))
    }

    /// What carries a request there. A registry that is inside itself has its storage and token service there.
    async fn transport(&self, url: &Url) -> &Transport {
        let inner = &self.client.inner;
        let home = url.host_str() == self.base.host_str() || abroad::is_inside(&self.base).await;
        if home { &inner.home } else { &inner.abroad }
    }

    /// Where the registry points to, checked: TLS is kept, and no machine inside is reached that is not the
    /// registry itself.
    pub(crate) fn follow(&self, from: &Url, location: &str) -> Result<Url> {
        let refuse = |reason: String| Error::Untrusted { host: self.host(), reason };
        let to = from.join(location).map_err(|e| refuse(format!("{location:?} is no address: {e}")))?;
        let known = |url: &Url| url.host_str() == self.base.host_str();
        let plain = to.scheme() == "http" && self.base.scheme() == "http";
        if to.scheme() != "https" && !plain {
            return Err(refuse(format!("it points to {}://{}", to.scheme(), host_of(&to))));
        }
        if !known(&to) && abroad::is_internal(&to) {
            return Err(refuse(format!("it points to {}, an address that is not public", host_of(&to))));
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(refuse("it points to an address with credentials".into()));
        }
        Ok(to)
    }

    /// The call's answer if it is a success: authorised, redirected and repeated as needed.
    pub(crate) async fn call(&self, call: &Call) -> Result<Response> {
        Ok(self.repeated(call, None).await?.0)
    }

    /// The same with its body, which is small: also one that breaks off is asked for again.
    pub(crate) async fn document(
        &self,
        call: &Call,
        max: u64,
        what: &'static str,
    ) -> Result<(HeaderMap, Vec<u8>)> {
        let (response, bytes) = self.repeated(call, Some((max, what))).await?;
        Ok((response.headers().clone(), bytes))
    }

    /// With the body if it is said how large that may be, and what it is.
    async fn repeated(&self, call: &Call, body: Option<(u64, &'static str)>) -> Result<(Response, Vec<u8>)> {
        let mut attempt = 0;
        loop {
            let last = attempt + 1 >= ATTEMPTS;
            let result = match self.once(call).await {
                Ok(response) if is_temporary(response.status()) && !last => {
                    tokio::time::sleep(pause(attempt, Some(response.headers()))).await;
                    attempt += 1;
                    continue;
                }
                Ok(mut response) if response.status().is_success() => match body {
                    None => return Ok((response, Vec::new())),
                    Some((max, what)) => {
                        let url = response.url().clone();
                        let bytes = self.client.in_time(&url, bounded(&mut response, max, what, &url)).await;
                        bytes.map(|bytes| (response, bytes))
                    }
                },
                Ok(response) => return Err(self.refused(call, response).await),
                Err(e) => Err(e),
            };
            match result {
                // Where nobody is, asking again would only take longer to say so.
                Err(Error::Network { source, .. }) if !last && !is_connect(&*source) => {
                    tracing::debug!(attempt, error = %source, "asked again");
                    tokio::time::sleep(pause(attempt, None)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// One attempt: with the token at hand, and once more with a new one.
    async fn once(&self, call: &Call) -> Result<Response> {
        let mut authorization = self.cached();
        for fresh in [false, true] {
            let response = self.redirected(call, authorization.as_ref()).await?;
            // What another host asks for, to which the registry has sent us, is not for it to say.
            let home = response.url().origin() == self.base.origin();
            if response.status() != StatusCode::UNAUTHORIZED || fresh || !home {
                return Ok(response);
            }
            match self.authorize(&response).await? {
                Some(header) => authorization = Some(header),
                None => return Ok(response),
            }
        }
        Err(Error::Untrusted { host: self.host(), reason: "it asks for authorization without end".into() })
    }

    async fn redirected(&self, call: &Call, authorization: Option<&HeaderValue>) -> Result<Response> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let http = &self.transport(&url).await.http;
            let mut request = http.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            // To another place the registry's credentials do not go.
            let home = url.origin() == self.base.origin();
            if let Some(value) = authorization.filter(|_| home) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|e| self.unsent(call.operation, &url, e))?;
            let status = response.status();
            let moved = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
            if !moved || call.method != Method::GET && call.method != Method::HEAD {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
            url = self.follow(&url, location)?;
        }
        let reason = format!("it redirects more than {MAX_REDIRECTS} times");
        Err(Error::Untrusted { host: self.host(), reason })
    }

    /// Why a request got no answer.
    pub(crate) fn unsent(&self, operation: &'static str, url: &Url, e: reqwest::Error) -> Error {
        match abroad::led_inside(&e) {
            Some(reason) => Error::Untrusted { host: self.host(), reason: format!("it points to {reason}") },
            None => network(operation, url, e),
        }
    }

    fn operation(&self) -> &'static str {
        if self.access.contains("push") { "push" } else { "pull" }
    }

    pub(crate) async fn refused(&self, call: &Call, mut response: Response) -> Error {
        let status = response.status().as_u16();
        let host = host_of(response.url());
        let message = self.client.message(&mut response).await;
        match status {
            401 | 403 => {
                Error::Unauthorized { operation: self.operation(), host, what: self.name.clone(), message }
            }
            404 => Error::NotFound { what: call.subject.clone(), host, message },
            _ => Error::Status { operation: call.operation, host, status, message },
        }
    }

    /// How long a registry may say nothing.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.client.inner.stall_timeout
    }

    /// The body of a request that streams: sent once, with the token at hand. How long that may take is the
    /// caller's to watch.
    pub(crate) async fn streaming(&self, method: Method, url: Url) -> RequestBuilder {
        let home = url.origin() == self.base.origin();
        let request = self.transport(&url).await.uploads.request(method, url);
        match self.cached().filter(|_| home) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }
}

pub(crate) fn is_connect(e: &(dyn std::error::Error + 'static)) -> bool {
    e.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}

pub(crate) fn lost(operation: &'static str, url: &Url, e: reqwest::Error) -> Error {
    network(operation, url, e)
}

async fn bounded(response: &mut Response, max: u64, what: &'static str, url: &Url) -> Result<Vec<u8>> {
    let host = || host_of(url);
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > max) {
        return Err(Error::Limit { host: host(), what, limit: max });
    }
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|e| network("read from", url, e))? {
        if (bytes.len() + part.len()) as u64 > max {
            return Err(Error::Limit { host: host(), what, limit: max });
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// What an error body says, one line without control characters.
async fn message(response: &mut Response) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        bytes.extend_from_slice(&part);
        if bytes.len() as u64 > MAX_ERROR {
            break;
        }
    }
    let text = match serde_json::from_slice::<Body>(&bytes) {
        Ok(body) => {
            body.errors.iter().map(|e| format!("{} {}", e.code, e.message)).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::new(),
    };
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
