//! File operations by descriptor that the standard library lacks.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens a directory below another, without following a symlink.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?)
}

/// Removes a file, or a directory with everything in it, following nothing (THREATS rule R25). A
/// missing name is no error.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_directory(parent, name),
        Err(e) => Err(e.into()),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    // Most directories to remove are empty. ACCESS: a mode without write permission (overlay's
    // work/work has none), which is ours to change.
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::ACCESS) => {}
        Err(e) => return Err(e.into()),
    }
    // Another process may be removing the same tree: what is gone is fine.
    let dir = match open_dir(parent, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open_dir(parent, name)?
        }
        other => other?,
    };
    let mut last = io::Result::Ok(());
    for _ in 0..3 {
        last = empty_directory(&dir);
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Somebody added to it while it was read.
            Err(Errno::NOTEMPTY) if last.is_ok() => {
                rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0))?;
            }
            Err(e) => return last.and(Err(e.into())),
        }
    }
    last.and(Err(Errno::NOTEMPTY.into()))
}

/// Removes what a directory holds, as much as can be removed.
pub(crate) fn empty_directory(dir: &OwnedFd) -> io::Result<()> {
    let mut last = io::Result::Ok(());
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        if child == "." || child == ".." {
            continue;
        }
        let remove = || match entry.file_type() {
            rustix::fs::FileType::Directory => remove_directory(dir.as_fd(), child),
            _ => remove_tree(dir.as_fd(), child),
        };
        let mut done = remove();
        if matches!(&done, Err(e) if e.kind() == io::ErrorKind::PermissionDenied) {
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            done = remove();
        }
        last = last.and(done);
    }
    last
}

/// Renames within a directory tree; false when the new name was taken.
pub(crate) fn rename_new(
    from: BorrowedFd<'_>,
    old: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> io::Result<bool> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        // A file system without RENAME_NOREPLACE: a directory never replaces a non-empty one.
        Err(Errno::INVAL) => match rustix::fs::renameat(from, old, to, new) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            other => other.map(|()| true).map_err(Into::into),
        },
        Err(e) => Err(e.into()),
    }
}

/// Replaces a file with new content: the old or the new is there at any moment, also after a power
/// cut when `sync` is set.
pub(crate) fn replace(dir: BorrowedFd<'_>, name: &str, content: &[u8], sync: bool) -> io::Result<()> {
    let temporary = format!(".{name}.{}", random_name());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, temporary.as_str(), flags, Mode::from_raw_mode(0o600))?;
    let write = || -> io::Result<()> {
        io::Write::write_all(&mut &std::fs::File::from(fd.as_fd().try_clone_to_owned()?), content)?;
        if sync {
            rustix::fs::fsync(&fd)?;
        }
        rustix::fs::renameat(dir, temporary.as_str(), dir, name)?;
        if sync {
            rustix::fs::fsync(dir)?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        let _ = rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
    })
}

/// Whether [`replace`] gives its files such names until they have their own.
pub(crate) fn is_temporary(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|rest| rest.rsplit_once('.'));
    parts.is_some_and(|(name, random)| {
        !name.is_empty() && random.len() == 32 && random.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// 32 hex digits from the kernel's random numbers.
pub(crate) fn random_name() -> String {
    let mut bytes = [0u8; 16];
    let mut have = 0;
    while have < bytes.len() {
        // Cannot fail once the kernel's pool is up; on failure the clock still makes names unlikely to meet.
        match rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => have += n,
            Err(Errno::INTR) => {}
            Err(_) => {
                let now =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                bytes = now.as_nanos().to_ne_bytes();
                break;
            }
        }
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
