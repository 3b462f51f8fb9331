//! Uploads: bytes go to a file and through the hash as they come, and are a blob when their digest is right.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use boxship_layers::Digest;
use bytes::Bytes;
use hyper::StatusCode;
use ring::digest::{Context, SHA256};
use tokio::sync::OwnedMutexGuard;

use super::answer::{Refusal, Reply};
use super::depot::{Depot, part_of};
use super::name::{Name, UploadId, hex};

/// How long a request waits for another one to the same upload.
const WAIT: Duration = Duration::from_secs(5);
/// Hashes of unfinished uploads that are kept in memory; others are computed again from the file.
const MAX_HASHES: usize = 4096;

/// The hash of so many bytes.
#[derive(Clone)]
pub(super) struct Hash {
    context: Context,
    size: u64,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hash of {} bytes", self.size)
    }
}

impl Hash {
    pub(super) fn new() -> Hash {
        Hash { context: Context::new(&SHA256), size: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.size += bytes.len() as u64;
    }

    pub(super) fn digest(&self) -> io::Result<Digest> {
        let text = format!("sha256:{}", hex(self.context.clone().finish().as_ref()));
        text.parse().map_err(|_| io::Error::other("a digest was not made"))
    }
}

/// An upload's lock, with the hash of its bytes if it is known.
type Slot = Arc<tokio::sync::Mutex<Option<Hash>>>;

/// The uploads that somebody is at.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    slots: Mutex<HashMap<String, Slot>>,
}

/// An upload that is added to: nobody else is at it.
#[derive(Debug)]
pub(super) struct Upload {
    file: std::fs::File,
    hash: Hash,
    at: String,
    slot: OwnedMutexGuard<Option<Hash>>,
}

pub(super) fn upload_at(name: &Name, id: &UploadId) -> String {
    format!("{}/{id}", part_of(name, "_uploads"))
}

impl Uploads {
    /// Begins one.
    pub(super) fn begin(depot: &Depot, name: &Name, max: usize) -> Reply<UploadId> {
        let directory = part_of(name, "_uploads");
        if depot.disk.names(&directory)?.len() >= max {
            let message = "the repository has too many unfinished uploads";
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message);
            return Err(refusal.header("retry-after", "60"));
        }
        depot.disk.make(&directory)?;
        let id = UploadId::random()?;
        depot.disk.create(&upload_at(name, &id))?;
        Ok(id)
    }

    /// Waits a little for whoever is at it: a client whose connection broke is back sooner than we know.
    pub(super) async fn lock(&self, at: &str) -> Reply<OwnedMutexGuard<Option<Hash>>> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.len() >= MAX_HASHES {
                // Those that nobody is at; a lock that is held has an owner besides this map.
                slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            Arc::clone(slots.entry(at.to_owned()).or_default())
        };
        tokio::time::timeout(WAIT, slot.lock_owned()).await.map_err(|_| {
            Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request is at this upload")
        })
    }

    /// Whether somebody is at it.
    pub(super) fn is_busy(&self, at: &str) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(at).is_some_and(|slot| slot.try_lock().is_err())
    }

    /// What is known of an upload that is no more.
    pub(super) fn forget(&self, at: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(at);
    }
}

impl Upload {
    /// Goes on with one. What the file has beyond the hash that we know, or without one, is hashed again.
    pub(super) fn open(depot: &Depot, at: String, slot: OwnedMutexGuard<Option<Hash>>) -> Reply<Upload> {
        let mut file = depot.disk.append(&at)?.ok_or_else(Refusal::upload_unknown)?;
        let length = file.metadata()?.len();
        let mut hash = slot.clone().filter(|hash| hash.size <= length).unwrap_or_else(Hash::new);
        file.seek(SeekFrom::Start(hash.size))?;
        let mut buffer = vec![0; 256 << 10];
        while hash.size < length {
            match file.read(&mut buffer)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n => hash.update(&buffer[..n]),
            }
        }
        Ok(Upload { file, hash, at, slot })
    }

    pub(super) fn size(&self) -> u64 {
        self.hash.size
    }

    /// Adds to it.
    pub(super) fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.hash.update(piece);
        }
        Ok(())
    }

    /// Takes back what was added after `size`, when that is known to be wrong.
    pub(super) fn cut(mut self, size: u64) -> io::Result<()> {
        *self.slot = None;
        self.file.set_len(size)
    }

    /// Leaves it for the next request.
    pub(super) fn leave(mut self) {
        *self.slot = Some(self.hash.clone());
    }

    /// Makes it a blob of the repository if it has this digest; else it is gone.
    pub(super) fn finish(mut self, depot: &Depot, name: &Name, digest: &Digest) -> Reply<()> {
        *self.slot = None;
        let found = self.hash.digest()?;
        if found != *digest {
            depot.disk.forget(&self.at)?;
            return Err(Refusal::digest_mismatch(digest, &found));
        }
        Ok(depot.add_blob(name, *digest, &self.file, &self.at)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_goes_on() {
        let mut hash = Hash::new();
        hash.update(b"hel");
        let mut copy = hash.clone();
        copy.update(b"lo");
        assert_eq!(copy.digest().ok(), Some(Digest::of(b"hello")));
        assert_eq!(hash.digest().ok(), Some(Digest::of(b"hel")));
    }
}
