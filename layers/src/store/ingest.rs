//! From a stream of bytes to a published layer.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::archive::Bounds;
use crate::archive::extract::{Extractor, Policy};
use crate::archive::reader::Reader;
use crate::compress::Compression;
use crate::digest::{Digest, Tee};
use crate::error::{Error, Result};
use crate::fsx;
use crate::store::{Durability, Progress, Store};

/// A layer that is in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    pub(crate) media_type: &'static str,
}

/// Told about progress; answering false cancels.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(Progress) -> bool;

/// A private directory below `ingest/`, locked as long as this process lives and works on it.
pub(crate) struct Ingest {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Ingest {
    pub(crate) fn new(store: &Store) -> Result<Ingest> {
        let parent = store.dir("ingest")?;
        let name = fsx::random_name();
        let path = store.path().join("ingest").join(&name);
        rustix::fs::mkdirat(&parent, name.as_str(), Mode::RWXU).map_err(Error::io("make", &path))?;
        let dir = fsx::open_dir(parent.as_fd(), OsStr::new(&name)).map_err(Error::io("open", &path))?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)
            .map_err(Error::io("lock", &path))?;
        Ok(Ingest { parent, name, dir, path })
    }
}

impl Drop for Ingest {
    /// Removes what was not published. Errors are left to the next `Store::open`.
    fn drop(&mut self) {
        let _ = fsx::remove_tree(self.parent.as_fd(), OsStr::new(&self.name));
    }
}

impl Store {
    /// Reads one layer archive (plain, gzip or zstd), keeps its bytes as a blob, and unpacks it.
    pub(crate) fn ingest_layer(&self, input: impl Read, observer: Observer<'_>) -> Result<Layer> {
        let _span = tracing::debug_span!("ingest_layer").entered();
        let ingest = Ingest::new(self)?;
        let blob =
            std::fs::File::create_new(ingest.path.join("blob")).map_err(Error::io("create", &ingest.path))?;
        rustix::fs::mkdirat(&ingest.dir, "fs", Mode::from_raw_mode(0o755))
            .map_err(Error::io("make", &ingest.path))?;
        let mut outer =
            BufReader::with_capacity(1 << 20, Tee::new(input, BufWriter::with_capacity(1 << 20, blob)));
        let read = |source| Error::Io { operation: "read", path: "the archive".into(), source };
        let compression = Compression::detect(outer.fill_buf().map_err(read)?);
        let diff_id = self.unpack(compression, &mut outer, &ingest, observer)?;
        // What follows the archive (padding, an index) belongs to the blob.
        std::io::copy(&mut outer, &mut std::io::sink()).map_err(read)?;
        let (digest, blob_size, copy) = outer.into_inner().finish();
        copy.into_inner().map_err(|e| Error::io("write", &ingest.path)(e.into_error()))?;
        if !observer(Progress::Committing) {
            return Err(Error::Cancelled);
        }
        let layer = Layer { diff_id, blob: digest, blob_size, media_type: compression.media_type() };
        self.publish(&ingest, &layer)?;
        Ok(layer)
    }

    fn unpack(
        &self,
        compression: Compression,
        outer: &mut impl BufRead,
        ingest: &Ingest,
        observer: Observer<'_>,
    ) -> Result<Digest> {
        let fs =
            fsx::open_dir(ingest.dir.as_fd(), OsStr::new("fs")).map_err(Error::io("open", &ingest.path))?;
        let plain = compression.reader(outer).map_err(Error::io("decompress", "the archive"))?;
        let mut reader = Reader::new(
            BufReader::with_capacity(256 << 10, Tee::new(plain, std::io::sink())),
            Bounds::default(),
        );
        let mut extractor = Extractor::new(fs.as_fd(), Policy { owners: self.keeps_owners() })?;
        let mut entries = 0u64;
        while let Some(entry) = reader.next()? {
            extractor.add(entry, &mut reader)?;
            entries += 1;
            if entries.is_multiple_of(64) && !observer(Progress::Read { bytes: extractor.bytes }) {
                return Err(Error::Cancelled);
            }
        }
        let (files, bytes, skipped) = extractor.finish()?;
        tracing::debug!(files, bytes, skipped, "unpacked");
        let mut rest = reader.into_inner();
        std::io::copy(&mut rest, &mut std::io::sink()).map_err(Error::io("decompress", "the archive"))?;
        Ok(rest.into_inner().finish().0)
    }

    /// One sync for everything, then two renames: the old state or the new one, never a part.
    fn publish(&self, ingest: &Ingest, layer: &Layer) -> Result<()> {
        let full = self.durability() == Durability::Full;
        if full {
            rustix::fs::syncfs(&ingest.dir).map_err(Error::io("sync", &ingest.path))?;
        }
        for (name, parent, new) in
            [("blob", "blobs/sha256", layer.blob.hex()), ("fs", "layers", layer.diff_id.hex())]
        {
            let to = self.dir(parent)?;
            let path = || Path::new(parent).join(&new);
            // Taken: another process stored the same content first.
            fsx::rename_new(ingest.dir.as_fd(), OsStr::new(name), to.as_fd(), OsStr::new(&new))
                .map_err(Error::io("publish", path()))?;
            if full {
                rustix::fs::fsync(&to).map_err(Error::io("sync", path()))?;
            }
        }
        Ok(())
    }

    /// A file in a private directory to write an archive to, before it is ingested.
    pub(crate) fn scratch_archive(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<(Ingest, std::fs::File)> {
        let ingest = Ingest::new(self)?;
        let path = ingest.path.join("archive");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&ingest.dir, "archive", flags, Mode::from_raw_mode(0o600));
        let file = std::fs::File::from(fd.map_err(Error::io("create", &path))?);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let mut file = out.into_inner().map_err(|e| Error::io("write", &path)(e.into_error()))?;
        std::io::Seek::rewind(&mut file).map_err(Error::io("rewind", &path))?;
        Ok((ingest, file))
    }
}
