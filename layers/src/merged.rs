//! Layers seen as the one tree that overlayfs makes of them, and trees compared. Everything is read by
//! descriptor, following nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::descent::{self, Descent, Opened};
use crate::error::{Error, Result};
use crate::watch::Watch;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A longer path is of no use to anybody (PATH_MAX); a tree that is deeper has one. In an endless tree this is the
/// end.
pub(crate) const MAX_PATH: usize = 4095;

/// A name in directories of layers, from the topmost layer that has it.
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// Which of the directories has it.
    pub(crate) dir: usize,
    /// For a directory: which of them show through, the topmost first.
    pub(crate) shown: Vec<usize>,
}

pub(crate) fn open_root(path: &Path) -> Result<Opened> {
    descent::open_dir(rustix::fs::CWD, path.as_os_str().as_bytes()).map_err(Error::io("open", path))
}

/// The names of a directory.
pub(crate) fn names(dir: &File) -> rustix::io::Result<Vec<Vec<u8>>> {
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

fn look(dir: &File, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
}

fn fail(path: &[u8]) -> impl FnOnce(Errno) -> Error {
    Error::io("read", PathBuf::from(OsStr::from_bytes(path)))
}

/// What these directories, the topmost first, show together.
pub(crate) fn list<'a>(
    dirs: impl IntoIterator<Item = &'a File>,
    path: &[u8],
) -> Result<BTreeMap<Vec<u8>, Found>> {
    // None: hidden by a whiteout, or complete and closed for lower layers.
    let mut all: BTreeMap<Vec<u8>, (Option<Found>, bool)> = BTreeMap::new();
    let mut dirs = dirs.into_iter().enumerate().peekable();
    while let Some((i, dir)) = dirs.next() {
        let lowest = dirs.peek().is_none();
        for name in names(dir).map_err(fail(path))? {
            let stat = match look(dir, &name) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(fail(path))?,
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let shown = if is_dir { vec![i] } else { Vec::new() };
            // Opened to look at only: a directory may hold more than can be open.
            let closed = || -> Result<bool> {
                if !is_dir || lowest {
                    return Ok(true);
                }
                let below = descent::open_dir(dir.as_fd(), &name).map_err(fail(path))?;
                is_opaque(below.as_fd()).map_err(fail(path))
            };
            match all.get_mut(&name) {
                None if is_whiteout(&stat) => {
                    all.insert(name, (None, true));
                }
                None => {
                    let closed = closed()?;
                    all.insert(name, (Some(Found { stat, dir: i, shown }), closed));
                }
                Some((Some(found), is_closed @ false)) if is_dir => {
                    *is_closed = closed()?;
                    found.shown.extend(shown);
                }
                Some((_, closed)) => *closed = true,
            }
        }
    }
    Ok(all.into_iter().filter_map(|(name, (found, _))| Some((name, found?))).collect())
}

/// Told a path, what has it, and the directory that it is in.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &Found, &File) -> Result<()>;

/// Visits everything that layers, the topmost first, show together: parents first, names in order.
pub(crate) fn walk(roots: impl IntoIterator<Item = Opened>, visit: Visit<'_>) -> Result<()> {
    let mut path = Vec::new();
    let mut descent = Descent::new(roots).map_err(fail(&path))?;
    let mut levels = vec![(list(descent.dirs(), &path)?.into_iter(), 0)];
    while let Some((names, before)) = levels.last_mut() {
        path.truncate(*before);
        let Some((name, found)) = names.next() else {
            levels.pop();
            descent.leave().map_err(fail(&path))?;
            continue;
        };
        push_bounded(&mut path, &name)?;
        visit(&path, &found, descent.dir(found.dir).map_err(fail(&path))?)?;
        if !found.shown.is_empty() {
            descent.enter(&name, &found.shown).map_err(fail(&path))?;
            levels.push((list(descent.dirs(), &path)?.into_iter(), path.len()));
        }
    }
    Ok(())
}

