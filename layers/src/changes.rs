//! What a container changed: as a list, as a layer, as a new image, and its whole tree as an archive.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use flate2::{Compression as Level, GzBuilder};
use rustix::fs::{AtFlags, FileType, Stat};
use tar::EntryType;

use crate::archive::write::{Item, Writer};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Image, ImageOptions};
use crate::merged::{self, is_opaque, is_whiteout, open_below, push};
use crate::store::{Expected, Publish, Store};

/// How a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was there, and is different; or something below it is.
    Modified,
    /// It is gone.
    Deleted,
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path in the container, absolute.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// How ids of the host become those of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// They are the same.
    AsTheyAre,
    /// The container's ids begin at this one of the host, and there are 65 536.
    From(u32),
    /// Everything belongs to root: the store does not keep owners.
    Root,
}

impl Owners {
    /// Ids outside of a container's range are nobody's in it.
    fn map(self, id: u32) -> u64 {
        match self {
            Owners::AsTheyAre => id.into(),
            Owners::From(first) => match id.checked_sub(first).filter(|n| *n < 65_536) {
                Some(n) => n.into(),
                // What the image itself brought keeps the image's ids.
                None if id < 65_536 => id.into(),
                None => 65_534,
            },
            Owners::Root => 0,
        }
    }
}

/// What a commit records besides the files.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Replaces the image's own command, entrypoint, variables, directory, user and labels where given.
    pub options: ImageOptions,
    /// Who made it.
    pub author: Option<String>,
    /// A line for the history.
    pub comment: Option<String>,
    /// Seconds since 1970 to record as its time, and the latest that a file of the layer may have: the
    /// same state then gives the same digest (`SOURCE_DATE_EPOCH`). Now and unchanged without it.
    pub created: Option<u64>,
}

fn fail(path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> Error {
    Error::io("read", PathBuf::from(OsStr::from_bytes(path)))
}

fn write_error(e: io::Error) -> Error {
    Error::io("write", "the archive")(e)
}

impl Store {
    fn upper(&self, id: &str) -> Result<Rc<OwnedFd>> {
        match merged::open_root(&self.path().join("snapshots").join(id).join("upper")) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: "writable layer", name: id.to_owned() })
            }
            other => other,
        }
    }

    fn lower(&self, layers: &[Digest]) -> Result<Vec<Rc<OwnedFd>>> {
        layers.iter().rev().map(|l| merged::open_root(&self.layer_path(l))).collect()
    }

    /// What changed in the writable layer `id` above `layers` (lowest first), parents first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn diff(&self, id: &str, layers: &[Digest]) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        changed(&*self.upper(id)?, &self.lower(layers)?, &mut Vec::new(), &mut changes)?;
        Ok(changes)
    }

    /// Writes the whole tree of a container as a tar archive: its writable layer above its layers.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn export(&self, id: &str, layers: &[Digest], owners: Owners, out: impl Write) -> Result<()> {
        let mut dirs = vec![self.upper(id)?];
        dirs.extend(self.lower(layers)?);
        let mut archive = Archive::new(out, owners, None);
        merged::walk(&dirs, &mut Vec::new(), 0, &mut |path, found| {
            archive.add(path, &found.dir, name_of(path), &found.stat)
        })?;
        archive.writer.finish().map(drop).map_err(write_error)
    }

    /// Makes an image of `base` and what changed in the writable layer `id` above it. The caller sees to it
    /// that nothing writes there meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Io`].
    pub fn commit(
        &self,
        id: &str,
        base: &Image,
        owners: Owners,
        options: &CommitOptions,
        name: Option<&str>,
    ) -> Result<Image> {
        let name = name.map(crate::image::normalise).transpose()?;
        let add = self.begin(Publish::Together)?;
        let upper = self.upper(id)?;
        let (_guard, archive) = self.scratch_archive(|out| {
            // No name and no time in the header: the same layer is the same bytes.
            let gzip = GzBuilder::new().mtime(0).write(out, Level::new(6));
            let mut archive = Archive::new(gzip, owners, options.created);
            archive.layer(&upper, &mut Vec::new(), 0)?;
            archive.writer.finish().and_then(|gzip| gzip.finish()).map(drop).map_err(write_error)
        })?;
        let layer = add.layer(archive, Expected::default(), &mut |_| true)?;
        let (config, manifest) = base.with_layer(&layer, options)?;
        add.document(&config)?;
        add.finish(&manifest, name.as_deref())
    }
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|c| *c == b'/').next().unwrap_or(path)
}

fn changed(
    upper: &OwnedFd,
    lower: &[Rc<OwnedFd>],
    path: &mut Vec<u8>,
    changes: &mut Vec<Change>,
) -> Result<()> {
    if path.len() > 8192 {
        return Err(Error::Limit { what: "the length of a path", limit: 8192 });
    }
    let below = merged::list(lower, path)?;
    let mut all = merged::names(upper.as_fd()).map_err(fail(path))?;
    all.sort_unstable();
    let hides_all = !lower.is_empty() && is_opaque(upper.as_fd()).map_err(fail(path))?;
    let change = |path: &[u8], kind| Change { path: [b"/", path].concat_path(), kind };
    let before = path.len();
    if hides_all {
        for name in below.keys().filter(|name| all.binary_search(name).is_err()) {
            push(path, name);
            changes.push(change(path, ChangeKind::Deleted));
            path.truncate(before);
        }
    }
    for name in all {
        push(path, &name);
        let stat = rustix::fs::statat(upper, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail(path))?;
        let old = below.get(&name);
        if is_whiteout(&stat) {
            if old.is_some() {
                changes.push(change(path, ChangeKind::Deleted));
            }
        } else {
            let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            changes.push(change(path, kind));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let dir = open_below(upper, &name).map_err(fail(path))?;
                let none = Vec::new();
                changed(&dir, old.map_or(&none, |f| &f.shown), path, changes)?;
            }
        }
        path.truncate(before);
    }
    Ok(())
}

