//! Groups: one directory per hierarchy, made, limited, read, frozen, killed and removed by
//! descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::hierarchy::{Hierarchies, Version};
use crate::limits::Limits;

/// A hierarchy in which groups are made.
#[derive(Debug)]
struct Tree {
    /// Controllers; empty for the v2 tree.
    controllers: Vec<String>,
    path: PathBuf,
    dir: OwnedFd,
}

impl Tree {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn make(&self, name: &str) -> rustix::io::Result<()> {
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))
    }

    fn open(&self, name: &str, file: &str, flags: OFlags) -> Result<OwnedFd> {
        let path = Path::new(name).join(file);
        rustix::fs::openat(&self.dir, &path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| self.error("open", &path, e))
    }

    fn write(&self, name: &str, file: &str, value: &str) -> Result<()> {
        let fd = self.open(name, file, OFlags::WRONLY)?;
        let operation = "write to";
        rustix::io::write(&fd, value.as_bytes())
            .map(drop)
            .map_err(|e| self.error(operation, &Path::new(name).join(file), e))
    }

    fn read(&self, name: &str, file: &str) -> Result<String> {
        let fd = self.open(name, file, OFlags::RDONLY)?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(fd), &mut text).map_err(|source| {
            Error::Io { operation: "read", path: self.path.join(name).join(file), source }
        })?;
        Ok(text)
    }

    fn error(&self, operation: &'static str, path: &Path, e: Errno) -> Error {
        Error::Io { operation, path: self.path.join(path), source: e.into() }
    }
}

/// In which hierarchies of v1 a group is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In all, so that it is a unit of its own for whatever manages the host.
    All,
    /// Where it is limited, measured, frozen or confined to devices; elsewhere its processes stay with
    /// the process that starts them. Half the work, for groups that live no longer than their creator.
    Needed,
}

/// Controllers that measure, confine or kill a group even where nothing is limited. (CPU time is told by the
/// v2 tree where there is one, also beside v1.)
const ALWAYS: [&str; 3] = ["memory", "pids", "devices"];

/// The directories below which groups are made, opened once.
#[derive(Clone, Debug)]
pub struct Parent {
    trees: Arc<Vec<Tree>>,
    version: Version,
}

impl Parent {
    /// Opens, and where needed makes, the directory `path` (relative, "boxship") in every hierarchy.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when no hierarchy is mounted, [`Error::Io`] when the caller may not
    /// make groups (ordinary users need delegation on v2).
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Result<Parent> {
        let version = hierarchies
            .version()
            .ok_or(Error::Unsupported { limit: "resources", reason: "no cgroup hierarchy is mounted" })?;
        let unified = hierarchies.unified.iter().map(|p| (Vec::new(), p.clone()));
        let mut trees = Vec::new();
        for (controllers, mount) in hierarchies.v1.iter().cloned().chain(unified) {
            trees.push(open_tree(controllers, &mount, path)?);
        }
        Ok(Parent { trees: Arc::new(trees), version })
    }

    /// The arrangement of the host.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes a group with limits, in all hierarchies of its reach or in none.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is touched, [`Error::Exists`] for a name in use,
    /// [`Error::Unsupported`] for a limit without controller, [`Error::Io`] naming the file.
    pub fn create(&self, name: &str, limits: &Limits, reach: Reach) -> Result<Group> {
        check_name(name)?;
        limits.validate()?;
        self.check_support(limits)?;
        let settings = self.settings(limits);
        let mut made = Vec::new();
        for (i, tree) in self.trees.iter().enumerate() {
            if reach == Reach::Needed && !self.needs(tree, &settings) {
                continue;
            }
            match tree.make(name) {
                Ok(()) => made.push(i),
                Err(e) => {
                    for i in made {
                        let _ = rustix::fs::unlinkat(&self.trees[i].dir, name, AtFlags::REMOVEDIR);
                    }
                    return Err(match e {
                        Errno::EXIST => Error::Exists { path: tree.path.join(name) },
                        e => tree.error("make the cgroup", Path::new(name), e),
                    });
                }
            }
        }
        let group = Group { parent: self.clone(), name: name.to_owned(), reach: Some(made) };
        match group.apply(limits, settings) {
            Ok(()) => Ok(group),
            Err(e) => {
                let _ = group.delete();
                Err(e)
            }
        }
    }

