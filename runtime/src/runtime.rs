//! The containers of one root: making, finding and recovering them.
//!
//! `<root>/containers/<id>/` holds `container.json` (the configuration), `monitor` (locked by the
//! monitor as long as it lives, and naming the process), `exit` (how it ended) and the logs. What is
//! true of a container follows from these; nothing depends on who created it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use boxship_cgroups::{Group, Parent};
use boxship_layers::{Base, Store};
use boxship_namespaces::{Privilege, Reaper};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::busy::{Busy, Flight};
use crate::config::Config;
use crate::container::{Container, ContainerInner};
use crate::error::{Error, Result};
use crate::user::Users;
use crate::{ids, plan};

#[derive(Debug)]
struct Inner {
    store: Store,
    cgroups: OnceLock<Parent>,
    busy: Busy,
    users: Users,
    /// The monitors of dropped processes, ending, and the containers that end with them.
    ending: Mutex<Vec<(Reaper, Option<Container>)>>,
}

/// The containers of one root directory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Inner>);

/// `container.json`.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) config: Config,
    /// Removed as soon as nobody holds its lock.
    ephemeral: bool,
    pub(crate) id_slot: Option<u32>,
    created_ns: u64,
}

impl Record {
    /// A range of ids that no store gives out is not taken from a file either.
    pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Record> {
        let record: Record = serde_json::from_slice(text)?;
        match record.id_slot {
            Some(slot) if slot >= ids::SLOTS => {
                Err(serde::de::Error::custom(format!("there is no id range {slot}")))
            }
            _ => Ok(record),
        }
    }
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
            busy: Busy::default(),
            users: Users::default(),
            ending: Mutex::new(Vec::new()),
        };
        let runtime = Runtime(Arc::new(inner));
        // One that may only be read is left as it is.
        if runtime.store().require_writable().is_ok() {
            runtime.recover()?;
        }
        Ok(runtime)
    }

    /// The store of images and layers.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Counts a start as under way until the result is dropped.
    pub(crate) fn begin_start(&self) -> Flight {
        self.0.busy.begin()
    }

    pub(crate) fn users(&self) -> &Users {
        &self.0.users
    }

    /// Where groups are made; `None` for those who may make none. A failure is not remembered.
    pub(crate) fn cgroups(&self, privilege: Privilege) -> Result<Option<&Parent>> {
        if let Some(parent) = self.0.cgroups.get() {
            return Ok(Some(parent));
        }
        let Some(parent) = plan::open_cgroups(privilege)? else { return Ok(None) };
        Ok(Some(self.0.cgroups.get_or_init(|| parent)))
    }

    pub(crate) fn group(&self, id: &str) -> Option<Group> {
        self.cgroups(Privilege::detect()).ok().flatten()?.group(id).ok()
    }

    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.store().path().join("containers").join(id)
    }

    /// Keeps the monitor of a dropped process until it has ended; a later operation collects it, and
    /// removes the container that ends with it.
    pub(crate) fn adopt(&self, reaper: Option<Reaper>, container: Option<Container>) {
        let mut all = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(reaper.map(|r| (r, container)));
    }

    /// Collects the monitors of dropped containers that have ended, and removes what they left.
    pub fn reap(&self) {
        let mut all = self.0.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, rest) = std::mem::take(&mut *all).into_iter().partition(|(r, _)| r.try_reap());
        *all = rest;
        drop(all);
        let done: Vec<(Reaper, Option<Container>)> = done;
        for container in done.into_iter().filter_map(|(_, container)| container) {
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
        self.store().require_writable()?;
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
    pub(crate) fn tidy(&self, id: &str, result: Result<()>) {
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
        self.store().require_writable()?;
        if let Some(rootfs) = &config.rootfs {
            #[allow(clippy::disallowed_methods, reason = "the caller's own path, kept as resolved here")]
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
        let id_slot = match plan::wants_id_range(&config, Privilege::detect()) {
            true => Some(ids::claim(self.store(), id)?),
            false => None,
        };
        let owner = config.id.clone();
        self.record_with(config, ephemeral, id_slot, lock).inspect_err(|_| {
            if let Some(slot) = id_slot {
                ids::release(self.store(), slot, &owner);
            }
        })
    }

    fn record_with(
        &self,
        config: Config,
        ephemeral: bool,
        id_slot: Option<u32>,
        lock: OwnedFd,
    ) -> Result<Container> {
        if config.rootfs.is_none() {
            let base = id_slot.map_or(0, ids::first);
            // One that ends with its creator is never committed.
            let manifest = config.manifest.as_ref().filter(|_| !ephemeral);
            let image = Base::new(manifest, &config.layers);
            self.store().create_snapshot(&config.id, image, (base, base))?;
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
        let record = Record::parse(&text).map_err(|e| match e.is_eof() {
            // Its creator died while writing it.
            true => not_found(),
            false => Error::io("understand", &path)(std::io::Error::from(e)),
        })?;
        let Record { config, ephemeral, id_slot, created_ns } = record;
        let inner =
            ContainerInner { config, ephemeral, id_slot, created_ns, creation_lock: Mutex::new(None) };
        Ok(Container { runtime: self.clone(), inner: Arc::new(inner) })
    }

    pub(crate) fn discard_files(&self, id: &str, name: Option<&str>, slot: Option<u32>) -> Result<()> {
        if let Some(group) = self.group(id) {
            group.kill()?;
            group.delete()?;
        }
        self.discard_record(id, name, slot)
    }

    pub(crate) fn discard_record(&self, id: &str, name: Option<&str>, slot: Option<u32>) -> Result<()> {
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

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
