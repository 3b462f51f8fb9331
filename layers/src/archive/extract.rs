//! Writes entries below one directory. Every parent is opened once with `openat2` so that no
//! symlink, mount or `..` can lead out (THREATS rule R1), and everything acts on descriptors.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::reader::{Entry, Kind, Reader};
use crate::error::{Error, Result};
use crate::tree::TreeRoot;

/// Open parents kept; a layer rarely alternates between more.
const PARENTS: usize = 256;

/// How the caller may store what the archive says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Owners can be set (root of the host). Otherwise everything belongs to the caller.
    pub(crate) owners: bool,
}

pub(crate) struct Extractor {
    root: TreeRoot,
    policy: Policy,
    parents: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Directories get their mode and times last: files made in them would change both.
    directories: BTreeMap<Vec<u8>, Entry>,
    buffer: Vec<u8>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Entries left out, with the reason: device nodes and the like.
    pub(crate) skipped: u64,
}

fn failed(entry: &[u8], operation: &'static str) -> impl FnOnce(Errno) -> Error {
    Error::io(operation, Path::new(OsStr::from_bytes(entry)).to_owned())
}

impl Extractor {
    pub(crate) fn new(root: BorrowedFd<'_>, policy: Policy) -> Result<Self> {
        Ok(Extractor {
            root: TreeRoot::of(root)?,
            policy,
            parents: HashMap::new(),
            directories: BTreeMap::new(),
            buffer: vec![0; 256 << 10],
            files: 0,
            bytes: 0,
            skipped: 0,
        })
    }

