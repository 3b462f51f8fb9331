//! From a configuration to a running process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxship_namespaces::{Child, Event, ExitStatus, Helper, Privilege, Stdio};

use crate::busy::Flight;
use crate::config::Config;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::plan::{self, Plan};
use crate::runtime::Runtime;
use crate::{bundle, ids};

/// Where the streams of a container lead.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// With a terminal: where its output is copied to.
    pub terminal_copy: Option<OwnedFd>,
}

impl Streams {
    /// Nothing in, nothing out.
    ///
    /// # Errors
    /// Never; the signature leaves room for opening files.
    pub fn null() -> Result<Streams> {
        Ok(Streams { stdin: Stdio::Null, stdout: Stdio::Null, stderr: Stdio::Null, terminal_copy: None })
    }

    /// Output goes to the container's log; input comes from attached processes if `stdin_open`.
    #[must_use]
    pub fn logged(stdin_open: bool) -> Streams {
        let stdin = if stdin_open { Stdio::Monitor } else { Stdio::Null };
        Streams { stdin, stdout: Stdio::Monitor, stderr: Stdio::Monitor, terminal_copy: None }
    }
}

/// A container that this process started and that ends with it.
///
/// # Drop
/// Kills the container: its monitor sees the closed socket, kills it and removes its cgroups. Its
/// directory is removed by the next operation of the runtime.
#[derive(Debug)]
pub struct Running {
    container: Container,
    child: Child,
    exit: Option<ExitStatus>,
    over: bool,
    _flight: Flight,
}

impl Running {
    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// The pid of its first process on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its first process as a descriptor of the caller's own.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be duplicated.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let fd = self.child.pidfd().try_clone_to_owned();
        fd.map_err(|source| Error::Io {
            operation: "duplicate the process of",
            path: self.container.path(),
            source,
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn kill(&self, signal: i32) -> Result<()> {
        Ok(self.child.kill(signal)?)
    }

    /// Takes one message of the monitor; true when everything is over. Blocks unless the control
    /// socket is readable.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn step(&mut self) -> Result<bool> {
        if self.over {
            return Ok(true);
        }
        match self.child.next_event()? {
            Event::Exited(status) => self.exit = Some(status),
            Event::Closed => {
                self.over = true;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Whether the end is known and the monitor has removed everything: [`finish`](Running::finish) has
    /// nothing to wait for then.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it is known how it ended.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.exit.is_some()
    }

    /// Waits for the end, removes the container and tells how it ended; blocks.
    ///
    /// # Errors
    /// [`Error::Namespaces`] when the monitor was killed; [`Error::Layers`] when removal failed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.finish();
        self.container.runtime().store().empty_trash();
        status
    }

    /// Tells how it ended; blocks until [`is_over`](Running::is_over). The monitor has removed the container;
    /// one whose monitor was killed is removed here. The store's `empty_trash` frees the space.
    ///
    /// # Errors
    /// As [`wait`](Running::wait).
    pub fn finish(&mut self) -> Result<ExitStatus> {
        let _span = tracing::debug_span!("remove").entered();
        let known = self.exit.is_some();
        while !self.step()? {}
        if !known {
            self.container.discard()?;
        }
        self.exit.ok_or(Error::Namespaces(boxship_namespaces::Error::MonitorLost))
    }
}

impl std::os::fd::AsRawFd for Running {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.child.as_fd().as_raw_fd()
    }
}

impl AsFd for Running {
    /// The control socket: readable when [`step`](Running::step) has something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.container.runtime().adopt(self.child.abandon(), Some(self.container.clone()));
        }
    }
}

impl Runtime {
    /// Creates a container, starts it and ties its life to this process: it is killed when the result
    /// is dropped or this process dies, and nothing of it stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is touched; every other error leaves nothing behind.
    pub fn run(&self, config: Config, streams: Streams) -> Result<Running> {
        let _span = tracing::debug_span!("run").entered();
        config.validate()?;
        self.reap();
        // Others keep the cores busy: then doing two things at once only costs.
        let flight = self.begin_start();
        let overlap = flight.alone();
        let span = tracing::Span::current();
        let run = move |helper: HelperSource<'_>| {
            let container = {
                let _span = tracing::debug_span!("record").entered();
                self.record(config, true)?
            };
            let lock = container.take_creation_lock();
            match container.launch(streams, lock, Start { detached: false, overlap }, || helper.get()) {
                Ok(child) => Ok(Running { container, child, exit: None, over: false, _flight: flight }),
                Err(e) => {
                    let _ = container.discard();
                    Err(e)
                }
            }
        };
        if !overlap {
            return run(HelperSource::Now);
        }
        // A process takes the kernel about as long as the directories take us.
        std::thread::scope(|scope| {
            let helper = std::thread::Builder::new()
                .spawn_scoped(scope, move || span.in_scope(Helper::start))
                .map_err(Error::io("start a thread in", self.store().path()))?;
            run(HelperSource::Thread(helper))
        })
    }
}

/// Where a start gets its helper from.
enum HelperSource<'scope> {
    /// Started when it is needed.
    Now,
    /// Being started by a thread.
    Thread(std::thread::ScopedJoinHandle<'scope, boxship_namespaces::Result<Helper>>),
}

impl HelperSource<'_> {
    fn get(self) -> boxship_namespaces::Result<Helper> {
        match self {
            HelperSource::Now => Helper::start(),
            HelperSource::Thread(handle) => match handle.join() {
                Ok(helper) => helper,
                Err(panic) => std::panic::resume_unwind(panic),
            },
        }
    }
}

/// How a process is started.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// It outlives its creator.
    pub(crate) detached: bool,
    /// Work is spread over two cores.
    pub(crate) overlap: bool,
}

impl Container {
    /// Starts the process; the lock passes to the monitor.
    pub(crate) fn launch(
        &self,
        streams: Streams,
        lock: Option<OwnedFd>,
        start: Start,
        helper: impl FnOnce() -> boxship_namespaces::Result<Helper>,
    ) -> Result<Child> {
        let config = self.config();
        let privilege = Privilege::detect();
        let map = self.id_slot().map(ids::map).transpose()?;
        let who = plan::identity(self)?;
        let plan = Plan { container: self, config, who, map, privilege };
        let group = {
            let _span = tracing::debug_span!("cgroups").entered();
            plan::cgroup(self, privilege)?
        };
        let sandbox = {
            let _span = tracing::debug_span!("plan").entered();
            plan.sandbox(streams, lock, start, group.as_ref())
        };
        let started = sandbox.and_then(|s| Ok(s.spawn_with(helper()?)?));
        if started.is_err()
            && let Some(group) = group
        {
            let _ = group.delete();
        }
        started
    }

    /// Writes the OCI bundle's `config.json`.
    pub(crate) fn write_bundle(&self) -> Result<()> {
        let who = plan::identity(self)?;
        let spec = bundle::spec(self.config(), &who, self.id_slot().map(ids::first), Privilege::detect())?;
        let text = serde_json::to_vec(&spec).map_err(|e| Error::invalid("configuration", e.to_string()))?;
        let path = self.path().join("config.json");
        std::fs::write(&path, text).map_err(Error::io("write", path))
    }
}
