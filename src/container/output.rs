//! Running a container to its end and collecting what it wrote.

use std::os::fd::OwnedFd;
use std::time::Duration;

use boxship_namespaces::ExitStatus;
use boxship_runtime::{Running, Streams};
use rustix::pipe::PipeFlags;

use super::collect::{Collection, Followed, Input};
use crate::blocking;
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

/// A process that was started and may have ended.
pub(super) struct Started<P> {
    collection: Collection<P>,
    input: Input,
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
struct Ends {
    input: Option<(OwnedFd, Vec<u8>)>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

pub(super) fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::io("make a pipe", e.into()))
}

/// The streams of a process whose output is collected.
fn streams(terminal: bool, input: Option<Vec<u8>>) -> Result<(Streams, Ends)> {
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

/// Starts a process and follows it for its first moments; blocks.
pub(super) fn follow<P: Followed>(
    terminal: bool,
    input: Option<Vec<u8>>,
    bounds: Bounds,
    start: impl FnOnce(Streams) -> Result<P>,
) -> Result<Started<P>> {
    let (streams, Ends { input, stdout, stderr }) = streams(terminal, input)?;
    let process = start(streams)?;
    let input = Input::write(input);
    let limit = bounds.output.unwrap_or(OUTPUT_LIMIT);
    let mut collection = Collection::new(process, stdout, stderr, limit, bounds.timeout);
    collection.first_moments()?;
    Ok(Started { collection, input })
}

impl<P: Followed> Started<P> {
    /// Follows it to its end.
    pub(super) async fn finish(self) -> Result<Collection<P>> {
        self.collection.finish(self.input).await
    }
}

impl Started<Running> {
    pub(super) async fn collect(self) -> Result<Output> {
        let mut collection = self.finish().await?;
        let running = &mut collection.process;
        let store = running.container().runtime().store().clone();
        // Over: its result is there, unless the monitor was killed and something is left to remove.
        if running.is_over() && running.has_status() {
            let status = running.finish()?;
            // Nobody waits for the space; should the program end first, the next open frees it.
            drop(tokio::task::spawn_blocking(move || store.empty_trash()));
            return Ok(Output::new(status, collection));
        }
        blocking::run(move || {
            let status = collection.process.wait()?;
            Ok(Output::new(status, collection))
        })
        .await
    }
}

impl Output {
    pub(super) fn new<P>(status: ExitStatus, collection: Collection<P>) -> Output {
        let Collection { stdout, stderr, timed_out, .. } = collection;
        let truncated = stdout.truncated || stderr.truncated;
        Output { status, stdout: stdout.bytes, stderr: stderr.bytes, timed_out, truncated }
    }
}
