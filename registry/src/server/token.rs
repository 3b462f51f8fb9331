//! Tokens: asked for at `/token` with a name and a password, signed by the server, and verified by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL};
use hyper::{Method, StatusCode};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{basic_challenge, pair, scheme, unauthorized};
use super::answer::{Answer, Refusal, Reply};
use super::body::Inbox;
use super::name::fill;
use super::route::Query;
use super::state::{Asked, Shared};
use crate::error::{Error, Result};

/// `{"alg":"HS256","typ":"JWT"}`: the only one that is made, and the only one that is believed.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
const ISSUER: &str = "boxship";
/// What is read of a form.
const MAX_FORM: u64 = 64 << 10;
/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;
/// Scopes of one token.
const MAX_SCOPES: usize = 64;
/// How long a client may come back without the password.
const REFRESH: Duration = Duration::from_secs(30 * 24 * 3600);

/// How tokens are made.
///
/// ```
/// use boxship_registry::TokenAuth;
/// use std::time::Duration;
/// let tokens = TokenAuth::new().service("registry.example").lifetime(Duration::from_secs(300));
/// # drop(tokens);
/// ```
#[derive(Clone)]
#[must_use = "it does nothing until a registry has it"]
pub struct TokenAuth {
    realm: Option<String>,
    service: String,
    key: Option<Vec<u8>>,
    lifetime: Duration,
}

impl Default for TokenAuth {
    fn default() -> TokenAuth {
        let lifetime = Duration::from_secs(300);
        TokenAuth { realm: None, service: "boxship-registry".into(), key: None, lifetime }
    }
}

impl std::fmt::Debug for TokenAuth {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TokenAuth { realm, service, lifetime, key: _ } = self;
        let mut f = f.debug_struct("TokenAuth");
        f.field("realm", realm).field("service", service).field("lifetime", lifetime).finish_non_exhaustive()
    }
}

impl TokenAuth {
    /// Tokens for five minutes, from `/token` of the registry itself, with a new key for every start.
    pub fn new() -> TokenAuth {
        TokenAuth::default()
    }

    /// Where clients are told to get tokens; by default `/token` of the host that they asked.
    pub fn realm(mut self, url: impl Into<String>) -> Self {
        self.realm = Some(url.into());
        self
    }

    /// The name of the service that tokens are for.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = name.into();
        self
    }

    /// The key that signs (HMAC-SHA256), at least 32 bytes: with it, tokens outlive a restart, and another
    /// service may make them.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long a token is good for.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) actions: Vec<String>,
}

impl Grant {
    pub(super) fn covers(&self, kind: &str, name: &str, action: &str) -> bool {
        self.kind == kind && self.name == name && self.actions.iter().any(|a| a == action || a == "*")
    }

    /// `repository:team/app:pull,push`; the name may have colons of a port.
    fn parse(scope: &str) -> Option<Grant> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let actions = actions.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
        Some(Grant { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    access: Vec<Grant>,
}

/// What signs and verifies.
pub(super) struct Tokens {
    realm: Option<String>,
    service: String,
    key: hmac::Key,
    lifetime: Duration,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Tokens {
    pub(super) fn new(options: TokenAuth) -> Result<Tokens> {
        let text = |what, text: &str| {
            let plain =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
            if plain {
                Ok(())
            } else {
                Err(Error::invalid(what, format!("{text:?} cannot be in a challenge")))
            }
        };
        text("service", &options.service)?;
        options.realm.as_deref().map(|realm| text("realm", realm)).transpose()?;
        let key = match options.key {
            Some(key) if key.len() >= 32 => key,
            Some(_) => return Err(Error::invalid("key", "it has less than 32 bytes")),
            None => {
                let mut key = vec![0; 32];
                fill(&mut key).map_err(|source| Error::Io { operation: "get random numbers", source })?;
                key
            }
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Tokens { realm: options.realm, service: options.service, key, lifetime: options.lifetime })
    }

    /// Says where a token is to be had.
    pub(super) fn challenge(&self, host: Option<&str>, tls: bool) -> String {
        let plain = |h: &&str| {
            !h.is_empty() && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
        };
        let own = || {
            let host = host.filter(plain).unwrap_or("localhost");
            format!("{}://{host}/token", if tls { "https" } else { "http" })
        };
        let realm = self.realm.clone().unwrap_or_else(own);
        format!("Bearer realm=\"{realm}\",service=\"{}\"", self.service)
    }

    fn sign(&self, user: &str, audience: String, life: Duration, access: Vec<Grant>) -> Reply<String> {
        let now = now();
        let exp = now.saturating_add(life.as_secs());
        let claims = Claims {
            iss: ISSUER.into(),
            sub: user.to_owned(),
            aud: audience,
            exp,
            nbf: now,
            iat: now,
            access,
        };
        let claims = serde_json::to_vec(&claims).map_err(std::io::Error::other)?;
        let text = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&self.key, text.as_bytes());
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())))
    }

    /// What the token says, if it is one of ours and in its time.
    fn claims(&self, token: &str, audience: &str) -> Option<Claims> {
        let (text, tag) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN)?;
        let (header, claims) = text.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, text.as_bytes(), &tag).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = now();
        // Another service that has the key may have another clock.
        let good = header == HEADER
            && claims.iss == ISSUER
            && claims.aud == audience
            && now < claims.exp
            && claims.nbf <= now.saturating_add(60);
        good.then_some(claims)
    }

    pub(super) fn verify(&self, token: &str) -> Option<Vec<Grant>> {
        Some(self.claims(token, &self.service)?.access)
    }

    fn refresh_audience(&self) -> String {
        format!("{} refresh", self.service)
    }
}

