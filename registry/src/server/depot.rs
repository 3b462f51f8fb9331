//! What the registry has, on disk:
//!
//! ```text
//! blobs/sha256/<hex>                        content, verified, of all repositories together
//! repositories/<name>/_blobs/<hex>          the repository has this blob
//! repositories/<name>/_manifests/<hex>      and this manifest, of the media type in the file
//! repositories/<name>/_tags/<tag>           the digest in the file is tagged so
//! repositories/<name>/_referrers/<hex>/<hex>  the second has the first as its subject; its descriptor
//! repositories/<name>/_uploads/<id>         bytes of an upload so far
//! tmp/<id>                                  files before they have their names
//! ```
//!
//! Content comes first and what leads to it last, so whatever a crash leaves is whole. What is linked
//! from nowhere is for [`collect`](super::collect).

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use boxship_layers::{Digest, Durability};
use serde_json::Value;

use super::answer::{Refusal, Reply};
use super::disk::Disk;
use super::manifest::{MAX_MANIFEST, Manifest};
use super::name::{Name, Tag};
use super::route::Reference;
use crate::error::{Error, Result};

/// The largest file that is not content.
const MAX_LINK: u64 = MAX_MANIFEST;
/// Locks for the names of repositories.
const STRIPES: usize = 64;

/// The store of a registry.
#[derive(Debug)]
pub(super) struct Depot {
    pub(super) disk: Disk,
    /// Held together by whoever links content, and alone by whoever removes what is linked from nowhere.
    pub(super) linking: RwLock<()>,
    /// What was linked or referenced since a collection began.
    pub(super) recent: Mutex<Option<HashSet<Digest>>>,
    /// Manifests and tags of one repository change one after the other.
    stripes: Vec<Mutex<()>>,
}

/// A manifest as it was sent.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    pub(super) kind: String,
    pub(super) digest: Digest,
}

