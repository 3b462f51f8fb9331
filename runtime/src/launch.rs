//! From a configuration to a running process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use boxship_cgroups::{Group, Hierarchies, Parent, Reach};
use boxship_layers::TreeRoot;
use boxship_namespaces::{
    CapSet, Capabilities, Cgroups, Child, Device, Event, ExitStatus, Helper, IdMap, MonitorOptions, Mount,
    Namespaces, Overlay, Privilege, Profile, Resource, Rlimit, Root, Sandbox, Stdio, User,
};

use crate::config::{Config, MountKind, Network};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::runtime::Runtime;
use crate::user::{self, Identity};
use crate::{bundle, ids};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Devices that a container may use: its own nodes, terminals, and nothing of the host.
const DEVICE_RULES: [&str; 8] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Where the streams of a container lead.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
    /// With a terminal: where its output is copied to.
    pub terminal_copy: Option<OwnedFd>,
}

impl Streams {
    /// Nothing in, nothing out.
    ///
    /// # Errors
    /// Never; the signature leaves room for opening files.
    pub fn null() -> Result<Streams> {
        Ok(Streams { stdin: Stdio::Null, stdout: Stdio::Null, stderr: Stdio::Null, terminal_copy: None })
    }

    /// Output goes to the container's log; input comes from attached processes if `stdin_open`.
    #[must_use]
    pub fn logged(stdin_open: bool) -> Streams {
        let stdin = if stdin_open { Stdio::Monitor } else { Stdio::Null };
        Streams { stdin, stdout: Stdio::Monitor, stderr: Stdio::Monitor, terminal_copy: None }
    }
}

/// A container that this process started and that ends with it.
///
/// # Drop
/// Kills the container: its monitor sees the closed socket, kills it and removes its cgroups. Its
/// directory is removed by the next operation of the runtime.
#[derive(Debug)]
pub struct Running {
    container: Container,
    child: Child,
    exit: Option<ExitStatus>,
    over: bool,
}

impl Running {
    /// The container.
    #[must_use]
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// The pid of its first process on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its first process as a descriptor of the caller's own.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be duplicated.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let fd = self.child.pidfd().try_clone_to_owned();
        fd.map_err(|source| Error::Io {
            operation: "duplicate the process of",
            path: self.container.path(),
            source,
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn kill(&self, signal: i32) -> Result<()> {
        Ok(self.child.kill(signal)?)
    }

    /// Takes one message of the monitor; true when everything is over. Blocks unless the control
    /// socket is readable.
    ///
    /// # Errors
    /// [`Error::Namespaces`].
    pub fn step(&mut self) -> Result<bool> {
        if self.over {
            return Ok(true);
        }
        match self.child.next_event()? {
            Event::Exited(status) => self.exit = Some(status),
            Event::Closed => {
                self.over = true;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Whether the end is known and the monitor has removed everything: [`finish`](Running::finish) has
    /// nothing to wait for then.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it is known how it ended.
    #[must_use]
    pub fn has_status(&self) -> bool {
        self.exit.is_some()
    }

    /// Waits for the end, removes the container and tells how it ended; blocks.
    ///
    /// # Errors
    /// [`Error::Namespaces`] when the monitor was killed; [`Error::Layers`] when removal failed.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.finish();
        self.container.runtime().store().empty_trash();
        status
    }

    /// Tells how it ended; blocks until [`is_over`](Running::is_over). The monitor has removed the container;
    /// one whose monitor was killed is removed here. The store's `empty_trash` frees the space.
    ///
    /// # Errors
    /// As [`wait`](Running::wait).
    pub fn finish(&mut self) -> Result<ExitStatus> {
        let _span = tracing::debug_span!("remove").entered();
        let known = self.exit.is_some();
        while !self.step()? {}
        if !known {
            self.container.discard()?;
        }
        self.exit.ok_or(Error::Namespaces(boxship_namespaces::Error::MonitorLost))
    }
}

impl std::os::fd::AsRawFd for Running {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.child.as_fd().as_raw_fd()
    }
}

impl AsFd for Running {
    /// The control socket: readable when [`step`](Running::step) has something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.container.runtime().adopt(self.child.abandon(), self.container.clone());
        }
    }
}

impl Runtime {
    /// Creates a container, starts it and ties its life to this process: it is killed when the result
    /// is dropped or this process dies, and nothing of it stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is touched; every other error leaves nothing behind.
    pub fn run(&self, config: Config, streams: Streams) -> Result<Running> {
        let _span = tracing::debug_span!("run").entered();
        config.validate()?;
        self.reap();
        // Others that are starting keep the cores busy: then doing two things at once only costs.
        let starting = self.begin_start();
        let overlap = starting.alone();
        let span = tracing::Span::current();
        let run = |helper: HelperSource<'_>| {
            let container = {
                let _span = tracing::debug_span!("record").entered();
                self.record(config, true)?
            };
            let lock = container.take_creation_lock();
            match container.launch(streams, lock, Start { detached: false, overlap }, || helper.get()) {
                Ok(child) => Ok(Running { container, child, exit: None, over: false }),
                Err(e) => {
                    let _ = container.discard();
                    Err(e)
                }
            }
        };
        if !overlap {
            return run(HelperSource::Now);
        }
        // A process takes the kernel about as long as the directories take us.
        std::thread::scope(|scope| {
            let helper = std::thread::Builder::new()
                .spawn_scoped(scope, move || span.in_scope(Helper::start))
                .map_err(Error::io("start a thread in", self.store().path()))?;
            run(HelperSource::Thread(helper))
        })
    }
}

