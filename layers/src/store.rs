//! The store: one directory that several processes may open at once.

mod addition;
mod collect;
mod disk_usage;
pub(crate) mod ingest;
mod trash;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fsx;
use crate::image::Parts;

pub use addition::{AddedLayer, Addition, Expected, LayerLock, Publish};
pub(crate) use collect::is_damage;
pub use collect::{Check, Collected, Defect};
pub use disk_usage::{DiskUsage, ImageUsage, LayerUsage, SnapshotUsage};

/// The version of the on-disk format; features are named beside it.
const VERSION: u32 = 1;
const DIRECTORIES: [&str; 12] = [
    "blobs",
    "blobs/sha256",
    "pairs",
    "layers",
    "replaced",
    "snapshots",
    "ingest",
    "trash",
    "top",
    "containers",
    "names",
    "ids",
];
/// Mount points and files that every container needs, whatever its image holds.
const TOP_DIRECTORIES: [&str; 5] = ["dev", "proc", "sys", "run", "etc"];
const TOP_FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
/// Space, and an inode, for removals.
const RESERVE: &str = "reserve";
const RESERVED: u64 = 64 << 10;
/// The largest manifest, config or index that is read.
const MAX_DOCUMENT: u64 = 4 << 20;

/// What "done" means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// What was reported as done survives a power cut.
    #[default]
    Full,
    /// It survives the death of the process, but a power cut may lose it (the store stays usable).
    Relaxed,
}

/// How far something is. It is told of within large files, too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A program of the host was collected, with the files it needs so far.
    Collected {
        /// Its path.
        path: PathBuf,
        /// Files in the image so far.
        files: u64,
    },
    /// Bytes that have been dealt with so far: of an archive, plain; of blobs and files that are compared.
    Read {
        /// Bytes.
        bytes: u64,
    },
    /// Blobs and layers that have been dealt with, by [`Store::gc_with`] and [`Store::fsck_with`].
    Parts {
        /// So many.
        done: u64,
        /// Of so many.
        of: u64,
    },
    /// Everything is written; syncing and publishing.
    Committing,
}

/// `format`: what a reader must know, as file systems do it: unknown `incompatible` features forbid
/// opening, unknown `read_only_compatible` ones forbid writing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    version: u32,
    #[serde(default)]
    compatible: Vec<String>,
    #[serde(default)]
    read_only_compatible: Vec<String>,
    #[serde(default)]
    incompatible: Vec<String>,
}

/// What a version of boxship that knows no features may do with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Full,
    /// Because of this feature.
    Read(String),
    /// Because of what is said here.
    None(String),
}

impl Format {
    pub(crate) fn parse(text: &[u8]) -> Result<Format> {
        let bad = |source| Error::Json { what: "format", source };
        // An object, and not a list of what one would have.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).map_err(bad)?;
        serde_json::from_value(object.into()).map_err(bad)
    }

    pub(crate) fn access(&self) -> Access {
        // There are no features yet: all are unknown. Compatible ones are nobody's concern.
        let unknown = self.incompatible.first();
        if self.version != VERSION || unknown.is_some() {
            let feature = unknown.map(|f| format!(" with feature {f:?}")).unwrap_or_default();
            return Access::None(format!("{}{feature}", self.version));
        }
        self.read_only_compatible.first().map_or(Access::Full, |feature| Access::Read(feature.clone()))
    }
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    dir: OwnedFd,
    durability: Durability,
    owners: bool,
    /// The feature because of which it is only read.
    read_only: OnceLock<String>,
    /// What images consist of, by their digests.
    remembered: Mutex<HashMap<Digest, Arc<Parts>>>,
    #[cfg(test)]
    documents_read: std::sync::atomic::AtomicU64,
}

/// An open store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

