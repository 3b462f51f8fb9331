//! Running a container to its end and collecting what it wrote.

use std::os::fd::OwnedFd;
use std::time::Duration;

use boxship_namespaces::ExitStatus;
use boxship_runtime::{Config, Exec, Running, Streams};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
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
    /// Whether it wrote more to a stream than
    /// [`output_limit`](crate::ContainerBuilder::output_limit) keeps.
    pub truncated: bool,
}

/// A running container with our ends of its streams.
pub(super) struct Started {
    running: Running,
    ends: Ends,
}

/// How much of a process's life is waited for and kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) timeout: Option<Duration>,
    /// Bytes of each stream.
    pub(super) output: Option<u64>,
}

/// What is kept of each stream where nobody says how much.
const OUTPUT_LIMIT: u64 = 64 << 20;

impl Bounds {
    /// For what only starts a process.
    pub(super) fn refuse(&self) -> Result<()> {
        let set = [("timeout", self.timeout.is_some()), ("output limit", self.output.is_some())];
        match set.iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(Error::invalid(name, "it can be given to output() only")),
            None => Ok(()),
        }
    }
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

/// The first `limit` bytes, and whether there were more. These are read, too: a container must not wait for
/// us, and an embedder must not be filled.
async fn read_all(fd: Option<OwnedFd>, limit: u64) -> Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let mut rest = 0;
    if let Some(fd) = fd {
        let read = async {
            let mut pipe = pipe::Receiver::from_owned_fd(fd)?;
            (&mut pipe).take(limit).read_to_end(&mut bytes).await?;
            rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
            Ok(())
        };
        read.await.map_err(|e| Error::io("read the container's output", e))?;
    }
    Ok((bytes, rest > 0))
}

/// A container that does not read its input is no error. Written by a thread of its own that has all signals
/// blocked: in a program that does not ignore SIGPIPE, a container that closes its input would end it.
async fn write_all(input: Option<(OwnedFd, Vec<u8>)>) {
    let Some((fd, bytes)) = input else { return };
    let (done, written) = tokio::sync::oneshot::channel::<()>();
    let write = move || {
        let blocked = nix::sys::signal::SigSet::all().thread_block();
        if blocked.is_ok() {
            let _ = std::io::Write::write_all(&mut std::fs::File::from(fd), &bytes);
        }
        drop(done);
    };
    // Without a thread the container has an empty input, as if nobody had given any.
    if std::thread::Builder::new().name("boxship-input".into()).spawn(write).is_ok() {
        let _ = written.await;
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
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) timed_out: bool,
    pub(super) truncated: bool,
}

pub(super) async fn collect<P: Followed>(
    process: P,
    pid: OwnedFd,
    ends: Ends,
    bounds: Bounds,
) -> Result<Collected<P>> {
    let limit = bounds.output.unwrap_or(OUTPUT_LIMIT);
    let Ends { input, stdout, stderr } = ends;
    let work = async {
        tokio::join!(
            until_over(process),
            read_all(Some(stdout), limit),
            read_all(stderr, limit),
            write_all(input)
        )
    };
    tokio::pin!(work);
    let mut timed_out = false;
    let (process, stdout, stderr, ()) = match bounds.timeout {
        None => work.await,
        Some(time) => match tokio::time::timeout(time, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                timed_out = true;
                tracing::debug!("time is up");
                let _ = rustix::process::pidfd_send_signal(&pid, rustix::process::Signal::KILL);
                work.await
            }
        },
    };
    let (process, (stdout, more), (stderr, more_errors)) = (process?, stdout?, stderr?);
    Ok(Collected { process, stdout, stderr, timed_out, truncated: more || more_errors })
}

impl Started {
    pub(super) async fn collect(self, bounds: Bounds) -> Result<Output> {
        let pid = self.running.pidfd()?;
        let Collected { process: mut running, stdout, stderr, timed_out, truncated } =
            collect(self.running, pid, self.ends, bounds).await?;
        let store = running.container().runtime().store().clone();
        // Over: its result is there, unless the monitor was killed and something is left to remove.
        let status = match running.is_over() && running.has_status() {
            true => running.finish()?,
            false => blocking::run(move || Ok(running.finish()?)).await?,
        };
        // Nobody waits for the space; should the program end first, the next open frees it.
        drop(tokio::task::spawn_blocking(move || store.empty_trash()));
        Ok(Output { status, stdout, stderr, timed_out, truncated })
    }
}
