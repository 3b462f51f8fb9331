//! Layers seen as the one tree that overlayfs makes of them, and trees compared. Everything is read by
//! descriptor, following nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Deeper trees than the extractor makes are an error and no endless recursion.
pub(crate) const MAX_DEPTH: usize = 1024;

/// A name in a directory of layers, from the topmost layer that has it.
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// The directory that has it.
    pub(crate) dir: Rc<OwnedFd>,
    /// For a directory: the directories of that name which show through, the topmost first.
    pub(crate) shown: Vec<Rc<OwnedFd>>,
}

pub(crate) fn open_root(path: &Path) -> Result<Rc<OwnedFd>> {
    rustix::fs::open(path, DIRECTORY, Mode::empty()).map(Rc::new).map_err(Error::io("open", path))
}

/// The names of a directory.
pub(crate) fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    // A description of its own: the place in a directory belongs to the description.
    let dir = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty())?;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    let mut all = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            all.push(name.to_vec());
        }
    }
    Ok(all)
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether overlayfs shows nothing of lower layers in this directory.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    for key in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0u8; 1];
        match rustix::fs::fgetxattr(dir, key, &mut value[..]) {
            Ok(n) if n == 1 && value[0] == b'y' => return Ok(true),
            // Another value, a longer one, none, or a file system without any.
            Ok(_) | Err(Errno::RANGE | Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            // Taken for "not opaque", what a container deleted would be back in its image.
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

fn look(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn open_below(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, OsStr::from_bytes(name), DIRECTORY, Mode::empty())
}

fn fail(path: &[u8]) -> impl FnOnce(Errno) -> Error {
    Error::io("read", PathBuf::from(OsStr::from_bytes(path)))
}

/// What these directories, the topmost first, show together.
pub(crate) fn list(dirs: &[Rc<OwnedFd>], path: &[u8]) -> Result<BTreeMap<Vec<u8>, Found>> {
    // None: hidden by a whiteout, or complete and closed for lower layers.
    let mut all: BTreeMap<Vec<u8>, (Option<Found>, bool)> = BTreeMap::new();
    for dir in dirs {
        for name in names(dir.as_fd()).map_err(fail(path))? {
            let stat = match look(dir, &name) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(fail(path))?,
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let open = || -> Result<(Vec<Rc<OwnedFd>>, bool)> {
                if !is_dir {
                    return Ok((Vec::new(), true));
                }
                let below = open_below(dir, &name).map_err(fail(path))?;
                let closed = is_opaque(below.as_fd()).map_err(fail(path))?;
                Ok((vec![Rc::new(below)], closed))
            };
            match all.get_mut(&name) {
                None if is_whiteout(&stat) => {
                    all.insert(name, (None, true));
                }
                None => {
                    let (shown, closed) = open()?;
                    all.insert(name, (Some(Found { stat, dir: Rc::clone(dir), shown }), closed));
                }
                Some((Some(found), closed @ false)) if is_dir => {
                    let (more, opaque) = open()?;
                    found.shown.extend(more);
                    *closed = opaque;
                }
                Some((_, closed)) => *closed = true,
            }
        }
    }
    Ok(all.into_iter().filter_map(|(name, (found, _))| Some((name, found?))).collect())
}

/// Visits everything that layers show together, parents first, names in order.
pub(crate) fn walk(
    dirs: &[Rc<OwnedFd>],
    path: &mut Vec<u8>,
    depth: usize,
    visit: &mut dyn FnMut(&[u8], &Found) -> Result<()>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::Limit { what: "the depth of a tree", limit: MAX_DEPTH as u64 });
    }
    for (name, found) in list(dirs, path)? {
        let before = path.len();
        push(path, &name);
        visit(path, &found)?;
        if !found.shown.is_empty() {
            walk(&found.shown, path, depth + 1, visit)?;
        }
        path.truncate(before);
    }
    Ok(())
}

