//! Errors of the registry client: each names the host.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name, option or certificate is unusable.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why, and what is allowed.
        reason: String,
    },
    /// The host cannot be reached, or went away for good.
    #[error("cannot {operation} {host}")]
    Network {
        /// What was attempted.
        operation: &'static str,
        /// Host and port.
        host: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host answers that it will not.
    #[error("cannot {operation} {host}: it answers {status}{}", detail(.message))]
    Status {
        /// What was asked.
        operation: &'static str,
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the host says about it, shortened.
        message: String,
    },
    /// There is no such image, tag or blob there, or it is not to be seen without other credentials.
    #[error("{host} has no {what}{}", detail(.message))]
    NotFound {
        /// Which.
        what: String,
        /// Host and port.
        host: String,
        /// What the host says about it, shortened.
        message: String,
    },
    /// Credentials are missing or refused.
    #[error("{host} refuses access to {what}{}; pass credentials that may {operation}", detail(.message))]
    Unauthorized {
        /// "pull" or "push".
        operation: &'static str,
        /// Host and port.
        host: String,
        /// The repository.
        what: String,
        /// What the host says about it, shortened.
        message: String,
    },
    /// The host wants something that could give credentials or requests to another one.
    #[error("{host} is not followed: {reason}")]
    Untrusted {
        /// Host and port.
        host: String,
        /// What it wanted.
        reason: String,
    },
    /// What the host sent is not what it has to be.
    #[error("{host} sends bad content for {what}: {reason}")]
    Content {
        /// Host and port.
        host: String,
        /// The manifest or blob.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A limit would be passed.
    #[error("{host}: {what} passes the limit of {limit} bytes")]
    Limit {
        /// Host and port.
        host: String,
        /// What grew too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The store failed, or what was pulled does not unpack.
    #[error(transparent)]
    Layers(#[from] boxship_layers::Error),
    /// A file operation failed.
    #[error("cannot {operation}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Error {
        Error::Invalid { what, reason: reason.into() }
    }
}
