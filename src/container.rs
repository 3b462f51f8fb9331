//! Containers: building, running, watching and removing them.

mod builder;
mod collect;
mod commit;
mod exec;
mod logs;
mod mount;
mod output;

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use boxship_namespaces::{ExitStatus, Profile};
use boxship_runtime::{State, Status as RuntimeStatus};

use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::units::{ByteSize, Signal};

pub use boxship_runtime::{LogLine, LogStream, Process};
pub use builder::{ContainerBuilder, Stdin};
pub use commit::{Change, ChangeKind, Commit};
pub use exec::{ExecBuilder, ExecProcess};
pub use logs::{Logs, LogsBuilder};
pub use mount::Mount;
pub use output::Output;

pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Exited,
}

impl Status {
    fn of(s: RuntimeStatus) -> Status {
        match s {
            RuntimeStatus::Created => Status::Created,
            RuntimeStatus::Running => Status::Running,
            RuntimeStatus::Paused => Status::Paused,
            RuntimeStatus::Stopped => Status::Exited,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Exited => "exited",
        })
    }
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// CPU time so far.
    pub cpu: Duration,
    /// Memory now, page cache included.
    pub memory: ByteSize,
    /// The most memory so far.
    pub memory_peak: ByteSize,
    /// The memory limit.
    pub memory_limit: Option<ByteSize>,
    /// Processes and threads.
    pub pids: u64,
}

/// What is known of a container.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its image as it was asked for.
    pub image: Option<String>,
    /// Its command.
    pub command: Vec<String>,
    /// Where it is in its life.
    pub status: Status,
    /// The pid of its first process on the host, while it runs.
    pub pid: Option<u32>,
    /// How it ended; `None` for an exited container whose monitor was killed.
    pub exit: Option<ExitStatus>,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last started.
    pub started: Option<SystemTime>,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its isolation profile.
    pub profile: Profile,
}

/// A container. A handle: cheap to clone, and dropping it changes nothing; the container may be
/// removed by anyone at any time, and then operations answer
/// [`ErrorKind::NotFound`](crate::ErrorKind).
///
/// ```no_run
/// # async fn f() -> Result<(), boxship::Error> {
/// use std::time::Duration;
/// use boxship::Container;
/// let web = Container::builder().name("web").image("tools:1").command(["/bin/sh", "-c", "sleep 60"]).run().await?;
/// web.stop().timeout(Duration::from_secs(2)).await?;
/// println!("{}", web.wait().await?);
/// web.remove().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Container {
    inner: boxship_runtime::Container,
}

fn time(ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
}

impl Container {
    /// A container of the default engine to be.
    pub fn builder() -> ContainerBuilder {
        ContainerBuilder::new(None)
    }

    pub(crate) fn new(inner: boxship_runtime::Container) -> Container {
        Container { inner }
    }

    /// Its id: 32 hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        self.inner.id()
    }

    /// Its name, or the first 12 digits of its id.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.config().name.as_deref().unwrap_or_else(|| &self.id()[..12])
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&boxship_runtime::Container) -> boxship_runtime::Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        blocking::run(move || Ok(work(&inner)?)).await
    }

    /// Starts it. It goes on when this program ends.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) when it runs,
    /// [`NotFound`](crate::ErrorKind) for a program that the image lacks.
    ///
    /// # Cancel safety
    /// The start goes on.
    pub async fn start(&self) -> Result<()> {
        self.with(boxship_runtime::Container::start).await
    }

    /// Waits until it has ended, and tells how. One made with `auto_remove` is removed then.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) when it was never started,
    /// [`Io`](crate::ErrorKind) when its monitor was killed and nobody knows how it ended.
    ///
    /// # Cancel safety
    /// Nothing is lost: wait again.
    pub async fn wait(&self) -> Result<ExitStatus> {
        if let Some(fd) = self.with(boxship_runtime::Container::exit_fd).await? {
            let fd = blocking::watch(fd).map_err(|e| Error::io("watch the container", e))?;
            drop(fd.readable().await.map_err(|e| Error::io("watch the container", e))?);
        }
        let remove = self.inner.config().auto_remove;
        let exit = self
            .with(move |c| {
                let exit = c.wait()?;
                if remove {
                    c.delete(false)?;
                }
                Ok(exit)
            })
            .await?;
        exit.ok_or_else(|| {
            let lost = std::io::Error::other("its monitor was killed, or the machine went down");
            Error::io("tell how the container ended", lost)
        })
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) when it does not run.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    pub async fn kill(&self, signal: Signal) -> Result<()> {
        self.with(move |c| c.kill(signal.number())).await
    }

    /// Asks it to end, and kills it after 10 seconds or the [`timeout`](Stop::timeout). One that does
    /// not run is no error.
    pub fn stop(&self) -> Stop {
        Stop { container: self.clone(), signal: None, timeout: Duration::from_secs(10) }
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) unless it runs,
    /// [`Unsupported`](crate::ErrorKind) for users without cgroups.
    ///
    /// # Cancel safety
    /// It may be paused or not: ask.
    pub async fn pause(&self) -> Result<()> {
        self.with(boxship_runtime::Container::pause).await
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) unless it is paused.
    ///
    /// # Cancel safety
    /// It may be paused or not: ask.
    pub async fn unpause(&self) -> Result<()> {
        self.with(boxship_runtime::Container::resume).await
    }

    /// What it uses now.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind) for users without cgroups,
    /// [`NotFound`](crate::ErrorKind) when it does not run.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn stats(&self) -> Result<Stats> {
        let u = self.with(boxship_runtime::Container::usage).await?;
        Ok(Stats {
            cpu: u.cpu,
            memory: ByteSize::b(u.memory),
            memory_peak: ByteSize::b(u.memory_peak),
            memory_limit: u.memory_limit.map(ByteSize::b),
            pids: u.pids,
        })
    }

    /// Runs a further process in it: in its namespaces and cgroups, confined as its own.
    ///
    /// ```no_run
    /// # async fn f(web: boxship::Container) -> Result<(), boxship::Error> {
    /// let out = web.exec(["ls", "-l", "/srv"]).user("nobody").output().await?;
    /// print!("{}", String::from_utf8_lossy(&out.stdout));
    /// # Ok(()) }
    /// ```
    pub fn exec<I: IntoIterator<Item = S>, S: Into<String>>(&self, command: I) -> ExecBuilder {
        ExecBuilder::new(self.inner.clone(), command.into_iter().map(Into::into).collect())
    }

    /// The processes that run in it, as the kernel knows them: nothing is executed in the container.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`](crate::ErrorKind) unless it runs or is paused.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn top(&self) -> Result<Vec<Process>> {
        self.with(boxship_runtime::Container::processes).await
    }

    /// Its logs.
    pub fn logs(&self) -> LogsBuilder {
        LogsBuilder::new(self.inner.clone())
    }

    /// Where it is in its life.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind) when it was removed.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn status(&self) -> Result<Status> {
        Ok(self.inspect().await?.status)
    }

    /// Everything that is known of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind) when it was removed.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn inspect(&self) -> Result<Info> {
        let state = self.with(boxship_runtime::Container::state).await?;
        Ok(info(&self.inner, &state))
    }

    /// Removes it with its writable layer and logs; it must not run, or see [`Remove::force`].
    pub fn remove(&self) -> Remove {
        Remove { container: self.clone(), force: false }
    }
}

