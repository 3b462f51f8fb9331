//! What a container changed: as a list, as a layer, as a new image, and its whole tree as an archive.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use flate2::{Compression as Level, GzBuilder};
use rustix::fs::{AtFlags, FileType, Stat};
use tar::EntryType;

use crate::archive::acl::{self, Acl};
use crate::archive::write::{Item, Writer};
use crate::descent::{self, Descent, Opened, Whose};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Image, ImageOptions};
use crate::merged::{self, is_opaque, is_whiteout, push};
use crate::store::{Expected, Progress, Publish, Store};
use crate::watch::Watch;

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
            Owners::Root => 0,
            _ => self.known(id).unwrap_or(NOBODY).into(),
        }
    }

    /// What the image calls somebody, if it knows them.
    fn known(self, id: u32) -> Option<u32> {
        match self {
            Owners::AsTheyAre => Some(id),
            Owners::From(first) => {
                // What the image itself brought keeps the image's ids.
                id.checked_sub(first).filter(|n| *n < 65_536).or(Some(id).filter(|id| *id < 65_536))
            }
            Owners::Root => None,
        }
    }
}

/// Whose id is none of the container's.
const NOBODY: u32 = 65_534;

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
    Error::io_or_own("write", "the archive")(e)
}

impl Store {
    fn upper(&self, id: &str) -> Result<Opened> {
        match merged::open_root(&self.path().join("snapshots").join(id).join("upper")) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: "writable layer", name: id.to_owned() })
            }
            other => other,
        }
    }

    /// The writable layer and those below it, the topmost first.
    fn stack(&self, id: &str, layers: &[Digest]) -> Result<Vec<Opened>> {
        let lower = layers.iter().rev().map(|l| merged::open_root(&self.layer_path(l)));
        std::iter::once(self.upper(id)).chain(lower).collect()
    }

    /// What changed in the writable layer `id` above `layers` (lowest first), parents first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn diff(&self, id: &str, layers: &[Digest]) -> Result<Vec<Change>> {
        changed(self.stack(id, layers)?)
    }

    /// Writes the whole tree of a container as a tar archive: its writable layer above its layers.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn export(&self, id: &str, layers: &[Digest], owners: Owners, out: impl Write) -> Result<()> {
        self.export_with(id, layers, owners, out, &mut |_| true)
    }

    /// [`export`](Store::export) with progress: bytes of files.
    ///
    /// # Errors
    /// As [`export`](Store::export), and [`Error::Cancelled`] when `observe` answers false.
    pub fn export_with(
        &self,
        id: &str,
        layers: &[Digest],
        owners: Owners,
        out: impl Write,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<()> {
        let mut archive = Archive::new(out, owners, None, Watch::new(observe));
        merged::walk(self.stack(id, layers)?, &mut |path, found, dir| {
            archive.add(path, dir, name_of(path), &found.stat)
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
        self.commit_with(id, base, owners, options, name, &mut |_| true)
    }

    /// [`commit`](Store::commit) with progress: bytes of changed files as they are read, and then as the layer is
    /// unpacked. Cancelled, nothing of it is visible.
    ///
    /// # Errors
    /// As [`commit`](Store::commit), and [`Error::Cancelled`] when `observe` answers false.
    pub fn commit_with(
        &self,
        id: &str,
        base: &Image,
        owners: Owners,
        options: &CommitOptions,
        name: Option<&str>,
        observe: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Image> {
        let name = name.map(crate::image::normalise).transpose()?;
        let add = self.begin(Publish::Together)?;
        let upper = self.upper(id)?;
        let mut watch = Watch::new(observe);
        let mut part = watch.part();
        let (_guard, archive) = self.scratch_archive(|out| {
            // No name and no time in the header: the same layer is the same bytes.
            let gzip = GzBuilder::new().mtime(0).write(out, Level::new(6));
            let mut archive = Archive::new(gzip, owners, options.created, Watch::new(&mut part));
            archive.tree(upper)?;
            archive.writer.finish().and_then(|gzip| gzip.finish()).map(drop).map_err(write_error)
        })?;
        drop(part);
        let layer = add.layer(archive, Expected::default(), &mut watch.part())?;
        let (config, manifest) = base.with_layer(&layer, options)?;
        add.document(&config)?;
        add.finish(&manifest, name.as_deref())
    }
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|c| *c == b'/').next().unwrap_or(path)
}

/// What is different in the first of these from what the others show, the topmost first.
fn changed(stack: Vec<Opened>) -> Result<Vec<Change>> {
    let (mut path, mut changes) = (Vec::new(), Vec::new());
    let mut descent = Descent::new(stack).map_err(fail(&path))?;
    let mut levels = vec![(level_of(&descent, &path, &mut changes)?, 0)];
    while let Some(((names, below), before)) = levels.last_mut() {
        path.truncate(*before);
        let Some(name) = names.next() else {
            levels.pop();
            descent.leave().map_err(fail(&path))?;
            continue;
        };
        merged::push_bounded(&mut path, &name)?;
        let upper = descent.dir(0).map_err(fail(&path))?;
        let stat = rustix::fs::statat(upper, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail(&path))?;
        let old = below.remove(&name);
        if is_whiteout(&stat) {
            if old.is_some() {
                changes.push(change(&path, ChangeKind::Deleted));
            }
            continue;
        }
        changes.push(change(&path, if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added }));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let lower = old.into_iter().flat_map(|found| found.shown).map(|i| i + 1);
            let which: Vec<usize> = std::iter::once(0).chain(lower).collect();
            descent.enter(&name, &which).map_err(fail(&path))?;
            levels.push((level_of(&descent, &path, &mut changes)?, path.len()));
        }
    }
    Ok(changes)
}

