//! `Container::builder()`: options, and the three endings `output`, `run` and `create`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use boxship_namespaces::Profile;
#[cfg(feature = "registry")]
use boxship_registry::{Client, PullPolicy};
use boxship_runtime::{Config, CpuQuota, DeviceNode, LogOptions, Network, Running, Swap, Ulimit};

use super::mount::Mount;
use super::output::Bounds;
use super::{Container, Output, output};
use crate::blocking;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::image::IntoImageRef;
use crate::units::{ByteSize, Signal};

/// The period of a CPU quota, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// What a container reads.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdin {
    /// Nothing: `/dev/null`.
    #[default]
    Null,
    /// These bytes, then the end (with [`output`](ContainerBuilder::output)).
    Bytes(Vec<u8>),
    /// Kept open for attached processes (with [`run`](ContainerBuilder::run)).
    Open,
}

impl From<&str> for Stdin {
    fn from(s: &str) -> Stdin {
        Stdin::Bytes(s.as_bytes().to_vec())
    }
}
impl From<Vec<u8>> for Stdin {
    fn from(bytes: Vec<u8>) -> Stdin {
        Stdin::Bytes(bytes)
    }
}

/// A container to be. The setters never fail; the first unusable value comes back from the ending,
/// before anything is touched.
///
/// ```no_run
/// # async fn f() -> Result<(), boxship::Error> {
/// use boxship::{ByteSize, Container};
/// let out = Container::builder()
///     .image("tools:1")
///     .command(["/bin/sh", "-c", "echo hi"])
///     .memory_limit(ByteSize::mib(64))
///     .output()
///     .await?;
/// assert_eq!(out.stdout, b"hi\n");
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until output(), run() or create() is awaited"]
pub struct ContainerBuilder {
    engine: Option<Engine>,
    config: Config,
    image: Option<String>,
    command: Vec<String>,
    entrypoint: Option<Vec<String>>,
    stdin: Stdin,
    bounds: Bounds,
    error: Option<Error>,
    #[cfg(feature = "registry")]
    fetch: Fetch,
}

/// How an image that is not there is had.
#[cfg(feature = "registry")]
#[derive(Debug, Default)]
struct Fetch {
    policy: PullPolicy,
    client: Option<Client>,
    done: bool,
}

/// What one look at the store leads to.
enum Step<T> {
    Done(T),
    /// The image has to be fetched, or cannot be.
    Missing(Box<ContainerBuilder>, Error),
}

impl ContainerBuilder {
    pub(crate) fn new(engine: Option<Engine>) -> ContainerBuilder {
        ContainerBuilder {
            engine,
            config: Config::default(),
            image: None,
            command: Vec::new(),
            entrypoint: None,
            stdin: Stdin::Null,
            bounds: Bounds::default(),
            error: None,
            #[cfg(feature = "registry")]
            fetch: Fetch::default(),
        }
    }

    fn fail(mut self, error: Error) -> Self {
        self.error.get_or_insert(error);
        self
    }

    /// Uses this engine instead of the default one.
    pub fn engine(mut self, engine: &Engine) -> Self {
        self.engine = Some(engine.clone());
        self
    }

    /// Sets the image, by name, digest or handle. One that the engine does not have is pulled, unless
    /// `pull(PullPolicy::Never)` says otherwise.
    pub fn image(mut self, image: impl IntoImageRef) -> Self {
        self.image = Some(image.into_image_ref());
        self
    }

    /// Uses a directory of the host as the root instead of an image. What the container writes stays
    /// in it.
    pub fn rootfs(mut self, dir: impl AsRef<Path>) -> Self {
        self.config.rootfs = Some(dir.as_ref().to_owned());
        self
    }

