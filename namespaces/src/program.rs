//! The compiler: a validated plan becomes a flat list of operations with descriptors, and for each
//! operation the words that an error about it will use.

mod enter;
mod tree;

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};

use crate::caps::Capabilities;
use crate::empty;
use crate::error::{Error, Result};
use crate::failure::words;
use crate::idmap::IdMap;
use crate::kind::Namespaces;
use crate::mount::Root;
use crate::privilege::Privilege;
use crate::sandbox::{Cgroups, Discard, MonitorOptions, Sandbox, Stdio};
use crate::wire::{Header, MAGIC, NO_SLOT, Op, VERSION, flag, op};

/// First slot that operations fill; those below hold the descriptors that were sent.
const REGISTERS: u64 = 512;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an operation was about, for the error.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) step: &'static str,
    pub(crate) subject: Subject,
}

#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Fixed(&'static str),
    Named(String),
}

impl From<&'static str> for Subject {
    fn from(s: &'static str) -> Self {
        Subject::Fixed(s)
    }
}
impl From<String> for Subject {
    fn from(s: String) -> Self {
        Subject::Named(s)
    }
}
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Fixed(s) => f.write_str(s),
            Subject::Named(s) => f.write_str(s),
        }
    }
}

/// A plan in the helper's language.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) contexts: Vec<Context>,
    pub(crate) command: String,
    pub(crate) external_maps: Option<(IdMap, IdMap)>,
    pub(crate) detached: bool,
    /// Namespaces that the helper makes for itself, by its clone, and those that it enters.
    pub(crate) own: Namespaces,
    pub(crate) cloned: Namespaces,
    pub(crate) entered: Namespaces,
}

/// How user namespaces are arranged, see `helper/spawn.rs`.
pub(crate) struct Users {
    /// The helper enters a user namespace first (rootless).
    own: Option<(IdMap, IdMap)>,
    /// A donor makes the container's user namespace.
    donor: Option<(IdMap, IdMap)>,
    /// Whether one of the maps may be refused `setgroups`.
    deny_setgroups: bool,
    external: bool,
    pub(crate) rootless: bool,
    pub(crate) may_mknod: bool,
    /// Ids of the container's root, terminal group, as the set-up sees them.
    root: (u32, u32),
    tty_gid: Option<u32>,
}

pub(crate) struct Compiler {
    header: Header,
    ops: Vec<Op>,
    contexts: Vec<Context>,
    data: Vec<u8>,
    fds: Vec<OwnedFd>,
    next_register: u64,
    pub(crate) users: Users,
    pub(crate) namespaces: Namespaces,
    /// The register of the private procfs, once mounted.
    proc: Option<u64>,
    /// The register of sysfs, once mounted.
    sys: Option<u64>,
    /// The register of the `/dev` tmpfs, once mounted.
    dev: Option<u64>,
    waited: bool,
    /// The slot of an empty mount namespace, a copy of which the container gets.
    empty: Option<u64>,
    /// See `Header::cleanup`.
    cleanup: Vec<u64>,
}

/// The data area starts after a copy of the header; ops are put behind the data at the end.
const DATA_START: usize = size_of::<Header>().next_multiple_of(8);

impl Compiler {
    pub(crate) fn step(
        &mut self,
        code: u32,
        flags: u32,
        [a, b, c]: [u64; 3],
        step: &'static str,
        subject: impl Into<Subject>,
    ) {
        self.ops.push(Op { code, flags, a, b, c });
        self.contexts.push(Context { step, subject: subject.into() });
    }

    fn bytes(&mut self, bytes: &[u8], align: usize) -> u64 {
        while !(DATA_START + self.data.len()).is_multiple_of(align) {
            self.data.push(0);
        }
        let at = DATA_START + self.data.len();
        self.data.extend_from_slice(bytes);
        at as u64
    }

    pub(crate) fn text(&mut self, s: impl AsRef<OsStr>) -> u64 {
        let at = self.bytes(s.as_ref().as_bytes(), 1);
        self.data.push(0);
        at
    }

    fn longs(&mut self, values: &[u64]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        self.bytes(&bytes, 8)
    }