fn change(path: &[u8], kind: ChangeKind) -> Change {
    Change { path: PathBuf::from(OsString::from_vec([b"/", path].concat())), kind }
}

type Names = (std::vec::IntoIter<Vec<u8>>, BTreeMap<Vec<u8>, merged::Found>);

/// The names in the upper directory, in order, and what there is below it. What an opaque one hides is told.
fn level_of(descent: &Descent, path: &[u8], changes: &mut Vec<Change>) -> Result<Names> {
    let upper = descent.dir(0).map_err(fail(path))?;
    let below = merged::list(descent.dirs().skip(1), path)?;
    let mut all = merged::names(upper).map_err(fail(path))?;
    all.sort_unstable();
    if descent.dirs().nth(1).is_some() && is_opaque(upper.as_fd()).map_err(fail(path))? {
        for name in below.keys().filter(|name| all.binary_search(name).is_err()) {
            let mut path = path.to_vec();
            push(&mut path, name);
            changes.push(change(&path, ChangeKind::Deleted));
        }
    }
    Ok((all.into_iter(), below))
}

pub(crate) struct Archive<'a, W: Write> {
    writer: Writer<W>,
    whose: Whose,
    watch: Watch<'a>,
    owners: Owners,
    /// The latest time that an entry may have.
    latest: Option<u64>,
    /// Files with several names, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a, W: Write> Archive<'a, W> {
    fn new(out: W, owners: Owners, latest: Option<u64>, watch: Watch<'a>) -> Archive<'a, W> {
        let (writer, whose) = (Writer::new(out), Whose::Store);
        Archive { writer, whose, watch, owners, latest, linked: HashMap::new() }
    }

    /// Writes a directory of the host, whole: names in order, owners as they are.
    pub(crate) fn of_host(path: &Path, out: W, watch: Watch<'a>) -> Result<()> {
        let mut archive = Archive { whose: Whose::Host, ..Archive::new(out, Owners::AsTheyAre, None, watch) };
        let root = descent::open_host(path).map_err(Error::io("open", path))?;
        let stat = rustix::fs::fstat(&*root).map_err(Error::io("read", path))?;
        archive.add(b".", &root, b".", &stat)?;
        archive.tree(root)?;
        archive.writer.finish().map(drop).map_err(write_error)
    }

    /// A writable layer in the form of an image's: whiteouts are files of their own. In a directory of the host
    /// nothing is one.
    fn tree(&mut self, top: Opened) -> Result<()> {
        let mut path = Vec::new();
        let mut descent = Descent::of(self.whose, [top]).map_err(fail(&path))?;
        let mut levels = vec![(self.names(&descent, &path)?, 0)];
        while let Some((names, before)) = levels.last_mut() {
            path.truncate(*before);
            let Some(name) = names.next() else {
                levels.pop();
                descent.leave().map_err(fail(&path))?;
                continue;
            };
            let dir = descent.dir(0).map_err(fail(&path))?;
            let stat = rustix::fs::statat(dir, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(fail(&path))?;
            if is_whiteout(&stat) && self.whose == Whose::Store {
                self.mark(&path, &[b".wh.", &name[..]].concat())?;
                continue;
            }
            if name.starts_with(b".wh.") {
                // In a layer it would mean something else.
                let reason = "a name that begins with .wh. cannot be in a layer";
                return Err(Error::Archive { entry: String::from_utf8_lossy(&name).into_owned(), reason });
            }
            merged::push_bounded(&mut path, &name)?;
            self.add(&path, dir, &name, &stat)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                descent.enter(&name, &[0]).map_err(fail(&path))?;
                levels.push((self.names(&descent, &path)?, path.len()));
            }
        }
        Ok(())
    }

    /// The names in a directory of a writable layer, in order. That it is opaque is written.
    fn names(&mut self, descent: &Descent, path: &[u8]) -> Result<std::vec::IntoIter<Vec<u8>>> {
        let dir = descent.dir(0).map_err(fail(path))?;
        if self.whose == Whose::Store && !path.is_empty() && is_opaque(dir.as_fd()).map_err(fail(path))? {
            self.mark(path, b".wh..wh..opq")?;
        }
        let mut all = merged::names(dir).map_err(fail(path))?;
        all.sort_unstable();
        Ok(all.into_iter())
    }

    fn mark(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        let mut path = dir.to_vec();
        push(&mut path, name);
        let mtime = (self.latest.map_or(0, |s| i64::try_from(s).unwrap_or(0)), 0);
        let item = Item { mtime, ..Item::new(&path, EntryType::Regular, 0o644) };
        self.writer.put(&item, io::empty()).map_err(write_error)
    }

    fn add(&mut self, path: &[u8], dir: &File, name: &[u8], stat: &Stat) -> Result<()> {
        self.watch.entry()?;
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
                let fd = self.whose.dir(dir.as_fd(), name).map_err(fail(path))?;
                attributes = kept(merged::xattrs(fd.as_fd()).map_err(fail(path))?, self.owners);
                (item.path, item.xattrs) = (&with_slash, &attributes);
                self.writer.put(&item, io::empty())
            }
            EntryType::Regular => {
                file = self.whose.file(dir.as_fd(), name).map_err(fail(path))?;
                attributes = kept(merged::xattrs(file.as_fd()).map_err(fail(path))?, self.owners);
                item.size = u64::try_from(stat.st_size).unwrap_or(0);
                item.xattrs = &attributes;
                let data = self.watch.reader(io::BufReader::with_capacity(128 << 10, &*file));
                self.writer.put(&item, data)
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
/// access control lists with the ids of the image, and `user.*` but for overlayfs's own.
fn kept(all: BTreeMap<Vec<u8>, Vec<u8>>, owners: Owners) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut kept = Vec::new();
    for (key, mut value) in all {
        if key == b"security.capability" {
            // Version 3 is version 2 with the host's id of the namespace's root behind it (capabilities(7)).
            if value.len() == 24 && value[3] == 3 {
                value[3] = 2;
                value.truncate(20);
            }
            kept.push((key, value));
        } else if [acl::ACCESS, acl::DEFAULT].contains(&&key[..]) {
            let acl = Acl::of_bytes(&value).and_then(|acl| acl.map(|id| owners.known(id)));
            kept.extend(acl.map(|acl| (key, acl.to_bytes())));
        } else if key.starts_with(b"user.") && !key.starts_with(b"user.overlay.") {
            kept.push((key, value));
        }
    }
    kept
}
