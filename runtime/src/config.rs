//! What a container is made of: the options, merged with the image's configuration.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use boxship_cgroups::Limits;
use boxship_layers::{Digest, Image};
use boxship_namespaces::{Capability, Profile};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::untrusted::UntrustedImageConfig;

/// The container's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Network {
    /// A network namespace with nothing but `lo`.
    #[default]
    None,
    /// The host's network: no isolation of it at all.
    Host,
}

/// A directory or file of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// The path on the host.
    pub source: PathBuf,
    /// Also allow sources that give the host away (`/`, `/proc`, `/sys`, `/dev`, the store).
    pub dangerous: bool,
}

/// A mount that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// From the host.
    Bind(BindMount),
    /// In memory.
    Tmpfs {
        /// The limit in bytes.
        size: Option<u64>,
        /// The mode of its root.
        mode: u32,
    },
}

/// A mount and where it appears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// The absolute path in the container.
    pub target: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether writing is forbidden.
    pub read_only: bool,
}

/// A limit of setrlimit(2) by its lower-case name without `RLIMIT_`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// "nofile", "nproc", "core", …
    pub name: String,
    /// What the process starts with.
    pub soft: u64,
    /// What it may raise it to.
    pub hard: u64,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its path on the host.
    pub source: PathBuf,
    /// Its name below `/dev` in the container.
    pub name: String,
}

/// How logs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Bytes of one file; 0 = no limit.
    pub max_size: u64,
    /// Rotated files kept beside the current one.
    pub max_files: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { max_size: 10 << 20, max_files: 3 }
    }
}

/// The whole configuration of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// 32 hex digits, unique in the store.
    pub id: String,
    /// A name chosen by the user.
    pub name: Option<String>,
    /// The image's name or digest as it was asked for.
    pub image: Option<String>,
    /// The digest of the image's manifest; older versions did not record it.
    pub manifest: Option<Digest>,
    /// The image's layers, the lowest first.
    pub layers: Vec<Digest>,
    /// A directory to use as the root instead of an image.
    pub rootfs: Option<PathBuf>,
    /// The command and its arguments, entrypoint included.
    pub command: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The working directory.
    pub workdir: PathBuf,
    /// `user`, `user:group`, by name or number; empty = root.
    pub user: String,
    /// The host name; the short id by default.
    pub hostname: Option<String>,
    /// Mounts besides the standard ones.
    pub mounts: Vec<MountPoint>,
    /// Whether the root is read-only; the profile's choice by default.
    pub read_only_root: Option<bool>,
    /// Limits of the cgroup.
    pub limits: Limits,
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Capabilities added to the profile's.
    pub cap_add: Vec<Capability>,
    /// Capabilities taken from them; after adding.
    pub cap_drop: Vec<Capability>,
    /// The isolation profile.
    pub profile: Profile,
    /// A user namespace or not; the profile's choice by default.
    pub user_namespace: Option<bool>,
    /// Devices besides the standard ones.
    pub devices: Vec<DeviceNode>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Keep stdin open for attached processes.
    pub stdin_open: bool,
    /// The rows and columns of a terminal.
    pub terminal: Option<(u16, u16)>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Remove it when its process has ended.
    pub auto_remove: bool,
    /// Its network.
    pub network: Network,
    /// Its logs.
    pub log: LogOptions,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            id: random_id(),
            name: None,
            image: None,
            manifest: None,
            layers: Vec::new(),
            rootfs: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            workdir: "/".into(),
            user: String::new(),
            hostname: None,
            mounts: Vec::new(),
            read_only_root: None,
            limits: Limits::default(),
            ulimits: Vec::new(),
            sysctls: BTreeMap::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            profile: Profile::Default,
            user_namespace: None,
            devices: Vec::new(),
            labels: BTreeMap::new(),
            stdin_open: false,
            terminal: None,
            stop_signal: 15,
            auto_remove: false,
            network: Network::None,
            log: LogOptions::default(),
        }
    }
}