    /// Names the container.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Sets the command with its arguments; the image's by default.
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, command: I) -> Self {
        self.command = command.into_iter().map(Into::into).collect();
        if self.command.first().is_none_or(String::is_empty) {
            return self.fail(Error::invalid("command", "it is empty"));
        }
        self
    }

    /// Sets what the command is passed to, and resets the image's default command.
    pub fn entrypoint<I: IntoIterator<Item = S>, S: Into<String>>(mut self, entrypoint: I) -> Self {
        self.entrypoint = Some(entrypoint.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        if key.is_empty() || key.contains(['=', '\0']) {
            return self.fail(Error::invalid("env", format!("{key:?} is not a variable name")));
        }
        self.config.env.insert(key, value.into());
        self
    }

    /// Sets several variables.
    pub fn envs<K: Into<String>, V: Into<String>>(self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        vars.into_iter().fold(self, |b, (k, v)| b.env(k, v))
    }

    /// Sets the working directory, an absolute path; made if it is missing.
    pub fn workdir(mut self, dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        if !dir.is_absolute() {
            return self.fail(Error::invalid("workdir", format!("{dir:?} is not an absolute path")));
        }
        self.config.workdir = dir.to_owned();
        self
    }

    /// Sets the user: `name`, `uid`, `name:group` or `uid:gid`. Names are those of the image.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = user.into();
        self
    }

    /// Sets the host name; the first 12 digits of the id by default.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.config.hostname = Some(name.into());
        self
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.config.mounts.push(mount.0);
        self
    }

    /// Makes the root read-only, or writable under a profile that says otherwise.
    pub fn read_only(mut self, on: bool) -> Self {
        self.config.read_only_root = Some(on);
        self
    }

    /// Limits memory, at least 512 KiB. Swap is then limited to nothing unless
    /// [`memory_swap`](ContainerBuilder::memory_swap) allows it.
    pub fn memory_limit(mut self, limit: ByteSize) -> Self {
        self.config.limits.memory = Some(limit.bytes());
        self
    }

    /// Limits memory and swap together (needs a memory limit, and is at least that).
    pub fn memory_swap(mut self, total: ByteSize) -> Self {
        self.config.limits.swap = Some(Swap::Total(total.bytes()));
        self
    }

    /// Limits CPU time to that of `n` CPUs, 0.01 or more.
    pub fn cpus(mut self, n: f64) -> Self {
        if !(0.01..=10_000.0).contains(&n) {
            return self.fail(Error::invalid("cpus", format!("{n} is not between 0.01 and 10000")));
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range by the check above"
        )]
        let quota_us = (n * CPU_PERIOD_US as f64).round() as u64;
        self.config.limits.cpu = Some(CpuQuota { quota_us, period_us: CPU_PERIOD_US });
        self
    }

    /// Sets the share of the CPU when it is contended: 1 to 10 000, 100 is normal.
    pub fn cpu_weight(mut self, weight: u64) -> Self {
        self.config.limits.cpu_weight = Some(weight);
        self
    }

    /// Sets the CPUs to run on, "0-3,5".
    pub fn cpuset(mut self, cpus: impl Into<String>) -> Self {
        self.config.limits.cpuset_cpus = Some(cpus.into());
        self
    }

    /// Limits processes and threads; the profile's limit (2048) by default.
    pub fn pids_limit(mut self, n: u64) -> Self {
        self.config.limits.pids = Some(n);
        self
    }

    /// Sets a limit of setrlimit(2) by its lower-case name: `nofile`, `nproc`, `core`, …
    pub fn ulimit(mut self, name: impl Into<String>, soft: u64, hard: u64) -> Self {
        self.config.ulimits.push(Ulimit { name: name.into(), soft, hard });
        self
    }

    /// Sets a kernel parameter of the container's own namespaces.
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.sysctls.insert(key.into(), value.into());
        self
    }

    /// Adds a capability by name to the profile's.
    pub fn cap_add(mut self, name: &str) -> Self {
        match name.parse() {
            Ok(cap) => self.config.cap_add.push(cap),
            Err(e) => return self.fail(Error::invalid("cap_add", e)),
        }
        self
    }

    /// Takes a capability away.
    pub fn cap_drop(mut self, name: &str) -> Self {
        match name.parse() {
            Ok(cap) => self.config.cap_drop.push(cap),
            Err(e) => return self.fail(Error::invalid("cap_drop", e)),
        }
        self
    }

    /// Sets the isolation profile; [`Profile::Default`] unless told otherwise.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.config.profile = profile;
        self
    }

    /// Gives the container a user namespace with ids of its own or not, whatever its profile says.
    /// Containers of ordinary users always have one.
    pub fn user_namespace(mut self, on: bool) -> Self {
        self.config.user_namespace = Some(on);
        self
    }

    /// Adds a device of the host, as `/dev/<its name>`.
    pub fn device(mut self, path: impl AsRef<Path>) -> Self {
        let source: PathBuf = path.as_ref().to_owned();
        let Some(name) = source.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            return self.fail(Error::invalid("device", format!("{source:?} is not a device path")));
        };
        self.config.devices.push(DeviceNode { source, name });
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    /// Sets what the container reads.
    pub fn stdin(mut self, stdin: impl Into<Stdin>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Gives the process a terminal of 24 rows and 80 columns; its output is all on stdout.
    pub fn tty(mut self, on: bool) -> Self {
        self.config.terminal = on.then_some((24, 80));
        self
    }

    /// Sets the signal that asks it to stop.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.config.stop_signal = signal.number();
        self
    }

    /// Removes the container once it has ended and its exit was waited for.
    pub fn auto_remove(mut self, on: bool) -> Self {
        self.config.auto_remove = on;
        self
    }

    /// Sets the network; none by default.
    pub fn network(mut self, network: Network) -> Self {
        self.config.network = network;
        self
    }

    /// Rotates the log at this size, and keeps `files` rotated ones.
    pub fn log_rotation(mut self, size: ByteSize, files: u32) -> Self {
        self.config.log = LogOptions { max_size: size.bytes(), max_files: files };
        self
    }

    /// Kills the container after this time ([`output`](ContainerBuilder::output) only).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.bounds.timeout = Some(timeout);
        self
    }

    /// Sets how much is kept of each stream; 64 MiB by default. What a container writes beyond is read and
    /// dropped, and [`Output::truncated`] says so ([`output`](ContainerBuilder::output) only).
    pub fn output_limit(mut self, limit: ByteSize) -> Self {
        self.bounds.output = Some(limit.bytes());
        self
    }

    /// Sets when the image's registry is asked; when the image is missing by default.
    #[cfg(feature = "registry")]
    pub fn pull(mut self, policy: PullPolicy) -> Self {
        self.fetch.policy = policy;
        self
    }

    /// Pulls with this client instead of the default one, which is anonymous.
    #[cfg(feature = "registry")]
    pub fn registry(mut self, client: &Client) -> Self {
        self.fetch.client = Some(client.clone());
        self
    }

    /// Does the blocking work, and once more after the image was pulled if it is missing.
    async fn with_image<T: Send + 'static>(
        self,
        work: impl Fn(ContainerBuilder) -> Result<Step<T>> + Send + Copy + 'static,
    ) -> Result<T> {
        #[cfg(feature = "registry")]
        let first = match self.fetch.policy {
            PullPolicy::Always if self.image.is_some() && self.error.is_none() => self.pulled(None).await?,
            _ => self,
        };
        #[cfg(not(feature = "registry"))]
        let first = self;
        match blocking::run(move || work(first)).await? {
            Step::Done(done) => Ok(done),
            Step::Missing(builder, error) => {
                let builder = builder.pulled(Some(error)).await?;
                match blocking::run(move || work(builder)).await? {
                    Step::Done(done) => Ok(done),
                    Step::Missing(_, error) => Err(error),
                }
            }
        }
    }

    #[cfg(not(feature = "registry"))]
    async fn pulled(self, missing: Option<Error>) -> Result<ContainerBuilder> {
        match missing {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Pulls the image; `missing` is what the store said.
    #[cfg(feature = "registry")]
    async fn pulled(mut self, missing: Option<Error>) -> Result<ContainerBuilder> {
        let name = self.image.clone().unwrap_or_default();
        let never = self.fetch.policy == PullPolicy::Never || self.fetch.done;
        if let Some(error) = missing.filter(|_| never || name.starts_with("sha256:")) {
            return Err(error);
        }
        self.fetch.done = true;
        let mut pull = crate::image::ImageApi::new(self.engine.clone()).pull(&name);
        if let Some(client) = &self.fetch.client {
            pull = pull.client(client);
        }
        pull.await.map_err(|e| {
            let context = format!("there is no image {name:?} in this engine, and it cannot be pulled");
            if self.fetch.policy == PullPolicy::Always { e } else { e.with_context(context) }
        })?;
        Ok(self)
    }

    /// The engine and the final configuration.
    fn resolve(self) -> Result<Step<(Engine, Config)>> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(name) = &self.image
            && self.config.rootfs.is_none()
        {
            let engine = self.engine.clone().map_or_else(Engine::default_blocking, Ok)?;
            return match engine.runtime().store().image(name) {
                Ok(image) => Ok(Step::Done(self.resolve_with(engine, Some(&image))?)),
                Err(e) => match missing(name, e.into()) {
                    e if e.kind() == ErrorKind::NotFound => Ok(Step::Missing(Box::new(self), e)),
                    e => Err(e),
                },
            };
        }
        if self.image.is_some() {
            return Err(Error::invalid("rootfs", "it cannot be used together with an image"));
        }
        let engine = match &self.config.rootfs {
            None => return Err(Error::invalid("image", "name an image, or a directory with rootfs()")),
            Some(_) => self.engine.clone().map_or_else(Engine::default_blocking, Ok)?,
        };
        Ok(Step::Done(self.resolve_with(engine, None)?))
    }

    fn resolve_with(self, engine: Engine, image: Option<&boxship_layers::Image>) -> Result<(Engine, Config)> {
        let mut config = self.config;
        match image {
            Some(image) => {
                config.image = self.image;
                config.manifest = Some(*image.digest());
                config.layers = image.layers().to_vec();
                config.apply_image(image, self.entrypoint, self.command)?;
            }
            None => config.command = self.entrypoint.into_iter().flatten().chain(self.command).collect(),
        }
        config.validate()?;
        Ok((engine, config))
    }

    /// Runs the container to its end and collects what it wrote; like `std::process::Command::output`.
    /// It is removed then. A program that fails is no error: see [`Output::status`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] before anything is touched, [`ErrorKind::NotFound`] for an image or
    /// program that is missing, [`ErrorKind::Unsupported`] and [`ErrorKind::PermissionDenied`] for a
    /// control that the host does not grant. The program did not run then.
    ///
    /// # Cancel safety
    /// Dropping the future kills the container: at once, or while it is being started and in the 10 ms after
    /// that, when these are over. What is left of it is removed by the engine's next operation.
    pub async fn output(self) -> Result<Output> {
        if matches!(self.stdin, Stdin::Open) {
            return Err(Error::invalid("stdin", "output() has nobody to attach; use run()"));
        }
        if matches!(self.stdin, Stdin::Bytes(_)) && self.config.terminal.is_some() {
            return Err(Error::invalid(
                "stdin",
                "a terminal takes its input from attached processes; use run()",
            ));
        }
        self.with_image(ContainerBuilder::start_output).await?.collect().await
    }

    fn start_output(mut self) -> Result<Step<output::Started<Running>>> {
        let (stdin, bounds) = (std::mem::take(&mut self.stdin), self.bounds);
        match self.resolve()? {
            Step::Done((engine, config)) => {
                let input = if let Stdin::Bytes(bytes) = stdin { Some(bytes) } else { None };
                let terminal = config.terminal.is_some();
                let start = |streams| Ok(engine.runtime().run(config, streams)?);
                Ok(Step::Done(output::follow(terminal, input, bounds, start)?))
            }
            Step::Missing(mut builder, e) => {
                builder.stdin = stdin;
                Ok(Step::Missing(builder, e))
            }
        }
    }

    /// Makes and starts the container, which then lives on its own: it goes on when this program ends,
    /// and its output goes to its log.
    ///
    /// # Errors
    /// As [`output`](ContainerBuilder::output), and [`ErrorKind::AlreadyExists`] for a name that is
    /// taken. Nothing is left behind.
    ///
    /// # Cancel safety
    /// The container is made and started; find it with [`Engine::containers`].
    pub async fn run(self) -> Result<Container> {
        self.with_image(|builder| match builder.create_blocking()? {
            Step::Done(container) => {
                if let Err(e) = container.start() {
                    let _ = container.delete(true);
                    return Err(e.into());
                }
                Ok(Step::Done(Container::new(container)))
            }
            Step::Missing(builder, e) => Ok(Step::Missing(builder, e)),
        })
        .await
    }

    /// Makes the container without starting it.
    ///
    /// # Errors
    /// As [`run`](ContainerBuilder::run).
    ///
    /// # Cancel safety
    /// The container is made; find it with [`Engine::containers`].
    pub async fn create(self) -> Result<Container> {
        self.with_image(|builder| match builder.create_blocking()? {
            Step::Done(container) => Ok(Step::Done(Container::new(container))),
            Step::Missing(builder, e) => Ok(Step::Missing(builder, e)),
        })
        .await
    }

    fn create_blocking(mut self) -> Result<Step<boxship_runtime::Container>> {
        match self.stdin {
            Stdin::Null => {}
            // Said twice when the image had to be pulled in between.
            Stdin::Open => self.config.stdin_open = true,
            Stdin::Bytes(_) => return Err(Error::invalid("stdin", "bytes can be passed to output() only")),
        }
        self.bounds.refuse()?;
        let (engine, config) = match self.resolve()? {
            Step::Done(done) => done,
            Step::Missing(builder, e) => return Ok(Step::Missing(builder, e)),
        };
        engine.runtime().reap();
        Ok(Step::Done(engine.runtime().create(config)?))
    }
}

/// Says what to do about an image that is not there.
fn missing(name: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    error.with_context(format!(
        "no image {name:?} in this engine; make it with Image::import, Image::from_directory or Image::from_host_programs"
    ))
}