trait ConcatPath {
    fn concat_path(&self) -> PathBuf;
}

impl ConcatPath for [&[u8]; 2] {
    fn concat_path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.concat()))
    }
}

struct Archive<W: Write> {
    writer: Writer<W>,
    owners: Owners,
    /// The latest time that an entry may have.
    latest: Option<u64>,
    /// Files with several names, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Archive<W> {
    fn new(out: W, owners: Owners, latest: Option<u64>) -> Archive<W> {
        Archive { writer: Writer::new(out), owners, latest, linked: HashMap::new() }
    }

    /// A writable layer in the form of an image's: whiteouts are files of their own.
    fn layer(&mut self, dir: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        if depth > 1024 {
            return Err(Error::Limit { what: "the depth of a tree", limit: 1024 });
        }
        if depth > 0 && is_opaque(dir.as_fd()).map_err(fail(path))? {
            self.mark(path, b".wh..wh..opq")?;
        }
        let mut all = merged::names(dir.as_fd()).map_err(fail(path))?;
        all.sort_unstable();
        for name in all {
            let before = path.len();
            let stat = rustix::fs::statat(dir, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fail(path))?;
            if is_whiteout(&stat) {
                self.mark(path, &[b".wh.", &name[..]].concat())?;
                continue;
            }
            if name.starts_with(b".wh.") {
                // In a layer it would mean something else.
                let reason = "a name that begins with .wh. cannot be in a layer";
                return Err(Error::Archive { entry: String::from_utf8_lossy(&name).into_owned(), reason });
            }
            push(path, &name);
            self.add(path, dir, &name, &stat)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.layer(&open_below(dir, &name).map_err(fail(path))?, path, depth + 1)?;
            }
            path.truncate(before);
        }
        Ok(())
    }

    fn mark(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        let mut path = dir.to_vec();
        push(&mut path, name);
        let mtime = (self.latest.map_or(0, |s| i64::try_from(s).unwrap_or(0)), 0);
        let item = Item { mtime, ..Item::new(&path, EntryType::Regular, 0o644) };
        self.writer.put(&item, io::empty()).map_err(write_error)
    }

    fn add(&mut self, path: &[u8], dir: &OwnedFd, name: &[u8], stat: &Stat) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryType::Regular,
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            // A socket is nothing without the process that listens on it.
            _ => return Ok(()),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of a second")]
        let mut mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
        if let Some(latest) = self.latest.and_then(|s| i64::try_from(s).ok()).filter(|s| mtime.0 >= *s) {
            mtime = (latest, 0);
        }
        let mut item = Item {
            uid: self.owners.map(stat.st_uid),
            gid: self.owners.map(stat.st_gid),
            mtime,
            ..Item::new(path, kind, stat.st_mode)
        };
        if kind != EntryType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                let link = Item { kind: EntryType::Link, link: first, ..item };
                return self.writer.put(&link, io::empty()).map_err(write_error);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let target;
        let with_slash = [path, b"/"].concat();
        let (attributes, file);
        match kind {
            EntryType::Symlink => {
                target =
                    rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new()).map_err(fail(path))?;
                item.link = target.to_bytes();
                self.writer.put(&item, io::empty())
            }
            EntryType::Directory => {
                let fd = open_below(dir, name).map_err(fail(path))?;
                attributes = kept(merged::xattrs(fd.as_fd()).map_err(fail(path))?);
                (item.path, item.xattrs) = (&with_slash, &attributes);
                self.writer.put(&item, io::empty())
            }
            EntryType::Regular => {
                file = merged::open_file(dir, name).map_err(fail(path))?;
                attributes = kept(merged::xattrs(file.as_fd()).map_err(fail(path))?);
                item.size = u64::try_from(stat.st_size).unwrap_or(0);
                item.xattrs = &attributes;
                self.writer.put(&item, io::BufReader::with_capacity(128 << 10, &file))
            }
            _ => {
                item.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.writer.put(&item, io::empty())
            }
        }
        .map_err(write_error)
    }
}

/// The attributes that belong to an image: file capabilities, without the user namespace they were set in,
/// and `user.*` but for overlayfs's own.
fn kept(all: BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut kept = Vec::new();
    for (key, mut value) in all {
        if key == b"security.capability" {
            // Version 3 is version 2 with the host's id of the namespace's root behind it (capabilities(7)).
            if value.len() == 24 && value[3] == 3 {
                value[3] = 2;
                value.truncate(20);
            }
            kept.push((key, value));
        } else if key.starts_with(b"user.") && !key.starts_with(b"user.overlay.") {
            kept.push((key, value));
        }
    }
    kept
}
