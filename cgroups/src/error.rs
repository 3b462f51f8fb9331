//! Errors of resource control.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A limit has an unusable value; nothing was changed.
    #[error("invalid {limit}: {reason}")]
    Invalid {
        /// The limit.
        limit: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The host cannot apply this limit.
    #[error("cannot limit {limit}: {reason}")]
    Unsupported {
        /// The limit.
        limit: &'static str,
        /// Why, and what would help.
        reason: &'static str,
    },
    /// A cgroup of this name exists already.
    #[error("the cgroup {path:?} exists already")]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// A file or directory of a cgroup could not be used.
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
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
