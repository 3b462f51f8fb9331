//! From a stream of bytes to a published layer.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::archive::Bounds;
use crate::archive::extract::{Extractor, Policy};
use crate::archive::reader::{Reader, read_error};
use crate::compress::Compression;
use crate::digest::{Digest, Tee};
use crate::error::{Error, Result};
use crate::fsx;
use crate::store::{Durability, Expected, Progress, Store};
use crate::watch::{Observer, Watch};

/// A layer that is in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    pub(crate) media_type: &'static str,
}

/// A panic of a thread goes on in its starter.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A private directory below `ingest/`, locked as long as this process lives and works on it.
#[derive(Debug)]
pub(crate) struct Ingest {
    parent: OwnedFd,
    name: String,
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Ingest {
    pub(crate) fn new(store: &Store) -> Result<Ingest> {
        store.require_writable()?;
        let parent = store.dir("ingest")?;
        loop {
            let name = fsx::random_name();
            let path = store.path().join("ingest").join(&name);
            rustix::fs::mkdirat(&parent, name.as_str(), Mode::RWXU).map_err(Error::io("make", &path))?;
            let lock = || -> std::io::Result<Option<OwnedFd>> {
                let dir = match fsx::open_dir(parent.as_fd(), OsStr::new(&name)) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    other => other?,
                };
                match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                    Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                    other => other?,
                }
                Ok((rustix::fs::fstat(&dir)?.st_nlink > 0).then_some(dir))
            };
            match lock() {
                Ok(Some(dir)) => return Ok(Ingest { parent, name, dir, path }),
                // Who opens the store took it for a dead one's before it was locked: another one, then.
                Ok(None) => {}
                Err(e) => {
                    let _ = fsx::remove_tree(parent.as_fd(), OsStr::new(&name));
                    return Err(Error::io("lock", &path)(e));
                }
            }
        }
    }
}

impl Drop for Ingest {
    /// Removes what was not published. Errors are left to the next `Store::open`.
    fn drop(&mut self) {
        let _ = fsx::remove_tree(self.parent.as_fd(), OsStr::new(&self.name));
    }
}

/// Bytes that may follow the end of an archive: some tools fill up to a block of their own.
const MAX_TRAILER: u64 = 64 << 20;
/// Plain bytes that travel between threads: pieces of this size, and how many at once.
const PIECE: usize = 120 << 10;
const PIECES: usize = 16;

/// Plain bytes of which each stored one may become so many, and how many are free: a small archive must not
/// fill a disk.
const MAX_RATIO: u64 = 1000;
const FREE: u64 = 64 << 20;

/// Counts what is taken out of a buffer.
pub(crate) struct Taken<'a, R> {
    input: R,
    bytes: &'a AtomicU64,
}

impl<'a, R: BufRead> Taken<'a, R> {
    pub(crate) fn new(input: R, bytes: &'a AtomicU64) -> Taken<'a, R> {
        Taken { input, bytes }
    }
}

/// Whether so many plain bytes may have come of what was taken.
pub(crate) fn ratio(plain: u64, taken: &AtomicU64) -> Result<()> {
    if plain > FREE && plain / MAX_RATIO > taken.load(Ordering::Relaxed) {
        return Err(Error::Limit { what: "the ratio of plain to compressed bytes", limit: MAX_RATIO });
    }
    Ok(())
}

impl<R: BufRead> Read for Taken<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Taken<'_, R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        self.input.consume(n);
    }
}

/// A buffer of the pipeline. It goes back to where it was filled when nobody needs it any more: a new one each
/// time would cost its pages and their zeros again.
struct Buffer {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody at home: the pipeline has ended.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

/// Where buffers are filled and come back to. There are as many as are under way at once.
struct Buffers {
    home: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
}

impl Buffers {
    fn new() -> Buffers {
        let (home, free) = std::sync::mpsc::channel();
        Buffers { home, free }
    }