/// The endpoint: `GET` with `Basic`, or `POST` of an OAuth 2 form.
pub(super) async fn issue(state: &Shared, asked: &Asked, inbox: Inbox) -> Reply {
    let access = &state.access;
    let nothing = || Refusal::not_found("UNSUPPORTED", "there is no such endpoint");
    let tokens = access.tokens.as_ref().ok_or_else(nothing)?;
    let denied = || unauthorized(basic_challenge());
    let form;
    let (user, query, offline) = if asked.method == Method::POST {
        let bytes = inbox.whole(MAX_FORM).await?;
        form = Query::parse(std::str::from_utf8(&bytes).ok());
        let field = |name| form.get(name).unwrap_or_default();
        let user = match field("grant_type") {
            "password" => access.user(field("username"), field("password")),
            "refresh_token" => {
                let claims = tokens.claims(field("refresh_token"), &tokens.refresh_audience());
                claims.map(|c| c.sub).filter(|user| access.knows(user))
            }
            _ => return Err(Refusal::bad_request("UNSUPPORTED", "the grant type is not known")),
        };
        (Some(user.ok_or_else(denied)?), &form, form.get("access_type") == Some("offline"))
    } else if asked.method == Method::GET {
        let user = match asked.headers.get(AUTHORIZATION) {
            Some(value) => {
                let pair = value.to_str().ok().and_then(|v| scheme(v, "basic")).and_then(pair);
                let user = pair.and_then(|(name, password)| access.user(&name, &password));
                Some(user.ok_or_else(denied)?)
            }
            None => None,
        };
        (user, &asked.query, asked.query.get("offline_token") == Some("true"))
    } else {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "that cannot be done to it"));
    };
    if user.is_none() && !access.has_anonymous() {
        return Err(denied());
    }
    let scopes = query.all("scope").flat_map(|s| s.split(' ')).filter_map(Grant::parse).take(MAX_SCOPES);
    let grants: Vec<Grant> = scopes.map(|wanted| access.grant(user.as_deref(), &wanted)).collect();
    let name = user.clone().unwrap_or_default();
    let token = tokens.sign(&name, tokens.service.clone(), tokens.lifetime, grants)?;
    let mut body = json!({"token": token, "access_token": token, "expires_in": tokens.lifetime.as_secs()});
    if offline && user.is_some() {
        let refresh = tokens.sign(&name, tokens.refresh_audience(), REFRESH, Vec::new())?;
        body["refresh_token"] = json!(refresh);
    }
    Ok(Answer::json(&body).header(CACHE_CONTROL, "no-store"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_believed_as_they_were_made() {
        let tokens = Tokens::new(TokenAuth::new().key([7; 32])).expect("valid");
        let grant = Grant::parse("repository:h:5000/a:pull,push").expect("a scope");
        assert_eq!((grant.name.as_str(), grant.actions.len()), ("h:5000/a", 2));
        let life = Duration::from_secs(60);
        let token = tokens.sign("me", tokens.service.clone(), life, vec![grant.clone()]).expect("signed");
        assert_eq!(tokens.verify(&token), Some(vec![grant]));
        let other = Tokens::new(TokenAuth::new().key([8; 32])).expect("valid");
        assert_eq!(other.verify(&token), None, "another key");
        let service = Tokens::new(TokenAuth::new().key([7; 32]).service("x")).expect("valid");
        assert_eq!(service.verify(&token), None, "another service");
        let old = tokens.sign("me", tokens.service.clone(), Duration::ZERO, vec![]).expect("signed");
        assert_eq!(tokens.verify(&old), None, "over");
        let refresh = tokens.sign("me", tokens.refresh_audience(), life, vec![]).expect("signed");
        assert_eq!(tokens.verify(&refresh), None, "not for this");
        // {"alg":"none"}
        let parts: Vec<&str> = token.split('.').collect();
        for bad in [
            format!("eyJhbGciOiJub25lIn0.{}.", parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}.{}", parts[0], parts[1], "A".repeat(43)),
            format!("{}.{}", parts[0], parts[1]),
            String::new(),
            "..".into(),
        ] {
            assert_eq!(tokens.verify(&bad), None, "{bad}");
        }
        assert!(Tokens::new(TokenAuth::new().key([1; 8])).is_err());
        assert!(Tokens::new(TokenAuth::new().realm("a\"b")).is_err());
    }
}