fn random_id() -> String {
    let mut bytes = [0u8; 16];
    // 16 bytes at once are never cut short, and nothing refuses them but a filter (getrandom(2)). Left empty,
    // the second container with that id is refused.
    let _ = rustix::io::retry_on_intr(|| {
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
    });
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Config {
    /// The image's settings with another command (an empty one keeps the image's).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an image whose configuration is unusable: an environment entry without
    /// `=`, absurdly long lists, a relative working directory.
    pub fn from_image<I: IntoIterator<Item = S>, S: Into<String>>(
        image: &Image,
        command: I,
    ) -> Result<Config> {
        let mut config = Config {
            image: Some(image.name().map_or_else(|| image.digest().to_string(), str::to_owned)),
            manifest: Some(*image.digest()),
            layers: image.layers().to_vec(),
            ..Config::default()
        };
        let command: Vec<String> = command.into_iter().map(Into::into).collect();
        config.apply_image(image, None, command)?;
        Ok(config)
    }

    /// Applies an image's configuration, which is data from a stranger: it sets the command, the
    /// environment, the working directory, the user and the stop signal, and nothing else.
    ///
    /// # Errors
    /// As [`from_image`](Config::from_image).
    pub fn apply_image(
        &mut self,
        image: &Image,
        entrypoint: Option<Vec<String>>,
        command: Vec<String>,
    ) -> Result<()> {
        let empty = oci_spec::image::Config::default();
        self.apply_document(image.config().unwrap_or(&empty), entrypoint, command)
    }

    /// As [`apply_image`](Config::apply_image), from the document itself.
    pub(crate) fn apply_document(
        &mut self,
        c: &oci_spec::image::Config,
        entrypoint: Option<Vec<String>>,
        command: Vec<String>,
    ) -> Result<()> {
        let image = UntrustedImageConfig(c).judge()?;
        // As Docker: a new entrypoint resets the image's command.
        let (entry, default) = match entrypoint {
            Some(e) => (e, Vec::new()),
            None => (image.entrypoint, image.command),
        };
        self.command = entry.into_iter().chain(if command.is_empty() { default } else { command }).collect();
        for (key, value) in image.env {
            self.env.entry(key).or_insert(value);
        }
        if let Some(dir) = image.workdir.filter(|_| self.workdir == Path::new("/")) {
            self.workdir = dir;
        }
        if let Some(user) = image.user.filter(|_| self.user.is_empty()) {
            self.user = user;
        }
        if let Some(signal) = image.stop_signal {
            self.stop_signal = signal;
        }
        Ok(())
    }

    /// Checks every value that can be checked without the host.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first bad one, [`Error::Cgroups`] for limits.
    pub fn validate(&self) -> Result<()> {
        let bad = |what, reason: String| Err(Error::invalid(what, reason));
        if self.command.first().is_none_or(String::is_empty) {
            return bad("command", "it is empty, and the image has no default one".into());
        }
        if self.layers.is_empty() && self.rootfs.is_none() {
            return bad("root", "name an image or a root file system directory".into());
        }
        if let Some(name) = &self.name {
            let ok = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
            if !first || name.len() > 128 || !name.chars().all(ok) {
                return bad(
                    "container name",
                    format!("{name:?} is not 1 to 128 letters, digits, '_', '.' and '-'"),
                );
            }
        }
        if !self.workdir.is_absolute() {
            return bad("working directory", format!("{:?} is not an absolute path", self.workdir));
        }
        for (i, m) in self.mounts.iter().enumerate() {
            if self.mounts[..i].iter().any(|other| other.target == m.target) {
                return bad("mount target", format!("{:?} is given twice", m.target));
            }
            let up = m.target.components().any(|c| c == Component::ParentDir);
            if !m.target.is_absolute() || up || m.target == Path::new("/") {
                return bad("mount target", format!("{:?} is not an absolute path below /", m.target));
            }
            if covers_proc(&m.target) {
                let reason = format!("{:?} would cover what the kernel says in /proc", m.target);
                return bad("mount target", reason);
            }
            if let MountKind::Bind(b) = &m.kind {
                b.resolve()?;
            }
        }
        for l in &self.ulimits {
            crate::plan::resource(&l.name)?;
        }
        if parse_signal(&self.stop_signal.to_string()).is_none() {
            return bad("stop signal", format!("{} is no signal number", self.stop_signal));
        }
        self.limits.validate()?;
        Ok(())
    }
}

impl BindMount {
    /// Where the source really is, judged. Whoever uses it must not resolve it again.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a relative source and for one that gives the host away,
    /// [`Error::Io`] for one that does not exist.
    pub(crate) fn resolve(&self) -> Result<PathBuf> {
        let source = &self.source;
        if !source.is_absolute() {
            return Err(Error::invalid("mount source", format!("{source:?} is not an absolute path")));
        }
        #[allow(clippy::disallowed_methods, reason = "the caller's own path, mounted as resolved here")]
        let real = std::fs::canonicalize(source).map_err(Error::io("use as a mount source", source))?;
        let given_away = ["/", "/proc", "/sys", "/dev"].iter().any(|p| real == Path::new(p))
            || ["/proc/", "/sys/"].iter().any(|p| real.starts_with(p));
        if given_away && !self.dangerous {
            let reason =
                format!("{source:?} would give the container the host; mark it as dangerous to insist");
            return Err(Error::invalid("mount source", reason));
        }
        Ok(real)
    }
}

/// Programs of the container decide on security by what they read and write there (CVE-2019-16884). The
/// files that say nothing about security, and that tools replace to show a container's limits, may be
/// covered.
fn covers_proc(target: &Path) -> bool {
    const HARMLESS: [&str; 7] = ["cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime"];
    target.strip_prefix("/proc").is_ok_and(|below| !HARMLESS.iter().any(|name| below == Path::new(name)))
}

/// The signals that C libraries leave to programs, signal(7).
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`; `None` for what is no signal.
#[must_use]
pub fn parse_signal(s: &str) -> Option<i32> {
    if let Ok(n) = s.parse::<i32>() {
        return ((1..=31).contains(&n) || REAL_TIME.contains(&n)).then_some(n);
    }
    let name = s.strip_prefix("SIG").unwrap_or(s);
    let real_time = |first: i32, rest: &str| match rest.parse::<i32>() {
        _ if rest.is_empty() => Some(first),
        // With its sign.
        Ok(n) if rest.starts_with(['+', '-']) => first.checked_add(n).filter(|n| REAL_TIME.contains(n)),
        _ => None,
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(*REAL_TIME.start(), rest),
        (_, Some(rest)) => real_time(*REAL_TIME.end(), rest),
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(
            ["15", "TERM", "SIGQUIT", "31"].map(parse_signal),
            [Some(15), Some(15), Some(3), Some(31)]
        );
        assert_eq!(
            ["RTMIN", "SIGRTMIN+3", "RTMAX-1", "SIGRTMAX", "40"].map(parse_signal),
            [Some(34), Some(37), Some(63), Some(64), Some(40)]
        );
        let none =
            ["", "0", "32", "33", "65", "-1", "NOPE", "RTMIN3", "RTMIN-1", "RTMAX+1", "RTMIN+2147483647"];
        assert_eq!(none.map(parse_signal), [None; 11]);
    }
}
