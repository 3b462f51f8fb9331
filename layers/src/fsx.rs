//! File operations by descriptor that the standard library lacks.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::descent::{self, Descent};

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
    let dir = match descent::open_dir(parent, name.as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut clearing = Clearing { descent: Descent::new([dir])?, levels: Vec::new(), waiting: 0 };
    let mut last = io::Result::Ok(());
    for _ in 0..ROUNDS {
        last = clearing.clear();
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Somebody added to it while it was read.
            Err(Errno::NOTEMPTY) if last.is_ok() => {}
            Err(e) => return last.and(Err(e.into())),
        }
    }
    last.and(Err(Errno::NOTEMPTY.into()))
}

/// Removes what a directory holds, as much as can be removed.
pub(crate) fn empty_directory(dir: &OwnedFd) -> io::Result<()> {
    let dir = descent::open_dir(dir.as_fd(), b".")?;
    Clearing { descent: Descent::new([dir])?, levels: Vec::new(), waiting: 0 }.clear()
}

/// How often a directory is emptied that somebody fills again.
const ROUNDS: usize = 3;
/// Names of directories that wait, all levels together; with more, a level is read again for each.
const WAITING: usize = 16 << 10;

/// A directory that is being emptied.
struct Level {
    /// Its name in the one above.
    name: Vec<u8>,
    /// The directories in it that are not empty.
    todo: Vec<Vec<u8>>,
    /// There was more in it than could wait.
    more: bool,
    /// Something was removed since it was read last.
    progress: bool,
    rounds: usize,
    result: io::Result<()>,
}

/// Empties a directory. However deep it is, this takes neither a descriptor nor a stack frame for each level.
struct Clearing {
    descent: Descent,
    levels: Vec<Level>,
    waiting: usize,
}

impl Clearing {
    fn clear(&mut self) -> io::Result<()> {
        self.levels = vec![self.read(Vec::new())?];
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(()) };
            if let Some(name) = level.todo.pop() {
                self.waiting -= 1;
                match self.descent.enter(&name, &[0]) {
                    Ok(()) => {
                        let read = self.read(name);
                        match read {
                            Ok(level) => self.levels.push(level),
                            Err(e) => {
                                self.descent.leave()?;
                                self.note(Err(e));
                            }
                        }
                    }
                    Err(Errno::NOENT) => {}
                    Err(e) => self.note(Err(e.into())),
                }
            } else if level.more && level.progress {
                let (name, result) =
                    (std::mem::take(&mut level.name), std::mem::replace(&mut level.result, Ok(())));
                let again = self.read(name)?;
                *level_of(&mut self.levels)? = Level { result: result.and(again.result), ..again };
            } else if self.levels.len() == 1 {
                return self.levels.pop().map_or(Ok(()), |level| level.result);
            } else {
                self.finish()?;
            }
        }
    }

    /// Removes what is a file or an empty directory, and tells what else there is.
    fn read(&mut self, name: Vec<u8>) -> io::Result<Level> {
        let mut level =
            Level { name, todo: Vec::new(), more: false, progress: false, rounds: 0, result: Ok(()) };
        let dir = self.descent.dir(0)?;
        // A description of its own: the place in a directory belongs to the description.
        let list = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
        let mut buffer = Vec::with_capacity(4096);
        let mut entries = rustix::fs::RawDir::new(&list, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let child = OsStr::from_bytes(entry.file_name().to_bytes());
            if child == "." || child == ".." {
                continue;
            }
            let flags = match entry.file_type() {
                rustix::fs::FileType::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            let done = match unlink(dir, child, flags) {
                // The type was not known.
                Err(Errno::ISDIR) => unlink(dir, child, AtFlags::REMOVEDIR),
                other => other,
            };
            match done {
                Ok(()) | Err(Errno::NOENT) => level.progress = true,
                Err(Errno::NOTEMPTY) if self.waiting < WAITING || level.todo.is_empty() => {
                    self.waiting += 1;
                    level.todo.push(child.as_bytes().to_vec());
                }
                Err(Errno::NOTEMPTY) => level.more = true,
                Err(e) => level.result = Err(e.into()),
            }
        }
        Ok(level)
    }

    /// Goes up, and removes the directory that has been emptied.
    fn finish(&mut self) -> io::Result<()> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        self.descent.leave()?;
        let removed = unlink(self.descent.dir(0)?, OsStr::from_bytes(&level.name), AtFlags::REMOVEDIR);
        match removed {
            Ok(()) | Err(Errno::NOENT) => level_of(&mut self.levels)?.progress = true,
            // Somebody added to it while it was read.
            Err(Errno::NOTEMPTY) if level.result.is_ok() && level.rounds < ROUNDS => {
                self.descent.enter(&level.name, &[0])?;
                let again = self.read(level.name)?;
                self.levels.push(Level { rounds: level.rounds + 1, ..again });
            }
            Err(e) => self.note(level.result.and(Err(e.into()))),
        }
        Ok(())
    }

    /// What failed does not keep the rest from being removed.
    fn note(&mut self, result: io::Result<()>) {
        if let Some(level) = self.levels.last_mut() {
            let before = std::mem::replace(&mut level.result, Ok(()));
            level.result = before.and(result);
        }
    }
}

fn level_of(levels: &mut [Level]) -> io::Result<&mut Level> {
    levels.last_mut().ok_or_else(|| Errno::BADF.into())
}

/// Unlinks, also from a directory that its mode keeps us from changing.
fn unlink(dir: &File, name: &OsStr, flags: AtFlags) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, flags) {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            rustix::fs::unlinkat(dir, name, flags)
        }
        other => other,
    }
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