    /// A piece of this size, or the rest.
    fn fill(&self, input: &mut impl Read) -> std::io::Result<Arc<Buffer>> {
        let mut bytes = self.free.try_recv().unwrap_or_default();
        bytes.resize(PIECE, 0);
        let mut have = 0;
        while have < PIECE {
            match input.read(&mut bytes[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(have);
        Ok(Arc::new(Buffer { bytes, home: self.home.clone() }))
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A piece of the archive, stored or plain, or why there is no more.
type Piece = std::io::Result<Arc<Buffer>>;

/// The archive as another thread gives it.
struct Pieces {
    input: Receiver<Piece>,
    current: Option<Arc<Buffer>>,
    at: usize,
}

impl Pieces {
    fn new(input: Receiver<Piece>) -> Pieces {
        Pieces { input, current: None, at: 0 }
    }

    fn rest(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |piece| &piece.bytes[self.at..])
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.rest().is_empty() {
            // Given back before the next is waited for.
            self.current = None;
            match self.input.recv() {
                Ok(piece) => (self.current, self.at) = (Some(piece?), 0),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.rest())
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = self.fill_buf()?;
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// What the reading thread found.
struct Stored {
    digest: Digest,
    size: u64,
}

/// Reads, hashes and keeps the bytes as they come, and hands them on. Who listens no more has the reason; then
/// this ends early.
fn read_archive(
    input: impl Read + Send,
    blob: File,
    limit: Option<u64>,
    stored: &SyncSender<Piece>,
) -> std::io::Result<Option<Stored>> {
    // One byte more than expected tells that there are more.
    let input = input.take(limit.map_or(u64::MAX, |n| n.saturating_add(1)));
    let mut input = Tee::new(input, blob);
    let buffers = Buffers::new();
    loop {
        match buffers.fill(&mut input) {
            Ok(piece) if piece.bytes.is_empty() => break,
            Ok(piece) => {
                if stored.send(Ok(piece)).is_err() {
                    return Ok(None);
                }
            }
            Err(e) => {
                let _ = stored.send(Err(e));
                return Ok(None);
            }
        }
    }
    let (digest, size, _) = input.finish();
    Ok(Some(Stored { digest, size }))
}

/// Makes the plain bytes. What is stored plain is not hashed a second time. False when it ended early, with a
/// reason that was handed on, or because nobody listens.
fn decompress(
    mut stored: Pieces,
    compression: Compression,
    plain: &SyncSender<Piece>,
    hashed: &SyncSender<Arc<Buffer>>,
) -> std::io::Result<bool> {
    {
        let (taken, mut given) = (AtomicU64::new(0), 0u64);
        let buffers = Buffers::new();
        let mut reader = compression.reader(Taken { input: &mut stored, bytes: &taken })?;
        loop {
            let piece = match buffers.fill(&mut reader) {
                Ok(piece) => piece,
                Err(e) => {
                    let _ = plain.send(Err(e));
                    return Ok(false);
                }
            };
            if piece.bytes.is_empty() {
                break;
            }
            given += piece.bytes.len() as u64;
            if let Err(limit) = ratio(given, &taken) {
                let _ = plain.send(Err(std::io::Error::other(limit)));
                return Ok(false);
            }
            let unheard = compression != Compression::None && hashed.send(Arc::clone(&piece)).is_err();
            if unheard || plain.send(Ok(piece)).is_err() {
                return Ok(false);
            }
        }
    }
    // What follows the compressed stream (padding, an index) belongs to the blob.
    std::io::copy(&mut stored, &mut std::io::sink())?;
    Ok(true)
}

impl Store {
    /// Reads one layer archive (plain, gzip or zstd), keeps its bytes as a blob, and unpacks it: one thread
    /// reads, hashes and keeps, one decompresses, one hashes the plain bytes, this one parses and writes.
    pub(crate) fn ingest_layer(
        &self,
        input: impl Read + Send,
        expected: Expected,
        observer: Observer<'_>,
    ) -> Result<(Ingest, Layer)> {
        let _span = tracing::debug_span!("ingest_layer").entered();
        let ingest = Ingest::new(self)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let blob = rustix::fs::openat(&ingest.dir, "blob", flags, Mode::from_raw_mode(0o600));
        let blob = File::from(blob.map_err(Error::io("create", &ingest.path))?);
        rustix::fs::mkdirat(&ingest.dir, "fs", Mode::from_raw_mode(0o755))
            .map_err(Error::io("make", &ingest.path))?;
        let (to_decompress, stored) = std::sync::mpsc::sync_channel(PIECES);
        let (plain, pieces) = std::sync::mpsc::sync_channel(PIECES);
        let (to_hash, hashed) = std::sync::mpsc::sync_channel::<Arc<Buffer>>(PIECES);
        let (stored, decompressed, diff_id, unpacked) = std::thread::scope(|scope| -> Result<_> {
            let thread = || std::thread::Builder::new().name("boxship-unpack".into());
            let fail = || Error::io::<std::io::Error>("start a thread for", &ingest.path);
            let reader = thread()
                .spawn_scoped(scope, move || read_archive(input, blob, expected.size, &to_decompress))
                .map_err(fail())?;
            let decompresser = thread()
                .spawn_scoped(scope, move || {
                    let mut stored = Pieces::new(stored);
                    let compression = match stored.fill_buf() {
                        Ok(start) => Compression::detect(start),
                        Err(e) => {
                            let _ = plain.send(Err(e));
                            return Ok((false, Compression::None));
                        }
                    };
                    Ok((decompress(stored, compression, &plain, &to_hash)?, compression))
                })
                .map_err(fail())?;
            let hasher =
                thread().spawn_scoped(scope, move || Digest::of_pieces(hashed.into_iter())).map_err(fail())?;
            let unpacked = self.unpack(Pieces::new(pieces), &ingest, observer);
            Ok((joined(reader.join()), joined(decompresser.join()), joined(hasher.join()), unpacked))
        })?;
        // A failed unpacking makes the others end early: it is the cause.
        unpacked?;
        let read = |source| Error::Io { operation: "read", path: "the archive".into(), source };
        let early = || read(std::io::ErrorKind::UnexpectedEof.into());
        let (whole, compression) = decompressed.map_err(read)?;
        let stored = stored.map_err(read)?.filter(|_| whole).ok_or_else(early)?;
        let (blob, blob_size) = (stored.digest, stored.size);
        let diff_id = if compression == Compression::None { blob } else { diff_id };
        if let Some(size) = expected.size.filter(|size| *size != blob_size) {
            let more = if blob_size > size { "more" } else { "only" };
            let n = blob_size.min(size.saturating_add(1));
            return Err(Error::invalid("layer", format!("{size} bytes are announced, and {more} {n} come")));
        }
        for (expected, found) in [(expected.digest, blob), (expected.diff_id, diff_id)] {
            if let Some(expected) = expected.filter(|e| *e != found) {
                let (expected, found) = (expected.to_string(), found.to_string());
                return Err(Error::DigestMismatch { expected, found });
            }
        }
        if !observer(Progress::Committing) {
            return Err(Error::Cancelled);
        }
        Ok((ingest, Layer { diff_id, blob, blob_size, media_type: compression.media_type() }))
    }

    fn unpack(&self, input: Pieces, ingest: &Ingest, observer: Observer<'_>) -> Result<()> {
        let fs =
            fsx::open_dir(ingest.dir.as_fd(), OsStr::new("fs")).map_err(Error::io("open", &ingest.path))?;
        // Also within a large file.
        let mut watch = Watch::new(observer);
        let mut reader = Reader::new(watch.reader(input), Bounds::default());
        let mut extractor = Extractor::new(fs.as_fd(), Policy { owners: self.keeps_owners() })?;
        while let Some(entry) = reader.next()? {
            extractor.add(entry, &mut reader)?;
        }
        let (files, bytes, skipped) = extractor.finish()?;
        tracing::debug!(files, bytes, skipped, "unpacked");
        let mut rest = reader.into_inner().take(MAX_TRAILER + 1);
        let trailer = std::io::copy(&mut rest, &mut std::io::sink()).map_err(read_error)?;
        if trailer > MAX_TRAILER {
            return Err(Error::Limit { what: "what follows the end of the archive", limit: MAX_TRAILER });
        }
        Ok(())
    }

    /// One sync for everything, then two renames for each: the old state or the new one, never a part.
    pub(crate) fn publish(&self, all: &[(Ingest, Layer)]) -> Result<()> {
        let Some((first, _)) = all.first() else { return Ok(()) };
        let full = self.durability() == Durability::Full;
        let pairs = self.dir("pairs")?;
        for (_, layer) in all {
            match rustix::fs::symlinkat(layer.diff_id.hex(), &pairs, layer.blob.hex()) {
                // By whoever stored the same content first.
                Err(rustix::io::Errno::EXIST) => {}
                other => other.map_err(Error::io("publish", Path::new("pairs").join(layer.blob.hex())))?,
            }
        }
        if full {
            rustix::fs::syncfs(&first.dir).map_err(Error::io("sync", &first.path))?;
        }
        for (parent, name) in [("blobs/sha256", "blob"), ("layers", "fs")] {
            let to = self.dir(parent)?;
            for (ingest, layer) in all {
                let new = if name == "blob" { layer.blob.hex() } else { layer.diff_id.hex() };
                // Taken: another process stored the same content first.
                fsx::rename_new(ingest.dir.as_fd(), OsStr::new(name), to.as_fd(), OsStr::new(&new))
                    .map_err(Error::io("publish", Path::new(parent).join(&new)))?;
            }
            if full {
                rustix::fs::fsync(&to).map_err(Error::io("sync", parent))?;
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
