//! Writes entries below one directory. Every parent is opened once with `openat2` so that no
//! symlink, mount or `..` can lead out (THREATS rule R1), and everything acts on descriptors.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::acl;
use super::reader::{Entry, Kind, Reader};
use crate::error::{Error, Result};
use crate::tree::TreeRoot;

/// Open directories kept; a layer rarely alternates between more.
const HELD: usize = 64;

/// Bytes of default access control lists of one layer, with the names of their directories.
const HANDED_ON: usize = 4 << 20;

/// How the caller may store what the archive says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Owners can be set (root of the host). Otherwise everything belongs to the caller.
    pub(crate) owners: bool,
}

/// An open directory and what it gets when it is let go: what is made in it changes its times, and some
/// modes would keep us out or be handed on.
struct Held {
    fd: Rc<OwnedFd>,
    /// `None`: as it is.
    mode: Option<u32>,
    times: Timestamps,
}

pub(crate) struct Extractor {
    root: TreeRoot,
    policy: Policy,
    /// The directories in which entries are being made. However many an archive has, no more are kept.
    held: HashMap<Vec<u8>, Held>,
    /// Access control lists that directories hand on to what is made in them: they get them when all is made.
    handed_on: HashMap<Vec<u8>, Vec<u8>>,
    handed_on_size: usize,
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
            held: HashMap::new(),
            handed_on: HashMap::new(),
            handed_on_size: 0,
            files: 0,
            bytes: 0,
            skipped: 0,
        })
    }

    /// Writes one entry and its data.
    pub(crate) fn add<R: BufRead>(&mut self, e: Entry, input: &mut Reader<R>) -> Result<()> {
        if self.held.len() >= HELD {
            self.release()?;
        }
        if e.path.is_empty() {
            // The root directory itself (the reader lets nothing else pass): nothing to make.
            return self.describe(&e);
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
                self.describe(&e)?;
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
        self.release()?;
        for (path, acl) in &self.handed_on {
            let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            set_attribute(&fd, acl::DEFAULT, acl, path)?;
        }
        Ok((self.files, self.bytes, self.skipped))
    }

    /// Lets all directories go.
    fn release(&mut self) -> Result<()> {
        for (path, dir) in self.held.drain() {
            if let Some(mode) = dir.mode {
                rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(mode))
                    .map_err(failed(&path, "set the mode of"))?;
            }
            rustix::fs::futimens(&dir.fd, &dir.times).map_err(failed(&path, "set the time of"))?;
        }
        Ok(())
    }

    /// Gives a directory what its entry says: the mode and the times when it is let go.
    fn describe(&mut self, e: &Entry) -> Result<()> {
        let fd = self.parent(&e.path)?;
        if self.policy.owners {
            // Also to root: an earlier entry may have said another.
            let (uid, gid) = owner(e);
            rustix::fs::fchown(&*fd, Some(uid), Some(gid)).map_err(failed(&e.path, "set the owner of"))?;
        }
        self.handed_on.remove(&e.path);
        for (key, value) in &e.xattrs {
            if key == acl::DEFAULT && self.policy.owners {
                self.hand_on(e, value)?;
            } else {
                self.set_xattr(&fd, key, value, e)?;
            }
        }
        // The root of a layer is renamed when it is published, which takes the right to change it. It is nobody's
        // "/": that is the container's own.
        let wide = if e.path.is_empty() && !self.policy.owners { 0o700 } else { 0 };
        self.held.insert(e.path.clone(), Held { fd, mode: Some(e.mode | wide), times: times(e) });
        Ok(())
    }

    fn hand_on(&mut self, e: &Entry, acl: &[u8]) -> Result<()> {
        self.handed_on_size += e.path.len() + acl.len();
        if self.handed_on_size > HANDED_ON {
            return Err(Error::Limit { what: "default access control lists", limit: HANDED_ON as u64 });
        }
        self.handed_on.insert(e.path.clone(), acl.to_vec());
        Ok(())
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        self.root.entry(path, flags | OFlags::NOFOLLOW).map_err(failed(path, "open"))
    }

    /// The directory `path`, open to make entries in it; made with mode 755 where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some(dir) = self.held.get(path) {
            return Ok(Rc::clone(&dir.fd));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let (above, name) = split(path);
        let mut made = false;
        let fd = match self.open(path, flags) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let above = self.parent(above)?;
                rustix::fs::mkdirat(&above, OsStr::from_bytes(name), Mode::RWXU)
                    .map_err(failed(path, "make the directory"))?;
                made = true;
                // A chain of new ones holds no more descriptors than others.
                if self.held.len() >= 2 * HELD {
                    self.release()?;
                }
                self.open(path, flags)?
            }
            // Not root's: a mode that the archive gave it, or one above it, keeps us out.
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied && !path.is_empty() =>
            {
                return self.unlock(path);
            }
            Err(Error::Io { source, .. }) if source.raw_os_error().is_some_and(|e| e == 40 || e == 20) => {
                return Err(Error::archive(path, "its parent is a symlink or a file in the same archive"));
            }
            other => other?,
        };
        let (mode, times) = if made {
            // One that the archive does not mention is the same wherever it is unpacked.
            (Some(0o755), Timestamps { last_access: EPOCH, last_modification: EPOCH })
        } else {
            let stat = rustix::fs::fstat(&fd).map_err(failed(path, "look at"))?;
            (self.widen(&fd, stat.st_mode & 0o7777, path)?, times_of(&stat))
        };
        Ok(self.hold(path, fd, mode, times))
    }

    fn hold(&mut self, path: &[u8], fd: OwnedFd, mode: Option<u32>, times: Timestamps) -> Rc<OwnedFd> {
        let fd = Rc::new(fd);
        self.held.insert(path.to_vec(), Held { fd: Rc::clone(&fd), mode, times });
        fd
    }

    /// Makes a directory usable for us, and its group not that of what is made in it. Returns the mode to
    /// give back.
    fn widen(&self, fd: &OwnedFd, mode: u32, path: &[u8]) -> Result<Option<u32>> {
        let wide = (mode | 0o700) & !0o2000;
        if wide == mode {
            return Ok(None);
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(wide)).map_err(failed(path, "set the mode of"))?;
        Ok(Some(mode))
    }

    /// The same for a directory that cannot be opened with the mode that it has.
    fn unlock(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        let (above, name) = split(path);
        let above = self.parent(above)?;
        let stat = there(&above, name, path)?.filter(|s| FileType::from_raw_mode(s.st_mode).is_dir());
        let Some(stat) = stat else {
            return Err(Error::archive(path, "its parent is a symlink or a file in the same archive"));
        };
        rustix::fs::chmodat(&above, OsStr::from_bytes(name), Mode::RWXU, AtFlags::empty())
            .map_err(failed(path, "set the mode of"))?;
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(self.hold(path, fd, Some(stat.st_mode & 0o7777), times_of(&stat)))
    }

    /// Makes room for an entry that replaces an earlier one.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(parent, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                // Later entries win, as with tar; what is held below it is gone with it.
                self.held.retain(|p, _| !below(p, path));
                self.handed_on.retain(|p, _| !below(p, path));
                crate::fsx::remove_tree(parent.as_fd(), OsStr::from_bytes(name))
                    .map_err(Error::io("replace", Path::new(OsStr::from_bytes(path)).to_owned()))
            }
            Err(e) => Err(failed(path, "replace")(e)),
        }
    }

    fn make_directory(&mut self, parent: &OwnedFd, name: &[u8], e: &Entry) -> Result<()> {
        let mut replaces = false;
        for _ in 0..2 {
            match rustix::fs::mkdirat(parent, OsStr::from_bytes(name), Mode::RWXU) {
                Err(Errno::EXIST) => {
                    let stat = there(parent, name, &e.path)?;
                    if stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode).is_dir()) {
                        return Ok(());
                    }
                    self.clear(parent, name, &e.path)?;
                    replaces = true;
                }
                // What it replaces, a whiteout above all, had hidden the directory of the lower layers.
                Ok(()) if replaces => return self.opaque(&e.path),
                other => return other.map_err(failed(&e.path, "make the directory")),
            }
        }
        Err(failed(&e.path, "make the directory")(Errno::EXIST))
    }

    fn file<R: BufRead>(
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
        if let Some(pieces) = &e.pieces {
            self.pieces(&fd, pieces, e, input)?;
            return self.finish_by_fd(&fd, e);
        }
        loop {
            let chunk = input.data()?;
            if chunk.is_empty() {
                break;
            }
            let n = rustix::io::retry_on_intr(|| rustix::io::write(&fd, chunk))
                .map_err(failed(&e.path, "write"))?;
            input.consume(n);
            self.bytes += n as u64;
        }
        self.finish_by_fd(&fd, e)
    }

    /// Writes what a sparse file has, and leaves its holes.
    fn pieces<R: BufRead>(
        &mut self,
        fd: &OwnedFd,
        pieces: &[(u64, u64)],
        e: &Entry,
        input: &mut Reader<R>,
    ) -> Result<()> {
        for (place, length) in pieces {
            let (mut at, end) = (*place, place + length);
            while at < end {
                let chunk = input.data()?;
                if chunk.is_empty() {
                    return Err(Error::archive(&e.path, "less data than the map of a sparse file says"));
                }
                let chunk = &chunk[..chunk.len().min(usize::try_from(end - at).unwrap_or(usize::MAX))];
                let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, chunk, at))
                    .map_err(failed(&e.path, "write"))?;
                input.consume(n);
                at += n as u64;
                self.bytes += n as u64;
            }
        }
        rustix::fs::ftruncate(fd, e.size).map_err(failed(&e.path, "set the size of"))
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
    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let fd = self.parent(path)?;
        let key = if self.policy.owners { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
        rustix::fs::fsetxattr(&*fd, key, b"y", XattrFlags::empty())
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

    /// `security.capability`, access control lists and `user.*` only: others would speak to the host's kernel or
    /// overlay.
    fn set_xattr(&self, fd: &OwnedFd, key: &[u8], value: &[u8], e: &Entry) -> Result<()> {
        let ours = key.starts_with(b"user.overlay.");
        let owners = (key == b"security.capability" || key == acl::ACCESS) && self.policy.owners;
        if ours || !(key.starts_with(b"user.") || owners) {
            return Ok(());
        }
        if key == b"security.capability" && value.is_empty() {
            // The kernel looks at others only, and runs no file that has this one.
            return Err(Error::archive(&e.path, "an empty extended attribute security.capability"));
        }
        set_attribute(fd, key, value, &e.path)
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

fn set_attribute(fd: &OwnedFd, key: &[u8], value: &[u8], path: &[u8]) -> Result<()> {
    match rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(err) => Err(failed(path, "set an extended attribute of")(err)),
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

const EPOCH: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The times that a directory has, to give them back.
fn times_of(stat: &Stat) -> Timestamps {
    #[allow(
        clippy::cast_possible_wrap,
        clippy::unnecessary_cast,
        reason = "below 10^9; the type differs by target"
    )]
    let t = Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: t, last_modification: t }
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