    /// A `u32` count, then the words.
    fn words(&mut self, values: &[u32]) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "at most 65536 groups")]
        let all: Vec<u8> = [values.len() as u32].iter().chain(values).flat_map(|v| v.to_ne_bytes()).collect();
        self.bytes(&all, 4)
    }

    /// A `u32` length, then the bytes.
    fn blob(&mut self, bytes: &[u8]) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "at most 64 KiB")]
        let at = self.bytes(&(bytes.len() as u32).to_ne_bytes(), 4);
        self.data.extend_from_slice(bytes);
        at
    }

    /// A zero-terminated array of the offsets of strings.
    fn strings<S: AsRef<OsStr>>(&mut self, strings: impl IntoIterator<Item = S>) -> u64 {
        let mut offsets: Vec<u64> = strings.into_iter().map(|s| self.text(s)).collect();
        offsets.push(0);
        self.longs(&offsets)
    }

    pub(crate) fn register(&mut self) -> u64 {
        self.next_register += 1;
        self.next_register - 1
    }

    #[allow(clippy::cast_possible_truncation, reason = "far fewer than 2^32 descriptors")]
    fn send(&mut self, fd: OwnedFd) -> u32 {
        self.fds.push(fd);
        (self.fds.len() - 1) as u32
    }

    fn send_option(&mut self, fd: Option<OwnedFd>) -> u32 {
        fd.map_or(NO_SLOT, |fd| self.send(fd))
    }

    /// Waits for the donor and borrows what it made, once.
    pub(crate) fn borrow_donor(&mut self) {
        if self.header.donor_flags == 0 || std::mem::replace(&mut self.waited, true) {
            return;
        }
        let made = Namespaces::of(self.header.donor_flags);
        self.step(op::WAIT_DONOR, 0, [0; 3], "create", words(made));
        let borrowed = self.namespaces.and(Namespaces::NET | Namespaces::IPC | Namespaces::UTS);
        if borrowed != Namespaces::NONE {
            self.step(op::SETNS_DONOR, 0, [borrowed.bits(), 0, 0], "enter namespaces", borrowed.to_string());
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a plan is far below 4 GiB")]
    fn finish(mut self, command: String, detached: bool) -> Result<Program> {
        if self.fds.len() as u64 >= REGISTERS || self.next_register > 1000 {
            return Err(Error::invalid("plan", "it names more than 500 files"));
        }
        while !(DATA_START + self.data.len()).is_multiple_of(8) {
            self.data.push(0);
        }
        self.header.ops = (DATA_START + self.data.len()) as u32;
        self.header.op_count = self.ops.len() as u32;
        self.header.fd_count = self.fds.len() as u32;
        let mut bytes = header_bytes(&self.header);
        bytes.resize(DATA_START, 0);
        bytes.extend_from_slice(&self.data);
        for o in &self.ops {
            bytes.extend(o.code.to_ne_bytes().iter().chain(&o.flags.to_ne_bytes()));
            bytes.extend([o.a, o.b, o.c].iter().flat_map(|v| v.to_ne_bytes()));
        }
        bytes.push(0);
        let external_maps = if self.users.external { self.users.own } else { None };
        let h = &self.header;
        let [own, cloned, entered] = [h.own_flags, h.clone_flags, h.enter_flags].map(Namespaces::of);
        let (fds, contexts) = (self.fds, self.contexts);
        Ok(Program { bytes, fds, contexts, command, external_maps, detached, own, cloned, entered })
    }
}

/// The header as its `repr(C)` layout, field by field.
fn header_bytes(h: &Header) -> Vec<u8> {
    let mut b = Vec::with_capacity(DATA_START);
    let mut words = |values: &[u32]| b.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    words(&[h.magic, h.version, h.total, h.ops, h.op_count, h.fd_count, h.flags, h.root_uid, h.root_gid, 0]);
    b.extend([h.clone_flags, h.donor_flags, h.own_flags, h.enter_flags].iter().flat_map(|v| v.to_ne_bytes()));
    let mut words = |values: &[u32]| b.extend(values.iter().flat_map(|v| v.to_ne_bytes()));
    words(&[h.own_uid_map, h.own_gid_map, h.donor_uid_map, h.donor_gid_map, h.time_offsets]);
    words(&[h.proc_dir, h.state_dir, h.lock_file, h.listener, h.into_cgroup, h.cgroup_kill, h.oom_file]);
    words(&[h.cpu_file, h.memory_peak_file, h.forward_stdout, h.forward_stderr, h.log_max_files, h.enter]);
    b.extend(h.log_max_size.to_ne_bytes());
    b.extend([h.cleanup, h.cleanup_count].iter().flat_map(|v| v.to_ne_bytes()));
    debug_assert_eq!(b.len(), size_of::<Header>());
    b
}

/// Decides who makes which user namespace.
fn users(plan: &Sandbox, privilege: Privilege) -> Result<Users> {
    let wants_user = plan.namespaces.contains(Namespaces::USER);
    let rootless = privilege.is_rootless();
    if plan.join.is_some() {
        return Ok(enter::users(rootless));
    }
    if rootless && !wants_user && plan.namespaces != Namespaces::NONE {
        return Err(Error::invalid(
            "namespaces",
            "an ordinary user needs a user namespace to make any other; add Namespaces::USER",
        ));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let default_map = |own: u32| if rootless { Ok(IdMap::single(own)) } else { IdMap::range(0, u32::MAX) };
    let maps = match (&plan.uid_map, &plan.gid_map) {
        (Some(u), Some(g)) => (u.clone(), g.clone()),
        _ => (default_map(uid)?, default_map(gid)?),
    };
    let single = maps.0 == IdMap::single(uid) && maps.1 == IdMap::single(gid);
    let mapped = |map: &IdMap, id: u32, what| {
        map.host(id).ok_or_else(|| {
            Error::invalid(what, format!("id {id} is not in the container's id map {:?}", map.ranges()))
        })
    };
    let mut users = Users {
        own: None,
        donor: None,
        deny_setgroups: rootless && single,
        external: rootless && !single,
        rootless,
        may_mknod: privilege == Privilege::Host,
        root: (0, 0),
        tty_gid: Some(5),
    };
    if !wants_user {
        return Ok(users);
    }
    mapped(&maps.0, plan.user.uid, "user")?;
    mapped(&maps.1, plan.user.gid, "group")?;
    if users.deny_setgroups && !plan.user.groups.is_empty() {
        return Err(Error::invalid("supplementary groups", "a single-id map cannot hold any"));
    }
    if rootless {
        users.tty_gid = maps.1.host(5).map(|_| 5);
        // A second namespace inside the first: the monitor and the mounts belong to the outer one, out
        // of the program's reach.
        if plan.namespaces.contains(Namespaces::MOUNT) {
            users.donor = Some((maps.0.nested(), maps.1.nested()));
        }
        users.own = Some(maps);
    } else {
        users.root = (mapped(&maps.0, 0, "root user")?, mapped(&maps.1, 0, "root group")?);
        users.tty_gid = maps.1.host(5);
        users.donor = Some(maps);
    }
    Ok(users)
}

/// Compiles a plan for a caller with this privilege.
pub(crate) fn compile(mut plan: Sandbox, privilege: Privilege) -> Result<Program> {
    plan.validate()?;
    let users = users(&plan, privilege)?;
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        total: 0,
        ops: 0,
        op_count: 0,
        fd_count: 0,
        flags: 0,
        root_uid: users.root.0,
        root_gid: users.root.1,
        clone_flags: 0,
        donor_flags: 0,
        own_flags: 0,
        enter_flags: 0,
        own_uid_map: 0,
        own_gid_map: 0,
        donor_uid_map: 0,
        donor_gid_map: 0,
        time_offsets: 0,
        proc_dir: NO_SLOT,
        state_dir: NO_SLOT,
        lock_file: NO_SLOT,
        listener: NO_SLOT,
        into_cgroup: NO_SLOT,
        cgroup_kill: NO_SLOT,
        oom_file: NO_SLOT,
        cpu_file: NO_SLOT,
        memory_peak_file: NO_SLOT,
        forward_stdout: NO_SLOT,
        forward_stderr: NO_SLOT,
        log_max_files: 0,
        enter: NO_SLOT,
        log_max_size: 0,
        cleanup: 0,
        cleanup_count: 0,
    };
    let mut c = Compiler {
        header,
        ops: Vec::with_capacity(128),
        contexts: Vec::with_capacity(128),
        data: Vec::with_capacity(8192),
        fds: Vec::new(),
        next_register: REGISTERS,
        users,
        namespaces: plan.namespaces,
        proc: None,
        sys: None,
        dev: None,
        waited: false,
        empty: None,
        cleanup: Vec::new(),
    };
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let proc = proc.map_err(Error::io("open /proc"))?;
    // What is written there (id maps) must reach the kernel and not a file that somebody put over it.
    let kind = rustix::fs::fstatfs(&proc).map_err(Error::io("look at /proc"))?.f_type;
    if kind != rustix::fs::PROC_SUPER_MAGIC {
        return Err(Error::invalid("/proc", "it is not procfs"));
    }
    if begins_empty(&plan, privilege)
        && let Some(namespace) = empty::mount_namespace(&proc)
    {
        let fd = namespace
            .try_clone_to_owned()
            .map_err(|source| Error::Io { step: "duplicate a namespace", source })?;
        c.empty = Some(c.send(fd).into());
    }
    c.header.proc_dir = c.send(proc);
    namespaces(&mut c, &plan);
    let stdio = stdio(&mut c, &mut plan)?;
    c.step(op::DIE_WITH_PARENT, 0, [0; 3], "tie to its monitor", "the process");
    cgroups(&mut c, std::mem::take(&mut plan.cgroups), plan.namespaces);
    match plan.join.take() {
        Some(join) => enter::join(&mut c, &plan, join),
        None => {
            tree::build(&mut c, &plan)?;
            attributes(&mut c, &plan)?;
        }
    }
    identity(&mut c, &plan, stdio);
    execute(&mut c, &plan);
    let options = std::mem::take(&mut plan.monitor);
    let detached = options.detached;
    monitor(&mut c, options);
    c.finish(plan.argv[0].to_string_lossy().into_owned(), detached)
}

/// Whether the container's process can leave the host's mount namespace for an empty one.
fn begins_empty(plan: &Sandbox, privilege: Privilege) -> bool {
    privilege == Privilege::Host
        && plan.join.is_none()
        && plan.root != Root::Host
        && plan.namespaces.contains(Namespaces::MOUNT)
}

fn namespaces(c: &mut Compiler, plan: &Sandbox) {
    let set = plan.namespaces;
    // The cgroup namespace comes later (after the v1 joins), the time namespace is the helper's own.
    let mut direct = set.without(Namespaces::USER | Namespaces::CGROUP | Namespaces::TIME);
    if c.empty.is_some() {
        direct = direct.without(Namespaces::MOUNT);
    }
    let donated = Namespaces::NET | Namespaces::IPC | Namespaces::UTS;
    let maps = |c: &mut Compiler, (u, g): &(IdMap, IdMap)| {
        #[allow(clippy::cast_possible_truncation, reason = "offsets in a plan")]
        let pair = (c.text(u.kernel_text()) as u32, c.text(g.kernel_text()) as u32);
        pair
    };
    if let Some(own) = c.users.own.take() {
        c.header.own_flags |= Namespaces::USER.bits();
        (c.header.own_uid_map, c.header.own_gid_map) = maps(c, &own);
        if c.users.deny_setgroups {
            c.header.flags |= flag::OWN_DENY_SETGROUPS;
        }
        if c.users.external {
            c.header.flags |= flag::EXTERNAL_MAP;
        }
        c.users.own = Some(own);
    }
    if let Some(donor) = c.users.donor.take() {
        c.header.donor_flags = (set.and(donated) | Namespaces::USER).bits();
        c.header.clone_flags = direct.without(donated).bits();
        (c.header.donor_uid_map, c.header.donor_gid_map) = maps(c, &donor);
        if c.users.deny_setgroups {
            c.header.flags |= flag::DONOR_DENY_SETGROUPS;
        }
        c.users.donor = Some(donor);
    } else if plan.overlap && set.contains(Namespaces::NET | Namespaces::MOUNT) && !c.users.rootless {
        // A network namespace takes the kernel as long as everything else together: a donor makes it
        // at the same time.
        c.header.donor_flags = set.and(donated).bits();
        c.header.clone_flags = direct.without(donated).bits();
    } else {
        c.header.clone_flags = direct.bits();
    }
    if set.contains(Namespaces::TIME) {
        c.header.own_flags |= Namespaces::TIME.bits();
        if let Some((monotonic, boottime)) = plan.time_offsets {
            #[allow(clippy::cast_possible_truncation, reason = "offsets in a plan")]
            let at = c.text(format!("monotonic {monotonic} 0\nboottime {boottime} 0\n")) as u32;
            c.header.time_offsets = at;
        }
    }
}

/// Sends descriptors for the streams; the result is what STDIO needs.
fn stdio(c: &mut Compiler, plan: &mut Sandbox) -> Result<[u64; 3]> {
    let mut slots = [u64::from(NO_SLOT); 3];
    if plan.terminal.is_some() {
        c.header.flags |= flag::PTY | flag::PUMP;
        return Ok(slots);
    }
    for (i, stdio) in std::mem::take(&mut plan.stdio).into_iter().enumerate() {
        let fd = match stdio {
            Stdio::Null => {
                let fd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                    .map_err(Error::io("open /dev/null"))?;
                null_device(&fd)?;
                fd
            }
            Stdio::Descriptor(fd) => fd,
            Stdio::Monitor => {
                c.header.flags |= if i == 0 { flag::STDIN } else { flag::PUMP };
                continue;
            }
        };
        slots[i] = u64::from(c.send(fd));
    }
    Ok(slots)
}

/// The host's `/dev/null` must be the real one (CVE-2025-31133 class).
fn null_device(fd: &OwnedFd) -> Result<()> {
    let st = rustix::fs::fstat(fd).map_err(Error::io("stat /dev/null"))?;
    let is_char = rustix::fs::FileType::from_raw_mode(st.st_mode).is_char_device();
    if is_char && st.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(())
    } else {
        Err(Error::invalid("/dev/null", "the host's is not the null device"))
    }
}

