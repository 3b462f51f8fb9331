//! Following a process to its end while its output is read.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use boxship_runtime::{Exec, Running};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::blocking;
use crate::error::{Error, Result};

/// How long the thread that started a process stays with it. A short command ends within it, and nobody
/// had to be woken for each of its streams; a longer one passes to the reactor.
const FIRST_MOMENTS: Duration = Duration::from_millis(10);

/// A process whose monitor sends messages until it has cleaned up.
pub(super) trait Followed: std::os::fd::AsRawFd + AsFd {
    fn step(&mut self) -> boxship_runtime::Result<bool>;
    fn is_over(&self) -> bool;
    fn pidfd(&self) -> boxship_runtime::Result<OwnedFd>;
}

impl Followed for Running {
    fn step(&mut self) -> boxship_runtime::Result<bool> {
        Running::step(self)
    }
    fn is_over(&self) -> bool {
        Running::is_over(self)
    }
    fn pidfd(&self) -> boxship_runtime::Result<OwnedFd> {
        Running::pidfd(self)
    }
}

impl Followed for Exec {
    fn step(&mut self) -> boxship_runtime::Result<bool> {
        Exec::step(self)
    }
    fn is_over(&self) -> bool {
        Exec::is_over(self)
    }
    fn pidfd(&self) -> boxship_runtime::Result<OwnedFd> {
        Exec::pidfd(self)
    }
}

/// What a process writes to one of its streams.
pub(super) struct Stream {
    /// Our end, until the other one is closed.
    fd: Option<OwnedFd>,
    /// The first of it.
    pub(super) bytes: Vec<u8>,
    limit: u64,
    /// Whether there was more. That is read, too: a container must not wait for us, and an embedder must
    /// not be filled.
    pub(super) truncated: bool,
}

impl Stream {
    fn new(fd: Option<OwnedFd>, limit: u64) -> Stream {
        Stream { fd, bytes: Vec::new(), limit, truncated: false }
    }

    /// Takes what one read gave; nothing is the end.
    fn keep(&mut self, chunk: &[u8]) {
        let room = usize::try_from(self.limit - self.bytes.len() as u64).unwrap_or(usize::MAX);
        self.bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        self.truncated |= chunk.len() > room;
        if chunk.is_empty() {
            self.fd = None;
        }
    }

    /// Reads once; blocks unless there is something to read.
    fn read(&mut self) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        let mut chunk = [0; 16 << 10];
        let n = match rustix::io::read(fd, &mut chunk) {
            Err(Errno::INTR) => return Ok(()),
            n => n.map_err(|e| failed(e.into()))?,
        };
        self.keep(&chunk[..n]);
        Ok(())
    }

    /// Reads to the end.
    async fn finish(&mut self) -> Result<()> {
        let Some(fd) = self.fd.take() else { return Ok(()) };
        let mut pipe = pipe::Receiver::from_owned_fd(fd).map_err(failed)?;
        let mut chunk = vec![0; 16 << 10];
        loop {
            match pipe.read(&mut chunk).await.map_err(failed)? {
                0 => return Ok(()),
                n => self.keep(&chunk[..n]),
            }
        }
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::io("read the container's output", source)
}

/// A process and what it has written so far.
pub(super) struct Collection<P> {
    pub(super) process: P,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    pub(super) timed_out: bool,
    deadline: Option<Instant>,
}

impl<P: Followed> Collection<P> {
    pub(super) fn new(
        process: P,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        limit: u64,
        timeout: Option<Duration>,
    ) -> Collection<P> {
        Collection {
            process,
            stdout: Stream::new(Some(stdout), limit),
            stderr: Stream::new(stderr, limit),
            timed_out: false,
            // A time that no clock reaches is none.
            deadline: timeout.and_then(|t| Instant::now().checked_add(t)),
        }
    }

    fn is_complete(&self) -> bool {
        self.process.is_over() && self.stdout.fd.is_none() && self.stderr.fd.is_none()
    }

