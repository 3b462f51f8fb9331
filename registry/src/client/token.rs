//! Who we are to a registry: what answers its challenges, and for how long.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, Url};
use serde::Deserialize;

use super::{ATTEMPTS, Repository, Secret, bounded, host_of, is_connect, is_temporary, pause};
use crate::auth::{Challenge, Credentials, may_see, parse_challenge};
use crate::error::{Error, Result};

const MAX_TOKEN: u64 = 1 << 20;
/// Tokens without a word about their end are used this long.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

impl Repository {
    fn scope(&self) -> String {
        format!("repository:{}:{}", self.name, self.access)
    }

    pub(super) fn cached(&self) -> Option<HeaderValue> {
        let tokens = self.client.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, until) = tokens.get(&(self.registry.clone(), self.scope()))?;
        (Instant::now() < *until).then(|| sensitive(&value.0)).flatten()
    }

    fn remember(&self, value: &str, life: Duration) {
        let mut tokens = self.client.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, (_, until)| *until > now);
        // A little sooner: the registry's clock may be before ours.
        let value = Secret(value.to_owned());
        tokens.insert((self.registry.clone(), self.scope()), (value, now + life.mul_f64(0.9)));
    }

    /// What answers the challenge; `None` when we have nothing that could.
    pub(super) async fn authorize(&self, response: &Response) -> Result<Option<HeaderValue>> {
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let known: Vec<Challenge> = challenges.filter_map(|v| parse_challenge(v.to_str().ok()?)).collect();
        let credentials = self.client.inner.credentials.credentials(&self.registry)?;
        let bearer = known.iter().find_map(|c| match c {
            Challenge::Bearer { realm, service, .. } => Some((realm, service)),
            Challenge::Basic => None,
        });
        if let Some((realm, service)) = bearer {
            let (token, life) = self.token(realm, service.as_deref(), credentials.as_ref()).await?;
            let value = format!("Bearer {token}");
            self.remember(&value, life);
            return Ok(sensitive(&value));
        }
        match (known.contains(&Challenge::Basic), credentials) {
            (true, Some(Credentials::Basic { username, password })) => {
                let value = basic(&username, &password);
                self.remember(&value, Duration::from_secs(3600));
                Ok(sensitive(&value))
            }
            _ => Ok(None),
        }
    }

    /// Asks the token service. Credentials go to the registry's own only, and never without TLS unless the
    /// registry itself is without.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<(String, Duration)> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let refuse = |reason: String| Error::Untrusted { host: self.host(), reason };
        let mut url = self.follow(&self.base, realm)?;
        let named = self.client.inner.token_services.get(&self.registry);
        let service_host = host_of(&url);
        if credentials.is_some() && !may_see(&self.host(), &service_host) && named != Some(&service_host) {
            let advice = "; if that is right, say so with token_service()";
            return Err(refuse(format!("it wants its credentials shown to {service_host}{advice}")));
        }
        let scope = self.scope();
        let http = &self.transport(&url).await.http;
        let request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("client_id", "boxship"),
                    ("scope", &scope),
                    ("refresh_token", token),
                ];
                form.extend(service.map(|s| ("service", s)));
                // The encoding of a form is that of a query.
                let mut encoder = url.clone();
                encoder.query_pairs_mut().clear().extend_pairs(form);
                let body = encoder.query().unwrap_or_default().to_owned();
                http.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
            }
            other => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|s| ("service", s)))
                    .append_pair("scope", &scope);
                let request = http.get(url.clone());
                match other {
                    Some(Credentials::Basic { username, password }) => {
                        let value = sensitive(&basic(username, password));
                        let value = value.ok_or_else(|| Error::invalid("credentials", "they are no text"))?;
                        request.header(AUTHORIZATION, value)
                    }
                    _ => request,
                }
            }
        };
        let (mut response, bytes) = self.ask_for_token(request, &url).await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let message = self.client.message(&mut response).await;
            let host = host_of(&url);
            return Err(match status {
                401 | 403 => Error::Unauthorized {
                    operation: self.operation(),
                    host,
                    what: self.name.clone(),
                    message,
                },
                _ => Error::Status { operation: "ask for a token at", host, status, message },
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| Error::Content {
            host: host_of(&url),
            what: "a token".into(),
            reason: "it is not the JSON of one".into(),
        })?;
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| refuse("its token service gives no token".into()))?;
        Ok((token, answer.expires_in.map_or(TOKEN_LIFE, |s| Duration::from_secs(s.clamp(1, 86_400)))))
    }

    /// The answer of a token service, with its body when it is a success; asked again as other calls are.
    async fn ask_for_token(&self, request: RequestBuilder, url: &Url) -> Result<(Response, Vec<u8>)> {
        for attempt in 0.. {
            let last = attempt + 1 >= ATTEMPTS;
            let again = || Error::invalid("credentials", "they cannot be sent twice");
            let sent = request.try_clone().ok_or_else(again)?.send().await;
            let result = match sent.map_err(|e| self.unsent("get a token from", url, e)) {
                Ok(response) if is_temporary(response.status()) && !last => {
                    tokio::time::sleep(pause(attempt, Some(response.headers()))).await;
                    continue;
                }
                Ok(response) if !response.status().is_success() => return Ok((response, Vec::new())),
                Ok(mut response) => {
                    let body = bounded(&mut response, MAX_TOKEN, "a token", url);
                    self.client.in_time(url, body).await.map(|bytes| (response, bytes))
                }
                Err(e) => Err(e),
            };
            match result {
                Err(Error::Network { source, .. }) if !last && !is_connect(&*source) => {
                    tokio::time::sleep(pause(attempt, None)).await;
                }
                other => return other,
            }
        }
        Err(Error::invalid("token service", "it was asked too often"))
    }
}

fn basic(username: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{username}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// A header that no log shows.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
