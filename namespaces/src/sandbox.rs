//! The plan: what the process is and what it can see, as data that is validated before anything
//! is touched.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::caps::Capabilities;
use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::kind::Namespaces;
use crate::mount::{Mount, Root};
use crate::profile::Profile;
use crate::seccomp;

/// A limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which resource.
    pub resource: nix::sys::resource::Resource,
    /// What the process starts with.
    pub soft: u64,
    /// What it may raise it to.
    pub hard: u64,
}

/// Who the process runs as, in ids of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub groups: Vec<u32>,
}

/// Where a standard stream leads.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// A descriptor of the caller: a pipe, a file, a socket, its own stream.
    Descriptor(OwnedFd),
    /// The monitor: it logs, forwards and serves attached clients; for stdin, it passes input on.
    Monitor,
}

/// A device node in `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The node of the host; must be a character or block device.
    pub source: PathBuf,
    /// The name below `/dev`, without further directories.
    pub name: OsString,
}

/// A file with content, mounted over a path (`/etc/hosts` and the like).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallFile {
    /// Where it appears.
    pub target: PathBuf,
    /// What it holds, at most 64 KiB.
    pub content: Vec<u8>,
}

/// A process in namespaces: the plan that [`spawn`](Sandbox::spawn) carries out.
///
/// The setters never fail; the first unusable value comes back from `spawn`, before anything is
/// touched.
///
/// ```no_run
/// use boxship_namespaces::{Namespaces, Sandbox, Stdio};
/// let mut child = Sandbox::command("/bin/hostname")
///     .namespaces(Namespaces::USER | Namespaces::UTS | Namespaces::PID)
///     .hostname("inside")
///     .stdout(Stdio::Descriptor(std::io::stdout().lock().as_fd().try_clone_to_owned()?))
///     .spawn()?;
/// println!("{:?}", child.wait()?);
/// # use std::os::fd::AsFd;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a plan does nothing until it is spawned"]
pub struct Sandbox {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: PathBuf,
    pub(crate) create_cwd: bool,
    pub(crate) user: User,
    pub(crate) umask: u32,
    pub(crate) namespaces: Namespaces,
    pub(crate) join: Option<Join>,
    pub(crate) uid_map: Option<IdMap>,
    pub(crate) gid_map: Option<IdMap>,
    pub(crate) time_offsets: Option<(i64, i64)>,
    pub(crate) root: Root,
    pub(crate) id_mapped_root: bool,
    pub(crate) read_only_root: bool,
    pub(crate) root_attributes: u64,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    pub(crate) files: Vec<SmallFile>,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) read_only: Vec<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<seccomp::Program>,
    pub(crate) keyring: Option<String>,
    pub(crate) oom_score_adj: Option<i16>,
    pub(crate) loopback: bool,
    pub(crate) overlap: bool,
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) stdio: [Stdio; 3],
    pub(crate) cgroups: Cgroups,
    pub(crate) monitor: MonitorOptions,
}

/// The process whose namespaces are joined.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) process: OwnedFd,
    pub(crate) set: Namespaces,
}

/// The container's cgroups, as descriptors that another crate opened.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// v1: the `tasks` file of each hierarchy; the process writes itself into them.
    pub join: Vec<OwnedFd>,
    /// v2 (also `unified` of a hybrid host): the directory that the process is cloned into.
    pub clone_into: Option<OwnedFd>,
    /// `cgroup.kill`, to end processes that outlive the first one without a pid namespace.
    pub kill: Option<OwnedFd>,
    /// `memory.oom_control` or `memory.events`: counts OOM kills.
    pub oom: Option<OwnedFd>,
    /// `cpuacct.usage` or `cpu.stat`.
    pub cpu: Option<OwnedFd>,
    /// `memory.max_usage_in_bytes` or `memory.peak`.
    pub memory_peak: Option<OwnedFd>,
    /// Parent directories and names, removed by the monitor after the exit.
    pub remove: Vec<(OwnedFd, String)>,
}

/// Something of the container that goes when it ends.
#[derive(Debug)]
pub enum Discard {
    /// Move it out of sight in one step.
    Rename {
        /// Where it is.
        from: OwnedFd,
        /// What it is called.
        name: String,
        /// Where it goes.
        to: OwnedFd,
        /// What it is called there.
        new: String,
    },
    /// Remove a file or symlink.
    Unlink {
        /// Where it is.
        dir: OwnedFd,
        /// What it is called.
        name: String,
    },
}

