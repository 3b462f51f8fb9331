//! The three isolation profiles. What each control stops is in the table of SECURITY.md.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::caps::CapSet;
use crate::error::Result;
use crate::seccomp;

/// How much a container may do.
///
/// ```
/// use boxship_namespaces::Profile;
/// assert!(Profile::Strict.capabilities().bits() & !Profile::Compat.capabilities().bits() == 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Profile {
    /// Docker's rules, for images that need them: 14 capabilities, no user namespace, privileges
    /// can be gained through setuid programs.
    Compat,
    /// Stricter than Docker: user namespace, 7 capabilities, `no_new_privs`, native ABI only,
    /// socket families on an allow-list, more masked paths.
    #[default]
    Default,
    /// For code that is not trusted at all: no capabilities, no ptrace, processes only in `/proc`,
    /// no `/sys`, read-only root.
    Strict,
}

/// Masked in all profiles that show `/proc` and `/sys` (Docker's list).
const MASKED_DOCKER: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Masked besides: kernel addresses, physical memory, side channels and kernel interfaces.
const MASKED_MORE: &[&str] = &[
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/config.gz",
    "/proc/slabinfo",
    "/proc/vmallocinfo",
    "/proc/pagetypeinfo",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/kpagecgroup",
    "/proc/key-users",
    "/proc/mtrr",
    "/proc/driver",
    "/proc/schedstat",
    "/proc/modules",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/security",
    "/sys/kernel/vmcoreinfo",
    "/sys/kernel/notes",
    "/sys/kernel/boot_params",
    "/sys/kernel/slab",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/power",
    "/sys/module",
];

const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

impl Profile {
    /// The capabilities of the container's root.
    #[must_use]
    pub const fn capabilities(self) -> CapSet {
        match self {
            Profile::Compat => CapSet::DOCKER,
            Profile::Default => CapSet::DEFAULT,
            Profile::Strict => CapSet::NONE,
        }
    }

    /// Whether the container gets a user namespace with ids of its own.
    #[must_use]
    pub const fn user_namespace(self) -> bool {
        !matches!(self, Profile::Compat)
    }

    /// Whether no program can gain privileges (`no_new_privs`).
    #[must_use]
    pub const fn no_new_privileges(self) -> bool {
        !matches!(self, Profile::Compat)
    }

    /// Whether the root is read-only unless asked otherwise.
    #[must_use]
    pub const fn read_only_root(self) -> bool {
        matches!(self, Profile::Strict)
    }

    /// Paths that show nothing.
    pub fn masked_paths(self) -> impl Iterator<Item = &'static str> {
        let more: &[&str] = if matches!(self, Profile::Compat) { &[] } else { MASKED_MORE };
        MASKED_DOCKER.iter().chain(more).copied()
    }

    /// Paths that cannot be written.
    #[must_use]
    pub const fn read_only_paths(self) -> &'static [&'static str] {
        READ_ONLY
    }

    /// The most processes and threads; `None` = no limit.
    #[must_use]
    pub const fn pids_limit(self) -> Option<u64> {
        match self {
            Profile::Compat => None,
            Profile::Default => Some(2048),
            Profile::Strict => Some(256),
        }
    }

    /// The seccomp policy.
    #[must_use]
    pub fn seccomp(self) -> seccomp::Profile {
        match self {
            Profile::Compat => seccomp::Profile::compat(),
            Profile::Default => seccomp::Profile::secure(),
            Profile::Strict => seccomp::Profile::strict(),
        }
    }

    /// The compiled policy for this profile's own capabilities, made once per process.
    ///
    /// # Errors
    /// Never for the built-in policies; the signature is that of [`seccomp::Profile::compile`].
    pub fn seccomp_program(self) -> Result<seccomp::Program> {
        static CACHE: [OnceLock<seccomp::Program>; 3] = [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        let cell = &CACHE[self as usize];
        if let Some(program) = cell.get() {
            return Ok(program.clone());
        }
        let program = self.seccomp().compile(self.capabilities())?;
        Ok(cell.get_or_init(|| program).clone())
    }
}
