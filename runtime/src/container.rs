//! Containers on disk: making, finding, controlling and removing them.
//!
//! `<root>/containers/<id>/` holds `container.json` (the configuration), `monitor` (locked by the
//! monitor as long as it lives, and naming the pid), `exit` (how it ended) and the logs. What is true
//! of a container follows from these: a held lock means that it runs, a free one with an exit
//! record that it stopped. Nothing depends on who created it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use boxship_cgroups::{Group, Parent, Usage};
use boxship_layers::Store;
use boxship_namespaces::{Attachment, Child, Discard, ExitStatus, Helper, Privilege, Reaper};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::launch::{self, Start, Streams};
use crate::status::{Operation, State, Status};
use crate::{ids, logs};

#[derive(Debug)]
struct Inner {
    store: Store,
    cgroups: OnceLock<Parent>,
    /// Starts under way in this process.
    starting: AtomicUsize,
    /// Dropped containers whose monitors are ending.
    ending: Mutex<Vec<(Reaper, Container)>>,
}

/// The containers of one root directory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Inner>);

/// A start under way.
pub(crate) struct Starting<'a> {
    count: &'a AtomicUsize,
    alone: bool,
}

impl Starting<'_> {
    /// Whether it was the only one when it began.
    pub(crate) fn alone(&self) -> bool {
        self.alone
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `container.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    config: Config,
    /// Removed as soon as nobody holds its lock.
    ephemeral: bool,
    id_slot: Option<u32>,
    created_ns: u64,
}

/// One container. A handle: it says nothing about whether the container still exists.
#[derive(Clone, Debug)]
pub struct Container {
    runtime: Runtime,
    inner: Arc<ContainerInner>,
}

#[derive(Debug)]
struct ContainerInner {
    config: Config,
    ephemeral: bool,
    id_slot: Option<u32>,
    created_ns: u64,
    /// Held from creation until the monitor takes it over.
    creation_lock: Mutex<Option<OwnedFd>>,
}

/// A pid read from a held lock, with the process opened while the lock was held: it cannot be
/// another process's.
struct Live {
    pid: u32,
    started_ns: Option<u64>,
    pidfd: Option<OwnedFd>,
}

impl Runtime {
    /// Opens a root and removes what dead processes left in it.
    ///
    /// # Errors
    /// [`Error::Layers`] when the store cannot be opened.
    pub fn open(root: impl AsRef<Path>) -> Result<Runtime> {
        Runtime::with_store(Store::open(root)?)
    }

    /// The containers of an open store.
    ///
    /// # Errors
    /// As [`open`](Runtime::open).
    pub fn with_store(store: Store) -> Result<Runtime> {
        let inner = Inner {
            store,
            cgroups: OnceLock::new(),
            starting: AtomicUsize::new(0),
            ending: Mutex::new(Vec::new()),
        };
        let runtime = Runtime(Arc::new(inner));
        runtime.recover()?;
        Ok(runtime)
    }

    /// The store of images and layers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Counts a start as under way until the result is dropped.
    pub(crate) fn begin_start(&self) -> Starting<'_> {
        let before = self.0.starting.fetch_add(1, Ordering::Relaxed);
        Starting { count: &self.0.starting, alone: before == 0 }
    }

    /// Where groups are made; `None` for those who may make none. A failure is not remembered.
    pub(crate) fn cgroups(&self, privilege: Privilege) -> Result<Option<&Parent>> {
        if let Some(parent) = self.0.cgroups.get() {
            return Ok(Some(parent));
        }
        let Some(parent) = launch::open_cgroups(privilege)? else { return Ok(None) };
        Ok(Some(self.0.cgroups.get_or_init(|| parent)))
    }

    fn group(&self, id: &str) -> Option<Group> {
        self.cgroups(Privilege::detect()).ok().flatten()?.group(id).ok()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.store().path().join("containers").join(id)
    }

    /// Keeps a dropped container until its monitor has ended; a later operation removes it.
    pub(crate) fn adopt(&self, reaper: Option<Reaper>, container: Container) {
        let mut all = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(reaper.map(|r| (r, container)));
    }

    /// Collects the monitors of dropped containers that have ended, and removes what they left.
    pub fn reap(&self) {
        let mut all = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, rest) = std::mem::take(&mut *all).into_iter().partition(|(r, _)| r.try_reap());
        *all = rest;
        drop(all);
        let done: Vec<(Reaper, Container)> = done;
        for (_, container) in done {
            // What cannot be removed now is left to the next `open`.
            let _ = container.discard();
        }
    }

    /// Removes what dead processes left behind: half-made containers, ephemeral ones whose monitor is
    /// gone, their cgroups, ids and snapshots. Never touches what a living process holds.
    ///
    /// # Errors
    /// [`Error::Layers`], [`Error::Io`] when the root cannot be read.
    pub fn recover(&self) -> Result<()> {
        let _lock = self.store().lock()?;
        let mut alive = std::collections::HashSet::new();
        for id in self.ids()? {
            match self.load(&id) {
                Ok(c) if c.is_disposable() && !c.is_locked().unwrap_or(false) => {
                    // Held while it is removed: nobody can start it meanwhile.
                    match c.try_lock() {
                        Ok(Some(_lock)) => self.tidy(&id, c.discard()),
                        Ok(None) => drop(alive.insert(id)),
                        Err(e) => self.tidy(&id, Err(e)),
                    }
                }
                // Creators hold the store's lock together: a directory without a record is nobody's.
                Err(Error::NotFound { .. }) => self.tidy(&id, self.discard_files(&id, None, None)),
                // One that is whole, or that this version cannot read.
                _ => drop(alive.insert(id)),
            }
        }
        for snapshot in self.store().snapshots()?.iter().filter(|s| !alive.contains(*s)) {
            self.store().remove_snapshot(snapshot)?;
        }
        ids::collect(self.store(), |id| alive.contains(id));
        self.collect_names(&alive);
        self.store().empty_trash();
        Ok(())
    }

    /// One container that cannot be removed now must not keep the root from being opened.
    fn tidy(&self, id: &str, result: Result<()>) {
        match result {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(e) => tracing::debug!(id, error = %e, "left to the next open"),
        }
    }

    fn collect_names(&self, alive: &std::collections::HashSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.store().path().join("names")) else { return };
        for entry in entries.flatten() {
            let id = std::fs::read_link(entry.path()).unwrap_or_default();
            if !alive.contains(id.to_string_lossy().as_ref()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn ids(&self) -> Result<Vec<String>> {
        let path = self.store().path().join("containers");
        let entries = std::fs::read_dir(&path).map_err(Error::io("list", &path))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
    }

    /// Makes a container without starting it. It stays until it is removed.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is touched; [`Error::NameTaken`].
    pub fn create(&self, config: Config) -> Result<Container> {
        let container = self.record(config, false)?;
        let finish = || -> Result<()> {
            container.write_bundle()?;
            let dir = container.directory()?;
            rustix::fs::syncfs(&dir).map_err(Error::io("sync", container.path()))
        };
        if let Err(e) = finish() {
            let _ = container.discard();
            return Err(e);
        }
        if let Some(lock) = container.take_creation_lock() {
            // Said, and not left to closing: a process that is being spawned may have a copy.
            let _ = rustix::fs::flock(&lock, FlockOperation::Unlock);
        }
        Ok(container)
    }

    /// Writes the record and makes the writable layer; all or nothing.
    pub(crate) fn record(&self, mut config: Config, ephemeral: bool) -> Result<Container> {
        config.validate()?;
        if let Some(rootfs) = &config.rootfs {
            let real = std::fs::canonicalize(rootfs).map_err(Error::io("use as the root", rootfs))?;
            if !real.is_dir() {
                return Err(Error::invalid("root", format!("{rootfs:?} is not a directory")));
            }
            config.rootfs = Some(real);
        }
        let (id, name) = (config.id.clone(), config.name.clone());
        // Shared with other creators, exclusive to `recover`: it must not see a directory without lock.
        let guard = self.store().lock_shared()?;
        let dir = self.store().dir("containers")?;
        rustix::fs::mkdirat(&dir, id.as_str(), Mode::RWXU).map_err(Error::io("make", self.path(&id)))?;
        let made = self.record_locked(config, ephemeral, &dir);
        drop(guard);
        made.inspect_err(|_| {
            let _ = self.discard_record(&id, name.as_deref(), None);
        })
    }

    fn record_locked(&self, config: Config, ephemeral: bool, dir: &OwnedFd) -> Result<Container> {
        let id = config.id.as_str();
        let lock = open_lock(dir, id).map_err(Error::io("lock", self.path(id)))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(Error::io("lock", self.path(id)))?;
        if let Some(name) = &config.name {
            self.claim_name(name, id)?;
        }
        let id_slot = match launch::wants_id_range(&config, Privilege::detect()) {
            true => Some(ids::claim(self.store(), id)?),
            false => None,
        };
        if config.rootfs.is_none() {
            let base = id_slot.map_or(0, ids::first);
            let made = self.store().create_snapshot(id, &config.layers, (base, base));
            if let (Err(_), Some(slot)) = (&made, id_slot) {
                ids::release(self.store(), slot, id);
            }
            made?;
        }
        let created_ns = now_ns();
        let record = Record { config, ephemeral, id_slot, created_ns };
        let text = serde_json::to_vec(&record).map_err(|e| Error::invalid("configuration", e.to_string()))?;
        let config = record.config;
        let path = self.path(&config.id).join("container.json");
        std::fs::write(&path, text).map_err(Error::io("write", path))?;
        let creation_lock = Mutex::new(Some(lock));
        let inner = ContainerInner { config, ephemeral, id_slot, created_ns, creation_lock };
        Ok(Container { runtime: self.clone(), inner: Arc::new(inner) })
    }

    fn claim_name(&self, name: &str, id: &str) -> Result<()> {
        let names = self.store().dir("names")?;
        match rustix::fs::symlinkat(id, &names, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let link =
                    std::fs::read_link(self.store().path().join("names").join(name)).unwrap_or_default();
                let by = link.to_string_lossy().chars().take(12).collect();
                Err(Error::NameTaken { name: name.to_owned(), by })
            }
            Err(e) => Err(Error::io("claim the name in", self.store().path().join("names"))(e)),
        }
    }

    /// The container with this id, unique start of an id, or name.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] when a start fits several.
    pub fn container(&self, name: &str) -> Result<Container> {
        let not_found = || Error::NotFound { name: name.to_owned() };
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(not_found());
        }
        if let Ok(link) = std::fs::read_link(self.store().path().join("names").join(name)) {
            return self.load(&link.to_string_lossy()).map_err(|_| not_found());
        }
        let mut fitting: Vec<String> = self.ids()?.into_iter().filter(|id| id.starts_with(name)).collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(id), true) => self.load(&id).map_err(|_| not_found()),
            (Some(_), false) => {
                Err(Error::invalid("container id", format!("{name:?} is the start of several ids")))
            }
            (None, _) => Err(not_found()),
        }
    }

    /// All containers that are whole, the newest first. Ones that end while this runs may be missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mut all: Vec<Container> = self.ids()?.iter().filter_map(|id| self.load(id).ok()).collect();
        // What ended with its creator is a leftover and no container.
        all.retain(|c| !c.inner.ephemeral || c.is_locked().unwrap_or(false));
        all.sort_by_key(|c| std::cmp::Reverse(c.inner.created_ns));
        Ok(all)
    }

    fn load(&self, id: &str) -> Result<Container> {
        let path = self.path(id).join("container.json");
        let not_found = || Error::NotFound { name: id.to_owned() };
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(not_found()),
            other => other.map_err(Error::io("read", &path))?,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|e| match e.is_eof() {
            // Its creator died while writing it.
            true => not_found(),
            false => Error::io("understand", &path)(std::io::Error::from(e)),
        })?;
        let Record { config, ephemeral, id_slot, created_ns } = record;
        let inner =
            ContainerInner { config, ephemeral, id_slot, created_ns, creation_lock: Mutex::new(None) };
        Ok(Container { runtime: self.clone(), inner: Arc::new(inner) })
    }

    fn discard_files(&self, id: &str, name: Option<&str>, slot: Option<u32>) -> Result<()> {
        if let Some(group) = self.group(id) {
            group.kill()?;
            group.delete()?;
        }
        self.discard_record(id, name, slot)
    }

    fn discard_record(&self, id: &str, name: Option<&str>, slot: Option<u32>) -> Result<()> {
        self.store().set_aside("containers", id)?;
        self.store().remove_snapshot(id)?;
        if let Some(name) = name {
            // Ours only: after a removal by somebody else the name may belong to another container.
            let path = self.store().path().join("names").join(name);
            if std::fs::read_link(&path).is_ok_and(|owner| owner.as_os_str() == id) {
                let _ = std::fs::remove_file(path);
            }
        }
        if let Some(slot) = slot {
            ids::release(self.store(), slot, id);
        }
        Ok(())
    }
}

fn open_lock(dir: &OwnedFd, id: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(dir, format!("{id}/monitor"), flags, Mode::RUSR | Mode::WUSR)?)
}

/// When a process was started, in ticks since boot (field 22 of proc_pid_stat(5)).
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
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
    fn is_disposable(&self) -> bool {
        self.inner.ephemeral || self.config().auto_remove && self.was_started()
    }

    /// Whether its program was executed in its latest start.
    fn was_started(&self) -> bool {
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
    fn try_lock(&self) -> Result<Option<OwnedFd>> {
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

    /// Whether somebody holds the lock alone. Asking is shared and read-only, so that two who ask do
    /// not see each other and nobody who watches the file is woken.
    fn is_locked(&self) -> Result<bool> {
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

    /// What is true of it now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed.
    pub fn state(&self) -> Result<State> {
        if let Some(live) = self.live()? {
            if live.started_ns.is_none() {
                // Somebody is starting it: its program does not run yet, and may never.
                return Ok(State { status: Status::Created, pid: None, started_ns: None, exit: None });
            }
            let frozen = self.runtime.group(self.id()).is_some_and(|g| g.is_frozen().unwrap_or(false));
            let status = if frozen { Status::Paused } else { Status::Running };
            let pid = (live.pid != 0).then_some(live.pid);
            return Ok(State { status, pid, started_ns: live.started_ns, exit: None });
        }
        let exit =
            std::fs::read_to_string(self.path().join("exit")).ok().and_then(|t| ExitStatus::parse(&t).ok());
        let status = if self.was_started() || exit.is_some() { Status::Stopped } else { Status::Created };
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
        let lock = self.try_lock()?.ok_or_else(|| self.refuse(Operation::Start, Status::Running))?;
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
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| Error::invalid("signal", format!("{signal} is no signal number")))?;
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
        // Whoever holds the lock now is starting it.
        let _lock = self.try_lock()?.ok_or_else(|| self.refuse(Operation::Delete, Status::Running))?;
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
            Ok(Discard::Rename { from, name: id.clone(), to, new: store.trash_name() })
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