fn cgroups(c: &mut Compiler, cgroups: Cgroups, set: Namespaces) {
    for fd in cgroups.join {
        let slot = c.send(fd);
        c.step(op::JOIN_CGROUP, 0, [u64::from(slot), 0, 0], "join", "the cgroup");
    }
    c.header.into_cgroup = c.send_option(cgroups.clone_into);
    c.header.oom_file = c.send_option(cgroups.oom);
    c.header.cpu_file = c.send_option(cgroups.cpu);
    c.header.memory_peak_file = c.send_option(cgroups.memory_peak);
    // With a pid namespace the kernel itself ends what the first process leaves behind.
    if !set.contains(Namespaces::PID) {
        c.header.cgroup_kill = c.send_option(cgroups.kill);
    }
    for (dir, name) in cgroups.remove {
        let (slot, name) = (u64::from(c.send(dir)), c.text(name));
        c.cleanup.extend([slot, name, u64::from(NO_SLOT), 1]);
    }
    if set.contains(Namespaces::CGROUP) {
        c.step(op::UNSHARE, 0, [Namespaces::CGROUP.bits(), 0, 0], "create", "the cgroup namespace");
    }
}

/// Host and domain name, loopback, sysctls, limits: all while still outside the user namespace.
fn attributes(c: &mut Compiler, plan: &Sandbox) -> Result<()> {
    c.borrow_donor();
    for (code, name, what) in
        [(op::HOSTNAME, &plan.hostname, "host name"), (op::DOMAINNAME, &plan.domainname, "domain name")]
    {
        if let Some(name) = name {
            let at = c.text(name);
            c.step(code, 0, [at, name.len() as u64, 0], "set the", what);
        }
    }
    if plan.loopback && plan.namespaces.contains(Namespaces::NET) {
        c.step(op::LOOPBACK, 0, [0; 3], "bring up", "the loopback interface");
    }
    for (key, value) in &plan.sysctls {
        let proc = c.proc.ok_or_else(|| Error::invalid("sysctl", "setting one needs the proc mount"))?;
        let (path, text) = (c.text(format!("sys/{}", key.replace('.', "/"))), c.text(value));
        c.step(op::SYSCTL, 0, [proc, path, text], "set the sysctl", key.clone());
    }
    tree::finish(c, plan);
    terminal(c, plan, true);
    if let Some(value) = plan.oom_score_adj {
        let proc =
            c.proc.ok_or_else(|| Error::invalid("oom_score_adj", "setting it needs the proc mount"))?;
        let text = c.text(value.to_string());
        c.step(op::OOM_SCORE, 0, [proc, text, 0], "set", "oom_score_adj");
    }
    let flags = if plan.create_cwd { 1 } else { 0 };
    let cwd = c.text(&plan.cwd);
    c.step(op::CHDIR, flags, [cwd, 0, 0], "enter the working directory", format!("{:?}", plan.cwd));
    if plan.read_only_root {
        c.step(op::ROOT_ATTR, 0, [0, crate::mount::attribute::RDONLY, 0], "make read-only", "the root");
    }
    rlimits(c, plan);
    Ok(())
}