    /// An existing group; nothing is checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with a slash.
    pub fn group(&self, name: &str) -> Result<Group> {
        check_name(name)?;
        Ok(Group { parent: self.clone(), name: name.to_owned(), reach: None })
    }

    /// A group that [`create`](Parent::create) made with these limits and this reach; nothing is checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with a slash.
    pub fn made(&self, name: &str, limits: &Limits, reach: Reach) -> Result<Group> {
        let settings = self.settings(limits);
        let has = |tree: &Tree| reach == Reach::All || self.needs(tree, &settings);
        let trees = self.trees.iter().enumerate().filter(|(_, tree)| has(tree)).map(|(i, _)| i).collect();
        Ok(Group { reach: Some(trees), ..self.group(name)? })
    }

    /// The names of all groups below this parent.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn groups(&self) -> Result<Vec<String>> {
        let mut names = std::collections::BTreeSet::new();
        for tree in self.trees.iter() {
            let read = std::fs::read_dir(&tree.path).map_err(|source| Error::Io {
                operation: "list",
                path: tree.path.clone(),
                source,
            })?;
            for entry in read.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names.into_iter().collect())
    }

    fn tree(&self, controller: &str) -> Option<&Tree> {
        let v1 = self.trees.iter().find(|t| t.has(controller));
        if self.version == Version::V2 { self.unified() } else { v1 }
    }

    fn unified(&self) -> Option<&Tree> {
        self.trees.iter().find(|t| t.is_v2())
    }

    /// Whether a group with these limits has to be in this hierarchy.
    fn needs(&self, tree: &Tree, settings: &[crate::limits::Setting]) -> bool {
        let limited = || settings.iter().any(|(c, ..)| tree.has(c));
        let alone = self.unified().is_none() && (tree.has("freezer") || tree.has("cpuacct"));
        tree.is_v2() || ALWAYS.iter().any(|c| tree.has(c)) || alone || limited()
    }

    fn settings(&self, limits: &Limits) -> Vec<crate::limits::Setting> {
        if self.version == Version::V2 { limits.v2() } else { limits.v1() }
    }

    fn check_support(&self, limits: &Limits) -> Result<()> {
        let reason = "its cgroup controller is not mounted on this host";
        match self.settings(limits).iter().find(|(c, ..)| self.tree(c).is_none()) {
            Some((limit, ..)) => Err(Error::Unsupported { limit, reason }),
            None => Ok(()),
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) || name.len() > 200 {
        let reason = format!("{name:?} is not a plain directory name");
        return Err(Error::Invalid { limit: "cgroup name", reason });
    }
    Ok(())
}

fn open_tree(controllers: Vec<String>, mount: &Path, path: &str) -> Result<Tree> {
    let full = mount.join(path);
    let fail = |operation| {
        let path = full.clone();
        move |source| Error::Io { operation, path, source }
    };
    match std::fs::create_dir(&full) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail("make the cgroup")(e)),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&full, flags, Mode::empty()).map_err(|e| fail("open")(e.into()))?;
    let tree = Tree { controllers, path: full.clone(), dir };
    if tree.is_v2() {
        delegate(mount, &tree)?;
    } else if tree.has("cpuset") {
        // v1: a cpuset starts empty and refuses processes; copy the host's, and let children copy ours.
        // Whoever made the directory may have died before it did so.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !tree.read("", file)?.trim().is_empty() {
                continue;
            }
            let host =
                std::fs::read_to_string(mount.join(file)).map_err(fail("read the host's cpuset for"))?;
            tree.write("", file, host.trim())?;
        }
        tree.write("", "cgroup.clone_children", "1")?;
    }
    Ok(tree)
}

/// v2: children get the controllers that their parent hands down.
fn delegate(mount: &Path, tree: &Tree) -> Result<()> {
    let available = tree.read("", "cgroup.controllers").unwrap_or_default();
    let wanted = ["cpu", "memory", "pids", "cpuset", "io"];
    let root = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    for name in wanted.iter().filter(|w| root.split_whitespace().any(|c| c == **w)) {
        if !available.split_whitespace().any(|c| c == *name) {
            // May be refused where the parent holds processes; a limit that needs it then says so.
            let _ = std::fs::write(mount.join("cgroup.subtree_control"), format!("+{name}"));
        }
        let _ = tree.write("", "cgroup.subtree_control", &format!("+{name}"));
    }
    Ok(())
}

