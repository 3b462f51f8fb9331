//! Errors of the lifecycle.

use std::io;
use std::path::PathBuf;

use crate::status::{Operation, Status};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of the configuration is unusable; nothing was touched.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The setting.
        what: &'static str,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// There is no such container.
    #[error("container {name:?} not found")]
    NotFound {
        /// What it was asked for.
        name: String,
    },
    /// The name belongs to another container.
    #[error("the name {name:?} is taken by container {by}; remove it or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        by: String,
    },
    /// The container's state does not allow the operation.
    #[error("cannot {operation} container {id}: it is {status}")]
    State {
        /// The container.
        id: String,
        /// What was asked.
        operation: Operation,
        /// What it is.
        status: Status,
    },
    /// The host cannot apply a control that was asked for.
    #[error("cannot apply {control}: {reason}")]
    Unsupported {
        /// The control.
        control: &'static str,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// Isolation failed.
    #[error(transparent)]
    Namespaces(#[from] boxship_namespaces::Error),
    /// Resource control failed.
    #[error(transparent)]
    Cgroups(#[from] boxship_cgroups::Error),
    /// The image store failed.
    #[error(transparent)]
    Layers(#[from] boxship_layers::Error),
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
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { what, reason: reason.into() }
    }

    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        move |e| Error::Io { operation, path: path.into(), source: e.into() }
    }
}
