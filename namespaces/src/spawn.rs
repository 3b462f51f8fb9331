//! Starting the helper, and the caller's side of its life.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio as ProcessStdio};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::privilege::Privilege;
use crate::program::{Program, compile};
use crate::sandbox::Sandbox;
use crate::wire::{self, Exit, MAGIC, Message, report, request, stage};

static HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helper"));

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
    fn from_wire(e: &Exit) -> ExitStatus {
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

/// Output of a container, as an attached process receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// 1 = stdout (or the terminal), 2 = stderr.
    pub stream: u8,
    /// The bytes.
    pub data: Vec<u8>,
}

/// What comes over a control socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Output of the container.
    Output(Output),
    /// The container ended.
    Exited(ExitStatus),
    /// The monitor has cleaned up and is gone.
    Closed,
}

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

/// Turns the helper's (operation, errno) into words.
fn failure(m: &Message, program: &Program) -> Error {
    #[allow(clippy::cast_possible_truncation, reason = "two 32-bit halves")]
    let (errno, detail) = match m.kind {
        report::FAILED => ((m.b >> 32) as i32, m.b as u32),
        _ => (m.b as i32, 0),
    };
    let source = io::Error::from_raw_os_error(errno);
    match m.kind {
        report::DIED => Error::Killed,
        report::HELPER_FAILED => {
            #[allow(clippy::cast_possible_truncation, reason = "a stage")]
            let (step, advice) = stage_words(m.a as u32, errno);
            Error::Start { step, advice, source }
        }
        _ => match usize::try_from(m.a).ok().and_then(|i| program.contexts.get(i)) {
            Some(c) if c.step == "execute" => execute_failure(program.command.clone(), errno, detail, source),
            Some(c) => Error::Setup {
                step: c.step,
                subject: c.subject.to_string(),
                advice: advice(c.step, errno, detail),
                source,
            },
            None => Error::Start { step: "read the plan", advice: "", source },
        },
    }
}

const ENOENT: i32 = 2;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;

fn execute_failure(program: String, errno: i32, detail: u32, source: io::Error) -> Error {
    match (errno, detail) {
        (ENOENT, 0) | (20, _) => Error::ProgramNotFound { program, source },
        (ENOENT, _) => {
            Error::NotExecutable { program, reason: "its interpreter or loader is missing", source }
        }
        (EACCES, _) => {
            Error::NotExecutable { program, reason: "not marked executable, or a directory", source }
        }
        (8, _) => Error::NotExecutable { program, reason: "not a program of this architecture", source },
        _ => Error::NotExecutable { program, reason: "the kernel refused it", source },
    }
}

fn stage_words(stage_number: u32, errno: i32) -> (&'static str, &'static str) {
    let step = match stage_number {
        stage::OWN_NAMESPACES => "create the user namespace",
        stage::OWN_ID_MAP => "write the id map",
        stage::TIME_OFFSETS => "set the clock offsets",
        stage::CLONE | stage::CLONE_DONOR => "create the container's process and namespaces",
        stage::LOG => "open the log",
        stage::PIPES => "create pipes",
        stage::DETACH => "detach the monitor",
        _ => "read the plan in the helper",
    };
    let advice = match (stage_number, errno) {
        (stage::OWN_NAMESPACES | stage::CLONE, EPERM | EACCES) => USER_NAMESPACE_ADVICE,
        (stage::OWN_NAMESPACES | stage::CLONE, ENOSPC) => {
            "; the limit in /proc/sys/user/max_*_namespaces is reached"
        }
        _ => "",
    };
    (step, advice)
}

const USER_NAMESPACE_ADVICE: &str = "; this kernel does not let you create namespaces: run as root, or allow \
user namespaces (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)";

fn advice(step: &str, errno: i32, detail: u32) -> &'static str {
    match (step, errno) {
        ("create", EPERM | EACCES) if detail == stage::DONOR_NAMESPACES => USER_NAMESPACE_ADVICE,
        ("create", ENOSPC) => "; the limit in /proc/sys/user/max_*_namespaces is reached",
        ("set the limit", EPERM) => "; raising a hard limit needs CAP_SYS_RESOURCE",
        ("set", EACCES) => "; lowering oom_score_adj needs CAP_SYS_RESOURCE",
        ("mount at", 40) => "; a symbolic link stands where the container's own mount belongs",
        ("open", 116) => "; it was replaced by another file meanwhile",
        ("enter the working directory", ENOENT) => "; it does not exist in the container",
        ("enter the working directory", EACCES) if detail == 1 => "; it lies outside the container's root",
        ("map the ids of", 22) => "; its file system does not support idmapped mounts",
        _ => "",
    }
}

