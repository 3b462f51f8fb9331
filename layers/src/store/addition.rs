//! Adding an image: several layers and documents that become visible together.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::ingest::{Ingest, Layer};
use super::{Durability, Progress, Store, there};
use crate::digest::{Digest, Tee};
use crate::error::{Error, Result};
use crate::fsx;
use crate::image::{Image, normalise, parse_manifest};
use crate::watch::Watch;

/// What a layer must turn out to be; what is not given is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The digest of its bytes as stored.
    pub digest: Option<Digest>,
    /// How many these are.
    pub size: Option<u64>,
    /// The digest of the plain archive.
    pub diff_id: Option<Digest>,
}

/// A layer that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddedLayer {
    /// The digest of the plain archive.
    pub diff_id: Digest,
    /// The digest of its bytes as stored.
    pub digest: Digest,
    /// How many these are.
    pub size: u64,
    /// The OCI media type, by what the bytes are.
    pub media_type: &'static str,
}

impl From<&Layer> for AddedLayer {
    fn from(l: &Layer) -> AddedLayer {
        AddedLayer { diff_id: l.diff_id, digest: l.blob, size: l.blob_size, media_type: l.media_type }
    }
}

/// When layers become visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Each as soon as it is verified: a repetition after a failure does not begin from the start.
    Each,
    /// All with one sync at the end: the least work.
    Together,
}

/// An image being added. As long as this lives, nothing that the store holds is collected, so what was
/// found there may be built upon. Threads may add layers at the same time.
///
/// # Drop
/// Without [`finish`](Addition::finish) no image appears. Layers that are visible already stay until the
/// next [`Store::gc`].
#[derive(Debug)]
pub struct Addition {
    store: Store,
    publish: Publish,
    pending: Mutex<Vec<(Ingest, Layer)>>,
    _hold: OwnedFd,
}

impl Store {
    /// Begins to add an image.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn begin(&self, publish: Publish) -> Result<Addition> {
        self.require_writable()?;
        let hold = self.hold_content()?;
        Ok(Addition { store: self.clone(), publish, pending: Mutex::new(Vec::new()), _hold: hold })
    }
}

impl Store {
    /// The right to bring this layer, unless somebody else, thread or process, has it now. Who gets it looks
    /// first whether the layer is there by now. Dropping the lock ends it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_lock_layer(&self, digest: &Digest) -> Result<Option<LayerLock>> {
        self.require_writable()?;
        let dir = self.dir("ingest")?;
        let name = format!("{}.lock", digest.hex());
        let fail = |e: rustix::io::Errno| Error::io("lock", self.path().join("ingest").join(&name))(e);
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd =
                rustix::fs::openat(&dir, name.as_str(), flags, Mode::from_raw_mode(0o600)).map_err(fail)?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                result => result.map_err(fail)?,
            }
            // The one before us has removed the file that we opened: then another one counts.
            let ours = rustix::fs::fstat(&fd).map_err(fail)?;
            match rustix::fs::statat(&dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(now) if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino) => {
                    return Ok(Some(LayerLock { dir, name, _fd: fd }));
                }
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }
}

/// The right to bring a layer, see [`Store::try_lock_layer`].
#[derive(Debug)]
#[must_use = "the lock ends when it is dropped"]
pub struct LayerLock {
    dir: OwnedFd,
    name: String,
    _fd: OwnedFd,
}

impl Drop for LayerLock {
    /// Removes the file while it is still locked: who opened it before notices.
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
    }
}