/// What the monitor does besides watching the process.
#[derive(Debug, Default)]
pub struct MonitorOptions {
    /// Outlive the caller. Otherwise the container is killed as soon as the caller is gone.
    pub detached: bool,
    /// Stop before execve until [`Child::release`](crate::Child::release).
    pub hold: bool,
    /// The directory for `log` and `exit`.
    pub state_dir: Option<OwnedFd>,
    /// Write the log (needs `state_dir` and streams that lead to the monitor).
    pub log: bool,
    /// Rotate the log at this many bytes; 0 = never.
    pub log_max_size: u64,
    /// Rotated logs to keep.
    pub log_max_files: u32,
    /// Write the exit record durably to `state_dir`.
    pub exit_record: bool,
    /// A locked file that stays locked as long as the monitor lives; it receives the pid.
    pub lock: Option<OwnedFd>,
    /// A listening `SOCK_SEQPACKET` socket for attached processes.
    pub listener: Option<OwnedFd>,
    /// Where pumped output is copied to.
    pub forward: [Option<OwnedFd>; 2],
    /// What the monitor removes after the exit has been told (or when the start failed).
    pub discard: Vec<Discard>,
}

impl Sandbox {
    /// A program with nothing isolated yet, an empty environment and `/` as its directory.
    pub fn command(program: impl AsRef<OsStr>) -> Sandbox {
        Sandbox {
            argv: vec![program.as_ref().to_owned()],
            env: Vec::new(),
            cwd: "/".into(),
            create_cwd: false,
            user: User::default(),
            umask: 0o022,
            namespaces: Namespaces::NONE,
            join: None,
            uid_map: None,
            gid_map: None,
            time_offsets: None,
            root: Root::Host,
            id_mapped_root: false,
            read_only_root: false,
            root_attributes: 0,
            mounts: Vec::new(),
            devices: Vec::new(),
            files: Vec::new(),
            masked: Vec::new(),
            read_only: Vec::new(),
            hostname: None,
            domainname: None,
            sysctls: Vec::new(),
            rlimits: Vec::new(),
            capabilities: None,
            no_new_privileges: false,
            seccomp: None,
            keyring: None,
            oom_score_adj: None,
            loopback: false,
            overlap: true,
            terminal: None,
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            cgroups: Cgroups::default(),
            monitor: MonitorOptions::default(),
        }
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds a variable of the environment; nothing is inherited from the caller.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory, an absolute path in the container.
    pub fn cwd(mut self, path: impl AsRef<Path>) -> Self {
        self.cwd = path.as_ref().to_owned();
        self
    }

    /// Creates a missing working directory, as Docker does.
    pub fn create_cwd(mut self, create: bool) -> Self {
        self.create_cwd = create;
        self
    }

    /// Sets who the process runs as; the default is root with no further groups.
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// Sets the file mode creation mask, umask(2); 022 by default.
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = mask;
        self
    }

    /// Sets the namespaces that the process gets of its own.
    pub fn namespaces(mut self, set: Namespaces) -> Self {
        self.namespaces = set;
        self
    }

    /// Joins these namespaces of a running process (a pidfd, pidfd_open(2)) instead of making any: a
    /// further process in its container. Ids, paths and the terminal are the container's. What only a new
    /// tree can have (root, mounts, devices, files, masks, host name, sysctls) cannot be combined with it.
    pub fn join(mut self, process: OwnedFd, set: Namespaces) -> Self {
        self.join = Some(Join { process, set });
        self
    }

    /// Sets the id maps of the user namespace. Without them an ordinary user's own id becomes root,
    /// and root's container uses the host's ids.
    pub fn id_maps(mut self, uids: IdMap, gids: IdMap) -> Self {
        self.uid_map = Some(uids);
        self.gid_map = Some(gids);
        self
    }

    /// Sets the offsets of the monotonic and the boot clock in seconds (needs [`Namespaces::TIME`]).
    pub fn time_offsets(mut self, monotonic: i64, boottime: i64) -> Self {
        self.time_offsets = Some((monotonic, boottime));
        self
    }

    /// Sets where "/" comes from (needs [`Namespaces::MOUNT`] unless it is the host's).
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Shows the files of the root's layers with the container's ids (idmapped mounts). For a root
    /// whose files carry host ids while the container has a user namespace.
    pub fn id_mapped_root(mut self, on: bool) -> Self {
        self.id_mapped_root = on;
        self
    }

    /// Forbids writing to the root.
    pub fn read_only_root(mut self, on: bool) -> Self {
        self.read_only_root = on;
        self
    }

    /// Forbids setuid programs and device nodes on the root (`nosuid`, `nodev`).
    pub fn hardened_root(mut self, on: bool) -> Self {
        self.root_attributes =
            if on { crate::mount::attribute::NOSUID | crate::mount::attribute::NODEV } else { 0 };
        self
    }

    /// Adds mounts, made in this order.
    pub fn mounts(mut self, mounts: impl IntoIterator<Item = Mount>) -> Self {
        self.mounts.extend(mounts);
        self
    }

    /// Adds a device node (needs [`Mount::dev`]).
    pub fn device(mut self, device: Device) -> Self {
        self.devices.push(device);
        self
    }