/// Where a start gets its helper from.
enum HelperSource<'scope> {
    /// Started when it is needed.
    Now,
    /// Being started by a thread.
    Thread(std::thread::ScopedJoinHandle<'scope, boxship_namespaces::Result<Helper>>),
}

impl HelperSource<'_> {
    fn get(self) -> boxship_namespaces::Result<Helper> {
        match self {
            HelperSource::Now => Helper::start(),
            HelperSource::Thread(handle) => match handle.join() {
                Ok(helper) => helper,
                Err(panic) => std::panic::resume_unwind(panic),
            },
        }
    }
}

/// How a process is started.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// It outlives its creator.
    pub(crate) detached: bool,
    /// Work is spread over two cores.
    pub(crate) overlap: bool,
}

/// The host's arrangement for one start.
struct Plan<'a> {
    container: &'a Container,
    config: &'a Config,
    who: Identity,
    map: Option<IdMap>,
    privilege: Privilege,
}

impl Container {
    /// Starts the process; the lock passes to the monitor.
    pub(crate) fn launch(
        &self,
        streams: Streams,
        lock: Option<OwnedFd>,
        start: Start,
        helper: impl FnOnce() -> boxship_namespaces::Result<Helper>,
    ) -> Result<Child> {
        let config = self.config();
        let privilege = Privilege::detect();
        let map = self.id_slot().map(ids::map).transpose()?;
        let who = identity(self)?;
        let plan = Plan { container: self, config, who, map, privilege };
        let group = {
            let _span = tracing::debug_span!("cgroups").entered();
            cgroup(self, privilege)?
        };
        let sandbox = {
            let _span = tracing::debug_span!("plan").entered();
            plan.sandbox(streams, lock, start, group.as_ref())
        };
        let started = sandbox.and_then(|s| Ok(s.spawn_with(helper()?)?));
        if started.is_err()
            && let Some(group) = group
        {
            let _ = group.delete();
        }
        started
    }

    /// Writes the OCI bundle's `config.json`.
    pub(crate) fn write_bundle(&self) -> Result<()> {
        let who = identity(self)?;
        let spec = bundle::spec(self.config(), &who, self.id_slot().map(ids::first), Privilege::detect())?;
        let text = serde_json::to_vec(&spec).map_err(|e| Error::invalid("configuration", e.to_string()))?;
        let path = self.path().join("config.json");
        std::fs::write(&path, text).map_err(Error::io("write", path))
    }
}

pub(crate) fn hostname(config: &Config) -> String {
    config.hostname.clone().unwrap_or_else(|| config.id.get(..12).unwrap_or("boxship").to_owned())
}

pub(crate) fn read_only_root(config: &Config) -> bool {
    config.read_only_root.unwrap_or(config.profile.read_only_root())
}

pub(crate) fn capabilities(config: &Config) -> CapSet {
    let added = config.cap_add.iter().fold(config.profile.capabilities(), |set, c| set.with(*c));
    config.cap_drop.iter().fold(added, |set, c| set.without(*c))
}

/// Whether root gives this container a user namespace with ids of its own.
pub(crate) fn wants_id_range(config: &Config, privilege: Privilege) -> bool {
    privilege == Privilege::Host && config.user_namespace.unwrap_or(config.profile.user_namespace())
}

