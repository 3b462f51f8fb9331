//! Files that archives are written to.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fsx;

/// A new file that appears whole or not at all: [`publish`](NewFile::publish) gives it its name when everything is
/// on the disk, and puts the name there, too.
///
/// # Drop
/// Without `publish` there is no file, also after SIGKILL where the file system knows files without a name (most do).
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    dir: OwnedFd,
    name: OsString,
    out: io::BufWriter<File>,
    /// Its name so far, where it needs one.
    temporary: Option<String>,
}

impl NewFile {
    /// Begins the file `path`, whose directory exists.
    ///
    /// # Errors
    /// [`Error::Io`], with `AlreadyExists` when there is something of that name; [`Error::Invalid`] for a path
    /// without a name.
    pub fn create(path: &Path) -> Result<NewFile> {
        let (dir, name) = place(path)?;
        let fail = |e: Errno| Error::io("create", path)(e);
        match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            other => return Err(fail(other.err().unwrap_or(Errno::EXIST))),
        }
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let (file, temporary) = match rustix::fs::openat(&dir, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let name = temporary_name();
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                (rustix::fs::openat(&dir, name.as_str(), flags, mode).map_err(fail)?, Some(name))
            }
            Err(e) => return Err(fail(e)),
        };
        let out = io::BufWriter::with_capacity(1 << 20, File::from(file));
        Ok(NewFile { path: path.to_owned(), dir, name, out, temporary })
    }

    /// Makes it durable, then visible, then its name durable.
    ///
    /// # Errors
    /// [`Error::Io`], with `AlreadyExists` when the name was taken meanwhile.
    pub fn publish(mut self) -> Result<()> {
        self.out.flush().map_err(Error::io("write", &self.path))?;
        let file = self.out.get_ref();
        file.sync_all().map_err(Error::io("sync", &self.path))?;
        match &self.temporary {
            Some(old) => {
                let new = fsx::rename_new(self.dir.as_fd(), old.as_ref(), self.dir.as_fd(), &self.name);
                match new.map_err(Error::io("name", &self.path))? {
                    true => self.temporary = None,
                    false => return Err(Error::io("create", &self.path)(Errno::EXIST)),
                }
            }
            None => {
                let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, link.as_str(), &self.dir, &self.name, AtFlags::SYMLINK_FOLLOW)
                    .map_err(Error::io("name", &self.path))?;
            }
        }
        rustix::fs::fsync(&self.dir).map_err(Error::io("sync the directory of", &self.path))
    }
}

impl Write for NewFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            let _ = rustix::fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty());
        }
    }
}

fn temporary_name() -> String {
    format!(".boxship.{}", fsx::random_name())
}

/// The open directory of a path of the caller, and the name in it.
fn place(path: &Path) -> Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or_else(|| Error::invalid("path", format!("{path:?} has no name")))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(Error::io("open", parent))?;
    Ok((dir, name.to_owned()))
}

/// A new directory that appears whole or not at all. One that is there and empty is filled instead, and emptied when
/// it is not published.
#[derive(Debug)]
pub(crate) struct NewDirectory {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    dir: OwnedFd,
    temporary: Option<String>,
    published: bool,
}

impl NewDirectory {
    pub(crate) fn create(path: &Path) -> Result<NewDirectory> {
        let (parent, name) = place(path)?;
        let fail = |e: Errno| Error::io("make", path)(e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (dir, temporary) = match rustix::fs::openat(&parent, &name, flags, Mode::empty()) {
            Ok(dir) => {
                let mut entries = rustix::fs::Dir::read_from(&dir).map_err(Error::io("read", path))?;
                let other = |e: rustix::io::Result<rustix::fs::DirEntry>| {
                    e.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))
                };
                if entries.any(other) {
                    return Err(Error::invalid("directory", format!("{path:?} is not empty")));
                }
                (dir, None)
            }
            Err(Errno::NOENT) => {
                let name = temporary_name();
                rustix::fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o777)).map_err(fail)?;
                let dir = rustix::fs::openat(&parent, name.as_str(), flags | OFlags::NOFOLLOW, Mode::empty());
                (dir.map_err(fail)?, Some(name))
            }
            Err(e) => return Err(fail(e)),
        };
        Ok(NewDirectory { path: path.to_owned(), parent, name, dir, temporary, published: false })
    }

    /// Makes a directory in it.
    pub(crate) fn make(&self, name: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o777))
            .map_err(Error::io("make", self.path.join(name)))
    }

    /// A new file in it.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o666))?.into())
    }

    /// Makes it durable, with these directories in it, the inner ones first, then visible, then its name durable.
    pub(crate) fn publish(mut self, inner: &[&str]) -> Result<()> {
        for name in inner {
            let dir = rustix::fs::openat(&self.dir, *name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            dir.and_then(rustix::fs::fsync).map_err(Error::io("sync", self.path.join(name)))?;
        }
        rustix::fs::fsync(&self.dir).map_err(Error::io("sync", &self.path))?;
        if let Some(old) = &self.temporary {
            let new = fsx::rename_new(self.parent.as_fd(), old.as_ref(), self.parent.as_fd(), &self.name);
            if !new.map_err(Error::io("name", &self.path))? {
                return Err(Error::io("make", &self.path)(Errno::EXIST));
            }
        }
        self.published = true;
        rustix::fs::fsync(&self.parent).map_err(Error::io("sync the directory of", &self.path))
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        match &self.temporary {
            _ if self.published => {}
            Some(name) => drop(fsx::remove_tree(self.parent.as_fd(), name.as_ref())),
            // It was there, and empty.
            None => drop(fsx::empty_directory(&self.dir)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A half-written file had its name from the beginning.
    #[test]
    fn what_is_written_appears_whole() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("boxship-output-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(Error::io("make", &dir))?;
        let list =
            || -> Vec<_> { std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect() };
        let path = dir.join("file");
        let mut file = NewFile::create(&path)?;
        file.write_all(b"half").map_err(Error::io("write", &path))?;
        assert!(!path.exists());
        drop(file);
        assert_eq!(list(), [""; 0]);
        let (mut one, two) = (NewFile::create(&path)?, NewFile::create(&path)?);
        one.write_all(b"whole").map_err(Error::io("write", &path))?;
        one.publish()?;
        assert_eq!(std::fs::read(&path).ok().as_deref(), Some(&b"whole"[..]));
        let taken = |e: Option<Error>| matches!(e, Some(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists);
        assert!(taken(two.publish().err()));
        assert!(taken(NewFile::create(&path).err()));
        assert_eq!(list(), ["file"]);
        let tree = dir.join("tree");
        for there in [false, true] {
            if there {
                std::fs::create_dir(&tree).map_err(Error::io("make", &tree))?;
            }
            let new = NewDirectory::create(&tree)?;
            new.make("inner")?;
            assert_eq!(tree.exists(), there);
            drop(new);
            assert_eq!(tree.exists(), there);
            assert!(!tree.join("inner").exists());
            let new = NewDirectory::create(&tree)?;
            new.make("inner")?;
            new.publish(&["inner"])?;
            assert!(tree.join("inner").exists());
            assert!(matches!(NewDirectory::create(&tree), Err(Error::Invalid { .. })));
            std::fs::remove_dir_all(&tree).map_err(Error::io("remove", &tree))?;
        }
        let _ = std::fs::remove_dir_all(&dir);
        Ok(())
    }
}