impl Store {
    /// Opens the store at `path` with full durability, making it if needed, and removes what dead
    /// processes left behind.
    ///
    /// # Errors
    /// [`Error::Format`] for a store of a newer version, [`Error::Io`]. Some newer stores can be read: then what
    /// would write is [`Error::ReadOnly`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(path, Durability::Full)
    }

    /// [`open`](Store::open) with a choice of durability.
    ///
    /// # Errors
    /// As [`open`](Store::open).
    pub fn open_with(path: impl AsRef<Path>, durability: Durability) -> Result<Store> {
        let path = std::path::absolute(path.as_ref()).map_err(Error::io("resolve", path.as_ref()))?;
        make_root(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::io("open the store", &path))?;
        let owners = rustix::process::geteuid().is_root() && may_chown()?;
        let store = Store(Arc::new(Inner {
            path,
            dir,
            durability,
            owners,
            read_only: OnceLock::new(),
            remembered: Mutex::default(),
            #[cfg(test)]
            documents_read: 0.into(),
        }));
        store.check_format()?;
        if store.require_writable().is_err() {
            return Ok(store);
        }
        for name in DIRECTORIES {
            make_private(&store.path().join(name))?;
        }
        store.make_top()?;
        store.collect_leftovers();
        store.empty_trash();
        store.make_reserve();
        Ok(store)
    }

    /// Sets something aside for removals: a full disk must not keep anybody from making room. Best effort: a
    /// disk that is full already gets it when there is room.
    pub(crate) fn make_reserve(&self) {
        if self.require_writable().is_err() {
            return;
        }
        let size = |s: rustix::fs::Stat| u64::try_from(s.st_size).unwrap_or(0);
        let dir = &self.0.dir;
        if rustix::fs::statat(dir, RESERVE, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| size(s) >= RESERVED) {
            return;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(dir, RESERVE, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|fd| rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, RESERVED));
        if let Err(error) = made {
            tracing::debug!(%error, "no reserve for removals");
        }
    }

    /// Gives the reserve away. [`make_reserve`](Store::make_reserve) brings it back.
    fn free_reserve(&self) -> bool {
        rustix::fs::unlinkat(&self.0.dir, RESERVE, AtFlags::empty()).is_ok()
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether a resolved path leads into the store.
    ///
    /// # Errors
    /// [`Error::Io`] when the store is gone.
    pub fn holds(&self, real: &Path) -> Result<bool> {
        #[allow(clippy::disallowed_methods, reason = "the store's own path, to compare with")]
        let own = std::fs::canonicalize(self.path()).map_err(Error::io("resolve", self.path()))?;
        Ok(real.starts_with(own))
    }

    pub(crate) fn durability(&self) -> Durability {
        self.0.durability
    }

    /// Whether files keep the owners that their image gives them.
    #[must_use]
    pub fn keeps_owners(&self) -> bool {
        self.0.owners
    }

    fn check_format(&self) -> Result<()> {
        let path = self.path().join("format");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return self.write_format(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        match Format::parse(&text)?.access() {
            Access::Full => Ok(()),
            Access::Read(feature) => {
                let _ = self.0.read_only.set(feature);
                Ok(())
            }
            Access::None(found) => {
                Err(Error::Format { path: self.path().to_owned(), found, understood: VERSION })
            }
        }
    }

    /// Says whether this version may write to the store.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] when it may not.
    pub fn require_writable(&self) -> Result<()> {
        match self.0.read_only.get() {
            None => Ok(()),
            Some(feature) => Err(Error::ReadOnly { path: self.path().to_owned(), feature: feature.clone() }),
        }
    }

    fn write_format(&self) -> Result<()> {
        let format = Format {
            version: VERSION,
            compatible: vec![],
            read_only_compatible: vec![],
            incompatible: vec![],
        };
        let text = serde_json::to_vec(&format).map_err(|source| Error::Json { what: "format", source })?;
        // Who holds the lock may take half-written files of the store's directory for a dead one's.
        let _lock = self.lock()?;
        let dir = self.0.dir.as_fd();
        fsx::replace(dir, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, true)
            .and_then(|()| fsx::replace(dir, "format", &text, true))
            .map_err(Error::io("write the format of", self.path()))
    }

    /// Our own top layer: real directories and files to mount on, so that nothing in an image (a
    /// symlink at /dev, say) decides where the container's own mounts go (THREATS rule R3).
    fn make_top(&self) -> Result<()> {
        let top = self.path().join("top");
        // The mode of the last file is the last step: whoever began may have been killed before it.
        let done = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o7777 == 0o644;
        if std::fs::symlink_metadata(top.join(TOP_FILES[2])).is_ok_and(done) {
            return Ok(());
        }
        set_mode(&top, 0o755)?;
        for name in TOP_DIRECTORIES {
            let path = top.join(name);
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("make", path)(e));
                }
                _ => set_mode(&path, 0o755)?,
            }
        }
        for name in TOP_FILES {
            let path = top.join(name);
            make_empty(&path).map_err(Error::io("make", &path))?;
            set_mode(&path, 0o644)?;
        }
        Ok(())
    }

    /// Removes ingests whose owner is dead. Best effort: what stays is tried again by the next open.
    fn collect_leftovers(&self) {
        let Ok(dir) = self.dir("ingest") else { return };
        let Ok(entries) = std::fs::read_dir(self.path().join("ingest")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            // Directories of ingests, and the locks of layers that are being brought. A lock is held until the
            // thing is removed: who makes a new one sees that it was taken for a dead one's.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(lock) = rustix::fs::openat(&dir, &name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = fsx::remove_tree(dir.as_fd(), &name);
            }
            drop(lock);
        }
    }

    /// Takes the lock that guards names and removals; held until the descriptor is dropped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock(&self) -> Result<OwnedFd> {
        self.lock_as(FlockOperation::LockExclusive)
    }

    /// Takes the same lock together with others who only add; held until the descriptor is dropped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lock_shared(&self) -> Result<OwnedFd> {
        self.lock_as(FlockOperation::LockShared)
    }

    /// Keeps blobs and layers from being collected, together with others who add.
    pub(crate) fn hold_content(&self) -> Result<OwnedFd> {
        self.lock_file("adding", FlockOperation::LockShared)
    }

    /// The right to collect blobs and layers: nobody is adding any. `None` while somebody is.
    pub(crate) fn claim_content(&self) -> Result<Option<OwnedFd>> {
        match self.lock_file("adding", FlockOperation::NonBlockingLockExclusive) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    fn lock_as(&self, operation: FlockOperation) -> Result<OwnedFd> {
        self.lock_file("lock", operation)
    }

    fn lock_file(&self, name: &str, operation: FlockOperation) -> Result<OwnedFd> {
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        if self.0.read_only.get().is_some() {
            // It is there.
            flags -= OFlags::CREATE;
        }
        let mut fd = rustix::fs::openat(&self.0.dir, name, flags, Mode::from_raw_mode(0o600));
        if matches!(fd, Err(rustix::io::Errno::ROFS)) {
            // Whoever only reads can do so from a read-only file system, too.
            fd = rustix::fs::openat(&self.0.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        }
        let fd = fd.map_err(Error::io("open the lock of", self.path()))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, operation))
            .map_err(Error::io("lock", self.path()))?;
        Ok(fd)
    }

    /// A directory of the store, by descriptor.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn dir(&self, name: &str) -> Result<OwnedFd> {
        fsx::open_dir(self.0.dir.as_fd(), OsStr::new(name)).map_err(Error::io("open", self.path().join(name)))
    }

    /// Removes what those left who died while they replaced a file of this directory. The caller sees to it
    /// that nobody is doing so.
    pub(crate) fn remove_temporaries(&self, parent: &str) -> Result<()> {
        let path = self.path().join(parent);
        let dir = self.dir(if parent.is_empty() { "." } else { parent })?;
        for entry in std::fs::read_dir(&path).map_err(Error::io("list", &path))? {
            let name = entry.map_err(Error::io("list", &path))?.file_name();
            if name.to_str().is_some_and(fsx::is_temporary) {
                fsx::remove_tree(dir.as_fd(), &name).map_err(Error::io("remove", path.join(&name)))?;
            }
        }
        Ok(())
    }

    /// [`replace_file`](Store::replace_file) for whoever makes room: where there is none, the reserve is used.
    pub(crate) fn replace_file_when_full(&self, name: &str, content: &[u8]) -> Result<()> {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self.replace_file(name, content) {
            Err(Error::Io { source, .. })
                if matches!(source.kind(), StorageFull | QuotaExceeded) && self.free_reserve() =>
            {
                self.replace_file(name, content)
            }
            other => other,
        }
    }

    pub(crate) fn replace_file(&self, name: &str, content: &[u8]) -> Result<()> {
        self.require_writable()?;
        let sync = self.0.durability == Durability::Full;
        fsx::replace(self.0.dir.as_fd(), name, content, sync)
            .map_err(Error::io("write", self.path().join(name)))
    }

    /// The path of a blob.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Reads a small blob and checks its digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::DigestMismatch`], [`Error::Limit`] above 4 MiB.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        #[cfg(test)]
        self.0.documents_read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.blob_path(digest);
        let file = match std::fs::File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { what: "blob", name: digest.to_string() });
            }
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::Limit { what: "a manifest or config", limit: MAX_DOCUMENT });
        }
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(Error::DigestMismatch { expected: digest.to_string(), found: found.to_string() }),
        }
    }

    #[cfg(test)]
    pub(crate) fn documents_read(&self) -> u64 {
        self.0.documents_read.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What images consist of, as far as it was asked for.
    pub(crate) fn remembered(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Parts>>> {
        self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a small blob.
    pub(crate) fn write_document(&self, bytes: &[u8]) -> Result<Digest> {
        self.require_writable()?;
        let digest = Digest::of(bytes);
        if !self.blob_path(&digest).exists() {
            let dir = self.dir("blobs/sha256")?;
            let sync = self.0.durability == Durability::Full;
            fsx::replace(dir.as_fd(), &digest.hex(), bytes, sync)
                .map_err(Error::io("write", self.blob_path(&digest)))?;
        }
        Ok(digest)
    }

    /// The unpacked files of a layer.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.path().join("layers").join(diff_id.hex())
    }

    /// Whether a stored archive was seen to become this layer. That both are there does not say so: an image
    /// that names two which do not belong together would run one and hand on the other.
    pub(crate) fn is_pair(&self, blob: &Digest, diff_id: &Digest) -> bool {
        let path = self.path().join("pairs").join(blob.hex());
        std::fs::read_link(path).is_ok_and(|to| to.as_os_str() == diff_id.hex().as_str())
    }

    /// [`set_aside`](Store::set_aside) for a blob, and what is known of it.
    pub(crate) fn set_blob_aside(&self, blob: &Digest) -> Result<()> {
        self.require_writable()?;
        let pair = self.path().join("pairs").join(blob.hex());
        match std::fs::remove_file(&pair) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", pair)(e)),
            _ => {}
        }
        self.set_aside("blobs/sha256", &blob.hex())
    }

    /// Moves `name` below the store's directory `parent` into the trash: one step, after which it is
    /// gone for everybody. [`empty_trash`](Store::empty_trash), or the next open, frees the space. A
    /// missing name is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_aside(&self, parent: &str, name: &str) -> Result<()> {
        self.require_writable()?;
        let (from, trash) = (self.dir(parent)?, self.dir("trash")?);
        match rustix::fs::renameat(&from, name, &trash, self.trash_name(parent)) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => other.map_err(Error::io("discard", self.path().join(parent).join(name))),
        }
    }

    /// [`set_aside`](Store::set_aside), then frees the space.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self, parent: &str, name: &str) -> Result<()> {
        self.set_aside(parent, name)?;
        self.empty_trash();
        Ok(())
    }
}

