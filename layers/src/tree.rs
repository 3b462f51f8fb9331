//! A directory tree that a stranger may have made: everything in it is reached from one descriptor,
//! and no name in it can lead out (THREATS rules R1 and R9).

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The root of an untrusted tree. There is no way from it to a path: what it opens is a descriptor,
/// resolved once, beneath the root, through no symbolic link and (unless [`with_mounts`](TreeRoot::with_mounts)
/// says so) onto no other file system (openat2(2)).
#[derive(Debug)]
pub struct TreeRoot {
    dir: OwnedFd,
    /// What must not be crossed.
    resolve: ResolveFlags,
}

const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

impl TreeRoot {
    /// Opens the directory `path`, whose own path is the caller's and trusted.
    ///
    /// # Errors
    /// [`Error::Io`] when it is missing or no directory.
    pub fn open(path: &Path) -> Result<TreeRoot> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open the tree", path))?;
        Ok(TreeRoot { dir, resolve: STRICT })
    }

    /// The same with what is mounted in it: the root of a container that runs, say.
    #[must_use]
    pub fn with_mounts(self) -> TreeRoot {
        TreeRoot { resolve: self.resolve.difference(ResolveFlags::NO_XDEV), ..self }
    }

    /// A tree below an open directory.
    pub(crate) fn of(dir: BorrowedFd<'_>) -> Result<TreeRoot> {
        let dir = dir.try_clone_to_owned().map_err(Error::io("open the tree", ""))?;
        Ok(TreeRoot { dir, resolve: STRICT })
    }

    /// Opens what is at `path` (relative; empty = the root).
    pub(crate) fn entry(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
        rustix::fs::openat2(&self.dir, path, flags | OFlags::CLOEXEC, Mode::empty(), self.resolve)
    }

    /// The content of a small regular file of the tree that overlayfs makes of `roots`, the topmost first:
    /// what a layer deletes is not there.
    ///
    /// # Errors
    /// As [`read`](TreeRoot::read).
    pub fn read_merged(roots: &[TreeRoot], path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let mut shown: Vec<&TreeRoot> = roots.iter().collect();
        for (end, _) in path.match_indices('/') {
            let mut through = Vec::new();
            for root in shown {
                match root.entry(&path.as_bytes()[..end], OFlags::RDONLY | OFlags::DIRECTORY) {
                    Ok(dir) => {
                        through.push(root);
                        if crate::merged::is_opaque(dir.as_fd())
                            .map_err(Error::io("read in the tree", path))?
                        {
                            break;
                        }
                    }
                    Err(Errno::NOENT) => {}
                    // Anything else of that name, a whiteout above all, hides what is below it.
                    Err(Errno::NOTDIR | Errno::LOOP) => break,
                    Err(e) => return Err(Error::io("read in the tree", path)(e)),
                }
            }
            shown = through;
        }
        for root in shown {
            match root.entry(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW) {
                Err(Errno::NOENT) => {}
                Ok(fd) => {
                    let stat = rustix::fs::fstat(&fd).map_err(Error::io("read in the tree", path))?;
                    if crate::merged::is_whiteout(&stat) {
                        return Ok(None);
                    }
                    return root.read(path, max);
                }
                Err(e) => return Err(Error::io("read in the tree", path)(e)),
            }
        }
        Ok(None)
    }

    /// The content of a small regular file; `None` when there is none.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("boxship-tree-{}", std::process::id()));
    /// # std::fs::create_dir_all(dir.join("etc"))?;
    /// # std::fs::write(dir.join("etc/passwd"), "root:x:0:0::/:\n")?;
    /// let root = boxship_layers::TreeRoot::open(&dir)?;
    /// assert!(root.read("etc/passwd", 1 << 20)?.is_some_and(|text| text.starts_with(b"root:")));
    /// assert!(root.read("../../etc/passwd", 1 << 20).is_err());
    /// # std::fs::remove_dir_all(dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything but a regular file: a fifo, device or symbolic link in its place
    /// must neither hang nor mislead us (CVE-2024-9676). [`Error::Limit`] above `max` bytes.
    /// [`Error::Io`] for a path that leads out.
    pub fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let fail = |e: Errno| Error::io("read in the tree", path)(e);
        let fd = match self.entry(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other.map_err(fail)?,
        };
        let stat = rustix::fs::fstat(fd.as_fd()).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid("image", format!("its /{path} is not a regular file")));
        }
        let mut bytes = Vec::new();
        std::fs::File::from(fd)
            .take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read in the tree", path))?;
        if bytes.len() as u64 > max {
            return Err(Error::Limit { what: "a file that the image is read by", limit: max });
        }
        Ok(Some(bytes))
    }
}
