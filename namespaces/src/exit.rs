//! How a process ended, and what it used.

use crate::error::{Error, Result};
use crate::wire::Exit;

/// How a process ended, and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    code: Option<i32>,
    signal: Option<i32>,
    core_dumped: bool,
    oom_kills: Option<u64>,
    cpu_time: std::time::Duration,
    memory_peak: u64,
    started_ns: u64,
    finished_ns: u64,
}

impl ExitStatus {
    pub(crate) fn from_wire(e: &Exit) -> ExitStatus {
        ExitStatus {
            code: (e.code == 1).then_some(e.status),
            signal: (e.code != 1).then_some(e.status),
            core_dumped: e.code == 3,
            oom_kills: (e.oom_kills != u64::MAX).then_some(e.oom_kills),
            cpu_time: std::time::Duration::from_nanos(e.cpu_ns),
            memory_peak: e.memory_peak,
            started_ns: e.started_ns,
            finished_ns: e.finished_ns,
        }
    }

    /// Reads the exit record that a monitor wrote (`key value` lines).
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is not such a record.
    pub fn parse(text: &str) -> Result<ExitStatus> {
        let field = |key: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok())
                .ok_or_else(|| Error::invalid("exit record", format!("it has no {key}")))
        };
        #[allow(clippy::cast_possible_truncation, reason = "written from an i32")]
        let small = |key| field(key).map(|v| v as i32);
        Ok(ExitStatus::from_wire(&Exit {
            code: small("code")?,
            status: small("status")?,
            oom_kills: field("oom_kills")?,
            cpu_ns: field("cpu_ns")?,
            memory_peak: field("memory_peak")?,
            started_ns: field("started_ns")?,
            finished_ns: field("finished_ns")?,
        }))
    }

    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The exit code, `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Whether it left a core dump.
    #[must_use]
    pub fn core_dumped(&self) -> bool {
        self.core_dumped
    }

    /// Whether the kernel killed a process of the container for lack of memory; false when no cgroup
    /// counted.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.oom_kills.is_some_and(|n| n > 0)
    }

    /// CPU time of the container (of the first process and those it waited for, without a cgroup).
    #[must_use]
    pub fn cpu_time(&self) -> std::time::Duration {
        self.cpu_time
    }

    /// Peak memory in bytes (of the largest process, without a cgroup).
    #[must_use]
    pub fn memory_peak(&self) -> u64 {
        self.memory_peak
    }

    /// When the program was executed, in ns since 1970.
    #[must_use]
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// When it ended, in ns since 1970.
    #[must_use]
    pub fn finished_ns(&self) -> u64 {
        self.finished_ns
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (_, Some(signal)) => write!(f, "signal {signal}")?,
            _ => f.write_str("unknown end")?,
        }
        if self.oom_killed() { f.write_str(" (out of memory)") } else { Ok(()) }
    }
}
