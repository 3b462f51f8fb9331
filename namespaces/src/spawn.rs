//! Starting the helper, and the caller's side of its life.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio as ProcessStdio};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::error::{Error, Result};
use crate::exit::ExitStatus;
use crate::failure::{execute_failure, failure};
use crate::idmap::IdMap;
use crate::privilege::Privilege;
use crate::program::{Program, compile};
use crate::protocol::{Event, message, next_event, receive, send};
use crate::sandbox::Sandbox;
use crate::wire::{self, report, request};

static HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helper"));

/// A process that was started, and its monitor.
///
/// # Drop
/// Closes the control socket: unless the plan said "detached", the monitor then kills the container
/// and ends. Nothing is waited for; [`Child::abandon`] lets the caller collect the monitor.
#[derive(Debug)]
pub struct Child {
    control: OwnedFd,
    pid: Pid,
    pidfd: OwnedFd,
    monitor: Option<OwnedFd>,
    exit: Option<ExitStatus>,
    started_ns: u64,
}

/// The sealed memfd with the helper, made once per process.
fn helper() -> Result<&'static OwnedFd> {
    static MEMFD: OnceLock<OwnedFd> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if let Some(fd) = MEMFD.get() {
        return Ok(fd);
    }
    let _guard = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(fd) = MEMFD.get() {
        return Ok(fd);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is unknown before Linux 6.3, where every memfd may be executed.
    let fd = match rustix::fs::memfd_create("boxship", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("boxship", flags),
        other => other,
    };
    let fd = fd.map_err(Error::io("create the helper's memfd (is vm.memfd_noexec set to 2?)"))?;
    write_all(&fd, HELPER)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(Error::io("seal the helper's memfd"))?;
    Ok(MEMFD.get_or_init(|| fd))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::write(fd, bytes).map_err(Error::io("write a memfd"))?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

impl Sandbox {
    /// Starts the plan. Returns when the program has been executed (or, with `hold`, when it is
    /// about to be).
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Path`] before anything is touched; [`Error::Setup`],
    /// [`Error::ProgramNotFound`] and [`Error::NotExecutable`] name the step that failed. In every
    /// case the program did not run and nothing is left.
    pub fn spawn(self) -> Result<Child> {
        self.validate()?;
        self.spawn_with(Helper::start()?)
    }

    /// [`spawn`](Sandbox::spawn) with a helper that was started before, while the plan was made.
    ///
    /// # Errors
    /// As [`spawn`](Sandbox::spawn).
    pub fn spawn_with(self, helper: Helper) -> Result<Child> {
        let held = self.monitor.hold;
        let span = tracing::debug_span!("spawn").entered();
        let program = {
            let _span = tracing::debug_span!("compile").entered();
            compile(self, Privilege::detect())?
        };
        let (control, mut process, pidfd) = helper.take()?;
        if let Err(e) = send_plan(&control, &program) {
            // A helper that could not even begin has said why.
            let ended =
                matches!(&e, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe);
            let e = match ended.then(|| receive(control.as_fd())) {
                Some(Ok(Some((m, ..)))) if m.kind == report::HELPER_FAILED => failure(&m, &program),
                _ => e,
            };
            drop(control);
            reap(Some(&pidfd));
            return Err(e);
        }
        if program.detached {
            // The helper forks and leaves at once; SIGCHLD may be ignored or another thread may have
            // collected it, both are fine.
            let _ = process.wait();
        }
        let monitor = (!program.detached).then_some(pidfd);
        let started = {
            let _span = tracing::debug_span!("set-up").entered();
            await_start(&control, &program, held)
        };
        drop(span);
        match started {
            Ok((pid, pidfd, started_ns)) => {
                Ok(Child { control, pid, pidfd, monitor, exit: None, started_ns })
            }
            Err(e) => {
                drop(control);
                reap(monitor.as_ref());
                Err(e)
            }
        }
    }
}

/// A helper process that waits for its plan.
///
/// # Drop
/// The helper ends by itself; it is waited for, which takes as long as a process needs to exit.
#[derive(Debug)]
pub struct Helper(Option<(OwnedFd, std::process::Child, OwnedFd)>);

impl Helper {
    /// Starts one. The size of this program does not matter: nothing of it is copied.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start() -> Result<Helper> {
        let _span = tracing::debug_span!("helper").entered();
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(Error::io("create the control socket"))?;
        // Stdin is the one descriptor that std hands over without forking (posix_spawn).
        #[allow(clippy::disallowed_methods, reason = "boxship's own helper, from its sealed memfd")]
        let process = Command::new(format!("/proc/self/fd/{}", helper()?.as_raw_fd()))
            .env_clear()
            .stdin(ProcessStdio::from(theirs))
            .stdout(ProcessStdio::null())
            .stderr(ProcessStdio::null())
            .spawn()
            .map_err(|source| Error::Io { step: "start the helper", source })?;
        // It waits for us, so its pid cannot be another process's yet.
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&process), PidfdFlags::empty())
            .map_err(Error::io("open the helper"))?;
        Ok(Helper(Some((ours, process, pidfd))))
    }

    pub(crate) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|(control, ..)| control.as_fd())
    }

    fn take(mut self) -> Result<(OwnedFd, std::process::Child, OwnedFd)> {
        self.0.take().ok_or(Error::MonitorLost)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some((control, _, pidfd)) = self.0.take() {
            drop(control);
            reap(Some(&pidfd));
        }
    }
}

fn send_plan(control: &OwnedFd, program: &Program) -> Result<()> {
    let plan = rustix::fs::memfd_create("boxship-plan", MemfdFlags::CLOEXEC)
        .map_err(Error::io("create the plan's memfd"))?;
    write_all(&plan, &program.bytes)?;
    let all: Vec<BorrowedFd<'_>> =
        std::iter::once(plan.as_fd()).chain(program.fds.iter().map(AsFd::as_fd)).collect();
    for (i, fds) in all.chunks(wire::FDS_PER_MESSAGE).enumerate() {
        let kind = if i == 0 { request::PLAN } else { request::FDS };
        send(control.as_fd(), &message(kind, program.fds.len() as u64, 0), &[], fds)
            .map_err(Error::io("send the plan to the helper"))?;
    }
    Ok(())
}

/// Waits for the answer to the plan.
fn await_start(control: &OwnedFd, program: &Program, held: bool) -> Result<(Pid, OwnedFd, u64)> {
    loop {
        let Some((m, _, pidfd)) = receive(control.as_fd())? else { return Err(Error::MonitorLost) };
        match m.kind {
            report::NEED_MAP => {
                let maps = program.external_maps.as_ref();
                let (uids, gids) = maps.ok_or(Error::MonitorLost)?;
                write_external_maps(m.a, uids, gids)?;
                send(control.as_fd(), &message(request::MAPPED, 0, 0), &[], &[])
                    .map_err(Error::io("answer the helper"))?;
            }
            report::STARTED | report::HELD if held == (m.kind == report::HELD) => {
                let pid = i32::try_from(m.a).ok().and_then(Pid::from_raw);
                let (Some(pid), Some(pidfd)) = (pid, pidfd) else { return Err(Error::MonitorLost) };
                // Moments of the helper (ns since 1970), for whoever draws where a start's time goes.
                tracing::debug!(
                    begun = m.exit.cpu_ns,
                    cloned = m.exit.memory_peak,
                    executing = m.exit.finished_ns,
                    started = m.exit.started_ns,
                    "helper"
                );
                return Ok((pid, pidfd, m.exit.started_ns));
            }
            report::FAILED | report::HELPER_FAILED | report::DIED => {
                return Err(failure(&m, program));
            }
            _ => {}
        }
    }
}

/// A failed monitor ends by itself at once; collect it so that no zombie stays.
fn reap(monitor: Option<&OwnedFd>) {
    if let Some(fd) = monitor {
        // ECHILD: SIGCHLD is ignored or someone else waited. Nothing is left then either.
        let _ = rustix::process::waitid(WaitId::PidFd(fd.as_fd()), WaitIdOptions::EXITED);
    }
}

fn write_external_maps(pid: u64, uids: &IdMap, gids: &IdMap) -> Result<()> {
    for (tool, map) in [("newuidmap", uids), ("newgidmap", gids)] {
        let ranges = map.ranges().iter().flat_map(|r| [r.container, r.host, r.count]);
        #[allow(clippy::disallowed_methods, reason = "the host's newuidmap and newgidmap: only they may")]
        let output = Command::new(tool)
            .arg(pid.to_string())
            .args(ranges.map(|n| n.to_string()))
            .stdin(ProcessStdio::null())
            .output()
            .map_err(|source| Error::Start {
                step: "write the id map with newuidmap and newgidmap",
                advice: "; install the package uidmap, or use a single-id map",
                source,
            })?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Start {
                step: "write the id map with newuidmap and newgidmap",
                advice: "; the ranges must be delegated to this user in /etc/subuid and /etc/subgid",
                source: io::Error::other(why),
            });
        }
    }
    Ok(())
}

impl Child {
    /// The pid of the container's first process, as the caller's pid namespace sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// When the program was executed, in ns since 1970; 0 while held.
    #[must_use]
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// The process as a descriptor, readable when it has ended, pidfd_open(2).
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Lets a held process execute its program, and waits until it has.
    ///
    /// # Errors
    /// [`Error::ProgramNotFound`] or [`Error::NotExecutable`]; [`Error::MonitorLost`].
    pub fn release(&mut self) -> Result<()> {
        self.request(request::GO, 0)?;
        loop {
            let Some((m, _, _)) = receive(self.control.as_fd())? else { return Err(Error::MonitorLost) };
            match m.kind {
                report::STARTED => {
                    self.started_ns = m.exit.started_ns;
                    return Ok(());
                }
                report::DIED => return Err(Error::Killed),
                report::FAILED => {
                    let source = io::Error::from_raw_os_error((m.b >> 32) as i32);
                    return Err(execute_failure(String::from("(held)"), (m.b >> 32) as i32, 0, source));
                }
                _ => {}
            }
        }
    }

    fn request(&self, kind: u32, a: u64) -> Result<()> {
        send(self.control.as_fd(), &message(kind, a, 0), &[], &[]).map_err(Error::io("talk to the monitor"))
    }

    /// Sends a signal to the container's first process. A process that has ended is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that is no signal, [`Error::Io`] when it may not be sent.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let Some(signal) = Signal::from_named_raw(signal) else {
            if !(34..=64).contains(&signal) {
                return Err(Error::invalid("signal", format!("{signal} is no signal number")));
            }
            // rustix has no safe way to name a real-time signal; the monitor sends any.
            return self.request(request::KILL, u64::from(signal.cast_unsigned()));
        };
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io("send a signal")(e)),
        }
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.request(request::RESIZE, u64::from(rows) << 16 | u64::from(columns))
    }

    /// Waits for the next message; blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when the control socket fails.
    pub fn next_event(&mut self) -> Result<Event> {
        let event = next_event(self.control.as_fd())?;
        match &event {
            Event::Exited(status) => self.exit = Some(*status),
            Event::Closed => reap(self.monitor.take().as_ref()),
            Event::Output(_) => {}
        }
        Ok(event)
    }

    /// Waits until the process has ended and the monitor has cleaned up; blocks.
    ///
    /// # Errors
    /// [`Error::MonitorLost`] when the monitor was killed before it could tell.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Event::Closed = self.next_event()? {
                return self.exit.ok_or(Error::MonitorLost);
            }
        }
    }

    /// Gives the container up as dropping it does (a monitor that is not detached kills it), and keeps
    /// what is needed to collect the monitor later.
    pub fn abandon(&mut self) -> Option<Reaper> {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        self.monitor.take().map(Reaper)
    }
}

impl AsFd for Child {
    /// The control socket: readable when there is an [`Event`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// A monitor that is ending. It is a child of the calling process and would stay a zombie unless
/// somebody collects it.
#[derive(Debug)]
pub struct Reaper(OwnedFd);

impl Reaper {
    /// Collects it if it has ended; never blocks. True when there is nothing left to collect.
    #[must_use]
    pub fn try_reap(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        !matches!(rustix::process::waitid(WaitId::PidFd(self.0.as_fd()), options), Ok(None))
    }
}

impl AsFd for Reaper {
    /// The monitor's pidfd: readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