    /// Adds a small file mounted over a path.
    pub fn file(mut self, target: impl AsRef<Path>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push(SmallFile { target: target.as_ref().to_owned(), content: content.into() });
        self
    }

    /// Hides paths: directories become empty, files read as empty; missing ones are skipped.
    pub fn masked_paths<I: IntoIterator<Item = P>, P: AsRef<Path>>(mut self, paths: I) -> Self {
        self.masked.extend(paths.into_iter().map(|p| p.as_ref().to_owned()));
        self
    }

    /// Makes paths read-only; missing ones are skipped.
    pub fn read_only_paths<I: IntoIterator<Item = P>, P: AsRef<Path>>(mut self, paths: I) -> Self {
        self.read_only.extend(paths.into_iter().map(|p| p.as_ref().to_owned()));
        self
    }

    /// Sets the host name (needs [`Namespaces::UTS`]).
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// Sets the NIS domain name (needs [`Namespaces::UTS`]).
    pub fn domainname(mut self, name: impl Into<String>) -> Self {
        self.domainname = Some(name.into());
        self
    }

    /// Sets a kernel parameter of a namespace, `net.ipv4.ip_forward` style.
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.sysctls.push((key.into(), value.into()));
        self
    }

    /// Adds a resource limit.
    pub fn rlimit(mut self, limit: Rlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Sets the five capability sets; without this they stay as namespaces and ids make them.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Sets `no_new_privs`: no program run in the container can gain privileges.
    pub fn no_new_privileges(mut self, on: bool) -> Self {
        self.no_new_privileges = on;
        self
    }

    /// Sets the system call filter.
    pub fn seccomp(mut self, program: seccomp::Program) -> Self {
        self.seccomp = Some(program);
        self
    }

    /// Gives the process a session keyring of its own, so that it cannot see the caller's keys.
    pub fn session_keyring(mut self, name: impl Into<String>) -> Self {
        self.keyring = Some(name.into());
        self
    }

    /// Sets how readily the kernel kills the process when memory is short, -1000 to 1000; lowering
    /// it needs `CAP_SYS_RESOURCE`.
    pub fn oom_score_adj(mut self, value: i16) -> Self {
        self.oom_score_adj = Some(value);
        self
    }

    /// Brings up `lo` (needs [`Namespaces::NET`]).
    pub fn loopback(mut self, on: bool) -> Self {
        self.loopback = on;
        self
    }

    /// Makes the network namespace in a process of its own while the mounts are made: sooner ready when
    /// another core is idle (the default), more work in all when none is.
    pub fn overlap(mut self, on: bool) -> Self {
        self.overlap = on;
        self
    }

    /// Gives the process a terminal of `rows` and `columns` as its three streams; the monitor holds
    /// the other end. Needs [`Mount::devpts`].
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
        self
    }

    /// Sets standard input.
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Sets standard output.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Sets standard error.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// Sets the cgroups to run in.
    pub fn cgroups(mut self, cgroups: Cgroups) -> Self {
        self.cgroups = cgroups;
        self
    }

    /// Sets what the monitor does.
    pub fn monitor(mut self, options: MonitorOptions) -> Self {
        self.monitor = options;
        self
    }

    /// Applies a profile's capabilities, `no_new_privs`, seccomp policy, masked and read-only paths.
    /// The caller still chooses namespaces, root and mounts.
    ///
    /// # Errors
    /// As [`seccomp::Profile::compile`].
    pub fn profile(self, profile: Profile) -> Result<Self> {
        Ok(self
            .capabilities(Capabilities::bounded(profile.capabilities()))
            .no_new_privileges(profile.no_new_privileges())
            .seccomp(profile.seccomp_program()?)
            .masked_paths(profile.masked_paths())
            .read_only_paths(profile.read_only_paths()))
    }

    /// Checks every value; `spawn` does so itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first bad value and what would be allowed.
    pub fn validate(&self) -> Result<()> {
        let bad = |what, reason: String| Err(Error::invalid(what, reason));
        if self.argv.first().is_none_or(|p| p.is_empty()) {
            return bad("command", "it is empty".into());
        }
        let strings = self.argv.iter().chain(self.env.iter().flat_map(|(k, v)| [k, v]));
        if let Some(s) = strings.into_iter().find(|s| s.as_encoded_bytes().contains(&0)) {
            return bad("command or environment", format!("{s:?} contains a NUL byte"));
        }
        if let Some((key, _)) =
            self.env.iter().find(|(k, _)| k.is_empty() || k.as_encoded_bytes().contains(&b'='))
        {
            return bad("environment", format!("{key:?} is not a variable name"));
        }
        if !self.cwd.is_absolute() {
            return bad("working directory", format!("{:?} is not absolute", self.cwd));
        }
        if self.umask > 0o777 {
            return bad("umask", format!("{:o} is beyond 777", self.umask));
        }
        self.validate_names()?;
        self.validate_mounts()?;
        self.validate_join()?;
        if self.oom_score_adj.is_some_and(|v| !(-1000..=1000).contains(&v)) {
            return bad("oom_score_adj", "it must be between -1000 and 1000".into());
        }
        if let Some(l) = self.rlimits.iter().find(|l| l.soft > l.hard) {
            return bad(
                "rlimit",
                format!("{:?}: the soft limit {} passes the hard limit {}", l.resource, l.soft, l.hard),
            );
        }
        if self.user.uid == u32::MAX || self.user.gid == u32::MAX {
            return bad("user", "4294967295 means \"unchanged\" to the kernel and is no id".into());
        }
        Ok(())
    }

    fn validate_join(&self) -> Result<()> {
        let Some(join) = &self.join else { return Ok(()) };
        let makes = self.namespaces != Namespaces::NONE || self.loopback || self.uid_map.is_some();
        if makes || self.create_cwd {
            return Err(Error::invalid(
                "join",
                "a process joins namespaces or makes its own, and joining makes nothing else either",
            ));
        }
        if !join.set.contains(Namespaces::PID | Namespaces::MOUNT) {
            return Err(Error::invalid("join", "a process joins at least the pid and mount namespaces"));
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<()> {
        for (what, name) in [("hostname", &self.hostname), ("domain name", &self.domainname)] {
            let Some(name) = name else { continue };
            let ok = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.' || c == b'_';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(ok) {
                return Err(Error::invalid(
                    what,
                    format!("{name:?} is not 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'"),
                ));
            }
            if !self.namespaces.contains(Namespaces::UTS) {
                return Err(Error::invalid(what, "setting it needs a UTS namespace"));
            }
        }
        for (key, value) in &self.sysctls {
            let ok = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
            if key.is_empty() || !key.bytes().all(ok) || key.contains("..") || value.contains('\0') {
                return Err(Error::invalid("sysctl", format!("{key:?} is not a dotted parameter name")));
            }
            let namespaced = (key.starts_with("net.") && self.namespaces.contains(Namespaces::NET))
                || (self.namespaces.contains(Namespaces::IPC)
                    && (key.starts_with("fs.mqueue.")
                        || matches!(
                            key.as_str(),
                            "kernel.msgmax"
                                | "kernel.msgmnb"
                                | "kernel.msgmni"
                                | "kernel.sem"
                                | "kernel.shmall"
                                | "kernel.shmmax"
                                | "kernel.shmmni"
                                | "kernel.shm_rmid_forced"
                        )));
            if !namespaced {
                return Err(Error::invalid(
                    "sysctl",
                    format!("{key:?} would change the host: it belongs to no namespace of this container"),
                ));
            }
        }
        Ok(())
    }

    fn validate_mounts(&self) -> Result<()> {
        let needs_mounts = self.root != Root::Host
            || !self.mounts.is_empty()
            || !self.masked.is_empty()
            || !self.read_only.is_empty()
            || !self.files.is_empty()
            || !self.devices.is_empty();
        if needs_mounts && !self.namespaces.contains(Namespaces::MOUNT) {
            return Err(Error::invalid("root or mounts", "they need a mount namespace"));
        }
        if self.root == Root::Host && (self.read_only_root || self.root_attributes != 0) {
            return Err(Error::invalid(
                "root",
                "the host's own root can be neither read-only nor restricted",
            ));
        }
        if self.monitor.exit_record && self.monitor.state_dir.is_none() {
            return Err(Error::invalid("exit record", "it needs a state directory"));
        }
        let targets = self.mounts.iter().map(|m| &m.target).chain(self.files.iter().map(|f| &f.target));
        for target in targets.chain(&self.masked).chain(&self.read_only) {
            let up = target.components().any(|c| c == std::path::Component::ParentDir);
            if !target.is_absolute() || up || target.parent().is_none() || target.as_os_str().len() > 4000 {
                let reason = format!("{target:?} is not an absolute path below / without \"..\"");
                return Err(Error::invalid("mount target", reason));
            }
        }
        if let Root::Overlay(o) = &self.root
            && !(1..=500).contains(&o.layers.len())
        {
            return Err(Error::invalid(
                "root",
                format!("{} layers; the kernel takes 1 to 500", o.layers.len()),
            ));
        }
        if let Some(f) = self.files.iter().find(|f| f.content.len() > 65_536) {
            return Err(Error::invalid("file", format!("{:?} is larger than 64 KiB", f.target)));
        }
        if self.terminal.is_some()
            && self.join.is_none()
            && !self.mounts.iter().any(|m| m.kind == crate::mount::Kind::Devpts)
        {
            return Err(Error::invalid("terminal", "it needs a devpts mount"));
        }
        Ok(())
    }
}