/// Makes the root. One that exists must be a store or empty: nobody wants the mode of `/srv` changed or
/// files put into a directory that was named by mistake.
fn make_root(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    }
    make_private(path)?;
    let mut entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    // What may be there before the format is written: what another process that opens it at the same
    // time has made.
    let ours = |e: std::fs::DirEntry| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        name.starts_with('.') || ["format", "oci-layout", "lock", "adding"].contains(&name.as_ref())
    };
    let format = path.join("format");
    if !there(&format)? && entries.any(|e| !e.is_ok_and(ours)) && !there(&format)? {
        return Err(Error::invalid("store", format!("{path:?} is neither empty nor a boxship store")));
    }
    Ok(())
}

/// Whether there is something of this name: not being able to tell is no "no".
pub(crate) fn there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io("look for", path))
}

/// 0700 from its first moment, as far as the umask allows, and then whatever the umask: a store holds other
/// people's setuid programs (THREATS rule R15).
fn make_private(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => set_mode(path, 0o700),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::io("make", path)(e)),
    }
}

/// Not readable before its mode is set, so that its mode tells whether it is finished.
fn make_empty(path: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(drop)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let set = || -> rustix::io::Result<()> {
        rustix::fs::fchmod(&rustix::fs::open(path, flags, Mode::empty())?, Mode::from_raw_mode(mode))
    };
    set().map_err(Error::io("set the mode of", path))
}

fn may_chown() -> Result<bool> {
    // Root of a user namespace with a single id may not give files away.
    let map = match std::fs::read_to_string("/proc/self/uid_map") {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        // Guessed wrong, a layer would lose its owners for good, and nobody would be told.
        other => other.map_err(Error::io("read", "/proc/self/uid_map"))?,
    };
    let ids = map.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok());
    Ok(ids.is_some_and(|n| n >= 65_536))
}