pub(super) fn blob_at(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn part_of(name: &Name, part: &str) -> String {
    format!("repositories/{name}/{part}")
}

pub(super) fn link_at(name: &Name, part: &str, digest: &Digest) -> String {
    format!("repositories/{name}/{part}/{}", digest.hex())
}

pub(super) fn tag_at(name: &Name, tag: &Tag) -> String {
    format!("repositories/{name}/_tags/{tag}")
}

fn from_hex(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

impl Depot {
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Depot> {
        let disk = Disk::open(path, durability)?;
        for directory in ["blobs/sha256", "repositories"] {
            let failed = |e| Error::Io { operation: "prepare the registry's directory", source: e };
            disk.make(directory).map_err(failed)?;
        }
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Ok(Depot { disk, linking: RwLock::default(), recent: Mutex::default(), stripes })
    }

    fn alone(&self, name: &Name) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0);
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collection that goes on leaves these alone. The caller holds `linking`.
    fn note(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recent) = &mut *recent {
            recent.extend(digests);
        }
    }

    /// Bytes of a blob that the repository has. That somebody asked keeps it from being collected for a
    /// while: a client that hears of it does not send it.
    pub(super) fn blob(&self, name: &Name, digest: &Digest) -> io::Result<Option<u64>> {
        let _linking = self.linking.read().unwrap_or_else(PoisonError::into_inner);
        let link = link_at(name, "_blobs", digest);
        if !self.disk.exists(&link)? {
            return Ok(None);
        }
        let found = self.disk.stat(&blob_at(digest))?.map(|(size, _)| size);
        if found.is_some() {
            self.disk.touch(&link)?;
        }
        Ok(found)
    }

    /// Makes an upload, whose bytes have this digest, a blob of the repository.
    pub(super) fn add_blob(
        &self,
        name: &Name,
        digest: Digest,
        file: &std::fs::File,
        at: &str,
    ) -> io::Result<()> {
        let _linking = self.linking.read().unwrap_or_else(PoisonError::into_inner);
        self.note([digest]);
        // One that is there already is replaced by what was verified just now.
        self.disk.publish(file, at, &blob_at(&digest))?;
        self.disk.write(&link_at(name, "_blobs", &digest), b"")
    }

    /// Gives a blob of one repository to another; false when the first does not have it.
    pub(super) fn mount(&self, from: &Name, to: &Name, digest: Digest) -> io::Result<bool> {
        let _linking = self.linking.read().unwrap_or_else(PoisonError::into_inner);
        let there = self.disk.exists(&link_at(from, "_blobs", &digest))?;
        if !there || !self.disk.exists(&blob_at(&digest))? {
            return Ok(false);
        }
        self.note([digest]);
        self.disk.write(&link_at(to, "_blobs", &digest), b"").map(|()| true)
    }

    /// Takes a blob from the repository; its content goes with the next collection, if nobody else has it.
    pub(super) fn remove_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        let _alone = self.alone(name);
        self.disk.remove(&link_at(name, "_blobs", digest))
    }

    /// The digest that a name stands for.
    pub(super) fn resolve(&self, name: &Name, reference: &Reference) -> io::Result<Option<Digest>> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Neither => return Ok(None),
            Reference::Tag(tag) => {
                let text = self.disk.read(&tag_at(name, tag), MAX_LINK)?;
                match text.and_then(|t| String::from_utf8(t).ok()?.parse().ok()) {
                    Some(digest) => digest,
                    None => return Ok(None),
                }
            }
        };
        Ok(self.disk.exists(&link_at(name, "_manifests", &digest))?.then_some(digest))
    }

    /// A manifest, byte for byte, verified again.
    pub(super) fn manifest(&self, name: &Name, reference: &Reference) -> io::Result<Option<Kept>> {
        let Some(digest) = self.resolve(name, reference)? else { return Ok(None) };
        let kind = self.disk.read(&link_at(name, "_manifests", &digest), MAX_LINK)?;
        let bytes = self.disk.read(&blob_at(&digest), MAX_MANIFEST)?;
        let Some((kind, bytes)) = kind.and_then(|k| String::from_utf8(k).ok()).zip(bytes) else {
            return Ok(None);
        };
        if Digest::of(&bytes) != digest {
            return Err(io::Error::other(format!("the manifest {digest} is damaged")));
        }
        Ok(Some(Kept { bytes, kind, digest }))
    }

    /// Keeps a manifest. What it references has to be in the repository, unless `trusted`: then it comes from
    /// another registry, where the rest is.
    pub(super) fn add_manifest(
        &self,
        name: &Name,
        tag: Option<&Tag>,
        bytes: &[u8],
        manifest: &Manifest,
        trusted: bool,
    ) -> Reply<Digest> {
        let digest = Digest::of(bytes);
        let _linking = self.linking.read().unwrap_or_else(PoisonError::into_inner);
        let _alone = self.alone(name);
        self.note(manifest.references().chain([digest]));
        if !trusted {
            self.check_references(name, manifest)?;
        }
        self.disk.write(&blob_at(&digest), bytes)?;
        if let Some(subject) = &manifest.subject {
            let descriptor = manifest.descriptor(&digest, bytes.len()).to_string();
            let at = format!("{}/{}", link_at(name, "_referrers", subject), digest.hex());
            self.disk.write(&at, descriptor.as_bytes())?;
        }
        self.disk.write(&link_at(name, "_manifests", &digest), manifest.kind.as_bytes())?;
        if let Some(tag) = tag {
            self.disk.write(&tag_at(name, tag), digest.to_string().as_bytes())?;
        }
        Ok(digest)
    }

    fn check_references(&self, name: &Name, manifest: &Manifest) -> Reply<()> {
        let mut missing = BTreeSet::new();
        let (blobs, manifests) = (manifest.blobs.iter(), manifest.manifests.iter());
        for (part, (digest, size)) in blobs.map(|b| ("_blobs", b)).chain(manifests.map(|m| ("_manifests", m)))
        {
            let linked = self.disk.exists(&link_at(name, part, digest))?;
            match self.disk.stat(&blob_at(digest))?.filter(|_| linked) {
                None => drop(missing.insert(digest.to_string())),
                Some((found, _)) if found != *size => {
                    let reason = format!("{digest} has {found} bytes, and the manifest says {size}");
                    return Err(Refusal::bad_request("SIZE_INVALID", reason));
                }
                Some(_) => {}
            }
        }
        let missing: Vec<String> = missing.into_iter().collect();
        if missing.is_empty() { Ok(()) } else { Err(Refusal::blobs_missing(&missing)) }
    }

    /// Takes a tag away, or a manifest with all its tags; false when there was none.
    pub(super) fn remove_manifest(&self, name: &Name, reference: &Reference) -> io::Result<bool> {
        let _alone = self.alone(name);
        let digest = match reference {
            Reference::Neither => return Ok(false),
            Reference::Tag(tag) => return self.disk.remove(&tag_at(name, tag)),
            Reference::Digest(digest) => *digest,
        };
        let kept = self.manifest(name, reference);
        if self.resolve(name, reference)?.is_none() {
            return Ok(false);
        }
        for tag in self.tags(name)?.iter().filter_map(|t| Tag::parse(t)) {
            let text = self.disk.read(&tag_at(name, &tag), MAX_LINK)?;
            if text.is_some_and(|t| t == digest.to_string().as_bytes()) {
                self.disk.remove(&tag_at(name, &tag))?;
            }
        }
        self.disk.remove(&link_at(name, "_manifests", &digest))?;
        // One that is damaged can be removed, too. What it leaves among the referrers is not shown.
        if let Ok(Some(kept)) = kept
            && let Ok(Manifest { subject: Some(subject), .. }) = Manifest::parse(&kept.bytes, None)
        {
            self.disk.remove(&format!("{}/{}", link_at(name, "_referrers", &subject), digest.hex()))?;
        }
        Ok(true)
    }

    /// Whether anything was ever put there.
    pub(super) fn is_known(&self, name: &Name) -> io::Result<bool> {
        Ok(self.disk.exists(&part_of(name, "_manifests"))? || self.disk.exists(&part_of(name, "_blobs"))?)
    }

    /// The tags of a repository, in no order.
    pub(super) fn tags(&self, name: &Name) -> io::Result<Vec<String>> {
        self.disk.names(&part_of(name, "_tags"))
    }

    /// Digests that a part of a repository names.
    pub(super) fn linked(&self, name: &Name, part: &str) -> io::Result<Vec<Digest>> {
        Ok(self.disk.names(&part_of(name, part))?.iter().filter_map(|hex| from_hex(hex)).collect())
    }

    /// All blobs, of whatever repository.
    pub(super) fn all_blobs(&self) -> io::Result<Vec<Digest>> {
        Ok(self.disk.names("blobs/sha256")?.iter().filter_map(|hex| from_hex(hex)).collect())
    }

    /// Descriptors of manifests whose subject is this one, by digest, after `last`, and whether there are more.
    pub(super) fn referrers(
        &self,
        name: &Name,
        subject: &Digest,
        last: Option<&str>,
        max: usize,
        kind: Option<&str>,
    ) -> io::Result<(Vec<Value>, bool)> {
        let directory = link_at(name, "_referrers", subject);
        let mut all: Vec<Digest> =
            self.disk.names(&directory)?.iter().filter_map(|hex| from_hex(hex)).collect();
        all.sort_unstable();
        let mut found = Vec::new();
        for digest in all.iter().filter(|d| last.is_none_or(|last| d.to_string().as_str() > last)) {
            if !self.disk.exists(&link_at(name, "_manifests", digest))? {
                continue;
            }
            let text = self.disk.read(&format!("{directory}/{}", digest.hex()), MAX_LINK)?;
            let Some(value) = text.and_then(|t| serde_json::from_slice::<Value>(&t).ok()) else { continue };
            if kind.is_some_and(|kind| value["artifactType"] != kind) {
                continue;
            }
            if found.len() == max {
                return Ok((found, true));
            }
            found.push(value);
        }
        Ok((found, false))
    }

    /// All repositories in which something is, sorted.
    pub(super) fn repositories(&self) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        let mut open = vec![String::new()];
        while let Some(above) = open.pop() {
            for part in self.disk.directories(&format!("repositories/{above}"))? {
                let text = if above.is_empty() { part } else { format!("{above}/{part}") };
                let Some(name) = Name::parse(&text) else { continue };
                open.push(text);
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Of these, those that have a manifest.
    pub(super) fn has_manifests(&self, name: &Name) -> io::Result<bool> {
        Ok(!self.disk.names(&part_of(name, "_manifests"))?.is_empty())
    }
}