/// What was asked for, and in a network of its own, as Docker, every port and ICMP echo without a
/// capability. `first`: the first of the 65 536 ids of its user namespace, as the writer sees it.
/// (`Strict` has no `/proc/sys`.)
pub(crate) fn sysctls(config: &Config, first: Option<u32>, privilege: Privilege) -> BTreeMap<String, String> {
    let mut all = config.sysctls.clone();
    if config.network != Network::Host && config.profile != Profile::Strict {
        // Only groups that the writer's user namespace knows are taken.
        let groups = match (first, privilege) {
            (Some(first), _) => format!("{first} {}", first + 65_535),
            (None, Privilege::Host) => "0 2147483647".to_owned(),
            (None, _) => "0 0".to_owned(),
        };
        let ports = ("net.ipv4.ip_unprivileged_port_start", "0".to_owned());
        for (key, value) in [ports, ("net.ipv4.ping_group_range", groups)] {
            all.entry(key.to_owned()).or_insert(value);
        }
    }
    all
}

/// The resource of a ulimit name.
pub(crate) fn resource(name: &str) -> Result<Resource> {
    use Resource as R;
    Ok(match name {
        "as" => R::RLIMIT_AS,
        "core" => R::RLIMIT_CORE,
        "cpu" => R::RLIMIT_CPU,
        "data" => R::RLIMIT_DATA,
        "fsize" => R::RLIMIT_FSIZE,
        "locks" => R::RLIMIT_LOCKS,
        "memlock" => R::RLIMIT_MEMLOCK,
        "msgqueue" => R::RLIMIT_MSGQUEUE,
        "nice" => R::RLIMIT_NICE,
        "nofile" => R::RLIMIT_NOFILE,
        "nproc" => R::RLIMIT_NPROC,
        "rss" => R::RLIMIT_RSS,
        "rtprio" => R::RLIMIT_RTPRIO,
        "rttime" => R::RLIMIT_RTTIME,
        "sigpending" => R::RLIMIT_SIGPENDING,
        "stack" => R::RLIMIT_STACK,
        _ => return Err(Error::invalid("ulimit", format!("{name:?} is not a limit of setrlimit(2)"))),
    })
}

/// The cgroups of a container: made when something can be limited or when the host lets us.
fn cgroup(container: &Container, privilege: Privilege) -> Result<Option<Group>> {
    let config = container.config();
    let mut limits = config.limits.clone();
    let Some(parent) = container.runtime().cgroups(privilege)? else {
        if limits.is_empty() {
            return Ok(None);
        }
        let reason =
            "this user may not make cgroups; run as root, or have systemd delegate cgroup v2 controllers";
        return Err(Error::Unsupported { control: "resource limits (memory, cpu, pids, cpuset)", reason });
    };
    limits.pids = limits.pids.or(config.profile.pids_limit());
    if privilege == Privilege::Host && parent.version() != boxship_cgroups::Version::V2 {
        let mut rules: Vec<String> = DEVICE_RULES.map(str::to_owned).into();
        rules.extend(config.devices.iter().map(device_rule).collect::<Result<Vec<_>>>()?);
        limits.devices = Some(rules);
    } else if privilege == Privilege::Host && container.id_slot().is_none() {
        // There the devices are a BPF program, which boxship does not have yet.
        let caps = capabilities(config);
        if "MKNOD".parse().is_ok_and(|mknod| caps.contains(mknod)) {
            let reason = "on cgroup v2 it is not implemented; drop CAP_MKNOD or use a user namespace";
            return Err(Error::Unsupported { control: "device access control", reason });
        }
    }
    // One that outlives us must not be taken for ours by whatever manages the host.
    let reach = if container.is_ephemeral() { Reach::Needed } else { Reach::All };
    Ok(Some(parent.create(&config.id, &limits, reach)?))
}

