//! The facade's error: opaque, with a kind that callers may rely on.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, in the terms a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such image, container, program or file.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// A value that was given is unusable; nothing was touched.
    InvalidInput,
    /// The container's state does not allow the operation.
    InvalidState,
    /// Something else uses it.
    InUse,
    /// The caller may not do this, or the program may not be executed.
    PermissionDenied,
    /// The host or kernel cannot do this.
    Unsupported,
    /// The archive or image is malformed or hostile.
    InvalidData,
    /// A registry cannot be reached, or fails for now.
    Unreachable,
    /// The caller cancelled.
    Cancelled,
    /// An operation of the host failed.
    Io,
}

/// An error of boxship.
///
/// `Display` prints one level; the causes are in [`source`](StdError::source). The types of sources
/// are not part of the API.
pub struct Error {
    kind: ErrorKind,
    context: Option<String>,
    source: Box<dyn StdError + Send + Sync>,
}

/// A `Result` with boxship's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A bad value that the facade itself found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

impl Error {
    /// The kind of this error.
    ///
    /// ```
    /// # fn f(err: boxship::Error) {
    /// if err.kind() == boxship::ErrorKind::NotFound { /* import the image first */ }
    /// # }
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn invalid(setter: &'static str, reason: impl fmt::Display) -> Error {
        let text = format!("{setter}: {reason}");
        Error { kind: ErrorKind::InvalidInput, context: None, source: Box::new(Message(text)) }
    }

    pub(crate) fn io(context: &str, source: std::io::Error) -> Error {
        let kind = of_io(&source);
        Error { kind, context: Some(format!("cannot {context}")), source: Box::new(source) }
    }

    /// Puts what to do in front of an error that already says what is wrong.
    pub(crate) fn with_context(mut self, context: String) -> Error {
        self.context = Some(context);
        self
    }

    /// This error and its causes in one line, for logs and people.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause: Option<&dyn StdError> = self.source();
        while let Some(c) = cause {
            let level = c.to_string();
            if !text.ends_with(&level) {
                text.push_str(": ");
                text.push_str(&level);
            }
            cause = c.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.context {
            Some(context) => f.write_str(context),
            None => self.source.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    /// The whole chain: what `main` prints when it returns an error should help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.chain(), self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.context {
            Some(_) => Some(&*self.source),
            None => self.source.source(),
        }
    }
}

fn of_io(e: &std::io::Error) -> ErrorKind {
    match e.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        std::io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

fn of_namespaces(e: &boxship_namespaces::Error) -> ErrorKind {
    use boxship_namespaces::Error as E;
    match e {
        E::Invalid { .. } => ErrorKind::InvalidInput,
        E::ProgramNotFound { .. } => ErrorKind::NotFound,
        E::NotExecutable { .. } => ErrorKind::PermissionDenied,
        E::Path { source, .. } | E::Io { source, .. } => of_io(source),
        E::Setup { source, .. } | E::Start { source, .. } => match source.raw_os_error() {
            Some(1 | 13) => ErrorKind::PermissionDenied,
            Some(38) => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        },
        _ => ErrorKind::Io,
    }
}

fn of_cgroups(e: &boxship_cgroups::Error) -> ErrorKind {
    use boxship_cgroups::Error as E;
    match e {
        E::Invalid { .. } => ErrorKind::InvalidInput,
        E::Unsupported { .. } => ErrorKind::Unsupported,
        E::Exists { .. } => ErrorKind::AlreadyExists,
        E::Io { source, .. } => of_io(source),
        _ => ErrorKind::Io,
    }
}

fn of_layers(e: &boxship_layers::Error) -> ErrorKind {
    use boxship_layers::Error as E;
    match e {
        E::NotFound { .. } => ErrorKind::NotFound,
        E::Invalid { .. } => ErrorKind::InvalidInput,
        E::InUse { .. } => ErrorKind::InUse,
        E::Cancelled => ErrorKind::Cancelled,
        E::Archive { .. }
        | E::Limit { .. }
        | E::DigestMismatch { .. }
        | E::Json { .. }
        | E::Damaged { .. } => ErrorKind::InvalidData,
        E::Format { .. } | E::ReadOnly { .. } => ErrorKind::Unsupported,
        E::Io { source, .. } => of_io(source),
        _ => ErrorKind::Io,
    }
}

fn of_runtime(e: &boxship_runtime::Error) -> ErrorKind {
    use boxship_runtime::Error as E;
    match e {
        E::Invalid { .. } => ErrorKind::InvalidInput,
        E::NotFound { .. } => ErrorKind::NotFound,
        E::NameTaken { .. } => ErrorKind::AlreadyExists,
        E::State { .. } => ErrorKind::InvalidState,
        E::Unsupported { .. } => ErrorKind::Unsupported,
        E::Namespaces(e) => of_namespaces(e),
        E::Layers(e) => of_layers(e),
        E::Io { source, .. } => of_io(source),
        E::Cgroups(e) => of_cgroups(e),
        _ => ErrorKind::Io,
    }
}

#[cfg(feature = "registry")]
fn of_registry(e: &boxship_registry::Error) -> ErrorKind {
    use boxship_registry::Error as E;
    match e {
        E::Invalid { .. } => ErrorKind::InvalidInput,
        E::NotFound { .. } => ErrorKind::NotFound,
        E::Unauthorized { .. } | E::Untrusted { .. } => ErrorKind::PermissionDenied,
        E::Network { .. } | E::Status { .. } => ErrorKind::Unreachable,
        E::Content { .. } | E::Limit { .. } => ErrorKind::InvalidData,
        E::Layers(e) => of_layers(e),
        E::Io { source, .. } => of_io(source),
        _ => ErrorKind::Io,
    }
}

#[cfg(feature = "registry")]
impl From<boxship_registry::Error> for Error {
    fn from(e: boxship_registry::Error) -> Error {
        Error { kind: of_registry(&e), context: None, source: Box::new(e) }
    }
}

impl From<boxship_runtime::Error> for Error {
    fn from(e: boxship_runtime::Error) -> Error {
        Error { kind: of_runtime(&e), context: None, source: Box::new(e) }
    }
}

impl From<boxship_layers::Error> for Error {
    fn from(e: boxship_layers::Error) -> Error {
        Error { kind: of_layers(&e), context: None, source: Box::new(e) }
    }
}