fn info(c: &boxship_runtime::Container, state: &State) -> Info {
    let config = c.config();
    Info {
        id: config.id.clone(),
        name: config.name.clone(),
        image: config.image.clone(),
        command: config.command.clone(),
        status: Status::of(state.status),
        pid: state.pid,
        exit: state.exit,
        created: time(c.created_ns()),
        started: state.started_ns.map(time),
        labels: config.labels.clone(),
        profile: config.profile,
    }
}

/// A request to stop; await it. True when the container ran.
///
/// # Cancel safety
/// The stopping goes on.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Stop {
    container: Container,
    signal: Option<Signal>,
    timeout: Duration,
}

impl Stop {
    /// Sets the signal; the image's choice or SIGTERM by default.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = Some(signal);
        self
    }

    /// Sets how long it may take before it is killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Stop {
    type Output = Result<bool>;
    type IntoFuture = Pending<bool>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (signal, timeout) = (self.signal.map(Signal::number), self.timeout);
            self.container.with(move |c| c.stop(signal, timeout)).await
        })
    }
}

/// A request to remove; await it.
///
/// # Cancel safety
/// The removal goes on.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Remove {
    container: Container,
    force: bool,
}

impl Remove {
    /// Kills it first if it runs.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

impl IntoFuture for Remove {
    type Output = Result<()>;
    type IntoFuture = Pending<()>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let force = self.force;
            self.container.with(move |c| c.delete(force)).await
        })
    }
}

/// A list of containers to be, see [`Engine::containers`].
#[derive(Clone, Debug)]
#[must_use = "a list does nothing until list() is called"]
pub struct ListContainers {
    engine: Engine,
    all: bool,
    name: Option<String>,
    status: Option<Status>,
    labels: Vec<(String, Option<String>)>,
}

impl ListContainers {
    pub(crate) fn new(engine: Engine) -> ListContainers {
        ListContainers { engine, all: false, name: None, status: None, labels: Vec::new() }
    }

    /// Includes containers that do not run.
    pub fn all(mut self, all: bool) -> Self {
        self.all = all;
        self
    }

    /// Only those whose name contains `part`.
    pub fn name(mut self, part: impl Into<String>) -> Self {
        self.name = Some(part.into());
        self
    }

    /// Only those in this state (implies [`all`](ListContainers::all)).
    pub fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }

    /// Only those with this label.
    pub fn label(mut self, key: impl Into<String>) -> Self {
        self.labels.push((key.into(), None));
        self
    }

    /// Only those with this label and value.
    pub fn label_value(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), Some(value.into())));
        self
    }

    /// The containers, the newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind).
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn list(self) -> Result<Vec<Info>> {
        blocking::run(move || {
            let mut found = Vec::new();
            for c in self.engine.runtime().containers()? {
                // One that is being removed is not in the list.
                let Ok(state) = c.state() else { continue };
                let info = info(&c, &state);
                if self.matches(&info) {
                    found.push(info);
                }
            }
            Ok(found)
        })
        .await
    }

    fn matches(&self, info: &Info) -> bool {
        let active = matches!(info.status, Status::Running | Status::Paused);
        let label = |(key, value): &(String, Option<String>)| {
            info.labels.get(key).is_some_and(|v| value.as_ref().is_none_or(|want| want == v))
        };
        self.status.map_or(self.all || active, |s| s == info.status)
            && self.name.as_ref().is_none_or(|part| info.name.as_ref().is_some_and(|n| n.contains(part)))
            && self.labels.iter().all(label)
    }
}
