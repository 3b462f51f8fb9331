//! Capabilities, see capabilities(7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Names in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability. Parses with and without `CAP_`, in any case.
///
/// ```
/// use boxship_namespaces::Capability;
/// let cap: Capability = "cap_net_raw".parse()?;
/// assert_eq!(cap.to_string(), "CAP_NET_RAW");
/// # Ok::<(), boxship_namespaces::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(u8);

impl Capability {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Capability {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match NAMES.iter().position(|n| *n == name) {
            #[allow(clippy::cast_possible_truncation, reason = "an index below 41")]
            Some(n) => Ok(Capability(n as u8)),
            None => Err(Error::invalid("capability", format!("{s:?} is not one of capabilities(7)"))),
        }
    }
}

impl TryFrom<String> for Capability {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<Capability> for String {
    fn from(c: Capability) -> String {
        c.to_string()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", NAMES[usize::from(self.0)])
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CapSet(u64);

impl CapSet {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// All capabilities that this crate knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID: what package managers and daemons that
    /// drop privileges need.
    pub const DEFAULT: Self = Self(1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7);
    /// Docker's 14.
    pub const DOCKER: Self =
        Self(Self::DEFAULT.0 | 1 << 8 | 1 << 10 | 1 << 13 | 1 << 18 | 1 << 27 | 1 << 29 | 1 << 31);

    /// The bit mask of the kernel.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the set holds `cap`.
    #[must_use]
    pub const fn contains(self, cap: Capability) -> bool {
        self.0 & (1 << cap.0) != 0
    }

    /// This set and `cap`.
    #[must_use]
    pub const fn with(self, cap: Capability) -> Self {
        Self(self.0 | 1 << cap.0)
    }

    /// This set without `cap`.
    #[must_use]
    pub const fn without(self, cap: Capability) -> Self {
        Self(self.0 & !(1 << cap.0))
    }

    /// Its members in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0u8..41).map(Capability).filter(move |c| self.contains(*c))
    }
}

impl FromIterator<Capability> for CapSet {
    fn from_iter<I: IntoIterator<Item = Capability>>(caps: I) -> Self {
        caps.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The five sets of a process. The inheritable and ambient sets are empty unless asked for: a
/// non-empty inheritable set is how CVE-2022-24769 and its kin gave privileges back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most that any program run in the container may get.
    pub bounding: CapSet,
    /// What the first program uses when it runs as root.
    pub effective: CapSet,
    /// What it may make effective.
    pub permitted: CapSet,
    /// What survives execve by file capabilities.
    pub inheritable: CapSet,
    /// What survives execve of a program without file capabilities.
    pub ambient: CapSet,
}

impl Capabilities {
    /// `set` as bounding, effective and permitted; nothing inheritable or ambient.
    #[must_use]
    pub const fn bounded(set: CapSet) -> Self {
        Self {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: CapSet::NONE,
            ambient: CapSet::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets() {
        assert_eq!("SYS_ADMIN".parse::<Capability>().map(Capability::number).ok(), Some(21));
        assert_eq!("cap_checkpoint_restore".parse::<Capability>().map(Capability::number).ok(), Some(40));
        assert!("CAP_".parse::<Capability>().is_err() && "ROOT".parse::<Capability>().is_err());
        assert_eq!(CapSet::DOCKER.iter().count(), 14);
        assert_eq!(CapSet::DEFAULT.iter().count(), 7);
        assert_eq!(CapSet::ALL.iter().count(), 41);
        assert_eq!(format!("{:?}", CapSet::NONE.with(Capability(13))), "{CAP_NET_RAW}");
    }
}
