//! Doors for `fuzz/`: they exist under `cfg(fuzzing)` only, which cargo-fuzz sets.

use std::io::{BufRead, Read};

use crate::archive::Bounds;
use crate::archive::reader::Reader;
use crate::compress::Compression;
use crate::host::ldcache::Cache;

/// An entry of an archive, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// The name, without `/` at either end.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// What a file holds.
    pub data: Vec<u8>,
}

/// The store's form of an image name, `None` for what is none.
#[must_use]
pub fn image_name(text: &str) -> Option<String> {
    crate::image::normalise(text).ok()
}

/// All entries of an archive with their data. The data is bounded by the input, as the reader never
/// makes any up.
///
/// # Errors
/// What the reader says.
pub fn archive(input: impl BufRead) -> crate::Result<Vec<ArchiveEntry>> {
    let mut reader = Reader::new(input, Bounds::default());
    let mut all = Vec::new();
    while let Some(e) = reader.next()? {
        let (mut data, mut part) = (Vec::new(), [0; 1000]);
        loop {
            match reader.read(&mut part)? {
                0 => break,
                n => data.extend_from_slice(&part[..n]),
            }
        }
        let owner = (e.uid, e.gid);
        all.push(ArchiveEntry { path: e.path, link: e.link, mode: e.mode, owner, mtime: e.mtime, data });
    }
    Ok(all)
}

/// The name of the compression that the first bytes show, and at most `limit` plain bytes.
///
/// # Errors
/// What the decoder says.
pub fn decompress(data: &[u8], limit: u64) -> std::io::Result<(&'static str, Vec<u8>)> {
    let kind = Compression::detect(data);
    let mut plain = Vec::new();
    kind.reader(data)?.take(limit).read_to_end(&mut plain)?;
    Ok((kind.media_type(), plain))
}

/// Looks a library up in the bytes of an `ld.so.cache`; `None` for what is none.
#[must_use]
pub fn library(cache: &[u8], name: &str) -> Option<Option<std::path::PathBuf>> {
    Some(Cache::parse(cache)?.lookup(name).cloned())
}

/// What the store takes from a manifest: the config's digest, the layers' digests, the total size.
///
/// # Errors
/// [`crate::Error`] for what is no manifest.
pub fn manifest(text: &[u8]) -> crate::Result<(crate::Digest, Vec<crate::Digest>, u64)> {
    let manifest = crate::image::parse_manifest(text)?;
    let digests: crate::Result<Vec<crate::Digest>> =
        manifest.layers().iter().map(|d| d.digest().to_string().parse()).collect();
    let config = manifest.config().digest().to_string().parse()?;
    Ok((config, digests?, crate::image::size_of(&manifest)))
}

/// The names and digests of an index.
///
/// # Errors
/// [`crate::Error`] for what is no index.
pub fn index(text: &[u8]) -> crate::Result<Vec<(Option<String>, String)>> {
    let index = crate::image::parse_index(text)?;
    let line = |d| (crate::image::name_of(d).map(str::to_owned), d.digest().to_string());
    Ok(index.manifests().iter().map(line).collect())
}

/// The names that Docker's `manifest.json` has: for each image of its parts, as they are looked up, and its own.
///
/// # Errors
/// [`crate::Error`] for what is none.
pub fn docker_manifest(text: &[u8]) -> crate::Result<Vec<(Vec<String>, Vec<String>)>> {
    crate::interchange::load::docker_parts(text)
}

/// What a load makes of documents: of `$0`, `$1`, … in one that of an earlier document is the digest. The first is
/// `repositories` of Docker's first form, whose ids are the numbers of the others.
///
/// # Errors
/// None: both results are given as they are.
#[allow(clippy::type_complexity, reason = "two results")]
#[must_use]
pub fn load_graph(
    text: &str,
    platform: &crate::Platform,
) -> (crate::Result<Option<Vec<u8>>>, crate::Result<Vec<(Vec<String>, usize)>>) {
    let mut parts = text.split("\n---\n");
    let repositories = parts.next().unwrap_or_default();
    let mut documents: Vec<Vec<u8>> = Vec::new();
    for part in parts.take(10) {
        let mut part = part.to_owned();
        for (i, earlier) in documents.iter().enumerate().rev() {
            part = part.replace(&format!("${i}"), &crate::Digest::of(earlier).to_string());
        }
        documents.push(part.into_bytes());
    }
    crate::interchange::load::graph(&documents, repositories.as_bytes(), platform)
}

/// What this version may do with a store of such a format: everything, read, or nothing.
///
/// # Errors
/// [`crate::Error`] for what is no format.
pub fn format(text: &[u8]) -> crate::Result<&'static str> {
    use crate::store::{Access, Format};
    Ok(match Format::parse(text)?.access() {
        Access::Full => "full",
        Access::Read(_) => "read",
        Access::None(_) => "none",
    })
}
