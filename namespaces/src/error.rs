//! What can go wrong between a plan and a running process.

use std::io;
use std::path::PathBuf;

/// An error of this crate. Every variant names the step, and the control or path it was about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of the plan is unusable; nothing was started.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The setting.
        what: &'static str,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// The program to execute does not exist in the container.
    #[error("program {program:?} not found in the container")]
    ProgramNotFound {
        /// The program as given.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program exists but cannot be executed (permission, format or a missing interpreter).
    #[error("program {program:?} cannot be executed ({reason})")]
    NotExecutable {
        /// The program as given.
        program: String,
        /// Why.
        reason: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step of the set-up failed inside the new process; the program did not run.
    #[error("cannot {step} {subject}{advice}")]
    Setup {
        /// What was attempted, as a verb: "mount", "set the sysctl", …
        step: &'static str,
        /// The mount point, limit, file or flag it was about.
        subject: String,
        /// What to do, when we know (starts with "; "), else empty.
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The helper could not start the container process; the program did not run.
    #[error("cannot {step}{advice}")]
    Start {
        /// What was attempted.
        step: &'static str,
        /// What to do, when we know (starts with "; "), else empty.
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The container process was killed while it was being set up.
    #[error("the process was killed during its set-up; the program did not run")]
    Killed,
    /// The helper went away without an answer (it was killed from outside).
    #[error("the monitor process disappeared")]
    MonitorLost,
    /// An operation of the calling process failed.
    #[error("cannot {step}")]
    Io {
        /// What was attempted.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file that the plan names cannot be used.
    #[error("cannot use {path:?} as {role}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What it was wanted for.
        role: &'static str,
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

    pub(crate) fn io(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
        move |e| Error::Io { step, source: e.into() }
    }

    /// The errno behind this error, if the kernel gave one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Error::ProgramNotFound { source, .. }
            | Error::NotExecutable { source, .. }
            | Error::Setup { source, .. }
            | Error::Start { source, .. }
            | Error::Io { source, .. }
            | Error::Path { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