/// Adds a name to a path.
pub(crate) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// The extended attributes of an open file or directory.
pub(crate) fn xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0u8; 64 << 10];
    let n = match rustix::fs::flistxattr(fd, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let mut all = BTreeMap::new();
    for key in list[..n].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        match rustix::fs::fgetxattr(fd, OsStr::from_bytes(key), &mut value[..]) {
            Ok(n) => {
                value.truncate(n);
                all.insert(key.to_vec(), value);
            }
            // Gone meanwhile, or not ours to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The first path in which two trees differ: names, kinds, modes, owners, times, links, attributes, content.
pub(crate) fn difference(one: &Path, two: &Path) -> Result<Option<PathBuf>> {
    compare(&*open_root(one)?, &*open_root(two)?, &mut Vec::new(), 0)
        .map(|found| found.map(|p| PathBuf::from(OsStr::from_bytes(&p))))
}

fn compare(one: &OwnedFd, two: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<Option<Vec<u8>>> {
    if depth > MAX_DEPTH {
        return Err(Error::Limit { what: "the depth of a tree", limit: MAX_DEPTH as u64 });
    }
    let sorted = |dir: &OwnedFd| -> Result<Vec<Vec<u8>>> {
        let mut all = names(dir.as_fd()).map_err(fail(path))?;
        all.sort_unstable();
        Ok(all)
    };
    let (left, right) = (sorted(one)?, sorted(two)?);
    if left != right || xattrs(one.as_fd()).map_err(fail(path))? != xattrs(two.as_fd()).map_err(fail(path))? {
        return Ok(Some(path.clone()));
    }
    for name in left {
        let before = path.len();
        push(path, &name);
        let (a, b) = (look(one, &name).map_err(fail(path))?, look(two, &name).map_err(fail(path))?);
        let facts = |s: &Stat| {
            let size = if FileType::from_raw_mode(s.st_mode) == FileType::Directory { 0 } else { s.st_size };
            // A whiteout is a mark and has no time that means anything.
            let time = if is_whiteout(s) { (0, 0) } else { (s.st_mtime, s.st_mtime_nsec) };
            (s.st_mode, s.st_uid, s.st_gid, size, time, s.st_rdev)
        };
        let same = facts(&a) == facts(&b)
            && match FileType::from_raw_mode(a.st_mode) {
                FileType::Directory => {
                    let open = |dir| open_below(dir, &name).map_err(fail(path));
                    let (a, b) = (open(one)?, open(two)?);
                    if let Some(found) = compare(&a, &b, path, depth + 1)? {
                        return Ok(Some(found));
                    }
                    true
                }
                FileType::RegularFile => same_file(one, two, &name).map_err(Error::io("read", ""))?,
                FileType::Symlink => {
                    let target = |dir| rustix::fs::readlinkat(dir, OsStr::from_bytes(&name), Vec::new());
                    target(one).map_err(fail(path))? == target(two).map_err(fail(path))?
                }
                _ => true,
            };
        if !same {
            return Ok(Some(path.clone()));
        }
        path.truncate(before);
    }
    Ok(None)
}

pub(crate) fn open_file(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).map(Into::into)
}

fn same_file(one: &OwnedFd, two: &OwnedFd, name: &[u8]) -> std::io::Result<bool> {
    use std::io::Read;
    let (mut a, mut b) = (open_file(one, name)?, open_file(two, name)?);
    if xattrs(a.as_fd())? != xattrs(b.as_fd())? {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0u8; 64 << 10], vec![0u8; 64 << 10]);
    loop {
        let n = a.read(&mut x)?;
        let mut have = 0;
        while have < n {
            match b.read(&mut y[have..n])? {
                0 => return Ok(false),
                more => have += more,
            }
        }
        if n == 0 {
            return Ok(b.read(&mut y[..1])? == 0);
        }
        if x[..n] != y[..n] {
            return Ok(false);
        }
    }
}