    /// Follows the process for its first moments; blocks as long.
    pub(super) fn first_moments(&mut self) -> Result<()> {
        let until = Instant::now() + FIRST_MOMENTS;
        let until = self.deadline.map_or(until, |d| d.min(until));
        while !self.is_complete() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let [monitor, out, err] = self.readable(left)?;
            if out {
                self.stdout.read()?;
            }
            if err {
                self.stderr.read()?;
            }
            if monitor {
                self.process.step()?;
            }
        }
        Ok(())
    }

    /// Which of monitor, standard output and standard error have something, or an end.
    fn readable(&self, within: Duration) -> Result<[bool; 3]> {
        let monitor = (!self.process.is_over()).then(|| self.process.as_fd());
        let all =
            [monitor, self.stdout.fd.as_ref().map(AsFd::as_fd), self.stderr.fd.as_ref().map(AsFd::as_fd)];
        let mut polled: Vec<PollFd<'_>> =
            all.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let within = Timespec { tv_sec: 0, tv_nsec: i64::from(within.subsec_nanos()) };
        match rustix::event::poll(&mut polled, Some(&within)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("watch the container", e.into())),
        }
        let mut answers = polled.iter().map(|p| !p.revents().is_empty());
        Ok(all.map(|fd| fd.is_some() && answers.next().unwrap_or(false)))
    }

    /// Follows it to its end, which comes when its time is up.
    pub(super) async fn finish(self, input: Input) -> Result<Collection<P>> {
        let written = async { drop(input.0.await) };
        if self.is_complete() {
            written.await;
            return Ok(self);
        }
        let pid = self.process.pidfd()?;
        let Collection { process, mut stdout, mut stderr, mut timed_out, deadline } = self;
        let work = async {
            let all = tokio::join!(until_over(process), stdout.finish(), stderr.finish(), written);
            let (process, out, err, ()) = all;
            out.and(err).and(process)
        };
        let process = {
            tokio::pin!(work);
            let in_time = match deadline {
                None => None,
                Some(at) => Some(tokio::time::timeout_at(at.into(), &mut work).await),
            };
            match in_time {
                None => work.await,
                Some(Ok(process)) => process,
                Some(Err(_)) => {
                    timed_out = true;
                    tracing::debug!("time is up");
                    let _ = rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::KILL);
                    work.await
                }
            }
        }?;
        Ok(Collection { process, stdout, stderr, timed_out, deadline })
    }
}

/// What a process is given to read, being written; over when it took all of it or ended.
pub(super) struct Input(oneshot::Receiver<()>);

impl Input {
    /// A container that does not read its input is no error. Written by a thread of its own that has all
    /// signals blocked: in a program that does not ignore SIGPIPE, a container that closes its input would
    /// end it.
    pub(super) fn write(input: Option<(OwnedFd, Vec<u8>)>) -> Input {
        let (done, written) = oneshot::channel();
        if let Some((fd, bytes)) = input {
            let write = move || {
                let blocked = nix::sys::signal::SigSet::all().thread_block();
                if blocked.is_ok() {
                    let _ = std::io::Write::write_all(&mut std::fs::File::from(fd), &bytes);
                }
                drop(done);
            };
            // Without a thread the container has an empty input, as if nobody had given any.
            let _ = std::thread::Builder::new().name("boxship-input".into()).spawn(write);
        }
        Input(written)
    }
}

/// Follows the monitor's messages until it has cleaned up.
pub(super) async fn until_over<P: Followed>(process: P) -> Result<P> {
    let watch = |e| Error::io("watch the container", e);
    let mut socket = blocking::watch(process).map_err(watch)?;
    while !socket.get_ref().is_over() {
        let mut ready = socket.readable_mut().await.map_err(watch)?;
        ready.get_inner_mut().step()?;
        ready.clear_ready();
    }
    Ok(socket.into_inner())
}
