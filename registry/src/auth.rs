//! Credentials, and the challenges that ask for them. What belongs to one registry is never shown to
//! another (THREATS rule R14).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;

use crate::error::{Error, Result};

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A name and a password (or an access token in its place).
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// An identity token, which is exchanged for access tokens (OAuth 2 refresh token).
    IdentityToken(String),
}

impl Credentials {
    /// A name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Credentials {
        Credentials::Basic { username: username.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Basic { username, .. } => write!(f, "Basic {{ username: {username:?}, .. }}"),
            Credentials::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

/// Where credentials come from.
pub trait CredentialProvider: Send + Sync + fmt::Debug {
    /// The credentials for this registry (`docker.io`, or host and port), `None` to stay anonymous.
    ///
    /// # Errors
    /// When they cannot be had: nothing is tried without them then.
    fn credentials(&self, registry: &str) -> Result<Option<Credentials>>;
}

/// Nobody's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl CredentialProvider for Anonymous {
    fn credentials(&self, _: &str) -> Result<Option<Credentials>> {
        Ok(None)
    }
}

/// Credentials by registry.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, Credentials>);

impl Keyring {
    /// An empty one.
    #[must_use]
    pub fn new() -> Keyring {
        Keyring::default()
    }

    /// Adds the credentials of a registry: `docker.io`, or host and port.
    #[must_use]
    pub fn with(mut self, registry: impl AsRef<str>, credentials: Credentials) -> Keyring {
        self.0.insert(canonical(registry.as_ref()), credentials);
        self
    }

    /// Reads the text of a `config.json` of Docker or an `auth.json` of Podman. Entries without a secret,
    /// which credential helpers keep, are passed over.
    ///
    /// ```
    /// use boxship_registry::Keyring;
    /// let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6cGFzcw=="}}}"#;
    /// assert!(Keyring::from_docker_config(text).is_ok());
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is none.
    pub fn from_docker_config(text: &str) -> Result<Keyring> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            auths: BTreeMap<String, Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            auth: String,
            #[serde(default)]
            identitytoken: String,
        }
        let bad = |reason: String| Error::invalid("docker config", reason);
        let file: File = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let mut ring = Keyring::new();
        for (registry, entry) in file.auths {
            let credentials = if !entry.identitytoken.is_empty() {
                Credentials::IdentityToken(entry.identitytoken)
            } else if entry.auth.is_empty() {
                continue;
            } else {
                let bytes = base64::engine::general_purpose::STANDARD.decode(entry.auth.trim());
                let plain = bytes.ok().and_then(|b| String::from_utf8(b).ok());
                let pair = plain.as_deref().and_then(|p| p.split_once(':'));
                let (user, password) = pair.ok_or_else(|| {
                    bad(format!("the entry of {registry:?} is not base64 of name:password"))
                })?;
                Credentials::basic(user, password)
            };
            ring = ring.with(registry, credentials);
        }
        Ok(ring)
    }
}

impl CredentialProvider for Keyring {
    fn credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        Ok(self.0.get(&canonical(registry)).cloned())
    }
}

/// The many names of one registry: Docker's files have URLs, and four names for its own.
fn canonical(name: &str) -> String {
    let host = name.split_once("://").map_or(name, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host).to_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        _ => host,
    }
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads one `WWW-Authenticate` value (RFC 9110); `None` for a scheme we do not know or a value that can
/// be read in two ways.
pub(crate) fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = rest.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim().to_ascii_lowercase();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let end = loop {
                    match chars.next()? {
                        (i, '"') => break i,
                        (_, '\\') => value.push(chars.next()?.1),
                        (_, c) => value.push(c),
                    }
                };
                (value, &quoted[end + 1..])
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if key.is_empty() || parameters.insert(key, value).is_some() {
            return None;
        }
        rest = match after.trim_start() {
            "" => "",
            more => more.strip_prefix(',')?.trim_start(),
        };
    }
    let realm = parameters.remove("realm")?;
    Some(Challenge::Bearer {
        realm,
        service: parameters.remove("service"),
        scope: parameters.remove("scope"),
    })
}

/// Registries whose token service has another host, as they document it.
const TOKEN_SERVICES: [(&str, &str); 2] =
    [("registry-1.docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];

/// Whether credentials of `registry` may be shown to `service` (hosts, with the port where it is not that of
/// https): to the registry itself, and to the token service that is known to be its. Two names of one domain
/// are no reason, nor two ports of one host: others may have them.
pub(crate) fn may_see(registry: &str, service: &str) -> bool {
    registry == service || TOKEN_SERVICES.contains(&(registry, service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse_challenge(docker),
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:a/b:pull,push")
            )
        );
        assert_eq!(
            parse_challenge("bearer realm=https://x/t, service=s"),
            bearer("https://x/t", Some("s"), None)
        );
        assert_eq!(parse_challenge(r#"Bearer realm="a\"b""#), bearer("a\"b", None, None));
        assert_eq!(parse_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        for bad in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer realm",
            r#"Bearer realm="x"#,
            r#"Bearer realm="a",realm="b""#,
            r#"Bearer realm="a" x"#,
        ] {
            assert_eq!(parse_challenge(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn who_may_see_credentials() {
        for (registry, service) in [
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("localhost:5000", "localhost:5000"),
            ("ghcr.io", "ghcr.io"),
        ] {
            assert!(may_see(registry, service), "{registry} {service}");
        }
        for (registry, service) in [
            ("ghcr.io", "evil.io"),
            ("localhost:5000", "localhost:5001"),
            ("a.azurecr.io", "b.azurecr.io"),
            ("1.dkr.ecr.us-east-1.amazonaws.com", "evil.s3.amazonaws.com"),
            ("docker.io", "docker.io.evil.com"),
            ("gitlab.com", "registry.gitlab.com"),
        ] {
            assert!(!may_see(registry, service), "{registry} {service}");
        }
    }

    #[test]
    fn docker_files() {
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6cGE6c3M="},
            "h.example:5000": {"identitytoken": "t"}, "helper.example": {}}, "credsStore": "desktop"}"#;
        let ring = Keyring::from_docker_config(text).expect("it reads");
        assert_eq!(ring.credentials("docker.io").ok().flatten(), Some(Credentials::basic("me", "pa:ss")));
        assert_eq!(
            ring.credentials("h.example:5000").ok().flatten(),
            Some(Credentials::IdentityToken("t".into()))
        );
        assert_eq!(ring.credentials("helper.example").ok().flatten(), None);
        assert!(!format!("{ring:?}").contains("pa:ss"), "no secret is printed");
        assert!(Keyring::from_docker_config(r#"{"auths": {"x": {"auth": "!"}}}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_challenge_is_survived(text in ".{0,120}") {
            let _ = parse_challenge(&text);
            let _ = parse_challenge(&format!("Bearer {text}"));
        }
    }
}
