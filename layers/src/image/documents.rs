//! Manifests, indexes and configs: as they are read, and as they are made.

use oci_spec::image::{
    Descriptor, ImageConfiguration, ImageIndex, ImageManifest, ImageManifestBuilder, MediaType,
};

use super::{CHOSEN_FROM, NAME, json, oci};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::store::AddedLayer;

/// The config and the layers of a manifest, with their sizes.
pub(crate) fn descriptors(manifest: &ImageManifest) -> Result<Vec<(Digest, u64)>> {
    let all = std::iter::once(manifest.config()).chain(manifest.layers());
    all.map(|d| Ok((d.digest().to_string().parse()?, d.size()))).collect()
}

pub(crate) fn descriptor(media: MediaType, size: u64, digest: &Digest) -> Result<Descriptor> {
    let digest = digest.to_string().parse::<oci_spec::image::Digest>().map_err(oci("digest"))?;
    Ok(Descriptor::new(media, size, digest))
}

pub(crate) fn descriptor_of(layer: &AddedLayer) -> Result<Descriptor> {
    descriptor(MediaType::Other(layer.media_type.to_owned()), layer.size, &layer.digest)
}

/// A config as bytes, and a manifest of it and these layers.
pub(super) fn documents(config: &ImageConfiguration, layers: Vec<Descriptor>) -> Result<(Vec<u8>, Vec<u8>)> {
    let config = serde_json::to_vec(config).map_err(json("config"))?;
    let manifest = manifest_of(&config, layers)?;
    Ok((config, manifest))
}

/// A manifest for a config that is kept as it is.
pub(crate) fn manifest_of(config: &[u8], layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, config.len() as u64, &Digest::of(config))?)
        .layers(layers)
        .build()
        .map_err(oci("manifest"))?;
    serde_json::to_vec(&manifest).map_err(json("manifest"))
}

/// What a document says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Manifest,
    Index,
}

/// Whether this is a manifest or an index. One that could be read as both would be two different images
/// for two readers (CVE-2021-41190).
pub(crate) fn document_kind(text: &[u8]) -> Result<DocumentKind> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(json("manifest"))?;
    let has = |key: &str| value.get(key).is_some();
    let media = value.get("mediaType").and_then(serde_json::Value::as_str).unwrap_or_default();
    let says_index = media.ends_with("image.index.v1+json") || media.ends_with("manifest.list.v2+json");
    let says_manifest =
        media.ends_with("image.manifest.v1+json") || media.ends_with("distribution.manifest.v2+json");
    match (has("manifests"), has("layers") || has("config")) {
        (true, false) if !says_manifest => Ok(DocumentKind::Index),
        (false, true) if !says_index => Ok(DocumentKind::Manifest),
        _ => Err(Error::invalid("manifest", "it is not clearly a manifest or clearly an index")),
    }
}

/// What a registry or an archive has under a name: one image, or one for each platform.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Document {
    /// One image.
    Manifest(Box<ImageManifest>),
    /// A choice of images.
    Index(Box<ImageIndex>),
}

impl Document {
    /// Reads one, OCI's or Docker's. A document that could be read as both is an error.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Invalid`].
    pub fn parse(text: &[u8]) -> Result<Document> {
        Ok(match document_kind(text)? {
            DocumentKind::Manifest => Document::Manifest(Box::new(parse_manifest(text)?)),
            DocumentKind::Index => Document::Index(Box::new(parse_index(text)?)),
        })
    }
}

pub(crate) fn parse_manifest(text: &[u8]) -> Result<ImageManifest> {
    if document_kind(text)? != DocumentKind::Manifest {
        return Err(Error::invalid("manifest", "it is an index"));
    }
    serde_json::from_slice(text).map_err(json("manifest"))
}

pub(crate) fn parse_index(text: &[u8]) -> Result<ImageIndex> {
    serde_json::from_slice(text).map_err(json("index"))
}

/// Bytes of all layers. The numbers are a stranger's: their sum need not fit.
pub(crate) fn size_of(manifest: &ImageManifest) -> u64 {
    manifest.layers().iter().map(Descriptor::size).fold(0, u64::saturating_add)
}

pub(crate) fn name_of(d: &Descriptor) -> Option<&str> {
    d.annotations().as_ref()?.get(NAME).map(String::as_str)
}

/// The index that an image was chosen from, by its platform.
pub(super) fn chosen_from(d: &Descriptor) -> Option<&str> {
    d.annotations().as_ref()?.get(CHOSEN_FROM).map(String::as_str)
}
