//! What all connections share, and the way of a request through it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;

use super::access::{Access, Need};
use super::answer::{Answer, Body, Refusal, Reply};
use super::body::Inbox;
use super::depot::Depot;
use super::route::{Query, Route, route};
use super::uploads::Uploads;
use super::upstream::Upstream;
use super::{blobs, lists, manifests, pushes, token};

/// What is allowed, and for how long.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) blob: u64,
    pub(super) connections: usize,
    pub(super) uploads: usize,
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) grace: Duration,
    pub(super) shutdown: Duration,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) depot: Depot,
    pub(super) uploads: Uploads,
    pub(super) access: Access,
    pub(super) limits: Limits,
    pub(super) read_only: bool,
    pub(super) upstream: Option<Upstream>,
    pub(super) tls: bool,
    /// Becomes true when the registry ends.
    pub(super) closing: watch::Receiver<bool>,
    /// One collection at a time.
    pub(super) collecting: tokio::sync::Mutex<()>,
}

/// A request without its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
}

impl Asked {
    /// A header that is text.
    pub(super) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether only the head of the answer is asked for.
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

pub(super) type Shared = Arc<State>;

impl State {
    /// Returns when the registry ends.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.closing.clone();
        async move {
            let _ = closing.wait_for(|closing| *closing).await;
        }
    }
}

/// Answers one request, whatever it is.
pub(super) async fn answer(state: Shared, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let asked =
        Asked { query: Query::parse(parts.uri.query()), method: parts.method, headers: parts.headers };
    let inbox = Inbox::new(body, state.limits.body);
    let method = asked.method.clone();
    let result = handle(&state, &path, asked, inbox).await;
    let answer = result.unwrap_or_else(|refusal| {
        tracing::debug!(%method, path, status = refusal.status().as_u16(), "refused");
        refusal.into_answer()
    });
    // A browser must not take what somebody pushed for a page.
    let answer = answer.named("x-content-type-options", "nosniff");
    Ok(answer.named("docker-distribution-api-version", "registry/2.0").finish())
}

async fn handle(state: &Shared, path: &str, asked: Asked, inbox: Inbox) -> Reply {
    let route = route(path)?;
    if route == Route::Token {
        return token::issue(state, &asked, inbox).await;
    }
    // Who may not see a thing does not learn whether it is there, nor what may be done to it.
    let who = state.access.check(&asked, &need(&route, &asked.method), state.tls)?;
    let reading = matches!(asked.method, Method::GET | Method::HEAD);
    if !reading && (state.read_only || state.upstream.is_some()) {
        return Err(Refusal::unsupported("the registry is read-only"));
    }
    match (&route, &asked.method) {
        (Route::Base, _) if reading => Ok(Answer::json(&serde_json::json!({}))),
        (Route::Catalog, _) if reading => lists::catalog(state, &asked).await,
        (Route::Tags(name), _) if reading => lists::tags(state, &asked, name).await,
        (Route::Referrers(name, digest), _) if reading => lists::referrers(state, &asked, name, digest).await,
        (Route::Blob(name, digest), _) if reading => blobs::get(state, &asked, name, digest).await,
        (Route::Blob(name, digest), &Method::DELETE) => blobs::delete(state, name, digest).await,
        (Route::Manifest(name, r), _) if reading => manifests::get(state, &asked, name, r).await,
        (Route::Manifest(name, r), &Method::PUT) => manifests::put(state, &asked, name, r, inbox).await,
        (Route::Manifest(name, r), &Method::DELETE) => manifests::delete(state, name, r).await,
        (Route::Uploads(name), &Method::POST) => pushes::begin(state, &asked, &who, name, inbox).await,
        (Route::Upload(name, id), _) if reading => pushes::status(state, name, id).await,
        (Route::Upload(name, id), &Method::PATCH) => pushes::add(state, &asked, name, id, inbox).await,
        (Route::Upload(name, id), &Method::PUT) => pushes::finish(state, &asked, name, id, inbox).await,
        (Route::Upload(name, id), &Method::DELETE) => pushes::cancel(state, name, id).await,
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "that cannot be done to it")),
    }
}

/// What a request needs to be allowed.
fn need(route: &Route, method: &Method) -> Need {
    let action = match *method {
        Method::GET | Method::HEAD => "pull",
        Method::DELETE => "delete",
        _ => "push",
    };
    match route {
        Route::Base | Route::Token => Need::Anyone,
        Route::Catalog => Need::Catalog,
        // Its state is nothing for those who only pull, and to cancel an upload is a part of pushing.
        Route::Uploads(name) | Route::Upload(name, _) => Need::Repository(name.clone(), "push"),
        Route::Tags(name) | Route::Manifest(name, _) | Route::Blob(name, _) | Route::Referrers(name, _) => {
            Need::Repository(name.clone(), action)
        }
    }
}
