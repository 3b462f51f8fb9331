//! The states of a container and the one table of what is allowed in which.

use std::fmt;

use boxship_namespaces::ExitStatus;

/// Where a container is in its life (the OCI's states and "paused").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

/// What can be asked of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Start its process.
    Start,
    /// Send a signal.
    Kill,
    /// Freeze it.
    Pause,
    /// Let it go on.
    Resume,
    /// Run a further process in it.
    Exec,
    /// Remove it.
    Delete,
}

impl Status {
    /// The table: whether `operation` is allowed here.
    ///
    /// ```
    /// use boxship_runtime::{Operation, Status};
    /// assert!(Status::Stopped.allows(Operation::Start));
    /// assert!(!Status::Paused.allows(Operation::Delete));
    /// ```
    #[must_use]
    pub const fn allows(self, operation: Operation) -> bool {
        use Operation::{Delete, Exec, Kill, Pause, Resume, Start};
        match self {
            Status::Created => matches!(operation, Start | Delete),
            Status::Running => matches!(operation, Kill | Pause | Exec),
            Status::Paused => matches!(operation, Kill | Resume),
            Status::Stopped => matches!(operation, Start | Delete),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Start => "start",
            Operation::Kill => "signal",
            Operation::Pause => "pause",
            Operation::Resume => "resume",
            Operation::Exec => "run a process in",
            Operation::Delete => "remove",
        })
    }
}

/// What is true of a container at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// The pid of its first process on the host, while it runs.
    pub pid: Option<u32>,
    /// When it was started, in ns since 1970.
    pub started_ns: Option<u64>,
    /// How it ended. `None` for a stopped container means that its monitor was killed or the machine
    /// went down before the end could be recorded.
    pub exit: Option<ExitStatus>,
}
