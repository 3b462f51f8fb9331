//! A further process in a container that runs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use boxship_layers::TreeRoot;
use boxship_namespaces::{
    Cgroups, Child, Event, ExitStatus, MonitorOptions, Namespaces, Privilege, Sandbox, User,
};

use crate::config::Network;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::launch::Streams;
use crate::plan::{self, Plan};
use crate::runtime::Runtime;
use crate::status::Operation;

/// What to run, and how it differs from the container's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables besides the container's.
    pub env: BTreeMap<String, String>,
    /// The working directory; the container's by default. It must exist.
    pub workdir: Option<PathBuf>,
    /// `user`, `user:group`, by name or number; the container's by default. Names are looked up in the
    /// container's files as they are now.
    pub user: Option<String>,
    /// Rows and columns of a terminal.
    pub terminal: Option<(u16, u16)>,
    /// It goes on when the result is dropped.
    pub detached: bool,
}

/// A further process of a container.
///
/// # Drop
/// Kills the process unless it was started detached; its container goes on.
#[derive(Debug)]
pub struct Exec {
    runtime: Runtime,
    child: Child,
    exit: Option<ExitStatus>,
    over: bool,
    detached: bool,
}

impl Exec {
    /// Its pid on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The process as a descriptor of the caller's own.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be duplicated.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        self.child.pidfd().try_clone_to_owned().map_err(Error::io("duplicate", "a pidfd"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn kill(&self, signal: i32) -> Result<()> {
        Ok(self.child.kill(signal)?)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`Error::Namespaces`] when its monitor is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(self.child.resize(rows, columns)?)
    }

    /// Takes one message of its monitor; true when everything is over. Blocks unless the control socket
    /// is readable.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn step(&mut self) -> Result<bool> {
        if !self.over {
            match self.child.next_event()? {
                Event::Exited(status) => self.exit = Some(status),
                Event::Closed => self.over = true,
                _ => {}
            }
        }
        Ok(self.over)
    }

    /// Whether there is nothing left to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Waits for its end; blocks. A process that is killed with its container ends by signal 9.
    ///
    /// # Errors
    /// [`Error::Namespaces`] when its monitor was killed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        while !self.step()? {}
        self.exit.ok_or(Error::Namespaces(boxship_namespaces::Error::MonitorLost))
    }
}

impl AsFd for Exec {
    /// The control socket: readable when [`step`](Exec::step) has something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl std::os::fd::AsRawFd for Exec {
    fn as_raw_fd(&self) -> RawFd {
        self.child.as_fd().as_raw_fd()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if !self.over && !self.detached {
            self.runtime.adopt(self.child.abandon(), None);
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())) != Ok(0)
}

impl Container {
    /// Starts a further process: in the container's namespaces and cgroups, confined as its own.
    ///
    /// Between the moment it appears in the container and its execution it can be neither traced nor
    /// looked into by the container's processes, and no file of the host is reached through it.
    ///
    /// # Errors
    /// [`Error::State`] unless it runs; [`Error::Invalid`] for bad values, before anything is touched;
    /// [`Error::Namespaces`] names the step that failed, the program did not run then.
    pub fn exec(&self, exec: ExecConfig, streams: Streams) -> Result<Exec> {
        if exec.command.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command", "it is empty"));
        }
        self.runtime().reap();
        let (pid, process) = self.running(Operation::Exec)?;
        let detached = exec.detached;
        let started = || -> Result<Child> {
            let privilege = Privilege::detect();
            // The magic link leads to the very root of the process, wherever its container has got to.
            let root = TreeRoot::open(format!("/proc/{pid}/root").as_ref())?.with_mounts();
            if has_ended(&process) {
                // The number may have been another process's when the link was followed.
                return Err(Error::NotFound { name: self.id().to_owned() });
            }
            let sandbox = self.further(root, exec, streams, privilege)?;
            Ok(sandbox.join(process, self.namespaces(privilege)).spawn()?)
        };
        let child = started().map_err(|e| match self.running(Operation::Exec) {
            // It ended meanwhile.
            Err(ended @ Error::State { .. }) => ended,
            _ => e,
        })?;
        Ok(Exec { runtime: self.runtime().clone(), child, exit: None, over: false, detached })
    }

    /// The namespaces that its first process has of its own.
    fn namespaces(&self, privilege: Privilege) -> Namespaces {
        let mut set = Namespaces::CONTAINER;
        if self.config().network == Network::Host {
            set = set.without(Namespaces::NET);
        }
        if self.id_slot().is_some() || privilege.is_rootless() {
            set = set | Namespaces::USER;
        }
        set
    }

    fn further(
        &self,
        root: TreeRoot,
        exec: ExecConfig,
        streams: Streams,
        privilege: Privilege,
    ) -> Result<Sandbox> {
        let config = self.config();
        let user = exec.user.as_deref().unwrap_or(&config.user);
        let who = plan::identity_in(&[root], user)?;
        let plan = Plan { container: self, config, who, map: None, privilege };
        let ids = User { uid: plan.who.uid, gid: plan.who.gid, groups: plan.who.groups.clone() };
        let mut s = Sandbox::command(&exec.command[0])
            .args(&exec.command[1..])
            .cwd(exec.workdir.as_ref().unwrap_or(&config.workdir))
            .user(ids)
            .session_keyring(&config.id)
            .stdin(streams.stdin)
            .stdout(streams.stdout)
            .stderr(streams.stderr);
        if plan::oom_protected()? {
            s = s.oom_score_adj(0);
        }
        if let Some((rows, columns)) = exec.terminal {
            s = s.terminal(rows, columns);
        }
        s = plan.rlimits(plan.security(plan.environment(s, exec.terminal.is_some(), &exec.env))?)?;
        if let Some(group) = plan::running_cgroup(self, privilege)? {
            let h = group.handles()?;
            s = s.cgroups(Cgroups { join: h.join, clone_into: h.clone_into, ..Cgroups::default() });
        }
        let forward = [streams.terminal_copy, None];
        Ok(s.monitor(MonitorOptions { detached: exec.detached, forward, ..MonitorOptions::default() }))
    }
}