/// What a group has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time.
    pub cpu: Duration,
    /// Memory in bytes, page cache included.
    pub memory: u64,
    /// The most memory so far.
    pub memory_peak: u64,
    /// The memory limit; `None` = none.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
}

/// Descriptors that a starting container needs, see `boxship-namespaces`.
#[derive(Debug, Default)]
pub struct Handles {
    /// v1 `tasks` files: the process writes "0" into each.
    pub join: Vec<OwnedFd>,
    /// The v2 directory, for `CLONE_INTO_CGROUP`.
    pub clone_into: Option<OwnedFd>,
    /// v2 `cgroup.kill`.
    pub kill: Option<OwnedFd>,
    /// Counts OOM kills.
    pub oom: Option<OwnedFd>,
    /// CPU time.
    pub cpu: Option<OwnedFd>,
    /// Peak memory.
    pub memory_peak: Option<OwnedFd>,
    /// Directories to remove after the exit: parent and name.
    pub remove: Vec<(OwnedFd, String)>,
}

/// One group.
#[derive(Clone, Debug)]
pub struct Group {
    parent: Parent,
    name: String,
    /// The hierarchies that it was made in, where that is known.
    reach: Option<Vec<usize>>,
}

impl Group {
    /// Its name below the parent.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes limits; those that are `None` stay as they are.
    ///
    /// # Errors
    /// As [`Parent::create`].
    pub fn update(&self, limits: &Limits) -> Result<()> {
        limits.validate()?;
        self.parent.check_support(limits)?;
        let settings = self.parent.settings(limits);
        self.extend(&settings)?;
        self.apply(limits, settings)
    }

    /// Writes limits, where the group has what they need.
    fn apply(&self, limits: &Limits, mut settings: Vec<crate::limits::Setting>) -> Result<()> {
        // v1: memory may never pass memory+swap, so when raising both the latter must go first.
        let memsw = settings.iter().position(|(_, file, _)| *file == "memory.memsw.limit_in_bytes");
        // Many rules go into one file: opened once.
        let rules =
            settings.iter().position(|(_, file, _)| *file == "devices.allow").unwrap_or(settings.len());
        let rules = settings.split_off(rules);
        for i in 0..settings.len() {
            match self.write(&settings[i]) {
                Err(refused @ Error::Io { .. })
                    if settings[i].1 == "memory.limit_in_bytes" && memsw == Some(i + 1) =>
                {
                    settings.swap(i, i + 1);
                    // Where that does not help, the first refusal is the one to tell.
                    self.write(&settings[i]).map_err(|_| refused)?;
                }
                // The same where the memory alone is given, which then is the limit of both.
                Err(refused @ Error::Io { .. })
                    if settings[i].1 == "memory.limit_in_bytes" && limits.swap.is_none() =>
                {
                    self.without_swap(limits.memory.unwrap_or(u64::MAX)).map_err(|_| refused)?;
                    self.write(&settings[i])?;
                }
                other => other?,
            }
        }
        self.write_all(&rules)?;
        match limits.memory {
            Some(memory) if limits.swap.is_none() => self.without_swap(memory),
            _ => Ok(()),
        }
    }

    /// Takes the group and its processes into hierarchies that it was not made in, where a limit
    /// needs it there.
    fn extend(&self, settings: &[crate::limits::Setting]) -> Result<()> {
        for tree in self.parent.trees.iter().filter(|t| settings.iter().any(|(c, ..)| t.has(c))) {
            match tree.make(&self.name) {
                Err(Errno::EXIST) => continue,
                // A group that is gone is not made again: the write that follows says so.
                Ok(()) if self.processes().is_err() => {
                    let _ = rustix::fs::unlinkat(&tree.dir, &self.name, AtFlags::REMOVEDIR);
                    continue;
                }
                other => other.map_err(|e| tree.error("make the cgroup", Path::new(&self.name), e))?,
            }
            // Until nobody is new: a fork may outrun one round.
            let mut known = Vec::new();
            loop {
                let new: Vec<u32> = self.processes()?.into_iter().filter(|p| !known.contains(p)).collect();
                if new.is_empty() {
                    break;
                }
                for pid in &new {
                    match tree.write(&self.name, "cgroup.procs", &pid.to_string()) {
                        // It has ended.
                        Err(Error::Io { source, .. })
                            if source.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
                        other => other?,
                    }
                }
                known.extend(new);
            }
        }
        Ok(())
    }