fn message(kind: u32, a: u64, b: u64) -> Message {
    Message { magic: MAGIC, kind, a, b, exit: Exit::default() }
}

const MESSAGE_LEN: usize = size_of::<Message>();

fn encode(m: &Message) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    let words = [m.magic, m.kind].into_iter().flat_map(u32::to_ne_bytes);
    let longs = [m.a, m.b].into_iter().flat_map(u64::to_ne_bytes);
    bytes.iter_mut().zip(words.chain(longs)).for_each(|(to, from)| *to = from);
    bytes
}

fn decode(b: &[u8]) -> Option<Message> {
    let word = |at: usize| Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(b.get(at..at + 8)?.try_into().ok()?));
    let exit = Exit {
        code: word(24)?.cast_signed(),
        status: word(28)?.cast_signed(),
        oom_kills: long(32)?,
        cpu_ns: long(40)?,
        memory_peak: long(48)?,
        started_ns: long(56)?,
        finished_ns: long(64)?,
    };
    let m = Message { magic: word(0)?, kind: word(4)?, a: long(8)?, b: long(16)?, exit };
    (m.magic == MAGIC).then_some(m)
}

fn send(socket: BorrowedFd<'_>, m: &Message, tail: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::FDS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let head = encode(m);
    loop {
        match rustix::net::sendmsg(
            socket,
            &[IoSlice::new(&head), IoSlice::new(tail)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// A message, its data, and a descriptor if one came.
type Received = (Message, Vec<u8>, Option<OwnedFd>);

/// The next message; `None` at the end.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<Received>> {
    let mut buffer = [0u8; MESSAGE_LEN + 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = loop {
        let iov = &mut [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => break 0,
            other => break other.map_err(Error::io("read the control socket"))?.bytes,
        }
    };
    if n == 0 {
        return Ok(None);
    }
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let m = decode(&buffer[..n]).ok_or(Error::MonitorLost)?;
    Ok(Some((m, buffer[MESSAGE_LEN..n].to_vec(), fd)))
}

fn next_event(socket: BorrowedFd<'_>) -> Result<Event> {
    loop {
        let Some((m, data, _)) = receive(socket)? else { return Ok(Event::Closed) };
        match m.kind {
            report::EXITED => return Ok(Event::Exited(ExitStatus::from_wire(&m.exit))),
            #[allow(clippy::cast_possible_truncation, reason = "1 or 2")]
            report::OUTPUT => return Ok(Event::Output(Output { stream: m.a as u8, data })),
            _ => {}
        }
    }
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
        let bad = || Error::invalid("signal", format!("{signal} is no signal number"));
        let signal = Signal::from_named_raw(signal).ok_or_else(bad)?;
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

/// A connection to the monitor of a container that some process started.
#[derive(Debug)]
pub struct Attachment(OwnedFd);

impl Attachment {
    /// Wraps a connected `SOCK_SEQPACKET` socket of the monitor's listener.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Attachment {
        Attachment(socket)
    }

    /// Waits for the next message; blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket fails.
    pub fn next_event(&self) -> Result<Event> {
        next_event(self.0.as_fd())
    }

    /// Passes up to 4096 bytes to the container's stdin or terminal.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more, [`Error::Io`] when the monitor is gone.
    pub fn input(&self, data: &[u8]) -> Result<()> {
        if data.len() > 4096 {
            return Err(Error::invalid("input", "at most 4096 bytes at a time"));
        }
        send(self.0.as_fd(), &message(request::INPUT, 0, 0), data, &[])
            .map_err(Error::io("talk to the monitor"))
    }

    /// Closes the container's stdin.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn close_input(&self) -> Result<()> {
        send(self.0.as_fd(), &message(request::CLOSE_INPUT, 0, 0), &[], &[])
            .map_err(Error::io("talk to the monitor"))
    }

    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// [`Error::Io`] when the monitor is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = u64::from(rows) << 16 | u64::from(columns);
        send(self.0.as_fd(), &message(request::RESIZE, size, 0), &[], &[])
            .map_err(Error::io("talk to the monitor"))
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