/// `console`: it is the terminal of the container and also its `/dev/console`.
fn terminal(c: &mut Compiler, plan: &Sandbox, console: bool) {
    if let Some((rows, columns)) = plan.terminal {
        let owner = host_ids(c, plan);
        let gid = c.users.tty_gid.unwrap_or(owner.1);
        let size = u64::from(rows) << 16 | u64::from(columns);
        let ids = [u64::from(owner.0), u64::from(gid)];
        c.step(op::PTY, u32::from(console), [size, ids[0], ids[1]], "open", "the terminal");
    }
}

/// Last of what opens files: a low limit is for the program.
fn rlimits(c: &mut Compiler, plan: &Sandbox) {
    for l in &plan.rlimits {
        let name = format!("{:?} to {}:{}", l.resource, l.soft, l.hard);
        c.step(op::RLIMIT, 0, [l.resource as u64, l.soft, l.hard], "set the limit", name);
    }
}

/// The process's user as the set-up sees it.
fn host_ids(c: &Compiler, plan: &Sandbox) -> (u32, u32) {
    match &c.users.donor {
        Some((u, g)) => (u.host(plan.user.uid).unwrap_or(0), g.host(plan.user.gid).unwrap_or(0)),
        None => (plan.user.uid, plan.user.gid),
    }
}