    /// Writes settings of one and the same file, one write each.
    fn write_all(&self, settings: &[crate::limits::Setting]) -> Result<()> {
        let Some((controller, file, _)) = settings.first() else { return Ok(()) };
        let reason = "its cgroup controller is not mounted on this host";
        let tree = self.parent.tree(controller).ok_or(Error::Unsupported { limit: controller, reason })?;
        let fd = tree.open(&self.name, file, OFlags::WRONLY)?;
        for (.., value) in settings {
            rustix::io::write(&fd, value.as_bytes())
                .map_err(|e| tree.error("write to", &Path::new(&self.name).join(file), e))?;
        }
        Ok(())
    }

    /// A memory limit alone means: no swap. Hosts without swap accounting have no file for it.
    fn without_swap(&self, memory: u64) -> Result<()> {
        let (file, value) = match self.parent.version {
            Version::V2 => ("memory.swap.max", "0".to_owned()),
            _ => ("memory.memsw.limit_in_bytes", memory.to_string()),
        };
        match self.write(&("memory", file, value)) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn write(&self, (controller, file, value): &crate::limits::Setting) -> Result<()> {
        let reason = "its cgroup controller is not mounted on this host";
        let tree = self.parent.tree(controller).ok_or(Error::Unsupported { limit: controller, reason })?;
        tree.write(&self.name, file, value)
    }

    /// Opens what a container needs to join, and its monitor to measure and remove.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn handles(&self) -> Result<Handles> {
        let mut h = Handles::default();
        for (i, tree) in self.parent.trees.iter().enumerate() {
            // Where it was made it has to be: one that is missing there is an error and no lost limit.
            if self.reach.as_ref().is_some_and(|made| !made.contains(&i)) {
                continue;
            }
            if tree.is_v2() {
                let flags = OFlags::DIRECTORY | OFlags::PATH;
                h.clone_into = Some(tree.open(&self.name, "", flags)?);
                h.kill = tree.open(&self.name, "cgroup.kill", OFlags::WRONLY).ok();
            } else {
                h.join.push(tree.open(&self.name, "tasks", OFlags::WRONLY)?);
            }
            let dir = tree.dir.as_fd().try_clone_to_owned();
            let dir =
                dir.map_err(|source| Error::Io { operation: "duplicate", path: tree.path.clone(), source })?;
            h.remove.push((dir, self.name.clone()));
        }
        let v2 = self.parent.version == Version::V2;
        let open = |controller: &str, one: &str, two: &str| {
            let tree = self.parent.tree(controller)?;
            tree.open(&self.name, if v2 { two } else { one }, OFlags::RDONLY).ok()
        };
        h.oom = open("memory", "memory.oom_control", "memory.events");
        h.cpu = match self.parent.unified() {
            Some(tree) => tree.open(&self.name, "cpu.stat", OFlags::RDONLY).ok(),
            None => open("cpuacct", "cpuacct.usage", "cpu.stat"),
        };
        h.memory_peak = open("memory", "memory.max_usage_in_bytes", "memory.peak");
        Ok(h)
    }

