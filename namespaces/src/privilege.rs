//! What the calling process may do, probed and not assumed.

use std::sync::OnceLock;

use rustix::thread::CapabilitySet;

/// How the caller stands to the kernel; decides between the direct and the rootless way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Privilege {
    /// Root of the host: may use any id, make device nodes and mount any file system.
    Host,
    /// Root of a user namespace (inside another container): no device nodes.
    Contained,
    /// An ordinary user: everything happens in a user namespace of its own.
    User,
}

impl Privilege {
    /// Looks at the effective capabilities and the user namespace of the caller.
    #[must_use]
    pub fn detect() -> Privilege {
        static INITIAL: OnceLock<bool> = OnceLock::new();
        let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID;
        let held = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
        if !held {
            return Privilege::User;
        }
        // The initial user namespace maps all ids to themselves, user_namespaces(7).
        let initial = *INITIAL.get_or_init(|| {
            std::fs::read_to_string("/proc/self/uid_map")
                .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
        });
        if initial { Privilege::Host } else { Privilege::Contained }
    }

    /// Whether the rootless way is taken.
    #[must_use]
    pub fn is_rootless(self) -> bool {
        self == Privilege::User
    }
}