/// From here on privileges only shrink.
fn identity(c: &mut Compiler, plan: &Sandbox, stdio: [u64; 3]) {
    if c.users.donor.is_some() {
        c.step(op::SETNS_DONOR, 0, [Namespaces::USER.bits(), 0, 0], "enter", "the user namespace");
        if plan.namespaces.contains(Namespaces::MOUNT) {
            // The copy into another user namespace locks every mount and its flags.
            c.step(op::UNSHARE, 0, [Namespaces::MOUNT.bits(), 0, 0], "lock", "the mounts");
        }
    }
    if let Some(name) = &plan.keyring {
        let name = c.text(name);
        c.step(op::KEYRING, 0, [name, 0, 0], "create", "the session keyring");
    }
    c.step(op::SESSION, 0, [0; 3], "start", "a session");
    c.step(op::STDIO, 0, stdio, "connect", "the standard streams");
    c.step(op::UMASK, 0, [u64::from(plan.umask), 0, 0], "set", "the umask");
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which the next steps give up.
    if !plan.no_new_privileges {
        seccomp(c, plan);
    }
    let sets = plan.capabilities;
    if let Some(sets) = sets {
        c.step(op::BOUNDING, 0, [sets.bounding.bits(), 0, 0], "drop from the bounding set", "capabilities");
    }
    let own_ids = plan.namespaces.contains(Namespaces::USER) || c.header.enter != NO_SLOT;
    let changes_user = own_ids || !c.users.rootless;
    if changes_user {
        let groups = if c.users.deny_setgroups { 0 } else { c.words(&plan.user.groups) };
        let ids = [u64::from(plan.user.uid), u64::from(plan.user.gid), groups];
        let who = format!("{}:{}", plan.user.uid, plan.user.gid);
        c.step(op::USER, u32::from(sets.is_some()), ids, "become the user", who);
    }
    if let Some(Capabilities { effective, permitted, inheritable, ambient, .. }) = sets {
        // A program run as an ordinary user starts without capabilities, whatever root would have.
        let root = plan.user.uid == 0;
        let keep = |set: crate::CapSet| if root { set.bits() } else { set.bits() & ambient.bits() };
        let masks = [keep(effective), keep(permitted), inheritable.bits()];
        c.step(op::CAPSET, 0, masks, "set", "the capabilities");
        c.step(op::AMBIENT, 0, [ambient.bits(), 0, 0], "set", "the ambient capabilities");
    }
    if plan.no_new_privileges {
        c.step(op::NO_NEW_PRIVS, 0, [0; 3], "set", "no_new_privs");
    }
    if plan.monitor.hold {
        c.header.flags |= flag::HOLD;
    }
    c.step(op::HOLD, 0, [0; 3], "wait for", "the start");
    if plan.no_new_privileges {
        seccomp(c, plan);
    }
}

