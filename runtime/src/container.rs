//! One container: its state, and what can be asked of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boxship_cgroups::{Group, Usage};
use boxship_namespaces::{Attachment, Child, Discard, ExitStatus, Helper};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::launch::{Start, Streams};
use crate::logs;
use crate::runtime::Runtime;
use crate::status::{Operation, State, Status};

/// One container. A handle: it says nothing about whether the container still exists.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) runtime: Runtime,
    pub(crate) inner: Arc<ContainerInner>,
}

#[derive(Debug)]
pub(crate) struct ContainerInner {
    pub(crate) config: Config,
    pub(crate) ephemeral: bool,
    pub(crate) id_slot: Option<u32>,
    pub(crate) created_ns: u64,
    /// Held from creation until the monitor takes it over.
    pub(crate) creation_lock: Mutex<Option<OwnedFd>>,
}

/// A pid read from a held lock, with the process opened while the lock was held: it cannot be
/// another process's.
struct Live {
    pid: u32,
    started_ns: Option<u64>,
    pidfd: Option<OwnedFd>,
}

/// When a process was started, in ticks since boot (field 22 of proc_pid_stat(5)).
fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the text is the process's own choice, and any bytes: one that is not UTF-8 must not
/// make its process one that cannot be found, and so not be stopped.
pub(crate) fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl Container {
    /// Its id: 32 hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.config.id
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// When it was made, in ns since 1970.
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        self.inner.created_ns
    }

    /// Its runtime.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Its directory: the bundle, the logs.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.runtime.path(self.id())
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        self.inner.ephemeral
    }

    /// Whether nobody will ask for it once its process has ended.
    pub(crate) fn is_disposable(&self) -> bool {
        self.inner.ephemeral || self.config().auto_remove && self.was_started()
    }

    /// Whether its program was executed in its latest start.
    pub(crate) fn was_started(&self) -> bool {
        std::fs::read_to_string(self.path().join("monitor")).is_ok_and(|t| t.contains("started "))
    }

    pub(crate) fn id_slot(&self) -> Option<u32> {
        self.inner.id_slot
    }

    pub(crate) fn take_creation_lock(&self) -> Option<OwnedFd> {
        self.inner.creation_lock.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where to look for the root's files: the layers from the top, or the directory.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        match &self.config().rootfs {
            Some(path) => vec![path.clone()],
            None => {
                let s = self.runtime.store().snapshot(self.id(), &self.config().layers);
                std::iter::once(s.upper).chain(s.layers.into_iter().skip(1)).collect()
            }
        }
    }

    pub(crate) fn directory(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.path(), flags, Mode::empty()).map_err(|e| self.gone(e))
    }

    fn gone(&self, e: Errno) -> Error {
        match e {
            Errno::NOENT => Error::NotFound { name: self.id().to_owned() },
            e => Error::io("open", self.path())(e),
        }
    }

    fn lock_file(&self, access: OFlags) -> Result<OwnedFd> {
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(self.path().join("monitor"), flags, Mode::empty()).map_err(|e| self.gone(e))
    }

    /// The lock, unless the monitor or another operation holds it.
    pub(crate) fn try_lock(&self) -> Result<Option<OwnedFd>> {
        let fd = self.lock_file(OFlags::RDWR)?;
        // Those who only ask hold it for a moment, and so does a process that another thread is just
        // spawning (it has copies of all descriptors until it executes): neither is a reason to give up.
        for _ in 0..50 {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(fd)),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_micros(200)),
                Err(e) => return Err(Error::io("lock", self.path())(e)),
            }
        }
        Ok(None)
    }

    /// The lock of a container that does not run. The monitor of a start that failed, or of a program that
    /// has ended, is waited for until it is gone, at most two seconds.
    fn lock_idle(&self, operation: Operation) -> Result<OwnedFd> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            let status = self.state()?.status;
            if matches!(status, Status::Running | Status::Paused) || Instant::now() > deadline {
                return Err(self.refuse(operation, Status::Running));
            }
        }
    }

    /// Whether somebody holds the lock alone. Asking is shared and read-only, so that two who ask do
    /// not see each other and nobody who watches the file is woken.
    pub(crate) fn is_locked(&self) -> Result<bool> {
        let fd = self.lock_file(OFlags::RDONLY)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(Error::io("lock", self.path())(e)),
        }
    }

    /// The running process, if the monitor lives.
    fn live(&self) -> Result<Option<Live>> {
        if !self.is_locked()? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(self.path().join("monitor")).unwrap_or_default();
        let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok());
        let pid = field("pid ").and_then(|p| u32::try_from(p).ok()).unwrap_or(0);
        let pidfd = Pid::from_raw(pid.cast_signed())
            .and_then(|p| rustix::process::pidfd_open(p, PidfdFlags::empty()).ok())
            // The number alone may be another process's by now; number and start time are not.
            .filter(|_| field("born ").is_some_and(|born| start_time(pid) == Some(born)));
        if !self.is_locked()? {
            return Ok(None);
        }
        let pid = if pidfd.is_some() { pid } else { 0 };
        Ok(Some(Live { pid, started_ns: field("started "), pidfd }))
    }

    /// Its process, with the pid that was true while its monitor held the lock.
    pub(crate) fn running(&self, operation: Operation) -> Result<(u32, OwnedFd)> {
        self.require(operation)?;
        let live = self.live()?.and_then(|live| live.pidfd.map(|fd| (live.pid, fd)));
        live.ok_or_else(|| self.refuse(operation, Status::Stopped))
    }

    /// What is true of it now. A container that has just ended is waited for until its end is recorded,
    /// which takes its monitor a moment; after a second it counts as stopped without a record.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub fn state(&self) -> Result<State> {
        let ending = |live: &Live| live.started_ns.is_some() && live.pidfd.is_none();
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut live = self.live()?;
        while live.as_ref().is_some_and(ending) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
            live = self.live()?;
        }
        if let Some(live) = live {
            if live.started_ns.is_none() {
                // Somebody is starting it: its program does not run yet, and may never.
                return Ok(State { status: Status::Created, pid: None, started_ns: None, exit: None });
            }
            if ending(&live) {
                return Ok(State {
                    status: Status::Stopped,
                    pid: None,
                    started_ns: live.started_ns,
                    exit: None,
                });
            }
            let frozen = self.runtime.group(self.id()).is_some_and(|g| g.is_frozen().unwrap_or(false));
            let status = if frozen { Status::Paused } else { Status::Running };
            let pid = (live.pid != 0).then_some(live.pid);
            return Ok(State { status, pid, started_ns: live.started_ns, exit: None });
        }
        let started = self.was_started();
        let record = |name| std::fs::read_to_string(self.path().join(name)).ok();
        // Whoever wanted to start it again may have died before it ran.
        let text = record("exit").or_else(|| record("exit.previous").filter(|_| !started));
        let exit = text.and_then(|t| ExitStatus::parse(&t).ok());
        let status = if started || exit.is_some() { Status::Stopped } else { Status::Created };
        Ok(State { status, pid: None, started_ns: exit.map(|e| e.started_ns()), exit })
    }

    fn refuse(&self, operation: Operation, status: Status) -> Error {
        Error::State { id: self.id().chars().take(12).collect(), operation, status }
    }

    fn require(&self, operation: Operation) -> Result<State> {
        let state = self.state()?;
        if state.status.allows(operation) { Ok(state) } else { Err(self.refuse(operation, state.status)) }
    }

    /// Starts its process, which then lives on its own: its monitor logs and records the exit.
    ///
    /// # Errors
    /// [`Error::State`] when it runs already; [`Error::Namespaces`] when the set-up failed; the
    /// container is then as before.
    pub fn start(&self) -> Result<()> {
        self.runtime.store().require_writable()?;
        let lock = self.lock_idle(Operation::Start)?;
        let dir = self.directory()?;
        // Whatever an earlier start left: its record, its cgroups, its overlay's work directory.
        rustix::fs::ftruncate(&lock, 0).map_err(Error::io("reset", self.path()))?;
        let had_exit = rustix::fs::renameat(&dir, "exit", &dir, "exit.previous").is_ok();
        if let Some(group) = self.runtime.group(self.id()) {
            group.delete()?;
        }
        if self.config().rootfs.is_none() {
            self.runtime.store().renew_snapshot(self.id())?;
        }
        let streams = Streams::logged(self.config().stdin_open);
        let starting = self.runtime.begin_start();
        let start = Start { detached: true, overlap: starting.alone() };
        let child: Result<Child> = self.launch(streams, Some(lock), start, Helper::start);
        if had_exit {
            let _ = match &child {
                Ok(_) => rustix::fs::unlinkat(&dir, "exit.previous", AtFlags::empty()),
                Err(_) => rustix::fs::renameat(&dir, "exit.previous", &dir, "exit"),
            };
        }
        child.map(drop)
    }

    /// A socket for attached processes, bound below the container's directory whatever its length.
    pub(crate) fn listen(&self) -> Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let fail = Error::io::<Errno>("make the attach socket of", self.path());
        let make = || -> rustix::io::Result<OwnedFd> {
            let dir = rustix::fs::open(self.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let _ = rustix::fs::unlinkat(&dir, "attach", AtFlags::empty());
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::bind(&fd, &SocketAddrUnix::new(attach_path(&dir))?)?;
            rustix::net::listen(&fd, 16)?;
            Ok(fd)
        };
        make().map_err(fail)
    }

    /// Connects to its monitor, to see its output from now on and to send input.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub fn attach(&self) -> Result<Attachment> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let connect = || -> rustix::io::Result<OwnedFd> {
            let dir = rustix::fs::open(self.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let flags = SocketFlags::CLOEXEC;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::connect(&fd, &SocketAddrUnix::new(attach_path(&dir))?)?;
            Ok(fd)
        };
        connect().map(Attachment::new).map_err(|e| match self.state() {
            Ok(s) if !matches!(s.status, Status::Running | Status::Paused) => {
                self.refuse(Operation::Kill, s.status)
            }
            _ => Error::io("attach to", self.path())(e),
        })
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run; [`Error::Invalid`] for what is no signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let Some(signal) = Signal::from_named_raw(signal) else {
            if !(34..=64).contains(&signal) {
                return Err(Error::invalid("signal", format!("{signal} is no signal number")));
            }
            // rustix has no safe way to name a real-time signal; the monitor sends any.
            return Ok(self.attach()?.kill(signal)?);
        };
        let fd = self.process()?.ok_or_else(|| match self.state() {
            Ok(s) => self.refuse(Operation::Kill, s.status),
            Err(e) => e,
        })?;
        match rustix::process::pidfd_send_signal(&fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io("signal", self.path())(e)),
        }
    }

    /// Its process; one that is being started is waited for, a moment.
    fn process(&self) -> Result<Option<OwnedFd>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.live()? {
                None => return Ok(None),
                Some(Live { pidfd: Some(fd), .. }) => return Ok(Some(fd)),
                Some(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Some(_) => {
                    let busy = std::io::Error::from(std::io::ErrorKind::WouldBlock);
                    return Err(Error::io("find the process of", self.path())(busy));
                }
            }
        }
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// [`Error::State`] unless it runs; [`Error::Unsupported`] without cgroups.
    pub fn pause(&self) -> Result<()> {
        self.require(Operation::Pause)?;
        Ok(self.own_group()?.freeze()?)
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// [`Error::State`] unless it is paused.
    pub fn resume(&self) -> Result<()> {
        self.require(Operation::Resume)?;
        Ok(self.own_group()?.thaw()?)
    }

    fn own_group(&self) -> Result<Group> {
        let reason = "this user may not make cgroups; run as root, or have systemd delegate cgroup v2";
        self.runtime.group(self.id()).ok_or(Error::Unsupported { control: "the cgroup freezer", reason })
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without cgroups, [`Error::Cgroups`] when it does not run.
    pub fn usage(&self) -> Result<Usage> {
        Ok(self.own_group()?.usage()?)
    }

    /// A descriptor that becomes readable when its process has ended; `None` when it does not run.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn exit_fd(&self) -> Result<Option<OwnedFd>> {
        self.process()
    }

    /// Waits until it has stopped; blocks. `None` when its end was not recorded.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::State`] when it was never started.
    pub fn wait(&self) -> Result<Option<ExitStatus>> {
        if let Some(fd) = self.exit_fd()? {
            let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
                .map_err(Error::io("wait for", self.path()))?;
        }
        // The monitor releases the lock after it has written the record.
        let fd = self.lock_file(OFlags::RDONLY)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockShared))
            .map_err(Error::io("wait for", self.path()))?;
        drop(fd);
        let state = self.state()?;
        match state.status {
            Status::Created => Err(self.refuse(Operation::Kill, Status::Created)),
            _ => Ok(state.exit),
        }
    }

    /// Asks it to stop with its stop signal, and kills it after `grace`; blocks. True when it ran.
    ///
    /// # Errors
    /// As [`kill`](Container::kill), but a container that does not run is no error.
    pub fn stop(&self, signal: Option<i32>, grace: Duration) -> Result<bool> {
        let Some(fd) = self.exit_fd()? else { return Ok(false) };
        let state = self.state()?;
        match self.kill(signal.unwrap_or(self.config().stop_signal)) {
            Err(Error::State { .. }) => return Ok(true),
            other => other?,
        }
        if state.status == Status::Paused {
            // A frozen process gets the signal when it thaws.
            self.own_group()?.thaw()?;
        }
        let deadline = Instant::now() + grace;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec::try_from(left).ok();
            let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Ok(0) => match self.kill(9) {
                    Err(Error::State { .. }) => return Ok(true),
                    other => {
                        other?;
                        break;
                    }
                },
                _ => break,
            }
        }
        self.wait()?;
        Ok(true)
    }

    /// Removes it with its writable layer and logs. With `force`, a running one is killed first.
    ///
    /// # Errors
    /// [`Error::State`] when it runs and `force` is not set; [`Error::NotFound`].
    pub fn delete(&self, force: bool) -> Result<()> {
        let state = self.state()?;
        if !state.status.allows(Operation::Delete) {
            if !force {
                return Err(self.refuse(Operation::Delete, state.status));
            }
            if state.status == Status::Paused {
                self.own_group()?.thaw()?;
            }
            match self.kill(9) {
                Ok(()) | Err(Error::State { .. }) => {}
                Err(e) => return Err(e),
            }
            self.wait()?;
        }
        let _lock = self.lock_idle(Operation::Delete)?;
        self.discard()?;
        self.runtime.store().empty_trash();
        Ok(())
    }

    /// Removes everything of it, whatever its state.
    pub(crate) fn discard(&self) -> Result<()> {
        self.runtime.discard_files(self.id(), self.config().name.as_deref(), self.inner.id_slot)
    }

    /// What its monitor removes when it has ended, in the order that leaves nothing behind.
    pub(crate) fn discards(&self) -> Result<Vec<Discard>> {
        let store = self.runtime.store();
        let id = self.id().to_owned();
        let trash = |parent: &str| -> Result<Discard> {
            let (from, to) = (store.dir(parent)?, store.dir("trash")?);
            Ok(Discard::Rename { from, name: id.clone(), to, new: store.trash_name(parent) })
        };
        let mut all = vec![trash("containers")?];
        if self.config().rootfs.is_none() {
            all.push(trash("snapshots")?);
        }
        if let Some(name) = &self.config().name {
            all.push(Discard::Unlink { dir: store.dir("names")?, name: name.clone() });
        }
        if let Some(slot) = self.inner.id_slot {
            all.push(Discard::Unlink { dir: store.dir("ids")?, name: slot.to_string() });
        }
        Ok(all)
    }

    /// Its logs from the beginning.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn logs(&self) -> Result<logs::LogReader> {
        logs::LogReader::open(self.path())
    }
}

/// A short path to a long directory: `/proc/self/fd/N/attach`.
fn attach_path(dir: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}/attach", dir.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_whatever_it_calls_itself() {
        let fields = " S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n";
        for name in [&b"sh"[..], b"a) S 1 2 3", b"\xff\xfe", b") (", b""] {
            let stat = [b"7 (", name, b")", fields.as_bytes()].concat();
            assert_eq!(parse_start_time(&stat), Some(4711), "{name:?}");
        }
        assert_eq!(parse_start_time(b"7 (sh) S 1"), None);
        assert!(start_time(std::process::id()).is_some_and(|t| t > 0), "this process");
    }
}
