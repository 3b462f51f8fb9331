//! Mounts in the facade's words.

use std::path::Path;

use boxship_runtime::{BindMount, MountKind, MountPoint};

use crate::units::ByteSize;

/// Something mounted in a container.
///
/// ```
/// use boxship::{ByteSize, Mount};
/// let certificates = Mount::bind("/etc/ssl/certs", "/etc/ssl/certs").read_only();
/// let scratch = Mount::tmpfs("/scratch").size(ByteSize::mib(16));
/// # let _ = (certificates, scratch);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount(pub(super) MountPoint);

impl Mount {
    /// A directory or file of the host, without setuid programs and device nodes. Files keep the ids
    /// they have on the host, whatever the container's ids are.
    #[must_use]
    pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Mount {
        let bind = BindMount { source: source.as_ref().to_owned(), dangerous: false };
        Mount(MountPoint {
            target: target.as_ref().to_owned(),
            kind: MountKind::Bind(bind),
            read_only: false,
        })
    }

    /// An empty file system in memory.
    #[must_use]
    pub fn tmpfs(target: impl AsRef<Path>) -> Mount {
        let kind = MountKind::Tmpfs { size: None, mode: 0o1777 };
        Mount(MountPoint { target: target.as_ref().to_owned(), kind, read_only: false })
    }

    /// Forbids writing, also in mounts below the source.
    #[must_use]
    pub fn read_only(mut self) -> Mount {
        self.0.read_only = true;
        self
    }

    /// Limits a tmpfs.
    #[must_use]
    pub fn size(mut self, limit: ByteSize) -> Mount {
        if let MountKind::Tmpfs { size, .. } = &mut self.0.kind {
            *size = Some(limit.bytes());
        }
        self
    }

    /// Allows a source that gives the container the host: `/`, `/proc`, `/sys`, `/dev` or boxship's
    /// own store.
    #[must_use]
    pub fn dangerous(mut self) -> Mount {
        if let MountKind::Bind(b) = &mut self.0.kind {
            b.dangerous = true;
        }
        self
    }
}
