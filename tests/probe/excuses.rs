//! What a stricter place may reach that a laxer one does not, and why. Everything else is a defect.

pub struct Excuse {
    /// The stricter place and the laxer one.
    pub pair: [&'static str; 2],
    pub check: &'static str,
    pub reason: &'static str,
}

const fn since_docker_20(check: &'static str, reason: &'static str) -> Excuse {
    Excuse { pair: ["default", "docker"], check, reason }
}

const NEWER: &str =
    "Docker's published policy allows it; Docker 20.10 is older than the call or than that rule.";
const PTRACE: &str = "Docker's published policy allows it where it allows ptrace(2), which does the same; 20.10 only \
                      with CAP_SYS_PTRACE. It reaches processes of the same container.";

pub const ALL: &[Excuse] = &[
    since_docker_20("syscall/native/310 process_vm_readv", PTRACE),
    since_docker_20("syscall/native/311 process_vm_writev", PTRACE),
    since_docker_20("trace/read memory of a child", PTRACE),
    since_docker_20("trace/write memory of a child", PTRACE),
    since_docker_20("syscall/native/329 pkey_mprotect", NEWER),
    since_docker_20("syscall/native/330 pkey_alloc", NEWER),
    since_docker_20("syscall/native/331 pkey_free", NEWER),
    since_docker_20("syscall/native/451 cachestat", NEWER),
    since_docker_20("syscall/native/452 fchmodat2", NEWER),
    since_docker_20("syscall/native/454 futex_wake", NEWER),
    since_docker_20("syscall/native/455 futex_wait", NEWER),
    since_docker_20("syscall/native/456 futex_requeue", NEWER),
    since_docker_20("syscall/native/462 mseal", NEWER),
    since_docker_20("syscall/native/463 setxattrat", NEWER),
    since_docker_20("syscall/native/464 getxattrat", NEWER),
    since_docker_20("syscall/native/465 listxattrat", NEWER),
    since_docker_20("syscall/native/466 removexattrat", NEWER),
];

/// Why `pair[0]` may reach `check` and `pair[1]` not.
pub fn of(pair: [&str; 2], check: &str) -> Option<&'static str> {
    ALL.iter().find(|e| e.pair == pair && e.check == check).map(|e| e.reason)
}