    /// Writes one entry and its data.
    pub(crate) fn add<R: Read>(&mut self, mut e: Entry, input: &mut Reader<R>) -> Result<()> {
        if e.path.is_empty() {
            // The root directory itself: its mode and times, nothing to make.
            if e.kind == Kind::Directory {
                self.directories.insert(Vec::new(), e);
            }
            return Ok(());
        }
        let (above, name) = split(&e.path);
        if above.split(|c| *c == b'/').any(|part| part.starts_with(b".wh.")) {
            return Err(Error::archive(&e.path, "a name below that of a whiteout"));
        }
        let (parent, name) = (self.parent(above)?, name.to_vec());
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            // Hard links to each other are what aufs wrote.
            if !matches!(e.kind, Kind::File | Kind::HardLink) || e.size != 0 {
                return Err(Error::archive(&e.path, "a whiteout that is no empty file"));
            }
            return self.whiteout(&parent, hidden, &e.path);
        }
        self.files += 1;
        match e.kind {
            Kind::Directory => {
                self.make_directory(&parent, &name, &e)?;
                if !e.xattrs.is_empty() {
                    let fd = self.open(&e.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    // Set now and forgotten: a million directories must not keep a million values.
                    for (key, value) in std::mem::take(&mut e.xattrs) {
                        self.set_xattr(&fd, &key, &value, &e)?;
                    }
                }
                self.directories.insert(e.path.clone(), e);
            }
            Kind::File => self.file(&parent, &name, &e, input)?,
            Kind::Symlink => {
                self.clear(&parent, &name, &e.path)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&e.link), &parent, OsStr::from_bytes(&name))
                    .map_err(failed(&e.path, "make the symlink"))?;
                self.finish_by_name(&parent, &name, &e)?;
            }
            Kind::HardLink => self.hard_link(&parent, &name, &e)?,
            Kind::Fifo => {
                self.clear(&parent, &name, &e.path)?;
                let path = OsStr::from_bytes(&name);
                rustix::fs::mknodat(&parent, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                    .map_err(failed(&e.path, "make the fifo"))?;
                self.finish_by_name(&parent, &name, &e)?;
                // Whatever the umask, and after the owner. Nobody else can put a link there: we just made it,
                // in a directory that is only ours.
                rustix::fs::chmodat(&parent, path, Mode::from_raw_mode(e.mode), AtFlags::empty())
                    .map_err(failed(&e.path, "set the mode of"))?;
            }
            // A container's devices come from its own /dev, never from an image. What had the name before
            // is gone as with the others.
            Kind::CharDevice | Kind::BlockDevice => {
                self.clear(&parent, &name, &e.path)?;
                self.skipped += 1;
            }
        }
        Ok(())
    }

    /// Applies what had to wait for the files.
    pub(crate) fn finish(mut self) -> Result<(u64, u64, u64)> {
        // What is below a directory comes after it in the order of names.
        for e in std::mem::take(&mut self.directories).into_values().rev() {
            let fd = self.open(&e.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.finish_by_fd(&fd, &e)?;
        }
        Ok((self.files, self.bytes, self.skipped))
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        self.root.entry(path, flags | OFlags::NOFOLLOW).map_err(failed(path, "open"))
    }

    /// The directory `path`, made with mode 755 where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some(fd) = self.parents.get(path) {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match self.open(path, flags) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let (above, name) = split(path);
                let above = self.parent(above)?;
                rustix::fs::mkdirat(&above, OsStr::from_bytes(name), Mode::from_raw_mode(0o755))
                    .map_err(failed(path, "make the directory"))?;
                // One that the archive does not mention has the same time wherever it is unpacked.
                self.directories.insert(path.to_vec(), Entry::directory(path, 0o755));
                self.open(path, flags)?
            }
            Err(Error::Io { source, .. }) if source.raw_os_error().is_some_and(|e| e == 40 || e == 20) => {
                return Err(Error::archive(path, "its parent is a symlink or a file in the same archive"));
            }
            other => other?,
        };
        if self.parents.len() >= PARENTS {
            self.parents.clear();
        }
        let fd = Rc::new(fd);
        self.parents.insert(path.to_vec(), Rc::clone(&fd));
        Ok(fd)
    }

    /// Makes room for an entry that replaces an earlier one.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                // Later entries win, as with tar; the cached parents below it are gone with it.
                self.parents.retain(|p, _| !below(p, path));
                self.directories.retain(|d, _| !below(d, path));
                crate::fsx::remove_tree(parent.as_fd(), OsStr::from_bytes(name))
                    .map_err(Error::io("replace", Path::new(OsStr::from_bytes(path)).to_owned()))
            }
            Err(e) => Err(failed(path, "replace")(e)),
        }
    }

    fn make_directory(&mut self, parent: &OwnedFd, name: &[u8], e: &Entry) -> Result<()> {
        // Writable for us until `finish` sets the real mode.
        let mode = Mode::from_raw_mode(e.mode | 0o700);
        let mut replaces = false;
        for _ in 0..2 {
            match rustix::fs::mkdirat(parent, OsStr::from_bytes(name), mode) {
                Err(Errno::EXIST) => match self.open(&e.path, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(_) => return Ok(()),
                    // No directory: the later entry wins. Any other failure must not remove what is there.
                    Err(Error::Io { source, .. })
                        if source.raw_os_error().is_some_and(|e| e == 40 || e == 20) =>
                    {
                        // What it replaces, a whiteout above all, hid the directory of the lower layers.
                        self.clear(parent, name, &e.path)?;
                        replaces = true;
                    }
                    Err(e) => return Err(e),
                },
                other => {
                    other.map_err(failed(&e.path, "make the directory"))?;
                    return if replaces { self.opaque(&e.path) } else { Ok(()) };
                }
            }
        }
        Err(failed(&e.path, "make the directory")(Errno::EXIST))
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        e: &Entry,
        input: &mut Reader<R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create =
            || rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::from_raw_mode(0o600));
        let fd = match create() {
            Err(Errno::EXIST) => {
                self.clear(parent, name, &e.path)?;
                create()
            }
            other => other,
        };
        let fd = fd.map_err(failed(&e.path, "create"))?;
        loop {
            // One write for small files: fill the buffer before writing.
            let mut have = 0;
            while have < self.buffer.len() {
                match input.read(&mut self.buffer[have..])? {
                    0 => break,
                    n => have += n,
                }
            }
            let mut rest = &self.buffer[..have];
            while !rest.is_empty() {
                let n = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))
                    .map_err(failed(&e.path, "write"))?;
                rest = &rest[n..];
            }
            self.bytes += have as u64;
            if have < self.buffer.len() {
                break;
            }
        }
        self.finish_by_fd(&fd, e)
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], e: &Entry) -> Result<()> {
        let target: Vec<&[u8]> =
            e.link.split(|c| *c == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        if target.contains(&&b".."[..]) || target.is_empty() {
            return Err(Error::archive(&e.path, "a hard link that leads out of the archive"));
        }
        let target = target.join(&b'/');
        let (above, file) = split(&target);
        let above = self.parent(above)?;
        self.clear(parent, name, &e.path)?;
        if let Some(stat) = there(&above, file, &e.path)?
            && crate::merged::is_whiteout(&stat)
        {
            return Err(Error::archive(&e.path, "a hard link to a whiteout"));
        }
        // Without AT_SYMLINK_FOLLOW a symlink is linked as itself; nothing is followed.
        rustix::fs::linkat(&above, OsStr::from_bytes(file), parent, OsStr::from_bytes(name), AtFlags::empty())
            .map_err(failed(&e.path, "make the hard link"))
    }

    /// The tar form of deletion becomes overlayfs's: a 0:0 character device, or the opaque mark.
    fn whiteout(&mut self, parent: &OwnedFd, hidden: &[u8], path: &[u8]) -> Result<()> {
        let (above, _) = split(path);
        if hidden == b".wh..opq" {
            // The kernel does not heed the mark there: the lower layers would show.
            if above.is_empty() {
                return Err(Error::archive(path, "a root that hides all lower layers is not supported"));
            }
            return self.opaque(above);
        }
        if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(b".wh.") {
            return Err(Error::archive(path, "a whiteout without a name, or of an unknown kind"));
        }
        match kind_at(parent, hidden).map_err(failed(path, "look for"))? {
            None => {
                let (name, kind) = (OsStr::from_bytes(hidden), FileType::CharacterDevice);
                rustix::fs::mknodat(parent, name, kind, Mode::empty(), 0)
                    .map_err(failed(path, "make the whiteout"))
            }
            // It speaks of the layers below. What this layer has itself stays, and hides by being there.
            Some(FileType::Directory) => {
                self.opaque(&if above.is_empty() { hidden.to_vec() } else { [above, b"/", hidden].concat() })
            }
            Some(_) => Ok(()),
        }
    }

    /// Hides what the lower layers have in a directory.
    fn opaque(&self, path: &[u8]) -> Result<()> {
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let key = if self.policy.owners { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
        rustix::fs::fsetxattr(&fd, key, b"y", XattrFlags::empty())
            .map_err(failed(path, "mark the directory as opaque"))
    }

    fn finish_by_fd(&self, fd: &OwnedFd, e: &Entry) -> Result<()> {
        if self.policy.owners && (e.uid != 0 || e.gid != 0) {
            let (uid, gid) = owner(e);
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed(&e.path, "set the owner of"))?;
        }
        // After the owner: changing it clears the setuid bits.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(e.mode)).map_err(failed(&e.path, "set the mode of"))?;
        for (key, value) in &e.xattrs {
            self.set_xattr(fd, key, value, e)?;
        }
        rustix::fs::futimens(fd, &times(e)).map_err(failed(&e.path, "set the time of"))
    }

    /// `security.capability` and `user.*` only: others would speak to the host's kernel or overlay.
    fn set_xattr(&self, fd: &OwnedFd, key: &[u8], value: &[u8], e: &Entry) -> Result<()> {
        let ours = key.starts_with(b"user.overlay.");
        if ours || !(key.starts_with(b"user.") || key == b"security.capability" && self.policy.owners) {
            return Ok(());
        }
        if key == b"security.capability" && value.is_empty() {
            // The kernel looks at others only, and runs no file that has this one.
            return Err(Error::archive(&e.path, "an empty extended attribute security.capability"));
        }
        match rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(err) => Err(failed(&e.path, "set an extended attribute of")(err)),
        }
    }

    /// For what cannot be opened for writing: links and fifos.
    fn finish_by_name(&self, parent: &OwnedFd, name: &[u8], e: &Entry) -> Result<()> {
        let name = OsStr::from_bytes(name);
        if self.policy.owners && (e.uid != 0 || e.gid != 0) {
            let (uid, gid) = owner(e);
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed(&e.path, "set the owner of"))?;
        }
        if e.kind == Kind::Fifo {
            // After the owner, and whatever the umask. It is the fifo that was just made: nothing to follow.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(e.mode), AtFlags::empty())
                .map_err(failed(&e.path, "set the mode of"))?;
        }
        rustix::fs::utimensat(parent, name, &times(e), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(&e.path, "set the time of"))
    }
}

/// What is there; the only character devices are whiteouts.
fn kind_at(dir: &OwnedFd, name: &[u8]) -> std::result::Result<Option<FileType>, Errno> {
    match rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn owner(e: &Entry) -> (Uid, Gid) {
    #[allow(clippy::cast_possible_truncation, reason = "the reader checked the range")]
    let ids = (Uid::from_raw(e.uid as u32), Gid::from_raw(e.gid as u32));
    ids
}

fn times(e: &Entry) -> Timestamps {
    let t = Timespec { tv_sec: e.mtime.0, tv_nsec: e.mtime.1.into() };
    Timestamps { last_access: t, last_modification: t }
}

/// What a name stands for.
fn there(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed(path, "look at")(e)),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|c| *c == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

fn below(path: &[u8], dir: &[u8]) -> bool {
    path == dir || path.strip_prefix(dir).is_some_and(|r| r.first() == Some(&b'/'))
}