/// [`push`] for what becomes an entry of an archive or a line of a list.
pub(crate) fn push_bounded(path: &mut Vec<u8>, name: &[u8]) -> Result<()> {
    push(path, name);
    if path.len() > MAX_PATH {
        return Err(Error::Limit { what: "the length of a path", limit: MAX_PATH as u64 });
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
pub(crate) fn difference(one: &Path, two: &Path, watch: &mut Watch<'_>) -> Result<Option<PathBuf>> {
    let roots = [open_root(one)?, open_root(two)?];
    let mut path = Vec::new();
    let mut descent = Descent::new(roots).map_err(fail(&path))?;
    let found = |path: Vec<u8>| Ok(Some(PathBuf::from(OsString::from_vec(path))));
    let Some(names) = same_names(&descent, &path)? else { return found(path) };
    let mut levels = vec![(names.into_iter(), 0)];
    while let Some((names, before)) = levels.last_mut() {
        path.truncate(*before);
        let Some(name) = names.next() else {
            levels.pop();
            descent.leave().map_err(fail(&path))?;
            continue;
        };
        push(&mut path, &name);
        let (one, two) = (descent.dir(0).map_err(fail(&path))?, descent.dir(1).map_err(fail(&path))?);
        watch.entry()?;
        match same_entry(one, two, &name, &path, watch)? {
            None => return found(path),
            Some(FileType::Directory) => {
                descent.enter(&name, &[0, 1]).map_err(fail(&path))?;
                let Some(names) = same_names(&descent, &path)? else { return found(path) };
                levels.push((names.into_iter(), path.len()));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// The names in two directories, in order, if they and the attributes of the directories are the same.
fn same_names(descent: &Descent, path: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
    let of = |i: usize| -> rustix::io::Result<_> {
        let dir = descent.dir(i)?;
        let mut all = names(dir)?;
        all.sort_unstable();
        Ok((all, xattrs(dir.as_fd())?))
    };
    let (one, two) = (of(0).map_err(fail(path))?, of(1).map_err(fail(path))?);
    Ok((one == two).then_some(one.0))
}

/// The kind of an entry that is the same in both; of directories only what they are, and not what they hold.
fn same_entry(
    one: &File,
    two: &File,
    name: &[u8],
    path: &[u8],
    watch: &mut Watch<'_>,
) -> Result<Option<FileType>> {
    let (a, b) = (look(one, name).map_err(fail(path))?, look(two, name).map_err(fail(path))?);
    let facts = |s: &Stat| {
        let size = if FileType::from_raw_mode(s.st_mode) == FileType::Directory { 0 } else { s.st_size };
        // A whiteout is a mark and has no time that means anything.
        let time = if is_whiteout(s) { (0, 0) } else { (s.st_mtime, s.st_mtime_nsec) };
        (s.st_mode, s.st_uid, s.st_gid, size, time, s.st_rdev)
    };
    let kind = FileType::from_raw_mode(a.st_mode);
    let same = facts(&a) == facts(&b)
        && match kind {
            FileType::RegularFile => {
                let path = || PathBuf::from(OsStr::from_bytes(path));
                same_file(one, two, name, watch).map_err(Error::io_or_own("read", path()))?
            }
            FileType::Symlink => {
                let target = |dir| rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new());
                target(one).map_err(fail(path))? == target(two).map_err(fail(path))?
            }
            _ => true,
        };
    Ok(same.then_some(kind))
}

fn same_file(one: &File, two: &File, name: &[u8], watch: &mut Watch<'_>) -> std::io::Result<bool> {
    use std::io::Read;
    let (one, two) = (descent::open_file(one.as_fd(), name)?, descent::open_file(two.as_fd(), name)?);
    if xattrs(one.as_fd())? != xattrs(two.as_fd())? {
        return Ok(false);
    }
    let (mut a, mut b) = (watch.reader(&*one), &*two);
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