    /// Reads what the group uses.
    ///
    /// # Errors
    /// [`Error::Io`] when the group is gone.
    pub fn usage(&self) -> Result<Usage> {
        let v2 = self.parent.version == Version::V2;
        let read = |controller: &str, one: &str, two: &str| match self.parent.tree(controller) {
            Some(tree) => tree.read(&self.name, if v2 { two } else { one }),
            None => Ok(String::new()),
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let field = |text: &str, key: &str| {
            text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let cpu = match self.parent.unified() {
            Some(tree) => Duration::from_micros(field(&tree.read(&self.name, "cpu.stat")?, "usage_usec")),
            None => Duration::from_nanos(number(read("cpuacct", "cpuacct.usage", "cpu.stat")?)),
        };
        let limit = read("memory", "memory.limit_in_bytes", "memory.max")?.trim().parse::<u64>().ok();
        Ok(Usage {
            cpu,
            memory: number(read("memory", "memory.usage_in_bytes", "memory.current")?),
            // memory.peak exists since Linux 5.19.
            memory_peak: read("memory", "memory.max_usage_in_bytes", "memory.peak").map(number).unwrap_or(0),
            // v1 writes "no limit" as the largest page-aligned number.
            memory_limit: limit.filter(|l| *l < i64::MAX as u64 - 65_536),
            pids: number(read("pids", "pids.current", "pids.current")?),
            oom_kills: field(&read("memory", "memory.oom_control", "memory.events")?, "oom_kill "),
        })
    }

    /// Stops all processes of the group until [`thaw`](Group::thaw); returns when they have stopped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`] without a freezer.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// As [`freeze`](Group::freeze).
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    /// Whether the group is frozen.
    ///
    /// # Errors
    /// [`Error::Io`] when the group is gone.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer()? {
            (tree, "cgroup.freeze") => {
                Ok(tree.read(&self.name, "cgroup.events")?.lines().any(|l| l == "frozen 1"))
            }
            (tree, file) => Ok(tree.read(&self.name, file)?.trim() == "FROZEN"),
        }
    }

    fn freezer(&self) -> Result<(&Tree, &'static str)> {
        let v1 = || self.parent.trees.iter().find(|t| t.has("freezer"));
        self.parent
            .unified()
            .map(|t| (t, "cgroup.freeze"))
            .or_else(|| v1().map(|t| (t, "freezer.state")))
            .ok_or(Error::Unsupported { limit: "freezing", reason: "no freezer is mounted" })
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let (tree, file) = self.freezer()?;
        let value = match (file, frozen) {
            ("cgroup.freeze", true) => "1",
            ("cgroup.freeze", false) => "0",
            (_, true) => "FROZEN",
            (_, false) => "THAWED",
        };
        tree.write(&self.name, file, value)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_frozen()? != frozen {
            if Instant::now() > deadline {
                let _ = tree.write(&self.name, file, if file == "cgroup.freeze" { "0" } else { "THAWED" });
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(Error::Io {
                    operation: "freeze within 10 s",
                    path: tree.path.join(&self.name),
                    source,
                });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// The pids in the group, as the caller's pid namespace sees them.
    ///
    /// # Errors
    /// [`Error::Io`] when the group is gone.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let everywhere = || self.parent.trees.iter().find(|t| ALWAYS.iter().any(|c| t.has(c)));
        let tree = self.parent.unified().or_else(everywhere).or(self.parent.trees.first());
        let text = tree.map(|t| t.read(&self.name, "cgroup.procs")).transpose()?.unwrap_or_default();
        Ok(text.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// Kills every process of the group.
    ///
    /// # Errors
    /// [`Error::Io`]. A group that is gone has no processes and is no error.
    pub fn kill(&self) -> Result<()> {
        if let Some(tree) = self.parent.unified()
            && tree.write(&self.name, "cgroup.kill", "1").is_ok()
        {
            return Ok(());
        }
        // Before Linux 5.14: until nobody is left, because a fork may outrun one round.
        for _ in 0..100 {
            let Ok(pids) = self.processes() else { return Ok(()) };
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids.iter().filter_map(|p| rustix::process::Pid::from_raw(p.cast_signed())) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes the group from every hierarchy. Processes that are still dying are waited for, at most
    /// a second in all; blocks. A group that is gone is no error.
    ///
    /// # Errors
    /// [`Error::Io`] when it still has processes.
    pub fn delete(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut result = Ok(());
        for tree in self.parent.trees.iter() {
            loop {
                match rustix::fs::unlinkat(&tree.dir, &self.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(1))
                    }
                    Err(e) => {
                        result = Err(tree.error("remove the cgroup", Path::new(&self.name), e));
                        break;
                    }
                }
            }
        }
        result
    }
}