fn device_rule(d: &crate::config::DeviceNode) -> Result<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(&d.source).map_err(Error::io("use as a device", &d.source))?;
    let kind = if meta.file_type().is_block_device() { 'b' } else { 'c' };
    Ok(format!("{kind} {}:{} rwm", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

/// Resolves the user in the image's own files.
fn identity(container: &Container) -> Result<Identity> {
    let config = container.config();
    let (passwd, group) = (image_file(container, "etc/passwd")?, image_file(container, "etc/group")?);
    let mut who = user::resolve(&config.user, &passwd, &group)?;
    if Privilege::detect().is_rootless() {
        // A single-id map has no other groups to be in.
        who.groups.clear();
    }
    Ok(who)
}

/// A small regular file of the root, found without following any link: in the topmost layer that
/// has it. Empty when there is none.
fn image_file(container: &Container, name: &str) -> Result<String> {
    for root in container.roots() {
        if let Some(bytes) = TreeRoot::open(&root)?.read(name, user::MAX_FILE)? {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    Ok(String::new())
}

impl Plan<'_> {
    fn sandbox(
        &self,
        streams: Streams,
        lock: Option<OwnedFd>,
        start: Start,
        group: Option<&Group>,
    ) -> Result<Sandbox> {
        let config = self.config;
        let mut namespaces = Namespaces::CONTAINER;
        if config.network == Network::Host {
            namespaces = namespaces.without(Namespaces::NET);
        }
        let mut s = Sandbox::command(&config.command[0])
            .args(&config.command[1..])
            .cwd(&config.workdir)
            .create_cwd(true)
            .user(User { uid: self.who.uid, gid: self.who.gid, groups: self.who.groups.clone() })
            .hostname(hostname(config))
            .overlap(start.overlap)
            .loopback(config.network == Network::None)
            .read_only_root(read_only_root(config))
            .session_keyring(&config.id)
            .hardened_root(config.profile != Profile::Compat)
            .root(self.root())
            .id_mapped_root(self.map.is_some())
            .mounts(self.mounts()?);
        if let Some(map) = &self.map {
            namespaces = namespaces | Namespaces::USER;
            s = s.id_maps(map.clone(), map.clone());
        } else if self.privilege.is_rootless() {
            namespaces = namespaces | Namespaces::USER;
        }
        if oom_protected() {
            s = s.oom_score_adj(0);
        }
        s = self.environment(s.namespaces(namespaces));
        s = self.security(s)?;
        for (key, value) in sysctls(config, self.container.id_slot().map(ids::first), self.privilege) {
            s = s.sysctl(key, value);
        }
        for d in &config.devices {
            s = s.device(Device { source: d.source.clone(), name: d.name.clone().into() });
        }
        for (target, content) in self.small_files() {
            s = s.file(target, content);
        }
        s = self.rlimits(s)?;
        if let Some(group) = group {
            let h = group.handles()?;
            s = s.cgroups(Cgroups {
                join: h.join,
                clone_into: h.clone_into,
                kill: h.kill,
                oom: h.oom,
                cpu: h.cpu,
                memory_peak: h.memory_peak,
                remove: h.remove,
            });
        }
        let detached = start.detached;
        let logged = detached;
        let listener = if detached { Some(self.container.listen()?) } else { None };
        let monitor = MonitorOptions {
            detached,
            hold: false,
            state_dir: if detached { Some(self.container.directory()?) } else { None },
            log: logged,
            log_max_size: config.log.max_size,
            log_max_files: config.log.max_files,
            exit_record: detached,
            lock,
            listener,
            forward: [streams.terminal_copy, None],
            discard: if self.container.is_ephemeral() { self.container.discards()? } else { Vec::new() },
        };
        if let Some((rows, columns)) = config.terminal {
            s = s.terminal(rows, columns);
        }
        Ok(s.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr).monitor(monitor))
    }

    fn root(&self) -> Root {
        match &self.config.rootfs {
            Some(path) => Root::Directory(path.clone()),
            None => {
                let snapshot =
                    self.container.runtime().store().snapshot(&self.config.id, &self.config.layers);
                Root::Overlay(Overlay {
                    layers: snapshot.layers,
                    upper: snapshot.upper,
                    work: snapshot.work,
                    volatile: self.container.is_ephemeral(),
                })
            }
        }
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let strict = self.config.profile == Profile::Strict;
        let mut all = vec![if strict { Mount::proc_pids_only() } else { Mount::proc() }];
        all.extend([Mount::dev(), Mount::devpts(), Mount::shm(64 << 20), Mount::mqueue()]);
        if !strict {
            all.push(Mount::sysfs());
        }
        for m in &self.config.mounts {
            let mount = match &m.kind {
                MountKind::Bind(b) => {
                    let source = b.resolve()?;
                    if self.container.runtime().store().holds(&source)? && !b.dangerous {
                        return Err(Error::invalid("mount source", "it lies inside boxship's own store"));
                    }
                    // Resolved and judged just now: it must not lead elsewhere since.
                    Mount::bind(&source, &m.target).exact()
                }
                MountKind::Tmpfs { size, mode } => {
                    let mount = Mount::tmpfs(&m.target).mode(*mode);
                    size.map_or(mount.clone(), |s| mount.size(s))
                }
            };
            all.push(if m.read_only { mount.read_only() } else { mount });
        }
        Ok(all)
    }

    fn environment(&self, mut s: Sandbox) -> Sandbox {
        let config = self.config;
        let home = self.who.home.clone().unwrap_or_else(|| "/".to_owned());
        let mut defaults =
            vec![("PATH", DEFAULT_PATH.to_owned()), ("HOSTNAME", hostname(config)), ("HOME", home)];
        if config.terminal.is_some() {
            defaults.push(("TERM", "xterm".to_owned()));
        }
        for (key, value) in defaults.iter().filter(|(k, _)| !config.env.contains_key(*k)) {
            s = s.env(key, value);
        }
        config.env.iter().fold(s, |s, (k, v)| s.env(k, v))
    }

    fn security(&self, s: Sandbox) -> Result<Sandbox> {
        let profile = self.config.profile;
        let caps = capabilities(self.config);
        let program = if caps == profile.capabilities() {
            profile.seccomp_program()?
        } else {
            profile.seccomp().compile(caps)?
        };
        let s = s
            .capabilities(Capabilities::bounded(caps))
            .no_new_privileges(profile.no_new_privileges())
            .seccomp(program);
        if profile == Profile::Strict {
            // `/proc` shows processes only and `/sys` is absent: nothing is left to mask.
            return Ok(s);
        }
        let s = s.masked_paths(profile.masked_paths()).read_only_paths(profile.read_only_paths());
        // The host's /sys, which comes with the host's network to those who cannot mount another, brings the
        // groups of all the host's processes along.
        let hosts = self.privilege.is_rootless() && self.config.network == Network::Host;
        Ok(if hosts { s.masked_paths(["/sys/fs/cgroup"]) } else { s })
    }

    /// The profile's limits where the host's are not lower, then what was asked for.
    fn rlimits(&self, mut s: Sandbox) -> Result<Sandbox> {
        let asked = |name: &str| self.config.ulimits.iter().any(|l| l.name == name);
        if self.config.profile != Profile::Compat {
            for (name, soft, hard) in
                [("core", 0, 0), ("nofile", 1024, 65_536)].iter().filter(|(n, ..)| !asked(n))
            {
                let resource = resource(name)?;
                let limit = nix_limit(resource)?;
                let hard = limit.min(*hard);
                s = s.rlimit(Rlimit { resource, soft: hard.min(*soft), hard });
            }
            // Without cgroups the number of processes is limited per user of the user namespace.
            let no_cgroups = self.container.runtime().cgroups(self.privilege)?.is_none();
            if let (true, Some(pids)) = (no_cgroups && !asked("nproc"), self.config.profile.pids_limit()) {
                let resource = resource("nproc")?;
                let hard = nix_limit(resource)?.min(pids);
                s = s.rlimit(Rlimit { resource, soft: hard, hard });
            }
        }
        for l in &self.config.ulimits {
            s = s.rlimit(Rlimit { resource: resource(&l.name)?, soft: l.soft, hard: l.hard });
        }
        Ok(s)
    }

    fn small_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let name = hostname(self.config);
        let hosts = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        let resolv = match self.config.network {
            Network::Host => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
            Network::None => Vec::new(),
        };
        vec![
            ("/etc/hosts", hosts.into()),
            ("/etc/hostname", format!("{name}\n").into()),
            ("/etc/resolv.conf", resolv),
        ]
    }
}

/// Whether this process is spared when memory runs out, which its containers must not inherit: they would
/// outlive the host's services. (One that is sacrificed earlier hands that down.)
fn oom_protected() -> bool {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse::<i32>().is_ok_and(|value| value < 0)
}

/// The hard limit of this process.
fn nix_limit(resource: Resource) -> Result<u64> {
    nix::sys::resource::getrlimit(resource)
        .map(|(_, hard)| hard)
        .map_err(|e| Error::io("read the limits of", "/proc/self/limits")(std::io::Error::from(e)))
}

/// The limits' parent directories. `None` for users without cgroups, whose processes are limited per
/// user instead; for root of the host a failure is an error, because limits would be missing.
pub(crate) fn open_cgroups(privilege: Privilege) -> Result<Option<Parent>> {
    if privilege.is_rootless() {
        return Ok(None);
    }
    match Hierarchies::detect().and_then(|h| Parent::open(&h, "boxship")) {
        Ok(parent) => Ok(Some(parent)),
        Err(_) if privilege == Privilege::Contained => Ok(None),
        Err(e) => Err(e.into()),
    }
}
