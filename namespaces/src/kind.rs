//! Which namespaces a process gets of its own.

use std::fmt;
use std::ops::BitOr;

/// A set of namespace kinds, see namespaces(7).
///
/// ```
/// use boxship_namespaces::Namespaces;
/// let set = Namespaces::PID | Namespaces::UTS;
/// assert!(set.contains(Namespaces::PID) && !set.contains(Namespaces::NET));
/// assert_eq!(set.to_string(), "pid,uts");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Namespaces(u64);

impl Namespaces {
    /// No namespace: everything shared with the caller.
    pub const NONE: Self = Self(0);
    /// Mounts, mount_namespaces(7).
    #[doc(alias = "CLONE_NEWNS")]
    pub const MOUNT: Self = Self(0x0002_0000);
    /// Root of the cgroup view, cgroup_namespaces(7).
    #[doc(alias = "CLONE_NEWCGROUP")]
    pub const CGROUP: Self = Self(0x0200_0000);
    /// Host and domain name, uts_namespaces(7).
    #[doc(alias = "CLONE_NEWUTS")]
    pub const UTS: Self = Self(0x0400_0000);
    /// System V IPC and POSIX message queues, ipc_namespaces(7).
    #[doc(alias = "CLONE_NEWIPC")]
    pub const IPC: Self = Self(0x0800_0000);
    /// User and group ids, user_namespaces(7).
    #[doc(alias = "CLONE_NEWUSER")]
    pub const USER: Self = Self(0x1000_0000);
    /// Process ids, pid_namespaces(7).
    #[doc(alias = "CLONE_NEWPID")]
    pub const PID: Self = Self(0x2000_0000);
    /// Network devices, addresses, ports, network_namespaces(7).
    #[doc(alias = "CLONE_NEWNET")]
    pub const NET: Self = Self(0x4000_0000);
    /// Boot and monotonic clocks, time_namespaces(7).
    #[doc(alias = "CLONE_NEWTIME")]
    pub const TIME: Self = Self(0x0000_0080);
    /// What a container gets: all but the user and time namespaces.
    pub const CONTAINER: Self =
        Self(Self::MOUNT.0 | Self::CGROUP.0 | Self::UTS.0 | Self::IPC.0 | Self::PID.0 | Self::NET.0);

    const NAMES: [(Self, &'static str); 8] = [
        (Self::CGROUP, "cgroup"),
        (Self::IPC, "ipc"),
        (Self::MOUNT, "mnt"),
        (Self::NET, "net"),
        (Self::PID, "pid"),
        (Self::TIME, "time"),
        (Self::USER, "user"),
        (Self::UTS, "uts"),
    ];

    /// The set with these bits.
    pub(crate) const fn of(bits: u64) -> Self {
        Self(bits)
    }

    /// Whether every kind in `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the kinds in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kinds in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The `CLONE_NEW*` bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Self::NAMES.iter().filter(|(n, _)| self.contains(*n)).map(|(_, name)| *name);
        if let Some(first) = names.next() {
            f.write_str(first)?;
        }
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Namespaces({self})")
    }
}
