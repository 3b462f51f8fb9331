//! Names of images, as Docker reads them.

use std::fmt;
use std::str::FromStr;

use boxship_layers::Digest;

use crate::error::{Error, Result};

const HUB: &str = "docker.io";

/// Where an image is: registry, repository, and a tag or a digest or both.
///
/// ```
/// use boxship_registry::ImageRef;
/// let name: ImageRef = "alpine".parse()?;
/// assert_eq!(name.to_string(), "docker.io/library/alpine:latest");
/// let name: ImageRef = "Registry.example:5000/team/app:1.2".parse()?;
/// assert_eq!((name.registry(), name.repository()), ("registry.example:5000", "team/app"));
/// assert!("https://example.com/app".parse::<ImageRef>().is_err());
/// # Ok::<(), boxship_registry::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Host and port of the registry, in lower case; `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, with `library/` for Docker Hub's own.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when neither tag nor digest is given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the manifest must have.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name under which a store keeps it; `None` for one by digest only.
    #[must_use]
    pub fn local_name(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// The host that serves it.
    pub(crate) fn host(&self) -> &str {
        if self.registry == HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// What a manifest is asked for by.
    pub(crate) fn selector(&self) -> String {
        let tag = || self.tag.clone().unwrap_or_else(|| "latest".to_owned());
        self.digest.map_or_else(tag, |digest| digest.to_string())
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// A first part that can only be a host: it has a dot or a port, is in capitals, or is localhost.
fn is_host(part: &str) -> bool {
    part == "localhost"
        || part.starts_with('[')
        || part.contains(['.', ':'])
        || part.chars().any(char::is_uppercase)
}

fn check_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port.strip_prefix(':').or(if port.is_empty() { None } else { Some("bad") }))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0))
}

impl FromStr for ImageRef {
    type Err = Error;
    fn from_str(s: &str) -> Result<ImageRef> {
        let bad = |reason: &str| Error::invalid("image reference", format!("{s:?}: {reason}"));
        if s.contains("://") {
            return Err(bad("leave out the scheme"));
        }
        let (first, rest) = match s.split_once('/') {
            Some((first, rest)) if is_host(first) => (first.to_lowercase(), rest.to_owned()),
            _ => (HUB.to_owned(), s.to_owned()),
        };
        let registry = if first == "index.docker.io" { HUB.to_owned() } else { first };
        if !is_host(&registry) {
            // In small letters it would be read as a part of a repository.
            return Err(bad("a registry without dot or port is written with its port, as in host:443"));
        }
        if !check_host(&registry) {
            return Err(bad("its registry is not host[:port]"));
        }
        let name = rest.split(['@', ':']).next().unwrap_or_default();
        let rest = if registry == HUB && !name.contains('/') { format!("library/{rest}") } else { rest };
        // The grammar of what follows the host is oci-client's; hosts are ours, because it knows no IPv6.
        let parsed: oci_client::Reference = format!("host.invalid/{rest}")
            .parse()
            .map_err(|e: oci_client::ParseError| bad(&e.to_string()))?;
        let digest = parsed.digest().map(str::parse::<Digest>).transpose()?;
        let tag = parsed.tag().map(str::to_owned);
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(ImageRef { registry, repository: parsed.repository().to_owned(), tag, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_docker_reads_them() {
        let hex = "ab".repeat(32);
        for (name, want) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3", "docker.io/library/alpine:3".into()),
            ("grafana/loki", "docker.io/grafana/loki:latest".into()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".into()),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/app:1", "localhost:5000/app:1".into()),
            ("GHCR.io/Org".to_lowercase().as_str(), "ghcr.io/org:latest".into()),
            ("GHCR.IO/org/app", "ghcr.io/org/app:latest".into()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".into()),
            ("127.0.0.1:5000/a/b/c:x_Y.9", "127.0.0.1:5000/a/b/c:x_Y.9".into()),
            (&format!("app@sha256:{hex}"), format!("docker.io/library/app@sha256:{hex}")),
            (&format!("h.example/app:1@sha256:{hex}"), format!("h.example/app:1@sha256:{hex}")),
        ] {
            assert_eq!(name.parse::<ImageRef>().map(|r| r.to_string()).ok(), Some(want), "{name:?}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "/app",
            "app/",
            "host.example/",
            "app:",
            "app@",
            "app@sha256:12",
            "App",
            "host.example/App",
            "https://host/app",
            "host.example:0/app",
            "HOST/app",
            "host.example:99999/app",
            "host.example:x/app",
            "[::1/app",
            "[zz]:1/app",
            "-bad-.example/app",
            "a..b.example/app",
            "host.example//app",
            "host.example/../app",
            "host.example/app:-x",
            "host.example/app:t@sha1:abc",
            "user@host.example/app",
            "host.example/app\n",
            "host.example:1:2/app",
            "host.example/app?x=1",
            "host.example/app#x",
            "h%2f.example/app",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?} became {:?}", bad.parse::<ImageRef>());
        }
    }

    proptest! {
        /// Whatever parses is one path segment after the other, and parses again to the same.
        #[test]
        fn nothing_escapes(s in "[a-zA-Z0-9./:@_\\[\\]%?# -]{0,60}") {
            if let Ok(r) = s.parse::<ImageRef>() {
                prop_assert!(r.repository().split('/').all(|p| !p.is_empty() && p != "." && p != ".."));
                prop_assert!(!r.repository().contains(['?', '#', '%', ' ', '@', ':']));
                prop_assert!(!r.host().contains(['/', '?', '#', '@', '%', ' ']));
                prop_assert_eq!(r.to_string().parse::<ImageRef>().ok(), Some(r));
            }
        }
    }
}
