//! Files below one directory: each is there as a whole or not at all, also after a power cut.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use boxship_layers::Durability;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;

use super::name::UploadId;
use crate::error::{Error, Result};

/// Files that have no name of their own yet.
const TEMPORARY: &str = "tmp";
/// Entries of a directory that are read.
const MAX_ENTRIES: usize = 10_000_000;

/// The directory. Paths given to it are relative and made of checked names only.
#[derive(Debug)]
pub(super) struct Disk {
    root: OwnedFd,
    sync: bool,
    /// Held as long as this lives: one server has the directory.
    _lock: OwnedFd,
}

fn io_error(operation: &'static str) -> impl Fn(Errno) -> Error {
    move |e| Error::Io { operation, source: e.into() }
}

impl Disk {
    /// Opens it, makes it if needed, and removes what a dead server left half-done.
    pub(super) fn open(path: &Path, durability: Durability) -> Result<Disk> {
        let make = |e| Error::Io { operation: "make the registry's directory", source: e };
        std::fs::create_dir_all(path).map_err(make)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = io_error("open the registry's directory");
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(&open)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&root, "lock", flags, Mode::RUSR | Mode::WUSR).map_err(&open)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io_error("lock the registry's directory, which another server has"))?;
        let disk = Disk { root, sync: durability == Durability::Full, _lock: lock };
        let failed = |e| Error::Io { operation: "prepare the registry's directory", source: e };
        disk.make(TEMPORARY).map_err(failed)?;
        for name in disk.names(TEMPORARY).map_err(failed)? {
            disk.remove(&format!("{TEMPORARY}/{name}")).map_err(failed)?;
        }
        Ok(disk)
    }

    /// Makes a directory with those above it.
    pub(super) fn make(&self, at: &str) -> io::Result<()> {
        if self.exists(at)? {
            return Ok(());
        }
        let ends = at.match_indices('/').map(|(i, _)| i).chain([at.len()]);
        for end in ends {
            match rustix::fs::mkdirat(&self.root, &at[..end], Mode::RWXU) {
                Ok(()) => self.settle(parent(&at[..end]))?,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// What a directory holds survives a power cut from here on.
    fn settle(&self, at: &str) -> io::Result<()> {
        if self.sync {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::fsync(rustix::fs::openat(&self.root, at, flags, Mode::empty())?)?;
        }
        Ok(())
    }

    fn open_at(&self, at: &str, flags: OFlags) -> io::Result<std::fs::File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.root, at, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A file to read from.
    pub(super) fn file(&self, at: &str) -> io::Result<Option<std::fs::File>> {
        absent(self.open_at(at, OFlags::RDONLY))
    }

    /// A file to read from and to add to.
    pub(super) fn append(&self, at: &str) -> io::Result<Option<std::fs::File>> {
        absent(self.open_at(at, OFlags::RDWR))
    }

    /// A new, empty file.
    pub(super) fn create(&self, at: &str) -> io::Result<std::fs::File> {
        self.open_at(at, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// A small file as a whole.
    pub(super) fn read(&self, at: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(at)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::other("a file of the registry is too large"));
        }
        Ok(Some(bytes))
    }

    /// Makes or replaces a small file.
    pub(super) fn write(&self, at: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}/{}", UploadId::random()?);
        let mut file = self.create(&temporary)?;
        file.write_all(content)
            .and_then(|()| self.publish(&file, &temporary, at))
            .inspect_err(|_| drop(self.remove(&temporary)))
    }

    /// Gives a file that is whole the name that it is found by.
    pub(super) fn publish(&self, file: &std::fs::File, from: &str, to: &str) -> io::Result<()> {
        if self.sync {
            file.sync_all()?;
        }
        self.make(parent(to))?;
        rustix::fs::renameat(&self.root, from, &self.root, to)?;
        self.settle(parent(to))
    }

    /// Removes a file; false when there was none.
    pub(super) fn remove(&self, at: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.root, at, AtFlags::empty()) {
            Ok(()) => self.settle(parent(at)).map(|()| true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes a file that a power cut may bring back: nothing leads to it.
    pub(super) fn forget(&self, at: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.root, at, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn exists(&self, at: &str) -> io::Result<bool> {
        Ok(self.stat(at)?.is_some())
    }

    /// Bytes of a file, and when it was written or touched.
    pub(super) fn stat(&self, at: &str) -> io::Result<Option<(u64, SystemTime)>> {
        match rustix::fs::statat(&self.root, at, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => {
                let seconds = u64::try_from(s.st_mtime).unwrap_or(0);
                let nanos = u32::try_from(s.st_mtime_nsec).unwrap_or(0);
                let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos.min(999_999_999));
                Ok(Some((u64::try_from(s.st_size).unwrap_or(0), time)))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Says that a file was of use now.
    pub(super) fn touch(&self, at: &str) -> io::Result<()> {
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: omit, last_modification: now };
        Ok(rustix::fs::utimensat(&self.root, at, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The names in a directory, in no order; none when there is no directory.
    pub(super) fn names(&self, at: &str) -> io::Result<Vec<String>> {
        self.entries(at, |_| true)
    }

    /// The directories in a directory.
    pub(super) fn directories(&self, at: &str) -> io::Result<Vec<String>> {
        self.entries(at, |kind| kind == FileType::Directory)
    }

    fn entries(&self, at: &str, keep: impl Fn(FileType) -> bool) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(&self.root, at, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(16 << 10);
        let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != "."
                && name != ".."
                && (keep(entry.file_type()) || entry.file_type() == FileType::Unknown)
            {
                names.push(name.to_owned());
            }
            if names.len() > MAX_ENTRIES {
                return Err(io::Error::other("a directory of the registry is too large"));
            }
        }
        Ok(names)
    }
}

fn parent(at: &str) -> &str {
    at.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}
