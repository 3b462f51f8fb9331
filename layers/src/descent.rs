//! Walking down trees that strangers made: by descriptor, following nothing, however deep they are, and into what
//! its mode keeps its owner out of.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Open directories of a [`Descent`] besides those of its end: what is higher up is opened again on the way back.
const HELD: usize = 64;
/// What an owner needs to read a file, and to list and search a directory.
const READ: u32 = 0o400;
const SEARCH: u32 = 0o500;

/// The mode that something had, and the one that it has for the time being.
#[derive(Clone, Copy)]
struct Lent {
    was: u32,
    is: u32,
}

impl Lent {
    /// Gives the mode back, unless somebody has set another meanwhile.
    fn give_back(self, fd: BorrowedFd<'_>) {
        if rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_mode & 0o7777 == self.is) {
            let _ = rustix::fs::fchmod(fd, Mode::from_raw_mode(self.was));
        }
    }
}

/// A file or directory that is open for reading. One that its mode keeps its owner, who is not root, out of has a
/// wider one until this goes: there is no other way in.
pub(crate) struct Opened {
    file: Rc<File>,
    lent: Option<Lent>,
}

impl Deref for Opened {
    type Target = File;
    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(lent) = self.lent {
            lent.give_back(self.file.as_fd());
        }
    }
}

/// Whose tree it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The store's: modes may be lent.
    Store,
    /// The host's, in which nothing is changed.
    Host,
}

/// Opens a directory of the store.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Opened> {
    open(parent, name, OFlags::DIRECTORY, SEARCH)
}

/// Opens what should be a regular file of the store; a fifo in its place keeps nobody waiting.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Opened> {
    open(parent, name, OFlags::NONBLOCK, READ)
}

impl Whose {
    /// Opens a directory of such a tree.
    pub(crate) fn dir(self, parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Opened> {
        match self {
            Whose::Store => open_dir(parent, name),
            Whose::Host => as_it_is(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW),
        }
    }

    /// Opens a regular file of such a tree.
    pub(crate) fn file(self, parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Opened> {
        match self {
            Whose::Store => open_file(parent, name),
            Whose::Host => as_it_is(parent, name, OFlags::NONBLOCK | OFlags::NOFOLLOW),
        }
    }
}

/// Opens a directory that the caller named, who may have named a symlink.
pub(crate) fn open_host(path: &Path) -> rustix::io::Result<Opened> {
    as_it_is(CWD, path.as_os_str().as_bytes(), OFlags::DIRECTORY)
}

fn as_it_is(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<Opened> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())?;
    Ok(Opened { file: Rc::new(file.into()), lent: None })
}

fn open(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags, wide: u32) -> rustix::io::Result<Opened> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = OsStr::from_bytes(name);
    let file: File = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => return open_lent(parent, name, flags, wide),
        other => other?.into(),
    };
    if wide == SEARCH {
        // It can be listed: that does not say that it can be searched.
        let mode = rustix::fs::fstat(&file)?.st_mode & 0o7777;
        if mode & 0o100 == 0 && rustix::fs::accessat(&file, ".", Access::EXEC_OK, AtFlags::EACCESS).is_err() {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode | wide))?;
            return Ok(Opened { file: file.into(), lent: Some(Lent { was: mode, is: mode | wide }) });
        }
    }
    Ok(Opened { file: file.into(), lent: None })
}

/// Widens the mode of what is ours and no symlink: of the very inode, whatever has its name a moment later.
fn open_lent(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags, wide: u32) -> rustix::io::Result<Opened> {
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inode = rustix::fs::openat(parent, name, place, Mode::empty())?;
    let stat = rustix::fs::fstat(&inode)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let fits = if flags.contains(OFlags::DIRECTORY) { kind.is_dir() } else { kind.is_file() };
    if !fits || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::ACCESS);
    }
    let (was, is) = (stat.st_mode & 0o7777, stat.st_mode & 0o7777 | wide);
    if was == is {
        return Err(Errno::ACCESS);
    }
    let link = format!("/proc/self/fd/{}", inode.as_raw_fd());
    let set = |mode| rustix::fs::chmodat(CWD, link.as_str(), Mode::from_raw_mode(mode), AtFlags::empty());
    set(is)?;
    match rustix::fs::openat(CWD, link.as_str(), flags.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(fd) => Ok(Opened { file: Rc::new(fd.into()), lent: Some(Lent { was, is }) }),
        Err(e) => {
            let _ = set(was);
            Err(e)
        }
    }
}

struct Dir {
    /// `None`: closed on the way down, and opened again on the way back.
    file: Option<Rc<File>>,
    lent: Option<Lent>,
    /// Device and inode.
    id: (u64, u64),
    /// In which directory of the level above it is.
    above: usize,
    /// A directory of the level below is in it.
    entered: bool,
}

