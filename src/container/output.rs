//! Running a container to its end and collecting what it wrote.

use std::os::fd::OwnedFd;
use std::time::Duration;

use boxship_namespaces::ExitStatus;
use boxship_runtime::{Config, Exec, Running, Streams};
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// What a container wrote, how it ended and what it used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended, with CPU time and peak memory.
    pub status: ExitStatus,
    /// Standard output, or everything with a terminal.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
}

/// A running container with our ends of its streams.
pub(super) struct Started {
    running: Running,
    ends: Ends,
}

/// Our ends of a process's streams.
pub(super) struct Ends {
    input: Option<(OwnedFd, Vec<u8>)>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

/// A process whose monitor sends messages until it has cleaned up.
pub(super) trait Followed: std::os::fd::AsRawFd {
    fn step(&mut self) -> boxship_runtime::Result<bool>;
    fn is_over(&self) -> bool;
}

impl Followed for Running {
    fn step(&mut self) -> boxship_runtime::Result<bool> {
        Running::step(self)
    }
    fn is_over(&self) -> bool {
        Running::is_over(self)
    }
}

impl Followed for Exec {
    fn step(&mut self) -> boxship_runtime::Result<bool> {
        Exec::step(self)
    }
    fn is_over(&self) -> bool {
        Exec::is_over(self)
    }
}

pub(super) fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("make a pipe", e.into()))
}

/// The streams of a process whose output is collected.
pub(super) fn streams(terminal: bool, input: Option<Vec<u8>>) -> Result<(Streams, Ends)> {
    let (stdout, out) = new_pipe()?;
    let mut streams = Streams::null()?;
    let mut stderr = None;
    if terminal {
        streams.terminal_copy = Some(out);
    } else {
        let (read, write) = new_pipe()?;
        stderr = Some(read);
        streams.stdout = boxship_namespaces::Stdio::Descriptor(out);
        streams.stderr = boxship_namespaces::Stdio::Descriptor(write);
    }
    let input = match input {
        Some(bytes) => {
            let (read, write) = new_pipe()?;
            streams.stdin = boxship_namespaces::Stdio::Descriptor(read);
            Some((write, bytes))
        }
        None => None,
    };
    Ok((streams, Ends { input, stdout, stderr }))
}

/// Starts; blocks.
pub(super) fn start(engine: &Engine, config: Config, input: Option<Vec<u8>>) -> Result<Started> {
    let (streams, ends) = streams(config.terminal.is_some(), input)?;
    Ok(Started { running: engine.runtime().run(config, streams)?, ends })
}

async fn read_all(fd: Option<OwnedFd>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(fd) = fd {
        let read = async { pipe::Receiver::from_owned_fd(fd)?.read_to_end(&mut bytes).await };
        read.await.map_err(|e| Error::io("read the container's output", e))?;
    }
    Ok(bytes)
}

/// A container that does not read its input is no error.
async fn write_all(input: Option<(OwnedFd, Vec<u8>)>) {
    if let Some((fd, bytes)) = input
        && let Ok(mut sender) = pipe::Sender::from_owned_fd(fd)
    {
        let _ = sender.write_all(&bytes).await;
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

/// Streams and end of a process, which is killed when its time is up.
pub(super) struct Collected<P> {
    pub(super) process: P,
    pub(super) stdout: Result<Vec<u8>>,
    pub(super) stderr: Result<Vec<u8>>,
    pub(super) timed_out: bool,
}

pub(super) async fn collect<P: Followed>(
    process: P,
    pid: OwnedFd,
    ends: Ends,
    timeout: Option<Duration>,
) -> Result<Collected<P>> {
    let Ends { input, stdout, stderr } = ends;
    let work = async {
        tokio::join!(until_over(process), read_all(Some(stdout)), read_all(stderr), write_all(input))
    };
    tokio::pin!(work);
    let mut timed_out = false;
    let (process, stdout, stderr, ()) = match timeout {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                timed_out = true;
                tracing::debug!("time is up");
                let _ = rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::KILL);
                work.await
            }
        },
    };
    Ok(Collected { process: process?, stdout, stderr, timed_out })
}

impl Started {
    pub(super) async fn collect(self, timeout: Option<Duration>) -> Result<Output> {
        let pid = self.running.pidfd()?;
        let Collected { process: mut running, stdout, stderr, timed_out } =
            collect(self.running, pid, self.ends, timeout).await?;
        let store = running.container().runtime().store().clone();
        // Over: its result is there, unless the monitor was killed and something is left to remove.
        let status = match running.is_over() && running.has_status() {
            true => running.finish()?,
            false => blocking::run(move || Ok(running.finish()?)).await?,
        };
        // Nobody waits for the space; should the program end first, the next open frees it.
        drop(tokio::task::spawn_blocking(move || store.empty_trash()));
        Ok(Output { status, stdout: stdout?, stderr: stderr?, timed_out })
    }
}