fn seccomp(c: &mut Compiler, plan: &Sandbox) {
    if let Some(program) = &plan.seccomp {
        let at = c.bytes(&program.bytes(), 8);
        c.step(op::SECCOMP, 0, [at, program.instructions() as u64, 0], "install", "the seccomp filter");
    }
}

fn execute(c: &mut Compiler, plan: &Sandbox) {
    let argv = c.strings(&plan.argv);
    let env = c.strings(plan.env.iter().map(|(k, v)| {
        let mut line = OsString::with_capacity(k.len() + v.len() + 1);
        line.push(k);
        line.push("=");
        line.push(v);
        line
    }));
    let program = &plan.argv[0];
    let candidates = if program.as_bytes().contains(&b'/') {
        c.strings([program])
    } else {
        let path = plan
            .env
            .iter()
            .find(|(k, _)| k == "PATH")
            .map_or(OsStr::new(DEFAULT_PATH), |(_, v)| v.as_os_str());
        let joined: Vec<CString> = path
            .as_bytes()
            .split(|b| *b == b':')
            // An empty element would mean the working directory: never run what happens to lie there.
            .filter(|dir| dir.starts_with(b"/"))
            .filter_map(|dir| CString::new([dir, b"/", program.as_bytes()].concat()).ok())
            .collect();
        c.strings(joined.iter().map(|s| OsStr::from_bytes(s.as_bytes())))
    };
    c.step(op::EXEC, 0, [argv, env, candidates], "execute", program.to_string_lossy().into_owned());
}