/// A way down one tree, or several of the same shape side by side. Of the directories on it few are open at a time
/// besides those in which it ends; what is opened again, by `..`, has to be the directory that it was.
pub(crate) struct Descent {
    whose: Whose,
    levels: Vec<Vec<Dir>>,
    open: usize,
    /// The highest level that may have something to close.
    closed: usize,
}

impl Descent {
    pub(crate) fn new(roots: impl IntoIterator<Item = Opened>) -> rustix::io::Result<Descent> {
        Descent::of(Whose::Store, roots)
    }

    pub(crate) fn of(whose: Whose, roots: impl IntoIterator<Item = Opened>) -> rustix::io::Result<Descent> {
        let roots: Vec<Dir> = roots.into_iter().map(|root| dir(root, 0)).collect::<Result<_, _>>()?;
        Ok(Descent { whose, open: roots.len(), levels: vec![roots], closed: 0 })
    }

    /// The directories in which it ends.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &File> {
        // Those of the last level are open.
        self.levels.last().into_iter().flatten().filter_map(|dir| dir.file.as_deref())
    }

    /// One of these.
    pub(crate) fn dir(&self, which: usize) -> rustix::io::Result<&File> {
        let dir = self.levels.last().and_then(|level| level.get(which));
        dir.and_then(|dir| dir.file.as_deref()).ok_or(Errno::BADF)
    }

    /// Goes down to `name` in these of the directories.
    pub(crate) fn enter(&mut self, name: &[u8], which: &[usize]) -> rustix::io::Result<()> {
        self.close_above(which.len());
        let many = self.open + which.len() > HELD;
        let mut last = self.levels.pop().ok_or(Errno::BADF)?;
        let mut level = Vec::with_capacity(which.len());
        let mut result = Ok(());
        for &i in which {
            let Some(above) = last.get_mut(i) else { continue };
            let opened =
                above.file.as_ref().ok_or(Errno::BADF).and_then(|file| self.whose.dir(file.as_fd(), name));
            match opened.and_then(|opened| dir(opened, i)) {
                Ok(dir) => level.push(dir),
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
            self.open += 1;
            above.entered = true;
            if many {
                above.file = None;
                self.open -= 1;
            }
        }
        self.levels.extend([last, level]);
        if result.is_err() {
            self.leave()?;
        }
        result
    }

    /// Goes back up.
    pub(crate) fn leave(&mut self) -> rustix::io::Result<()> {
        if self.levels.len() < 2 {
            return Ok(());
        }
        let below = self.levels.pop().unwrap_or_default();
        self.open -= below.len();
        self.closed = self.closed.min(self.levels.len() - 1);
        let mut result = Ok(());
        for dir in below {
            let Some(file) = dir.file else { continue };
            if let Some(above) = self.levels.last_mut().and_then(|level| level.get_mut(dir.above)) {
                above.entered = false;
                if above.file.is_none() {
                    match open_again(&file, above.id) {
                        Ok(file) => (above.file, self.open) = (Some(Rc::new(file)), self.open + 1),
                        Err(e) => result = Err(e),
                    }
                }
            }
            if let Some(lent) = dir.lent {
                lent.give_back(file.as_fd());
            }
        }
        result
    }

    /// Closes what is above the end until there is room for some more.
    fn close_above(&mut self, more: usize) {
        let end = self.levels.len() - 1;
        while self.open + more > HELD && self.closed < end {
            for dir in self.levels[self.closed].iter_mut().filter(|dir| dir.entered) {
                // One that nothing below leads back to stays: of each tree that is one.
                self.open -= usize::from(dir.file.take().is_some());
            }
            self.closed += 1;
        }
    }
}

impl Drop for Descent {
    /// Gives all modes back.
    fn drop(&mut self) {
        while self.levels.len() > 1 {
            let _ = self.leave();
        }
        for dir in self.levels.iter().flatten() {
            if let (Some(lent), Some(file)) = (dir.lent, &dir.file) {
                lent.give_back(file.as_fd());
            }
        }
    }
}

fn dir(mut opened: Opened, above: usize) -> rustix::io::Result<Dir> {
    let stat = rustix::fs::fstat(&*opened.file)?;
    let (file, lent) = (Some(Rc::clone(&opened.file)), opened.lent.take());
    Ok(Dir { file, lent, id: (stat.st_dev, stat.st_ino), above, entered: false })
}

/// The directory above, if it is still this one.
fn open_again(below: &File, id: (u64, u64)) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(below, "..", flags, Mode::empty())?.into();
    let stat = rustix::fs::fstat(&file)?;
    if (stat.st_dev, stat.st_ino) == id { Ok(file) } else { Err(Errno::STALE) }
}
