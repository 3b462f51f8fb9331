//! Manifests and indexes as a registry sees them: what they are, and what they reference.

use std::collections::BTreeMap;

use boxship_layers::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Refusal;

/// The largest manifest (the specification's minimum for registries).
pub(super) const MAX_MANIFEST: u64 = 4 << 20;

const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

/// What is read of a document. A key that is there twice is an error of the reader.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

/// A document that can be kept.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(super) kind: String,
    /// Blobs that have to be there, with their sizes.
    pub(super) blobs: Vec<(Digest, u64)>,
    /// Blobs that may be elsewhere: they have addresses of their own. Kept when they are here.
    pub(super) foreign: Vec<Digest>,
    /// Manifests that have to be there, with their sizes.
    pub(super) manifests: Vec<(Digest, u64)>,
    pub(super) subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads what was sent as `kind`, or what says itself what it is. A document that could be read as both
    /// a manifest and an index is refused (CVE-2021-41190).
    pub(crate) fn parse(bytes: &[u8], kind: Option<&str>) -> Result<Manifest, Refusal> {
        let invalid = |reason: String| Refusal::manifest_invalid(reason);
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| invalid(format!("it does not parse: {e}")))?;
        if document.schema_version != 2 {
            return Err(invalid(format!("its schema version is {}, not 2", document.schema_version)));
        }
        let kind = kind
            .map(|k| k.split(';').next().unwrap_or_default().trim())
            .filter(|k| !matches!(*k, "" | "application/json" | "application/octet-stream" | "text/plain"));
        let own = document.media_type.as_deref().filter(|own| !own.is_empty());
        if let (Some(kind), Some(own)) = (kind, own)
            && kind != own
        {
            return Err(invalid(format!("it is sent as {kind:.100} and calls itself {own:.100}")));
        }
        let is_index = match (&document.manifests, &document.config, &document.layers) {
            (Some(_), None, None) => true,
            (None, Some(_), Some(_)) => false,
            _ => return Err(invalid("it is not clearly a manifest or clearly an index".into())),
        };
        let known = if is_index { INDEXES } else { MANIFESTS };
        let kind = kind.or(own).unwrap_or(known[0]);
        if !known.contains(&kind) {
            return Err(invalid(format!("its media type {kind:.100} is not one of {}", known.join(", "))));
        }
        let kind = kind.to_owned();
        let (mut blobs, mut foreign) = (Vec::new(), Vec::new());
        for d in document.config.iter().chain(document.layers.iter().flatten()) {
            match d.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                true => foreign.push(d.digest()?),
                false => blobs.push((d.digest()?, d.size)),
            }
        }
        let manifests = document.manifests.iter().flatten().map(|d| Ok((d.digest()?, d.size)));
        let artifact_type = document.artifact_type.filter(|t| !t.is_empty());
        Ok(Manifest {
            kind,
            blobs,
            foreign,
            manifests: manifests.collect::<Result<_, Refusal>>()?,
            subject: document.subject.map(|s| s.digest()).transpose()?,
            artifact_type: artifact_type.or(document.config.map(|c| c.media_type).filter(|t| !t.is_empty())),
            annotations: document.annotations,
        })
    }

    /// Everything that has to stay as long as this does.
    pub(super) fn references(&self) -> impl Iterator<Item = Digest> {
        let sized = self.blobs.iter().chain(&self.manifests).map(|(digest, _)| *digest);
        sized.chain(self.foreign.iter().copied())
    }

    /// The descriptor that the list of referrers has for it.
    pub(super) fn descriptor(&self, digest: &Digest, size: usize) -> Value {
        let mut d = json!({"mediaType": self.kind, "digest": digest.to_string(), "size": size});
        if let Some(kind) = &self.artifact_type {
            d["artifactType"] = json!(kind);
        }
        if let Some(annotations) = &self.annotations {
            d["annotations"] = json!(annotations);
        }
        d
    }
}

impl Descriptor {
    fn digest(&self) -> Result<Digest, Refusal> {
        self.digest.parse().map_err(|_| Refusal::digest_invalid(&self.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(n: u8) -> Value {
        json!({"mediaType": "x/y", "digest": Digest::of(&[n]).to_string(), "size": 1})
    }

    fn parse(value: &Value, kind: Option<&str>) -> Result<Manifest, Refusal> {
        Manifest::parse(value.to_string().as_bytes(), kind)
    }

    #[test]
    fn what_documents_are() {
        let image = json!({"schemaVersion": 2, "config": descriptor(0), "layers": [descriptor(1)]});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor(2)], "subject": descriptor(3)});
        let read = parse(&image, None).expect("a manifest");
        assert_eq!((read.kind.as_str(), read.blobs.len()), (MANIFESTS[0], 2));
        assert_eq!(read.descriptor(&Digest::of(b""), 9)["artifactType"], "x/y");
        assert_eq!(parse(&image, Some(MANIFESTS[1])).expect("a manifest").kind, MANIFESTS[1]);
        let read =
            parse(&index, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")).expect("one");
        assert_eq!((read.kind.as_str(), read.manifests.len()), (INDEXES[0], 1));
        assert_eq!(read.subject, Some(Digest::of(&[3])));
        for (bad, kind) in [
            (json!({}), None),
            (json!([]), None),
            (json!({"schemaVersion": 1, "fsLayers": []}), None),
            (json!({"schemaVersion": 2}), None),
            (json!({"schemaVersion": 2, "config": descriptor(0)}), None),
            (json!({"schemaVersion": 2, "config": descriptor(0), "layers": [], "manifests": []}), None),
            (image.clone(), Some(INDEXES[0])),
            (index.clone(), Some(MANIFESTS[0])),
            (image.clone(), Some("text/html")),
            (json!({"schemaVersion": 2, "mediaType": MANIFESTS[0], "manifests": []}), None),
            (
                json!({"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": descriptor(0), "layers": []}),
                Some(MANIFESTS[1]),
            ),
            (json!({"schemaVersion": 2, "config": {"digest": "sha256:../x", "size": 1}, "layers": []}), None),
            (json!({"schemaVersion": 2, "config": {"digest": "md5:1", "size": -1}, "layers": []}), None),
        ] {
            assert!(parse(&bad, kind).is_err(), "{bad} as {kind:?}");
        }
        let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
        assert!(Manifest::parse(twice, None).is_err(), "a key that is there twice");
    }

    proptest! {
        #[test]
        fn any_document_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes, None);
        }
    }
}