fn monitor(c: &mut Compiler, options: MonitorOptions) {
    let wanted = [
        (options.detached, flag::DETACHED),
        (options.log, flag::LOG),
        (options.exit_record, flag::EXIT_FILE),
    ];
    c.header.flags |= wanted.iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit);
    c.header.state_dir = c.send_option(options.state_dir);
    c.header.lock_file = c.send_option(options.lock);
    c.header.listener = c.send_option(options.listener);
    let [out, err] = options.forward;
    c.header.forward_stdout = c.send_option(out);
    c.header.forward_stderr = c.send_option(err);
    for discard in options.discard {
        match discard {
            Discard::Rename { from, name, to, new } => {
                let (from, to) = (u64::from(c.send(from)), u64::from(c.send(to)));
                let (name, new) = (c.text(name), c.text(new));
                c.cleanup.extend([from, name, to, new]);
            }
            Discard::Unlink { dir, name } => {
                let (dir, name) = (u64::from(c.send(dir)), c.text(name));
                c.cleanup.extend([dir, name, u64::from(NO_SLOT), 0]);
            }
        }
    }
    let cleanup = std::mem::take(&mut c.cleanup);
    #[allow(clippy::cast_possible_truncation, reason = "offsets in a plan")]
    if !cleanup.is_empty() {
        c.header.cleanup_count = (cleanup.len() / 4) as u32;
        c.header.cleanup = c.longs(&cleanup) as u32;
    }
    c.header.log_max_size = options.log_max_size;
    c.header.log_max_files = options.log_max_files;
}
