//! Layer archives: a strict reader and an extractor that never leaves its directory.

pub(crate) mod acl;
pub(crate) mod extract;
pub(crate) mod reader;
pub(crate) mod write;

/// Bounds on what an archive may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Entries of one archive.
    pub(crate) entries: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Bytes of one PAX or GNU extension.
    pub(crate) extension: u64,
    /// Bytes of a path.
    pub(crate) path: usize,
    /// Directories in a path.
    pub(crate) depth: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { entries: 2_000_000, bytes: 64 << 30, extension: 1 << 20, path: 4095, depth: 512 }
    }
}