impl Addition {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a layer need not be added: its bytes and its files are there, and these were made of those.
    #[must_use]
    pub fn has_layer(&self, digest: &Digest, diff_id: &Digest) -> bool {
        self.store.blob_path(digest).exists()
            && self.store.layer_path(diff_id).exists()
            && self.store.is_pair(digest, diff_id)
            || self.lock().iter().any(|(_, l)| l.blob == *digest && l.diff_id == *diff_id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Ingest, Layer)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, verifies and unpacks one layer: tar, plain or compressed with gzip or zstd.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] and [`Error::Invalid`] when it is not what was expected,
    /// [`Error::Archive`] and [`Error::Limit`] for one that is hostile or broken, [`Error::Cancelled`]
    /// when `observe` answers false, [`Error::Io`]. Nothing of it is visible then.
    pub fn layer(
        &self,
        input: impl Read + Send,
        expected: Expected,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<AddedLayer> {
        let (ingest, layer) = self.store.ingest_layer(input, expected, observe)?;
        let added = AddedLayer::from(&layer);
        match self.publish {
            Publish::Each => self.store.publish(&[(ingest, layer)])?,
            Publish::Together => self.lock().push((ingest, layer)),
        }
        Ok(added)
    }

    /// Stores a small document: a config.
    ///
    /// # Errors
    /// [`Error::Limit`] above 4 MiB, [`Error::Io`].
    pub fn document(&self, bytes: &[u8]) -> Result<Digest> {
        self.store.write_document(bytes)
    }

    /// Stores bytes as they are, and unpacks nothing: a part of what is for another platform.
    pub(crate) fn blob(
        &self,
        input: impl Read,
        digest: &Digest,
        size: u64,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        if there(&self.store.blob_path(digest))? || self.lock().iter().any(|(_, l)| l.blob == *digest) {
            return Ok(());
        }
        let ingest = Ingest::new(&self.store)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&ingest.dir, "blob", flags, Mode::from_raw_mode(0o600));
        let file = std::fs::File::from(file.map_err(Error::io("create", &ingest.path))?);
        // One byte more than expected tells that there are more.
        let mut input = watch.reader(Tee::new(input.take(size.saturating_add(1)), &file));
        std::io::copy(&mut input, &mut std::io::sink()).map_err(Error::io_or_own("write", &ingest.path))?;
        let (found, length, _) = input.into_inner().finish();
        if found != *digest || length != size {
            return Err(Error::DigestMismatch { expected: digest.to_string(), found: found.to_string() });
        }
        let (full, blobs) = (self.store.durability() == Durability::Full, self.store.dir("blobs/sha256")?);
        let fail = || Error::io::<std::io::Error>("publish", self.store.blob_path(digest));
        if full {
            file.sync_all().map_err(fail())?;
        }
        let (old, new) = (OsStr::new("blob"), digest.hex());
        fsx::rename_new(ingest.dir.as_fd(), old, blobs.as_fd(), OsStr::new(&new)).map_err(fail())?;
        if full {
            rustix::fs::fsync(&blobs).map_err(|e| fail()(e.into()))?;
        }
        Ok(())
    }

    /// Publishes what is pending, stores the manifest as it is and gives it the name. Everything that it
    /// names must have been added or be in the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] for what is missing; [`Error::Json`] and [`Error::Invalid`] for a manifest that
    /// is none; [`Error::Io`]. The store's names are then as before.
    pub fn finish(&self, manifest: &[u8], name: Option<&str>) -> Result<Image> {
        self.finish_chosen(manifest, name, None)
    }

