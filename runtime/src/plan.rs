//! A configuration as a plan for `boxship-namespaces`, and the cgroups that go with it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use boxship_cgroups::{Group, Hierarchies, Limits, Parent, Reach};
use boxship_layers::TreeRoot;
use boxship_namespaces::{
    CapSet, Capabilities, Cgroups, Device, IdMap, MonitorOptions, Mount, Namespaces, Overlay, Privilege,
    Profile, Resource, Rlimit, Root, Sandbox, User,
};

use crate::config::{Config, MountKind, Network};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::ids;
use crate::launch::{Start, Streams};
use crate::user::{self, Identity};

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

/// The host's arrangement for one start.
pub(crate) struct Plan<'a> {
    pub(crate) container: &'a Container,
    pub(crate) config: &'a Config,
    pub(crate) who: Identity,
    pub(crate) map: Option<IdMap>,
    pub(crate) privilege: Privilege,
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
pub(crate) fn cgroup(container: &Container, privilege: Privilege) -> Result<Option<Group>> {
    let config = container.config();
    let Some(parent) = container.runtime().cgroups(privilege)? else {
        if config.limits.is_empty() {
            return Ok(None);
        }
        let reason =
            "this user may not make cgroups; run as root, or have systemd delegate cgroup v2 controllers";
        return Err(Error::Unsupported { control: "resource limits (memory, cpu, pids, cpuset)", reason });
    };
    let (limits, reach) = limits(container, parent, privilege)?;
    Ok(Some(parent.create(&config.id, &limits, reach)?))
}

/// The group that [`cgroup`] made, to be joined.
pub(crate) fn running_cgroup(container: &Container, privilege: Privilege) -> Result<Option<Group>> {
    let Some(parent) = container.runtime().cgroups(privilege)? else { return Ok(None) };
    let (limits, reach) = limits(container, parent, privilege)?;
    Ok(Some(parent.made(container.id(), &limits, reach)?))
}

fn limits(container: &Container, parent: &Parent, privilege: Privilege) -> Result<(Limits, Reach)> {
    let config = container.config();
    let mut limits = config.limits.clone();
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
    Ok((limits, reach))
}

fn device_rule(d: &crate::config::DeviceNode) -> Result<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(&d.source).map_err(Error::io("use as a device", &d.source))?;
    let kind = if meta.file_type().is_block_device() { 'b' } else { 'c' };
    Ok(format!("{kind} {}:{} rwm", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

/// Resolves the user in the image's own files.
pub(crate) fn identity(container: &Container) -> Result<Identity> {
    let config = container.config();
    // Nobody has written above the layers of a container that has one start only, and layers never change.
    let lasting = container.is_ephemeral() && config.rootfs.is_none();
    let find = || {
        let roots: Vec<TreeRoot> =
            container.roots().iter().map(|r| TreeRoot::open(r)).collect::<boxship_layers::Result<_>>()?;
        user_in(&roots, &config.user)
    };
    let who =
        if lasting { container.runtime().users().get(&config.layers, &config.user, find) } else { find() };
    who.map(permitted)
}

/// The same in these trees, the topmost first.
pub(crate) fn identity_in(roots: &[TreeRoot], user: &str) -> Result<Identity> {
    user_in(roots, user).map(permitted)
}

fn user_in(roots: &[TreeRoot], user: &str) -> Result<Identity> {
    user::resolve(user, &small_file(roots, "etc/passwd")?, &small_file(roots, "etc/group")?)
}

fn permitted(mut who: Identity) -> Identity {
    if Privilege::detect().is_rootless() {
        // A single-id map has no other groups to be in.
        who.groups.clear();
    }
    who
}

/// A small regular file of the root, found without following any link. Empty when there is none.
fn small_file(roots: &[TreeRoot], name: &str) -> Result<String> {
    let bytes = TreeRoot::read_merged(roots, name, user::MAX_FILE)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
}

impl Plan<'_> {
    pub(crate) fn sandbox(
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
        if oom_protected()? {
            s = s.oom_score_adj(0);
        }
        s = self.environment(s.namespaces(namespaces), config.terminal.is_some(), &BTreeMap::new());
        s = self.hide(self.security(s)?);
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
        // Parents before what lies below them.
        let mut asked: Vec<_> = self.config.mounts.iter().collect();
        asked.sort_by_key(|m| m.target.components().count());
        for m in asked {
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

    /// The container's variables, with what a further process adds.
    pub(crate) fn environment(
        &self,
        mut s: Sandbox,
        terminal: bool,
        extra: &BTreeMap<String, String>,
    ) -> Sandbox {
        let config = self.config;
        let given = |key: &str| config.env.contains_key(key) || extra.contains_key(key);
        let home = self.who.home.clone().unwrap_or_else(|| "/".to_owned());
        let mut defaults =
            vec![("PATH", DEFAULT_PATH.to_owned()), ("HOSTNAME", hostname(config)), ("HOME", home)];
        if terminal {
            defaults.push(("TERM", "xterm".to_owned()));
        }
        for (key, value) in defaults.iter().filter(|(k, _)| !given(k)) {
            s = s.env(key, value);
        }
        let own = config.env.iter().filter(|(k, _)| !extra.contains_key(*k));
        own.chain(extra).fold(s, |s, (k, v)| s.env(k, v))
    }

    /// What every process of the container is confined by.
    pub(crate) fn security(&self, s: Sandbox) -> Result<Sandbox> {
        let profile = self.config.profile;
        let caps = capabilities(self.config);
        let program = if caps == profile.capabilities() {
            profile.seccomp_program()?
        } else {
            profile.seccomp().compile(caps)?
        };
        Ok(s.capabilities(Capabilities::bounded(caps))
            .no_new_privileges(profile.no_new_privileges())
            .seccomp(program))
    }

    /// What is hidden in its tree.
    fn hide(&self, s: Sandbox) -> Sandbox {
        let profile = self.config.profile;
        if profile == Profile::Strict {
            // `/proc` shows processes only and `/sys` is absent: nothing is left to mask.
            return s;
        }
        let s = s.masked_paths(profile.masked_paths()).read_only_paths(profile.read_only_paths());
        // The host's /sys, which comes with the host's network to those who cannot mount another, brings the
        // groups of all the host's processes along.
        let hosts = self.privilege.is_rootless() && self.config.network == Network::Host;
        if hosts { s.masked_paths(["/sys/fs/cgroup"]) } else { s }
    }

    /// The profile's limits where the host's are not lower, then what was asked for.
    pub(crate) fn rlimits(&self, mut s: Sandbox) -> Result<Sandbox> {
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
pub(crate) fn oom_protected() -> Result<bool> {
    let path = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim().parse::<i32>().is_ok_and(|value| value < 0))
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
