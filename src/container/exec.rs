//! Further processes in a container that runs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use boxship_namespaces::{ExitStatus, Stdio};
use boxship_runtime::{ExecConfig, Streams};
use tokio::net::unix::pipe;

use super::collect;
use super::output::{self, Bounds, Output};
use crate::blocking;
use crate::error::{Error, Result};
use crate::units::{ByteSize, Signal};

/// A process to be in a running container: see [`Container::exec`](crate::Container::exec).
#[derive(Debug)]
#[must_use = "a builder does nothing until output(), spawn() or run() is awaited"]
pub struct ExecBuilder {
    container: boxship_runtime::Container,
    config: ExecConfig,
    stdin: Option<Vec<u8>>,
    bounds: Bounds,
    error: Option<Error>,
}

impl ExecBuilder {
    pub(super) fn new(container: boxship_runtime::Container, command: Vec<String>) -> ExecBuilder {
        let config = ExecConfig { command, ..ExecConfig::default() };
        ExecBuilder { container, config, stdin: None, bounds: Bounds::default(), error: None }
    }

    fn fail(mut self, error: Error) -> Self {
        self.error.get_or_insert(error);
        self
    }

    /// Sets a variable besides the container's.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        if key.is_empty() || key.contains(['=', '\0']) {
            return self.fail(Error::invalid("env", format!("{key:?} is not a variable name")));
        }
        self.config.env.insert(key, value.into());
        self
    }

    /// Sets the working directory, an absolute path that exists in the container.
    pub fn workdir(mut self, dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        if !dir.is_absolute() {
            return self.fail(Error::invalid("workdir", format!("{dir:?} is not an absolute path")));
        }
        self.config.workdir = Some(dir.to_owned());
        self
    }

    /// Sets the user: `name`, `uid`, `name:group` or `uid:gid`; the container's by default.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Gives the process a terminal of 24 rows and 80 columns; its output is all on stdout.
    pub fn tty(mut self, on: bool) -> Self {
        self.config.terminal = on.then_some((24, 80));
        self
    }

    /// Sets what the process reads ([`output`](ExecBuilder::output) only).
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Kills the process after this time ([`output`](ExecBuilder::output) only).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.bounds.timeout = Some(timeout);
        self
    }

    /// Sets how much is kept of each stream; 64 MiB by default, see
    /// [`Output::truncated`] ([`output`](ExecBuilder::output) only).
    pub fn output_limit(mut self, limit: ByteSize) -> Self {
        self.bounds.output = Some(limit.bytes());
        self
    }

    fn start(self, streams: Streams) -> Result<boxship_runtime::Exec> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.container.exec(self.config, streams)?),
        }
    }

    fn without_collecting(&self) -> Result<()> {
        match &self.stdin {
            Some(_) => Err(Error::invalid("stdin", "bytes can be passed to output() only")),
            None => self.bounds.refuse(),
        }
    }

    /// Runs the process to its end and collects what it wrote. A program that fails is no error.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) unless the container runs,
    /// [`InvalidInput`](crate::ErrorKind) before anything is touched,
    /// [`NotFound`](crate::ErrorKind) for a program that the container lacks.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process: at once, or while it is being started and in the 10 ms after
    /// that, when these are over. The container goes on.
    pub async fn output(mut self) -> Result<Output> {
        let (input, bounds) = (self.stdin.take(), self.bounds);
        if input.is_some() && self.config.terminal.is_some() {
            return Err(Error::invalid("stdin", "the input of a terminal cannot be given in advance"));
        }
        let terminal = self.config.terminal.is_some();
        let started =
            blocking::run(move || output::follow(terminal, input, bounds, |s| self.start(s))).await?;
        let mut collection = started.finish().await?;
        let status = collection.process.wait()?;
        Ok(Output::new(status, collection))
    }

    /// Starts the process with pipes for its three streams, to talk to it while it runs.
    ///
    /// # Errors
    /// As [`output`](ExecBuilder::output).
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub async fn spawn(self) -> Result<ExecProcess> {
        self.without_collecting()?;
        if self.config.terminal.is_some() {
            return Err(Error::invalid("tty", "spawn() gives the process pipes; use output()"));
        }
        let (process, ours) = blocking::run(move || {
            let ((read, stdin), (stdout, out), (stderr, err)) =
                (output::new_pipe()?, output::new_pipe()?, output::new_pipe()?);
            let streams = Streams {
                stdin: Stdio::Descriptor(read),
                stdout: Stdio::Descriptor(out),
                stderr: Stdio::Descriptor(err),
                terminal_copy: None,
            };
            Ok((self.start(streams)?, [stdin, stdout, stderr]))
        })
        .await?;
        let [stdin, stdout, stderr] = ours;
        let receiver =
            |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd).map_err(|e| Error::io("use a pipe", e));
        Ok(ExecProcess {
            stdin: Some(pipe::Sender::from_owned_fd(stdin).map_err(|e| Error::io("use a pipe", e))?),
            stdout: Some(receiver(stdout)?),
            stderr: Some(receiver(stderr)?),
            process,
        })
    }

    /// Starts the process and lets it go on by itself, without streams.
    ///
    /// # Errors
    /// As [`output`](ExecBuilder::output).
    ///
    /// # Cancel safety
    /// The process may have been started.
    pub async fn run(mut self) -> Result<()> {
        self.without_collecting()?;
        self.config.detached = true;
        blocking::run(move || self.start(Streams::null()?).map(drop)).await
    }
}

/// A further process of a container, with our ends of its streams.
///
/// # Drop
/// Kills the process; its container goes on.
#[derive(Debug)]
pub struct ExecProcess {
    /// What it reads; drop it to let it see the end.
    pub stdin: Option<pipe::Sender>,
    /// What it writes.
    pub stdout: Option<pipe::Receiver>,
    /// What it writes about errors.
    pub stderr: Option<pipe::Receiver>,
    process: boxship_runtime::Exec,
}

impl ExecProcess {
    /// Its pid on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`](crate::ErrorKind) when it may not be sent.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        Ok(self.process.kill(signal.number())?)
    }

    /// Closes its input if that is still here, and waits until it has ended. What it writes meanwhile has
    /// to be read by somebody, or it waits, too: take `stdout` and `stderr` before.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind) when its monitor was killed.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub async fn wait(mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        let mut process = collect::until_over(self.process).await?;
        Ok(process.wait()?)
    }
}