    /// The same for a manifest that was chosen from an index, by whose digest it can be asked for, too.
    ///
    /// # Errors
    /// As [`finish`](Addition::finish).
    pub fn finish_chosen(
        &self,
        manifest: &[u8],
        name: Option<&str>,
        index: Option<&Digest>,
    ) -> Result<Image> {
        let name = name.map(normalise).transpose()?;
        let pending = std::mem::take(&mut *self.lock());
        self.store.publish(&pending)?;
        drop(pending);
        let parsed = parse_manifest(manifest)?;
        for layer in parsed.layers() {
            let digest: Digest = layer.digest().to_string().parse()?;
            if !there(&self.store.blob_path(&digest))? {
                return Err(Error::NotFound { what: "layer", name: digest.to_string() });
            }
        }
        let digest = self.store.write_document(manifest)?;
        let image = self.store.image(&digest.to_string())?;
        if image.layers().len() != parsed.layers().len() {
            let reason = format!(
                "its manifest has {} layers, its config {}",
                parsed.layers().len(),
                image.layers().len()
            );
            return Err(Error::invalid("image", reason));
        }
        for (described, layer) in parsed.layers().iter().zip(image.layers()) {
            if !there(&self.store.layer_path(layer))? {
                return Err(Error::NotFound { what: "layer", name: layer.to_string() });
            }
            if !self.has_layer(&described.digest().to_string().parse()?, layer) {
                let reason = format!("{} is not the archive of {layer}", described.digest());
                return Err(Error::invalid("image", reason));
            }
        }
        self.store.tag_chosen(&digest, name.as_deref(), index)?;
        // Not what the name stands for now: somebody else may have taken it already.
        Ok(image.named(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Check, ImageOptions};

    /// A store that goes with the test, with the images `a:1` and `b:1`.
    struct Scratch(std::path::PathBuf, Store);

    fn archive(content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let _ = tar.append_data(&mut header, "file", content);
        tar.into_inner().unwrap_or_default()
    }

    impl Scratch {
        fn new(name: &str) -> Result<Scratch> {
            let dir = std::env::temp_dir().join(format!("boxship-addition-{}-{name}", std::process::id()));
            let store = Store::open_with(&dir, crate::Durability::Relaxed)?;
            let scratch = Scratch(dir, store);
            scratch.import("a")?;
            scratch.import("b")?;
            Ok(scratch)
        }

        fn import(&self, name: &str) -> Result<Image> {
            let bytes = archive(name.as_bytes());
            self.1.import(&bytes[..], &format!("{name}:1"), &ImageOptions::default(), &mut |_| true)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// An image that names an archive and a layer which the store has, and which do not belong together.
    #[test]
    fn an_archive_and_a_layer_of_different_images_are_none() -> Result<()> {
        let s = Scratch::new("pairs")?;
        let (a, b) = (s.1.image("a:1")?, s.1.image("b:1")?);
        let of = |image: &Image| Ok(String::from_utf8_lossy(&image.manifest()?).into_owned());
        let (manifest, other): (String, String) = (of(&a)?, of(&b)?);
        let blob = |text: &str| -> Result<Digest> {
            let layers = parse_manifest(text.as_bytes())?;
            layers.layers()[0].digest().to_string().parse()
        };
        let (blob_a, blob_b) = (blob(&manifest)?, blob(&other)?);
        let crafted = manifest.replace(&blob_a.to_string(), &blob_b.to_string());
        let add = s.1.begin(Publish::Together)?;
        assert!(add.has_layer(&blob_a, &a.layers()[0]) && !add.has_layer(&blob_b, &a.layers()[0]));
        assert!(matches!(add.finish(crafted.as_bytes(), Some("c:1")), Err(Error::Invalid { .. })));
        drop(add);
        assert!(matches!(s.1.image("c:1"), Err(Error::NotFound { .. })));
        assert_eq!(s.1.fsck(Check::Content, false)?, []);
        Ok(())
    }

    #[test]
    fn a_bad_blob_is_there_again_when_its_image_is_added() -> Result<()> {
        let s = Scratch::new("heal")?;
        for is_layer in [true, false] {
            // Another one in another second: a config has its time.
            let manifest = parse_manifest(&s.1.image("a:1")?.manifest()?)?;
            let part = if is_layer { manifest.layers()[0].digest() } else { manifest.config().digest() };
            let blob: Digest = part.to_string().parse()?;
            let path = s.1.blob_path(&blob);
            let mut bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            bytes[0] ^= 1;
            std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
            assert!(!s.1.fsck(Check::Content, true)?.is_empty());
            s.import("a")?;
            assert_eq!(s.1.fsck(Check::Content, false)?, [], "{blob}");
            s.1.image("a:1")?;
        }
        Ok(())
    }
}
