//! What is mounted in the container, as data.

use std::path::{Path, PathBuf};

/// Where the container's "/" comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Root {
    /// The host's tree, in a private copy of its mount namespace if there is one.
    #[default]
    Host,
    /// A directory of the host.
    Directory(PathBuf),
    /// Layers below a writable directory, see overlayfs in the kernel's documentation.
    Overlay(Overlay),
}

/// An overlay as a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only directories, the topmost first; 1 to 500.
    pub layers: Vec<PathBuf>,
    /// The writable directory.
    pub upper: PathBuf,
    /// An empty directory on the file system of `upper`.
    pub work: PathBuf,
    /// Skip all syncing: for roots that are removed at exit (`volatile`).
    pub volatile: bool,
}

/// One mount below the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) read_only: bool,
    pub(crate) attributes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bind { source: PathBuf, recursive: bool, exact: bool },
    Tmpfs { size: Option<u64>, mode: u32 },
    Proc { pids_only: bool },
    Sysfs,
    Devpts,
    Mqueue,
    Cgroup2,
    Dev,
}

/// MOUNT_ATTR_* of mount_setattr(2).
pub(crate) mod attribute {
    pub(crate) const RDONLY: u64 = 1;
    pub(crate) const NOSUID: u64 = 2;
    pub(crate) const NODEV: u64 = 4;
    pub(crate) const NOEXEC: u64 = 8;
}
use attribute::{NODEV, NOEXEC, NOSUID};

impl Mount {
    fn new(target: impl AsRef<Path>, kind: Kind, attributes: u64) -> Mount {
        Mount { target: target.as_ref().to_owned(), kind, read_only: false, attributes }
    }

    /// A directory or file of the host, `nosuid` and `nodev`, with the mounts below it.
    #[must_use]
    pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Mount {
        let source = source.as_ref().to_owned();
        Mount::new(target, Kind::Bind { source, recursive: true, exact: false }, NOSUID | NODEV)
    }

    /// An empty file system in memory (`nosuid`, `nodev`, mode 1777), as large as half the memory
    /// unless [`size`](Mount::size) says otherwise.
    #[must_use]
    pub fn tmpfs(target: impl AsRef<Path>) -> Mount {
        Mount::new(target, Kind::Tmpfs { size: None, mode: 0o1777 }, NOSUID | NODEV)
    }

    /// procfs of the container's pid namespace.
    #[must_use]
    pub fn proc() -> Mount {
        Mount::new("/proc", Kind::Proc { pids_only: false }, NOSUID | NODEV | NOEXEC)
    }

    /// procfs that shows processes and nothing else (`subset=pid`, Linux 5.8).
    #[must_use]
    pub fn proc_pids_only() -> Mount {
        Mount::new("/proc", Kind::Proc { pids_only: true }, NOSUID | NODEV | NOEXEC)
    }

    /// sysfs of the container's network namespace, read-only.
    #[must_use]
    pub fn sysfs() -> Mount {
        Mount::new("/sys", Kind::Sysfs, NOSUID | NODEV | NOEXEC).read_only()
    }

    /// `/dev` with null, zero, full, tty, random, urandom, pts, shm and the usual links.
    #[must_use]
    pub fn dev() -> Mount {
        Mount::new("/dev", Kind::Dev, NOSUID | NOEXEC)
    }

    /// A private devpts at `/dev/pts`.
    #[must_use]
    pub fn devpts() -> Mount {
        Mount::new("/dev/pts", Kind::Devpts, NOSUID | NOEXEC)
    }

    /// POSIX message queues of the ipc namespace at `/dev/mqueue`.
    #[must_use]
    pub fn mqueue() -> Mount {
        Mount::new("/dev/mqueue", Kind::Mqueue, NOSUID | NODEV | NOEXEC)
    }

    /// The cgroup v2 tree at `/sys/fs/cgroup`, read-only, rooted at the container's own cgroup.
    #[must_use]
    pub fn cgroup2() -> Mount {
        Mount::new("/sys/fs/cgroup", Kind::Cgroup2, NOSUID | NODEV | NOEXEC).read_only()
    }

    /// `/dev/shm` with a size limit in bytes.
    #[must_use]
    pub fn shm(bytes: u64) -> Mount {
        let mut m = Mount::tmpfs("/dev/shm").size(bytes);
        m.attributes |= NOEXEC;
        m
    }

    /// Forbids writing, also in mounts below a bind.
    #[must_use]
    pub fn read_only(mut self) -> Mount {
        self.read_only = true;
        self
    }

    /// Forbids executing programs.
    #[must_use]
    pub fn no_exec(mut self) -> Mount {
        self.attributes |= NOEXEC;
        self
    }

    /// The size limit of a tmpfs in bytes; without meaning for other kinds.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Mount {
        if let Kind::Tmpfs { size, .. } = &mut self.kind {
            *size = Some(bytes);
        }
        self
    }

    /// The mode of a tmpfs' root directory; without meaning for other kinds.
    #[must_use]
    pub fn mode(mut self, bits: u32) -> Mount {
        if let Kind::Tmpfs { mode, .. } = &mut self.kind {
            *mode = bits & 0o7777;
        }
        self
    }

    /// For [`bind`](Mount::bind): the source has no symbolic link in its path, and one that appears there
    /// is an error. For paths that were resolved and judged, and must not lead elsewhere since.
    #[must_use]
    pub fn exact(mut self) -> Mount {
        if let Kind::Bind { exact, .. } = &mut self.kind {
            *exact = true;
        }
        self
    }

    /// Leaves out the mounts below a bind's source.
    #[must_use]
    pub fn non_recursive(mut self) -> Mount {
        if let Kind::Bind { recursive, .. } = &mut self.kind {
            *recursive = false;
        }
        self
    }

    /// Where it appears in the container.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The mounts of a container in the order they are made.
    #[must_use]
    pub fn standard() -> Vec<Mount> {
        vec![
            Mount::proc(),
            Mount::dev(),
            Mount::devpts(),
            Mount::shm(64 << 20),
            Mount::mqueue(),
            Mount::sysfs(),
        ]
    }
}
