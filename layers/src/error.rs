//! Errors of the store.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The archive is malformed, ambiguous, or tries to leave its directory.
    #[error("bad archive: entry {entry:?}: {reason}")]
    Archive {
        /// The entry's name, as far as it is known.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit of [`limits`](crate::Store) would be passed.
    #[error("{what} passes the limit of {limit}")]
    Limit {
        /// What grew too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Content does not have the digest under which it was asked for.
    #[error("digest mismatch: expected {expected}, found {found}")]
    DigestMismatch {
        /// What was asked for.
        expected: String,
        /// What the bytes have.
        found: String,
    },
    /// A name, digest or option is unusable.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why, and what is allowed.
        reason: String,
    },
    /// There is no image, layer or program of that name.
    #[error("{what} {name:?} not found")]
    NotFound {
        /// "image", "layer", "program" or "library".
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The image is used by a container.
    #[error("image {image} is in use by {by}")]
    InUse {
        /// The image.
        image: String,
        /// Who uses it.
        by: String,
    },
    /// A part of an image is missing or does not parse.
    #[error("{digest}, which {image} needs, is damaged: {problem}; repair it with fsck or remove the image")]
    Damaged {
        /// The blob.
        digest: String,
        /// The image.
        image: String,
        /// What is wrong.
        problem: String,
    },
    /// The store was made by a version of boxship that this one does not understand.
    #[error(
        "the store {path:?} has format {found}, this version understands {understood}; use a newer boxship"
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// What the store says.
        found: String,
        /// What we know.
        understood: u32,
    },
    /// The store was made by a version of boxship that this one understands well enough to read only.
    #[error(
        "the store {path:?} has the feature {feature:?}, with which this version can only read it; use a newer boxship"
    )]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The feature.
        feature: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A file operation failed.
    #[error("cannot {operation} {path:?}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// JSON of the store or of an image does not parse.
    #[error("bad {what} document")]
    Json {
        /// Which document.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Of an entry's name, what an error repeats: it may be a mebibyte long.
const SHOWN: usize = 300;

impl Error {
    pub(crate) fn archive(entry: &[u8], reason: &'static str) -> Error {
        let mut shown = String::from_utf8_lossy(&entry[..entry.len().min(SHOWN)]).into_owned();
        if entry.len() > SHOWN {
            shown.push('…');
        }
        Error::Archive { entry: shown, reason }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { what, reason: reason.into() }
    }

    /// [`io`](Error::io), but for an error of ours that had to travel as one of `std::io`.
    pub(crate) fn io_or_own(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        move |e| match e.downcast::<Error>() {
            Ok(own) => own,
            Err(source) => Error::Io { operation, path: path.into(), source },
        }
    }

    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        move |e| Error::Io { operation, path: path.into(), source: e.into() }
    }
}
